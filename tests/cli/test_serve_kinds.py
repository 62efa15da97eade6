"""The daemon on an encoder-decoder and on a classifier, start to end, and what it refuses there."""
import math
import shutil

import harness
from golden import BERT, T5
from harness import main
from lab import change_safetensors, floats, malmend, read_floats
from test_serve import ONE_PASS, Serving, roll_back, version


class Kind(Serving):
    """The story of a model of one kind; `case` and what follows it are the subclass's."""

    case = None
    problem = harness.Case.problem

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.case:
            cls.use(cls.case.editor, cls.case.model)

    def answers(self, d, model="live"):
        """What the model answers, whatever that is of this kind."""
        raise NotImplementedError

    def scores(self, d, model="live", items=None):
        items = items or [{"prompt": f["prompt"], "target": f["target"]} for f in self.case.facts]
        answer = d.call("POST", "/v1/scores", {"items": items, "model": model})
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["data"]

    def right(self, when):
        """How many facts PyTorch's model has wholly right."""
        return sum(share == 1 for share in self.case.expected[when]["es_per_fact"])

    def measured(self, d, job):
        """The job's measures are PyTorch's."""
        measures = job["result"]["measures"]
        for key, value in self.case.measures("after").items():
            self.assertAlmostEqual(measures["teacher_forced"][key], value, 6)
        n, right = len(self.case.facts), self.right("after")
        self.assertAlmostEqual(measures["decoded"]["es"], right / n)
        self.assertEqual(len(job["result"]["wrong"]), n - right)
        facts = d.get("/v1/facts", state="live", limit=100).json["data"]
        self.assertEqual(sum(f["verified"]["decoded"] for f in facts), right)
        self.assertEqual(version(d, 1)["measures"], measures)

    def described(self, d, architecture):
        model = d.get("/v1/status").json["model"]
        self.assertEqual(model["architecture"], architecture)
        self.assertGreater(model["parameters"], 1000)
        self.assertEqual(sorted(d.get("/v1/status").json["editor"]["modules"]), self.case.modules)
        self.assertEqual([m["id"] for m in d.get("/v1/models").json["data"]],
                         ["base", "live", "v0"])

    def story(self, architecture):
        d = self.serve("--keep-versions", "1", *ONE_PASS)
        self.described(d, architecture)
        base = self.answers(d)
        self.assertEqual(sum(s["correct"] for s in self.scores(d)), self.right("before"))

        job = d.apply(*self.case.facts)
        self.measured(d, job)
        edited = self.answers(d)
        self.assertNotEqual(edited, base)
        self.assertEqual(self.answers(d, "base"), base)
        self.assertEqual(self.answers(d, "v1"), edited)
        self.assertEqual(sum(s["correct"] for s in self.scores(d)), self.right("after"))

        zero, one = version(d, 0), version(d, 1)
        once = self.json("edit", *self.case.args, "--facts", self.case.path, "--repair-rounds", 0,
                         "--out", self.dir / "delta")
        self.assertEqual(one["weights_hash"], once["weights_hash"], "as without a daemon")
        self.assertEqual([m["name"] for m in one["modules"]], self.case.modules)
        self.assertTrue(all(m["shift_norm"] > 0 for m in one["modules"]), one["modules"])

        back = roll_back(d, 0)
        self.assertEqual(back["weights_hash"], zero["weights_hash"])
        self.assertEqual(self.answers(d), base)
        d.kill()
        d.start()
        self.assertEqual(self.answers(d), base)
        forth = roll_back(d, 1)  # replayed from the base
        self.assertEqual(forth["weights_hash"], one["weights_hash"])
        self.assertEqual(self.answers(d), edited)
        d.apply(self.case.facts[0])
        warning = d.wait_log("batch below the editor's micro-batch")
        self.assertEqual((warning["level"], warning["facts"]), ("warning", 1))
        d.kill()
        d.start()
        report = self.json("verify", "--db", d.db, "--model", self.case.model)
        self.assertEqual((report["versions"], report["chain_hash"]),
                         (5, version(d, 4)["chain_hash"]))
        return d


class EncoderDecoder(Kind):
    case = T5

    def answers(self, d, model="live"):
        answer = d.complete(T5.prompts, model=model, max_tokens=6)
        self.assertEqual(answer.status, 200, answer.body)
        return [choice["text"] for choice in answer.json["choices"]]

    def test_story(self):
        d = self.story("t5")
        roll_back(d, 1)
        for model, more in (("base", []), ("live", ["--delta", self.dir / "delta"])):
            alone = [self.json("complete", "--model", T5.model, "--prompt", prompt, "--max-tokens",
                               6, *more)["text"] for prompt in T5.prompts]
            self.assertEqual(self.answers(d, model), alone, "as without a daemon")

    def test_completions(self):
        d = self.serve()
        for prompt in "", " ", "\u2603":
            self.assertEqual(d.complete(prompt).status, 200)
        usage = d.complete("").json["usage"]
        self.assertEqual(usage["prompt_tokens"], 1, "the end of text that the encoder reads")
        plain = d.complete(T5.prompts[0], max_tokens=3).json["choices"][0]["text"]
        echo = d.complete(T5.prompts[0], max_tokens=3, echo=True).json["choices"][0]["text"]
        self.assertEqual(echo, f"{T5.prompts[0]} {plain}")
        drawn = {d.complete(T5.prompts[0], temperature=2, seed=s).json["choices"][0]["text"]
                 for s in (1, 2, 3)}
        self.assertGreater(len(drawn), 1)
        none = d.complete(T5.prompts[0], max_tokens=0).json
        self.assertEqual((none["choices"][0]["text"], none["usage"]["completion_tokens"]), ("", 0))

    def test_too_long(self):
        """It has no context, and refuses all the same what would keep it busy for minutes."""
        d = self.serve()
        megabyte = "a " * (1 << 19)
        self.problem(d.complete(megabyte), 422, "/prompt", "4096")
        self.problem(d.complete(["x", megabyte]), 422, "/prompt/1", "4096")
        items = [{"prompt": "x", "target": "y"}, {"prompt": megabyte, "target": "y"}]
        self.problem(d.call("POST", "/v1/scores", {"items": items}), 422, "/items/1/prompt", "4096")
        items[1] = {"prompt": "x", "target": megabyte}
        self.problem(d.call("POST", "/v1/scores", {"items": items}), 422, "/items/1/target", "4096")
        self.problem(d.edit({"prompt": megabyte, "target": "y"}), 422, "/facts/0/prompt", "4096")
        self.problem(d.edit({"prompt": "x", "target": megabyte}), 422, "/facts/0/target", "4096")
        answer = d.complete("x", max_tokens=1000000, stop=["e"])
        self.assertEqual(answer.status, 200)
        self.assertLessEqual(answer.json["usage"]["completion_tokens"], 4096)

    def test_score_needs_a_target(self):
        self.problem(self.serve().call("POST", "/v1/scores", {"items": [{"prompt": "x"}]}), 422,
                     "/items/0/target", "missing")


class Classifier(Kind):
    case = BERT

    def answers(self, d, model="live"):
        items = [{"prompt": prompt} for prompt in BERT.prompts]
        return [score["probability"]["SUPPORTS"] for score in self.scores(d, model, items)]

    def near(self, got, want):
        for a, b in zip(got, want, strict=True):
            self.assertAlmostEqual(a, b, delta=1e-4)

    def test_story(self):
        d = self.story("bert")
        self.near(self.answers(d, "base"), BERT.probabilities("edit", "base"))
        roll_back(d, 1)
        self.near(self.answers(d), BERT.probabilities("edit", "edited"))
        probes = self.scores(d, items=BERT.probes)
        self.near([s["probability"]["SUPPORTS"] for s in probes],
                  BERT.probabilities("unrelated", "edited"))

    def test_scores(self):
        d = self.serve()
        for score, p in zip(self.scores(d), BERT.probabilities("edit", "base"), strict=True):
            self.assertEqual(set(score), {"prompt", "target", "probability", "correct"})
            self.assertEqual(score["correct"], score["target"] == ("SUPPORTS" if p > 0.5 else
                                                                   "REFUTES"))
        bare, = self.scores(d, items=[{"prompt": BERT.prompts[0]}])
        self.assertEqual(set(bare), {"prompt", "probability"})
        null, = self.scores(d, items=[{"prompt": BERT.prompts[0], "target": None}])
        self.assertEqual(null, bare)

    def test_certain(self):
        """Nearly 0 and nearly 1 are not 0 and 1."""
        model = self.dir / "certain"
        shutil.copytree(BERT.model, model)

        def louder(metadata, tensors):
            for name in ("classifier.weight", "classifier.bias"):
                dtype, shape, _ = tensors[name]
                tensors[name] = dtype, shape, floats([50 * x for x in read_floats(tensors[name])])
        change_safetensors(model / "model.safetensors", louder)
        self.use(self.editor("certain-editor", modules=BERT.modules, model=model), model)
        self.addCleanup(self.use, BERT.editor, BERT.model)
        want = [1 / (1 + math.exp(-50 * logit)) for logit, in BERT.logits("edit", "base")]
        self.assertLess(min(want), 1e-4)
        for got, p in zip(self.answers(self.serve()), want, strict=True):
            self.assertAlmostEqual(got / p, 1, delta=1e-3)

    def test_refused(self):
        d = self.serve()
        answer = d.complete(BERT.prompts[0])
        self.problem(answer, 422, detail="/v1/scores")
        self.assertNotIn("errors", answer.json)
        self.problem(d.edit(BERT.facts[0], {**BERT.facts[1], "target": "Glamdale"}), 422,
                     "/facts/1/target", "SUPPORTS")
        wrong = [{"prompt": "x", "target": "yes"}]
        self.problem(d.edit({**BERT.facts[0], "unrelated": wrong}), 422,
                     "/facts/0/unrelated/0/target", "REFUTES")
        self.problem(d.call("POST", "/v1/scores", {"items": wrong}), 422, "/items/0/target",
                     "REFUTES")
        long = "red " * 60
        self.problem(d.call("POST", "/v1/scores", {"items": [{"prompt": long}]}), 422,
                     "/items/0/prompt", "48")
        self.problem(d.edit({"prompt": long, "target": "SUPPORTS"}), 422, "/facts/0/prompt", "48")
        self.assertEqual(d.get("/v1/jobs").json["data"], [])

    def test_no_head(self):
        """A BERT that classifies nothing is refused at the start, not at the first question."""
        model = self.dir / "bare"
        shutil.copytree(BERT.model, model)

        def bare(metadata, tensors):
            del tensors["classifier.weight"], tensors["classifier.bias"]
        change_safetensors(model / "model.safetensors", bare)
        self.refuses(model, "classifier.weight")

    def test_tokenizer_of_another(self):
        model = self.dir / "mixed"
        shutil.copytree(T5.model, model)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(BERT.model / name, model / name)
        self.refuses(model, "102", "96")

    def refuses(self, model, *says):
        done = malmend("serve", "--model", model, "--db", self.dir / "none.db", "--listen",
                       "127.0.0.1:0")
        self.assertEqual(done.returncode, 1)
        for text in (str(model), *says):
            self.assertIn(text, done.stderr.decode())
        self.fails("edit", "--model", model, "--facts", self.case.path, says=[model, *says])


del Kind, Serving  # bases, not tests of their own

if __name__ == "__main__":
    main()
