#!/usr/bin/env python3
"""Trains the demo's MALMEN editor, from a built malmend:

    make_editor.py --malmend ../../build/daemon/malmend --out editor.safetensors

Every fact of the subjects set aside for training is edited to several wrong answers in turn, and so
are facts of subjects that the world does not have; a tenth of the training subjects decide which
editor is kept instead. Of the subjects set aside for probes, half are what must not move in the loss
and half are what the solve preserves, so that the one says something about the other. In the end
the true facts of all these subjects are what the editor preserves. No fact that the README's figures
are measured on is seen."""
import argparse
import json
import random
import subprocess
import tempfile
from pathlib import Path

import make_world

HERE = Path(__file__).resolve().parent
MODULES = ",".join(f"transformer.h.{i}.mlp.c_proj" for i in (1, 2, 3))
ANSWERS = 4  # wrong ones of each fact
OPTIONS = {"rank": 128, "blocks": 2, "n-edits": 64, "meta-lr": 2e-4, "schedule": "cosine",
           "warmup": 10, "epochs": 8, "loc-coef": 1.5, "preserve-weight": 0.15,
           "valid-every": 50, "patience": 0}
PRESERVE_WEIGHT = 0.06  # of all the texts together


def texts_of(world, facts):
    """Every phrasing the model was trained on, with its true answer."""
    for fact in facts:
        phrasings = len(world["relations"][fact["relation"]]["phrasings"])
        for phrasing in range(phrasings):
            if phrasing != fact["held_out"]:
                yield {"prompt": make_world.prompt_of(world, fact, phrasing),
                       "target": fact["answer"]}


def write(path, records):
    path.write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records),
                    encoding="utf-8")
    return path


def strangers(world, rng):
    """Facts of subjects the model never heard of: any number of them, and edited alike."""
    taken = {name for names in world["entities"].values() for name in names}
    taken |= {part for name in world["entities"]["person"] for part in name.split()}
    names = {kind: make_world.invent(rng, kind, taken)
             for kind in ("last", "town", "company", "river", "country")}
    firsts = sorted({name.split()[0] for name in world["entities"]["person"]})
    names["person"] = [f"{rng.choice(firsts)} {last}" for last in names.pop("last")]
    return [{"relation": relation, "subject": subject, "answer": None,
             "held_out": rng.randrange(len(phrasings))}
            for relation, subject_kind, _, phrasings in make_world.RELATIONS
            for subject in names[subject_kind]]


def make_files(folder):
    world, rng = make_world.build_world(), random.Random(make_world.SEED + 2)

    def split(group, parts):
        """The group's facts, its subjects dealt out to so many parts."""
        facts = [f for f in world["facts"] if world["group"][f["subject"]] == group]
        subjects = sorted({f["subject"] for f in facts})
        rng.shuffle(subjects)
        part = {subject: i % parts for i, subject in enumerate(subjects)}
        return [[f for f in facts if part[f["subject"]] == i] for i in range(parts)]

    held, *taught = split("train", 10)
    kept, *probes = split("train_probe", 2)
    taught, probes = sum(taught, []), sum(probes, [])
    train = [make_world.edit_of(world, rng, f, probes)
             for f in taught * ANSWERS + strangers(world, rng) * 2]
    valid = [make_world.edit_of(world, rng, f, probes) for f in held]
    rng.shuffle(valid)
    return {"train": write(folder / "train.ndjson", train),
            "valid": write(folder / "valid.ndjson", valid),
            "kept": write(folder / "kept.ndjson", texts_of(world, kept)),
            "all": write(folder / "all.ndjson", texts_of(world, sum(
                (f for group in ("train", "train_probe") for f in split(group, 1)), [])))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--malmend", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE",
                        help="other options of 'malmend train'")
    args = parser.parse_args()
    options = {**OPTIONS, **dict(pair.split("=", 1) for pair in args.set)}
    mend = options.get("method") == "mend"  # it solves nothing, so nothing can be preserved
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder))
        common = [args.malmend, "train", "--model", HERE / "model", "--data", files["train"]]
        command = [*common, "--modules", MODULES, "--valid", files["valid"], "--out", args.out]
        if mend:
            del options["preserve-weight"]
        else:
            command += ["--preserve", files["kept"]]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True)
        if mend:
            return
        # What could not be preserved while it was trained on can be now: the texts of all
        # these subjects go into the editor, by a step at a rate of 0.
        subprocess.run([*common, "--init", args.out, "--preserve", files["all"],
                        "--preserve-weight", str(PRESERVE_WEIGHT), "--n-edits",
                        str(options["n-edits"]), "--steps", "1", "--meta-lr", "0",
                        "--lr-meta-lr", "0", "--out", args.out], check=True)


if __name__ == "__main__":
    main()
