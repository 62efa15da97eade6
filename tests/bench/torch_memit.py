"""The peer of bench_memit: MEMIT's search for values as its authors' code does it, in PyTorch with
transformers' model: one fact at a time, its contexts padded into a batch, all blocks and the head run on
every position in each step, and the losses read from a second product with the head.

    torch_memit.py MODEL EDITOR FACTS N

Prints a JSON line: seconds and processor seconds, steps, mean of the last steps' -log p."""
import argparse
import json
import struct
import time

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

NONE = -100


def metadata(path):
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size))["__metadata__"]


class Search:
    def __init__(self, directory, editor):
        self.model = AutoModelForCausalLM.from_pretrained(directory).requires_grad_(False).eval()
        self.tok = Tokenizer.from_file(f"{directory}/tokenizer.json")
        meta = metadata(editor)
        self.contexts, self.hyper = json.loads(meta["contexts"]), json.loads(meta["hyper"])
        self.layer = max(int(name.split(".")[2]) for name in json.loads(meta["modules"]))
        self.blocks = self.model.transformer.h

    def encode(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    def last(self, text, subject):
        return len(self.encode(text[:text.rindex(subject) + len(subject)])) - 1

    def inputs(self, fact):
        """Padded ids and mask, targets of the contexts' texts, and where the subject ends in each."""
        target = self.encode(" " + fact["target"].strip())
        about = f"{fact['subject']} is a"
        texts = [context.replace("{}", fact["prompt"]) for context in self.contexts]
        rows = [self.encode(text) + target[:-1] for text in texts] + [self.encode(about)]
        at = [self.last(text, fact["subject"]) for text in [*texts, about]]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        targets = torch.full((len(texts), width), NONE)
        for i, row in enumerate(rows[:-1]):
            targets[i, len(row) - len(target):len(row)] = torch.tensor(target)
        return ids, mask, targets, at, len(target)

    def find(self, fact):
        """Steps taken, and the last one's -log p."""
        h, n = self.hyper, len(self.contexts)
        ids, mask, targets, at, n_target = self.inputs(fact)
        delta = torch.zeros(self.model.config.n_embd, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=h["v_lr"])
        seen, before, z0 = {}, None, None

        def add(module, inputs, output):
            nonlocal z0
            state = output[0] if isinstance(output, tuple) else output
            z0 = state[0, at[0]].detach().clone() if z0 is None else z0
            moved = state.clone()
            for i, row in enumerate(at):
                moved[i, row] += delta
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        def keep(module, inputs, output):
            seen["final"] = output[0] if isinstance(output, tuple) else output

        hooks = [self.blocks[self.layer].register_forward_hook(add),
                 self.blocks[-1].register_forward_hook(keep)]
        for step in range(h["v_steps"]):
            adam.zero_grad()
            logits = self.model(input_ids=ids, attention_mask=mask).logits
            now = torch.log_softmax(logits[n, at[n]], dim=0)
            before = now.detach().clone() if before is None else before
            final = self.model.transformer.ln_f(seen["final"][:n])
            logp = torch.log_softmax(final @ self.model.lm_head.weight.T, dim=2)
            chosen = logp.gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
            nll = -(chosen * (targets != NONE)).sum(1).mean() / n_target
            loss = nll + h["kl_factor"] * torch.nn.functional.kl_div(before, now, log_target=True,
                                                                     reduction="sum")
            loss = loss + h["v_weight_decay"] * delta.norm() / z0.norm() ** 2
            if loss < 0.05 or step == h["v_steps"] - 1:
                break
            loss.backward()
            adam.step()
            most = h["clamp"] * z0.norm()
            with torch.no_grad():
                if delta.norm() > most:
                    delta *= most / delta.norm()
        for hook in hooks:
            hook.remove()
        return step + 1, nll.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("editor")
    parser.add_argument("facts")
    parser.add_argument("n", type=int)
    args = parser.parse_args()
    search = Search(args.model, args.editor)
    with open(args.facts, encoding="utf-8") as file:
        facts = json.load(file)[:args.n]
    search.find(facts[0])
    wall, spent = time.monotonic(), time.process_time()
    found = [search.find(fact) for fact in facts]
    wall, spent = time.monotonic() - wall, time.process_time() - spent
    print(json.dumps({"facts": len(facts), "seconds": wall, "processor_seconds": spent,
                      "seconds_per_fact": wall / len(facts), "steps": sum(s for s, _ in found),
                      "nll": sum(nll for _, nll in found) / len(found)}))


if __name__ == "__main__":
    main()
