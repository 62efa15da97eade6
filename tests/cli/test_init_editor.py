"""malmend init-editor: editors that need no training, and untrained ones."""
import math

from harness import main
from lab import DEMO, MODEL, MODULES, Lab, malmend, read_floats, read_safetensors

TRAIN = DEMO / "facts/train.ndjson"
LIST = ",".join(MODULES)


class InitEditor(Lab):
    def make(self, name, method, *args):
        out = self.dir / name
        report = self.json("init-editor", "--model", MODEL, "--method", method, "--modules", LIST,
                           "--out", out, *args)
        self.assertEqual((report["method"], report["modules"]), (method, MODULES))
        return out, report

    def searched(self, report):
        """The step chosen is the best of those tried, of equals the smallest, and it teaches."""
        steps = report["search"]
        best = max(steps, key=lambda step: (step["score"], -step["lr"]))
        self.assertAlmostEqual(report["lr"] / best["lr"], 1, 6)  # fp32 in the file
        self.assertTrue((2 * math.log2(best["lr"])).is_integer(), "a half power of two")
        self.assertEqual(len({step["lr"] for step in steps}), len(steps))
        shares = best["teacher_forced"]
        self.assertAlmostEqual(best["score"], sum(shares.values()))
        self.assertGreater(shares["es"], 0.7)
        self.assertGreater(shares["ls"], 0.7)

    def test_ultraedit_searched(self):
        out, report = self.make("u", "ultraedit", "--data", TRAIN, "--n-edits", "16")
        self.searched(report)
        metadata, tensors = read_safetensors(out)
        self.assertEqual(metadata["method"], "ultraedit")
        self.assertEqual(float(metadata["lr"]), report["lr"])
        self.assertEqual(metadata["n_edits"], "16")
        self.assertEqual(read_floats(tensors["(768, 192).normalizer.n"]), (0.0,),
                         "its statistics begin when it serves")
        again, _ = self.make("u2", "ultraedit", "--data", TRAIN, "--n-edits", "16")
        self.assertEqual(again.read_bytes(), out.read_bytes())

    def test_malmen_searched(self):
        out, report = self.make("m", "malmen", "--blocks", "0", "--data", TRAIN, "--n-edits", "16")
        self.searched(report)
        _, tensors = read_safetensors(out)
        self.assertEqual(read_floats(tensors["(768, 192).lr.weight"]), (report["lr"],) * 3)
        self.assertEqual(read_floats(tensors["(768, 192).lamda.weight"]), (0.0,) * 3)
        n, = read_floats(tensors["(768, 192).normalizer.n"])
        self.assertGreaterEqual(n, 3 * 16)
        self.assertEqual(n % 3, 0, "a row for each edit token and module")
        self.assertGreater(min(read_floats(tensors["(768, 192).normalizer.std"])), 0)

    def test_untrained(self):
        for method in "malmen", "mend":
            out, report = self.make(method, method, "--rank", "4", "--seed", "3")
            self.assertAlmostEqual(report["lr"], 1e-6, delta=1e-12)
            self.assertEqual(report["search"], [])
            _, tensors = read_safetensors(out)
            a = read_floats(tensors["(768, 192).blocks.1.A"])
            self.assertEqual(tensors["(768, 192).blocks.1.A"][1], [960, 4])
            self.assertAlmostEqual(sum(x * x for x in a) / len(a), 1, delta=0.1)
            self.assertEqual(set(read_floats(tensors["(768, 192).blocks.1.B"])), {0.0})
            self.fails("edit", "--model", MODEL, "--editor", out, "--facts",
                       DEMO / "facts/demo-edit.json", says=[f"{out}: the editor has no statistics"])
            same, _ = self.make("same", method, "--rank", "4", "--seed", "3")
            self.assertEqual(same.read_bytes(), out.read_bytes())
            other, _ = self.make("other", method, "--rank", "4", "--seed", "4")
            self.assertNotEqual(other.read_bytes(), out.read_bytes())

    def test_says_what_cannot_edit_yet(self):
        for method, args, says in (("malmen", [], True), ("mend", [], True), ("ultraedit", [], False),
                                   ("malmen", ["--data", TRAIN, "--n-edits", "4"], False)):
            out = self.dir / "yet"
            done = malmend("init-editor", "--model", MODEL, "--method", method, "--out", out, *args)
            self.assertEqual(done.returncode, 0)
            said = f"malmend: {out}: the editor has no statistics: train it" in done.stderr.decode()
            self.assertEqual(said, says, done.stderr)

    def test_says_what_step_nobody_chose(self):
        """UltraEdit's was 1e-6 without a word, and its edits changed nothing."""
        for method, args, says in (("ultraedit", [], True), ("ultraedit", ["--lr", "1e-6"], False),
                                   ("ultraedit", ["--data", TRAIN, "--n-edits", "4"], False),
                                   ("malmen", [], False), ("ft", [], False)):
            out = self.dir / "step"
            done = malmend("init-editor", "--model", MODEL, "--method", method, "--out", out, *args)
            self.assertEqual(done.returncode, 0)
            said = f"malmend: {out}: the step is the paper's 1e-06, which may edit nothing" in done.stderr.decode()
            self.assertEqual(said, says, done.stderr)

    def test_lr_given(self):
        _, report = self.make("lr", "malmen", "--blocks", "0", "--data", TRAIN, "--n-edits", "4",
                              "--lr", "0.25")
        self.assertEqual(report["lr"], 0.25)

    def test_default_modules(self):
        report = self.json("init-editor", "--model", MODEL, "--method", "ultraedit", "--out",
                           self.dir / "default")
        self.assertEqual(report["modules"], MODULES[1:])

    def test_text(self):
        text = self.ok("init-editor", "--model", MODEL, "--method", "ultraedit", "--modules", LIST,
                       "--data", TRAIN, "--n-edits", "4", "--out", self.dir / "text")
        self.assertRegex(text, r"(?m)^before +[\d.]+ +[\d.]+ +[\d.]+$")
        self.assertRegex(text, r"(?m)^step 2\^-[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+  best$")
        self.assertIn("ultraedit, 3 modules, step 0.00", text)

    def test_nothing_else_measured(self):
        """Facts without rephrases and probes: those columns are not there, rather than 0."""
        data = self.write("bare.ndjson", '{"prompt": "Rurus Quobfield was born in", '
                                         '"target": "Glamdale"}\n')
        out = self.dir / "bare"
        args = ["init-editor", "--model", MODEL, "--method", "ultraedit", "--data", data, "--out", out]
        self.assertEqual(set(self.json(*args)["search"][0]["teacher_forced"]), {"es"})
        self.assertRegex(self.ok(*args), r"(?m)^before +[\d.]+ +- +-$")

    def test_refused(self):
        out = self.write("old", "what was there")
        args = ["init-editor", "--model", MODEL, "--method", "malmen", "--out", out]
        self.fails(*args, "--modules", "transformer.h.9.mlp.c_proj",
                   says=["transformer.h.9.mlp.c_proj"])
        self.misused(*args, "--modules", ",", says=["--modules: "])
        self.fails(*args, "--modules", ",".join(MODULES[:1] * 2), says=[MODULES[0], "twice"])
        self.misused(*args, "--n-edits", "4", says=["--n-edits", "--data"])
        self.fails(*args, "--data", self.dir / "none", says=[self.dir / "none"])
        self.fails("init-editor", "--model", MODEL, "--method", "ultraedit", "--out",
                   self.dir / "no/where", says=[self.dir / "no/where"])
        self.fails(*args[:-1], self.dir / "no/where", "--blocks", "0",
                   says=[self.dir / "no/where"])


if __name__ == "__main__":
    main()
