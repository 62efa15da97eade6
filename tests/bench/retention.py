#!/usr/bin/env python3
"""Retention curves on the demo world: 14 batches of 64 held-out facts, one after the other, and
what is left of all of them after each, decoded. Joint with repair, with a second phrasing of each
fact taught and without, beside what adds batches up: MALMEN as the paper repeats it, and UltraEdit.

    retention.py --malmend ../../build/daemon/malmend --out results/DATE-retention

writes OUT.json, OUT.svg and OUT.png. The editors are untrained, their step searched on 64 facts of
other subjects; what is preserved are true facts of subjects that are never edited. Needs matplotlib."""
import argparse
import datetime
import json
import pathlib
import platform
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parent / "demo"
sys.path.insert(0, str(DEMO))
import make_editor  # noqa: E402
import plot_eval  # noqa: E402

BATCHES, SIZE = 14, 64
MODULES = ",".join(f"transformer.h.{i}.mlp.c_proj" for i in (1, 2, 3))
WEIGHT = "2.5"  # of the preserved texts: for a thousand facts to be held

# label, editor, whether a second phrasing is taught, options of `malmend eval`
RUNS = [
    ("joint, repaired", "malmen", False,
     ["--update", "joint", "--preserve", "all.ndjson", "--preserve-weight", WEIGHT]),
    ("joint, repaired, a second phrasing taught", "malmen", True,
     ["--update", "joint", "--preserve", "all.ndjson", "--preserve-weight", WEIGHT]),
    ("joint, one pass", "malmen", False,
     ["--update", "joint", "--repair-rounds", "0", "--preserve", "all.ndjson",
      "--preserve-weight", WEIGHT]),
    ("sequential (MALMEN's paper)", "malmen", False,
     ["--update", "sequential", "--repair-rounds", "0"]),
    ("sequential (UltraEdit)", "ultraedit", False,
     ["--update", "sequential", "--repair-rounds", "0"]),
]


def write_facts(folder):
    """The same facts, with one of their rephrases taught as a second phrasing; rephrases not given
    are what generalisation is measured on."""
    facts = [json.loads(line) for line in (DEMO / "facts/heldout.ndjson").read_text().splitlines()]
    facts = facts[:BATCHES * SIZE]
    for name, taught in (("one.ndjson", 0), ("two.ndjson", 1)):
        lines = [json.dumps({**f, "prompts": f["rephrases"][:taught],
                             "rephrases": f["rephrases"][1:]}) for f in facts]
        (folder / name).write_text("\n".join(lines) + "\n")


def run(malmend, folder):
    """(label, the report of `malmend eval`) of each run."""
    def call(*args):
        done = subprocess.run([malmend, *map(str, args)], cwd=folder, text=True, check=False,
                              stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit(f"malmend {args[0]} failed")
        return done.stdout

    for method in ("malmen", "ultraedit"):
        blocks = ["--blocks", 0] if method == "malmen" else []
        call("init-editor", "--model", DEMO / "model", "--method", method, "--modules", MODULES,
             "--data", DEMO / "facts/train.ndjson", "--n-edits", SIZE, *blocks,
             "--out", f"{method}.safetensors")
    for label, editor, two, options in RUNS:
        print(label, flush=True)
        yield label, json.loads(call("eval", "--model", DEMO / "model", "--editor",
                                     f"{editor}.safetensors", "--data",
                                     "two.ndjson" if two else "one.ndjson", "--n-edits", SIZE,
                                     "--json", *options))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--malmend", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    malmend = str(pathlib.Path(args.malmend).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_editor.make_files(folder)
        write_facts(folder)
        reports = dict(run(malmend, folder))
    result = {"date": datetime.date.today().isoformat(), "machine": platform.machine(),
              "command": "tests/bench/retention.py", "batches": BATCHES, "facts": SIZE,
              "runs": {label: {"options": options, "rounds": [b["rounds"] for b in r["batches"]],
                               "retention": r["retention"]}
                       for (label, _, _, options), r in zip(RUNS, reports.values(), strict=True)}}
    args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    figure = plot_eval.draw(list(reports.values()), list(reports), "decoded", False)
    for suffix in (".svg", ".png"):
        figure.savefig(args.out.with_suffix(suffix), dpi=110)
    for label, report in reports.items():
        last = report["retention"][-1]["measures"]
        print(f"{label:45} " + "  ".join(
            f"{100 * x:5.1f}" for x in (last["decoded"]["es"], last["decoded"]["gs"],
                                        last["agreement"])))


if __name__ == "__main__":
    main()
