"""Editor files that are not what they should be, or are for another model."""
import json

from harness import main
from lab import (TINY_MODULES, Lab, change_safetensors, each, floats, known, malmend,
                 read_safetensors, tiny_model, write_safetensors)

LR, MEAN, B = "(32, 8).lr.weight", "(32, 8).normalizer.mean", "(32, 8).blocks.0.B"


def tensor(name, values, shape=None):
    return lambda metadata, tensors: tensors.update(
        {name: ("F32", shape or [len(values)], floats(values))})


def meta(**changes):
    def change(metadata, tensors):
        metadata.update(changes)
        for key in [key for key, value in metadata.items() if value is None]:
            metadata.pop(key)
    return change


TABLE = [
    ("format_missing", meta(format=None), ["format"]),
    ("format_other", meta(format="malmend-editor-9"), ["format", "malmend-editor-9"]),
    ("method", meta(method="rome"), ["method", "rome"]),
    ("tokens", meta(tokens="some"), ["tokens", "some"]),
    ("rank", meta(rank="5"), ["blocks.0.A"]),
    ("rank_text", meta(rank="four"), ["rank", "four"]),
    ("blocks", meta(blocks="2"), ["blocks.1"]),
    ("fewer_blocks", meta(blocks="0"), ["blocks.0"]),
    ("modules_not_json", meta(modules="h.0"), ["modules"]),
    ("modules_empty", meta(modules="[]"), ["modules"]),
    ("modules_twice", meta(modules=json.dumps(TINY_MODULES[:1] * 2)), ["modules", "twice"]),
    ("modules_fewer", meta(modules=json.dumps(TINY_MODULES[:1])), [LR]),
    ("modules_unknown", meta(modules=json.dumps(["h.0.mlp.nope", TINY_MODULES[1]])),
     ["h.0.mlp.nope"]),
    ("modules_of_another_shape", meta(modules=json.dumps(["h.0.mlp.c_fc", TINY_MODULES[1]])),
     ["h.0.mlp.c_fc", "(8, 32)", "(32, 8)"]),
    ("fingerprint", meta(base_model="0" * 64), ["another base model", "0" * 64]),
    ("fingerprint_text", meta(base_model="mine"), ["base_model", "mine"]),
    ("tensor_missing", lambda metadata, tensors: tensors.pop(MEAN), [MEAN]),
    ("tensor_more", tensor("(32, 8).more", [1]), ["(32, 8).more"]),
    ("tensor_foreign", tensor("wte.weight", [1]), ["wte.weight"]),
    ("tensor_shape", tensor(MEAN, [0.0] * 39), [MEAN, "39", "40"]),
    ("tensor_nan", tensor(MEAN, [float("nan")] * 40), [MEAN, "nan"]),
    ("tensor_infinite", tensor(LR, [1, float("inf")], [2, 1]), [LR, "inf"]),
    ("untrained", tensor("(32, 8).normalizer.std", [0.0] * 40), ["the editor has no statistics: train it"]),
    ("std_negative", tensor("(32, 8).normalizer.std", [-1.0] * 40), ["normalizer.std"]),
    ("half", lambda metadata, tensors: tensors.update({MEAN: ("F16", [40], bytes(80))}),
     [MEAN, "F16"]),
    ("cut", lambda data: data[:-4], []),
    ("header_cut", lambda data: data[:90], []),
    ("empty", lambda data: b"", []),
    ("text", lambda data: b"# an editor\n" * 20, []),
    ("pickle", lambda data: b"\x80\x02}q\x00.", []),
]


@each(TABLE)
class BadEditor(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")
        cls.good = cls.editor(cls(), "good", "malmen", TINY_MODULES, cls.model, blocks=1)
        change_safetensors(cls.good, known)
        cls.facts = cls.write(cls(), "facts", '{"prompt": "a", "target": "b"}\n')

    def edit(self, editor, model=None):
        return ["edit", "--model", model or self.model, "--editor", editor, "--facts", self.facts,
                "--out", self.dir / "out"]

    def check(self, change, says):
        bad = self.dir / "bad.safetensors"
        if change.__code__.co_argcount == 1:
            bad.write_bytes(change(self.good.read_bytes()))
        else:
            metadata, tensors = read_safetensors(self.good)
            change(metadata, tensors)
            write_safetensors(bad, tensors, metadata)
        self.fails(*self.edit(bad), says=[bad, *says])
        done = malmend("serve", "--model", self.model, "--editor", bad, "--db", self.dir / "db",
                       "--listen", f"unix:{self.dir}/socket")
        self.assertEqual(done.returncode, 1)
        # What the headers show is said before the daemon starts, the rest in its log.
        problems = [line for line in done.stderr.decode().splitlines()
                    if line.startswith("malmend") or json.loads(line)["level"] == "error"]
        self.assertEqual(len(problems), 1)
        for text in [bad, *says]:
            self.assertIn(json.dumps(str(text))[1:-1] if problems[0][0] == "{" else str(text),
                          problems[0])
        self.assertFalse((self.dir / "socket").exists())

    def test_missing(self):
        self.fails(*self.edit(self.dir / "none"), says=[self.dir / "none"])

    def test_another_model(self):
        other = tiny_model(self.dir / "other", seed=2)
        self.fails(*self.edit(self.good, other), says=[self.good, "another base model"])

    def test_good(self):
        self.ok("init-editor", "--model", self.model, "--method", "malmen", "--blocks", "1",
                "--rank", "4", "--data", self.facts, "--out", self.dir / "searched")
        self.ok("edit", "--model", self.model, "--editor", self.dir / "searched", "--facts",
                self.facts)


if __name__ == "__main__":
    main()
