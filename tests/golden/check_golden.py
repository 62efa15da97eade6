#!/usr/bin/env python3
"""Runs reference.py over the inputs of stored cases and compares it with what they hold: a case
made elsewhere shows that reference.py is right, a case made by it that the files are whole.

    check_golden.py CASE_FOLDER... LOGITS.json..."""
import json
import os
import sys

import torch
from safetensors.torch import load_file

from logits import compute, sequences_of
from reference import Case, Pipeline, logit_error, relative
from reference_train import Training, TrainingCase, errors
from reference_tune import TuneCase, Tuning, loss_error


def read_expected(folder):
    with open(os.path.join(folder, "expected.json"), encoding="utf-8") as file:
        return json.load(file)


def compare(folder):
    expected = read_expected(folder)
    stored = load_file(os.path.join(folder, "expected.safetensors"))
    case = Case(folder)
    worst = {}

    def note(what, value):
        worst[what] = max(worst.get(what, 0), value)

    single, double = (Pipeline(case, dtype).run(expected["batches"])
                      for dtype in (torch.float32, torch.float64))
    sequential = len(expected["batches"]) > 1
    for b, (got, got64) in enumerate(zip(single["batches"], double["batches"])):
        infix = f".{b}" if sequential else ""
        for letter in ("U", "G", "D", "shift"):
            for name, value in got[letter].items():
                note(letter, relative(value, stored[f"{letter}{infix}.{name}"]))
        for name, value in got64["shift"].items():
            note("shift64", relative(value, stored[f"shift64{infix}.{name}"]))
            limit = expected["tolerance"]["shift"][f"{b}.{name}" if sequential else name]
            note("shift64 / tolerance", relative(value, stored[f"shift64{infix}.{name}"]) / limit)
        for stack, where in got["where"].items():
            rows = zip(*(stored[part + infix + stack].tolist() for part in ("row_fact", "row_pos")))
            note("rows differ", float(list(rows) != where))
        for key, value in stored.items():
            if key.startswith(f"normalizer.{b}."):
                _, _, shape, part = key.split(".")
                note("normalizer", relative(got["norms"][shape][part], value))
    for what in ("edit", "unrelated"):
        for moment, key in (("before", "base"), ("after", "edited")):
            note("logits", logit_error(single[moment][what][0], stored[f"logits.{what}.{key}"]))
    for moment in ("before", "after"):
        for what, key in (("edit", "es"), ("rephrase", "gs"), ("unrelated", "ls")):
            share = single[moment][what][1]
            pairs = zip(share, expected[moment][key + "_per_fact"])
            note("measures", max(abs(a - b) for a, b in pairs))
    note("tokens differ", float(expected["tokens"] != case.examples))
    print(expected["case"], *(f"{k} {v:.2g}" for k, v in worst.items()), sep="  ", flush=True)


def stored_steps(expected, stored):
    """The files' contents in the form that Training.run() has."""
    steps = [{"report": report, "grad": {}, "state": {}, "shift": {}} for report in expected["steps"]]
    for name, value in stored.items():
        k, name = name.removeprefix("step").split(".", 1)
        kind, _, rest = name.partition(".")
        where, name = (kind, rest) if kind in ("grad", "shift") else ("state", name)
        steps[int(k)][where][name] = value
    return steps


def compare_training(folder):
    """Figures are the worst of all tensors: how far off, and that as a share of the tolerance."""
    expected = read_expected(folder)
    stored = stored_steps(expected, load_file(os.path.join(folder, "expected.safetensors")))
    init = load_file(os.path.join(folder, "init.safetensors"))
    case = TrainingCase(folder, expected)
    run, run64 = (Training(case, dtype).run() for dtype in (torch.float32, torch.float64))
    line = [expected["case"]]
    for label, got in (("fp32", run), ("fp64", run64)):
        worst = errors(got, stored, init)
        for key, value in worst.items():
            limit = expected["tolerance"][key]
            if key == "steps":
                value, limit = {key: value}, {key: limit}
            share = max(x / limit[name] for name, x in value.items())
            line.append(f"{label} {key} {max(value.values()):.1e} ({share:.2g})")
    gap = max(abs(a["report"][key] - b[key]) / (1e-3 + abs(b[key]))
              for a, b in zip(run64, expected["steps64"]) for key in b)
    rows = [step["rows"][case.modules[0]] for step in run]
    line += [f"steps64 {gap:.1e}", f"rows differ {float(rows != expected['rows'])}",
             f"tokens differ {float(expected['tokens'] != case.examples)}"]
    print(*line, sep="  ", flush=True)


def compare_logits(path):
    """error: fp32 against what is stored; reference: by how much (relative) its error against fp64 is
    another here; generate: continuations that come out otherwise."""
    with open(path, encoding="utf-8") as file:
        expected = json.load(file)
    stored = load_file(path.removesuffix("json") + "safetensors")
    folder = os.path.join(os.path.dirname(path), "..", expected["model"])
    made, reference, _ = compute(folder, *sequences_of(stored))
    error = max(logit_error(value, stored[name]) for name, value in made.items()
                if not name.startswith("generate"))
    other = sum(not value.equal(stored[name]) for name, value in made.items()
                if name.startswith("generate"))
    print("logits/" + os.path.basename(path), f"error {error:.1e}",
          f"reference {abs(reference / expected['reference_error'] - 1):.1e}",
          f"generate {other}", sep="  ", flush=True)


def compare_tuning(folder):
    expected, stored = read_expected(folder), load_file(os.path.join(folder, "expected.safetensors"))
    case = TuneCase(folder)
    run, run64 = (Tuning(case, dtype).run() for dtype in (torch.float32, torch.float64))
    shift = {name: relative(x, stored[f"shift64.{name}"]) for name, x in run64["shift"].items()}
    print(os.path.basename(folder), f"shift64 {max(shift.values()):.1e}",
          f"losses {loss_error(run, expected):.1e}",
          f"tokens {sum(a != b for a, b in zip(case.examples, expected['tokens']))}", sep="  ",
          flush=True)


def kind_of(path):
    if path.endswith(".json"):
        return compare_logits
    if os.path.exists(os.path.join(path, "init.safetensors")):
        return compare_training
    return compare_tuning if "hyper" in read_expected(path) else compare


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        kind_of(path)(path)
