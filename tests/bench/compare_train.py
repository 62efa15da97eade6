"""Times a step of `malmend train` against the PyTorch implementation of the same step, in one run.

    make_model.py DIR
    compare_train.py DIR --malmend build/daemon/malmend [--n-edits 64 256] [--steps 4] [--runs 2]
                     [--out FILE]

Both train the same untrained editor on the same facts in the same order, with the same threads, in
turn: A B A B. A step's time is the median over all steps but the first of each run; memory is the peak
resident set of the whole process. The losses of the steps are compared, too."""
import argparse
import datetime
import json
import os
import statistics
import sys

from measure import processor, run, write_report

HERE = os.path.dirname(os.path.abspath(__file__))
MICRO_BATCH, EDITOR_BATCH, META_LR, LOC_COEF = 32, 1024, 1e-5, 1
REPORTED = ("gen_loss", "loc_loss", "grad_norm")


def commands(args, n_edits):
    def path(name):
        return os.path.join(args.directory, name)

    common = ["--n-edits", n_edits, "--steps", args.steps, "--editor-batch", EDITOR_BATCH, "--meta-lr",
              META_LR, "--loc-coef", LOC_COEF]
    ours = [args.malmend, "train", "--json", "--device", "cpu", "--model", path("model"), "--data",
            path("train.json"), "--init", path("init.safetensors"), "--micro-batch", MICRO_BATCH,
            "--no-shuffle", "--epochs", 1, "--out", path("trained.safetensors"), *common]
    theirs = [sys.executable, os.path.join(HERE, "torch_train.py"), args.directory, "--threads",
              args.threads, *common]
    return [list(map(str, command)) for command in (ours, theirs)]


def read_ours(lines):
    """As torch_train.py's line."""
    steps = [line for line in lines if "step" in line]
    timed = steps[1:] or steps
    return {"steps": len(steps), "seconds_per_step": statistics.median(s["seconds"] for s in timed),
            **{key: [step[key] for step in steps] for key in REPORTED}}


def read_theirs(lines):
    return lines[-1]


def summary(results):
    def median(values):
        return round(statistics.median(values), 3)

    out = {"seconds_per_step": median(r["seconds_per_step"] for r, _, _ in results),
           "process_seconds": median(wall for _, wall, _ in results),
           "peak_bytes": max(peak for _, _, peak in results)}
    if "parts" in results[0][0]:
        out["parts"] = {part: median(r["parts"][part] for r, _, _ in results)
                        for part in results[0][0]["parts"]}
    return out


def differences(ours, theirs):
    """|a - b| / |b| of each step."""
    return {key: [float(f"{abs(a - b) / abs(b):.3g}") for a, b in zip(ours[key], theirs[key])]
            for key in REPORTED}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--malmend", required=True)
    parser.add_argument("--n-edits", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    args = parser.parse_args()
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    report = {"date": datetime.date.today().isoformat(), "processor": processor(),
              "threads": args.threads, "runs": args.runs,
              "command": "compare_train.py " + " ".join(sys.argv[2:]), "cases": []}
    for n_edits in args.n_edits:
        results = [[], []]
        for _ in range(args.runs):
            for side, command, read in zip(results, commands(args, n_edits), (read_ours, read_theirs)):
                lines, wall, peak = run(command, env)
                side.append((read(lines), wall, peak))
        if any(r["steps"] != args.steps for side in results for r, _, _ in side):
            sys.exit(f"not all {args.steps} steps were done")
        a, b = map(summary, results)
        case = {"n_edits": n_edits, "steps": args.steps, "malmend": a, "torch": b,
                "losses": {key: results[0][0][0][key] for key in REPORTED},
                "differences": differences(results[0][0][0], results[1][0][0]),
                "ratios": {"step": round(b["seconds_per_step"] / a["seconds_per_step"], 2),
                           "process": round(b["process_seconds"] / a["process_seconds"], 2),
                           "memory": round(a["peak_bytes"] / b["peak_bytes"], 2)}}
        report["cases"].append(case)
        print(json.dumps(case, indent=1))
    write_report(report, args.out)


main()
