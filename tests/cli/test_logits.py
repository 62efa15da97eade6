"""malmend logits: shapes, repeatability, and what does not depend on what."""
from harness import main
from lab import MODEL, Lab, each, read_floats, read_safetensors, tiny_model


class Logits(Lab):
    def logits(self, lines, name="out", model=MODEL):
        out = self.dir / name
        self.assertEqual(self.ok("logits", "--model", model, "--tokens",
                                 self.write("tokens", lines), "--out", out), "")
        return read_safetensors(out)[1]

    def test_shapes(self):
        got = self.logits("1 2 3\n\n  7\t8 \r\n0")
        self.assertEqual({name: t[:2] for name, t in got.items()},
                         {"logits.0": ("F32", [3, 1536]), "logits.1": ("F32", [2, 1536]),
                          "logits.2": ("F32", [1, 1536])})

    def test_repeats(self):
        self.assertEqual(self.logits("5 6 7\n8 9"), self.logits("5 6 7\n8 9", "again"))

    def test_causal(self):
        """A position knows nothing of what follows, nor of other sequences."""
        long, short = self.logits("5 6 7 800 9\n5 6 7").values()
        for a, b in zip(read_floats(long), read_floats(short)):
            self.assertAlmostEqual(a, b, delta=1e-4)

    def test_whole_context(self):
        got = self.logits(" ".join(["3"] * 64))["logits.0"]
        self.assertEqual(got[1], [64, 1536])
        self.assertTrue(all(abs(x) < 1e3 for x in read_floats(got)))


@each([
    ("word", "1 2\n3 four\n", ["tokens:2", "four"]),
    ("negative", "1 -2\n", ["tokens:1", "-2"]),
    ("glued", "1 2x\n", ["tokens:1", "x"]),
    ("huge", "99999999999\n", ["99999999999"]),
    ("not_in_the_vocabulary", "1\n2 257\n", ["tokens", "sequence 1", "257"]),
    ("too_long", " ".join(["1"] * 65), ["tokens", "sequence 0: 65"]),
    ("second_too_long", "1 2\n" + " ".join(["1"] * 65), ["tokens: sequence 1: 65"]),
    ("empty", "\n \n", ["tokens", "no token ids"]),
    ("binary", b"1 2 \0 3\n", ["tokens:1"]),
])
class Refused(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tiny = tiny_model(cls.dir / "tiny")

    def check(self, lines, says):
        self.write("out", "what was there")
        self.fails("logits", "--model", self.tiny, "--tokens", self.write("tokens", lines),
                   "--out", self.dir / "out", says=says)

    def test_missing(self):
        self.fails("logits", "--model", self.tiny, "--tokens", self.dir / "none", "--out",
                   self.dir / "out", says=[self.dir / "none"])


if __name__ == "__main__":
    main()
