"""Makes what the benchmarks run on: a random checkpoint of GPT-2 small's shape (124 M parameters,
50,257 tokens) with a made-up byte-level tokenizer, a MALMEN editor of the paper's size, and invented
facts about as long as zsRE's (20 prompt tokens, 3 to 4 target tokens); for training, the same editor
with empty statistics and the reference's loss (init.safetensors), and facts with rephrases and probes
(train.json).

    make_gpt2.py DIR [--facts 256 1024] [--train 1280]

Needs numpy, safetensors and tokenizers."""
import argparse
import itertools
import json
import os
import random
import string

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer

LAYERS, CHANNELS, HEADS, CONTEXT, VOCAB = 12, 768, 12, 1024, 50257
RANK, BLOCKS = 1920, 2
MODULES = [f"transformer.h.{i}.mlp.c_proj" for i in range(6, 12)]


def byte_letters():
    """GPT-2's map from bytes to printable letters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain}
    letters.update({b: chr(256 + i) for i, b in enumerate(extra)})
    return [letters[b] for b in range(256)]


def make_tokenizer(path):
    letters = string.ascii_lowercase
    space = "\u0120"
    pairs = ["".join(p) for p in itertools.product(letters, repeat=2)]
    merges = [(p[0], p[1]) for p in pairs]
    merges += [(space, p) for p in pairs]
    merges += [(space + p, c) for p in pairs for c in letters]
    merges += [(p, c) for p in pairs for c in letters]
    merges += [(space + p + c, d) for p in pairs for c in letters for d in letters]
    merges = merges[: VOCAB - 1 - 256]
    vocab = {letter: i for i, letter in enumerate(byte_letters())}
    for a, b in merges:
        vocab[a + b] = len(vocab)
    vocab["<|endoftext|>"] = len(vocab)
    assert len(vocab) == VOCAB
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    end = {"id": VOCAB - 1, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
                   "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
                   "decoder": byte_level,
                   "model": {"type": "BPE", "dropout": None, "unk_token": None,
                             "continuing_subword_prefix": None, "end_of_word_suffix": None,
                             "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                             "merges": [f"{a} {b}" for a, b in merges]}}, file)


def make_model(directory, rng):
    def normal(*shape):
        return rng.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)

    c = CHANNELS
    tensors = {"transformer.wte.weight": normal(VOCAB, c),
               "transformer.wpe.weight": normal(CONTEXT, c)}
    for i in range(LAYERS):
        h = f"transformer.h.{i}."
        for name, d_in, d_out in (("attn.c_attn", c, 3 * c), ("attn.c_proj", c, c),
                                  ("mlp.c_fc", c, 4 * c), ("mlp.c_proj", 4 * c, c)):
            tensors[h + name + ".weight"] = normal(d_in, d_out)
            tensors[h + name + ".bias"] = normal(d_out)
        for name in ("ln_1", "ln_2"):
            tensors[h + name + ".weight"] = 1 + normal(c)
            tensors[h + name + ".bias"] = normal(c)
    tensors["transformer.ln_f.weight"] = 1 + normal(c)
    tensors["transformer.ln_f.bias"] = normal(c)
    save_file(tensors, os.path.join(directory, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": LAYERS,
                   "n_embd": c, "n_head": HEADS, "n_positions": CONTEXT, "n_inner": None,
                   "vocab_size": VOCAB, "activation_function": "gelu_new",
                   "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
                   "eos_token_id": VOCAB - 1, "torch_dtype": "float32"}, file)


def make_editor(path, rng, loss="token_sum", trained_rows=10000):
    """A network that is not the identity, so that nothing can be skipped. trained_rows 0: its
    statistics are empty, as before training."""
    d_in, d_out, size = 4 * CHANNELS, CHANNELS, 5 * CHANNELS
    shape, n = f"({d_in}, {d_out})", len(MODULES)

    def normal(*dims, scale):
        return rng.standard_normal(dims, dtype=numpy.float32) * numpy.float32(scale)

    ones = numpy.ones(size, numpy.float32)
    known = ones * (trained_rows > 0)
    tensors = {f"{shape}.normalizer.n": numpy.full(1, trained_rows, numpy.float32),
               f"{shape}.normalizer.mean": 0 * ones,
               f"{shape}.normalizer.var": (trained_rows - 1) * known,
               f"{shape}.normalizer.std": known,
               f"{shape}.lr.weight": numpy.full((n, 1), 1e-3, numpy.float32),
               f"{shape}.lamda.weight": numpy.zeros((n, 1), numpy.float32)}
    for i in range(BLOCKS):
        block = f"{shape}.blocks.{i}."
        tensors[block + "A"] = normal(size, RANK, scale=1)
        tensors[block + "B"] = normal(RANK, size, scale=1e-4)
        tensors[block + "bias"] = normal(size, scale=1e-2)
        tensors[block + "scale.weight"] = numpy.ones((n, size), numpy.float32)
        tensors[block + "shift.weight"] = normal(n, size, scale=1e-2)
    save_file(tensors, path, {"format": "malmend-editor-1", "method": "malmen",
                              "modules": json.dumps(MODULES), "tokens": "answer",
                              "loss": loss, "micro_batch": "32", "rank": str(RANK),
                              "blocks": str(BLOCKS)})


def make_facts(path, n, tokenizer, rng, measured=False):
    """measured: each with a rephrase and an unrelated probe that has a target, for training."""
    def words(tokens):
        text = ""
        while len(tokenizer.encode(text).ids) < tokens:
            text += " " + "".join(rng.choice(string.ascii_lowercase) for _ in range(3))
        return text.strip()

    def fact():
        return {"prompt": words(rng.randint(14, 26)) + "?", "target": words(rng.randint(3, 4))}

    facts = [fact() for _ in range(n)]
    for one in facts if measured else ():
        one["rephrases"] = [words(rng.randint(14, 26)) + "?"]
        one["unrelated"] = [fact()]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"facts": facts}, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--facts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--train", type=int, default=1280)
    args = parser.parse_args()
    model = os.path.join(args.directory, "model")
    os.makedirs(model, exist_ok=True)
    rng = numpy.random.default_rng(7)
    make_tokenizer(os.path.join(model, "tokenizer.json"))
    make_model(model, rng)
    make_editor(os.path.join(args.directory, "editor.safetensors"), rng)
    make_editor(os.path.join(args.directory, "init.safetensors"), rng, "microbatch_mean", 0)
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    for n in args.facts:
        make_facts(os.path.join(args.directory, f"facts-{n}.json"), n, tokenizer,
                   random.Random(n))
    make_facts(os.path.join(args.directory, "train.json"), args.train, tokenizer,
               random.Random(args.train), measured=True)


main()
