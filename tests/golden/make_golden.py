#!/usr/bin/env python3
"""Makes the golden cases of tests/golden/cases: small random GPT-2 models with editors and facts,
and what reference.py computes from them in fp32 and fp64. README.md says what each is for.

    make_golden.py [FOLDER]"""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import world
from files import save, write_json, write_rows
from make_training import make_training_cases
from reference import Case, Pipeline, load_model, logit_error, relative, shape_name

HERE = os.path.dirname(os.path.abspath(__file__))
PROJ, FC = "transformer.h.{}.mlp.c_proj", "transformer.h.{}.mlp.c_fc"

# Two models: one with n_inner given, one with it null.
MODELS = {"given": dict(channels=32, heads=4, inner=20), "null": dict(channels=16, heads=4, inner=None)}
POSITIONS = 64

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
]
RANK, BLOCKS = 3, 2


def write_model(folder, model, seed):
    """A whole Hugging Face directory."""
    os.makedirs(folder)
    config = world.make_config(**MODELS[model], vocabulary=world.VOCABULARY, positions=POSITIONS)
    write_json(f"{folder}/config.json", config)
    with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(world.make_tokenizer(), file, ensure_ascii=False, separators=(",", ":"))
    special = {k: world.END for k in ("bos_token", "eos_token", "unk_token")}
    write_json(f"{folder}/special_tokens_map.json", special)
    write_json(f"{folder}/tokenizer_config.json", {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special,
        "model_max_length": POSITIONS, "clean_up_tokenization_spaces": False})
    save(world.make_weights(config, seed), f"{folder}/model.safetensors", {"format": "pt"})


# ---- Edit cases ----

@torch.no_grad()
def known_probes(model_dir):
    """Probes that the base model answers right, so that LS has something to lose."""
    model = load_model(model_dir, torch.float32)
    tok = Tokenizer.from_file(f"{model_dir}/tokenizer.json")
    for prompt in world.probe_prompts():
        logits = model(input_ids=torch.tensor([tok.encode(prompt).ids])).logits
        token = logits[0, -1].argmax().item()
        target = tok.decode([token])
        if target.startswith(" ") and target.strip() and tok.encode(target).ids == [token]:
            yield {"prompt": prompt, "target": target.strip()}


def write_inputs(folder, spec, seed):
    """facts.json and the editor, whose statistics are those of the facts (UltraEdit: none)."""
    facts = world.make_facts(seed, spec.get("facts") or sum(spec["batches"]))
    known = list(known_probes(f"{folder}/model"))
    for i, fact in enumerate(facts[::2]):
        fact["unrelated"] = [known[(seed + i) % len(known)]]
    if spec.get("joined"):
        facts.insert(2, world.JOINED)
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
    state = load_model(f"{folder}/model", torch.float32).state_dict()
    shapes = [tuple(state[m + ".weight"].shape) for m in spec["modules"]]
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
    shift, cond, logits, margin, safe = {}, {}, {}, float("inf"), True
    for b, (got, got64) in enumerate(zip(run["batches"], run64["batches"])):
        dot = f"{b}." if sequential else ""
        shift.update({dot + m: relative(s, got64["shift"][m]) for m, s in got["shift"].items()})
        cond.update({dot + m: c for m, c in got64["cond"].items()})
    for what in ("edit", "rephrase", "unrelated"):
        for moment, key in (("before", "base"), ("after", "edited")):
            a, b = run[moment][what][0], run64[moment][what][0]
            logits[f"{what}.{key}"] = logit_error(a, b)
            top = b.topk(2).values
            gap = (top[:, 0] - top[:, 1]).min().item()
            margin = min(margin, gap)
            safe = safe and gap >= 4 * (a - b).abs().max().item()
    return {"shift_error": shift, "logit_error": logits, "margin": margin, "cond": cond}, safe


def make_case(folder, spec, seed):
    """False: with this seed an argmax is too close, or the edit moves no measure."""
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
        "case": spec["case"], "kind": "gpt2", "method": case.method, "modules": case.modules,
        "token_convention": case.meta["tokens"],
        "input_convention": "tok(prompt) + tok(join + target, no special), without the last",
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
            write_model(f"{folder}/model", spec["model"], seed=100 + k)
        else:
            os.symlink(f"../{home}/model", f"{folder}/model")
        if not any(make_case(folder, spec, seed=1000 * (k + 1) + 10 * i) for i in range(40)):
            raise ValueError(f"{spec['case']}: no seed is good enough")


# ---- Logits ----

def make_logits(root, name, model, config, state, lengths, seed, note=None):
    """Whole sequences of random ids; state: the weights as the checkpoint holds them."""
    rng = torch.Generator().manual_seed(seed)
    ids = [torch.randint(config["vocab_size"], (n,), generator=rng) for n in lengths]
    path = f"{root}/.state"
    os.makedirs(path)
    write_json(f"{path}/config.json", config)
    save({k: v.float() for k, v in state.items()}, f"{path}/model.safetensors")
    with torch.no_grad():
        single, double = ([net(x[None]).logits[0] for x in ids]
                          for net in (load_model(path, d) for d in (torch.float32, torch.float64)))
    shutil.rmtree(path)
    error = max(map(logit_error, single, double))
    tensors = {f"ids.{k}": x.int() for k, x in enumerate(ids)}
    tensors.update({f"logits.{k}": x for k, x in enumerate(single)})
    save(tensors, f"{root}/logits/{name}.safetensors")
    write_json(f"{root}/logits/{name}.json", {
        "model": model, "kind": "gpt2", "sequences": len(ids), "lengths": lengths,
        "tolerance": max(4 * error, 2e-5), "reference_error": error, **({"note": note} if note else {})})
    print(f"logits {name}: error {error:.1e}", flush=True)


def make_logit_cases(root):
    os.makedirs(f"{root}/logits/models")
    folder = "gpt2-malmen/model"
    with open(f"{root}/{folder}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    state = load_file(f"{root}/{folder}/model.safetensors")
    make_logits(root, "gpt2", folder, config, state, [1, 2, 17, POSITIONS], seed=7)
    positions = 20
    for name, dtype, note in (
            ("bf16", torch.bfloat16, "weights stored in bf16; computed in fp32 from them"),
            ("fp16", torch.float16, "weights stored in fp16; computed in fp32 from them"),
            ("hubnames", torch.float32, "names without `transformer.`, with stored causal masks")):
        config = world.make_config(12, 4, None, vocabulary=48, positions=positions,
                                   dtype=str(dtype).removeprefix("torch."))
        state = {k: v.to(dtype) for k, v in world.make_weights(config, seed=200).items()}
        stored = dict(state)
        if name == "hubnames":
            stored = {k.removeprefix("transformer."): v for k, v in state.items()}
            mask = torch.ones(positions, positions).tril()[None, None]
            stored.update({f"h.{i}.attn.bias": mask.clone() for i in range(config["n_layer"])})
        folder = f"logits/models/gpt2-{name}"
        os.makedirs(f"{root}/{folder}")
        write_json(f"{root}/{folder}/config.json", config)
        save(stored, f"{root}/{folder}/model.safetensors", {"format": "pt"})
        make_logits(root, f"gpt2-{name}", folder, config, state, [1, 2, 17, positions], 8, note)


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "cases")
    torch.set_num_threads(1)
    if os.path.isdir(root):
        if not os.path.isdir(f"{root}/{CASES[0]['case']}"):
            sys.exit(f"{root} holds no golden cases: not replaced")
        shutil.rmtree(root)
    make_edit_cases(root)
    make_training_cases(root)
    make_logit_cases(root)


if __name__ == "__main__":
    main()
