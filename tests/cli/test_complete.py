"""malmend complete: what a model says."""
import json
import os

from harness import main
from lab import MODEL, Lab, demo_facts, tiny_model, tiny_tokenizer

PROBES = [probe for fact in demo_facts(n=4) for probe in fact["unrelated"]]
PROMPT = PROBES[0]["prompt"]


class Complete(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tiny = tiny_model(cls.dir / "tiny")

    def complete(self, prompt=PROMPT, *args, model=MODEL):
        return self.json("complete", "--model", model, "--prompt", prompt, *args)

    def test_knows(self):
        for probe in PROBES:
            answer = self.complete(probe["prompt"])
            self.assertEqual(answer["text"], f" {probe['target']}.")
            self.assertEqual(answer["finish_reason"], "stop")

    def test_text(self):
        self.assertEqual(self.ok("complete", "--model", MODEL, "--prompt", PROMPT),
                         f" {PROBES[0]['target']}.\n")

    def test_limit(self):
        answer = self.complete(PROMPT, "--max-tokens", "1")
        self.assertEqual((answer["tokens"], answer["finish_reason"]), (1, "length"))
        self.assertEqual(self.complete("A", "--max-tokens", "1000", model=self.tiny)["tokens"], 63,
                         "no further than the context")

    def test_sampling(self):
        def draw(seed, *args):
            return self.complete("A", "--temperature", "1", "--seed", str(seed), *args,
                                 model=self.tiny)["text"]
        texts = [draw(seed) for seed in (1, 2, 3)]
        self.assertEqual(texts, [draw(seed) for seed in (1, 2, 3)])
        self.assertEqual(len(set(texts)), 3)
        greedy = self.complete("A", model=self.tiny)["text"]
        self.assertEqual(draw(1, "--top-p", "1e-6"), greedy, "the most probable token alone")
        self.assertNotIn(greedy, texts)

    def test_odd_prompts(self):
        for prompt in "é", "\U0001f642", " ", "\n\t", "<|endoftext|>", "a" * 63:
            self.assertGreaterEqual(self.complete(prompt, model=self.tiny)["tokens"], 0)

    def test_refused(self):
        args = ["complete", "--model", self.tiny, "--prompt"]
        self.fails(*args[:-1], "--prompt=", says=["no tokens"])
        for n in 64, 65:
            self.fails(*args, "a" * n, says=[n, "the most are 63"])
        self.misused(*args, "x", "--device", "tpu", says=["tpu"])
        self.fails(*args, "x", "--delta", self.dir / "none", says=[self.dir / "none"])

    def test_unknown_token(self):
        """A tokenizer may have an added token more than the model has embeddings: a text with it
        is refused, not the model."""
        model = tiny_model(self.dir / "padded")
        tok = tiny_tokenizer()
        tok["added_tokens"].append({**tok["added_tokens"][0], "id": 257, "content": "[PAD]"})
        (model / "tokenizer.json").write_text(json.dumps(tok))
        self.assertEqual(self.complete("A", model=model), self.complete("A", model=self.tiny))
        self.fails("complete", "--model", model, "--prompt", "A [PAD]", says=["[PAD]", "257"])

    def test_appended(self):
        """What the tokenizer appends to texts, as add_eos_token makes it, does not end the prompt."""
        model = tiny_model(self.dir / "ended")
        end = "<|endoftext|>"
        tok = {**tiny_tokenizer(), "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [{"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": end, "type_id": 0}}],
            "special_tokens": {end: {"id": end, "ids": [256], "tokens": [end]}}}}
        (model / "tokenizer.json").write_text(json.dumps(tok))
        self.assertEqual(self.complete("A", model=model), self.complete("A", model=self.tiny))

    def test_not_utf8(self):
        self.fails("complete", "--model", self.tiny, "--prompt", os.fsdecode(b"a\xffb"),
                   says=["UTF-8"])


if __name__ == "__main__":
    main()
