"""malmend train: against the golden cases, the same again, interrupted and resumed, refused."""
import fcntl
import json
import signal
import subprocess
from pathlib import Path

import harness
from harness import main
from lab import (DEMO, MALMEND, MODEL, MODULES, Lab, change_safetensors, malmend, read_floats,
                 read_safetensors)

TRAIN, HELDOUT = DEMO / "facts/train.ndjson", DEMO / "facts/heldout.ndjson"
CASES = DEMO.parent / "golden/cases"
SMALL = ["--model", MODEL, "--data", TRAIN, "--modules", MODULES[2], "--rank", "4", "--n-edits", "8",
         "--lr", "0.004", "--meta-lr", "1e-3"]


class Train(Lab):
    def lines(self, *args):
        return [json.loads(line) for line in self.ok("train", *args, "--json").splitlines()]

    # ---- What it computes ----

    def check_golden(self, name):
        case = CASES / name
        expected = json.loads((case / "expected.json").read_text())
        out = self.dir / f"{name}.safetensors"
        args = ["--model", case / "model", "--data", case / "data.json", "--init",
                case / "init.safetensors", "--out", out, "--no-shuffle"]
        for option, key in (("n-edits", "n_edits"), ("editor-batch", "editor_batch"),
                            ("meta-lr", "meta_lr"), ("loc-coef", "loc_coef"),
                            ("lr-meta-lr", "lr_meta_lr"), ("max-norm", "max_grad_norm")):
            if key in expected:
                args += ["--" + option, expected[key]]
        lines = self.lines(*args)
        self.assertEqual([line["step"] for line in lines],
                         list(range(1, 1 + len(expected["steps"]))))
        for line, step in zip(lines, expected["steps"]):
            for key, value in step.items():
                self.assertLessEqual(abs(line[key] - value) / (1e-3 + abs(value)),
                                     expected["tolerance"]["steps"], (key, line, step))
        _, want = read_safetensors(case / "expected.safetensors")
        metadata, got = read_safetensors(out)
        last = f"step{len(lines) - 1}."
        for tensor, (_, _, data) in got.items():
            if tensor.startswith("preserve."):
                continue
            a, b = read_floats(got[tensor]), read_floats(want[last + tensor])
            error = sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5
            self.assertLessEqual(error, 1e-4 * sum(y * y for y in b) ** 0.5 + 1e-7, tensor)
        self.assertEqual(metadata["n_edits"], str(expected["n_edits"]))
        self.assertEqual(len(metadata["base_model"]), 64)

    def test_golden_malmen(self):
        self.check_golden("gpt2-malmen-train")

    def test_golden_mend(self):
        self.check_golden("gpt2-mend-train")

    def test_golden_encoder_decoder(self):
        self.check_golden("t5-malmen-train")

    def test_golden_classifier(self):
        self.check_golden("bert-malmen-train")

    def test_golden_own_loss(self):
        self.check_golden("gpt2-malmen-train-ours")

    def test_golden_preserve(self):
        self.check_golden("gpt2-malmen-train-preserve")

    def test_same_seed(self):
        editors = []
        for seed in 1, 1, 2:
            out = self.dir / "seed.safetensors"
            self.ok("train", *SMALL, "--steps", 3, "--seed", seed, "--out", out)
            editors.append(out.read_bytes())
        self.assertEqual(editors[0], editors[1])
        self.assertNotEqual(editors[0], editors[2])

    def test_losses_fall(self):
        """The step size is searched, then what is trained learns."""
        lines = self.lines("--model", MODEL, "--data", TRAIN, "--modules", ",".join(MODULES[1:]),
                           "--rank", 32, "--n-edits", 16, "--meta-lr", "5e-4", "--steps", 80,
                           "--epochs", 9, "--out", self.dir / "falls")

        def loss(part):
            return sum(step["gen_loss"] + step["loc_loss"] for step in part) / len(part)
        self.assertLess(loss(lines[-25:]), 0.8 * loss(lines[:15]))

    def test_sizes_drawn(self):
        lines = self.lines(*SMALL, "--n-edits", "2:9", "--steps", 12, "--out", self.dir / "drawn")
        sizes = {line["facts"] for line in lines}
        self.assertTrue(sizes <= set(range(2, 10)) and len(sizes) > 3, sizes)
        metadata, _ = read_safetensors(self.dir / "drawn")
        self.assertEqual(metadata["n_edits"], "9")

    def test_schedule(self):
        lines = self.lines(*SMALL, "--steps", 8, "--warmup", 2, "--schedule", "cosine", "--out",
                           self.dir / "schedule")
        rates = [line["meta_lr"] for line in lines]
        self.assertAlmostEqual(rates[0], 0.5e-3, delta=1e-6)
        self.assertEqual(rates[1:], sorted(rates[1:], reverse=True))
        self.assertLess(rates[-1], 0.1e-3)

    def test_best_is_kept(self):
        """A rate that ruins the editor: what validation liked best is in the file."""
        out, log = self.dir / "best.safetensors", self.dir / "log.ndjson"
        lines = self.lines(*SMALL, "--meta-lr", 0.03, "--valid", self.few(HELDOUT, 16), "--steps", 40,
                           "--valid-every", 1, "--patience", 3, "--out", out, "--log", log)
        valid = [line["valid"] for line in lines if "valid" in line]
        self.assertEqual([json.loads(line) for line in log.read_text().splitlines()], lines)
        self.assertLess(len(valid), 40, "it stops early")
        best = max(i for i, v in enumerate(valid) if v["best"])
        self.assertEqual(len(valid) - 1 - best, 3)
        self.assertEqual(valid[best]["loss"], min(v["loss"] for v in valid if v["loss"]))
        again = self.dir / "again.safetensors"
        self.ok("train", *SMALL, "--meta-lr", 0.03, "--steps", best + 1, "--out", again)
        self.assertEqual(again.read_bytes(), out.read_bytes())

    def test_preserved_texts_stay_with_the_editor(self):
        out = self.dir / "keeps.safetensors"
        self.ok("train", *SMALL, "--preserve", self.few(HELDOUT, 12), "--steps", 4, "--out", out)
        _, tensors = read_safetensors(out)
        self.assertEqual(tensors["preserve.start"][1], [13])
        weight, = read_floats(tensors["(768, 192).preserve.weight"])
        before = self.dir / "before.safetensors"
        self.ok("train", *SMALL, "--preserve", self.few(HELDOUT, 12), "--steps", 1, "--out", before)
        first, = read_floats(read_safetensors(before)[1]["(768, 192).preserve.weight"])
        self.assertNotEqual(weight, first, "the weight is trained")
        report = self.json("edit", "--model", MODEL, "--editor", out, "--facts",
                           DEMO / "facts/demo-edit.json", "--out", self.dir / "delta")
        self.assertEqual(report["facts"], 25)

    def test_text(self):
        done = malmend("train", *SMALL, "--steps", 2, "--out", self.dir / "text")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout.decode(), r"malmen, 1 modules, 2 steps of up to 8 facts$")
        self.assertRegex(done.stderr.decode(), r"step 2 gen [\d.]+ loc [\d.]+: ")

    # ---- Interrupted ----

    def interrupted(self, name, steps, how, *args):
        """What it said until it was sent a signal, after so many steps. It cannot be done by then:
        the pipe holds only so much of what is not read yet."""
        out = self.dir / f"{name}.safetensors"
        process = subprocess.Popen([MALMEND, "train", *map(str, [*SMALL, *args]), "--json", "--out",
                                    out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        lines = [json.loads(process.stdout.readline()) for _ in range(steps)]
        process.send_signal(how)
        rest, complaint = process.communicate(timeout=4 * harness.PATIENCE)
        lines += [json.loads(line) for line in rest.decode().splitlines() if line.endswith("}")]
        lines = [line for line in lines if "step" in line]
        return out, lines, process.returncode, complaint.decode()

    def whole(self, *args):
        out = self.dir / "whole.safetensors"
        lines = self.lines(*SMALL, *args, "--out", out)
        return out.read_bytes(), lines

    @staticmethod
    def results(lines):
        return [{k: v for k, v in line.items() if k not in ("seconds", "parts")} for line in lines]

    def check_resumed(self, out, args, whole, lines, steps):
        rest = self.lines(*SMALL, *args, "--out", out, "--resume", f"{out}.state")
        self.assertEqual(self.results(rest), self.results(lines[len(lines) - len(rest):]))
        self.assertEqual(out.read_bytes(), whole)
        first = next(line["step"] for line in rest)
        self.assertEqual(first, steps + 1)

    def test_killed(self):
        args = ["--steps", 60, "--save-every", 4, "--n-edits", "2:8", "--valid",
                self.few(HELDOUT, 8), "--valid-every", 3, "--patience", 0]
        whole, lines = self.whole(*args)
        out, seen, code, _ = self.interrupted("killed", 13, signal.SIGKILL, *args)
        self.assertEqual(code, -signal.SIGKILL)
        metadata, _ = read_safetensors(f"{out}.state")
        saved = int(metadata["step"])
        self.assertEqual(saved % 4, 0)
        last = max(line["step"] for line in seen)
        self.assertTrue(last - 8 < saved <= last, (saved, last))
        self.check_resumed(out, args, whole, lines, saved)

    def test_interrupted(self):
        args = ["--steps", 60, "--preserve", self.few(HELDOUT, 4)]
        whole, lines = self.whole(*args)
        out, seen, code, complaint = self.interrupted("sigint", 5, signal.SIGINT, *args)
        self.assertEqual(code, 1)
        self.assertIn(f"--resume {out}.state", complaint)
        saved = int(read_safetensors(f"{out}.state")[0]["step"])
        self.assertEqual(saved, seen[-1]["step"])
        self.check_resumed(out, args, whole, lines, saved)

    def validating(self, *args):
        """Interrupted in a validation, of which there is one after each step: what it had said, and
        the step it is of. Next to all of the time is theirs."""
        for attempt in range(9):
            out, seen, code, complaint = self.interrupted(f"valid{attempt}", 3, signal.SIGTERM, *args)
            self.assertEqual(code, 1)
            metadata, _ = read_safetensors(f"{out}.state")
            step = int(metadata["step"])
            self.assertIn(f"interrupted after step {step}; --resume {out}.state", complaint)
            if seen[-1]["step"] == step and "valid" not in seen[-1]:
                self.assertEqual(metadata["validated"], str(step - 1))
                return out, seen, step
        self.fail("never in a validation")

    def goes_on(self, out, args, whole, lines, seen):
        rest = self.lines(*SMALL, *args, "--out", out, "--resume", f"{out}.state")
        self.assertEqual(self.results(seen + rest), self.results(lines))
        self.assertEqual(out.read_bytes(), whole)
        end = (self.dir / "whole.safetensors.state").read_bytes()
        self.assertEqual(Path(f"{out}.state").read_bytes(), end)

    def test_interrupted_in_a_validation(self):
        """It is made when the run goes on: not left out, nor the step before it taken twice."""
        args = ["--steps", 5, "--valid", self.few(HELDOUT, 160), "--valid-every", 1, "--patience", 0]
        whole, lines = self.whole(*args)
        out, seen, step = self.validating(*args)
        best, state = out.read_bytes(), Path(f"{out}.state").read_bytes()
        self.goes_on(out, args, whole, lines, seen)

        def earlier(taken):
            """As an earlier malmend left it: the step before the validation is not counted."""
            def change(metadata, tensors):
                del metadata["validated"]
                metadata.update(step=str(step - 1), at=str(8 * (step - 1)), t=str(taken))
            out.write_bytes(best)
            Path(f"{out}.state").write_bytes(state)
            change_safetensors(f"{out}.state", change)
        earlier(step)
        self.goes_on(out, args, whole, lines, seen)
        earlier(step + 1)
        self.fails("train", *SMALL, *args, "--out", out, "--resume", f"{out}.state",
                   says=[f"{out}.state", f"'step' is {step - 1}, 't' is {step + 1}"])

    def test_interrupted_in_the_last_validation(self):
        args = ["--steps", 2, "--valid", self.few(HELDOUT, 320), "--valid-every", 9]
        whole, lines = self.whole(*args)
        for attempt in range(9):
            out, seen, code, complaint = self.interrupted(f"last{attempt}", 2, signal.SIGINT, *args)
            if code:
                break  # else it came too late
        self.assertEqual((code, len(seen)), (1, 2))
        self.assertIn(f"interrupted after step 2; --resume {out}.state", complaint)
        self.assertFalse(out.exists(), "nothing was validated")
        self.goes_on(out, args, whole, lines, seen)

    def test_more_epochs(self):
        """A run that ended goes on where more epochs are asked for."""
        data = ["--data", self.few(TRAIN, 20)]
        whole, _ = self.whole(*data, "--epochs", 2)
        out = self.dir / "more.safetensors"
        self.ok("train", *SMALL, *data, "--out", out)
        self.ok("train", *SMALL, *data, "--epochs", 2, "--out", out, "--resume", f"{out}.state")
        self.assertEqual(out.read_bytes(), whole)
        again = malmend("train", *SMALL, *data, "--out", out)  # and says so where it begins anew
        self.assertIn(f"{out}.state is of a run that --resume goes on with", again.stderr.decode())

    def test_other_run(self):
        out = self.dir / "run.safetensors"
        self.ok("train", *SMALL, "--steps", 1, "--out", out)
        args = ["train", *SMALL, "--steps", 2, "--out", out, "--resume", f"{out}.state"]
        self.fails(*args, "--n-edits", 4, says=["--n-edits"])
        self.fails(*args, "--seed", 4, says=["--seed"])
        self.fails(*args, "--data", HELDOUT, says=["--data"])
        self.fails(*args[:-1], self.dir / "none", says=[self.dir / "none"])
        self.fails(*args[:-1], out, says=["run.safetensors", "not the state"])

    # ---- Refused ----

    def few(self, path, n):
        lines = Path(path).read_text().splitlines(keepends=True)[:n]
        return self.write(f"few-{Path(path).stem}-{n}.ndjson", "".join(lines))

    def test_refused(self):
        out = self.write("old", "what was there")
        args = ["train", *SMALL, "--out", out]
        for text in "0", "x", "8:4", "4:", ":4", "1:2:3":
            self.misused(*args, "--n-edits", text, says=["--n-edits: '" + text])
        self.fails(*args, "--data", self.dir / "none", says=[self.dir / "none"])
        long = self.write("long.ndjson", json.dumps({"prompt": "a " * 99, "target": "b"}) + "\n")
        self.fails(*args, "--data", long, says=["long.ndjson", "fact 0", "prompt", "64"])
        self.fails(*args, "--valid", long, says=["long.ndjson", "fact 0"])
        self.fails(*args, "--modules", "no.such.layer", says=["no.such.layer"])
        self.fails(*args, "--method", "mend", "--preserve", HELDOUT, says=["--preserve", "MEND"])
        self.fails(*args[:-1], self.dir / "no/where", says=[self.dir / "no/where"])

    def test_memory_is_known_beforehand(self):
        args = ["train", *SMALL, "--out", self.dir / "never", "--max-memory"]
        self.fails(*args, "1MiB", says=["MiB", "rows of 8 facts"])
        self.fails(*args, "1MiB", "--rank", 4000, says=["smaller --rank"])
        self.fails(*args, "1MiB", "--n-edits", 800, "--method", "mend", "--modules",
                   ",".join(MODULES), says=["smaller --n-edits"])

    def test_init(self):
        editor = self.editor("start", method="malmen", modules=MODULES[2:], blocks=1)
        args = ["train", "--model", MODEL, "--data", TRAIN, "--init", editor, "--out",
                self.dir / "next", "--n-edits", 8, "--steps", 2]
        self.ok(*args)
        for option, value in (("--method", "mend"), ("--rank", 5), ("--blocks", 2),
                              ("--loss", "microbatch_mean")):
            self.fails(*args, option, value, says=[option])
        self.misused(*args, "--modules", MODULES[2], says=["--modules: the editor of --init"])
        ultraedit = self.editor("ultra")
        self.fails(*args[:6], ultraedit, *args[7:], says=["UltraEdit"])


if __name__ == "__main__":
    main()
