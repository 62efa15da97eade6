"""The reference's training step as plain PyTorch: the shift is a differentiable function
of the editor's parameters, the edited model one of the shift, and autograd goes through the solve
and the network at once, the statistics held constant. Nothing of the analytic gradients that the C
code has stands here.

`microbatch_mean` is the reference's loss. `token_sum` is ours: value gradients of the sum over
target tokens, losses that are means over all label positions of the step, and lr in an Adam group
with a learning rate of its own. With `<shape>.preserve.weight` w in the editor, e^w K0'K0 joins the
solve, K0 the base model's keys at the positions `preserve.*` of the file names."""
import torch
import torch.nn.functional as F
from torch.func import functional_call

from models import IGNORED
from reference import EPS, Case, Pipeline, oriented, shape_name


class TrainingCase(Case):
    """A folder's inputs: model, tokenizer, facts, the editor before training. settings: the keys
    of expected.json that steer the training."""

    def __init__(self, folder, settings):
        super().__init__(folder, "data.json", "init.safetensors")
        self.settings = settings
        parts = ("ids", "start", "from")
        kept = {part: self.editor.pop(f"preserve.{part}", None) for part in parts}
        self.preserved = None
        if kept["ids"] is not None:
            ids, start, first = (kept[part].tolist() for part in parts)
            self.preserved = [(ids[a:b], k) for a, b, k in zip(start, start[1:], first)]


class Training(Pipeline):
    def __init__(self, case, dtype):
        super().__init__(case, dtype)
        self.editor = {name: value.clone() for name, value in self.editor.items()}
        self.parameters = {name: value.requires_grad_(True) for name, value in self.editor.items()
                           if ".normalizer." not in name}
        settings = case.settings
        groups = [{"params": list(self.parameters.values())}]
        if "lr_meta_lr" in settings:
            own = [p for name, p in self.parameters.items() if name.endswith(".lr.weight")]
            rest = [p for name, p in self.parameters.items() if not name.endswith(".lr.weight")]
            groups = [{"params": rest}, {"params": own, "lr": settings["lr_meta_lr"]}]
        adam = settings["adam"]
        self.adam = torch.optim.Adam(groups, settings["meta_lr"], (adam["beta1"], adam["beta2"]),
                                     adam["eps"], adam["weight_decay"])
        self.kept = {name: self.preserved_keys(name) for name in case.modules}

    @torch.no_grad()
    def preserved_keys(self, name):
        """K0 of a module, (rows, d_in); None: nothing is preserved."""
        if not self.case.preserved:
            return None
        rows = []
        for ids, first in self.case.preserved:
            hook = self.linears[name].register_forward_hook(
                lambda _, args, out, first=first: rows.append(args[0][0, first:]))
            self.model(input_ids=torch.tensor([ids]))
            hook.remove()
        return torch.cat(rows)

    def shift_of(self, name, u, g):
        """S as a differentiable function of the parameters."""
        u_hat, g_hat = self.transform(name, u, g)
        lr, lamda = self.steps_of(name)
        if self.case.method == "mend":
            return -lr * (u_hat.T @ g_hat)
        d = -lr * (u * u_hat).sum(-1, keepdim=True) * g_hat
        a = u.T @ u + lamda.exp() * torch.eye(u.shape[1], dtype=self.dtype)
        if self.kept[name] is not None:
            parameters, row = self.parameters_of(name)
            a = a + parameters["preserve.weight"][row, 0].exp() * (self.kept[name].T @ self.kept[name])
        return torch.linalg.solve(a, u.T @ d)

    # ---- losses on the edited weights ----

    def rows_of(self, group, what, weights):
        """Logits at the label positions of a micro-batch, and the labels."""
        inputs, labels = self.case.texts.pad([self.case.examples[i][what] for i in group])
        out = functional_call(self.model, weights, kwargs=inputs)
        at = labels != IGNORED
        return out.logits[at], labels[at]

    def rephrase_loss(self, group, weights):
        """Sum over the label positions, and their number."""
        logits, labels = self.rows_of(group, "rephrase", weights)
        if self.case.is_classifier:
            total = F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(self.dtype),
                                                       reduction="sum")
        else:
            total = F.nll_loss(logits.log_softmax(-1), labels, reduction="sum")
        return total, len(labels)

    def probe_loss(self, group, weights):
        """Sum over the label positions of KL(base || edited), and their number."""
        with torch.no_grad():
            base, labels = self.rows_of(group, "unrelated", {})
        now, _ = self.rows_of(group, "unrelated", weights)
        if self.case.is_classifier:
            p, q = (torch.cat((x.sigmoid(), 1 - x.sigmoid()), -1) for x in (base, now))
            return (p * ((p + EPS).log() - (q + EPS).log())).sum(), len(labels)
        base, now = base.log_softmax(-1), now.log_softmax(-1)
        return (base.exp() * (base - now)).sum(), len(labels)

    def loss(self, pairs):
        """What is differentiated, and what is reported, of (sum, count) of each micro-batch."""
        if self.case.meta["loss"] == "token_sum":
            mean = sum(total for total, _ in pairs) / sum(count for _, count in pairs)
            return mean, mean.item()
        means = [total / count for total, count in pairs]
        return sum(means), sum(m.item() for m in means) / len(means)

    # ---- a step ----

    def step(self, facts):
        groups = self.measure(facts)
        self.take_statistics(groups)
        rows = {name: [torch.cat([group["rows"][name][k] for group in groups]) for k in (0, 1)]
                for name in self.case.modules}
        shifts = {name: self.shift_of(name, *rows[name]) for name in self.case.modules}
        weights = {f"{name}.weight": lin.weight + oriented(lin, shifts[name])
                   for name, lin in self.linears.items()}
        gen, gen_loss = self.loss([self.rephrase_loss(group, weights)
                                   for group in self.micro_batches(facts, "rephrase")])
        loc, loc_loss = self.loss([self.probe_loss(group, weights)
                                   for group in self.micro_batches(facts, "unrelated")])
        self.adam.zero_grad()
        (gen + self.case.settings["loc_coef"] * loc).backward()
        grads = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                 for name, p in self.parameters.items()}
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(),
                                              self.case.settings["max_grad_norm"])
        self.adam.step()
        return {"report": {"gen_loss": gen_loss, "loc_loss": loc_loss, "grad_norm": norm.item()},
                "rows": {name: len(u) for name, (u, _) in rows.items()}, "grad": grads,
                "shift": {name: s.detach() for name, s in shifts.items()}, "state": self.state()}

    def state(self):
        """The editor as it is now, statistics included."""
        out = {name: p.detach().clone() for name, p in self.parameters.items()}
        for shape, norm in self.norms.items():
            prefix = shape_name(shape) + ".normalizer."
            out.update({prefix + part: value.clone() for part, value in norm.state().items()})
        return out

    def run(self):
        """A step for each whole group of n_edits facts, in order."""
        n, total = self.case.settings["n_edits"], len(self.case.facts)
        return [self.step(list(range(i, i + n))) for i in range(0, total - n + 1, n)]


def distance(a, b, origin=None):
    """||a - b||_F / ||b - origin||_F; 0 where nothing moved in either."""
    a, b = a.double(), b.double()
    far = (b - (0 if origin is None else origin.double())).norm().item()
    off = (a - b).norm().item()
    return off / far if far else off


def errors(steps, steps64, init):
    """How far one run of steps is from another: grad, state, shift per tensor, steps."""
    last = len(steps) - 1
    return {
        "grad": {name: distance(x, steps64[0]["grad"][name]) for name, x in steps[0]["grad"].items()},
        "state": {f"step{k}.{name}": distance(x, steps64[k]["state"][name], init[name])
                  for k in (0, last) for name, x in steps[k]["state"].items()},
        "shift": {name: distance(x, steps64[0]["shift"][name])
                  for name, x in steps[0]["shift"].items()},
        "steps": max(abs(a["report"][key] - b["report"][key]) / (1e-3 + abs(b["report"][key]))
                     for a, b in zip(steps, steps64) for key in a["report"])}
