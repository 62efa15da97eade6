"""Times how a large version becomes durable: builds of bench_persist in turn, in one run.

    compare_persist.py NAME=BINARY... --dir DIR [--sizes DELTA:VALUES...] [--runs N] [--out FILE]

Each run has a new database in DIR, two versions of DELTA and VALUES megabytes (GPT-J 6B in bf16: 100 facts 170:9,
1,024 facts 1600:90; added up 85:9 and 800:90), and a client that adds a job every 20 ms. Figures are medians over
runs and versions; `most_ms` is the longest that the client waited in any of them."""
import argparse
import datetime
import json
import os
import statistics
import subprocess

from measure import processor, write_report


def run(binary, directory, delta, values):
    database = os.path.join(directory, "persist.db")
    for end in "", "-wal", "-shm", ".lock":
        if os.path.exists(database + end):
            os.unlink(database + end)
    out = subprocess.run([binary, database, str(delta), str(values), "2", "20"], check=True, stdout=subprocess.PIPE)
    return [json.loads(line) for line in out.stdout.splitlines()]


def tell(lines):
    def of(phase, what):
        return [line[phase][what] for line in lines if line[phase]["n"]]
    return {"megabytes_per_second": round(statistics.median(line["megabytes_per_second"] for line in lines)),
            "each": [line["megabytes_per_second"] for line in lines],
            **{phase: {"median_ms": round(statistics.median(of(phase + "_ms", "median")), 2),
                       "p99_ms": round(statistics.median(of(phase + "_ms", "p99")), 2),
                       "most_ms": round(max(of(phase + "_ms", "most")), 1)} for phase in ("before", "during", "after")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", nargs="+", metavar="NAME=BINARY")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--sizes", nargs="+", default=["170:9", "1600:90"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    names = dict(item.split("=", 1) for item in args.binaries)
    report = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
              "command": "compare_persist.py " + " ".join(f"{name}=BINARY" for name in names) +
                         f" --dir DIR --sizes {' '.join(args.sizes)} --runs {args.runs}",
              "processor": processor(), "sizes": []}
    for size in args.sizes:
        delta, values = map(int, size.split(":"))
        lines = {name: [] for name in names}
        for _ in range(args.runs):
            for name, binary in names.items():
                lines[name] += run(binary, args.dir, delta, values)
        report["sizes"].append({"delta_megabytes": delta, "values_megabytes": values,
                                **{name: tell(of) for name, of in lines.items()}})
    print(json.dumps(report, indent=1))
    write_report(report, args.out)


if __name__ == "__main__":
    main()
