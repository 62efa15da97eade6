"""Times our tokenizer against Hugging Face's `tokenizers`, a thread each, in one run.

    compare_tokenizers.py TEXT OURS[=THEIRS]... --bench build/tests/bench/bench_tokenize [--out FILE]

OURS is what we open: a tokenizer.json, an original file, a model directory. THEIRS is the
tokenizer.json they open, where it is another file; a vocab.txt they read as an uncased BERT's.
Both encode every line of the text with special tokens, in turn: A B A B; theirs through
encode_batch_fast, the quickest call they have. Figures are medians of processor time, which on a
busy machine is what one thread takes on an idle one. The ids are compared first."""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402  (reads the environment)

from measure import processor  # noqa: E402


def open_theirs(path):
    if path.endswith(".txt"):
        return tokenizers.BertWordPieceTokenizer(path, lowercase=True)._tokenizer
    tok = tokenizers.Tokenizer.from_file(
        os.path.join(path, "tokenizer.json") if os.path.isdir(path) else path)
    tok.no_truncation()
    tok.no_padding()
    return tok


def checksum(encodings):
    total = 0
    for encoding in encodings:
        for i in encoding.ids:
            total = (total * 31 + i + 1) & 0xffffffffffffffff
    return f"{total:016x}"


def ours_once(args, path):
    out = subprocess.run([args.bench, path, args.text, "5"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)


def theirs_once(tok, lines):
    times = []
    for _ in range(5):
        begin = time.process_time()
        tok.encode_batch_fast(lines)
        times.append(time.process_time() - begin)
    return times


def compare(args, ours, theirs, lines):
    tok = open_theirs(theirs)
    first = ours_once(args, ours)
    encodings = tok.encode_batch(lines)
    a, b = [], []
    for _ in range(args.rounds):
        a += ours_once(args, ours)["seconds"]
        b += theirs_once(tok, lines)

    def figures(times):
        seconds = statistics.median(times)
        return {"seconds": round(seconds, 4), "mb_per_second": round(first["bytes"] / seconds / 1e6, 2)}

    a, b = figures(a), figures(b)
    return {"tokenizer": "/".join(ours.split("/")[-2:]), "tokens": first["tokens"],
            "ids_equal": first["checksum"] == checksum(encodings), "malmend": a, "tokenizers": b,
            "ratio": round(b["seconds"] / a["seconds"], 2)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("tokenizers", nargs="+", metavar="OURS[=THEIRS]")
    parser.add_argument("--bench", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    args = parser.parse_args()
    with open(args.text, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    if lines[-1] == "":
        lines.pop()
    report = {"date": datetime.date.today().isoformat(), "processor": processor(),
              "tokenizers": tokenizers.__version__, "rounds": args.rounds,
              "text": {"name": os.path.basename(args.text), "bytes": os.path.getsize(args.text),
                       "lines": len(lines)}, "cases": []}
    for pair in args.tokenizers:
        ours, _, theirs = pair.partition("=")
        case = compare(args, ours, theirs or ours, lines)
        report["cases"].append(case)
        print(json.dumps(case), file=sys.stderr)
    text = json.dumps(report, indent=1) + "\n"
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
