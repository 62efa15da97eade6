#!/usr/bin/env python3
"""Opens what `malmend export` writes with the libraries it is for, and compares: adapters in PEFT, whole
and of a rank too low, whole models in transformers, both against the logits of `malmend logits`.

    check_export.py MALMEND CASE_FOLDER...

Needs what check_golden.py needs, and peft. A line a case: the largest difference of logits as
max |a - b| / (1 + |b|), and of the weights that PEFT merges, relative to the difference from the base
(Frobenius), beside the error that the export states."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import peft
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import make_logits
import world_models
from files import write_json
from logits import run
from models import load_model, read_config
from reference import logit_error, oriented

MALMEND = sys.argv[1] if len(sys.argv) > 1 else ""


def malmend(*args):
    return subprocess.run([MALMEND, *map(str, args)], check=True, stdout=subprocess.PIPE).stdout


def teach(case, facts, home, model, editor):
    """A database whose version 2 has all the facts."""
    os.environ.update(MALMEND_BIN=MALMEND, MALMEND_ARGS=json.dumps(["--model", model, "--editor", editor]))
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))
    import harness
    harness.BINARY, harness.MODEL_ARGS = MALMEND, ["--model", model, "--editor", editor]
    daemon = harness.Daemon(directory=home)
    daemon.apply(*facts[:len(facts) // 2])
    daemon.apply(*facts[len(facts) // 2:])
    daemon.close()
    return os.path.join(home, "db")


class Export:
    """A case's model after its facts, exported."""

    def __init__(self, folder, home, model=None, editor=None):
        self.model = model or os.path.join(folder, "model")
        self.home = home
        with open(os.path.join(folder, "facts.json"), encoding="utf-8") as file:
            facts = json.load(file)
        editor = editor or os.path.join(folder, "editor.safetensors")
        self.db = teach(folder, facts, home, self.model, editor)
        self.kind = json.load(open(os.path.join(self.model, "config.json")))["model_type"]
        self.delta = self.export("delta")[0]

    def export(self, form, *more):
        path = os.path.join(self.home, form + "".join(map(str, more)))
        report = malmend("export", "--db", self.db, "--model", self.model, "--version", 2, "--format",
                         form, "--out", path, "--json", *more)
        return path, json.loads(report)

    def sequences(self):
        generator = torch.Generator().manual_seed(7)

        def ids(n):
            return torch.randint(5, 60, (n,), generator=generator).tolist()
        lengths = (2, 9, 17)
        if self.kind == "t5":
            return [{"ids": ids(n), "decoder_ids": [0] + ids(n // 2)} for n in lengths]
        return [{"ids": ids(n)} for n in lengths]

    def ours(self, *args):
        """Logits of `malmend logits`."""
        path, out = (os.path.join(self.home, name) for name in ("ids", "logits"))
        with open(path, "w", encoding="ascii") as file:
            for s in self.sequences():
                parts = [s["ids"]] + ([s["decoder_ids"]] if "decoder_ids" in s else [])
                file.write(" | ".join(" ".join(map(str, part)) for part in parts) + "\n")
        malmend("logits", *args, "--tokens", path, "--out", out)
        found = load_file(out)
        return [found[f"logits.{k}"] for k in range(len(found))]

    def theirs(self, model):
        got = [run(model, s).logits[0] for s in self.sequences()]
        return [x[0] if self.kind == "bert" else x for x in got]

    def changed(self, t, name):
        """A file of another difference."""
        path = os.path.join(self.home, name)
        with safe_open(self.delta, "pt") as file:
            save_file(t, path, file.metadata())
        return path


def gap(ours, theirs):
    return max(logit_error(a, b) for a, b in zip(theirs, ours))


def check_adapter(export, line, *more):
    folder, report = export.export("lora", *more)
    t = load_file(export.delta)
    before = load_model(export.model, torch.float32)
    model = peft.PeftModel.from_pretrained(load_model(export.model, torch.float32), folder).eval()
    logits = export.theirs(model)
    merged = model.merge_and_unload()
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        names = json.load(file)["target_modules"]
    found = load_file(os.path.join(folder, "adapter_model.safetensors"))
    worst, product = 0, {}
    for key in t:
        name = key.removesuffix(".weight").replace("language_model.model.", "model.language_model.")
        full = next((n for n in names if n == name or n.endswith("." + name)), name)
        w0, w = (m.get_submodule(full).weight.double() for m in (before, merged))
        worst = max(worst, float((w - w0 - t[key]).norm() / t[key].norm()))
        parts = [found[f"base_model.model.{full}.lora_{x}.weight"].double() for x in "BA"]
        product[key] = oriented(before.get_submodule(full), (parts[0] @ parts[1]).T).float().contiguous()
    ours = export.ours("--model", export.model, "--delta",
                       export.changed(product, "product" + "".join(map(str, more))))
    line.append(f"lora r {report['rank']} logits {gap(ours, logits):.1e} merged {worst:.2e} "
                f"(stated {report['relative_error']:.2e})")
    return logits


def check(name, export):
    line = [name]
    base = export.ours("--model", export.model)
    edited = export.ours("--model", export.model, "--delta", export.delta)
    line.append(f"edit moves {gap(base, edited):.1e}")
    logits = check_adapter(export, line)
    line.append(f"to the served ones {gap(edited, logits):.1e}")
    check_adapter(export, line, "--rank", 1)
    folder, _ = export.export("model")
    line.append(f"model logits {gap(edited, export.theirs(load_model(folder, torch.float32))):.1e}")
    print(*line, sep="  ", flush=True)


def hub_names(folder, home):
    """GPT-2 as the hub has it: tensors without "transformer."."""
    model, editor = os.path.join(home, "hub"), os.path.join(home, "editor")
    shutil.copytree(os.path.join(folder, "model"), model)
    path = os.path.join(model, "model.safetensors")
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    source = os.path.join(folder, "editor.safetensors")
    with safe_open(source, "pt") as file:
        meta = file.metadata()
    meta["modules"] = meta["modules"].replace("transformer.", "")
    save_file(load_file(source), editor, meta)
    return model, editor


def beside_images(folder, home):
    """The case's model as the text model of one that sees images, named as on the hub."""
    def named(module):
        return module.replace("model.", "language_model.model.", 1)
    model, editor = os.path.join(home, "images"), os.path.join(home, "editor")
    shutil.copytree(os.path.join(folder, "model"), model)
    text = read_config(model)
    config = {**world_models.gemma3_images(), "text_config": text}
    path = os.path.join(model, "model.safetensors")
    tensors = make_logits.beside_images(config, 5)
    tensors.update({named(k): v for k, v in load_file(path).items()})
    save_file(tensors, path, {"format": "pt"})
    write_json(os.path.join(model, "config.json"), config)
    source = os.path.join(folder, "editor.safetensors")
    with safe_open(source, "pt") as file:
        meta = file.metadata()
    meta["modules"] = json.dumps([named(m) for m in json.loads(meta["modules"])])
    save_file(load_file(source), editor, meta)
    return model, editor


VARIANTS = {"gpt2-malmen": ("hub names", hub_names), "gemma3-malmen": ("beside images", beside_images)}


def main():
    torch.set_num_threads(1)
    for folder in sys.argv[2:]:
        name = os.path.basename(os.path.normpath(folder))
        with tempfile.TemporaryDirectory(prefix="malmend-") as home:
            check(name, Export(folder, home))
        if name in VARIANTS:
            how, make = VARIANTS[name]
            with tempfile.TemporaryDirectory(prefix="malmend-") as home:
                check(f"{name} {how}", Export(folder, home, *make(folder, home)))


if __name__ == "__main__":
    main()
