#!/usr/bin/env python3
"""Measure the demo model as saved: the files, read by transformers' GPT2LMHeadModel.

Token accuracy is teacher-forced over the answer's tokens.  Greedy exact match
generates freely and compares the decoded text up to the full stop; 'stops' adds
that full stop and <|endoftext|> follow at once.  With --facts, the fact files
are checked too: their probes must be what the model answers, their targets not.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

import make_world

HERE = Path(__file__).resolve().parent


@torch.no_grad()
def measure(model, tokenizer, pairs, size=500):
    """Per pair: right answer tokens, answer tokens, exact, stops."""
    eos = tokenizer.token_to_id("<|endoftext|>")
    full_stop = tokenizer.encode(".").ids[0]
    by_length = {}
    for index, (prompt, answer) in enumerate(pairs):
        ids = tokenizer.encode(prompt).ids
        target = tokenizer.encode(f"{prompt} {answer}").ids
        assert target[:len(ids)] == ids, "the prompt's tokens change when an answer follows"
        by_length.setdefault((len(ids), len(target)), []).append((index, target))
    out = [None] * len(pairs)
    # Equal lengths only, so that nothing is padded and nothing needs a mask.
    for (start, end), group in by_length.items():
        for i in range(0, len(group), size):
            part = group[i:i + size]
            target = torch.tensor([ids for _, ids in part])
            forced = model(input_ids=target[:, :-1]).logits[:, start - 1:].argmax(-1)
            right = (forced == target[:, start:]).sum(1).tolist()
            ids = target[:, :start]
            for _ in range(end - start + 2):
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
            for row, (index, _) in enumerate(part):
                said = ids[row, start:].tolist()
                text = tokenizer.decode(said[:said.index(full_stop)]
                                        if full_stop in said else said)
                exact = text == " " + pairs[index][1]
                stops = exact and said[end - start:] == [full_stop, eos]
                out[index] = (right[row], end - start, exact, stops)
    return out


def report(name, result):
    rows = len(result)
    print(f"{name:34} {rows:6} prompts  token accuracy "
          f"{sum(r[0] for r in result) / sum(r[1] for r in result):.4f}  greedy exact "
          f"{sum(r[2] for r in result) / rows:.4f}  stops {sum(r[3] for r in result) / rows:.4f}",
          flush=True)


def load_facts(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)["facts"]
    return [json.loads(line) for line in text.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--facts", type=Path, help="also check the fact files in this folder")
    parser.add_argument("--relations", action="store_true", help="also one line a relation")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, loading = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32,
                                                     output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    model.eval()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    world = make_world.build_world()
    began = time.monotonic()

    for name, held_out in (("phrasings trained on", False), ("phrasings left out", True)):
        report(name, measure(model, tokenizer, make_world.rows(world, held_out)))
    if args.relations:
        for relation in world["relations"]:
            only = dict(world, facts=[f for f in world["facts"] if f["relation"] == relation])
            report("  left out, " + relation, measure(model, tokenizer,
                                                     make_world.rows(only, True)))
    if args.facts:
        for path in sorted(args.facts.iterdir()):
            facts = load_facts(path)
            report(path.name + ": targets (before)",
                   measure(model, tokenizer, [(f["prompt"], f["target"]) for f in facts]))
            report(path.name + ": probes",
                   measure(model, tokenizer, [(u["prompt"], u["target"])
                                              for f in facts for u in f["unrelated"]]))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
