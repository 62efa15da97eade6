"""What the tests of the commands share: running malmend, the demo model, and files made up here."""
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

import harness

MALMEND = os.environ["MALMEND_BIN"]
DEMO = Path(os.environ["MAL_SOURCE_ROOT"]) / "tests/demo"
MODEL = DEMO / "model"
MODULES = [f"transformer.h.{i}.mlp.c_proj" for i in (1, 2, 3)]
STEP = "0.001953125"  # what the search finds for UltraEdit on the demo model


def demo_facts(name="demo-edit.json", n=None):
    text = (DEMO / "facts" / name).read_text()
    facts = json.loads(text)["facts"] if name.endswith(".json") else map(json.loads, text.splitlines())
    return list(facts)[:n]


def malmend(*args, stdin=b"", env=None):
    return subprocess.run([MALMEND, *map(str, args)], input=stdin, capture_output=True,
                          timeout=4 * harness.PATIENCE, env={**os.environ, **(env or {})})


def each(table):
    """Makes a test of every entry of a table: test_NAME calls check(*arguments)."""
    def decorate(case):
        for name, *arguments in table:
            def test(self, arguments=arguments):
                self.check(*arguments)
            setattr(case, "test_" + name, test)
        return case
    return decorate


class Lab(unittest.TestCase):
    """A directory for the class, and what malmend must say in it."""

    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory(prefix="malmend-")
        cls.dir = Path(cls.own.name)

    @classmethod
    def tearDownClass(cls):
        cls.own.cleanup()

    def ok(self, *args, stdin=b""):
        """What it printed."""
        done = malmend(*args, stdin=stdin)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def json(self, *args, stdin=b""):
        return json.loads(self.ok(*args, "--json", stdin=stdin))

    def fails(self, *args, says=(), stdin=b""):
        """Exit 1, one line (after any progress) that says all this, every file as it was."""
        before = snapshot(self.dir)
        done = malmend(*args, stdin=stdin)
        self.assertEqual(done.returncode, 1, done.stderr)
        lines = [line for line in done.stderr.decode().splitlines()
                 if not re.match(r"[a-z ]+: \d+ %, \d+ of \d+, ", line)]
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith("malmend: "), lines)
        for text in says:
            self.assertIn(str(text), lines[0])
        self.assertEqual(done.stdout, b"")
        self.assertEqual(snapshot(self.dir), before)
        return lines[0]

    def misused(self, *args, says=(), env=None):
        """Exit 2, a line that says all this and where to read on, every file as it was."""
        before = snapshot(self.dir)
        done = malmend(*args, env=env)
        self.assertEqual(done.returncode, 2, (args, done.stderr))
        lines = done.stderr.decode(errors="replace").splitlines()
        self.assertEqual(lines[1:], [f"See 'malmend {args[0]} --help'."])
        self.assertTrue(lines[0].startswith(f"malmend {args[0]}: "), lines)
        for text in says:
            self.assertIn(str(text), lines[0])
        self.assertEqual(done.stdout, b"")
        self.assertEqual(snapshot(self.dir), before)
        return lines[0]

    def editor(self, name="editor", method="ultraedit", modules=MODULES, model=MODEL, lr=STEP,
               blocks=0):
        path = self.dir / f"{name}.safetensors"
        network = [] if method == "ultraedit" else ["--blocks", blocks, "--rank", 4]
        self.ok("init-editor", "--model", model, "--method", method, "--modules",
                ",".join(modules), "--lr", lr, *network, "--out", path)
        return path

    def write(self, name, data):
        path = self.dir / name
        if not isinstance(data, (str, bytes)):
            data = json.dumps(data)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path


def snapshot(directory):
    """What every file holds, but for what readers of a database leave beside it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
            if not path.name.endswith(("-shm", ".lock"))
            and not (path.name.endswith("-wal") and path.stat().st_size == 0)}


# ---- Safetensors ----

def read_safetensors(path):
    """Metadata, and {name: (dtype, shape, bytes)}."""
    data = Path(path).read_bytes()
    n, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[8 + n + begin:8 + n + end])
    return metadata, tensors


def write_safetensors(path, tensors, metadata=None):
    header, body = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def change_safetensors(path, change):
    """change(metadata, tensors) changes them in place."""
    metadata, tensors = read_safetensors(path)
    change(metadata, tensors)
    write_safetensors(path, tensors, metadata)


def known(metadata, tensors):
    """A change to an untrained editor: statistics, without which it cannot edit."""
    for name, (_, shape, _) in tensors.items():
        if ".normalizer." in name:
            value = {"n": 99.0, "mean": 0.0, "var": 98.0, "std": 1.0}[name.split(".")[-1]]
            tensors[name] = "F32", shape, floats([value] * shape[0])


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def read_floats(tensor):
    return struct.unpack(f"<{len(tensor[2]) // 4}f", tensor[2])


# ---- A model of a few hundred numbers ----

TINY = {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "n_positions": 64,
        "vocab_size": 257, "eos_token_id": 256}
TINY_MODULES = ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]


def tiny_tensors(seed, layers=TINY["n_layer"], positions=TINY["n_positions"]):
    rng, c = random.Random(seed), TINY["n_embd"]

    def tensor(*shape, value=None):
        n = 1
        for d in shape:
            n *= d
        data = [rng.gauss(0, 0.3) if value is None else value for _ in range(n)]
        return "F32", list(shape), floats(data)

    tensors = {"transformer.wte.weight": tensor(TINY["vocab_size"], c),
               "transformer.wpe.weight": tensor(positions, c)}
    norms = ["ln_f"]
    for i in range(layers):
        norms += [f"h.{i}.ln_1", f"h.{i}.ln_2"]
        for name, rows, columns in (("attn.c_attn", c, 3 * c), ("attn.c_proj", c, c),
                                    ("mlp.c_fc", c, 4 * c), ("mlp.c_proj", 4 * c, c)):
            tensors[f"transformer.h.{i}.{name}.weight"] = tensor(rows, columns)
            tensors[f"transformer.h.{i}.{name}.bias"] = tensor(columns)
    for name in norms:
        tensors[f"transformer.{name}.weight"] = tensor(c, value=1.0)
        tensors[f"transformer.{name}.bias"] = tensor(c, value=0.0)
    return tensors


def byte_letters():
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b if b in plain else next(others)) for b in range(256)]


def tiny_tokenizer():
    """A token for each byte, and one that ends a text."""
    vocab = {letter: i for i, letter in enumerate(byte_letters())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    end = {"id": 256, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
    return {"version": "1.0", "added_tokens": [end], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "vocab": {**vocab, "<|endoftext|>": 256}, "merges": []}}


def tiny_model(path, seed=1, layers=TINY["n_layer"], positions=TINY["n_positions"]):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**TINY, "n_layer": layers, "n_positions": positions}))
    (path / "tokenizer.json").write_text(json.dumps(tiny_tokenizer()))
    write_safetensors(path / "model.safetensors", tiny_tensors(seed, layers, positions))
    return path


def copy_model(source, path):
    shutil.copytree(source, path)
    return path
