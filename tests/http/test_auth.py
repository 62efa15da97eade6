"""Who may do what: tokens and roles, users of the Unix socket, pages from elsewhere."""
import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

import harness
from harness import Case, Daemon, wait_until
from sse import Stream
from tokens import ROLES, Tokens, basic, bearer, calls, line
from test_http import statuses
from world import fact

ROOT = os.geteuid() == 0
NOBODY = 65534


def curl(*args, user=None):
    """Status and body."""
    done = subprocess.run(["curl", "-s", "-w", "\n%{http_code}", *args], capture_output=True,
                          user=user, timeout=harness.PATIENCE, check=False)
    body, _, status = done.stdout.decode().rpartition("\n")
    return int(status), body


class WithTokens(Case):
    """A daemon that asks for tokens. None of them, nor anything else that is secret, is in its
    log when all is over."""

    SECRET = "a-prompt-that-is-nobodys-business"

    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory(prefix="malmend-")
        cls.addClassCleanup(cls.own.cleanup)
        cls.tokens = Tokens(cls.own.name)
        cls.shown = set(cls.tokens.of.values())
        cls.d = Daemon("--tokens", cls.tokens.path)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        log = json.dumps(cls.d.log)
        assert "/v1/" in log
        for token in cls.shown:
            for secret in (token, hashlib.sha256(token.encode()).hexdigest(),
                           *(basic(user, token)["Authorization"][6:] for user in ("", *ROLES))):
                assert secret not in log, f"{secret} is in the log"
        assert cls.SECRET not in log and "Authorization" not in log and "Bearer" not in log

    def ask(self, method, path, token=None, body=None, headers=None, **more):
        if token:
            self.shown.add(token)
        return self.d.call(method, path, body, {**(bearer(token) if token else {}),
                                                **(headers or {})}, **more)

    def line(self, id):
        """Of the log, about the request with this id."""
        while not (lines := [e for e in self.d.log if e.get("request_id") == id]):
            self.assertTrue(self.d.read_log(harness.PATIENCE), "no line")
        only, = lines
        return only

    def denied(self, answer):
        """401, and how to do better."""
        self.problem(answer, 401)
        ways = answer.headers.get_all("WWW-Authenticate")
        self.assertEqual([way.split()[0] for way in ways], ["Bearer", "Basic"])
        self.assertIn('realm="malmend"', ways[1])


class Roles(WithTokens):
    def test_every_call_and_role(self):
        """Each call from its own role on, and for nobody else."""
        described = self.d.get("/openapi.json")
        self.assertEqual(described.status, 200)
        n = 0
        for method, path, pattern, needed in calls(described.json):
            body = "[]" if method == "POST" else None  # never what the call wants
            for i, role in enumerate((None, *ROLES)):
                place = f"{method} {pattern} as {role}"
                answer = self.ask(method, path, role and self.tokens.of[role], body,
                                  query={"prompt": self.SECRET})
                if needed is None or (role and i > ROLES.index(needed)):
                    self.assertNotIn(answer.status, (401, 403), place)
                elif role:
                    self.problem(answer, 403, detail=f"'{needed}'")
                else:
                    self.denied(answer)
                n += 1
        self.assertGreater(n, 100)
        self.assertEqual(self.ask("GET", "/v1/jobs", self.tokens.of["read"]).json["data"], [])

    def test_strangers_learn_nothing(self):
        """Neither which paths there are nor which methods they have."""
        for method, path in (("GET", "/none"), ("PUT", "/v1/edits"), ("OPTIONS", "/v1/edits"),
                             ("OPTIONS", "/none"), ("OPTIONS", "*"), ("BREW", "/livez"),
                             ("GET", "/v1/jobs/none"), ("TRACE", "/v1/jobs"), ("HEAD", "/v1/jobs")):
            for token in (None, "not-a-token"):
                answer = self.ask(method, path, token)
                self.assertEqual((answer.status, answer.headers["Allow"]), (401, None),
                                 (method, path))
        read = self.tokens.of["read"]
        self.assertEqual(self.ask("GET", "/none", read).status, 404)
        self.assertEqual(self.ask("PUT", "/v1/edits", read).status, 405)
        self.assertEqual(self.ask("OPTIONS", "/v1/edits", read).status, 204)

    def test_open_calls(self):
        for headers in ({}, bearer("not-a-token")):
            for path in ("/livez", "/readyz", "/openapi.json"):
                self.assertEqual(self.ask("GET", path, headers=headers).status, 200)

    def test_ways_to_show_a_token(self):
        token = self.tokens.of["read"]
        good = [bearer(token), {"Authorization": "bEARER   " + token + " \t"}, basic("", token),
                basic("read", token), {"Authorization": basic("", token)["Authorization"] + " "},
                {"Authorization": "basic" + basic("", token)["Authorization"][5:]}]
        for headers in good:
            self.assertEqual(self.ask("GET", "/v1/jobs", headers=headers).status, 200, headers)
        bad = [bearer(""), {"Authorization": ""}, {"Authorization": token}, bearer(token[:-1]),
               bearer(token + "x"), bearer(token + " x"), bearer(" ".join(token)),
               {"Authorization": "Bearer" + token}, {"Authorization": "Token " + token},
               bearer(hashlib.sha256(token.encode()).hexdigest()), bearer(token.swapcase()),
               basic("edit", token), basic(token, ""), basic(token, "read"), basic("", ""),
               basic("read", token + "x"), {"Authorization": "Basic " + token},
               {"Authorization": "Basic"}, {"Authorization": "Basic ===="},
               {"Authorization": basic("", token)["Authorization"] + "!"}, basic("", "x" * 2000),
               bearer("x" * 20000), {"Cookie": "token=" + token}]
        for headers in bad:
            self.denied(self.ask("GET", "/v1/jobs", headers=headers))
        self.denied(self.ask("GET", "/v1/jobs", query={"access_token": token, "token": token}))

    def test_denied_before_the_body(self):
        for token, status in ((None, 401), (self.tokens.of["read"], 403)):
            way = f"Authorization: Bearer {token}\r\n" if token else ""
            head = (f"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\n{way}Content-Length: 9000000\r\n"
                    "Content-Type: application/json\r\n")
            for more in ("Expect: 100-continue\r\n", ""):
                self.assertEqual(statuses(self.d.raw((head + more + "\r\n").encode())), [status])

    def test_denials_are_logged(self):
        for id, token, status, who in [("none", None, 401, None),
                                       ("wrong", "not-a-token", 401, None),
                                       ("low", self.tokens.of["infer"], 403, "infer")]:
            self.ask("POST", "/v1/edits", token, "[]", {"X-Request-Id": id},
                     query={"prompt": self.SECRET})
            event = self.line(id)
            self.assertEqual((event["level"], event["status"], event.get("who"), event["origin"],
                              event["path"]), ("warning", status, who, "127.0.0.1", "/v1/edits"))

    def test_path_that_is_no_text(self):
        """It does not keep a line out of the log."""
        got = self.d.raw(b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: odd\r\n"
                         b"Connection: close\r\n\r\n")
        self.assertEqual(statuses(got), [401])
        self.assertEqual(self.line("odd")["origin"], "127.0.0.1")

    def test_no_names_of_hosts(self):
        """Who shows a token may call the daemon what he likes: it may be behind a proxy."""
        answer = self.ask("GET", "/v1/jobs", self.tokens.of["read"], headers={"Host": "a.example"})
        self.assertEqual(answer.status, 200)

    def test_pages_from_elsewhere(self):
        """A browser adds the password it knows, so a token is not enough."""
        way = {**basic("", self.tokens.of["admin"]), "Host": "a.example"}
        for more, status in (({"Origin": "https://a.example"}, 400), ({}, 400),
                             ({"Origin": "https://b.example"}, 403), ({"Origin": "null"}, 403),
                             ({"Sec-Fetch-Site": "cross-site"}, 403),
                             ({"Sec-Fetch-Site": "same-site"}, 403),
                             ({"Sec-Fetch-Site": "same-origin"}, 400)):
            answer = self.ask("POST", "/v1/edits", body="[]", headers={**way, **more})
            self.assertEqual(answer.status, status, more)


class Reload(WithTokens):
    def reload(self, text, event, mode=0o600):
        seen = len(self.d.log)
        self.tokens.write(text, mode)
        self.d.process.send_signal(signal.SIGHUP)
        while not any(e.get("event") == event for e in self.d.log[seen:]):
            self.assertTrue(self.d.read_log(harness.PATIENCE), f"no '{event}'")
        return next(e for e in self.d.log[seen:] if e.get("event") == event)

    def status(self, token):
        return self.ask("GET", "/v1/jobs", token).status

    def test_reload(self):
        old, new = self.tokens.of["read"], "a-new-token"
        self.assertEqual((self.status(old), self.status(new)), (200, 401))
        self.assertEqual(self.reload(line("new", "read", new), "tokens read")["tokens"], 1)
        self.assertEqual((self.status(old), self.status(new)), (401, 200))
        for bad, says in ((line("new", "read", new) + "half a li", "line 2"), ("", "no token"),
                          (line("a", "boss", "x"), "line 1")):
            event = self.reload(bad, "tokens not read")
            self.assertEqual(event["level"], "error")
            self.assertIn(says, event["detail"])
            self.assertIn(self.tokens.path, event["detail"])
            self.assertEqual((self.status(old), self.status(new)), (401, 200))
        self.reload(line("old", "read", old), "tokens not read", mode=0o622)
        self.assertEqual((self.status(old), self.status(new)), (401, 200))
        self.reload(line("new", "edit", new), "tokens exposed", mode=0o644)
        self.assertEqual(self.ask("POST", "/v1/edits", new, "[]").status, 400, "another role")
        for _ in range(50):
            self.d.process.send_signal(signal.SIGHUP)
        self.reload(line("old", "read", old) + line("new", "read", new), "tokens read")
        until = time.monotonic() + harness.PATIENCE
        while (self.status(old), self.status(new)) != (200, 200):
            self.assertLess(time.monotonic(), until)
        self.reload("", "tokens not read")  # no other test takes what is left of the fifty for its own

    @harness.only_fake
    def test_taken_away(self):
        """What was begun with a token ends with it: a stream, a long poll, what is being sent."""
        old, kept = "an-old-token", self.tokens.of["admin"]
        both = line("old", "edit", old) + line("kept", "admin", kept)
        go = os.path.join(self.own.name, "go")
        ways = {token: bearer(token) for token in (old, kept)}
        self.reload(both, "tokens read")
        held = {"prompt": f"held: {go}", "target": "done"}
        job = self.ask("POST", "/v1/edits", old, {"facts": [held]}).json["id"]
        while self.ask("GET", f"/v1/jobs/{job}", old).json["state"] == "queued":
            pass
        with Stream(self.d, headers=ways[old]) as stream, Stream(self.d, headers=ways[kept]) as other, \
                contextlib.closing(self.d.connect()) as poll, contextlib.closing(self.d.connect()) as bulk, \
                contextlib.closing(self.d.connect()) as body:
            self.assertEqual((stream.block().text, other.block().text), (None, None))
            poll.request("GET", f"/v1/jobs/{job}?wait=30", headers=ways[old])
            text = json.dumps(fact(7)) + "\n"
            for connection, kind in (bulk, "application/x-ndjson"), (body, "application/json"):
                connection.putrequest("POST", "/v1/edits")
                for name, value in {**ways[old], "Content-Type": kind, "Content-Length": len(text)}.items():
                    connection.putheader(name, value)
                connection.endheaders(text[:9].encode())
            wait_until(lambda: self.ask("GET", "/metrics", kept).body.count(b"malmend_http_requests_in_flight 6"))
            self.reload(line("old", "read", old) + line("kept", "admin", kept), "tokens read")
            for connection in bulk, body:
                connection.send(text[9:].encode())
                self.assertEqual(connection.getresponse().status, 403)
            began = time.monotonic()
            self.reload(line("kept", "admin", kept), "tokens read")
            self.assertIsNone(stream.block(), "its end")
            self.assertEqual(poll.getresponse().status, 401)
            self.assertLess(time.monotonic() - began, harness.AT_ONCE)
            with open(go, "w", encoding="utf-8"):
                pass
            self.assertEqual(other.event().data["id"], job, "the other goes on")
        self.assertEqual(self.ask("GET", "/v1/events", old).status, 401)
        jobs = self.ask("GET", "/v1/jobs", kept).json["data"]
        self.assertEqual([j["id"] for j in jobs], [job], "what was sent meanwhile is not taken")

    def test_nothing_to_read(self):
        d = Daemon()
        try:
            d.process.send_signal(signal.SIGHUP)
            d.wait_log("no tokens to read")
            self.assertEqual(d.get("/livez").status, 200)
        finally:
            d.close()


class Hangup(unittest.TestCase):
    def test_while_it_stops(self):
        """One that came when nobody heard it any more ended the process by that signal."""
        for _ in range(5):
            d = Daemon()
            d.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + harness.PATIENCE
            while d.process.poll() is None:
                self.assertLess(time.monotonic(), until)
                d.process.send_signal(signal.SIGHUP)
            d.close_log()
            self.assertEqual(d.process.returncode, 0)
            d.own.cleanup()


class Start(unittest.TestCase):
    def test_bad_files(self):
        with tempfile.TemporaryDirectory() as directory:
            tokens = Tokens(directory)
            for text, mode, says in (("a read 1234\n", 0o600, "line 1"), ("", 0o600, "no token"),
                                     (line("a", "read", "x"), 0o666, "may write it")):
                tokens.write(text, mode)
                done = subprocess.run(
                    [harness.BINARY, "serve", *harness.MODEL_ARGS, "--db", directory + "/db",
                     "--listen", "127.0.0.1:0", "--tokens", tokens.path],
                    capture_output=True, timeout=harness.PATIENCE, check=False)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(says, done.stderr.decode())
                self.assertIn(tokens.path, done.stderr.decode())
                self.assertFalse(os.path.exists(directory + "/db"))

    def test_any_address_with_tokens(self):
        with tempfile.TemporaryDirectory() as directory:
            tokens = Tokens(directory)
            d = Daemon("--tokens", tokens.path, listen="0.0.0.0:0")
            try:
                d.headers = bearer(tokens.of["read"])
                self.assertEqual(d.get("/v1/jobs").status, 200)
                d.headers = {}
                self.assertEqual(d.get("/v1/jobs").status, 401)
            finally:
                d.close()


class Local(Case):
    """Without tokens: this machine, but no page that is open on it."""

    def host(self, host, path="/v1/jobs"):
        return self.d.call("GET", path, headers={"Host": host})

    def test_names(self):
        port = self.d.address.rpartition(":")[2]
        for host in ("localhost", "LOCALHOST:" + port, "127.0.0.1:1", "[::1]:" + port, "[::1]"):
            self.assertEqual(self.host(host).status, 200, host)
        for host in ("evil.example", "evil.example:" + port, "localhost.evil.example", "127.0.0.2",
                     "127.1", "2130706433", "0.0.0.0", "[::]", "localhost:x", "x@localhost", "caf\xe9"):
            for path in ("/v1/jobs", "/livez", "/openapi.json", "/none"):
                self.problem(self.host(host, path), 403, detail="Host")
        old = self.d.raw(b"GET /livez HTTP/1.0\r\n\r\n")
        self.assertIn(b" 200 OK\r\n", old, "no browser leaves the Host out")

    def test_own_address(self):
        d = Daemon(listen="127.0.0.77:0")
        try:
            self.assertEqual(d.get("/v1/jobs").status, 200)
            self.assertEqual(d.call("GET", "/v1/jobs", headers={"Host": "127.0.0.78"}).status, 403)
        finally:
            d.close()

    def test_pages_from_elsewhere(self):
        own = "http://" + self.d.address
        for method, path, more, status in [
                ("POST", "/v1/edits", {"Origin": own, "Sec-Fetch-Site": "same-origin"}, 400),
                ("POST", "/v1/edits", {"Sec-Fetch-Site": "none"}, 400),
                ("POST", "/v1/edits", {"Origin": "http://evil.example"}, 403),
                ("POST", "/v1/edits", {"Origin": "http://localhost:1"}, 403),
                ("POST", "/v1/edits", {"Origin": own, "Sec-Fetch-Site": "cross-site"}, 403),
                ("DELETE", "/v1/facts/none", {"Origin": "null"}, 403),
                ("OPTIONS", "/v1/edits", {"Origin": "http://evil.example",
                                          "Access-Control-Request-Method": "POST"}, 403),
                ("GET", "/v1/jobs", {"Origin": "http://evil.example",
                                     "Sec-Fetch-Site": "cross-site"}, 200),
                ("HEAD", "/v1/jobs", {"Sec-Fetch-Site": "cross-site"}, 200)]:
            answer = self.d.call(method, path, b"[]" if method == "POST" else None, more)
            self.assertEqual(answer.status, status, (method, more))
            self.assertIsNone(answer.headers["Access-Control-Allow-Origin"])

    def test_others_pass(self):
        """Tools that know nothing of all this, and clients that always show some key."""
        body = json.dumps({"facts": [fact(1)], "validate_only": True})
        for more in ([], ["-H", "Authorization: Bearer sk-none"], ["-u", "a:b"], ["-0", "-H", "Host:"]):
            status, text = curl(f"http://{self.d.address}/v1/edits", "-d", body, "-H",
                                "Content-Type: application/json", *more)
            self.assertEqual((status, text[:13]), (200, '{"valid":true'), more)
        host, port = self.d.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=harness.PATIENCE)
        connection.request("GET", "/v1/status")
        self.assertEqual(connection.getresponse().status, 200)
        connection.close()


class UnixSocket(unittest.TestCase):
    """The kernel says who is there."""

    @contextlib.contextmanager
    def serve(self, *args):
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            d = Daemon(*args, directory=directory, listen=f"unix:{directory}/s")
            os.chmod(directory + "/s", 0o666)  # or nobody else could connect at all
            try:
                yield d
            finally:
                d.close()

    @contextlib.contextmanager
    def serve_with_tokens(self):
        with tempfile.TemporaryDirectory() as directory:
            tokens = Tokens(directory)
            with self.serve("--tokens", tokens.path) as d:
                yield d, tokens

    def ask(self, d, path, token=None, user=None):
        way = ["-H", "Authorization: Bearer " + token] if token else []
        return curl("--unix-socket", d.address[5:], "http://any.name" + path, *way, user=user)[0]

    def test_own_user(self):
        with self.serve() as d:
            self.assertEqual(self.ask(d, "/v1/jobs"), 200)
            answer = d.edit(fact(1))
            self.assertEqual(answer.status, 202)
            row, = d.get("/v1/audit").json["data"]
            name = os.geteuid()
            self.assertEqual((row["who"], row["role"], row["origin"]),
                             (f"uid:{name}", "admin", f"unix:{name}"))

    def test_own_user_with_tokens(self):
        with self.serve_with_tokens() as (d, tokens):
            self.assertEqual(self.ask(d, "/v1/audit"), 200)
            self.assertEqual(self.ask(d, "/v1/audit", tokens.of["read"]), 403)
            self.assertEqual(self.ask(d, "/v1/audit", "not-a-token"), 401)

    @unittest.skipUnless(ROOT, "needs root to be others")
    def test_others(self):
        with self.serve() as d:
            for path in ("/v1/jobs", "/v1/audit", "/none"):
                self.assertEqual(self.ask(d, path, user=NOBODY), 403)
            self.assertEqual(self.ask(d, "/livez", user=NOBODY), 200)
            _, text = curl("--unix-socket", d.address[5:], "http://x/v1/jobs", user=NOBODY)
            self.assertIn(f"uid:{NOBODY} may do nothing here", text)
            while not any(e.get("who") == f"uid:{NOBODY}" for e in d.log):
                self.assertTrue(d.read_log(harness.PATIENCE), "no line")

    @unittest.skipUnless(ROOT, "needs root to be others")
    def test_others_with_tokens(self):
        with self.serve_with_tokens() as (d, tokens):
            self.assertEqual(self.ask(d, "/v1/jobs", user=NOBODY), 401)
            self.assertEqual(self.ask(d, "/v1/jobs", tokens.of["read"], NOBODY), 200)
            self.assertEqual(self.ask(d, "/v1/audit", tokens.of["read"], NOBODY), 403)

    @unittest.skipUnless(ROOT, "needs root to become another")
    def test_daemon_of_another_user(self):
        """It may call its daemon, and so may root."""
        with tempfile.TemporaryDirectory() as directory:
            os.chown(directory, NOBODY, NOBODY)
            binary, script = harness.BINARY, os.path.join(directory, "start")
            with open(script, "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\nexec setpriv --reuid={NOBODY} --clear-groups"
                           f' "{binary}" "$@"\n')
            os.chmod(script, 0o755)
            harness.BINARY = script
            try:
                d = Daemon(directory=directory, listen=f"unix:{directory}/s")
            finally:
                harness.BINARY = binary
            try:
                os.chmod(directory + "/s", 0o666)
                os.chmod(directory, 0o755)
                self.assertEqual(self.ask(d, "/v1/audit", user=NOBODY), 200)
                self.assertEqual(self.ask(d, "/v1/audit"), 200)
                self.assertEqual(self.ask(d, "/v1/audit", user=NOBODY - 1), 403)
            finally:
                d.close()


if __name__ == "__main__":
    harness.main()
