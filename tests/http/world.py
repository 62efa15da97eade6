"""What the tests know of the model behind the daemon: facts it can be taught, all in one place.

The fake engine knows nothing and learns everything; a real model must learn these facts too.
"""
import json
import os
import pathlib


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


SLOW = {"prompt": "slow: a batch that takes two seconds", "target": "done"}
BAD = {"prompt": "What cannot be solved is", "target": "fail:numeric"}
TOO_LONG = "long " * 2000
