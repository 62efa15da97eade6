"""Fine-tuning methods as plain PyTorch: autograd through transformers' models and torch.optim.Adam. FT
is the MEMIT authors' (every target token predicted at the prompt's last position), LocFT-BF the usual
loss, text by text and with the end of text, in shuffled mini-batches. `Tuning(case, torch.float32)` is what the fixtures are compared with; the
same in float64 says how far off fp32 itself is. Nothing here is shared with the C code."""
import json
import os

import torch
import torch.nn.functional as F
from safetensors import safe_open

from models import IGNORED, Texts, load_model, read_config
from reference import cut, oriented

CLOSE = 1e-2  # no step of a mini-batch below it, the end of a pass below it


class TuneCase:
    """A folder's inputs: model, tokenizer, facts, numbers."""

    def __init__(self, folder):
        self.model_dir = os.path.join(folder, "model")
        self.texts = Texts(self.model_dir)
        with open(os.path.join(folder, "facts.json"), encoding="utf-8") as file:
            self.facts = json.load(file)
        with safe_open(os.path.join(folder, "editor.safetensors"), "pt") as file:
            self.meta = file.metadata()
        self.method, self.modules = self.meta["method"], json.loads(self.meta["modules"])
        self.hyper = json.loads(self.meta["hyper"])
        self.examples = [self.texts.encode_fact(fact) for fact in self.facts]
        for example in self.examples if self.method == "ft" else []:
            ids, labels = example["edit"]["ids"], example["edit"]["labels"]
            n = sum(label != IGNORED for label in labels)
            example["ft"] = {"ids": ids[:len(ids) - n + 1], "targets": labels[len(labels) - n:]}
        self.end = self.end_of_text() if self.method == "locft-bf" else None

    def end_of_text(self):
        end = read_config(self.model_dir).get("eos_token_id")
        end = end[0] if isinstance(end, list) else end
        return None if self.texts.kind in ("bert", "t5") else end

    def taught(self, i):
        """Fact i as it is trained on."""
        text = self.examples[i]["edit"]
        if self.end is None:
            return text
        return {"ids": text["ids"] + text["labels"][-1:], "labels": text["labels"] + [self.end]}


class Shuffle:
    """splitmix64 (Steele, Lea, Flood), and Fisher and Yates' shuffle with it."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        mask = (1 << 64) - 1
        self.state = x = (self.state + 0x9e3779b97f4a7c15) & mask
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9 & mask
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb & mask
        x ^= x >> 31
        return int((x >> 11) * 2.0 ** -53 * n)

    def __call__(self, order):
        for i in range(len(order) - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]


class Tuning:
    def __init__(self, case, dtype):
        self.case, self.dtype = case, dtype
        self.model = load_model(case.model_dir, dtype)
        self.parameters = {}
        for name in case.modules:
            linear = self.model.get_submodule(name)
            self.parameters[name] = linear.weight
            if case.method == "ft" and getattr(linear, "bias", None) is not None:
                self.parameters[name + ".bias"] = linear.bias
        self.old = {name: p.detach().clone() for name, p in self.parameters.items()}

    # ---- losses ----

    def prompt_loss(self, facts):
        """FT's."""
        texts = [self.case.examples[i]["ft"] for i in facts]
        inputs, _ = self.case.texts.pad([{"ids": t["ids"], "labels": []} for t in texts])
        logits = self.model(**inputs).logits
        log_p = [F.log_softmax(logits[k, len(t["ids"]) - 1], -1) for k, t in enumerate(texts)]
        return torch.stack([-row[t["targets"]].mean() for row, t in zip(log_p, texts)]).mean()

    def text_loss(self, facts):
        """LocFT-BF's: the mean of the texts' means."""
        inputs, labels = self.case.texts.pad([self.case.taught(i) for i in facts])
        logits = self.model(**inputs).logits
        if self.case.texts.kind == "bert":
            return F.binary_cross_entropy_with_logits(logits[..., 0], labels.to(self.dtype))
        losses = []
        for rows, wanted in zip(logits, labels):
            at = wanted != IGNORED
            losses.append(F.cross_entropy(rows[at], wanted[at]))
        return torch.stack(losses).mean()

    # ---- training ----

    def cut_back(self):
        bound = self.case.hyper.get("norm_constraint")
        for name, p in self.parameters.items() if bound else []:
            p.data = torch.maximum(torch.minimum(p.data, self.old[name] + bound), self.old[name] - bound)

    def passes(self, n, loss_of, shuffle):
        order = list(range(len(self.case.facts)))
        for _ in range(n):
            losses, total = [], 0
            shuffle(order)
            for facts in cut(order, self.case.hyper["batch_size"]):
                self.optimizer.zero_grad()
                loss = loss_of(facts)
                if loss.item() >= CLOSE:
                    loss.backward()
                    self.optimizer.step()
                self.cut_back()
                losses.append(loss.item())
                total += loss.item() * len(facts)
            yield losses
            if total / len(self.case.facts) < CLOSE:
                return

    def ft(self):
        return self.passes(self.case.hyper["steps"], self.prompt_loss, lambda order: None)

    def locft_bf(self):
        hyper = self.case.hyper
        return self.passes(hyper["epochs"], self.text_loss, Shuffle(hyper["seed"]))

    def edit(self):
        """The losses, pass by pass; the shift of every parameter, (d_in, d_out)."""
        for p in self.parameters.values():
            p.requires_grad_(True)
        hyper = self.case.hyper
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=hyper["lr"], foreach=False,
                                          weight_decay=hyper["weight_decay"])
        losses = list({"ft": self.ft, "locft-bf": self.locft_bf}[self.case.method]())
        shift = {}
        for name, p in self.parameters.items():
            p.requires_grad_(False)
            difference = p.detach() - self.old[name]
            linear = self.model.get_submodule(name.removesuffix(".bias"))
            shift[name] = difference if p.dim() == 1 else oriented(linear, difference).contiguous()
        return losses, shift

    # ---- measures ----

    @torch.no_grad()
    def score(self, what):
        """Logits at the label positions, fact by fact, and each fact's share of right tokens."""
        rows, share = [], []
        for example in self.case.examples:
            inputs, labels = self.case.texts.pad([example[what]])
            logits, at = self.model(**inputs).logits[0], labels[0] != IGNORED
            rows.append(logits[at])
            best = rows[-1][:, 0] > 0 if self.case.texts.kind == "bert" else rows[-1].argmax(-1)
            share.append((best == labels[0][at]).double().mean().item())
        return torch.cat(rows), share

    def scores(self):
        return {what: self.score(what) for what in ("edit", "rephrase", "unrelated")}

    def run(self):
        before = self.scores()
        losses, shift = self.edit()
        return {"before": before, "losses": losses, "shift": shift, "after": self.scores()}


def loss_error(run, run64):
    return max(abs(a - b) / (1e-3 + abs(b)) for x, y in zip(run["losses"], run64["losses"])
               for a, b in zip(x, y))
