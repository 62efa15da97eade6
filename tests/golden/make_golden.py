#!/usr/bin/env python3
"""Makes the golden cases of tests/golden/cases: small random models with editors and facts, and what
reference.py computes from them in fp32 and fp64. README.md says what each is for.

    make_golden.py [FOLDER]"""
import json
import os
import shutil
import sys

import torch

import world
from files import save, write_rows
from make_logits import make_logit_cases
from make_models import known_probes, write_model
from make_training import make_training_cases
from make_memit import make_memit_cases
from make_tuning import make_tuning_cases
from reference import Case, Pipeline, logit_errors, relative, shape_name, shapes_of

HERE = os.path.dirname(os.path.abspath(__file__))
PROJ, FC = "transformer.h.{}.mlp.c_proj", "transformer.h.{}.mlp.c_fc"
DENSE, LLAMA = "backbone.encoder.layer.{}.output.dense", "model.layers.{}.mlp.{}_proj"
ATTENTION = "model.layers.{}.self_attn.{}_proj"
ENCODER, DECODER = ("{}.block.{{}}.layer.{}.DenseReluDense.{{}}".format(stack, layer)
                    for stack, layer in (("encoder", 1), ("decoder", 2)))

# model: a key of make_models.GPT2 or of world_models.CONFIGS; the first case of a model has its folder.
CASES = [
    dict(case="gpt2-malmen", model="given", method="malmen", modules=[PROJ.format(0), PROJ.format(1)],
         facts=4, joined=True, micro_batch=3, lr=0.15),
    dict(case="gpt2-malmen-token-sum", model="given", method="malmen", modules=[PROJ.format(1)],
         facts=3, loss="token_sum", micro_batch=2, lr=0.15),
    dict(case="gpt2-malmen-dual", model="null", method="malmen", modules=[PROJ.format(0)],
         facts=3, micro_batch=2, lr=0.2),
    dict(case="gpt2-malmen-mixed-shapes", model="given", method="malmen",
         modules=[PROJ.format(0), FC.format(1), PROJ.format(1)], facts=3, micro_batch=2, lr=0.1),
    dict(case="gpt2-mend", model="given", method="mend", modules=[PROJ.format(0), PROJ.format(1)],
         tokens="all", facts=2, micro_batch=2, lr=0.02),
    dict(case="gpt2-ultraedit-sequential", model="given", method="ultraedit",
         modules=[PROJ.format(0), PROJ.format(1)], batches=[3, 1], micro_batch=2, lr=0.05),
    dict(case="bert-malmen", model="bert", method="malmen", modules=[DENSE.format(0), DENSE.format(1)],
         facts=6, micro_batch=4, lr=0.1),
    dict(case="gptj-malmen", model="gptj", method="malmen", facts=3, micro_batch=2, lr=0.1,
         modules=["transformer.h.0.mlp.fc_out", "transformer.h.1.mlp.fc_in"]),
    dict(case="t5-malmen", model="t5", method="malmen", facts=3, micro_batch=2, lr=0.1,
         modules=[DECODER.format(0, "wo"), DECODER.format(1, "wi_0"), ENCODER.format(0, "wo"),
                  ENCODER.format(1, "wi_0")]),
    dict(case="t5-malmen-original", model="t5-original", model_seed=302, method="malmen", facts=3,
         loss="token_sum", modules=[DECODER.format(1, "wo"), ENCODER.format(1, "wi")], micro_batch=2,
         lr=0.4),
    dict(case="llama-malmen", model="llama", method="malmen", facts=2, bytes=True, micro_batch=2, lr=0.1,
         modules=[LLAMA.format(0, "gate"), LLAMA.format(1, "up"), LLAMA.format(1, "down")]),
    dict(case="llama3-ultraedit-sequential", model="llama3", method="ultraedit", batches=[2, 1],
         modules=[LLAMA.format(0, "down"), LLAMA.format(1, "down")], micro_batch=2, lr=0.1),
    dict(case="mistral-mend", model="mistral", method="mend", tokens="all", facts=2, micro_batch=2,
         modules=[LLAMA.format(1, "down")], lr=0.1),
    dict(case="qwen2-malmen", model="qwen2", method="malmen", loss="token_sum", facts=3, micro_batch=2,
         modules=[LLAMA.format(0, "down"), LLAMA.format(1, "gate")], lr=0.2),
    dict(case="qwen3-malmen", model="qwen3", method="malmen", facts=3, micro_batch=2, lr=0.2,
         modules=[LLAMA.format(0, "down"), ATTENTION.format(0, "k"), ATTENTION.format(1, "q")]),
    dict(case="llama3-ultraedit", model="llama3", method="ultraedit", facts=2, micro_batch=1, lr=0.1,
         modules=[LLAMA.format(0, "gate"), LLAMA.format(1, "down")]),
    dict(case="phi3-malmen", model="phi3", method="malmen", facts=3, micro_batch=2, lr=0.2,
         modules=[LLAMA.format(0, "gate_up"), ATTENTION.format(1, "qkv"), LLAMA.format(1, "down")]),
    dict(case="gemma3-malmen", model="gemma3", model_seed=116, method="malmen", facts=3, micro_batch=2,
         lr=0.2, modules=[LLAMA.format(0, "down"), ATTENTION.format(0, "k"), ATTENTION.format(1, "q")]),
    dict(case="gemma2-malmen", model="gemma2", model_seed=120, method="malmen", loss="token_sum", facts=3,
         modules=[LLAMA.format(0, "up"), LLAMA.format(1, "down"), ATTENTION.format(0, "o")], micro_batch=2,
         lr=0.2),
    dict(case="olmo2-malmen", model="olmo2", method="malmen", facts=3, micro_batch=2, lr=0.2,
         modules=[LLAMA.format(0, "down"), ATTENTION.format(0, "k"), ATTENTION.format(1, "o")]),
]
RANK, BLOCKS = 3, 2
ROWS = 1e-5  # how far keys and value gradients may be from what is stored


# ---- Edit cases ----

def write_inputs(folder, spec, seed):
    """facts.json and the editor, whose statistics are those of the facts (UltraEdit: none)."""
    make = world.make_claims if spec["model"] == "bert" else world.make_facts
    facts = make(seed, spec.get("facts") or sum(spec["batches"]))
    known = list(known_probes(f"{folder}/model"))
    for i, fact in enumerate(facts[::2]):
        fact["unrelated"] = [known[(seed + i) % len(known)]]
    if spec.get("joined"):
        facts.insert(2, world.JOINED)
    if spec.get("bytes"):
        facts.insert(1, world.BYTES)
    with open(f"{folder}/facts.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(f, ensure_ascii=False) for f in facts) + "\n]\n")
    meta = {"format": "malmend-editor-1", "method": spec["method"],
            "modules": json.dumps(spec["modules"]), "tokens": spec.get("tokens", "answer"),
            "loss": spec.get("loss", "microbatch_mean"), "micro_batch": str(spec["micro_batch"])}
    ultraedit = spec["method"] == "ultraedit"
    if ultraedit:
        meta["lr"] = str(spec["lr"])
    else:
        meta.update(rank=str(RANK), blocks=str(BLOCKS))
    shapes = shapes_of(f"{folder}/model", spec["modules"])
    editor = world.make_editor(shapes, None if ultraedit else RANK, BLOCKS, spec["lr"], seed + 1)
    path = f"{folder}/editor.safetensors"
    save(editor, path, meta)
    if not ultraedit:
        pipeline = Pipeline(Case(folder), torch.float32)
        pipeline.take_statistics(pipeline.measure(list(range(len(facts)))))
        for shape, norm in pipeline.norms.items():
            editor.update({f"{shape_name(shape)}.normalizer.{k}": v for k, v in norm.state().items()})
        save(editor, path, meta)
    return len(facts)


def measures(scored):
    out = {}
    for key, what in (("es", "edit"), ("gs", "rephrase"), ("ls", "unrelated")):
        out[key] = sum(scored[what][1]) / len(scored[what][1])
    for key, what in (("es", "edit"), ("gs", "rephrase"), ("ls", "unrelated")):
        out[key + "_per_fact"] = scored[what][1]
    return out


def expected_tensors(run, run64, sequential):
    out = {}
    for b, (got, got64) in enumerate(zip(run["batches"], run64["batches"])):
        dot = f".{b}" if sequential else ""
        for letter in ("U", "G", "D", "shift"):
            out.update({f"{letter}{dot}.{name}": x for name, x in got[letter].items()})
        out.update({f"shift64{dot}.{name}": x for name, x in got64["shift"].items()})
        for stack, where in got["where"].items():
            rows = torch.tensor(where, dtype=torch.int32)
            out["row_fact" + dot + stack], out["row_pos" + dot + stack] = rows.T
        if sequential:
            out.update({f"normalizer.{b}.{shape}.{part}": x for shape, state in got["norms"].items()
                        for part, x in state.items()})
    for what in ("edit", "unrelated"):
        out[f"logits.{what}.base"] = run["before"][what][0]
        out[f"logits.{what}.edited"] = run["after"][what][0]
    return out


def reference_errors(run, run64, sequential):
    """What fp32 itself loses, the smallest margin of an argmax, and whether it is safe."""
    shift, cond = {}, {}
    logits, margin, safe = logit_errors(run, run64)
    for b, (got, got64) in enumerate(zip(run["batches"], run64["batches"])):
        dot = f"{b}." if sequential else ""
        shift.update({dot + m: relative(s, got64["shift"][m]) for m, s in got["shift"].items()})
        cond.update({dot + m: c for m, c in got64["cond"].items()})
        safe = safe and all(4 * relative(x, got64[letter][m]) <= ROWS
                            for letter in "UG" for m, x in got[letter].items())
    return {"shift_error": shift, "logit_error": logits, "margin": margin, "cond": cond}, safe


def make_case(folder, spec, seed):
    """False: with this seed an argmax is too close, fp32 too far off, or the edit moves no measure."""
    n = write_inputs(folder, spec, seed)
    batches = spec.get("batches", [n])
    sequential = len(batches) > 1
    case = Case(folder)
    run, run64 = (Pipeline(case, dtype).run(batches) for dtype in (torch.float32, torch.float64))
    reference, safe = reference_errors(run, run64, sequential)
    before, after = measures(run["before"]), measures(run["after"])
    if not safe or after["es"] <= before["es"] or after["ls"] >= before["ls"]:
        return False
    save(expected_tensors(run, run64, sequential), f"{folder}/expected.safetensors")
    pipeline = Pipeline(case, torch.float32)
    rows = {m: sum(len(b["U"][m]) for b in run["batches"]) for m in case.modules}
    losses = [b["losses"] for b in run["batches"]]
    expected = {
        "case": spec["case"], "kind": spec["case"].partition("-")[0], "method": case.method, "modules": case.modules,
        "token_convention": case.meta["tokens"],
        "input_convention": case.texts.convention,
        "loss_convention": case.meta["loss"], "micro_batch": case.micro_batch, "editor_batch": 128,
        "sizes": {"facts": n, "rows": rows, "shapes": pipeline.shapes},
        "batches": batches, "lr": spec["lr"],
        "statistics": "running, from zero" if sequential else "facts, once, in this order",
        "losses": losses if sequential else losses[0],
        "before": before, "after": after,
        **({"after_each": [measures(m) for m in run["after_each"]]} if sequential else {}),
        "tolerance": {
            "shift": {m: max(4 * e, 1e-5) for m, e in reference["shift_error"].items()},
            "logits": max(4 * max(reference["logit_error"].values()), 2e-5)},
        "reference": reference, "tokens": case.examples}
    write_rows(f"{folder}/expected.json", expected)
    print(f"{spec['case']}: rows {max(rows.values())}, losses {[round(x, 2) for x in sum(losses, [])]}, "
          f"es {before['es']:.2f} -> {after['es']:.2f}, gs {after['gs']:.2f}, "
          f"ls {before['ls']:.2f} -> {after['ls']:.2f}, cond {[round(c) for c in reference['cond'].values()]}, "
          f"shift error {max(reference['shift_error'].values()):.1e}, "
          f"margin {reference['margin']:.1e}", flush=True)
    return True


def make_edit_cases(root):
    homes = {}
    for k, spec in enumerate(CASES):
        folder = f"{root}/{spec['case']}"
        os.makedirs(folder)
        home = homes.setdefault(spec["model"], spec["case"])
        if home == spec["case"]:
            write_model(f"{folder}/model", spec["model"], spec.get("model_seed", 100 + k))
        else:
            os.symlink(f"../{home}/model", f"{folder}/model")
        if not any(make_case(folder, spec, seed=1000 * (k + 1) + 10 * i) for i in range(40)):
            raise ValueError(f"{spec['case']}: no seed is good enough")
    return homes


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "cases")
    torch.set_num_threads(1)
    if os.path.isdir(root):
        if not os.path.isdir(f"{root}/{CASES[0]['case']}"):
            sys.exit(f"{root} holds no golden cases: not replaced")
        shutil.rmtree(root)
    homes = make_edit_cases(root)
    make_training_cases(root)
    make_tuning_cases(root)
    make_memit_cases(root)
    logits = {"gpt2" if model == "given" else model: home for model, home in homes.items()}
    del logits["null"]
    make_logit_cases(root, logits)


if __name__ == "__main__":
    main()
