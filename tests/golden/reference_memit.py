"""MEMIT as its authors' code computes it, in plain PyTorch over transformers' models, in fp32 or wholly in
fp64: values fact by fact, by autograd and torch.optim.Adam, with every block run on every position of
padded texts; then module by module keys, residuals and a solve of the whole system. A fact with further
prompts has all contexts of each. Nothing here is shared with the C code."""
import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models import IGNORED, Texts, load_model
from reference import cut, oriented

LOW = 0.05  # a loss that ends a fact's descent
ABOUT = "{} is a"


class MemitCase:
    def __init__(self, folder):
        self.folder, self.model_dir = folder, os.path.join(folder, "model")
        self.texts = Texts(self.model_dir)
        with open(os.path.join(folder, "facts.json"), encoding="utf-8") as file:
            self.facts = json.load(file)
        path = os.path.join(folder, "editor.safetensors")
        self.editor = load_file(path)
        with safe_open(path, "pt") as file:
            self.meta = file.metadata()
        self.modules, self.hyper = (json.loads(self.meta[k]) for k in ("modules", "hyper"))
        self.contexts, sizes = (json.loads(self.meta[k]) for k in ("contexts", "context_groups"))
        self.groups = [i for i, n in enumerate(sizes) for _ in range(n)]  # of each context
        self.layers = [int(next(p for p in m.split(".") if p.isdigit())) for m in self.modules]
        self.examples = [{**self.texts.encode_fact(f), "memit": self.encode(f)} for f in self.facts]

    def last(self, text, subject):
        """Where in its ids the subject's last token is."""
        ids = self.texts.tokenizer.encode(text).ids
        head = self.texts.tokenizer.encode(text[:text.rindex(subject) + len(subject)]).ids
        assert ids[:len(head)] == head, (text, subject)
        return len(head) - 1

    def encode(self, fact):
        texts = [context.replace("{}", prompt) for prompt in [fact["prompt"], *fact.get("prompts", [])]
                 for context in self.contexts]
        about, encode = ABOUT.format(fact["subject"]), self.texts.tokenizer.encode
        at = [self.last(text, fact["subject"]) for text in texts]
        return {"rewrite": [{**self.texts.encode(text, fact["target"], fact.get("join", " ")), "lookup": i}
                            for text, i in zip(texts, at)],
                "keys": [{"ids": encode(text).ids, "lookup": i} for text, i in zip(texts, at)],
                "kl": {"ids": encode(about).ids, "lookup": self.last(about, fact["subject"])}}


class Memit:
    def __init__(self, case, dtype):
        self.case, self.dtype = case, dtype
        self.model = load_model(case.model_dir, dtype)
        self.linears = [self.model.get_submodule(name) for name in case.modules]
        self.block = self.model.get_submodule(case.modules[-1].partition(".mlp.")[0])

    def run_texts(self, texts, hooks):
        """Logits of all positions; hooks: (module, function of its inputs and output) each."""
        inputs, _ = self.case.texts.pad([{"labels": [], **t} for t in texts])
        handles = [module.register_forward_hook(hook) for module, hook in hooks]
        logits = self.model(**inputs).logits
        for handle in handles:
            handle.remove()
        return logits

    # ---- values ----

    def find(self, texts):
        """z, z0, the terms of each step."""
        h, rewrites = self.case.hyper, texts["rewrite"]
        at = [t["lookup"] for t in rewrites] + [texts["kl"]["lookup"]]
        z0, before, terms = None, None, []
        delta = torch.zeros(self.model.config.hidden_size, dtype=self.dtype, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=h["v_lr"])

        def add(_, __, output):
            nonlocal z0
            state = output[0] if isinstance(output, tuple) else output
            z0 = state[0, at[0]].detach().clone() if z0 is None else z0
            moved = state.clone()
            for i, row in enumerate(at):
                moved[i, row] += delta
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        for step in range(h["v_steps"]):
            adam.zero_grad()
            logits = self.run_texts([*rewrites, texts["kl"]], [(self.block, add)])
            nll = 0
            for i, text in enumerate(rewrites):
                target = torch.tensor(text["labels"])
                rows = target != IGNORED
                logp = logits[i, :len(target)][rows].log_softmax(-1)
                nll = nll - logp.gather(1, target[rows, None]).mean() / len(rewrites)
            now = logits[-1, at[-1]].log_softmax(-1)
            before = now.detach().clone() if before is None else before
            kl = h["kl_factor"] * (now.exp() * (now - before)).sum()
            decay = h["v_weight_decay"] * delta.norm() / z0.norm() ** 2
            loss = nll + kl + decay
            terms.append({"loss": loss.item(), "nll": nll.item(), "kl": kl.item(),
                          "weight_decay": decay.item()})
            if loss.item() < LOW or step == h["v_steps"] - 1:
                return (z0 + delta).detach(), terms
            loss.backward()
            adam.step()
            most = h["clamp"] * z0.norm()
            with torch.no_grad():
                if delta.norm() > most:
                    delta *= most / delta.norm()

    # ---- modules ----

    @torch.no_grad()
    def keys(self, texts, linear):
        """k, and the last edited block's output for the prompt alone."""
        seen = {}

        def keep_key(_, args, __):
            seen["key"] = args[0]

        def keep_state(_, __, output):
            seen["state"] = output[0] if isinstance(output, tuple) else output

        self.run_texts(texts["keys"], [(linear, keep_key), (self.block, keep_state)])
        at = [t["lookup"] for t in texts["keys"]]
        rows = [seen["key"][i, row] for i, row in enumerate(at)]
        means = []
        for prompt in cut(rows, len(self.case.groups)):
            for group in range(max(self.case.groups) + 1):
                own = [r for r, g in zip(prompt, self.case.groups) if g == group]
                means.append(torch.stack(own).mean(0))
        return torch.stack(means).mean(0), seen["state"][0, at[0]]

    @torch.no_grad()
    def edit(self, z):
        out = {"k": {}, "resid": {}, "shift": {}, "cond": {}}
        for i, (name, linear) in enumerate(zip(self.case.modules, self.linears)):
            found = [self.keys(e["memit"], linear) for e in self.case.examples]
            k, now = (torch.stack(x) for x in zip(*found))
            resid = (z - now) / (len(self.linears) - i)
            wide, moments = k.double(), self.case.editor[name + ".mom2"].double()
            a = self.case.hyper["mom2_weight"] * moments + wide.T @ wide
            shift = torch.linalg.solve(a, wide.T @ resid.double())
            out["k"][name], out["resid"][name] = k, resid
            out["shift"][name], out["cond"][name] = shift.to(self.dtype), torch.linalg.cond(a).item()
            linear.weight += oriented(linear, out["shift"][name])
        return out

    # ---- the whole ----

    @torch.no_grad()
    def score(self, what):
        rows, share = [], []
        for example in self.case.examples:
            labels = torch.tensor(example[what]["labels"])
            at = labels != IGNORED
            rows.append(self.run_texts([example[what]], [])[0][at])
            share.append((rows[-1].argmax(-1) == labels[at]).double().mean().item())
        return torch.cat(rows), share

    def scores(self):
        return {what: self.score(what) for what in ("edit", "rephrase", "unrelated")}

    def run(self):
        before = self.scores()
        found = [self.find(e["memit"]) for e in self.case.examples]
        z = torch.stack([z for z, _ in found])
        return {"before": before, "z": z, "terms": [terms for _, terms in found], **self.edit(z),
                "after": self.scores()}


@torch.no_grad()
def moments_of(model_dir, modules, texts):
    """{module: mean of k k' over all tokens of the texts, each run alone}, and how many those are."""
    model, ids = load_model(model_dir, torch.float64), Texts(model_dir)
    sums, n = {name: 0 for name in modules}, 0

    def add(name):
        def hook(_, args, __):
            rows = args[0][0]
            sums[name] = sums[name] + rows.T @ rows
        return hook

    for name in modules:
        model.get_submodule(name).register_forward_hook(add(name))
    for text in texts:
        tokens = ids.tokenizer.encode(text).ids
        model(input_ids=torch.tensor([tokens]))
        n += len(tokens)
    return {name: (s / n).float() for name, s in sums.items()}, n
