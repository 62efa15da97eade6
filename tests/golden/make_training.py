"""Makes the training cases: small editors, invented facts, and what reference_train.py computes from
them, step by step, in fp32 and fp64. Part of make_golden.py."""
import json
import os

import torch
from tokenizers import Tokenizer

import world
from files import save, write_rows
from reference import shape_name, shapes_of
from reference_train import Training, TrainingCase, errors

PROJ, FC = "transformer.h.{}.mlp.c_proj", "transformer.h.{}.mlp.c_fc"
RANK, STEPS = 2, 3

# model: whose model; gpt2-malmen (d_in is 20 for c_proj, 32 for c_fc) where none is named.
CASES = [
    dict(case="gpt2-malmen-train", method="malmen", modules=[PROJ.format(0), FC.format(1)],
         untrained=True, blocks=2, n_edits=4, micro_batch=3, lr=0.15, meta_lr=1e-3),
    dict(case="gpt2-mend-train", method="mend", modules=[FC.format(1)], tokens="all", blocks=1,
         n_edits=2, micro_batch=2, lr=0.02, meta_lr=1e-3),
    dict(case="gpt2-malmen-train-ours", method="malmen", modules=[PROJ.format(0), PROJ.format(1)],
         loss="token_sum", blocks=1, joined=True, n_edits=4, micro_batch=3, lr=0.15, meta_lr=1e-3,
         lr_meta_lr=2e-2, loc_coef=0.5),
    dict(case="gpt2-malmen-train-preserve", method="malmen", modules=[PROJ.format(1)],
         loss="token_sum", blocks=1, preserve=1.5, ridge=4, n_edits=3, micro_batch=3, lr=0.15,
         meta_lr=1e-3, lr_meta_lr=2e-2),
    dict(case="bert-malmen-train", model="bert-malmen", method="malmen",
         modules=["backbone.encoder.layer.0.output.dense", "backbone.encoder.layer.1.output.dense"],
         blocks=2, n_edits=5, micro_batch=3, lr=0.1, meta_lr=1e-3),
    dict(case="t5-malmen-train", model="t5-malmen", method="malmen",
         modules=["decoder.block.1.layer.2.DenseReluDense.wo",
                  "encoder.block.1.layer.1.DenseReluDense.wi_0"],
         blocks=1, n_edits=3, micro_batch=2, lr=0.1, meta_lr=1e-3),
    dict(case="llama-malmen-train", model="llama-malmen", method="malmen", loss="token_sum",
         modules=["model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj"], blocks=1, n_edits=3,
         micro_batch=2, lr=0.1, meta_lr=1e-3, lr_meta_lr=2e-2),
]


def preserve_tensors(model_dir, seed):
    """Three beginnings of probes; of the last only the second half counts."""
    tok = Tokenizer.from_file(f"{model_dir}/tokenizer.json")
    prompts = list(world.probe_prompts())
    texts = [tok.encode(prompts[(seed + 11 * k) % len(prompts)]).ids for k in range(3)]
    starts = [sum(map(len, texts[:k])) for k in range(len(texts) + 1)]
    return {"preserve.ids": torch.tensor(sum(texts, []), dtype=torch.int32),
            "preserve.start": torch.tensor(starts, dtype=torch.int32),
            "preserve.from": torch.tensor([0, 0, len(texts[-1]) // 2], dtype=torch.int32)}


def write_inputs(folder, spec, seed):
    make = world.make_claims if spec["case"].startswith("bert") else world.make_facts
    facts = make(seed, STEPS * spec["n_edits"] - bool(spec.get("joined")))
    if spec.get("joined"):
        facts.insert(2, world.JOINED)
    with open(f"{folder}/data.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(f, ensure_ascii=False) for f in facts) + "\n]\n")
    shapes = shapes_of(f"{folder}/model", spec["modules"])
    editor = world.make_editor(shapes, RANK, spec["blocks"], spec["lr"], seed + 1,
                               spec.get("untrained", False))
    if spec.get("preserve"):
        editor.update(preserve_tensors(f"{folder}/model", seed))
        for shape in set(shapes):
            weight = torch.full((shapes.count(shape), 1), spec["preserve"])
            editor[f"{shape_name(shape)}.preserve.weight"] = weight
        for name in editor:
            editor[name] += spec["ridge"] if name.endswith(".lamda.weight") else 0
    save(editor, f"{folder}/init.safetensors", {
        "format": "malmend-editor-1", "method": spec["method"], "modules": json.dumps(spec["modules"]),
        "tokens": spec.get("tokens", "answer"), "loss": spec.get("loss", "microbatch_mean"),
        "micro_batch": str(spec["micro_batch"]), "rank": str(RANK), "blocks": str(spec["blocks"]),
        "n_edits": str(spec["n_edits"])})


def settings_of(spec):
    out = {"micro_batch": spec["micro_batch"], "n_edits": spec["n_edits"], "editor_batch": 8,
           "rank": RANK, "blocks": spec["blocks"], "lr": spec["lr"], "meta_lr": spec["meta_lr"],
           "loc_coef": spec.get("loc_coef", 1), "max_grad_norm": 1,
           "adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0}}
    if "lr_meta_lr" in spec:
        out["lr_meta_lr"] = spec["lr_meta_lr"]
    return out


def tensors_of(steps):
    last = len(steps) - 1
    out = {f"step0.shift.{name}": x for name, x in steps[0]["shift"].items()}
    out.update({f"step0.grad.{name}": x for name, x in steps[0]["grad"].items()})
    out.update({f"step{k}.{name}": x for k in (0, last) for name, x in steps[k]["state"].items()})
    return out


def tolerance(error, least):
    if isinstance(error, dict):
        return {name: max(4 * e, least) for name, e in error.items()}
    return max(4 * error, least)


def good(spec, steps, error):
    """fp32 decides nothing: no relu near its kink, no step of Adam along a gradient of rounding
    alone. And both of what there is two of: systems (d_in of c_proj is 20), clipped or not."""
    worst = max(max(error[kind].values()) for kind in ("grad", "state"))
    if worst > 1e-4 or max(error["shift"].values()) > 1e-5:
        return False
    norms = [step["report"]["grad_norm"] for step in steps]
    if max(norms) < 1 or ("ridge" in spec and min(norms) > 0.9):
        return False
    rows = rows_of(spec, steps)
    return spec["method"] == "mend" or "model" in spec or min(rows) < 20 <= max(rows)


def rows_of(spec, steps):
    """Edit tokens of each step, the first module's: T5's stacks have different numbers."""
    return [step["rows"][spec["modules"][0]] for step in steps]


def make_case(folder, spec, seed):
    write_inputs(folder, spec, seed)
    settings = settings_of(spec)
    case = TrainingCase(folder, settings)
    steps, steps64 = (Training(case, dtype).run() for dtype in (torch.float32, torch.float64))
    error = errors(steps, steps64, case.editor)
    if not good(spec, steps, error):
        return False
    save(tensors_of(steps), f"{folder}/expected.safetensors")
    norms = {name: x.norm().item() for name, x in steps[0]["shift"].items()}
    rows = rows_of(spec, steps)
    worst = {kind: max(error[kind].values()) for kind in ("grad", "state", "shift")}
    write_rows(f"{folder}/expected.json", {
        "case": spec["case"], "kind": spec["case"].partition("-")[0], "method": spec["method"], "modules": spec["modules"],
        "token_convention": case.meta["tokens"],
        "input_convention": case.texts.convention,
        "loss_convention": case.meta["loss"], **settings,
        "rows": rows, "steps": [step["report"] for step in steps],
        "steps64": [step["report"] for step in steps64],
        "tolerance": {kind: tolerance(e, 1e-5 if kind == "shift" else 1e-4)
                      for kind, e in error.items()},
        "reference": {"error": {**worst, "steps": error["steps"]}, "shift_norm": norms},
        "tokens": case.examples})
    shown = "{gen_loss:.3f} + {loc_loss:.3f} norm {grad_norm:.2f}"
    print(f"{spec['case']}: rows {rows}", *(shown.format(**step["report"]) for step in steps),
          *(f"{kind} error {e:.1e}" for kind, e in worst.items()), sep=", ", flush=True)
    return True


def make_training_cases(root):
    for k, spec in enumerate(CASES):
        folder = f"{root}/{spec['case']}"
        os.makedirs(folder)
        os.symlink(f"../{spec.get('model', 'gpt2-malmen')}/model", f"{folder}/model")
        if not any(make_case(folder, spec, seed=1000 * (k + 21) + 10 * i) for i in range(60)):
            raise ValueError(f"{spec['case']}: no seed is good enough")
