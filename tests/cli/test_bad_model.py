"""Model directories that are not what they should be: exit 1, file and tensor or field named."""
import json
import shutil

from harness import main
from lab import (TINY, Lab, change_safetensors, each, floats, tiny_model, tiny_tokenizer)

W = "transformer.h.1.mlp.c_fc.weight"


def config(**changes):
    return "config.json", json.dumps({**TINY, **changes})


def tokenizer(**changes):
    return "tokenizer.json", json.dumps({**tiny_tokenizer(), **changes})


def bpe(**changes):
    return tokenizer(model={**tiny_tokenizer()["model"], **changes})


def without(name):
    return lambda metadata, tensors: tensors.pop(name)


def reshaped(*shape):
    return lambda metadata, tensors: tensors.update(
        {W: ("F32", list(shape), tensors[W][2])})


def retyped(dtype, size):
    return lambda metadata, tensors: tensors.update(
        {W: (dtype, [8, 32], bytes(256 * size))})


def filled(number):
    return lambda metadata, tensors: tensors.update({W: ("F32", [8, 32], floats([float(number)] * 256))})


def cut(n):
    return lambda data: data[:n]


def header(text):
    """Another header; the data stays."""
    def change(data):
        n = int.from_bytes(data[:8], "little")
        return len(text).to_bytes(8, "little") + text + data[8 + n:]
    return change


BIGGER = {"model": {**tiny_tokenizer()["model"],
                    "vocab": {**tiny_tokenizer()["model"]["vocab"], "ab": 257},
                    "merges": ["a b"]}}

# name, what becomes of the model (a file with its text, None to remove it, a change of the
# tensors, or a change of the checkpoint's bytes), what the line says
TABLE = [
    ("config_missing", ("config.json", None), ["config.json"]),
    ("config_not_json", ("config.json", "{"), ["config.json"]),
    ("config_no_object", ("config.json", "[]"), ["config.json", "object"]),
    ("config_twice", ("config.json", '{"n_layer": 1, "n_layer": 2}'), ["config.json", "n_layer"]),
    ("config_no_type", ("config.json", "{}"), ["config.json", "model_type"]),
    ("config_unsupported", config(model_type="mamba"), ["config.json", "mamba"]),
    ("config_text", config(n_embd="8"), ["config.json", "n_embd", "string"]),
    ("config_zero", config(n_layer=0), ["config.json", "n_layer"]),
    ("config_huge", config(vocab_size=10 ** 30), ["config.json"]),
    ("config_no_field", config(n_head=None), ["config.json", "n_head"]),
    ("config_heads", config(n_head=3), ["config.json", "n_embd", "n_head", "3"]),
    ("config_activation", config(activation_function="quick_gelu"), ["config.json", "quick_gelu"]),
    ("config_layers", config(n_layer=3), ["tensor", "h.2."]),
    ("weights_missing", ("model.safetensors", None), ["model.safetensors"]),
    ("weights_empty", ("model.safetensors", ""), ["model.safetensors"]),
    ("weights_text", ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
     ["model.safetensors"]),
    ("weights_header_cut", cut(100), ["model.safetensors"]),
    ("weights_cut", cut(-1), ["model.safetensors"]),
    ("weights_header_text", header(b"not json"), ["model.safetensors"]),
    ("weights_header_overlap", header(json.dumps(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
         "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()),
     ["model.safetensors"]),
    ("tensor_missing", without(W), ["missing", W]),
    ("tensor_shape", reshaped(32, 8), ["model.safetensors", W, "32"]),
    ("tensor_rank", reshaped(256), ["model.safetensors", W]),
    ("tensor_integer", retyped("I32", 4), ["model.safetensors", W, "I32"]),
    ("tensor_boolean", retyped("BOOL", 1), ["model.safetensors", W, "BOOL"]),
    ("tensor_nan", filled("nan"), ["model.safetensors", W, "NaN or infinite value, element 0"]),
    ("tokenizer_missing", ("tokenizer.json", None), ["tokenizer.json"]),
    ("tokenizer_not_json", ("tokenizer.json", "{"), ["tokenizer.json"]),
    ("tokenizer_no_model", tokenizer(model=None), ["tokenizer.json", "model"]),
    ("tokenizer_unigram", bpe(type="Nonsense"), ["tokenizer.json", "Nonsense"]),
    ("tokenizer_no_vocab", bpe(vocab=None), ["tokenizer.json"]),
    ("tokenizer_vocab_type", bpe(vocab={"a": "1"}), ["tokenizer.json"]),
    ("tokenizer_merge", bpe(merges=["a b c d"]), ["tokenizer.json", "merge"]),
    ("tokenizer_merge_unknown", bpe(merges=["a b"]), ["tokenizer.json", "merge"]),
    ("tokenizer_normalizer", tokenizer(normalizer={"type": "Odd"}), ["tokenizer.json", "Odd"]),
    ("tokenizer_bigger", tokenizer(**BIGGER), ["258", "257"]),
]


@each(TABLE)
class BadModel(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.good = tiny_model(cls.dir / "good")
        cls.tiny_editor = cls.editor(cls(), model=cls.good, modules=["h.1.mlp.c_proj"])
        cls.facts = cls.write(cls(), "facts.ndjson", '{"prompt": "a", "target": "b"}\n')

    def check(self, change, says):
        bad = self.dir / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(self.good, bad)
        weights = bad / "model.safetensors"
        if isinstance(change, tuple):
            name, text = change
            (bad / name).unlink() if text is None else (bad / name).write_text(text)
        elif change.__code__.co_argcount == 1:
            weights.write_bytes(change(weights.read_bytes()))
        else:
            change_safetensors(weights, change)
        line = self.fails("complete", "--model", bad, "--prompt", "x", says=[bad, *says])
        again = self.fails("edit", "--model", bad, "--editor", self.tiny_editor, "--facts",
                           self.facts, "--out", self.dir / "out", "--save-model",
                           self.dir / "saved", says=says)
        self.assertEqual(again, line)

    def test_no_directory(self):
        self.fails("complete", "--model", self.dir / "none", "--prompt", "x",
                   says=[self.dir / "none"])

    def test_not_finite(self):
        """Weights that lead to what is no number: nothing is generated from them."""
        bad = tiny_model(self.dir / "nan")
        change_safetensors(bad / "model.safetensors", filled("3e38"))
        self.fails("complete", "--model", bad, "--prompt", "x", says=["not a number"])

    def test_good(self):
        self.ok("complete", "--model", self.good, "--prompt", "x")
        self.ok("edit", "--model", self.good, "--editor", self.tiny_editor, "--facts", self.facts)


if __name__ == "__main__":
    main()
