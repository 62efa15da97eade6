"""Requests per second of a daemon, and what each costs it, by wrk.

    load.py NAME=BINARY... [--calls status job edit ...] [--seconds 5] [--rounds 3] [--out FILE]
            [-- OPTIONS OF SERVE]

With several binaries they take turns, so that what else the machine does meets all of them.
Without options of `serve` the binaries are `malmend-fake`: a table for a model, so that HTTP and
SQLite are what is measured. `edit` posts one fact a time, which is edited meanwhile; `edit-held` the
same into a queue that waits. Figures are medians of the rounds. Processor time per request is the
daemon's alone: what to compare where the machine is shared. With the machine's cores shared by wrk."""
import argparse
import datetime
import json
import os
import statistics
import sys

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from measure import processor  # noqa: E402
from served import Served  # noqa: E402

FAKE = ["--model", "/", "--editor", "-"]
ROOM = ["--max-queue", "10000000", "--max-connections", "1024"]
CALLS = ["status", "job", "edit", "edit-held", "completion"]
FACT = {"prompt": "The mayor of town 0 is called", "target": "Mayor0"}


def measure(binary, call, options, args):
    daemon = Served(binary, [*options, *ROOM])
    try:
        job = daemon.applied(FACT)
        if call == "edit-held":
            daemon.hold()
        before = daemon.resident()
        figures = daemon.load(call.removesuffix("-held"), args.seconds, args.connections, job)
        figures["resident_before"], figures["resident_after"] = before, daemon.resident()
        return figures
    finally:
        daemon.close()


def median(runs):
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binaries", nargs="+", metavar="NAME=BINARY")
    parser.add_argument("--calls", nargs="+", default=CALLS, choices=CALLS)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args, options = parser.parse_args(words[:cut]), words[cut + 1:] or FAKE
    binaries = dict(word.split("=", 1) for word in args.binaries)
    report = {"date": datetime.date.today().isoformat(), "processor": processor(),
              "cores": os.cpu_count(), "seconds": args.seconds, "connections": args.connections,
              "rounds": args.rounds, "command": "load.py " + " ".join(words), "calls": {}}
    for call in args.calls:
        runs = {name: [] for name in binaries}
        for _ in range(args.rounds):
            for name, binary in binaries.items():
                runs[name].append(measure(binary, call, options, args))
        report["calls"][call] = {name: median(list_) for name, list_ in runs.items()}
        for name, figures in report["calls"][call].items():
            print(f"{call:12} {name:10} {figures['per_second']:8} /s  {figures['cpu_us']:8.1f} us  p50 "
                  f"{figures['p50_ms']:7.1f} ms  p99 {figures['p99_ms']:7.1f} ms  refused "
                  f"{figures['refused']}  broken {figures['broken']}", flush=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as out:
            json.dump(report, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
