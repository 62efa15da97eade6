"""malmend edit: what it writes, and that all of it agrees."""
import json
import math
import os
import pty
import re
import struct
import subprocess

from golden import T5
from harness import main
from lab import (DEMO, MALMEND, MODEL, MODULES, STEP, Lab, demo_facts, malmend, read_floats,
                 read_safetensors, snapshot)

FACTS = DEMO / "facts/demo-edit.json"


class Edit(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ultra = cls.editor(cls(), "ultra")
        cls.delta, cls.saved = cls.dir / "delta.safetensors", cls.dir / "saved"
        cls.report = cls.json(cls(), *cls.args(), "--out", cls.delta, "--save-model", cls.saved,
                              "--verify")

    @classmethod
    def args(cls, editor=None, facts=FACTS):
        return ["edit", "--model", MODEL, "--editor", editor or cls.ultra, "--facts", facts]

    def test_report(self):
        r = self.report
        self.assertEqual(r["facts"], 25)
        self.assertGreater(r["tokens"], 25)
        self.assertGreater(r["input_tokens"], r["tokens"])
        self.assertRegex(r["weights_hash"], "^[0-9a-f]{64}$")
        self.assertLess(r["seconds"]["open"], r["seconds"]["total"])
        self.assertEqual({"tokenize", "solve", "persist"} - set(r["seconds"]), set())
        self.assertEqual(r["before"]["decoded"], {"es": 0.0, "gs": 0.0, "ls": 1.0})
        self.assertGreater(r["after"]["decoded"]["es"], 0.7)
        self.assertGreater(r["after"]["decoded"]["gs"], 0.6)
        self.assertGreater(r["after"]["decoded"]["ls"], 0.8)
        self.assertNotIn("agreement", r["after"])

    def test_preserve(self):
        """Answers that must not move hold better; a weight of 0 is as if none were given."""
        texts = DEMO / "facts/train.ndjson"
        kept = self.json(*self.args(), "--verify", "--preserve", texts)
        self.assertGreater(kept["after"]["teacher_forced"]["ls"],
                           self.report["after"]["teacher_forced"]["ls"])
        self.assertGreater(kept["after"]["decoded"]["es"], 0.4)
        none = self.json(*self.args(), "--preserve", texts, "--preserve-weight", 0)
        self.assertEqual(none["weights_hash"], self.report["weights_hash"])
        prompts = self.write("prompts.txt", "".join(f["prompt"] + "\n" for f in demo_facts(n=5)))
        self.assertNotEqual(self.json(*self.args(), "--preserve", prompts)["weights_hash"],
                            self.report["weights_hash"])

    def test_preserve_refused(self):
        self.fails(*self.args(), "--preserve-weight", 1, says=["--preserve FILE"])
        self.fails(*self.args(), "--preserve", self.dir / "none", says=[self.dir / "none"])
        bad = self.write("bad.ndjson", '{"prompt": "The firm", "target": "is"}\n{"prompt": 3}\n')
        self.fails(*self.args(), "--preserve", bad, says=[bad, "line 2"])

    def test_repair(self):
        """As many rounds as it takes, at most those allowed; without any, the single pass."""
        found = {}
        for rounds in 0, 1, 2, 1000:
            report = self.json(*self.args(), "--repair-rounds", rounds, "--verify")
            self.assertLessEqual(report["rounds"], rounds)
            found[rounds] = report["after"]["decoded"]["es"]
        self.assertLess(found[0], 1)
        self.assertGreater(found[1], found[0])
        self.assertEqual(found[1000], 1)
        self.assertEqual(self.report["after"]["decoded"]["es"], 1)
        self.assertGreater(self.report["rounds"], 0)
        decoded = self.json(*self.args(), "--repair-tau", 0, "--verify")
        self.assertEqual(decoded["after"]["decoded"]["es"], 1)
        self.assertLessEqual(decoded["rounds"], self.report["rounds"])
        self.assertNotEqual(decoded["weights_hash"], self.report["weights_hash"])
        self.assertIn(f"{self.report['rounds']} rounds of repair", self.ok(*self.args()))

    def test_delta_file(self):
        metadata, tensors = read_safetensors(self.delta)
        self.assertEqual(metadata["format"], "malmend-delta-1")
        self.assertRegex(metadata["base_model"], "^[0-9a-f]{64}$")
        self.assertEqual({name: t[:2] for name, t in tensors.items()},
                         {m + ".weight": ("F32", [768, 192]) for m in MODULES})

    def test_saved_model(self):
        """W = W0 + T rounded once, in the checkpoint's dtype; all else byte for byte."""
        self.assertEqual(sorted(p.name for p in self.saved.iterdir()),
                         sorted(p.name for p in MODEL.iterdir()))
        for path in MODEL.iterdir():
            if path.name != "model.safetensors":
                self.assertEqual((self.saved / path.name).read_bytes(), path.read_bytes())
        _, base = read_safetensors(MODEL / "model.safetensors")
        _, edited = read_safetensors(self.saved / "model.safetensors")
        _, delta = read_safetensors(self.delta)
        changed = {name for name in base if base[name] != edited[name]}
        self.assertEqual(changed, {m + ".weight" for m in MODULES})
        name = MODULES[0] + ".weight"
        n = 768 * 192
        w0 = struct.unpack(f"<{n}e", base[name][2])
        t = read_floats(delta[name])
        sums = struct.pack(f"<{n}f", *(a + b for a, b in zip(w0, t)))
        self.assertEqual(edited[name][2], struct.pack(f"<{n}e", *struct.unpack(f"<{n}f", sums)))

    def test_answers(self):
        """The same answers from the base with the delta and from the saved model."""
        right = 0
        for fact in demo_facts(n=8):
            args = ["--prompt", fact["prompt"], "--max-tokens", "12"]
            base = self.ok("complete", "--model", MODEL, *args)
            delta = self.ok("complete", "--model", MODEL, "--delta", self.delta, *args)
            saved = self.ok("complete", "--model", self.saved, *args)
            self.assertEqual(delta, saved)
            self.assertNotIn(fact["target"], base)
            right += fact["target"] in delta
        self.assertGreaterEqual(right, 5)

    def test_logits(self):
        tokens = self.write("tokens", "5 17 300 8\n900\n")
        for name, args in (("a", ["--model", MODEL, "--delta", self.delta]),
                           ("b", ["--model", self.saved]), ("c", ["--model", MODEL])):
            self.ok("logits", *args, "--tokens", tokens, "--out", self.dir / name)
        a, b, c = ((self.dir / name).read_bytes() for name in "abc")
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)

    def test_repeats(self):
        """The same bits again, also from NDJSON."""
        out = self.dir / "again.safetensors"
        self.assertEqual(self.json(*self.args(), "--out", out)["weights_hash"],
                         self.report["weights_hash"])
        self.assertEqual(out.read_bytes(), self.delta.read_bytes())
        lines = self.write("facts.ndjson", "".join(
            json.dumps(fact) + "\n" for fact in demo_facts()))
        self.assertEqual(self.json(*self.args(facts=lines))["weights_hash"],
                         self.report["weights_hash"])

    def test_text(self):
        text = self.ok(*self.args(), "--verify")
        self.assertIn(self.report["weights_hash"], text)
        self.assertRegex(text, r"(?m)^before +[\d.]+ +[\d.]+ +100\.0 +0\.0 +0\.0 +100\.0$")
        self.assertRegex(text, r"(?m)^after( +[\d.]+){6}$")

    def test_malmen(self):
        after = self.with_searched("malmen")["decoded"]
        self.assertGreater(after["es"], 0.7)
        self.assertGreater(after["ls"], 0.7)

    def test_mend(self):
        after = self.with_searched("mend")["teacher_forced"]
        self.assertGreater(after["es"], self.report["before"]["teacher_forced"]["es"])

    def test_mend_is_not_repaired(self):
        self.with_searched("mend")
        args = self.args(self.dir / "mend.safetensors")
        report = self.json(*args)
        self.assertEqual(report["rounds"], 0)
        self.assertEqual(report["weights_hash"],
                         self.json(*args, "--repair-rounds", 0)["weights_hash"])

    def with_searched(self, method):
        editor = self.dir / f"{method}.safetensors"
        self.ok("init-editor", "--model", MODEL, "--method", method, "--blocks", "0", "--data",
                DEMO / "facts/train.ndjson", "--n-edits", "32", "--modules", ",".join(MODULES),
                "--out", editor)
        return self.json(*self.args(editor), "--repair-rounds", 0, "--verify")["after"]

    def test_more_facts_than_meant(self):
        """Facts beyond what the step was found for: a warning, and done all the same."""
        editor = self.dir / "small.safetensors"
        self.ok("init-editor", "--model", MODEL, "--method", "ultraedit", "--data", FACTS,
                "--n-edits", "2", "--out", editor)
        self.assertTrue(math.isfinite(self.json(*self.args(editor))["loss"]))

    def test_fewer_facts_than_a_micro_batch(self):
        """The reference's mean over fewer of them is too long a step: a warning, where nothing repairs it."""
        few = self.write("few.json", json.dumps({"facts": T5.facts[:1]}))
        for args, says in ((["--facts", few, "--repair-rounds", "0"], True), (["--facts", few], False),
                           (["--facts", T5.path, "--repair-rounds", "0"], False)):
            done = malmend("edit", *T5.args, *args, "--out", self.dir / "few", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual("1 facts in a single pass, the editor's gradients are means over 2"
                             in done.stderr.decode(), says, done.stderr)

    def ultraedit_alone(self, step, n):
        """(how many were repaired, how often it was given up), of n facts each taught by itself."""
        editor = self.dir / f"step{step}.safetensors"
        self.ok("init-editor", "--model", MODEL, "--method", "ultraedit", "--lr", step, "--modules",
                ",".join(MODULES), "--out", editor)
        right, diverged = 0, 0
        for fact in demo_facts("heldout.ndjson", n):
            facts = self.write("one.json", {"facts": [{k: fact[k] for k in ("prompt", "target")}]})
            args = ("edit", "--model", MODEL, "--editor", editor, "--facts", facts, "--verify")
            report = self.json(*args)
            if report["after"]["teacher_forced"]["es"] == 1:
                right += 1
            elif report["rounds"] < 4:  # given up, as if the last had not been
                diverged += 1
                before = self.json(*args, "--repair-rounds", report["rounds"] - 1)
                self.assertEqual(before["weights_hash"], report["weights_hash"])
        return right, diverged

    def test_repair_of_one(self):
        """UltraEdit's statistics begin with the facts at hand: of one they hold hardly a variance, and what
        repair divided by had no end for one in five."""
        right, _ = self.ultraedit_alone(STEP, 30)
        self.assertGreater(right, 25)

    def test_repair_diverges(self):
        """A step 500 times too long has no end; the best round before it counts."""
        _, diverged = self.ultraedit_alone("1", 12)
        self.assertGreater(diverged, 0, "this proves nothing")

    def test_into_an_empty_directory(self):
        empty = self.dir / "empty"
        empty.mkdir()
        (self.dir / "empty.partial").mkdir()  # as a kill would leave it
        self.write("empty.partial/config.json", "{}")
        self.ok(*self.args(), "--save-model", f"{empty}/")
        self.assertEqual(list(snapshot(empty).values()), list(snapshot(self.saved).values()))
        self.assertFalse((self.dir / "empty.partial").exists())

    def test_outputs_refused(self):
        full = self.dir / "full"
        full.mkdir()
        self.write("full/file", "mine")
        self.fails(*self.args(), "--out", self.dir / "out", "--save-model", full, says=[full])
        self.fails(*self.args(), "--save-model", full / "file", says=[full / "file"])
        self.fails(*self.args(), "--save-model", self.dir / "no/where", says=["no/where"])
        self.fails(*self.args(), "--out", self.dir / "no/where", says=["no/where"])

    def test_not_a_file(self):
        """Writing ends with a rename, which once replaced the device /dev/full by a file."""
        pipe = self.dir / "pipe"
        os.mkfifo(pipe)
        tokens = self.write("tokens", "1\n")
        for command in (self.args(), ["logits", "--model", MODEL, "--tokens", tokens],
                        ["init-editor", "--model", MODEL, "--method", "ultraedit"]):
            self.fails(*command, "--out", pipe, says=[pipe, "regular"])
            self.fails(*command, "--out", self.dir, says=[self.dir, "regular"])
            self.assertTrue(pipe.is_fifo())

    def test_progress(self):
        """On a terminal a bar; its rates and times make sense from the start."""
        ours, theirs = pty.openpty()
        done = subprocess.Popen([MALMEND, *map(str, self.args(facts=DEMO / "facts/train.ndjson"))],
                                stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        text = b""
        with open(ours, "rb", buffering=0) as screen:
            try:
                while part := screen.read(4096):
                    text += part
            except OSError:  # how Linux says that the other side is closed
                pass
        self.assertEqual(done.wait(), 0)
        self.assertIn(b"\r\x1b[Kforward [", text)
        self.assertIn(b"100 %", text)
        rates = [float(x) for x in re.findall(rb"([\d.]+)/s", text)]
        self.assertLess(max(rates, default=0), 1e6)
        self.assertTrue(text.endswith(b"\n"))

    def test_delta_of_another_model(self):
        """A difference is only good for the model it is a difference from."""
        copy = self.dir / "other"
        copy.mkdir()
        for path in MODEL.iterdir():
            data = bytearray(path.read_bytes())
            if path.name == "model.safetensors":
                data[-2] ^= 1
            (copy / path.name).write_bytes(data)
        self.fails("complete", "--model", copy, "--delta", self.delta, "--prompt", "x",
                   says=[self.delta, "base model"])


if __name__ == "__main__":
    main()
