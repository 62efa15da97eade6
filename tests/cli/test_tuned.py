"""Methods that fine-tune the weights themselves: their editors, and the daemon and the commands with
them, start to end."""
import json
import math
import struct

import harness
from golden import BERT, T5
from harness import main
from lab import (TINY, Lab, change_safetensors, copy_model, each, malmend, read_floats,
                 read_safetensors, tiny_model, write_safetensors)
from test_serve import Serving, roll_back, version

FACTS = [{"prompt": f"{letter} is", "target": letter.upper()} for letter in "abcdef"]
PROJ = "transformer.h.{}.mlp.c_proj"
HYPER = {"ft": {"lr": 0.01, "steps": 8, "norm_constraint": 0.05, "batch_size": 4},
         "locft-bf": {"lr": 0.01, "epochs": 8, "batch_size": 2, "seed": 5}}


def init(method, out, model, hyper=None, *more):
    return ["init-editor", "--model", model, "--method", method, "--hyper",
            json.dumps(HYPER[method] if hyper is None else hyper), "--out", out, *more]


class Editors(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")

    def test_defaults(self):
        for method, block, numbers in (
                ("ft", 0, {"lr": 5e-4, "steps": 25, "weight_decay": 0, "norm_constraint": 5e-4,
                           "batch_size": 64}),
                ("locft-bf", 1, {"lr": 5e-4, "epochs": 25, "weight_decay": 0, "batch_size": 100,
                                 "seed": 0})):
            out = self.dir / method
            said = self.json("init-editor", "--model", self.model, "--method", method, "--out", out)
            self.assertEqual(said, {"method": method, "modules": [PROJ.format(block)],
                                    "hyper": numbers})
            meta, tensors = read_safetensors(out)
            self.assertEqual((meta["method"], json.loads(meta["hyper"]), tensors),
                             (method, numbers, {}))
            self.assertEqual(len(meta["base_model"]), 64)

    def test_given(self):
        out = self.dir / "given"
        self.ok(*init("ft", out, self.model, {"steps": 3, "norm_constraint": 0}, "--modules",
                      PROJ.format(1) + ",transformer.h.0.mlp.c_fc"))
        meta, _ = read_safetensors(out)
        self.assertEqual(json.loads(meta["modules"]), [PROJ.format(1), "transformer.h.0.mlp.c_fc"])
        self.assertEqual(json.loads(meta["hyper"])["steps"], 3)
        self.assertEqual(json.loads(meta["hyper"])["lr"], 5e-4)

    def test_refused(self):
        out = self.dir / "refused"
        for hyper, says in (('{"step": 1}', "'step'"), ('{"steps": 1.5}', "'steps'"),
                            ('{"lr": -1}', "'lr'"), ('{"lr": "a"}', "'lr'"), ("[1]", "array"),
                            ("{", "--hyper"), ('{"lr": 1, "lr": 1}', "--hyper")):
            self.misused("init-editor", "--model", self.model, "--method", "ft", "--hyper", hyper,
                         "--out", out, says=["--hyper", says])
        for method, odd, says in (("ft", ["--lr", "1"], ["--lr", "FT", "--hyper"]),
                                  ("locft-bf", ["--data", "none"], ["--data", "LocFT-BF"]),
                                  ("malmen", ["--hyper", "{}"], ["--hyper", "MALMEN"]),
                                  ("malmen", ["--contexts", "5"], ["--contexts", "MALMEN"]),
                                  *((method, [option, value], [option, "no use"])
                                    for method in ("ultraedit", "ft", "locft-bf")
                                    for option, value in (("--rank", "1920"), ("--blocks", "2"),
                                                          ("--seed", "0"), ("--contexts", "5"))),
                                  ("locft-bf", ["--n-edits", "256"], ["--n-edits", "LocFT-BF"])):
            self.misused("init-editor", "--model", self.model, "--method", method, *odd, "--out", out,
                         says=says)
        for module in "h.9", PROJ.format(0) + ".bias":
            self.fails("init-editor", "--model", self.model, "--method", "ft", "--modules", module,
                       "--out", out, says=[module])

    def test_kinds(self):
        """FT reads a target off a prompt's last position: a fact checker has none."""
        self.fails("init-editor", "--model", BERT.model, "--method", "ft", "--out", self.dir / "bert",
                   says=["FT", "bert"])
        for case in BERT, T5:
            out = self.dir / case.dir.name
            self.ok(*init("locft-bf", out, case.model))
            done = self.json("edit", "--model", case.model, "--editor", out, "--facts", case.path,
                             "--verify")
            self.assertGreaterEqual(done["after"]["teacher_forced"]["es"],
                                    done["before"]["teacher_forced"]["es"])

    def test_files(self):
        """What a file must have, and must not."""
        facts = self.write("facts", FACTS)
        good = self.dir / "good"
        self.ok(*init("ft", good, self.model))
        meta, _ = read_safetensors(good)
        numbers = json.loads(meta["hyper"])
        without = {k: v for k, v in numbers.items() if k != "steps"}
        bad = self.dir / "bad"
        for change, tensors, says in (({"hyper": None}, {}, "'hyper'"),
                                      ({"hyper": json.dumps(without)}, {}, "'steps'"),
                                      ({"hyper": json.dumps({**numbers, "x": 1})}, {}, "'x'"),
                                      ({"hyper": json.dumps({**numbers, "lr": 1e9})}, {}, "'lr'"),
                                      ({"hyper": "7"}, {}, "hyper"),
                                      ({"modules": '["h.7"]'}, {}, "h.7"),
                                      ({}, {"x": ("F32", [1], b"\0\0\0\0")}, "'x'")):
            changed = {k: v for k, v in {**meta, **change}.items() if v is not None}
            write_safetensors(bad, tensors, changed)
            self.fails("edit", "--model", self.model, "--editor", bad, "--facts", facts, says=[says])
        self.fails("train", "--model", self.model, "--data", facts, "--init", good, "--out",
                   self.dir / "trained", says=["FT", "nothing to train"])
        self.fails("edit", "--model", self.model, "--editor", good, "--facts", facts, "--preserve",
                   facts, says=["FT solves no system"])
        self.fails("eval", "--model", self.model, "--editor", good, "--data", facts, "--update",
                   "joint", says=["FT solves no system"])


class Tuned(Serving):
    """One model, an editor of each method."""

    @classmethod
    def setUpClass(cls):
        Lab.setUpClass.__func__(cls)
        cls.model = tiny_model(cls.dir / "model")
        cls.path = cls.dir / "facts.json"
        cls.path.write_text(json.dumps(FACTS))

    def make(self, method, hyper=None):
        editor = self.dir / f"{self._testMethodName}.st"
        self.ok(*init(method, editor, self.model, hyper))
        self.use(editor, self.model)
        return editor

    def logprobs(self, d, model="live"):
        items = [{"prompt": f["prompt"], "target": f["target"]} for f in FACTS]
        answer = d.call("POST", "/v1/scores", {"items": items, "model": model})
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["version"], [s["logprob"] for s in answer.json["data"]]

    def once(self, editor, *more):
        """As without a daemon."""
        return self.json("edit", "--model", self.model, "--editor", editor, "--facts", self.path,
                         *more)


@each([("ft", "ft", PROJ.format(0), True), ("locft", "locft-bf", PROJ.format(1), False)])
class Story(Tuned):
    def check(self, method, module, bias):
        editor = self.make(method)
        d = self.serve("--keep-versions", "1")
        names = [module] + [module + ".bias"] * bias
        status = d.get("/v1/status").json["editor"]
        self.assertEqual((status["method"], status["modules"], status["update"]),
                         (method, names, "sequential"))
        _, base = self.logprobs(d)
        job = d.apply(*FACTS)
        self.assertEqual(job["result"]["rounds"], 0)
        at, edited = self.logprobs(d)
        self.assertEqual(at, 1)
        self.assertGreater(sum(edited), sum(base) + 1)
        self.assertEqual(self.logprobs(d, "base"), (0, base))

        zero, one = version(d, 0), version(d, 1)
        self.assertEqual([m["name"] for m in one["modules"]], names)
        self.assertTrue(all(m["shift_norm"] > 0 for m in one["modules"]), one["modules"])
        self.assertEqual((one["editor"]["method"], one["update"], one["delta"]["encoding"]),
                         (method, "sequential", "dense"))
        delta = self.dir / (method + ".delta")
        once = self.once(editor, "--out", delta)
        self.assertEqual(one["weights_hash"], once["weights_hash"], "as without a daemon")
        self.downloads(d, delta, names, bias)
        self.not_taken_back(d)

        back = roll_back(d, 0)
        self.assertEqual(back["weights_hash"], zero["weights_hash"])
        self.assertEqual(self.logprobs(d)[1], base)
        d.kill()
        d.start()
        self.assertEqual(self.logprobs(d)[1], base)
        forth = roll_back(d, 1)  # replayed from the base
        self.assertEqual(forth["weights_hash"], one["weights_hash"])
        self.assertEqual(self.logprobs(d)[1], edited)
        d.apply({"prompt": "g is", "target": "G"})
        d.kill()
        d.start()
        self.assertEqual(version(d, 4)["parent"], 3)
        report = self.json("verify", "--db", d.db, "--model", self.model)
        self.assertEqual((report["versions"], report["chain_hash"]),
                         (5, version(d, 4)["chain_hash"]))
        self.exported(d, names, bias)

    def downloads(self, d, delta, names, bias):
        answer = d.get("/v1/versions/1/delta")
        path = self.dir / "download"
        path.write_bytes(answer.body)
        _, got = read_safetensors(path)
        _, want = read_safetensors(delta)
        self.assertEqual(got, want)
        shapes = {name: shape for name, (_, shape, _) in got.items()}
        c = TINY["n_embd"]
        self.assertEqual(shapes, {names[0] + ".weight": [4 * c, c],
                                  **({names[1]: [c]} if bias else {})})
        lora = d.get("/v1/versions/1/delta", format="lora")
        if bias:
            self.assertEqual(lora.status, 409, lora.body)
            self.assertIn(names[1], lora.json["detail"])
        else:
            self.assertEqual(lora.status, 200)
        self.assertEqual(d.get("/v1/versions/0/delta", format="lora").status, 200)

    def not_taken_back(self, d):
        fact = d.get("/v1/facts", state="live").json["data"][0]["id"]
        answer = d.call("POST", "/v1/retractions", {"facts": [fact]})
        self.assertEqual(answer.status, 409, answer.body)
        self.assertIn("sequential", answer.json["detail"])

    def exported(self, d, names, bias):
        """The whole model, edited, says what the daemon says."""
        args = ["export", "--db", d.db, "--model", self.model, "--version", 4]
        whole, tensors = self.dir / ("whole" + names[0]), self.dir / ("tensors" + names[0])
        self.ok(*args, "--format", "model", "--out", whole)
        self.ok(*args, "--format", "safetensors", "--out", tensors)
        _, base = read_safetensors(self.model / "model.safetensors")
        _, all_of_it = read_safetensors(whole / "model.safetensors")
        _, changed = read_safetensors(tensors)
        self.assertEqual(sorted(changed), sorted([names[0] + ".weight"] + names[1:]))
        self.assertEqual(all_of_it, {**base, **changed})
        ids = self.write("ids", "97 32 105 115\n")
        logits = {}
        for name, more in (("whole", ["--model", whole]),
                           ("delta", ["--model", self.model, "--delta", self.dir / "d4"])):
            if name == "delta":
                self.ok(*args, "--format", "delta", "--out", self.dir / "d4")
            self.ok("logits", *more, "--tokens", ids, "--out", self.dir / name)
            logits[name] = read_floats(read_safetensors(self.dir / name)[1]["logits.0"])
            (self.dir / name).unlink()
        self.assertEqual(logits["whole"], logits["delta"])
        (self.dir / "d4").unlink()
        if bias:
            self.fails(*args, "--format", "lora", "--out", self.dir / "lora", says=[names[1], "LoRA"])
        else:
            self.ok(*args, "--format", "lora", "--out", self.dir / "lora")


@each([("ft", "ft", "steps"), ("locft", "locft-bf", "epochs")])
class Between(Tuned):
    """While a batch is being worked on."""

    def check(self, method, passes):
        for n in 200, 1600, 12800:  # until it takes long enough to be seen at work
            editor = self.make(method, {**HYPER[method], "lr": 1e-4, passes: n})
            if self.read_meanwhile(self.serve(name=f"db{n}"), editor):
                break
        else:
            self.fail("never seen at work")
        d = self.serve()
        job = d.edit(*FACTS).json["id"]
        d.wait_job(job, "running", "applied")
        if method == "ft":
            d.kill()
        else:
            self.assertEqual(d.stop(), 0)
        d.start()
        self.assertEqual(d.wait_job(job)["state"], "applied")
        self.assertEqual(version(d, 1)["weights_hash"], self.once(editor)["weights_hash"])
        self.assertEqual(d.get("/v1/versions/2").status, 404, "once")

    def read_meanwhile(self, d, editor):
        """How often."""
        _, base = self.logprobs(d)
        job = d.edit(*FACTS).json["id"]
        reads, at = 0, 0
        while at == 0:
            at, seen = self.logprobs(d)
            if at == 0:
                self.assertEqual(seen, base, "what is published, not what is being made")
                reads += d.get("/v1/status").json["batch"] is not None
        d.wait_job(job)
        self.assertEqual(version(d, 1)["weights_hash"], self.once(editor)["weights_hash"],
                         "reads change nothing")
        return reads


class Half(Tuned):
    def test_half(self):
        """Weights and biases in 16 bits: what is written is what was served."""
        model = copy_model(self.model, self.dir / "half")

        def halve(_, found):
            for name, tensor in found.items():
                values = read_floats(tensor)
                found[name] = "F16", tensor[1], struct.pack(f"<{len(values)}e", *values)
        change_safetensors(model / "model.safetensors", halve)
        editor, ids = self.dir / "half.st", self.write("ids16", "97 32 105 115\n")
        self.ok(*init("ft", editor, model))
        delta, whole = self.dir / "delta16", self.dir / "whole16"
        self.ok("edit", "--model", model, "--editor", editor, "--facts", self.path, "--out", delta,
                "--save-model", whole)
        _, tensors = read_safetensors(whole / "model.safetensors")
        _, base = read_safetensors(model / "model.safetensors")
        changed = {name for name, tensor in tensors.items() if tensor != base[name]}
        self.assertEqual(changed, {PROJ.format(0) + ".weight", PROJ.format(0) + ".bias"})
        self.assertTrue(all(dtype == "F16" for dtype, _, _ in tensors.values()))
        said = []
        for more in ["--model", whole], ["--model", model, "--delta", delta]:
            self.ok("logits", *more, "--tokens", ids, "--out", self.dir / "said")
            said.append(read_safetensors(self.dir / "said"))
        self.assertEqual(*said)


class Refused(Tuned):
    def test_joint(self):
        self.make("ft")
        done = malmend("serve", *harness.MODEL_ARGS, "--db", self.dir / "joint", "--update", "joint")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"FT solves no system", done.stderr)

    def test_another_editor(self):
        """The biases are part of what a database is about."""
        editor = self.make("ft")
        d = self.serve()
        d.apply(*FACTS)
        self.assertEqual(d.stop(), 0)
        db = ["--db", d.db, "--listen", "127.0.0.1:0"]
        done = malmend("serve", "--model", self.model, *db)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"biases", done.stderr)
        other = self.dir / "other"
        self.ok(*init("locft-bf", other, self.model, None, "--modules", PROJ.format(0)))
        done = malmend("serve", "--model", self.model, "--editor", other, *db)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"modules", done.stderr)
        self.use(editor, self.model)
        d.start()
        self.assertEqual(d.get("/v1/status").json["live_version"], 1)


class Gate(Tuned):
    def test_gate(self):
        self.make("locft-bf")
        d = self.serve("--gate-min-es", "1")
        job = d.wait_job(d.edit(*FACTS).json["id"])
        right = job["result"]["measures"]["decoded"]["es"]
        self.assertEqual(job["state"], "applied" if right == 1 else "rejected")
        self.assertLess(right, 1)
        self.assertEqual(d.get("/v1/status").json["live_version"], 0)


class Eval(Tuned):
    def test_eval(self):
        for method in HYPER:
            editor = self.make(method)
            report = self.json("eval", "--model", self.model, "--editor", editor, "--data", self.path,
                               "--n-edits", 3)
            self.assertEqual(len(report["batches"]), 2)
            self.assertTrue(math.isfinite(report["after"]["teacher_forced"]["es"]))


if __name__ == "__main__":
    main()
