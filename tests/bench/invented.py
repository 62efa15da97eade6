"""What needs no data from elsewhere: a made-up byte-level tokenizer of GPT-2's size, a MALMEN editor of
the paper's size, and invented facts about as long as zsRE's (20 prompt tokens, 3 to 4 target tokens)."""
import itertools
import json
import random
import string

import numpy
from safetensors.numpy import save_file

VOCAB, RANK, BLOCKS = 50257, 1920, 2


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


def make_editor(path, modules, d_in, d_out, rng, loss="token_sum", trained_rows=10000):
    """A network that is not the identity, so that nothing can be skipped. trained_rows 0: its
    statistics are empty, as before training."""
    size, shape, n = d_in + d_out, f"({d_in}, {d_out})", len(modules)

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
                              "modules": json.dumps(modules), "tokens": "answer",
                              "loss": loss, "micro_batch": "32", "rank": str(RANK),
                              "blocks": str(BLOCKS)})


def make_facts(n, tokenizer, measured=False):
    """measured: each with a rephrase and an unrelated probe that has a target, for training."""
    rng = random.Random(n)

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
    return facts
