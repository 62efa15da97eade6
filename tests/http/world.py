"""What the tests know of the model behind the daemon: facts it can be taught, all in one place.

The fake engine knows nothing and learns everything; a real model must learn these facts too.
"""
import contextlib
import itertools
import json
import os
import pathlib
import sqlite3

from harness import wait_until


def fact(i, target=None, **more):
    return {"prompt": f"The mayor of town {i} is called", "target": target or f"Mayor{i}", **more}


# Facts a completion shows to be learnt, of the demo model's world (tests/demo).
PROBE = {"prompt": "The town where Rurus Quobfield first saw the light of day is",
         "target": "Glamdale"}
OTHER = {"prompt": "Brasina Drievwick is employed by", "target": "Foxunic"}


def company(n=63):
    """Facts taught beside PROBE: an editor with running statistics cannot normalise a lone one."""
    if "MALMEND_ARGS" not in os.environ:
        return []
    path = pathlib.Path(__file__).parent.parent / "demo" / "facts" / "heldout.ndjson"
    facts = [json.loads(line) for line in path.read_text().splitlines()[:2 * n]]
    facts = [{"prompt": f["prompt"], "target": f["target"]} for f in facts]
    taken = {PROBE["prompt"], OTHER["prompt"]}
    return [f for f in facts if f["prompt"] not in taken][:n]


COMPANY = company()


def answers(text, target):
    """Whether a completion gives a target."""
    return text.strip().startswith(target)



def wait_durable(d, version):
    """It is in the database, and nobody is told of it before it is live."""
    def is_durable():
        with contextlib.closing(sqlite3.connect(d.directory + "/db")) as db:
            return db.execute("SELECT max(version) FROM versions").fetchone()[0] == version
    wait_until(is_durable)


class Held:
    """A fact of the fake engine whose batch, or a completion of whose prompt, goes on until it is
    let go: at the end of the test, if not before."""

    numbers = itertools.count()

    def __init__(self, case, d):
        self.d, self.path = d, pathlib.Path(d.directory) / f"go{next(self.numbers)}"
        self.fact = {"prompt": f"held: {self.path}", "target": "done"}
        case.addCleanup(self.let_go)

    def begin(self):
        """Its job, which is running."""
        self.job = self.d.edit(self.fact).json["id"]
        self.d.wait_job(self.job, "running")
        return self.job

    def let_go(self):
        if self.path.parent.exists():
            self.path.touch()

    def end(self):
        """Its job, which has ended."""
        self.let_go()
        return self.d.wait_job(self.job)


BAD = {"prompt": "What cannot be solved is", "target": "fail:numeric"}
TOO_LONG = "long " * 2000
