"""The ops scripts against a server that says what a daemon seldom does: secrets, proxies, streams."""
import json
import os
import threading
import time
from pathlib import Path

from harness import PATIENCE, main
from lab import Lab
from ops import FACTS, Stub, begin, run

TOKEN = 'a"quote\\and-xyzzy'
JOB = {"id": "job_1", "object": "job", "kind": "edit", "state": "queued", "facts": 1}
STATUS = {"state": "ready", "live_version": 3, "queue": {"jobs": 0, "facts": 0}, "batch": None}


def command_lines():
    """Of every process there is."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            pass


class Stubbed(Lab):
    def stub(self, answer):
        stub = Stub(answer)
        self.addCleanup(stub.close)
        return stub

    def file(self):
        return self.write("facts.json", {"facts": FACTS[:1]})


class Secrets(Stubbed):
    def test_token(self):
        """It arrives whole, from the environment or a file, and no command line has it."""
        seen = []

        def answer(method, path, headers, body):
            seen.append(any(b"xyzzy" in line for line in command_lines()))
            return 202, {}, JOB
        stub = self.stub(answer)
        file = self.write("token", TOKEN + "\n")
        for args, more in (([], {"MALMEND_TOKEN": TOKEN}), (["--token-file", file], {}),
                           ([], {"MALMEND_TOKEN_FILE": str(file)})):
            done = run("post-facts", self.file(), *args, url=stub.url, **more)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(stub.asked[-1][2]["Authorization"], "Bearer " + TOKEN)
        self.assertEqual(seen, [False] * 3)
        done = run("status", "--token-file", "/none", url=stub.url)
        self.assertEqual(done.returncode, 1)
        self.assertIn("token file '/none'", done.stderr)

    def test_refused(self):
        for status, title in ((401, "unauthorized"), (403, "forbidden")):
            stub = self.stub(lambda *_: (status, {}, {"status": status, "title": title, "detail": "no"}))
            done = run("post-facts", self.file(), url=stub.url)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"refused with {status} ({title}): no", done.stderr)

    def test_what_is_sent(self):
        """The key is of the bytes that are sent; the body is what was in the file."""
        stub = self.stub(lambda *_: (202, {}, JOB))
        lines = self.write("lines.ndjson", '{"prompt": "a",  "target": "b"}\n\n{"prompt":"c","target":"d"}')
        for _ in range(2):
            self.assertEqual(run("post-facts", lines, url=stub.url).stdout, "job_1\n")
        self.assertEqual(run("post-facts", "--note", 'say "so"', "--gate", "min_es=0.5", "--gate",
                             "measure=decoded", lines, url=stub.url).returncode, 0)
        asked = [(h["Content-Type"], h["Idempotency-Key"], body) for _, _, h, body in stub.asked]
        self.assertEqual(asked[0], asked[1])
        self.assertEqual(asked[0][::2], ("application/x-ndjson", lines.read_bytes()))
        self.assertNotEqual(asked[0][1], asked[2][1])
        self.assertEqual(json.loads(asked[2][2]), {
            "facts": [{"prompt": "a", "target": "b"}, {"prompt": "c", "target": "d"}],
            "note": 'say "so"', "gate": {"min_es": 0.5, "measure": "decoded"}})


class Trouble(Stubbed):
    def test_retry_after(self):
        """Waits as it is told, then asks the same again; gives up where that is longer than there
        is time."""
        answers = [(429, {"Retry-After": "2"}, {"detail": "full"}), (503, {"Retry-After": "1"}, {}),
                   (202, {}, JOB)]
        at = []

        def answer(*_):
            at.append(time.monotonic())
            return answers[len(at) - 1]
        stub = self.stub(answer)
        done = run("post-facts", self.file(), url=stub.url)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("answers 429 (full): again in 2 s", done.stderr)
        self.assertIn("answers 503: again in 1 s", done.stderr)
        self.assertGreaterEqual(at[1] - at[0], 2)
        self.assertEqual(len({body for *_, body in stub.asked}), 1)
        stub = self.stub(lambda *_: (429, {"Retry-After": "90000"}, {"detail": "full"}))
        done = run("post-facts", "--json", self.file(), url=stub.url)
        self.assertEqual((done.returncode, json.loads(done.stdout)["exit"]), (4, 4))

    def test_late(self):
        """A daemon that takes too long is there."""
        over = threading.Event()
        self.addCleanup(over.set)
        stub = self.stub(lambda *_: (200, {}, STATUS if over.wait(PATIENCE) else None))
        done = run("status", "--timeout", "1", url=stub.url)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn("timed out after 1 s", done.stderr)

    def test_proxy_without_a_daemon(self):
        stub = self.stub(lambda *_: (502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"))
        done = run("status", url=stub.url)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("HTTP 502", done.stderr)

    def test_no_json(self):
        """A refusal by something that is no daemon."""
        stub = self.stub(lambda *_: (413, {}, b"<html>too large</html>"))
        done = run("post-facts", "--json", self.file(), url=stub.url)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(json.loads(done.stdout), {"error": {"status": 413}, "exit": 1})

    def test_loading(self):
        stub = self.stub(lambda *_: (200, {}, {**STATUS, "state": "loading"}))
        self.assertEqual(run("status", "--json", url=stub.url).returncode, 1)


def events(*items):
    """A stream as the daemon sends it: (id, type, data)."""
    return "".join(f"id: {i}\nevent: {t}\ndata: {json.dumps(d)}\n\n" for i, t, d in items).encode()


class Events(Stubbed):
    def test_stream(self):
        """Each event once, also those of after the stream broke off: it is taken up where it was."""
        version = {"version": 4, "kind": "edit", "weights_hash": 64 * "a"}
        streams = [b": begin\n\nid: 6\n\n",
                   events((7, "job", {"id": "job_1", "state": "running", "kind": "edit"})),
                   events((8, "job", {"id": "job_1", "state": "applied", "kind": "edit", "version": 4}),
                          (9, "version", version))]
        lasts, done = [], threading.Event()

        def answer(method, path, headers, body):
            if path == "/v1/status":
                return 200, {}, STATUS
            if path != "/v1/events":
                return 404, {}, {}
            lasts.append(headers.get("Last-Event-ID"))
            if len(lasts) <= len(streams):
                return 200, {"Content-Type": "text/event-stream"}, streams[len(lasts) - 1]
            done.wait(PATIENCE)
            return 200, {"Content-Type": "text/event-stream"}, b""
        stub = self.stub(answer)
        watching = begin("watch", "--json", "--interval", 1, url=stub.url)
        seen = [json.loads(watching.stdout.readline()) for _ in range(4)]
        until = time.monotonic() + PATIENCE
        while len(lasts) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        watching.terminate()
        self.assertEqual(watching.wait(PATIENCE), 143)
        done.set()
        watching.stdout.close()
        watching.stderr.close()
        self.assertEqual([(e["event"], e["state"] if e["event"] != "version" else e["version"])
                          for e in seen],
                         [("status", "ready"), ("job", "running"), ("job", "applied"), ("version", 4)])
        self.assertEqual(lasts[:4], [None, "6", "7", "9"])

    def test_job_of_a_stream(self):
        job = {**JOB, "state": "rejected"}
        other = {"id": "job_2", "state": "applied", "kind": "edit"}
        stream = events((1, "job", other), (2, "job", {k: job[k] for k in ("id", "state", "kind")}))

        def answer(method, path, headers, body):
            if path == "/v1/events":
                return 200, {"Content-Type": "text/event-stream"}, stream
            return 200, {}, STATUS if path == "/v1/status" else job
        done = run("watch", "--job", "job_1", url=self.stub(answer).url)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("job_1 edit rejected\n", done.stdout)
        self.assertNotIn("job_2", done.stdout)


if __name__ == "__main__":
    main()
