"""malmend complete: what a model says."""
import os

from harness import main
from lab import MODEL, Lab, demo_facts, tiny_model

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
        self.fails(*args, "a" * 65, says=["65", "64"])
        self.fails(*args, "x", "--device", "tpu", says=["tpu"])
        self.fails(*args, "x", "--delta", self.dir / "none", says=[self.dir / "none"])

    def test_not_utf8(self):
        self.fails("complete", "--model", self.tiny, "--prompt", os.fsdecode(b"a\xffb"),
                   says=["UTF-8"])


if __name__ == "__main__":
    main()
