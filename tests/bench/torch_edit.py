"""The peer of the edit benchmark: the same equations written straightforwardly in PyTorch, as a
research script has them: padded batches of 32 facts, the model's own forward pass, autograd, the
hyper-network on slices, the normal equations solved by LU in fp32. No weight gradients are formed.
With --target-logits the head runs on target positions only, which scripts do not do.

    torch_edit.py DIR --facts N --threads T [--target-logits] [--out shifts.safetensors]

Prints one JSON line with seconds per stage, as `malmend edit --json` does."""
import argparse
import json
import os
import time

begin = time.perf_counter()
import torch  # noqa: E402 the whole process is timed
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

EPS = torch.finfo(torch.float32).eps


def load_model(directory):
    config = GPT2Config.from_pretrained(directory)
    config._attn_implementation = "sdpa"
    model = GPT2LMHeadModel.from_pretrained(directory, config=config, dtype=torch.float32)
    model.requires_grad_(False)
    return model.eval()


def tuples(texts, tokenizer):
    """Input ids and the label of each position for (prompt, target), longest first."""
    out = []
    for prompt, target in texts:
        prompt = tokenizer.encode(prompt).ids
        target = tokenizer.encode(" " + target).ids
        labels = [-100] * (len(prompt) - 1) + target
        out.append(((prompt + target)[:-1], labels))
    return sorted(out, key=lambda pair: -len(pair[0]))


def measure(model, modules, batches, target_logits):
    """Keys and value gradients of all target positions, per module."""
    keys, grads, rows = {}, {}, None
    caught = {name: ([], []) for name in modules}

    def forward_hook(name):
        def hook(module, inputs, output):
            keys[name] = inputs[0].detach()
            output.requires_grad_(True) if not output.requires_grad else None
            output.register_hook(lambda grad: grads.__setitem__(name, grad))
            return output
        return hook

    handles = [module.register_forward_hook(forward_hook(name))
               for name, module in modules.items()]
    seconds = [0.0, 0.0]
    for ids, mask, labels in batches:
        start = time.perf_counter()
        with torch.enable_grad():
            hidden = model.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
            rows = labels != -100
            at = rows if target_logits else torch.ones_like(rows)
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[at]), labels[at],
                                                     reduction="sum")
        middle = time.perf_counter()
        loss.backward()
        for name, (us, gs) in caught.items():
            us.append(keys[name][rows])
            gs.append(grads[name][rows])
        seconds[0] += middle - start
        seconds[1] += time.perf_counter() - middle
    for handle in handles:
        handle.remove()
    return {name: (torch.cat(us), torch.cat(gs)) for name, (us, gs) in caught.items()}, seconds


def pad(pairs):
    width = max(len(ids) for ids, _ in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask = torch.zeros(len(pairs), width, dtype=torch.long)
    labels = torch.full((len(pairs), width), -100)
    for i, (token_ids, token_labels) in enumerate(pairs):
        n = len(token_ids)
        ids[i, :n] = torch.tensor(token_ids)
        mask[i, :n] = 1
        labels[i, :n] = torch.tensor(token_labels)
    return ids, mask, labels


def network(state, shape, row, u, g, blocks, slice_rows=1024):
    """u_hat, g_hat of every row."""
    outs = []
    for i in range(0, len(u), slice_rows):
        h = torch.cat((u[i:i + slice_rows], g[i:i + slice_rows]), -1)
        h = (h - state[f"{shape}.normalizer.mean"]) / (state[f"{shape}.normalizer.std"] + EPS)
        for b in range(blocks):
            name = f"{shape}.blocks.{b}."
            z = h @ state[name + "A"] @ state[name + "B"] + state[name + "bias"]
            h = h + state[name + "scale.weight"][row] * z.clamp(0) + \
                state[name + "shift.weight"][row]
        outs.append(h)
    h = torch.cat(outs)
    return h[:, : u.shape[1]], h[:, u.shape[1]:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--facts", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    parser.add_argument("--target-logits", action="store_true",
                        help="run the head on target positions only")
    parser.add_argument("--solve64", action="store_true",
                        help="solve in fp64, to compare results with; slower")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    directory = args.directory
    tokenizer = Tokenizer.from_file(os.path.join(directory, "model", "tokenizer.json"))
    model = load_model(os.path.join(directory, "model"))
    path = os.path.join(directory, "editor.safetensors")
    state = load_file(path)
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    with open(os.path.join(directory, f"facts-{args.facts}.json"), encoding="utf-8") as file:
        facts = json.load(file)["facts"]
    names = json.loads(meta["modules"])
    modules = {name: model.get_submodule(name) for name in names}
    opened = time.perf_counter()

    pairs = tuples([(fact["prompt"], fact["target"]) for fact in facts], tokenizer)
    batches = [pad(pairs[i:i + 32]) for i in range(0, len(pairs), 32)]
    tokenized = time.perf_counter()
    rows, (forward, backward) = measure(model, modules, batches, args.target_logits)
    seconds = {"open": opened - begin, "tokenize": tokenized - opened, "forward": forward,
               "backward": backward, "hypernet": 0.0, "solve": 0.0, "apply": 0.0}
    shifts = {}
    for row, name in enumerate(names):
        u, g = rows[name]
        start = time.perf_counter()
        shape = f"({u.shape[1]}, {g.shape[1]})"
        u_hat, g_hat = network(state, shape, row, u, g, int(meta["blocks"]))
        d = -state[f"{shape}.lr.weight"][row] * (u * u_hat).sum(-1, keepdim=True) * g_hat
        middle = time.perf_counter()
        ridge = state[f"{shape}.lamda.weight"][row].exp() * torch.eye(u.shape[1])
        if args.solve64:
            u, d, ridge = u.double(), d.double(), ridge.double()
        shifts[name] = torch.linalg.solve(u.T @ u + ridge, u.T @ d).float()
        seconds["hypernet"] += middle - start
        seconds["solve"] += time.perf_counter() - middle
    start = time.perf_counter()
    for name, shift in shifts.items():
        modules[name].weight += shift
    seconds["apply"] = time.perf_counter() - start
    seconds["edit"] = time.perf_counter() - opened
    if args.out:
        save_file({name + ".weight": shift.contiguous() for name, shift in shifts.items()},
                  args.out)
    seconds["total"] = time.perf_counter() - begin
    print(json.dumps({"facts": len(facts), "tokens": len(next(iter(rows.values()))[0]),
                      "seconds": seconds}))


if __name__ == "__main__":
    main()
