#!/usr/bin/env python3
"""Makes the cases of methods that fine-tune: invented facts, numbers, and what reference_tune.py computes
from them in fp32 and fp64. Part of make_golden.py; by itself it makes these alone.

    make_tuning.py [FOLDER]"""
import json
import os
import shutil
import sys

import torch

import world
from files import save, write_rows
from make_models import known_probes
from reference import cut, logit_errors, measures, relative
from reference_tune import CLOSE, TuneCase, Tuning, loss_error

HERE = os.path.dirname(os.path.abspath(__file__))

# model: whose model; early: it is there to end early.
CASES = [
    dict(case="gpt2-ft", model="gpt2-malmen", facts=5,
         modules=["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_fc"],
         hyper=dict(lr=5e-3, steps=6, weight_decay=0.1, norm_constraint=0.02, batch_size=2)),
    dict(case="gpt2-ft-early", model="gpt2-malmen", swapped=True, early=True,
         modules=["transformer.h.1.mlp.c_proj"],
         hyper=dict(lr=5e-2, steps=60, weight_decay=0.0, norm_constraint=0, batch_size=1)),
    dict(case="gptj-ft", model="gptj-malmen", facts=3, modules=["transformer.h.0.mlp.fc_out"],
         hyper=dict(lr=1e-2, steps=10, weight_decay=0.0, norm_constraint=0.05, batch_size=64)),
    dict(case="gptj-locft-bf", model="gptj-malmen", facts=5, modules=["transformer.h.1.mlp.fc_out"],
         hyper=dict(lr=1e-2, epochs=4, weight_decay=0.01, batch_size=2, seed=7)),
    dict(case="gpt2-locft-bf", model="gpt2-malmen", facts=3, early=True,
         modules=["transformer.h.1.mlp.c_proj"],
         hyper=dict(lr=5e-2, epochs=200, weight_decay=0.0, batch_size=2, seed=11)),
    dict(case="t5-locft-bf", model="t5-malmen", facts=3,
         modules=["decoder.block.1.layer.2.DenseReluDense.wo"],
         hyper=dict(lr=1e-2, epochs=3, weight_decay=0.0, batch_size=2, seed=3)),
    dict(case="bert-locft-bf", model="bert-malmen", facts=6,
         modules=["backbone.encoder.layer.1.output.dense"],
         hyper=dict(lr=1e-2, epochs=3, weight_decay=0.0, batch_size=4, seed=5)),
]


def swapped(known):
    """Two prompts, to be answered with each other's single token: losses that go to 0."""
    other = next(k for k in known[2:] if k["target"] != known[0]["target"])
    return [{"prompt": a["prompt"], "target": b["target"], "rephrases": [a["prompt"] + ","],
             "unrelated": [known[1]]} for a, b in ((known[0], other), (other, known[0]))]


def write_inputs(folder, spec, seed):
    make = world.make_claims if spec["case"].startswith("bert") else world.make_facts
    known = list(known_probes(f"{folder}/model"))
    known = known[seed // 10 % len(known):] + known[:seed // 10 % len(known)]
    facts = swapped(known) if spec.get("swapped") else make(seed, spec["facts"])
    for i, fact in enumerate([] if spec.get("swapped") else facts[::2]):
        fact["unrelated"] = [known[i % len(known)]]
    with open(f"{folder}/facts.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(f, ensure_ascii=False) for f in facts) + "\n]\n")
    save({}, f"{folder}/editor.safetensors",
         {"format": "malmend-editor-1", "method": "ft" if "-ft" in spec["case"] else "locft-bf", "modules": json.dumps(spec["modules"]),
          "hyper": json.dumps(spec["hyper"])})


def reference_errors(run, run64):
    """What fp32 itself loses, the smallest margin of an argmax, and whether it is safe."""
    shift = {name: relative(x, run64["shift"][name]) for name, x in run["shift"].items()}
    logits, margin, safe = logit_errors(run, run64)
    return {"shift_error": shift, "loss_error": loss_error(run, run64), "logit_error": logits,
            "margin": margin}, safe


def told_apart(losses, sizes):
    """Whether no loss is so near to CLOSE that a rounding decides about a step."""
    means = [sum(loss * n for loss, n in zip(one, sizes)) / sum(sizes) for one in losses]
    return all(abs(loss - CLOSE) > 1e-3 * CLOSE for one in (*losses, means) for loss in one)


def make_case(folder, spec, seed):
    """False: with this seed an argmax is too close, fp32 too far off, or nothing is learnt."""
    write_inputs(folder, spec, seed)
    case = TuneCase(folder)
    run, run64 = (Tuning(case, dtype).run() for dtype in (torch.float32, torch.float64))
    if [len(x) for x in run["losses"]] != [len(x) for x in run64["losses"]]:
        return False
    reference, safe = reference_errors(run, run64)
    before, after = measures(run["before"]), measures(run["after"])
    safe = safe and max(reference["shift_error"].values()) <= 2.5e-5
    sizes = [len(c) for c in cut(case.facts, case.hyper["batch_size"])]
    safe = safe and told_apart(run["losses"], sizes)
    first, last = (sum(losses) / len(losses) for losses in (run["losses"][0], run["losses"][-1]))
    if not safe or last >= first or after["es"] < before["es"]:
        return False
    if spec.get("early") and len(run["losses"]) == case.hyper.get("steps", case.hyper.get("epochs")):
        return False
    tensors = {f"shift.{name}": x for name, x in run["shift"].items()}
    tensors.update({f"shift64.{name}": x for name, x in run64["shift"].items()})
    for what in ("edit", "unrelated"):
        tensors[f"logits.{what}.base"] = run["before"][what][0]
        tensors[f"logits.{what}.edited"] = run["after"][what][0]
    save(tensors, f"{folder}/expected.safetensors")
    passes = len(run["losses"])
    expected = {
        "case": spec["case"], "kind": spec["case"].partition("-")[0], "method": case.method,
        "modules": case.modules, "input_convention": case.texts.convention,
        "sizes": {"facts": len(case.facts), "passes": passes}, "batches": [len(case.facts)],
        "hyper": case.hyper, "losses": run["losses"], "before": before, "after": after,
        "tolerance": {"shift": {n: max(4 * e, 1e-4) for n, e in reference["shift_error"].items()},
                      "losses": max(4 * reference["loss_error"], 1e-4),
                      "logits": max(4 * max(reference["logit_error"].values()), 2e-5)},
        "reference": reference, "tokens": case.examples}
    write_rows(f"{folder}/expected.json", expected)
    print(f"{spec['case']}: {passes} passes, losses {run['losses'][0]} -> {run['losses'][-1]}, "
          f"es {before['es']:.2f} -> {after['es']:.2f}, ls {before['ls']:.2f} -> {after['ls']:.2f}, "
          f"shift error {max(reference['shift_error'].values()):.1e}, "
          f"loss error {reference['loss_error']:.1e}, margin {reference['margin']:.1e}", flush=True)
    return True


def make_tuning_cases(root):
    for k, spec in enumerate(CASES):
        folder = f"{root}/{spec['case']}"
        os.makedirs(folder)
        os.symlink(f"../{spec['model']}/model", f"{folder}/model")
        if not any(make_case(folder, spec, seed=50000 + 1000 * k + 10 * i) for i in range(40)):
            raise ValueError(f"{spec['case']}: no seed is good enough")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "cases")
    torch.set_num_threads(1)
    for spec in CASES:
        shutil.rmtree(f"{root}/{spec['case']}", ignore_errors=True)
    make_tuning_cases(root)


if __name__ == "__main__":
    main()
