"""MEMIT: making its editor, and the daemon and the commands with it, start to end."""
import json
import math
import random

from harness import main
from lab import (Lab, floats, read_floats, read_safetensors, tiny_model, tiny_tokenizer,
                 write_safetensors)
from test_serve import Serving, roll_back, version

FACTS = [{"prompt": f"Is it {letter}", "subject": letter, "target": letter.upper(), "join": ""}
         for letter in "abcdef"]
PROJ = "transformer.h.{}.mlp.c_proj"
PUBLISHED = {"v_lr": 0.5, "v_steps": 20, "v_weight_decay": 0.5, "clamp": 0.75, "kl_factor": 0.0625,
             "mom2_weight": 20000, "loss_layer": 1}
HYPER = {"v_steps": 8, "clamp": 3, "mom2_weight": 0.01}
TEXT = "".join(f"{chr(65 + i)} word {i * i % 97} and {chr(122 - i)}, then {i}.\n" for i in range(26))


class Made(Serving):
    """One model, and text to measure."""

    @classmethod
    def setUpClass(cls):
        Lab.setUpClass.__func__(cls)
        cls.model = tiny_model(cls.dir / "model")
        cls.text, cls.path = cls.dir / "text", cls.dir / "facts.json"
        cls.text.write_text(TEXT)
        cls.path.write_text(json.dumps(FACTS))

    def init(self, out, hyper, *more):
        return ["init-editor", "--model", self.model, "--method", "memit", "--preserve", self.text,
                "--hyper", json.dumps(hyper), "--out", out, *more]

    def make(self, hyper=None):
        editor = self.dir / f"{self._testMethodName}.st"
        self.ok(*self.init(editor, {**HYPER, **(hyper or {})}, "--contexts", 2))
        self.use(editor, self.model)
        return editor

    def once(self, editor, *more):
        """As without a daemon."""
        return self.json("edit", "--model", self.model, "--editor", editor, "--facts", self.path,
                         *more)


def gptj(path, layers):
    c, v, rng = 8, 257, random.Random(2)
    sizes = {"wte.weight": [v, c], "ln_f.weight": [c], "ln_f.bias": [c]}
    for i in range(layers):
        for name in "q", "k", "v", "out":
            sizes[f"h.{i}.attn.{name}_proj.weight"] = [c, c]
        sizes.update({f"h.{i}.{name}": shape for name, shape in (
            ("ln_1.weight", [c]), ("ln_1.bias", [c]), ("mlp.fc_in.weight", [4 * c, c]),
            ("mlp.fc_in.bias", [4 * c]), ("mlp.fc_out.weight", [c, 4 * c]), ("mlp.fc_out.bias", [c]))})
    sizes = {"lm_head.weight": [v, c], "lm_head.bias": [v],
             **{f"transformer.{name}": shape for name, shape in sizes.items()}}
    path.mkdir()
    (path / "config.json").write_text(json.dumps({
        "model_type": "gptj", "n_layer": layers, "n_embd": c, "n_head": 1, "rotary_dim": 4,
        "n_positions": 64, "vocab_size": v, "eos_token_id": 256, "tie_word_embeddings": False}))
    (path / "tokenizer.json").write_text(json.dumps(tiny_tokenizer()))
    write_safetensors(path / "model.safetensors", {
        name: ("F32", shape, floats([rng.gauss(0, 0.5) for _ in range(math.prod(shape))]))
        for name, shape in sizes.items()})
    return path


class Editors(Made):
    def test_layers(self):
        """Those published, in models as deep; in others as far down."""
        models = [(tiny_model(self.dir / f"deep{n}", 1, n), PROJ, {}, n, first, last)
                  for n, first, last in ((48, 13, 17), (12, 3, 4), (4, 1, 1))]
        models.append((gptj(self.dir / "gptj", 28), "transformer.h.{}.mlp.fc_out",
                       {"v_steps": 25, "mom2_weight": 15000}, 28, 3, 8))
        for model, name, numbers, layers, first, last in models:
            said = self.json("init-editor", "--model", model, "--method", "memit", "--preserve",
                             self.text, "--out", self.dir / "deep")
            self.assertEqual(said["modules"], [name.format(i) for i in range(first, last + 1)])
            self.assertEqual(said["hyper"], {**PUBLISHED, **numbers, "loss_layer": layers - 1})

    def test_published(self):
        out = self.dir / "published"
        said = self.json(*self.init(out, {}))
        self.assertEqual(said, {"method": "memit", "modules": [PROJ.format(0)], "hyper": PUBLISHED,
                                "tokens": len(TEXT) - TEXT.count("\n")})
        meta, tensors = read_safetensors(out)
        contexts = json.loads(meta["contexts"])
        self.assertEqual((meta["method"], json.loads(meta["hyper"]), len(meta["base_model"])),
                         ("memit", PUBLISHED, 64))
        self.assertEqual((len(contexts), contexts[0], meta["context_groups"]), (6, "{}", "[1, 5]"))
        for word, context in zip(("The", "Therefore", "Because", "I", "You"), contexts[1:]):
            self.assertTrue(context.startswith(word) and context.endswith(". {}"), context)
        self.assertEqual({n: t[:2] for n, t in tensors.items()},
                         {PROJ.format(0) + ".mom2": ("F32", [32, 32])})
        c = read_floats(tensors[PROJ.format(0) + ".mom2"])
        self.assertEqual([c[i * 32 + j] for i in range(32) for j in range(32)],
                         [c[j * 32 + i] for i in range(32) for j in range(32)])
        again, other = self.dir / "again", self.dir / "other"
        self.ok(*self.init(again, {}))
        self.assertEqual(again.read_bytes(), out.read_bytes())
        self.ok(*self.init(other, {}, "--seed", 1))
        self.assertNotEqual(read_safetensors(other)[0]["contexts"], meta["contexts"])

    def test_refused(self):
        out, few = self.dir / "refused", self.write("few", "Too little.\n")
        args = ["init-editor", "--model", self.model, "--out", out, "--method"]
        self.misused(*args, "memit", says=["MEMIT needs --preserve"])
        self.fails(*args, "memit", "--preserve", few, says=["11 tokens", "32 inputs"])
        self.misused(*args, "ft", "--preserve", self.text, says=["--preserve", "FT"])
        for option in "--rank", "--blocks":
            self.misused(*self.init(out, {}, option, 1), says=[option, "MEMIT has no use"])
        for modules, says in ((PROJ.format(1), "last block"), ("transformer.h.0.mlp.c_fc", "MLP"),
                              (PROJ.format(0) + "," + PROJ.format(0), "twice")):
            self.fails(*self.init(out, {}, "--modules", modules), says=[says])

    def test_files(self):
        """What a file must have, and must not."""
        good, bad = self.dir / "good", self.dir / "bad"
        self.ok(*self.init(good, {}))
        meta, tensors = read_safetensors(good)
        name = PROJ.format(0) + ".mom2"
        broken = b"\0\0\x80\x7f" + tensors[name][2][4:]
        for change, others, says in (
                ({"contexts": None}, tensors, "'contexts'"),
                ({"contexts": "{}"}, tensors, "'contexts' is not a list"),
                ({"context_groups": "[]"}, tensors, "'context_groups' is not a list"),
                ({"contexts": '["a {}"]'}, tensors, "entry 0"),
                ({"contexts": '["{}", "none"]'}, tensors, "entry 1"),
                ({"context_groups": "[1, 4]"}, tensors, "6 contexts"),
                ({"context_groups": "[2, 4]"}, tensors, "alone"),
                ({"hyper": json.dumps({**PUBLISHED, "clamp": 0})}, tensors, "'clamp'"),
                ({"hyper": json.dumps({**PUBLISHED, "loss_layer": 0})}, tensors, "layer 0"),
                ({}, {}, name), ({}, {**tensors, "x": tensors[name]}, "'x'"),
                ({}, {name: ("F32", [16, 64], tensors[name][2])}, "square"),
                ({}, {name: ("F32", [16, 16], tensors[name][2][:1024])}, "32 inputs"),
                ({}, {name: ("F32", [32, 32], broken)}, "inf")):
            changed = {k: v for k, v in {**meta, **change}.items() if v is not None}
            write_safetensors(bad, others, changed)
            self.fails("edit", "--model", self.model, "--editor", bad, "--facts", self.path,
                       says=[says])


class Story(Made):
    def logprobs(self, d, model="live"):
        items = [{"prompt": f["prompt"], "target": f["target"]} for f in FACTS]
        answer = d.call("POST", "/v1/scores", {"items": items, "model": model})
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["version"], [s["logprob"] for s in answer.json["data"]]

    def test_story(self):
        editor = self.make()
        d = self.serve("--keep-versions", "1")
        status = d.get("/v1/status").json["editor"]
        self.assertEqual((status["method"], status["modules"], status["update"]),
                         ("memit", [PROJ.format(0)], "sequential"))
        _, base = self.logprobs(d)
        self.refused(d)
        d.apply(*FACTS)
        at, edited = self.logprobs(d)
        self.assertEqual(at, 1)
        self.assertGreater(sum(edited), sum(base) + 1)
        one = version(d, 1)
        self.assertEqual((one["editor"]["method"], one["update"], one["delta"]["encoding"]),
                         ("memit", "sequential", "factors"))
        self.assertEqual(one["weights_hash"], self.once(editor)["weights_hash"],
                         "as without a daemon")
        fact = d.get("/v1/facts", state="live").json["data"][0]["id"]
        self.assertEqual(d.call("POST", "/v1/retractions", {"facts": [fact]}).status, 409)

        self.assertEqual(roll_back(d, 0)["weights_hash"], version(d, 0)["weights_hash"])
        self.assertEqual(self.logprobs(d)[1], base)
        d.kill()
        d.start()
        self.assertEqual(roll_back(d, 1)["weights_hash"], one["weights_hash"], "replayed")
        self.assertEqual(self.logprobs(d)[1], edited)
        d.apply({"prompt": "Say what g is:", "prompts": ["It is g"], "subject": "g",
                 "target": "G"})
        d.kill()
        d.start()
        self.assertEqual(version(d, 4)["parent"], 3)
        report = self.json("verify", "--db", d.db, "--model", self.model)
        self.assertEqual((report["versions"], report["chain_hash"]),
                         (5, version(d, 4)["chain_hash"]))

    def refused(self, d):
        """A fact without its subject, however it comes, and nothing of its request is taken."""
        long = {**FACTS[1], "prompt": "Is" + " it" * 18 + " b"}
        for bad, pointer in (({k: v for k, v in FACTS[1].items() if k != "subject"}, "subject"),
                             ({**FACTS[1], "subject": "z"}, "prompt"),
                             ({**FACTS[1], "prompts": ["It is"]}, "prompts/0"), (long, "prompt")):
            facts, at = [FACTS[0], bad], f"/facts/1/{pointer}"
            for more in {}, {"validate_only": True}:
                answer = d.call("POST", "/v1/edits", {"facts": facts, **more})
                self.assertEqual(answer.status, 422, answer.body)
                self.assertEqual([e["pointer"] for e in answer.json["errors"]], [at])
            lines = "".join(json.dumps(fact) + "\n" for fact in facts)
            answer = d.call("POST", "/v1/edits", lines.encode(),
                            {"Content-Type": "application/x-ndjson"})
            self.assertEqual(answer.status, 422, answer.body)
            self.assertEqual([e["pointer"] for e in answer.json["errors"]], [at])
            path = self.write("bad", facts)
            for command in ("edit", "--facts"), ("eval", "--data"):
                self.fails(command[0], "--model", self.model, "--editor",
                           self.dir / f"{self._testMethodName}.st", command[1], path, says=[at])
            path.unlink()
        self.assertEqual(d.get("/v1/status").json["queue"]["facts"], 0)
        self.assertEqual(d.call("POST", "/v1/edits", {"facts": FACTS, "validate_only": True}).status,
                         200)

    def test_meanwhile(self):
        """Reads see what is published, and change nothing; what a kill interrupts is done once."""
        for n in 200, 1600, 12800:  # until it takes long enough to be seen at work
            editor = self.make({"v_steps": n, "v_lr": 1e-3})
            d = self.serve(name=f"db{n}")
            _, base = self.logprobs(d)
            job = d.edit(*FACTS).json["id"]
            reads, at = 0, 0
            while at == 0:
                at, seen = self.logprobs(d)
                if at == 0:
                    self.assertEqual(seen, base)
                    reads += d.get("/v1/status").json["batch"] is not None
            d.wait_job(job)
            hash = version(d, 1)["weights_hash"]
            self.assertEqual(hash, self.once(editor)["weights_hash"])
            if reads:
                break
        else:
            self.fail("never seen at work")
        d = self.serve()
        job = d.edit(*FACTS).json["id"]
        d.wait_job(job, "running", "applied")
        d.kill()
        d.start()
        self.assertEqual(d.wait_job(job)["state"], "applied")
        self.assertEqual(version(d, 1)["weights_hash"], hash)
        self.assertEqual(d.get("/v1/versions/2").status, 404, "once")

    def test_eval(self):
        report = self.json("eval", "--model", self.model, "--editor", self.make(), "--data",
                           self.path, "--n-edits", 3)
        self.assertEqual(len(report["batches"]), 2)
        self.assertGreater(report["after"]["teacher_forced"]["es"],
                           report["before"]["teacher_forced"]["es"])


if __name__ == "__main__":
    main()
