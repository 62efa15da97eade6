"""What is refused, with which code, naming what."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import harness
from harness import Case, Daemon, only_fake
from world import TOO_LONG, fact


class Paths(Case):
    def test_unknown(self):
        for path in ("/nope", "/v1", "/v1/jobs/", "/v1/jobs/a/b/c", "/v1/versions/1/nope"):
            self.problem(self.d.get(path), 404)

    def test_method(self):
        self.problem(self.d.call("PUT", "/v1/edits", b"{}"), 405)
        self.assertEqual(self.d.call("DELETE", "/v1/jobs").headers["Allow"], "GET, HEAD, OPTIONS")
        self.assertEqual(self.d.call("GET", "/v1/edits").headers["Allow"], "POST, OPTIONS")
        self.assertEqual(self.d.call("GET", "/v1/retractions").headers["Allow"], "POST, OPTIONS")
        self.assertEqual(self.d.call("PUT", "/v1/facts/x").headers["Allow"],
                         "GET, HEAD, DELETE, OPTIONS")
        self.problem(self.d.call("BREW", "/livez"), 405)

    def test_missing_things(self):
        for path in ("/v1/jobs/job_nope", "/v1/facts/fact_nope", "/v1/versions/99",
                     "/v1/versions/-1", "/v1/versions/x", "/v1/versions/00",
                     "/v1/versions/99999999999999999999", "/v1/versions/9/facts",
                     "/v1/versions/0/diff/9", "/v1/versions/9/diff/0", "/v1/versions/0/diff/x",
                     "/v1/versions/0/diff/"):
            self.problem(self.d.get(path), 404)
        self.problem(self.d.call("POST", "/v1/jobs/job_nope/cancel", b""), 404)

    def test_query(self):
        for query in ({"limit": "x"}, {"limit": ""}, {"limit": "1.5"}, {"limit": " 3"}):
            self.problem(self.d.get("/v1/jobs", **query), 400, detail="limit")
        for query in ({"limit": 0}, {"limit": 101}, {"limit": 10 ** 30}):
            self.problem(self.d.get("/v1/jobs", **query), 422, detail="limit")
        for path in ("/v1/jobs", "/v1/facts", "/v1/versions"):
            for after in ("nope", ""):
                self.problem(self.d.get(path, after=after), 422, detail="after")
        self.problem(self.d.get("/v1/jobs", state="tired"), 422, detail="state")
        self.problem(self.d.get("/v1/jobs", kind="x"), 422, detail="kind")
        self.problem(self.d.get("/v1/facts", state="x"), 422, detail="state")
        self.problem(self.d.get("/v1/facts", version="x"), 400, detail="version")
        self.problem(self.d.get("/v1/facts", version=77), 422, detail="version")
        for query in ({"job": "nope"}, {"job": ""}, {"job": "nope", "after": "nope"}):
            self.problem(self.d.get("/v1/facts", **query), 422, detail="'job'")
        self.problem(self.d.get("/v1/facts", search=""), 422, detail="search")
        self.problem(self.d.get("/v1/facts", order="up"), 422, detail="order")
        self.problem(self.d.get("/v1/facts", search="x", after="nope"), 422, detail="after")


class Bodies(Case):
    def post(self, path, body, **more):
        return self.d.call("POST", path, body, **more)

    def test_not_json(self):
        for path in ("/v1/edits", "/v1/rollbacks", "/v1/retractions", "/v1/consolidations",
                     "/v1/completions", "/v1/scores"):
            for body in (b"", b"{", b"[1,2]", b"nope", b'{"a":1,"a":2}', b"\xff{}",
                         b'{"facts":[]} x'):
                self.problem(self.post(path, body), 400)

    def test_too_large_numbers(self):
        """They are JSON."""
        for path, body in (("/v1/rollbacks", b'{"to_version": 9223372036854775808}'),
                           ("/v1/completions", b'{"prompt": "x", "seed": 1e999}')):
            self.problem(self.post(path, body), 422, detail="a number is too large")

    def test_types(self):
        for body in ({"facts": 3}, {"facts": [3]}, {"facts": [{"prompt": 1, "target": "x"}]},
                     {"facts": [fact(1)], "validate_only": "yes"}):
            self.problem(self.post("/v1/edits", body), 400)
        self.problem(self.post("/v1/rollbacks", {"to_version": "1"}), 400)
        self.problem(self.post("/v1/completions", {"prompt": 3}), 400)

    def test_meaning_is_refused_whole(self):
        cases = [
            ([fact(1), {"prompt": "p", "target": ""}], "/facts/1/target"),
            ([fact(1), {"prompt": " ", "target": "x"}], "/facts/1/prompt"),
            ([fact(1), fact(2), {"prompt": TOO_LONG, "target": "x"}], "/facts/2/prompt"),
        ]
        for facts, pointer in cases:
            self.problem(self.d.edit(*facts), 422, pointer)
            self.problem(self.d.edit(*facts, validate_only=True), 422, pointer)
        self.problem(self.d.edit(fact(1, "A"), fact(1, "B")), 422)
        self.problem(self.d.edit(fact(1), gate={"min_es": 90}), 422, "/gate/min_es")
        self.assertEqual(self.d.get("/v1/jobs").json["data"], [])
        self.assertEqual(self.d.get("/v1/facts").json["data"], [])

    def test_unknown_version_and_model(self):
        self.problem(self.post("/v1/rollbacks", {"to_version": 5}), 422, "/to_version")
        self.assertIn(self.post("/v1/rollbacks", {"to_version": -5}).status, (400, 422))
        for model in ("gpt", "v77", "v", "v-1", "v01x"):
            self.problem(self.d.complete("x", model=model), 404)
            items = [{"prompt": "p", "target": "t"}]
            self.problem(self.post("/v1/scores", {"items": items, "model": model}), 404)

    def test_reads(self):
        self.problem(self.d.complete(TOO_LONG), 422, "/prompt")
        self.problem(self.d.complete(["ok", TOO_LONG]), 422, "/prompt/1")
        self.problem(self.d.complete(TOO_LONG, stream=True), 422, "/prompt")
        self.problem(self.d.complete("x", stream=True, model="v77"), 404)
        options = {"include_usage": True}
        self.problem(self.d.complete("x", stream_options=options), 422, "/stream_options")
        self.problem(self.d.complete("x", temperature=9), 422, "/temperature")
        items = [{"prompt": "p", "target": "t"}, {"prompt": TOO_LONG, "target": "t"}]
        self.problem(self.post("/v1/scores", {"items": items}), 422)

    def test_content_type(self):
        body = json.dumps({"facts": [fact(1)]})
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
            self.problem(self.d.call("POST", "/v1/edits", body, {"Content-Type": kind}), 415)
        lines = {"Content-Type": "application/x-ndjson"}
        self.problem(self.d.call("POST", "/v1/completions", body, lines), 415)
        good = {"Content-Type": "Application/JSON; charset=utf-8"}
        answer = self.d.call("POST", "/v1/edits",
                             json.dumps({"facts": [fact(1)], "validate_only": True}), good)
        self.assertEqual(answer.status, 200)

    def test_content_encoding(self):
        body = {"facts": [fact(1)], "validate_only": True}
        answer = self.d.call("POST", "/v1/edits", body, {"Content-Encoding": "gzip"})
        self.problem(answer, 415, detail="Content-Encoding 'gzip'")
        self.assertEqual(self.d.call("POST", "/v1/edits", body, {"Content-Encoding": "Identity"}).status, 200)

    def test_accept(self):
        for path, kind in (("/v1/jobs", "application/json"), ("/metrics", "text/plain"), ("/", "text/html"),
                           ("/v1/versions/0/delta", "application/octet-stream"),
                           ("/v1/events", "text/event-stream")):
            for accept in (kind, kind.split("/")[0] + "/*", "*/*;q=0.1", "image/png, " + kind):
                self.assertEqual(self.d.call("GET", path, headers={"Accept": accept}).status, 200, path)
            for accept in ("image/png", kind + ";q=0, image/png", kind + "x"):
                self.problem(self.d.call("GET", path, headers={"Accept": accept}), 406, detail=kind)
        for path in ("/livez", "/readyz", "/openapi.json"):
            self.assertEqual(self.d.call("GET", path, headers={"Accept": "image/png"}).status, 200, path)
        head = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: image/png\r\n"
        self.assertIn(b"HTTP/1.1 406 ", self.d.raw(head + b"\r\n"))
        self.assertIn(b"HTTP/1.1 200 ", self.d.raw(head + b"Accept: */*\r\n\r\n"))
        streams = {"Accept": "text/event-stream"}
        answer = self.d.call("POST", "/v1/completions", {"prompt": "x", "stream": True}, streams)
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.d.call("POST", "/v1/edits", {"facts": [fact(1)]}, streams).status, 406)
        self.assertEqual(self.d.get("/v1/jobs").json["data"], [], "it was not taken")

    def test_key(self):
        for key in ("", "x" * 256, "a b", "\t"):
            answer = self.d.edit(fact(1), headers={"Idempotency-Key": key})
            self.assertIn(answer.status, (400,), (key, answer.body))


class Start(unittest.TestCase):
    def run_serve(self, *args, model=None):
        with tempfile.TemporaryDirectory() as directory:
            command = [harness.BINARY, "serve", *(model or harness.MODEL_ARGS),
                       "--db", directory + "/db", *args]
            done = subprocess.run(command, capture_output=True, timeout=harness.PATIENCE)
            self.left = os.listdir(directory)
            return done.returncode, done.stderr.decode()

    def test_not_loopback(self):
        for address in ("0.0.0.0:0", "192.0.2.1:80", "[::]:0"):
            code, text = self.run_serve("--listen", address)
            self.assertEqual(code, 1, text)
            self.assertIn("loopback", text)
            self.assertEqual(self.left, [])

    def test_bad_addresses(self):
        for address in ("nope", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix:",
                        "unix:/" + "x" * 200, "example.org:80", "[::1:80"):
            code, text = self.run_serve("--listen", address)
            self.assertEqual(code, 2, text)
            self.assertIn("--listen: listen address", text)
            self.assertEqual(self.left, [])

    def test_missing_model(self):
        code, text = self.run_serve("--listen", "127.0.0.1:0",
                                    model=["--model", "/nowhere", "--editor", "/nowhere"])
        self.assertEqual(code, 1)
        self.assertIn("/nowhere", text)

    def test_second_daemon_on_a_database(self):
        first = Daemon()
        try:
            command = [harness.BINARY, "serve", *harness.MODEL_ARGS, "--db",
                       first.directory + "/db", "--listen", "127.0.0.1:0"]
            done = subprocess.run(command, capture_output=True, timeout=harness.PATIENCE)
            self.assertEqual(done.returncode, 1)
        finally:
            first.close()

    @only_fake
    def test_loading(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        loaded = pathlib.Path(directory.name, "loaded")
        d = Daemon(env={"MAL_FAKE_LOAD_HELD": str(loaded)}, ready=False)
        try:
            self.assertEqual(d.get("/livez").status, 200)
            for path in ("/readyz", "/v1/jobs", "/v1/models"):
                answer = d.get(path)
                self.assertEqual(answer.status, 503)
                self.assertTrue(answer.headers["Retry-After"])
            self.assertEqual(d.edit(fact(1)).status, 503)
            status = d.get("/v1/status").json
            self.assertEqual((status["state"], status["live_version"]), ("loading", None))
            loaded.touch()
            d.wait_log("ready")
            self.assertEqual(d.get("/readyz").status, 200)
        finally:
            loaded.touch()
            d.close()


if __name__ == "__main__":
    harness.main()
