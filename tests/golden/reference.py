"""The reference's editing pipeline as plain PyTorch: padded micro-batches through transformers'
models, keys and value gradients from hooks, running statistics, the hyper-network, the solve by LU.
`Pipeline(case, torch.float32)` is what the fixtures are compared with; the same in float64 says how
far off fp32 itself is. Nothing here is shared with the C code."""
import json
import os

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from models import IGNORED, Texts, load_model, stack_of

EPS = torch.finfo(torch.float32).eps


def shape_name(shape):
    return f"({shape[0]}, {shape[1]})"


def oriented(linear, x):
    """A weight of the layer as (d_in, d_out), or back: only GPT-2's stores it so."""
    return x if isinstance(linear, Conv1D) else x.T


def shape_of(linear):
    return tuple(oriented(linear, linear.weight).shape)


def shapes_of(model_dir, modules):
    """(d_in, d_out) of each."""
    model = load_model(model_dir, torch.float32)
    return [shape_of(model.get_submodule(name)) for name in modules]


class Case:
    """A folder's inputs: model, tokenizer, facts, editor."""

    def __init__(self, folder, facts="facts.json", editor="editor.safetensors"):
        self.folder = folder
        self.model_dir = os.path.join(folder, "model")
        self.texts = Texts(self.model_dir)
        with open(os.path.join(folder, facts), encoding="utf-8") as file:
            self.facts = json.load(file)
        path = os.path.join(folder, editor)
        self.editor = load_file(path)
        with safe_open(path, "pt") as file:
            self.meta = file.metadata()
        self.method = self.meta["method"]
        self.modules = json.loads(self.meta["modules"])
        self.micro_batch = int(self.meta["micro_batch"])
        self.examples = [self.texts.encode_fact(fact) for fact in self.facts]

    @property
    def is_classifier(self):
        return self.texts.kind == "bert"


def cut(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]


def relu(x):
    """Of slope 1 at 0, where a clamp's gradient depends on the version of PyTorch."""
    return torch.where(x >= 0, x, torch.zeros_like(x))


class Normalizer:
    """Running mean and deviation of rows, core/README.md section 3."""

    def __init__(self, editor, name, dtype):
        part = {k: editor[f"{name}.normalizer.{k}"].to(dtype) for k in ("n", "mean", "var", "std")}
        self.n, self.mean, self.var, self.std = part["n"], part["mean"], part["var"], part["std"]

    def take(self, x):
        rows = x.shape[0]
        after = self.n + rows
        delta = x.mean(0) - self.mean
        own = x.var(0, unbiased=True) if rows > 1 else torch.zeros_like(self.var)
        self.mean = self.mean + rows * delta / after
        self.var = self.var + rows * own + self.n * rows * delta ** 2 / after
        self.std = torch.sqrt(self.var / (after - 1 + EPS))
        self.n = after

    def __call__(self, x):
        return (x - self.mean) / (self.std + EPS)

    def state(self):
        return {"n": self.n, "mean": self.mean, "var": self.var, "std": self.std}


class Pipeline:
    def __init__(self, case, dtype):
        self.case, self.dtype = case, dtype
        self.model = load_model(case.model_dir, dtype)
        self.linears = {name: self.model.get_submodule(name) for name in case.modules}
        self.shapes = {name: shape_of(lin) for name, lin in self.linears.items()}
        self.editor = {k: v.to(dtype) for k, v in case.editor.items()}
        self.norms = {shape: Normalizer(self.editor, shape_name(shape), dtype)
                      for shape in dict.fromkeys(self.shapes.values())}

    # ---- keys and value gradients ----

    def measure_micro_batch(self, examples):
        """{module: (U, G)}, loss, {module: mask of the rows taken}."""
        inputs, labels = self.case.texts.pad(examples)
        seen, handles = {}, []

        def hook(name):
            def keep(_, args, out):
                out.requires_grad_(True)
                out.retain_grad()
                seen[name] = (args[0].detach(), out)
            return keep

        for name, lin in self.linears.items():
            handles.append(lin.register_forward_hook(hook(name)))
        logits = self.model(**inputs).logits
        for handle in handles:
            handle.remove()
        how = "mean" if self.case.meta["loss"] == "microbatch_mean" else "sum"
        if self.case.is_classifier:
            loss = F.binary_cross_entropy_with_logits(logits[..., 0], labels.to(self.dtype),
                                                      reduction=how)
        else:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED,
                                   reduction=how)
        loss.backward()
        taken = {name: self.case.texts.edit_tokens(name, inputs, labels, self.case.meta["tokens"])
                 for name in self.case.modules}
        rows = {name: (u[taken[name]], y.grad[taken[name]]) for name, (u, y) in seen.items()}
        return rows, loss.item(), taken

    def micro_batches(self, facts, what):
        """The facts (indices) by the length of one of their texts, longest first, and cut."""
        order = sorted(facts, key=lambda i: -len(self.case.examples[i][what]["ids"]))
        return cut(order, self.case.micro_batch)

    def measure(self, facts):
        """One list entry per micro-batch of the facts (indices), longest first."""
        out = []
        for group in self.micro_batches(facts, "edit"):
            rows, loss, taken = self.measure_micro_batch(
                [self.case.examples[i]["edit"] for i in group])
            where = {name: [(group[a], p) for a, p in mask.nonzero().tolist()]
                     for name, mask in taken.items()}
            out.append({"rows": rows, "loss": loss, "where": where})
        return out

    def take_statistics(self, micro_batches):
        for group in micro_batches:
            for name in self.case.modules:
                self.norms[self.shapes[name]].take(torch.cat(group["rows"][name], -1))

    # ---- from rows to shifts ----

    def parameters_of(self, name):
        """The shape's tensors, and the module's row among them."""
        shape = self.shapes[name]
        row = [m for m in self.case.modules if self.shapes[m] == shape].index(name)
        prefix = shape_name(shape) + "."
        return {k[len(prefix):]: v for k, v in self.editor.items() if k.startswith(prefix)}, row

    def transform(self, name, u, g):
        h = self.norms[self.shapes[name]](torch.cat((u, g), -1))
        if self.case.method != "ultraedit":
            p, row = self.parameters_of(name)
            for i in range(int(self.case.meta["blocks"])):
                block = f"blocks.{i}."
                inner = relu(h @ p[block + "A"] @ p[block + "B"] + p[block + "bias"])
                h = h + p[block + "scale.weight"][row] * inner + p[block + "shift.weight"][row]
        return h.split([u.shape[1], g.shape[1]], -1)

    def steps_of(self, name):
        """lr and lamda of a module."""
        if self.case.method == "ultraedit":
            return float(self.case.meta["lr"]), torch.zeros((), dtype=self.dtype)
        p, row = self.parameters_of(name)
        return p["lr.weight"][row, 0], p["lamda.weight"][row, 0]

    def solve(self, name, u, g):
        """D (None for MEND), S, condition number."""
        u_hat, g_hat = self.transform(name, u, g)
        lr, lamda = self.steps_of(name)
        if self.case.method == "mend":
            return None, -lr * (u_hat.T @ g_hat), None
        key = u_hat if self.case.method == "ultraedit" else u
        d = -lr * (key * u_hat).sum(-1, keepdim=True) * g_hat
        a = u.T @ u + lamda.exp() * torch.eye(u.shape[1], dtype=self.dtype)
        return d, torch.linalg.solve(a, u.T @ d), torch.linalg.cond(a.double()).item()

    def where(self, groups):
        """Facts and positions of the rows: {"": [...]}, T5 {".encoder": [...], ".decoder": [...]}."""
        out = {}
        for name in self.case.modules:
            stack = "." + stack_of(name) if self.case.texts.kind == "t5" else ""
            out[stack] = sum((group["where"][name] for group in groups), [])
        return out

    def edit(self, facts):
        groups = self.measure(facts)
        if self.case.method == "ultraedit":
            self.take_statistics(groups)
        out = {"losses": [g["loss"] for g in groups], "where": self.where(groups), "U": {},
               "G": {}, "D": {}, "shift": {}, "cond": {}, "norms": {}}
        for name in self.case.modules:
            u, g = (torch.cat([group["rows"][name][k] for group in groups]) for k in (0, 1))
            d, s, cond = self.solve(name, u, g)
            out["U"][name], out["G"][name], out["shift"][name] = u, g, s
            if d is not None:
                out["D"][name], out["cond"][name] = d, cond
        for name, s in out["shift"].items():
            self.linears[name].weight += oriented(self.linears[name], s)
        out["norms"] = {shape_name(shape): norm.state() for shape, norm in self.norms.items()}
        return out

    # ---- measures ----

    @torch.no_grad()
    def score(self, what):
        """Logits at the label positions, fact by fact, and each fact's share of right tokens."""
        rows, share = [], []
        for group in cut(self.case.examples, self.case.micro_batch):
            inputs, labels = self.case.texts.pad([e[what] for e in group])
            logits = self.model(**inputs).logits
            for i in range(len(group)):
                at = labels[i] != IGNORED
                rows.append(logits[i][at])
                best = rows[-1][:, 0] > 0 if self.case.is_classifier else rows[-1].argmax(-1)
                share.append((best == labels[i][at]).double().mean().item())
        return torch.cat(rows), share

    def scores(self):
        return {what: self.score(what) for what in ("edit", "rephrase", "unrelated")}

    def run(self, batches):
        before, results, after_each, at = self.scores(), [], [], 0
        for n in batches:
            results.append(self.edit(list(range(at, at + n))))
            now = self.scores()
            after_each.append({w: (rows, share[at:at + n]) for w, (rows, share) in now.items()})
            at += n
        return {"before": before, "batches": results, "after": self.scores(),
                "after_each": after_each}


def relative(a, b):
    """||a - b||_F / ||b||_F"""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def logit_error(a, b):
    return ((a.double() - b.double()).abs() / (1 + b.double().abs())).max().item()


def logit_errors(run, run64):
    """Of all that a model is asked before and after: errors by name, the smallest margin of an argmax, and
    whether every margin is wide beside what fp32 loses."""
    errors, margin, safe = {}, float("inf"), True
    for what in ("edit", "rephrase", "unrelated"):
        for moment, key in (("before", "base"), ("after", "edited")):
            a, b = run[moment][what][0], run64[moment][what][0]
            errors[f"{what}.{key}"] = logit_error(a, b)
            top = b.topk(2).values if b.shape[1] > 1 else torch.cat((b.abs(), 0 * b), 1)
            gap = (top[:, 0] - top[:, 1]).min().item()
            margin = min(margin, gap)
            safe = safe and gap >= 4 * (a - b).abs().max().item()
    return errors, margin, safe


def measures(scored):
    out = {}
    for key, what in (("es", "edit"), ("gs", "rephrase"), ("ls", "unrelated")):
        share = scored[what][1]
        out[key], out[key + "_per_fact"] = sum(share) / len(share), share
    return out
