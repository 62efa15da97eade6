"""The peer of the training benchmark: one step of meta-learning written straightforwardly in PyTorch
as the reference's repository does it: padded micro-batches of 32 facts, the model's own forward pass
with all logits, gradients of the edit modules' weights by autograd (in the first pass, too, where
nobody reads them), the normal equations solved twice by LU in fp32, the hyper-network in slices,
clipping, Adam. Keys and gradients stay in memory, where the reference writes them to files; edited
weights are swapped in, where it adds and subtracts them. microbatch_mean is the only loss.

    torch_train.py DIR --n-edits N --steps K --threads T

Prints one JSON line: steps, seconds_per_step (median without the first step), gen_loss, loc_loss and
grad_norm of each step, and the medians of a step's parts in seconds."""
import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

from torch_edit import EPS, load_model, network, pad, tuples

MICRO_BATCH = 32


def load_facts(path, tokenizer, n_edits, steps):
    """For each step the micro-batches of edits, rephrases and unrelated probes."""
    with open(path, encoding="utf-8") as file:
        facts = json.load(file)["facts"]
    if len(facts) < n_edits * steps:
        raise SystemExit(f"{path}: {len(facts)} facts, {n_edits * steps} needed")

    def batches(texts):
        pairs = tuples(texts, tokenizer)
        return [pad(pairs[i:i + MICRO_BATCH]) for i in range(0, len(pairs), MICRO_BATCH)]

    for k in range(steps):
        group = facts[k * n_edits:(k + 1) * n_edits]
        probes = [fact["unrelated"][0] for fact in group]
        yield (batches([(fact["prompt"], fact["target"]) for fact in group]),
               batches([(fact["rephrases"][0], fact["target"]) for fact in group]),
               batches([(probe["prompt"], probe["target"]) for probe in probes]))


class Trainer:
    def __init__(self, directory, meta_lr, editor_batch, loc_coef):
        self.model = load_model(os.path.join(directory, "model"))
        path = os.path.join(directory, "init.safetensors")
        self.state = load_file(path)
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        self.names, self.blocks = json.loads(meta["modules"]), int(meta["blocks"])
        self.modules = {name: self.model.get_submodule(name) for name in self.names}
        for module in self.modules.values():
            module.weight.requires_grad_(True)
        self.base = {name: module.weight.detach() for name, module in self.modules.items()}
        self.shape = str(tuple(next(iter(self.base.values())).shape))
        self.parameters = [value.requires_grad_(True) for name, value in self.state.items()
                           if ".normalizer." not in name]
        self.adam = torch.optim.Adam(self.parameters, meta_lr)
        self.editor_batch, self.loc_coef = editor_batch, loc_coef

    def logits(self, batch):
        """Those at the label positions, out of all of them; and the labels."""
        ids, mask, labels = batch
        at = labels != -100
        return self.model(input_ids=ids, attention_mask=mask).logits[at], labels[at]

    def take_statistics(self, x):
        n, mean, var, _ = (self.state[f"{self.shape}.normalizer.{part}"]
                           for part in ("n", "mean", "var", "std"))
        after, delta = n + len(x), x.mean(0) - mean
        mean = mean + len(x) * delta / after
        var = var + len(x) * x.var(0) + n * len(x) * delta ** 2 / after
        std = (var / (after - 1 + EPS)).sqrt()
        for part, value in (("n", after), ("mean", mean), ("var", var), ("std", std)):
            self.state[f"{self.shape}.normalizer.{part}"] = value

    def cache(self, batches):
        """U and G of each module; the statistics go on."""
        caught = {name: ([], []) for name in self.names}
        for batch in batches:
            at, handles = batch[2] != -100, []
            for name, module in self.modules.items():
                us, gs = caught[name]
                handles.append(module.register_forward_hook(
                    lambda _, args, out, us=us: us.append(args[0].detach()[at])))
                handles.append(module.register_full_backward_hook(
                    lambda _, into, out, gs=gs: gs.append(out[0][at])))
            F.cross_entropy(*self.logits(batch)).backward()
            for handle in handles:
                handle.remove()
            for us, gs in caught.values():
                self.take_statistics(torch.cat((us[-1], gs[-1]), -1))
        self.model.zero_grad()
        return {name: (torch.cat(us), torch.cat(gs)) for name, (us, gs) in caught.items()}

    def differences(self, row, u, g):
        u_hat, g_hat = network(self.state, self.shape, row, u, g, self.blocks)
        return -self.state[f"{self.shape}.lr.weight"][row] * (u * u_hat).sum(-1, keepdim=True) * g_hat

    def slices(self, *tensors):
        for i in range(0, len(tensors[0]), self.editor_batch):
            yield [x[i:i + self.editor_batch] for x in tensors]

    def system(self, row, u):
        lamda = self.state[f"{self.shape}.lamda.weight"][row].detach()
        return u.T @ u + lamda.exp() * torch.eye(u.shape[1])

    @torch.no_grad()
    def shifts(self, rows):
        out = {}
        for row, (name, (u, g)) in enumerate(rows.items()):
            d = torch.cat([self.differences(row, *part) for part in self.slices(u, g)])
            out[name] = torch.linalg.solve(self.system(row, u), u.T @ d)
        return out

    def use(self, weights):
        for name, module in self.modules.items():
            module.weight.data = weights[name]

    def losses(self, rephrases, probes, edited):
        """Means over micro-batches; their sums' gradients are left at the weights."""
        gen, loc = [], []
        self.use(edited)
        for batch in rephrases:
            loss = F.cross_entropy(*self.logits(batch))
            loss.backward()
            gen.append(loss.item())
        for batch in probes:
            self.use(self.base)
            with torch.no_grad():
                before = self.logits(batch)[0].log_softmax(-1)
            self.use(edited)
            now = self.logits(batch)[0].log_softmax(-1)
            loss = F.kl_div(now, before, reduction="batchmean", log_target=True)
            (self.loc_coef * loss).backward()
            loc.append(loss.item())
        self.use(self.base)
        return statistics.mean(gen), statistics.mean(loc)

    def update(self, rows, shifts):
        """The norm before clipping."""
        self.adam.zero_grad()
        for row, (name, (u, g)) in enumerate(rows.items()):
            lamda = self.state[f"{self.shape}.lamda.weight"][row]
            with torch.no_grad():
                x = torch.linalg.solve(self.system(row, u), self.modules[name].weight.grad)
                slope = -lamda.exp() * (x * shifts[name]).sum()
            (slope * lamda).sum().backward()
            for part_u, part_g, wanted in self.slices(u, g, u @ x):
                (wanted * self.differences(row, part_u, part_g)).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0).item()
        self.adam.step()
        return norm

    def step(self, edits, rephrases, probes):
        clock = [time.perf_counter()]
        rows = self.cache(edits)
        clock.append(time.perf_counter())
        shifts = self.shifts(rows)
        edited = {name: self.base[name] + shift for name, shift in shifts.items()}
        clock.append(time.perf_counter())
        gen, loc = self.losses(rephrases, probes, edited)
        clock.append(time.perf_counter())
        norm = self.update(rows, shifts)
        clock.append(time.perf_counter())
        return {"gen_loss": gen, "loc_loss": loc, "grad_norm": norm, "seconds": clock[-1] - clock[0],
                "parts": [b - a for a, b in zip(clock, clock[1:])]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--n-edits", type=int, required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--meta-lr", type=float, default=1e-5)
    parser.add_argument("--loc-coef", type=float, default=1.0)
    parser.add_argument("--editor-batch", type=int, default=1024)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(os.path.join(args.directory, "model", "tokenizer.json"))
    trainer = Trainer(args.directory, args.meta_lr, args.editor_batch, args.loc_coef)
    path = os.path.join(args.directory, "train.json")
    steps = [trainer.step(*batches)
             for batches in load_facts(path, tokenizer, args.n_edits, args.steps)]
    timed = steps[1:] or steps
    parts = zip(*(step["parts"] for step in timed))
    print(json.dumps({
        "steps": len(steps), "seconds_per_step": statistics.median(step["seconds"] for step in timed),
        **{key: [step[key] for step in steps] for key in ("gen_loss", "loc_loss", "grad_norm")},
        "parts": dict(zip(("cache", "shift", "losses", "update"), map(statistics.median, parts)))}))


if __name__ == "__main__":
    main()
