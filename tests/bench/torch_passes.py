"""The peer of bench_passes: the same passes straightforwardly in PyTorch, with transformers' models:
padded micro-batches of 32 facts sorted by length, as the reference cuts them; cross-entropy at the target
positions; backward to the outputs of the edit modules, whose inputs and gradients are kept. Parameters are
frozen, so that nothing is differentiated below the lowest edit module and no weight gets a gradient.
In two variants: "full" calls the model as it is, so that logits are computed everywhere; "targets" runs
the head on target positions only, which scripts do not do.

    torch_passes.py MODEL EXAMPLES --dtype {float32,bfloat16} --threads T --runs R

EXAMPLES is of bench_passes: token ids and edit modules. Prints one JSON line with seconds per run of each
variant after a first one, losses and Frobenius norms."""
import argparse
import json
import math
import os
import time

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from make_model import FactChecker

MICRO_BATCH, NONE = 32, -100


def load_model(directory, dtype):
    config = AutoConfig.from_pretrained(directory)
    if config.model_type == "bert":
        model = FactChecker(config)
        model.load_state_dict(load_file(os.path.join(directory, "model.safetensors")))
        model.to(dtype)
    else:
        family = AutoModelForSeq2SeqLM if config.model_type == "t5" else AutoModelForCausalLM
        model = family.from_pretrained(directory, dtype=dtype)
    return model.requires_grad_(False).eval()


def pad(rows, fill):
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def make_batch(kind, examples, start):
    """The model's inputs, and the label of each position it answers at."""
    ids, target = [e["ids"] for e in examples], [e["target"] for e in examples]
    inputs = {"input_ids": pad(ids, 0), "attention_mask": pad([[1] * len(row) for row in ids], 0)}
    if kind == "bert":
        return inputs, torch.tensor(target)
    if kind == "t5":
        inputs["decoder_input_ids"] = pad([[start] + row[:-1] for row in target], 0)
        return inputs, pad(target, NONE)
    return inputs, pad([[NONE] * e["from"] + e["target"] for e in examples], NONE)


class Measurement:
    """The keys and value gradients of all edit rows."""

    def __init__(self, model, names):
        self.model, self.kind = model, model.config.model_type
        self.keys, self.grads = ({name: [] for name in names} for _ in range(2))
        self.rows = {}
        for name in names:
            model.get_submodule(name).register_forward_hook(self.hook(name))

    def hook(self, name):
        side = "source" if name.startswith("encoder.") else "answer"

        def on_forward(module, inputs, output):
            rows = self.rows[side]
            self.keys[name].append(inputs[0].detach()[rows])
            if not output.requires_grad:
                output.requires_grad_(True)
            output.register_hook(lambda grad: self.grads[name].append(grad[rows]))
            return output
        return on_forward

    def logits_at(self, inputs, at):
        """The head on the positions `at` only."""
        if self.kind == "t5":
            source = self.model.encoder(input_ids=inputs["input_ids"],
                                        attention_mask=inputs["attention_mask"]).last_hidden_state
            hidden = self.model.decoder(input_ids=inputs["decoder_input_ids"], use_cache=False,
                                        encoder_hidden_states=source,
                                        encoder_attention_mask=inputs["attention_mask"])
        else:
            hidden = self.model.base_model(**inputs, use_cache=False)
        return self.model.get_output_embeddings()(hidden.last_hidden_state[at])

    def loss(self, inputs, labels, targets_only):
        if self.kind == "bert":
            first = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
            first[:, 0] = True
            self.rows = {"answer": first}
            logits = self.model(**inputs)
            return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float(),
                                                                        reduction="sum")
        at = labels != NONE
        self.rows = {"answer": at, "source": inputs["attention_mask"] != 0}
        if targets_only:
            logits, labels = self.logits_at(inputs, at), labels[at]
        else:
            logits = self.model(**inputs, use_cache=False).logits.flatten(0, 1)
            labels = labels.flatten()
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum",
                                                 ignore_index=NONE)

    def run(self, batches, targets_only):
        """Its seconds, forward and backward, and the loss."""
        for rows in (*self.keys.values(), *self.grads.values()):
            rows.clear()
        forward = backward = total = 0.0
        for inputs, labels in batches:
            start = time.perf_counter()
            loss = self.loss(inputs, labels, targets_only)
            middle = time.perf_counter()
            loss.backward()
            forward += middle - start
            backward += time.perf_counter() - middle
            total += loss.item()
        return forward, backward, total

    @staticmethod
    def frobenius(rows):
        return math.sqrt(sum(float((part.double() ** 2).sum()) for parts in rows.values()
                             for part in parts))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("examples")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with open(args.examples, encoding="utf-8") as file:
        given = json.load(file)
    model = load_model(args.model, getattr(torch, args.dtype))
    kind = model.config.model_type
    examples = sorted(given["examples"], key=lambda e: -len(e["ids"]))
    start = getattr(model.config, "decoder_start_token_id", None)
    batches = [make_batch(kind, examples[i:i + MICRO_BATCH], start)
               for i in range(0, len(examples), MICRO_BATCH)]
    measurement = Measurement(model, given["modules"])
    n_targets = sum(len(e["target"]) for e in examples)
    variants = {"full": [], "targets": []}
    if kind == "bert":
        del variants["targets"]
    losses = {}
    for run in range(args.runs + 1):
        for name, timed in variants.items():
            forward, backward, loss = measurement.run(batches, name == "targets")
            losses[name] = loss / n_targets
            if run > 0:
                timed.append({"forward": forward, "backward": backward})
    print(json.dumps({"dtype": args.dtype, "attention": getattr(model.config, "_attn_implementation", ""),
                      "padded_tokens": sum(inputs["input_ids"].numel() for inputs, _ in batches),
                      "losses": losses, "keys": measurement.frobenius(measurement.keys),
                      "gradients": measurement.frobenius(measurement.grads), "variants": variants}))


if __name__ == "__main__":
    main()
