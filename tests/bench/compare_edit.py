"""Times `malmend edit` against the PyTorch implementation of the same equations, in one run.

    make_model.py DIR
    compare_edit.py DIR --malmend build/daemon/malmend [--facts 256 1024] [--runs 3] [--out FILE]

Both get the same facts, editor and thread count, in turn: A B A B. Figures are medians; memory is
the peak resident set of the whole process. Their shifts are compared first, the peer's solved
in fp64 for that, since an LU in fp32 is itself 1e-3 away on these systems."""
import argparse
import datetime
import json
import os
import statistics
import sys

import numpy
from safetensors.numpy import load_file

from measure import processor, run, write_report

HERE = os.path.dirname(os.path.abspath(__file__))
EDIT = ("tokenize", "forward", "backward", "hypernet", "gram", "solve", "apply", "hash")


def distance(a, b):
    """Relative Frobenius distance of two files of shifts, the worst module."""
    ours, theirs = load_file(a), load_file(b)
    return max(float(numpy.linalg.norm(ours[name] - theirs[name]) / numpy.linalg.norm(theirs[name]))
               for name in theirs)


def edit_seconds(result):
    seconds = result["seconds"]
    return seconds.get("edit") or sum(seconds.get(stage, 0) for stage in EDIT)


def summary(results):
    def median(values):
        return round(statistics.median(values), 3)

    stages = {stage: median(lines[-1]["seconds"].get(stage, 0) for lines, _, _ in results)
              for stage in ("open", *EDIT)}
    return {"edit_seconds": median(edit_seconds(lines[-1]) for lines, _, _ in results),
            "process_seconds": median(wall for _, wall, _ in results),
            "peak_bytes": max(bytes_ for _, _, bytes_ in results), "stages": stages}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--malmend", required=True)
    parser.add_argument("--facts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--target-logits", action="store_true",
                        help="the peer's head runs on target positions only")
    parser.add_argument("--out")
    args = parser.parse_args()
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    report = {"date": datetime.date.today().isoformat(), "processor": processor(),
              "threads": args.threads, "runs": args.runs, "target_logits": args.target_logits,
              "command": "compare_edit.py " + " ".join(sys.argv[2:]), "cases": []}
    for n in args.facts:
        shifts = [os.path.join(args.directory, f"shift-{who}.safetensors") for who in "ab"]
        ours = [args.malmend, "edit", "--json", "--device", "cpu", "--model",
                os.path.join(args.directory, "model"), "--editor",
                os.path.join(args.directory, "editor.safetensors"), "--facts",
                os.path.join(args.directory, f"facts-{n}.json"), "--repair-rounds", "0"]
        theirs = [sys.executable, os.path.join(HERE, "torch_edit.py"), args.directory, "--facts",
                  str(n), "--threads", str(args.threads)]
        theirs += ["--target-logits"] if args.target_logits else []
        run([*ours, "--out", shifts[0]], env)
        run([*theirs, "--solve64", "--out", shifts[1]], env)
        pairs = [(run(ours, env), run(theirs, env)) for _ in range(args.runs)]
        a, b = summary([p[0] for p in pairs]), summary([p[1] for p in pairs])
        case = {"facts": n, "edit_tokens": pairs[0][0][0][-1]["tokens"],
                "shift_distance": distance(*shifts), "malmend": a, "torch": b,
                "ratios": {"edit": round(b["edit_seconds"] / a["edit_seconds"], 2),
                           "process": round(b["process_seconds"] / a["process_seconds"], 2),
                           "memory": round(a["peak_bytes"] / b["peak_bytes"], 2)}}
        report["cases"].append(case)
        print(json.dumps(case, indent=1))
    write_report(report, args.out)


main()
