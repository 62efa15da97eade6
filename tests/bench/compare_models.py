"""Times the passes of an edit, forward and backward, beside PyTorch for each architecture, in one run.

    compare_models.py DIR --passes build/tests/bench/bench_passes --data DATA
                      [--kinds gpt2 llama ...] [--facts 256] [--runs 3] [--repeats 1] [--out FILE]

Makes the models below DIR (make_model.py) where they are not. bench_passes and torch_passes.py on the
fp32 and on the bf16 checkpoint (PyTorch in its type) take turns, with the same facts, edit modules and
threads, and bench_passes on "cpu:bf16" where the processor has that: A B C D E A B C D E. Figures are
medians over all passes, each process having a first one that does not count. A token is one of the
input, without padding. What is computed is compared first, with PyTorch in fp32 on either checkpoint:
losses that are 1e-4 apart end it."""
import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys

from measure import processor, run, write_report

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = ("bert", "gemma3", "gpt2", "gptj", "llama", "olmo2", "qwen2", "qwen3", "t5")
CHECKPOINTS = {"float32": "model", "bfloat16": "model-bf16"}
COMPARED = ("loss", "keys", "gradients")
PEERS = ("full", "targets")


def make(args, kind):
    """Paths of a kind's checkpoints and facts."""
    directory = os.path.join(args.directory, kind)
    facts = os.path.join(directory, f"facts-{args.facts}.json")
    if not os.path.exists(facts):
        subprocess.run([sys.executable, os.path.join(HERE, "make_model.py"), directory, "--kind", kind,
                        "--data", args.data, "--facts", str(args.facts)], check=True)
    return {dtype: os.path.join(directory, name) for dtype, name in CHECKPOINTS.items()}, facts


def ours(args, model, facts, runs, examples=None, device="cpu"):
    return [args.passes, model, facts, str(runs), device, *([examples] if examples else [])]


def has_bf16():
    """Whether the processor has instructions that malmend's device "cpu:bf16" uses."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return "avx512_bf16" in file.read()


def theirs(args, model, examples, dtype, runs):
    return [sys.executable, os.path.join(HERE, "torch_passes.py"), model, examples, "--dtype", dtype,
            "--threads", str(args.threads), "--runs", str(runs)]


def compare(ours_says, theirs_says):
    """What both computed, ours first, and how far apart they are."""
    out = {}
    for key in COMPARED:
        a = ours_says[key]
        b = max(theirs_says["losses"].values()) if key == "loss" else theirs_says[key]
        out[key] = [float(f"{a:.8g}"), float(f"{b:.8g}"), float(f"{abs(a - b) / abs(b):.2g}")]
    return out


def check(args, models, facts, examples, env):
    out = {}
    for dtype, model in models.items():
        (a,), _, _ = run(ours(args, model, facts, 0, examples), env)
        (b,), _, _ = run(theirs(args, model, examples, "float32", 0), env)
        out[dtype] = compare(a, b)
        if out[dtype]["loss"][2] > 1e-4 or len(set(map("{:.4g}".format, b["losses"].values()))) > 1:
            sys.exit(f"{model}: losses are apart: {out[dtype]['loss']}, PyTorch's are {b['losses']}")
    return out


def median(values):
    return statistics.median(list(values))


def summary_of_ours(results):
    last = results[-1][0]
    seconds = median(s for says, _, _ in results for s in says["seconds"])
    return {"tokens_per_second": round(last["input_tokens"] / seconds), "seconds": round(seconds, 4),
            **{part: round(median(s for says, _, _ in results for s in says[part]), 4)
               for part in ("forward", "backward")},
            "peak_bytes": max(peak for _, _, peak in results)}


def summary_of_theirs(results, n_tokens, variant):
    passes = [one for says, _, _ in results for one in says["variants"].get(variant, [])]
    if not passes:
        return None
    seconds = median(one["forward"] + one["backward"] for one in passes)
    return {"tokens_per_second": round(n_tokens / seconds), "seconds": round(seconds, 4),
            **{part: round(median(one[part] for one in passes), 4) for part in ("forward", "backward")},
            "peak_bytes": max(peak for _, _, peak in results)}


def measure(args, kind, env):
    models, facts = make(args, kind)
    examples = os.path.join(args.directory, kind, "examples.json")
    case = {"kind": kind, "compared": check(args, models, facts, examples, env)}
    results = {(who, dtype): [] for dtype in models for who in ("malmend", "torch")}
    if has_bf16():
        results["malmend cpu:bf16", "bfloat16"] = []
    for _ in range(args.runs):
        for dtype, model in models.items():
            for who, command in (("malmend", ours(args, model, facts, args.repeats)),
                                 ("torch", theirs(args, model, examples, dtype, args.repeats))):
                (says,), wall, peak = run(command, env)
                results[who, dtype].append((says, wall, peak))
        if has_bf16():
            (says,), wall, peak = run(ours(args, models["bfloat16"], facts, args.repeats,
                                           device="cpu:bf16"), env)
            results["malmend cpu:bf16", "bfloat16"].append((says, wall, peak))
    about = results["malmend", "float32"][0][0]
    peer = results["torch", "float32"][0][0]
    n_tokens = about["input_tokens"]
    case.update({key: about[key] for key in ("parameters", "modules", "facts", "input_tokens", "rows")})
    case.update({"padded_tokens": peer["padded_tokens"], "torch_attention": peer["attention"]})
    for dtype in models:
        says = {"malmend": summary_of_ours(results["malmend", dtype])}
        says.update({variant: summary_of_theirs(results["torch", dtype], n_tokens, variant)
                     for variant in PEERS})
        says["ratios"] = {variant: round(says[variant]["seconds"] / says["malmend"]["seconds"], 2)
                          for variant in PEERS if says[variant]}
        case[dtype] = says
    if has_bf16():
        fast = summary_of_ours(results["malmend cpu:bf16", "bfloat16"])
        fast["ratios"] = {variant: round(case["bfloat16"][variant]["seconds"] / fast["seconds"], 2)
                          for variant in PEERS if case["bfloat16"][variant]}
        exact = results["malmend", "bfloat16"][0][0]
        last = results["malmend cpu:bf16", "bfloat16"][0][0]
        fast["relative_error"] = {key: float(f"{abs(last[key] - exact[key]) / abs(exact[key]):.2g}")
                                  for key in COMPARED}
        case["bfloat16"]["malmend cpu:bf16"] = fast
    return case


def print_table(cases):
    """Tokens per second, and in brackets how many times that ours are."""
    print("| model | M | ours, fp32 | PyTorch | targets only | ours, bf16 | PyTorch | targets only "
          "| ours, cpu:bf16 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases:
        cells = [case["kind"], f"{case['parameters'] / 1e6:.0f}"]
        for dtype in CHECKPOINTS:
            cells.append(f"{case[dtype]['malmend']['tokens_per_second']}")
            for variant in PEERS:
                says = case[dtype][variant]
                cells.append(f"{says['tokens_per_second']} ({case[dtype]['ratios'][variant]})"
                             if says else "")
        fast = case["bfloat16"].get("malmend cpu:bf16")
        cells.append(f"{fast['tokens_per_second']} ({'; '.join(map(str, fast['ratios'].values()))})"
                     if fast else "")
        print("| " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--passes", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--facts", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument("--repeats", type=int, default=1, help="passes of a process in its turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    args = parser.parse_args()
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    report = {"date": datetime.date.today().isoformat(), "processor": processor(),
              "threads": args.threads, "runs": args.runs, "repeats": args.repeats,
              "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
              "command": "compare_models.py DIR " + " ".join(sys.argv[2:]), "cases": []}
    for kind in args.kinds:
        case = measure(args, kind, env)
        report["cases"].append(case)
        print(json.dumps(case, indent=1), flush=True)
    print_table(report["cases"])
    write_report(report, args.out)


main()
