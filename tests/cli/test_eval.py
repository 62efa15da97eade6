"""malmend eval: its measures against the reference's, against edit's, and against each other."""
import json
import os
from pathlib import Path

from harness import main
from lab import DEMO, MODEL, MODULES, Lab, change_safetensors, demo_facts, known, malmend

CASE = Path(os.environ["MAL_SOURCE_ROOT"]) / "tests/golden/cases/gpt2-ultraedit-sequential"
HELDOUT = DEMO / "facts/heldout.ndjson"
SHARES = "teacher_forced", "decoded"


class Eval(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        lab = cls()
        cls.ultra = cls.editor(lab, "ultra")
        cls.malmen = cls.dir / "malmen.safetensors"
        lab.ok("init-editor", "--model", MODEL, "--method", "malmen", "--blocks", 0, "--modules",
               ",".join(MODULES), "--data", DEMO / "facts/train.ndjson", "--n-edits", 16,
               "--lr", "0.00390625", "--out", cls.malmen)
        cls.facts = demo_facts("heldout.ndjson", 40)

    def data(self, facts, name="data.ndjson"):
        return self.write(name, "".join(json.dumps(fact) + "\n" for fact in facts))

    def args(self, data, *args, editor=None):
        return ["eval", "--model", MODEL, "--editor", editor or self.ultra, "--data", data, *args]

    def same(self, a, b, delta=1e-9):
        self.assertEqual(a["facts"], b["facts"])
        for kind in SHARES:
            self.assertEqual(set(a[kind]), set(b[kind]))
            for key, share in a[kind].items():
                self.assertAlmostEqual(share, b[kind][key], delta=delta, msg=(kind, key))
        self.assertAlmostEqual(a.get("agreement", -1), b.get("agreement", -1), delta=delta)

    def test_reference(self):
        """PyTorch's measures before, right after each batch, and after the last."""
        expected = json.loads((CASE / "expected.json").read_text())
        first, last = expected["batches"]
        report = self.json("eval", "--model", CASE / "model", "--editor",
                           CASE / "editor.safetensors", "--data", CASE / "facts.json",
                           "--n-edits", first, "--repair-rounds", 0)
        self.assertEqual([b["facts"] for b in report["batches"]], [first, last])
        found = [report["before"], report["retention"][-1]["measures"],
                 *(b["measures"] for b in report["batches"])]
        wanted = [expected["before"], expected["after"], *expected["after_each"]]
        for measures, theirs in zip(found, wanted, strict=True):
            for key, share in measures["teacher_forced"].items():
                self.assertAlmostEqual(share, theirs[key], delta=1e-6)

    def test_stream(self):
        data, out = self.data(self.facts), self.dir / "report.json"
        report = self.json(*self.args(data, "--n-edits", 16, "--report", out))
        self.assertEqual(json.loads(out.read_text()), report)
        self.assertEqual(set(report), {"before", "after", "batches", "retention", "editor", "update",
                                       "repair", "reset", "n_edits", "model"})
        self.assertEqual(report["repair"], {"rounds": 4, "tau": 0.9})
        self.assertEqual((report["update"], report["reset"], report["n_edits"], report["model"]),
                         ("sequential", False, 16, "model"))
        self.assertEqual(report["editor"]["method"], "ultraedit")
        self.assertRegex(report["editor"]["hash"], "^[0-9a-f]{64}$")
        batches, retention = report["batches"], report["retention"]
        self.assertEqual([b["facts"] for b in batches], [16, 16, 8])
        self.assertEqual([r["facts"] for r in retention], [16, 32, 40])
        self.assertEqual([b["batch"] for b in batches], [r["batch"] for r in retention])
        self.assertTrue(all(b["tokens"] >= b["facts"] and "solve" in b["seconds"] for b in batches))
        self.assertEqual(report["before"]["decoded"], {"es": 0.0, "gs": 0.0, "ls": 1.0})
        self.assertEqual(report["before"]["agreement"], 1.0)
        self.same(batches[0]["measures"], retention[0]["measures"])
        after = report["after"]
        self.assertEqual(after["facts"], 40)
        for kind in SHARES:
            for key, share in after[kind].items():
                mean = sum(b["facts"] * b["measures"][kind][key] for b in batches) / 40
                self.assertAlmostEqual(share, mean)
        self.assertAlmostEqual(after["agreement"],
                               sum(b["facts"] * b["measures"]["agreement"] for b in batches) / 40)
        self.assertGreater(after["decoded"]["es"], 0.7)
        self.assertLess(retention[-1]["measures"]["agreement"], 1)

        # The first batch is the one `edit` makes.
        edit = self.json("edit", "--model", MODEL, "--editor", self.ultra, "--facts",
                         self.data(self.facts[:16], "first.ndjson"), "--verify")
        for kind in SHARES:
            self.assertEqual(edit["after"][kind], batches[0]["measures"][kind])

    def test_reset(self):
        """Each batch as if it were the first: as `edit` on its facts alone."""
        report = self.json(*self.args(self.data(self.facts), "--n-edits", 8, "--batches", 2,
                                      "--reset"))
        self.assertNotIn("retention", report)
        self.assertTrue(report["reset"])
        self.assertEqual(report["after"]["facts"], 16)
        for i, batch in enumerate(report["batches"]):
            facts = self.data(self.facts[8 * i:8 * i + 8], "alone.ndjson")
            edit = self.json("edit", "--model", MODEL, "--editor", self.ultra, "--facts", facts,
                             "--verify")
            for kind in SHARES:
                self.assertEqual(edit["after"][kind], batch["measures"][kind])

    def test_joint(self):
        """A joint stream ends where one batch of all its facts ends; a sequential one does not."""
        args = self.args(self.data(self.facts[:16]), "--repair-rounds", 0, editor=self.malmen)
        whole = self.json(*args, "--n-edits", 16)["after"]
        joint = self.json(*args, "--n-edits", 6, "--update", "joint")
        self.assertEqual(joint["update"], "joint")
        self.same(joint["retention"][-1]["measures"], whole)
        sequential = self.json(*args, "--n-edits", 6)
        self.same(sequential["retention"][0]["measures"], joint["retention"][0]["measures"])
        self.assertNotEqual(sequential["retention"][-1]["measures"], whole)

    def test_joint_logprobs(self):
        """The last batch's facts are as probable as after one batch of all."""
        args = self.args(self.data(self.facts[:20]), "--repair-rounds", 0, editor=self.malmen)
        found = []
        for name, size in ("whole", 20), ("stream", 6):
            out = self.dir / f"{name}.ndjson"
            self.json(*args, "--n-edits", size, "--update", "joint", "--per-fact", out)
            found.append([json.loads(line)["after"]["logprob"]
                          for line in out.read_text().splitlines()[18:]])
        for whole, stream in zip(*found, strict=True):
            self.assertAlmostEqual(whole, stream, delta=1e-4)

    def test_repair(self):
        """Right after each batch all of its facts are right, and all before it still are."""
        args = self.args(self.data(self.facts), "--n-edits", 16, "--update", "joint",
                         "--preserve-weight", 0, editor=DEMO / "editor.safetensors")
        single, repaired = self.json(*args, "--repair-rounds", 0), self.json(*args)
        self.assertEqual(single["repair"], {"rounds": 0, "tau": 0.9})
        self.assertEqual([b["rounds"] for b in single["batches"]], [0, 0, 0])
        self.assertLess(single["after"]["decoded"]["es"], 1)
        rounds = [b["rounds"] for b in repaired["batches"]]
        self.assertTrue(all(0 <= n <= 4 for n in rounds) and sum(rounds) > 0, rounds)
        for batch, retention in zip(repaired["batches"], repaired["retention"], strict=True):
            self.assertEqual(batch["measures"]["decoded"]["es"], 1)
            self.assertEqual(retention["measures"]["decoded"]["es"], 1)
        last = [report["retention"][-1]["measures"] for report in (single, repaired)]
        self.assertGreater(last[1]["decoded"]["gs"], last[0]["decoded"]["gs"] - 0.02)
        self.assertGreater(last[1]["agreement"], last[0]["agreement"] - 0.05)

        # Facts of earlier batches are repaired, too: by itself each batch breaks some.
        alone = self.json(*args, "--update", "sequential")
        self.assertEqual([b["measures"]["decoded"]["es"] for b in alone["batches"]], [1, 1, 1])
        self.same(alone["retention"][0]["measures"], repaired["retention"][0]["measures"])

        # Every text repaired in every round, as none is ever certain.
        certain = self.json(*args, "--batches", 1, "--repair-rounds", 2, "--repair-tau", 1)
        self.assertEqual(certain["repair"], {"rounds": 2, "tau": 1})
        self.assertEqual([b["rounds"] for b in certain["batches"]], [2])

    def test_prompts(self):
        """A further phrasing taught lifts those that are never given, and harms nothing else."""
        def after(n_prompts):
            facts = [{**fact, "prompts": fact["rephrases"][:n_prompts],
                      "rephrases": fact["rephrases"][1:]}
                     for fact in demo_facts("heldout.ndjson", 60)]
            report = self.json(*self.args(self.data(facts, "prompts.ndjson"), "--n-edits", 20,
                                          "--update", "joint"))
            return (report["retention"][-1]["measures"],
                    sum(batch["tokens"] for batch in report["batches"]))
        (without, tokens), (taught, more) = after(0), after(1)
        self.assertEqual([m["decoded"]["es"] for m in (without, taught)], [1, 1])
        self.assertGreater(taught["decoded"]["gs"], without["decoded"]["gs"] + 0.02)
        self.assertGreater(taught["agreement"], without["agreement"] - 0.02)
        self.assertEqual(more, 2 * tokens)

    def test_preserve(self):
        args = self.args(self.data(self.facts), "--n-edits", 40)
        free = self.json(*args)
        self.assertNotIn("preserve", free)
        kept = self.json(*args, "--preserve", DEMO / "facts/train.ndjson")
        self.assertGreater(kept["preserve"]["keys"], 1000)
        self.assertGreater(kept["after"]["teacher_forced"]["ls"],
                           free["after"]["teacher_forced"]["ls"])
        joint = self.json(*args, "--preserve", DEMO / "facts/train.ndjson", "--update", "joint")
        self.same(joint["after"], kept["after"])

    def test_per_fact(self):
        out = self.dir / "facts.ndjson"
        report = self.json(*self.args(self.data(self.facts), "--n-edits", 16, "--per-fact", out))
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        self.assertEqual([(line["fact"], line["batch"]) for line in lines],
                         [(i, i // 16) for i in range(40)])
        self.assertEqual([(line["prompt"], line["target"]) for line in lines],
                         [(fact["prompt"], fact["target"]) for fact in self.facts])
        for when in "before", "after":
            parts = [line[when] for line in lines]
            for kind in SHARES:
                for key, where in ("gs", "rephrases"), ("ls", "unrelated"):
                    self.assertAlmostEqual(sum(p[where][kind] for p in parts) / 40,
                                           report[when][kind][key])
                self.assertAlmostEqual(sum(p[kind] for p in parts) / 40, report[when][kind]["es"])
        better = sum(line["after"]["logprob"] > line["before"]["logprob"] for line in lines)
        self.assertEqual(better, 40)

    def test_nothing_else_measured(self):
        """Facts without rephrases and probes: those keys are not there, rather than 0."""
        out = self.dir / "bare.out"
        data = self.data([{k: f[k] for k in ("prompt", "target")} for f in self.facts[:3]], "bare")
        report = self.json(*self.args(data, "--per-fact", out))
        for measures in report["before"], report["after"], report["retention"][0]["measures"]:
            self.assertEqual(set(measures), {"facts", *SHARES})
            self.assertEqual(set(measures["decoded"]), {"es"})
        self.assertEqual(set(json.loads(out.read_text().splitlines()[0])["after"]),
                         {*SHARES, "logprob"})
        self.assertRegex(self.ok(*self.args(data)), r"(?m)^after +3 +[\d.]+ +- +- +[\d.]+ +- +- +-$")

    def test_text(self):
        text = self.ok(*self.args(self.data(self.facts), "--n-edits", 20))
        number = r" +[\d.]+"
        self.assertIn("ultraedit, 40 facts in 2 batches of 20, sequential\n", text)
        for row in "before +40", "after +40", "retention +20", " +40":
            self.assertRegex(text, f"(?m)^{row}{number * 7}$")
        text = self.ok(*self.args(self.data(self.facts), "--n-edits", 20, "--reset"))
        self.assertIn("each on the base model\n", text)
        self.assertNotIn("retention", text)

    def test_warning(self):
        def said(n):
            done = malmend(*self.args(self.data(self.facts[:n]), "--n-edits", 20, editor=self.malmen),
                           "--json")
            self.assertEqual(done.returncode, 0)
            return done.stderr.decode()
        self.assertEqual(said(16), "")
        self.assertEqual(said(17), "malmend: 17 facts, the editor was made for up to 16 at a time\n")

    def test_no_editor(self):
        done = malmend("eval", "--model", MODEL, "--data", self.data(self.facts[:8]),
                       "--repair-rounds", 0, "--json")
        self.assertEqual(done.returncode, 0)
        self.assertIn("no editor given, one made on 8 of the facts", done.stderr.decode())
        report = json.loads(done.stdout)
        self.assertEqual(report["editor"]["method"], "malmen")
        self.assertGreater(report["after"]["decoded"]["es"], 0.8)

    def test_refused(self):
        data = self.data(self.facts)
        self.fails(*self.args(data, "--n-edits", 16, "--batches", 4), says=[data, "3 batches of 16"])
        self.fails(*self.args(self.dir / "none"), says=[self.dir / "none"])
        for option in "--report", "--per-fact":
            self.fails(*self.args(data, option, self.dir / "no/where"), says=[self.dir / "no/where"])
        long = dict(self.facts[1], rephrases=["word " * 80])
        bad = self.data([self.facts[0], long], "bad.ndjson")
        self.fails(*self.args(bad), says=[bad, "/facts/1/rephrases/0", "context"])
        bad = self.data([self.facts[0], {"prompt": "no target"}], "bad.ndjson")
        self.fails(*self.args(bad), says=[bad, "line 2", "'target' is missing"])
        mend = self.editor("mend", method="mend")
        self.fails(*self.args(data, editor=mend), says=[f"{mend}: the editor has no statistics"])
        change_safetensors(mend, known)
        self.fails(*self.args(data, "--preserve", data, editor=mend), says=["MEND"])
        self.fails(*self.args(data, "--update", "joint", editor=mend), says=["MEND", "no system"])

    def test_numeric(self):
        """Weights that are no numbers end it, with the batch, and no report is left."""
        wild = self.editor("wild")
        change_safetensors(wild, lambda metadata, tensors: metadata.update(lr="1e39"))
        out = self.dir / "wild.json"
        self.fails(*self.args(self.data(self.facts[:4]), "--report", out, editor=wild),
                   says=["batch 0: "])
        self.assertFalse(out.exists())


if __name__ == "__main__":
    main()
