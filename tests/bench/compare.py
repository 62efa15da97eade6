#!/usr/bin/env python3
"""Every method through the product itself, on the same model and facts in the same run: MALMEN, MEND,
UltraEdit, MEMIT and fine-tuning, over the number of facts, as single batches on the base model and
as a stream of batches.

    compare.py --malmend ../../build/daemon/malmend --out results/DATE-compare-demo
    compare.py ... --model DIR --data FACTS --train-data OTHERS --preserve TEXT --out ...

Without --model the demo world. Steps, and the numbers of methods that have others, are searched on
64 facts of --train-data; the published numbers are where that begins. Writes OUT.json after each
point, and takes up what is there already; in the end calls compare_tell.py for table and plots. (A
process begins with the peak memory of the one that starts it: nothing large is done in this one.)"""
import argparse
import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import measure

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parent / "demo"
DEMO_MODULES = ",".join(f"transformer.h.{i}.mlp.c_proj" for i in (1, 2, 3))
SIZE = 64  # facts of a batch of the stream, and that are searched on
ONE_PASS = ["--repair-rounds", "0"]

# label: method, options of init-editor, options of eval; {} is the file of preserved texts
METHODS = {
    "MALMEN, trained": ("malmen", None, ONE_PASS),
    "MALMEN, untrained": ("malmen", ["--blocks", "0"], ONE_PASS),
    "MALMEN, joint, repaired": ("malmen", ["--blocks", "0"], ["--update", "joint", "--preserve", "{}"]),
    "UltraEdit": ("ultraedit", [], ONE_PASS),
    "FT": ("ft", [], []),
    "LocFT-BF": ("locft-bf", [], []),
    "MEMIT": ("memit", ["--preserve", "{}"], []),
    "MEND, trained": ("mend", None, ONE_PASS),
}
BLOCKS = [{"block": share} for share in (0, 1 / 3, 2 / 3, 1)]
# Searched line after line, from the published numbers, each beside what the lines before chose.
SEARCH = {
    "ft": [[{"lr": 2e-3, "norm_constraint": 0}, {"lr": 8e-3, "norm_constraint": 0},
            {"lr": 8e-3, "norm_constraint": 5e-2}], BLOCKS, [{"steps": 100}]],
    "locft-bf": [[{"lr": 1e-3, "epochs": 40, "batch_size": 8}], BLOCKS,
                 [{"lr": 3e-4}, {"lr": 3e-3}, {"lr": 1e-2}]],
    "memit": [[{"mom2_weight": 100}, {"mom2_weight": 1}],
              [{"v_steps": 100, "clamp": 4, "v_weight_decay": 0}]],
}


def count(path):
    text = path.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except ValueError:
        return len(text.splitlines())
    return len(whole["facts"] if isinstance(whole, dict) and "facts" in whole else whole)


def blocks_of(model):
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return next(config[key] for key in ("n_layer", "num_hidden_layers", "num_layers") if key in config)


def plain(text):
    """Without this machine's folders."""
    return re.sub(r"[^ ='\"]*/", "", text)


def line_of(point):
    where = f"{point['batches']} x {point['n']}{', in turn' if point['stream'] else ''}"
    words = point.get("error") or " / ".join(
        "-" if x is None else f"{100 * x:.1f}" for x in point["after"]["decoded"].values())
    return f"{point['label']:20} {where:20} {words}"


class Bench:
    def __init__(self, args, folder, result):
        self.args, self.folder, self.result = args, folder, result
        self.env = {**os.environ, "OMP_NUM_THREADS": str(args.threads),
                    "OPENBLAS_NUM_THREADS": str(args.threads)}

    def call(self, *command):
        """Its JSON, wall and processor seconds, peak memory; {"error"} where it failed."""
        with tempfile.TemporaryFile() as said:
            code, out, wall, usage = measure.execute([self.args.malmend, *map(str, command), "--json"],
                                                     self.env, said)
            said.seek(0)
            if code != 0:
                return {"error": plain((out or said.read().decode()).strip())[-400:]}
        return {"report": json.loads(out), "seconds": wall,
                "processor_seconds": usage.ru_utime + usage.ru_stime,
                "peak_memory": usage.ru_maxrss * 1024}

    def evaluate(self, editor, data, n, batches, options):
        options = [o.format(self.args.preserve) for o in options]
        return self.call("eval", "--model", self.args.model, "--editor", editor, "--data", data,
                         "--n-edits", n, "--batches", batches, *options)

    # ---- Editors ----

    def init(self, label, chosen=None):
        """chosen: numbers of the method's own, and perhaps its modules."""
        method, options, _ = METHODS[label]
        hyper, out = dict(chosen or {}), self.folder / "editor.safetensors"
        modules = hyper.pop("modules", None if method in SEARCH else self.args.modules)
        command = ["init-editor", "--model", self.args.model, "--method", method, "--out", out,
                   *(o.format(self.args.preserve) for o in options)]
        command += ["--modules", modules] if modules else []
        if method in SEARCH:
            command += ["--hyper", json.dumps(hyper)]
        else:
            command += ["--data", self.args.train_data, "--n-edits", SIZE]
        if method == "memit":
            command += ["--contexts", self.args.contexts]
        return out, self.call(*command)

    def candidates(self, label):
        """SEARCH with modules for blocks; the first line is what is published."""
        made = self.init(label)[1]
        yield [{}]
        if "error" in made:
            return
        usual, last = made["report"]["modules"][0], blocks_of(self.args.model) - 1
        for line in SEARCH[METHODS[label][0]]:
            yield [{"modules": re.sub(r"\.\d+\.", f".{round(one['block'] * last)}.", usual, count=1)}
                   if "block" in one else one for one in line]

    def search(self, label):
        """As init-editor searches a step, by the sum of what is right teacher-forced."""
        tried, best, best_score = [], {}, -1
        for line in self.candidates(label):
            begin = best
            for one in line:
                hyper = {**begin, **one}
                editor, done = self.init(label, hyper)
                if "error" not in done:
                    done = self.evaluate(editor, self.args.train_data, SIZE, 1,
                                         [*METHODS[label][2], "--reset"])
                if "error" in done:
                    tried.append({"hyper": hyper, "error": done["error"]})
                    continue
                after = done["report"]["after"]
                score = sum(x or 0 for x in after["teacher_forced"].values())
                tried.append({"hyper": hyper, "score": score, "after": after})
                if score > best_score:
                    best, best_score = hyper, score
        return best, tried

    def editor(self, label):
        """The editor's file, and how it was made."""
        method, options, _ = METHODS[label]
        if options is None:
            return self.args.editor[method], {"given": True}
        if method not in SEARCH:
            return self.init(label)
        best, tried = self.search(label)
        out, made = self.init(label, best)
        return out, {**made, "chosen": best, "tried": tried}

    # ---- Points ----

    def todo(self, label):
        """(facts of a batch, batches, whether they follow one another) that are not there yet."""
        there = {(p["n"], p["stream"]) for p in self.result["points"] if p["label"] == label}
        total = self.result["facts"]
        for n in sorted({min(n, total) for n in self.args.n}):
            if (n, False) not in there:
                yield n, min(max(1, 128 // n), 32, total // n), False
        batches = min(self.args.stream, total // SIZE)
        if batches > 1 and (SIZE, True) not in there:
            yield SIZE, batches, True

    def point(self, label, editor, n, batches, stream):
        options = METHODS[label][2]
        done = self.evaluate(editor, self.args.data, n, batches,
                             options if stream else [*options, "--reset"])
        point = {"label": label, "n": n, "batches": batches, "stream": stream}
        if "error" in done:
            return {**point, "error": done["error"]}
        report = done["report"]
        edits = sum(sum(b["seconds"].values()) for b in report["batches"])
        # Others may use the machine, too: processor time goes where wall time does.
        share = edits / done["seconds"] / (n * batches)
        return {**point, "before": report["before"], "after": report["after"],
                "retention": report.get("retention"), "seconds_per_fact": edits / (n * batches),
                "processor_seconds_per_fact": done["processor_seconds"] * share,
                "peak_memory": done["peak_memory"]}

    def run(self):
        for label in self.args.methods:
            method, options, _ = METHODS[label]
            todo = list(self.todo(label))
            if not todo or options is None and method not in self.args.editor:
                continue
            editor, made = self.editor(label)
            self.result["editors"][label] = {"method": method, **made}
            if "error" in made:
                print(f"{label}: {made['error']}", flush=True)
                todo = []
            for n, batches, stream in todo:
                self.result["points"].append(self.point(label, editor, n, batches, stream))
                print(line_of(self.result["points"][-1]), flush=True)
                self.save()
            self.save()

    def save(self):
        self.args.out.with_suffix(".json").write_text(json.dumps(self.result, indent=1) + "\n")


# ---- The command ----

def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--malmend", required=True, type=lambda p: str(pathlib.Path(p).resolve()))
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--train-data", type=pathlib.Path)
    parser.add_argument("--preserve", type=pathlib.Path)
    parser.add_argument("--editor", action="append", default=[], metavar="METHOD=FILE",
                        help="a trained editor, malmen or mend")
    parser.add_argument("--modules", help="for methods that edit several")
    parser.add_argument("--contexts", type=int, default=5, help="MEMIT's made-up sentences")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS,
                        metavar="LABEL")
    parser.add_argument("--n", nargs="*", type=int, default=[1, 8, 64, 256, 1024])
    parser.add_argument("--stream", type=int, default=15, help=f"batches of {SIZE}; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.editor = dict(pair.split("=", 1) for pair in args.editor)
    own = [args.model, args.data, args.train_data, args.preserve]
    if any(own) and not all(own):
        parser.error("--model, --data, --train-data and --preserve go together")
    return args


def use_demo(args, folder):
    make = "import make_editor, pathlib, sys; make_editor.make_files(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", make, folder], cwd=DEMO, check=True)
    args.model, args.data = DEMO / "model", DEMO / "facts/heldout.ndjson"
    args.train_data, args.preserve = DEMO / "facts/train.ndjson", folder / "all.ndjson"
    args.modules, args.contexts = DEMO_MODULES, 0  # it knows no text of more than a sentence
    args.editor.setdefault("malmen", DEMO / "editor.safetensors")


def describe(args):
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], text=True,
                            stdout=subprocess.PIPE, check=False).stdout.strip()
    words = shlex.join(["tests/bench/compare.py", *map(plain, sys.argv[1:])])
    model = args.model.parent.name if args.model.name == "model" else args.model.name
    return {"date": datetime.date.today().isoformat(), "processor": measure.processor(),
            "commit": commit, "command": words, "threads": args.threads, "model": model,
            "data": args.data.name, "facts": count(args.data), "searched_on": args.train_data.name,
            "preserved": args.preserve.name, "size": SIZE, "editors": {}, "points": []}


def main():
    args = read_arguments()
    path = args.out.with_suffix(".json")
    with tempfile.TemporaryDirectory() as name:
        if not args.model:
            use_demo(args, pathlib.Path(name))
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else describe(args)
        Bench(args, pathlib.Path(name), result).run()
    subprocess.run([sys.executable, HERE / "compare_tell.py", path], check=False)


if __name__ == "__main__":
    main()
