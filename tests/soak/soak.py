#!/usr/bin/env python3
"""Random requests, kills and restarts of one daemon after the other, held against a model of what must come of them.

    MALMEND_BIN=build/daemon/malmend tests/soak/soak.py --seed 1 --seeds 20 --seconds 60

Each seed is a world with a database and options of its own. A line of TAP for each; of one that fails also what was
wrong, the last operations, and the directory in which its database and its logs are kept."""
import argparse
import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.setdefault("MAL_SOURCE_ROOT", str(HERE.parents[1]))
os.environ.setdefault("MALMEND_ARGS", "[]")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(HERE.parent / name) for name in ("http", "cli", "proto")]

import changes  # noqa: E402
import crowd  # noqa: E402
import events  # noqa: E402
import exports  # noqa: E402
import figures  # noqa: E402
import harness  # noqa: E402
import reads  # noqa: E402
import rights  # noqa: E402
import slow  # noqa: E402
from lives import Gone, World  # noqa: E402
from options import Shelf  # noqa: E402
from trouble import EVER, Troubled  # noqa: E402

OPERATIONS = {operation: weight for subject in (changes, reads, events, exports, figures, rights, slow, crowd)
              for operation, weight in subject.OPERATIONS.items()}
TAIL = 25


def operate(w):
    weights = dict(OPERATIONS)
    if len(w.model.live()) > 50:
        weights[changes.retract] *= 3
    operation, = w.rng.choices(list(weights), weights.values())
    w.note("---", operation.__module__, operation.__name__)
    with contextlib.suppress(Troubled):
        operation(w)


def rest(w):
    """Looked at until nothing fails any more."""
    for _ in range(400):
        try:
            return reads.everything(w)
        except Troubled:
            w.note("troubled")
            time.sleep(0.02)
    raise AssertionError("it goes on failing")


def some_operations(w):
    try:
        if w.rng.random() < (0.1 if w.trouble else 0.3):
            w.end_soon()
        for _ in range(w.rng.randint(1, 10)):
            operate(w)
            if w.rng.random() < 0.3:
                time.sleep(w.rng.uniform(0, 0.1))
        while w.timer:
            operate(w)
        if w.trouble and w.trouble.times == EVER:
            w.end(w.rng.choice(["stop", "kill"]))
        rest(w)
        if w.trouble and w.trouble.has_come:  # another
            w.end(w.rng.choice(["stop", "kill"]))
            raise Gone
    except Gone:
        w.live_again()


def last(w):
    """All is taken back, and what can be returned to is returned to."""
    if w.trouble:
        w.calm = True
        w.end("kill")
        w.live_again()
    reads.everything(w)
    if w.options.joint and not w.model.added[-1] and w.has_editor():
        while live := w.model.live():
            live = live[:min(100, w.options.max_queue)]
            answer = w.post("retraction", "POST", "/v1/retractions", {"facts": live}, facts=live, mode="pin",
                            of_job=False)
            assert answer.status == 202, answer.body
            reads.everything(w)
    kept = [v for v, row in enumerate(w.model.versions) if not row.pruned]
    for to in [*w.rng.sample(kept, min(3, len(kept))), 0]:
        w.post("rollback", "POST", "/v1/rollbacks", {"to_version": to}, to_version=to)
        reads.everything(w)
    assert w.model.versions[-1].weights == w.model.versions[0].weights, "all is taken back, and it is not the base"
    w.end("stop")
    w.wait_end()
    w.verify(w.db)
    if w.rights:
        w.rights.check_log(w.dir / "log")


def run(seed, seconds, shelf, share):
    """What is to be said of it, and whether all was as it must be."""
    directory = tempfile.mkdtemp(prefix=f"malmend-soak-{seed}-")
    w = World(seed, directory, shelf, share)
    try:
        until = time.monotonic() + seconds
        w.begin()
        w.settle()
        some_operations(w)  # on a machine that is slow, too
        while time.monotonic() < until:
            some_operations(w)
        last(w)
    except Exception:  # whatever it is, it is told with the seed
        tail = (w.dir / "operations").read_text().splitlines()[-TAIL:]
        return False, [*traceback.format_exc().splitlines(), "The last operations:", *tail,
                       f"Database, operations and log of seed {seed} are kept in {directory}"]
    finally:
        w.close()
    shutil.rmtree(directory)
    return True, [f"{w.options.kind}: {w.n} calls, {len(w.model.asked)} jobs, {len(w.model.versions)} versions, "
                  f"{len(w.model.facts)} facts, {w.kills} kills, {w.stops} stops, {w.n_refused} refusals and "
                  f"{w.ends} ends for what failed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--seconds", type=float, default=30, help="of each")
    parser.add_argument("--trouble", type=float, default=0.2, help="share of the lives in which disk or memory fails, "
                        "by the libraries that MALMEND_BAD_DISK_LIBRARY and MALMEND_NO_MEMORY_LIBRARY name")
    parser.add_argument("--kinds", help="of options.py; all of them unless given")
    options = parser.parse_args()
    atexit.register(harness.end_all)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="malmend-soak-") as directory:
        shelf = Shelf(Path(directory), options.kinds and options.kinds.split(","))
        for n in range(options.seeds):
            seed = options.seed + n
            good, lines = run(seed, options.seconds, shelf, options.trouble)
            failed += not good
            print("\n# ".join([f"{'ok' if good else 'not ok'} {n + 1} - seed {seed}", *lines]), flush=True)
    print(f"1..{options.seeds}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
