"""MEMIT's search for values (v*) of many facts: together, one at a time, and one at a time as its authors
publish it, in turn on the same facts with the same threads.

    make_model.py DIR --kind gpt2 --data DATA
    compare_memit.py DIR --malmend BINARY --bench BINARY --data DATA [--facts 64] [--every 8] [--runs 3]
        [--out FILE]

Facts are CounterFact's; the model has random weights, on which no fact ends early: all take the published
number of steps. One at a time a fact takes as long whatever comes after it, so of these every 8th is
searched. Figures are medians."""
import argparse
import datetime
import json
import os
import statistics
import sys

from measure import processor, run, write_report

HERE = os.path.dirname(os.path.abspath(__file__))


def read_facts(data):
    with open(os.path.join(data, "counterfact/counterfact-edit.json"), encoding="utf-8") as file:
        return [{"prompt": r["prompt"], "target": r["target_new"], "subject": r["subject"]}
                for r in json.load(file) if r["subject"] in r["prompt"]]


def median(results, key):
    return statistics.median(lines[-1][key] for lines, _, _ in results)


def summary(results):
    return {"seconds": round(median(results, "seconds"), 2),
            "processor_seconds": round(median(results, "processor_seconds"), 2),
            "seconds_per_fact": round(median(results, "seconds_per_fact"), 4),
            "steps_per_fact": results[0][0][-1]["steps"] / results[0][0][-1]["facts"],
            "nll": round(results[0][0][-1]["nll"], 4),
            "peak_bytes": max(bytes_ for _, _, bytes_ in results)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--malmend", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    args = parser.parse_args()
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    place = {name: os.path.join(args.directory, name)
             for name in ("model", "memit.safetensors", "all.json", "some.json", "preserve.txt")}
    model, editor = place["model"], place["memit.safetensors"]
    known = read_facts(args.data)
    facts = known[:args.facts]
    some = facts[::args.every]
    for name, chosen in ("all.json", facts), ("some.json", some):
        with open(place[name], "w", encoding="utf-8") as file:
            json.dump(chosen, file)
    with open(place["preserve.txt"], "w", encoding="utf-8") as file:
        file.writelines(fact["prompt"] + "\n" for fact in known[:2000])
    if not os.path.exists(editor):
        run([args.malmend, "init-editor", "--model", model, "--method", "memit", "--preserve",
             place["preserve.txt"], "--out", editor, "--device", "cpu", "--json"], env)
    commands = {"together": [args.bench, model, editor, place["all.json"], str(len(facts)), "0", "cpu"],
                "one_at_a_time": [args.bench, model, editor, place["some.json"], str(len(some)), "1",
                                  "cpu"],
                "published": [sys.executable, os.path.join(HERE, "torch_memit.py"), model, editor,
                              place["some.json"], str(len(some))]}
    results = {name: [] for name in commands}
    for _ in range(args.runs):
        for name, command in commands.items():
            results[name].append(run(command, env))
    report = {"date": datetime.date.today().isoformat(), "processor": processor(),
              "threads": args.threads, "runs": args.runs,
              "command": f"compare_memit.py DIR --threads {args.threads} --runs {args.runs}",
              "facts": len(facts), "one_at_a_time_facts": len(some),
              **{name: summary(result) for name, result in results.items()}}
    seconds = {name: report[name]["seconds_per_fact"] for name in commands}
    report["ratios"] = {f"{a} / {b}": round(seconds[a] / seconds[b], 2) for a, b in
                        (("published", "together"), ("published", "one_at_a_time"),
                         ("one_at_a_time", "together"))}
    print(json.dumps(report, indent=1))
    write_report(report, args.out)


main()
