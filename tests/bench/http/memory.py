"""Whether a daemon's memory stays as it is, over a million requests of all kinds.

    memory.py BINARY [--requests 1000000] [--every 100000] [--out FILE] [-- OPTIONS OF SERVE]

Status, jobs, edits of one fact and completions in turn, by wrk. The facts are of a thousand prompts, so
that newer ones supersede older ones and what the model has been taught does not grow; jobs and
versions do, on the disk. It is looked at when all jobs have ended. Without options of `serve` the binary is `malmend-fake`."""
import argparse
import datetime
import json
import os
import sys

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from load import FACT, FAKE, ROOM  # noqa: E402
from measure import processor  # noqa: E402
from served import Served  # noqa: E402

SLICE = 4  # seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--requests", type=int, default=1000000)
    parser.add_argument("--every", type=int, default=100000)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--out")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args, options = parser.parse_args(words[:cut]), words[cut + 1:] or FAKE
    daemon = Served(args.binary, [*options, *ROOM])
    try:
        job = daemon.applied(FACT)
        total, seen, refused = 0, [{"requests": 0, "resident": daemon.resident()}], 0
        while total < args.requests:
            figures = daemon.load("mix", SLICE, args.connections, job)
            refused += figures["refused"] + figures["broken"]
            before, total = total, total + figures["requests"]
            if before // args.every == total // args.every:
                continue
            counts = daemon.idle()
            seen.append({"requests": total, "resident": daemon.resident(),
                         "database": os.path.getsize(daemon.directory + "/db"), **counts})
            print(f"{total:9} requests  {seen[-1]['resident'] / 2 ** 20:7.1f} MiB  "
                  f"{seen[-1]['versions']} versions  {refused} refused", flush=True)
    finally:
        daemon.close()
    if args.out:
        report = {"date": datetime.date.today().isoformat(), "processor": processor(),
                  "command": "memory.py " + " ".join(words), "refused": refused, "seen": seen}
        with open(args.out, "w", encoding="utf-8") as out:
            json.dump(report, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
