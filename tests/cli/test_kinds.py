"""Each command on encoder-decoders and classifiers, against the golden cases' figures."""
import json
import shutil

from golden import BERT, CASES, T5, T5_ORIGINAL
from harness import main
from lab import Lab, each, read_safetensors

# The original T5 case edits the decoder alone.
TABLE = [("t5", T5, "t5-malmen-train"), ("t5_original", T5_ORIGINAL, None),
         ("bert", BERT, "bert-malmen-train")]
DEFAULT = {  # the paper's choice at two blocks a stack
    "t5": [f"{stack}.block.1.layer.{layer}.DenseReluDense.{name}"
           for stack, layer in (("encoder", 1), ("decoder", 2)) for name in ("wi_0", "wo")],
    "t5_original": [f"{stack}.block.1.layer.{layer}.DenseReluDense.{name}"
                    for stack, layer in (("encoder", 1), ("decoder", 2)) for name in ("wi", "wo")],
    "bert": ["backbone.encoder.layer.1.output.dense"],
}


class Close(Lab):
    def same_measures(self, got, want):
        self.assertEqual(set(got), set(want))
        for key, value in want.items():
            self.assertAlmostEqual(got[key], value, 6, key)


@each(TABLE)
class Eval(Close):
    def check(self, case, train):
        report = self.json("eval", *case.args, "--data", case.path, "--repair-rounds", 0)
        before, after = report["before"], report["after"]
        self.same_measures(before["teacher_forced"], case.measures("before"))
        self.same_measures(after["teacher_forced"], case.measures("after"))
        self.assertEqual(before["agreement"], 1)
        self.assertLess(after["agreement"], 1)
        if case is BERT:
            self.assertEqual(after["decoded"], after["teacher_forced"], "one answer, one token")
            sides = [[p > 0.5 for p in case.probabilities("unrelated", when)]
                     for when in ("base", "edited")]
            same = sum(a == b for a, b in zip(*sides))
            self.assertAlmostEqual(after["agreement"], same / len(case.facts))


@each(TABLE)
class Edit(Lab):
    def check(self, case, train):
        """The whole edited model answers as the delta does, and has the shift of the case."""
        delta, saved = (self.dir / f"{case.dir.name}.{name}" for name in ("delta", "model"))
        report = self.json("edit", *case.args, "--facts", case.path, "--out", delta,
                           "--save-model", saved)
        self.assertEqual(report["facts"], len(case.facts))
        _, tensors = read_safetensors(delta)
        self.assertEqual(sorted(tensors), [f"{name}.weight" for name in case.modules])
        out = self.dir / "logits"
        ids = self.write("ids", "5 6 7 | 0 9 8\n" if case is not BERT else "2 9 8 3\n")
        logits = [self.logits(out, ids, "--model", case.model),
                  self.logits(out, ids, "--model", case.model, "--delta", delta),
                  self.logits(out, ids, "--model", saved)]
        self.assertNotEqual(logits[0], logits[1])
        self.assertEqual(logits[1], logits[2])

    def logits(self, out, ids, *args):
        self.ok("logits", *args, "--tokens", ids, "--out", out)
        return read_safetensors(out)[1]["logits.0"][2]


@each(TABLE)
class Make(Lab):
    def check(self, case, train):
        out = self.dir / f"{case.dir.name}.made"
        args = ["init-editor", "--model", case.model, "--method", "malmen", "--out", out]
        report = self.json(*args)
        self.assertEqual(sorted(report["modules"]), sorted(DEFAULT[self._testMethodName[5:]]))
        if case is T5_ORIGINAL:
            return  # no step moves any of its three answers
        searched = self.json(*args, "--blocks", 0, "--data", case.path, "--modules",
                             ",".join(case.modules))
        best = max(step["score"] for step in searched["search"])
        self.assertGreater(best, sum(case.measures("before").values()))


@each([(name, case, train) for name, case, train in TABLE if train])
class Train(Lab):
    def check(self, case, train):
        """Trained on both stacks' modules, an editor that edit takes."""
        out = self.dir / "trained"
        lines = [json.loads(line) for line in self.ok(
            "train", "--model", case.model, "--data", CASES / train / "data.json", "--modules",
            ",".join(case.modules), "--rank", 4, "--blocks", 1, "--n-edits", 2, "--steps", 3,
            "--lr", "0.01", "--out", out, "--json").splitlines()]
        self.assertEqual([line["step"] for line in lines], [1, 2, 3])
        self.assertTrue(all(line["grad_norm"] > 0 for line in lines), lines)
        self.ok("edit", "--model", case.model, "--editor", out, "--facts", case.path)


class Config(Lab):
    def test_transformers_5(self):
        """Its config.json says that all heads are tied; whether they are, the tensors say."""
        for case, scaled in ((T5, False), (T5_ORIGINAL, True)):
            model = self.dir / case.dir.name
            shutil.copytree(case.model, model)
            config = json.loads((model / "config.json").read_text())
            config.update(tie_word_embeddings=True, scale_decoder_outputs=scaled)
            (model / "config.json").write_text(json.dumps(config))
            ids, out = self.write("ids", "5 6 7 | 0 9 8\n"), self.dir / "logits"
            logits = []
            for path in case.model, model:
                self.ok("logits", "--model", path, "--tokens", ids, "--out", out)
                logits.append(read_safetensors(out)[1]["logits.0"])
            self.assertEqual(*logits)


class Complete(Lab):
    def complete(self, prompt, *args, model=T5.model):
        return self.json("complete", "--model", model, "--prompt", prompt, *args)

    def test_as_the_reference(self):
        """The first token is the argmax of PyTorch's logits."""
        logits = T5.logits("unrelated", "base")
        for probe, row in zip(T5.probes, logits, strict=True):
            first = str(max(range(len(row)), key=row.__getitem__)).encode()
            text = self.complete(probe["prompt"], "--max-tokens", 1)["text"]
            self.assertEqual(self.ok("tokenize", "--model", T5.model, "--decode", stdin=first),
                             text + "\n")

    def test_same_alone_and_edited(self):
        delta = self.dir / "delta"
        self.ok("edit", *T5.args, "--facts", T5.path, "--out", delta)
        self.assertNotEqual(self.complete(T5.prompts[0]),
                            self.complete(T5.prompts[0], "--delta", delta))

    def test_odd_prompts(self):
        for prompt in "", " ", "\u2603", "x" * 300:
            answer = self.complete(prompt)
            self.assertLessEqual(answer["tokens"], 16)

    def test_limits(self):
        """T5 has no context of its own."""
        self.fails("complete", "--model", T5.model, "--prompt", "a " * 50000,
                   says=["tokens", "4096"])
        self.assertLessEqual(self.complete("Ida", "--max-tokens", 1 << 20)["tokens"], 4096)

    def test_classifier(self):
        self.fails("complete", "--model", BERT.model, "--prompt", "x",
                   says=["bert", "fact checker", "/v1/scores"])


class Refused(Lab):
    def test_not_a_class(self):
        facts = self.write("facts.json", [*BERT.facts[:2], {**BERT.facts[2], "target": "true"}])
        for command in (["edit", *BERT.args, "--facts"], ["eval", *BERT.args, "--data"],
                        ["edit", "--model", BERT.model, "--facts"]):
            self.fails(*command, facts, says=[facts, "/facts/2/target", "SUPPORTS", "REFUTES"])
        probe = {"prompt": "a", "target": "no"}
        facts = self.write("facts.json", [{**BERT.facts[0], "unrelated": [probe]}])
        self.fails("edit", *BERT.args, "--facts", facts, says=["/facts/0/unrelated/0/target"])

    def test_long_target(self):
        facts = self.write("facts.json", [{"prompt": "x", "target": "y " * 5000}])
        self.fails("edit", *T5.args, "--facts", facts, says=["/facts/0/target", "4096"])

    def test_editor_of_another(self):
        for model, editor, module in ((T5, BERT, BERT.modules[0]), (BERT, T5, T5.modules[0])):
            self.fails("edit", "--model", model.model, "--editor", editor.editor, "--facts",
                       model.path, says=[editor.editor, "backbone" if editor is BERT else "block"])


if __name__ == "__main__":
    main()
