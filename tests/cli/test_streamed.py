"""Streamed completions of real models: put together they are the answer, byte for byte, whatever
pieces its characters come in."""
import random

from harness import main
from golden import T5, Golden
from lab import MODEL, demo_facts
from sse import Completion
from test_serve import Serving

PROMPTS = [fact["prompt"] for fact in demo_facts(n=4)]
ODD = ["日本語の", "🙂", "naïve café", " ", "x"]


class Streamed(Serving):
    def same(self, d, prompt, **body):
        """The answer, streamed as it is whole."""
        whole = d.complete(prompt, **body)
        self.assertEqual(whole.status, 200, whole.body)
        pieces = Completion(d, prompt, stream_options={"include_usage": True}, **body)
        self.assertEqual(pieces.all, whole.json["choices"], (prompt, body))
        self.assertEqual(pieces.usage, whole.json["usage"])
        self.assertTrue(pieces.whole)
        return pieces

    def check(self, d, prompts):
        rng, replaced, n = random.Random(1), 0, 0
        self.same(d, prompts, max_tokens=20)
        for seed in range(25):
            prompt, tokens = rng.choice(prompts), rng.choice([1, 2, 3, 20])
            sampled = {"temperature": rng.choice([1, 2]), "seed": seed, "max_tokens": tokens}
            text = self.same(d, prompt, **sampled).all[0]["text"]
            replaced += "\ufffd" in text
            n += len(text)
            if not text:
                continue
            at = rng.randrange(len(text))
            stops = [text[at:at + rng.randint(1, 3)], text[-1:] + "!"]
            self.same(d, prompt, stop=stops, echo=rng.random() < 0.5, **sampled)
        return replaced, n

    def test_demo(self):
        d = self.serve()
        self.check(d, PROMPTS + ODD)
        pieces = self.same(d, PROMPTS[0], max_tokens=12)
        self.assertEqual(pieces.n[0], pieces.usage["completion_tokens"] + 1, "a piece a token")

    def of(self, case, prompts=()):
        """A golden case's model, whose weights are random."""
        self.use(case.editor, case.model)
        self.addCleanup(self.use, self.editor(), MODEL)
        replaced, n = self.check(self.serve(), case.prompts + list(prompts))
        print(f"# {n} characters, {replaced} of 25 texts with bytes that are no UTF-8")
        return replaced

    def test_byte_level(self):
        self.assertGreater(self.of(Golden("gpt2-malmen"), ODD), 5)

    def test_byte_tokens(self):
        self.assertGreater(self.of(Golden("llama-malmen"), ODD), 5)

    def test_encoder_decoder(self):
        self.of(T5)


if __name__ == "__main__":
    main()
