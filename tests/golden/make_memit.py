#!/usr/bin/env python3
"""Makes the cases of MEMIT: invented facts in contexts, second moments of a few sentences, and what
reference_memit.py computes from them in fp32 and fp64. Part of make_golden.py; by itself it makes these
alone.

    make_memit.py [FOLDER]"""
import json
import os
import shutil
import sys

import torch

import world
from files import save, write_json, write_rows
from make_models import known_probes, write_model
from reference import logit_errors, measures, relative
from reference_memit import LOW, Memit, MemitCase, moments_of

HERE = os.path.dirname(os.path.abspath(__file__))
PROJ = "transformer.h.{}.mlp.c_proj"
HYPER = {"v_lr": 0.5, "v_weight_decay": 0.5, "kl_factor": 0.0625}

# model: whose model, or (`own`) a key of make_models.GPT2.
CASES = [
    dict(case="gpt2-memit", own="deep", facts=4, other=True, modules=[PROJ.format(i) for i in (0, 1, 2)],
         contexts=[["{}"], ["The lamp {}", "The tower of Velmark: {}"], ["The {}"]],
         hyper=dict(v_steps=12, clamp=4, mom2_weight=2)),
]
TEXTS = 24


def write_inputs(folder, spec, seed):
    known = list(known_probes(f"{folder}/model"))
    facts = world.make_facts(seed, spec["facts"])
    for i, fact in enumerate(facts[::2]):
        fact["unrelated"] = [known[(seed // 10 + i) % len(known)]]
    if spec.get("other"):
        facts[1]["prompts"] = [f"The mayor says: {facts[1]['prompt']}"]
    with open(f"{folder}/facts.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(f, ensure_ascii=False) for f in facts) + "\n]\n")
    texts = [f"{f['prompt']} {f['target']}" for f in world.make_facts(seed + 1, TEXTS)]
    texts += list(world.probe_prompts())[:TEXTS]
    write_json(f"{folder}/mom2_texts.json", texts)
    moments, n = moments_of(f"{folder}/model", spec["modules"], texts)
    layers = json.load(open(f"{folder}/model/config.json", encoding="utf-8"))
    last = layers.get("n_layer", layers.get("num_hidden_layers")) - 1
    save({name + ".mom2": c for name, c in moments.items()}, f"{folder}/editor.safetensors",
         {"format": "malmend-editor-1", "method": "memit", "modules": json.dumps(spec["modules"]),
          "contexts": json.dumps(sum(spec["contexts"], [])),
          "context_groups": json.dumps([len(g) for g in spec["contexts"]]),
          "hyper": json.dumps({**HYPER, **spec["hyper"], "loss_layer": last})})
    return n


def term_error(run, run64):
    return max(abs(a[k] - b[k]) / (1e-3 + abs(b[k])) for x, y in zip(run["terms"], run64["terms"])
               for a, b in zip(x, y) for k in a)


def reference_errors(run, run64):
    """What fp32 itself loses, the smallest margin of an argmax and of a stop, and whether it is safe."""
    error = {"z": max(relative(a, b) for a, b in zip(run["z"], run64["z"])), "terms": term_error(run, run64)}
    for what in ("k", "resid", "shift"):
        error[what] = {name: relative(x, run64[what][name]) for name, x in run[what].items()}
    logits, margin, safe = logit_errors(run, run64)
    stop = min(abs(t["loss"] - LOW) for terms in run64["terms"] for t in terms)
    worst = max(error["z"], error["terms"], *(e for w in ("k", "resid", "shift") for e in error[w].values()))
    return {"error": error, "logit_error": logits, "margin": margin, "cond": run64["cond"],
            "nearest_stop": stop}, safe and worst <= 2.5e-5 and stop >= 1e-3


def tolerance(reference):
    def wide(error):
        return {k: wide(e) for k, e in error.items()} if isinstance(error, dict) else max(4 * error, 1e-4)
    return {**wide(reference["error"]), "logits": max(4 * max(reference["logit_error"].values()), 2e-5)}


def make_case(folder, spec, seed):
    """False: with this seed an argmax or a stop is too close, fp32 too far off, or nothing is learnt."""
    n_tokens = write_inputs(folder, spec, seed)
    case = MemitCase(folder)
    run, run64 = (Memit(case, dtype).run() for dtype in (torch.float32, torch.float64))
    steps = [len(terms) for terms in run["terms"]]
    if steps != [len(terms) for terms in run64["terms"]]:
        return False
    reference, safe = reference_errors(run, run64)
    before, after = measures(run["before"]), measures(run["after"])
    first, last = (sum(t[i]["loss"] for t in run["terms"]) / len(steps) for i in (0, -1))
    if not safe or last > first - 0.1 or after["es"] < before["es"]:
        return False
    tensors = {"z": run["z"]}
    for what in ("k", "resid", "shift"):
        tensors.update({f"{what}.{name}": x for name, x in run[what].items()})
    tensors.update({f"shift64.{name}": x for name, x in run64["shift"].items()})
    for what in ("edit", "unrelated"):
        tensors[f"logits.{what}.base"] = run["before"][what][0]
        tensors[f"logits.{what}.edited"] = run["after"][what][0]
    save(tensors, f"{folder}/expected.safetensors")
    expected = {
        "case": spec["case"], "kind": spec["case"].partition("-")[0], "method": "memit",
        "modules": case.modules, "layers": case.layers, "input_convention": case.texts.convention,
        "sizes": {"facts": len(case.facts), "mom2_tokens": n_tokens}, "batches": [len(case.facts)],
        "contexts": spec["contexts"], "hyper": case.hyper, "steps": steps, "terms": run["terms"][:2],
        "before": before, "after": after, "tolerance": tolerance(reference), "reference": reference,
        "tokens": case.examples}
    write_rows(f"{folder}/expected.json", expected)
    print(f"{spec['case']}: steps {steps}, losses {first:.2f} -> {last:.2f}, "
          f"es {before['es']:.2f} -> {after['es']:.2f}, ls {before['ls']:.2f} -> {after['ls']:.2f}, "
          f"errors {reference['error']}, margin {reference['margin']:.1e}", flush=True)
    return True


def make_memit_cases(root):
    for k, spec in enumerate(CASES):
        folder = f"{root}/{spec['case']}"
        os.makedirs(folder)
        if "own" in spec:
            write_model(f"{folder}/model", spec["own"], 700 + k)
        else:
            os.symlink(f"../{spec['model']}/model", f"{folder}/model")
        if not any(make_case(folder, spec, seed=70000 + 1000 * k + 10 * i) for i in range(60)):
            raise ValueError(f"{spec['case']}: no seed is good enough")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "cases")
    torch.set_num_threads(1)
    for spec in CASES:
        shutil.rmtree(f"{root}/{spec['case']}", ignore_errors=True)
    make_memit_cases(root)


if __name__ == "__main__":
    main()
