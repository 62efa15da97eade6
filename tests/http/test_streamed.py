"""Completions with "stream": true: their pieces are the answer, byte for byte, and no more is
computed than somebody waits for."""
import random
import threading
import unittest

import harness
from harness import Case, Daemon, only_fake, wait_until
from prometheus import scrape
from sse import Completion, Stream
from world import Held, fact

TEXTS = ["Mayor", "a b c a b d", "日本語 and 🙂🙃 é", "aaaaab", "\u00e9\u00e8\u00e9", "x" * 200,
         "say 日\nand 本 to end"]
TARGET = "y" * 199
BROKEN = {"prompt": "What breaks off is", "target": "four words, then fail:here"}


def wait_reads(d, n):
    """Until so many completions wait or are computed."""
    wait_until(lambda: scrape(d)["malmend_reads_waiting"].value() == n)


class Long:
    """A fact whose answer of 200 tokens stops after half of them until it is let go."""

    def __init__(self, case, d):
        self.held = Held(case, d)
        self.held.let_go()
        self.prompt = self.held.fact["prompt"]
        d.apply({"prompt": self.prompt, "target": TARGET})
        self.held.path.unlink()

    def stream(self, **more):
        body = {"prompt": self.prompt, "stream": True, "max_tokens": 250, **more}
        return Stream(self.held.d, "/v1/completions", "POST", body)


@only_fake
class Streamed(Case):
    ARGS = ("--batch-window-ms", "0")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.d.apply(*[fact(i, text) for i, text in enumerate(TEXTS)], BROKEN)

    def prompt(self, i):
        return fact(i)["prompt"]

    def same(self, prompt, **body):
        """Streamed it is the same."""
        whole = self.d.complete(prompt, **body).json
        pieces = Completion(self.d, prompt, stream_options={"include_usage": True}, **body)
        self.assertEqual(pieces.all, whole["choices"], body)
        self.assertEqual((pieces.usage, pieces.version), (whole["usage"], whole["version"]))
        self.assertTrue(pieces.whole)
        return pieces

    def test_shape(self):
        body = {"prompt": self.prompt(0), "stream": True}
        with Stream(self.d, "/v1/completions", "POST", body) as stream:
            self.assertEqual(stream.status, 200)
            self.assertEqual(stream.headers["Content-Type"], "text/event-stream")
            self.assertEqual(stream.headers["Cache-Control"], "no-store")
            self.assertEqual(stream.headers["X-Accel-Buffering"], "no")
            blocks = []
            while block := stream.block():
                self.assertEqual(set(block.fields), {"data"})
                blocks.append(block)
        self.assertEqual(blocks.pop().text, "[DONE]")
        for block in blocks:
            self.assertEqual(str(block.data["version"]), stream.headers["Malmend-Version"])
            self.assertEqual(set(block.data),
                             {"id", "object", "created", "model", "version", "choices"})
            choice, = block.data["choices"]
            self.assertEqual(set(choice), {"index", "text", "logprobs", "finish_reason"})
        reasons = [block.data["choices"][0]["finish_reason"] for block in blocks]
        self.assertEqual(reasons, [None] * (len(reasons) - 1) + ["stop"])
        texts = [block.data["choices"][0]["text"] for block in blocks]
        self.assertEqual(texts, list(" Mayor"), "a piece a token")

    def test_is_the_whole_answer(self):
        for i, text in enumerate(TEXTS):
            for n in (0, 1, 2, 3, 7, 8, 9, 50, 250):
                self.same(self.prompt(i), max_tokens=n)
            self.same(self.prompt(i), max_tokens=250, echo=True)

    def test_stop_texts(self):
        rng = random.Random(1)
        for _ in range(60):
            i = rng.randrange(len(TEXTS))
            text, stops = " " + TEXTS[i], []
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(text))
                stop = text[at:at + rng.randint(1, 4)]
                stops.append(stop + rng.choice(["", "", "!"]))  # or only its beginning
            self.same(self.prompt(i), max_tokens=rng.choice([4, 12, 250]), stop=stops)

    def test_several(self):
        prompts = [self.prompt(i) for i in range(len(TEXTS))]
        pieces = self.same(prompts, max_tokens=100, stop=["d", "本"], echo=True)
        self.assertEqual(len(pieces.n), len(prompts))
        self.assertGreater(pieces.n[5], 90)

    def test_at_the_same_time(self):
        results = {}

        def ask(i):
            results[i] = Completion(self.d, self.prompt(i % len(TEXTS)), max_tokens=250)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(24):
            self.assertEqual(results[i].all[0]["text"], " " + TEXTS[i % len(TEXTS)])

    def test_http_1_0(self):
        body = b'{"prompt":"%s","stream":true}' % self.prompt(0).encode()
        got = self.d.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
                         b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        head, _, text = got.partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head)
        self.assertTrue(text.startswith(b"data: {"), got)
        self.assertTrue(text.endswith(b"\n\ndata: [DONE]\n\n"), got)

    def test_connection_goes_on(self):
        connection = self.d.connect()
        for _ in range(3):
            body = f'{{"prompt":"{self.prompt(0)}","stream":true}}'
            connection.request("POST", "/v1/completions", body,
                               {"Content-Type": "application/json"})
            text = connection.getresponse().read()
            self.assertTrue(text.endswith(b"data: [DONE]\n\n"), text)
        connection.close()

    def test_breaks_off(self):
        broken = Completion(self.d, BROKEN["prompt"], max_tokens=50,
                            stream_options={"include_usage": True})
        self.assertEqual(broken.all[0]["text"], " four words, then ")
        self.assertIsNone(broken.all[0]["finish_reason"])
        self.assertEqual((broken.error["status"], broken.whole, broken.usage), (500, False, None))
        self.assertIn("not a number", broken.error["detail"])
        # before there is a piece, it is an answer of its own
        self.problem(self.d.complete(BROKEN["prompt"], max_tokens=50), 500)
        for stream in False, True:
            self.problem(self.d.complete("x", stream=stream, model="v99"), 404, "/model", "version 99")
        # two that go together: one breaks, the other does not
        both = [self.prompt(1), BROKEN["prompt"]]
        results = [None, None]
        long = Long(self, self.d)
        with long.stream() as busy:
            busy.block()
            threads = [threading.Thread(target=lambda i=i: results.__setitem__(
                i, Completion(self.d, both[i], max_tokens=50))) for i in range(2)]
            for thread in threads:
                thread.start()
            wait_reads(self.d, 3)
            long.held.let_go()
            for thread in threads:
                thread.join()
        self.assertEqual(results[0].all[0]["text"], " " + TEXTS[1])
        self.assertTrue(results[0].whole)
        self.assertEqual(results[1].all[0]["text"], " four words, then ")
        self.assertFalse(results[1].whole)

    def n_tokens(self):
        return int(self.d.complete("tokens:").json["choices"][0]["text"])

    def test_leaving_ends_the_work(self):
        before, long = self.n_tokens(), Long(self, self.d)
        for _ in range(2):
            with long.stream() as stream:
                for _ in range(3):
                    self.assertEqual(len(stream.block().data["choices"][0]["text"]), 1)
        made = self.n_tokens() - before  # answered, so the worker has time again
        print(f"# {made} of 400 tokens made for clients that left")
        self.assertLessEqual(made, 200 + 5)

    def test_leaving_leaves_others(self):
        """Of two in one pass one leaves."""
        first, long, results = Long(self, self.d), Long(self, self.d), []

        def leave():
            with long.stream() as stream:
                stream.block()

        with first.stream() as busy:
            busy.block()
            leaver = threading.Thread(target=leave)
            other = threading.Thread(target=lambda: results.append(
                Completion(self.d, long.prompt, max_tokens=250)))
            leaver.start()
            other.start()
            wait_reads(self.d, 3)
            first.held.let_go()
            leaver.join(harness.PATIENCE)
            self.assertFalse(leaver.is_alive(), "it waits for the other")
            long.held.let_go()
            leaver.join()
            other.join()
        self.assertEqual(results[0].all[0]["text"], " " + TARGET)
        self.assertTrue(results[0].whole)

    def test_event_streams_go_on_meanwhile(self):
        long = Long(self, self.d)
        with Stream(self.d) as events, long.stream() as stream:
            stream.block()
            job = self.d.edit(fact("meanwhile")).json["id"]
            self.assertEqual(events.event().data["id"], job)
        self.d.wait_job(job)


@only_fake
class InTime(unittest.TestCase):
    def test_request_timeout(self):
        d = Daemon("--request-timeout", "3")
        long = Long(self, d)
        late = Completion(d, long.prompt, max_tokens=250)
        self.assertFalse(late.whole)
        self.assertEqual(late.error["status"], 503)
        self.assertIn("in time", late.error["detail"])
        self.assertEqual(late.all[0]["text"], (" " + TARGET)[:late.n[0]])
        # no piece has come: a status
        answer = d.complete(Held(self, d).fact["prompt"], stream=True)
        self.assertEqual(answer.status, 503, answer.body)
        self.assertTrue(Completion(d, "quick").whole)
        d.close()

    def test_stop(self):
        d = Daemon()
        stream = Long(self, d).stream()
        stream.block()
        self.assertEqual(d.stop(), 0)
        last = None
        while block := stream.block():
            last = block
        self.assertIn("stopping", last.data["error"]["detail"])
        stream.close()
        d.own.cleanup()


if __name__ == "__main__":
    harness.main()
