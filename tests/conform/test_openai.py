"""OpenAI's own client, as it is: what it lists, completes and raises."""
import asyncio
import os
import tempfile
import unittest
from unittest import mock

import packages

NO_PACKAGES = packages.enter()

import harness
from harness import Daemon
from lab import DEMO, MODEL, demo_facts
from tokens import Tokens, bearer

if not NO_PACKAGES:
    import openai
    from openai import AsyncOpenAI, OpenAI

FACTS = demo_facts(n=4)
PROMPT = FACTS[0]["prompt"]
REAL = ["--model", str(MODEL), "--editor", str(DEMO / "editor.safetensors")]
SAME = {"model": "live", "max_tokens": 12, "temperature": 0, "stop": ["."]}


def client_of(d, key, kind=None):
    return (kind or OpenAI)(base_url=f"http://{d.address}/v1", api_key=key, max_retries=0,
                            timeout=harness.PATIENCE)


@unittest.skipIf(NO_PACKAGES, NO_PACKAGES)
class Client(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory(prefix="malmend-")
        cls.tokens = Tokens(cls.own.name)
        harness.MODEL_ARGS = REAL
        cls.d = Daemon("--tokens", cls.tokens.path, directory=cls.own.name)
        cls.d.headers = bearer(cls.tokens.of["edit"])
        cls.d.apply(*FACTS)
        cls.client = client_of(cls.d, cls.tokens.of["infer"])

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.d.close()
        cls.own.cleanup()

    def complete(self, **more):
        return self.client.completions.create(**{**SAME, "prompt": PROMPT, **more})

    def refused(self, kind, says, **more):
        """What it raises has the status, and what was wrong."""
        with self.assertRaises(kind) as caught:
            self.complete(**more)
        self.assertIn(says, caught.exception.body["detail"])
        self.assertEqual(caught.exception.body["status"], caught.exception.status_code)
        self.assertTrue(caught.exception.request_id)

    def test_models(self):
        models = {model.id: model for model in self.client.models.list()}
        self.assertEqual(set(models), {"base", "live", "v0", "v1"})
        for model in models.values():
            self.assertEqual((model.object, model.owned_by), ("model", "malmend"))
            self.assertGreater(model.created, 0)
            self.assertEqual(self.client.models.retrieve(model.id), model)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("v7")

    def test_completes(self):
        answer = self.complete()
        self.assertEqual((answer.object, answer.model), ("text_completion", "live"))
        choice, = answer.choices
        self.assertEqual((choice.index, choice.text.strip(), choice.finish_reason, choice.logprobs),
                         (0, FACTS[0]["target"], "stop", None))
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertTrue(answer._request_id.startswith("req_"))
        whole = self.d.complete(PROMPT, **SAME).json
        self.assertEqual(answer.choices[0].text, whole["choices"][0]["text"])

    def test_models_differ(self):
        old, new = (self.complete(model=name).choices[0].text for name in ("base", "v1"))
        self.assertNotEqual(old, new)
        raw = self.client.completions.with_raw_response.create(**SAME, prompt=PROMPT)
        self.assertEqual(raw.headers["Malmend-Version"], "1")

    def test_lengths_and_stops(self):
        short = self.complete(max_tokens=1, stop=None)
        self.assertEqual((short.choices[0].finish_reason, short.usage.completion_tokens), ("length", 1))
        text = self.complete(stop=None).choices[0].text
        word = text.split()[0]
        self.assertEqual(self.complete(stop=word).choices[0].text, text[:text.index(word)])

    def test_several(self):
        prompts = [fact["prompt"] for fact in FACTS]
        answer = self.complete(prompt=prompts, echo=True)
        self.assertEqual([choice.index for choice in answer.choices], list(range(len(FACTS))))
        for fact, choice in zip(FACTS, answer.choices):
            self.assertEqual(choice.text, f"{fact['prompt']} {fact['target']}")

    def test_sampling(self):
        sampled = {"prompt": "In", "temperature": 2, "top_p": 0.99, "seed": 7, "stop": None,
                   "user": "somebody"}
        texts = [self.complete(**sampled).choices[0].text for _ in range(2)]
        self.assertEqual(*texts)
        others = {self.complete(**{**sampled, "seed": seed}).choices[0].text for seed in range(8)}
        self.assertGreater(len(others), 1, others)

    def test_neutral(self):
        """What other servers need said, as a client that says everything sends it."""
        answer = self.complete(n=1, best_of=1, presence_penalty=0, frequency_penalty=0, logprobs=None,
                               suffix=None, logit_bias=None, echo=False, stream=False)
        self.assertEqual(answer.choices[0].text, self.complete().choices[0].text)

    def test_streamed(self):
        prompts = [fact["prompt"] for fact in FACTS]
        texts, ends, usages = [""] * len(prompts), [], []
        for chunk in self.complete(prompt=prompts, stream=True, stream_options={"include_usage": True}):
            self.assertEqual((chunk.object, chunk.model), ("text_completion", "live"))
            usages.append(chunk.usage)
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                ends += [choice.finish_reason] if choice.finish_reason else []
        whole = self.complete(prompt=prompts)
        self.assertEqual(texts, [choice.text for choice in whole.choices])
        self.assertEqual(ends, ["stop"] * len(prompts))
        self.assertEqual((usages[:-1], usages[-1]), ([None] * (len(usages) - 1), whole.usage))

    def test_stream_left(self):
        """The next answer does not wait for the rest of one."""
        with self.complete(stream=True, max_tokens=50, stop=None) as stream:
            self.assertTrue(next(iter(stream)).choices)
        self.assertEqual(self.complete().choices[0].text.strip(), FACTS[0]["target"])

    def test_not_found(self):
        self.refused(openai.NotFoundError, "there is no model 'gpt-4o'", model="gpt-4o")
        self.refused(openai.NotFoundError, "there is no model 'gpt-4o'", model="gpt-4o", stream=True)
        self.refused(openai.NotFoundError, "version 7 is not in memory", model="v7")
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model="live", messages=[{"role": "user", "content": "x"}])

    def test_bad_request(self):
        self.refused(openai.BadRequestError, "/prompt must be a string", prompt=7)
        self.refused(openai.BadRequestError, "/max_tokens must be an integer", max_tokens="many")

    def test_no_meaning(self):
        wrong = openai.UnprocessableEntityError
        self.refused(wrong, "/max_tokens is -1", max_tokens=-1)
        self.refused(wrong, "/temperature is 3", temperature=3)
        self.refused(wrong, "/logprobs is not supported", logprobs=2)
        self.refused(wrong, "/n is 2", n=2)
        self.refused(wrong, "/speed", extra_body={"speed": 1})
        self.refused(wrong, "the context holds", prompt="word " * 5000, stream=True)

    def test_who_asks(self):
        with client_of(self.d, "sk-somebody-else") as stranger:
            with self.assertRaises(openai.AuthenticationError):
                stranger.models.list()
        with client_of(self.d, self.tokens.of["read"]) as reader:
            self.assertTrue(list(reader.models.list()))
            with self.assertRaises(openai.PermissionDeniedError) as caught:
                reader.completions.create(**SAME, prompt=PROMPT)
            self.assertIn("infer", caught.exception.body["detail"])


@unittest.skipIf(NO_PACKAGES, NO_PACKAGES)
class Asynchronous(unittest.TestCase):
    @mock.patch.object(harness, "MODEL_ARGS", REAL)
    def test_all(self):
        """Without tokens; the key that the client must have is not looked at."""
        d = Daemon()
        self.addCleanup(d.close)
        asyncio.run(self.ask(d))

    async def ask(self, d):
        async with client_of(d, "none is needed", AsyncOpenAI) as client:
            ids = [model.id async for model in await client.models.list()]
            self.assertEqual(set(ids), {"base", "live", "v0"})
            whole = await client.completions.create(**SAME, prompt=PROMPT)
            stream = await client.completions.create(**SAME, prompt=PROMPT, stream=True)
            pieces = [chunk.choices[0].text async for chunk in stream]
            self.assertEqual("".join(pieces), whole.choices[0].text)
            self.assertGreater(len(pieces), 1)


@unittest.skipIf(NO_PACKAGES, NO_PACKAGES)
class Broken(unittest.TestCase):
    @mock.patch.multiple(harness, BINARY=os.environ["MALMEND_FAKE"],
                         MODEL_ARGS=["--model", "/", "--editor", "-"])
    def test_stream(self):
        """An answer that fails under way is no short answer."""
        d = Daemon()
        self.addCleanup(d.close)
        d.apply({"prompt": "Broken", "target": "here fail:here"})
        with client_of(d, "none") as client, self.assertRaises(openai.APIError) as caught:
            for chunk in client.completions.create(model="live", prompt="Broken", stream=True):
                self.assertTrue(chunk.choices)
        self.assertEqual(caught.exception.body["status"], 500)


if __name__ == "__main__":
    harness.main()
