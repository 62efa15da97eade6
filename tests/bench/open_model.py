"""Opens a GPT-J 6B of zeros in fp16 (a sparse file of 12 GB): time and memory, beside reading the file.

What it shows is the path: nothing is there twice. The numbers in it are of no interest.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from measure import processor, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
from sparse import gptj  # noqa: E402


def read_whole(path):
    """Seconds, in pieces that stay in a cache."""
    begin, piece = time.perf_counter(), bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(piece):
            pass
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--malmend", required=True, help="the binary")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--channels", type=int, default=4096)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
        model = Path(directory) / "model"
        size = gptj(model, args.layers, args.channels, heads=16)
        tokens = Path(directory) / "tokens"
        tokens.write_text("1 2 3\n")
        command = [args.malmend, "logits", "--model", model, "--tokens", tokens, "--out",
                   Path(directory) / "out"]
        _, wall, peak = run(command, os.environ)
        print(json.dumps({"file_bytes": size, "peak_bytes": peak, "ratio": round(peak / size, 3),
                          "logits_seconds": round(wall, 1),
                          "read_seconds": round(read_whole(model / "model.safetensors"), 1),
                          "processor": processor()}))


if __name__ == "__main__":
    main()
