"""Starts a daemon for a test, talks to it, and prints the results as TAP.

MALMEND_BIN names the binary, MALMEND_ARGS its model and editor options (JSON list). Without
MALMEND_ARGS the binary is malmend-fake, and the tests that need its held or failing facts run too.

No test depends on how fast the machine is: it waits for what must happen (PATIENCE ends in a
failure), and proves that something did not wait by what has not happened yet.
"""
import atexit
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

BINARY = os.environ["MALMEND_BIN"]
FAKE = "MALMEND_ARGS" not in os.environ
MODEL_ARGS = json.loads(os.environ.get("MALMEND_ARGS", '["--model", "/", "--editor", "-"]'))
PATIENCE = float(os.environ.get("MALMEND_PATIENCE", "50"))  # seconds a test waits for anything
AT_ONCE = 25  # seconds, less than the 30 of the longest poll, that nothing takes which does not wait

RUNNING = []  # every process started, so that none outlives the tests

only_fake = unittest.skipUnless(FAKE, "needs the fake engine")


def wait_until(condition):
    """What the condition gives once it holds."""
    until = time.monotonic() + PATIENCE
    while not (given := condition()):
        if time.monotonic() > until:
            raise AssertionError("what was waited for has not happened")
        time.sleep(0.01)
    return given


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """One process; its database lives in a directory that outlives it."""

    def __init__(self, *args, directory=None, listen="127.0.0.1:0", env=None, ready=True):
        self.own = None if directory else tempfile.TemporaryDirectory(prefix="malmend-")
        self.directory = directory or self.own.name
        self.args, self.listen, self.env = args, listen, env
        self.told = threading.Condition()
        self.headers = {}  # of every call
        self.reader = None
        self.start(ready)

    def start(self, ready=True):
        command = [BINARY, "serve", *MODEL_ARGS, "--db", self.directory + "/db",
                   "--listen", self.listen, *self.args]
        if self.reader:
            self.reader.join()  # who reads the log of the one before ends this one's, too
        self.log, self.n_read, self.log_over = [], 0, False
        self.process = subprocess.Popen(self.command(command), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        pass_fds=self.pass_fds(),
                                        env={**os.environ, **(self.env or {})})
        RUNNING.append(self.process)
        self.reader = threading.Thread(target=self.drain, args=(self.process,), daemon=True)
        self.reader.start()
        event = self.wait_log("listening")
        self.address = event["address"]
        if ready:
            self.wait_log("ready")

    def command(self, command):
        """How it is started."""
        return command

    def pass_fds(self):
        return ()

    def drain(self, process):
        """Takes the log as it comes."""
        for line in process.stderr:
            self.take(line)
        with self.told:
            self.log_over = True
            self.told.notify_all()

    def take(self, line):
        try:
            event = json.loads(line)
        except ValueError:
            event = {"event": "text", "text": line.decode(errors="replace").rstrip("\n")}
            self.heard(event["text"])
        with self.told:
            self.log.append(event)
            self.told.notify_all()

    def heard(self, text):
        """What it said that is no line of the log."""
        sys.stderr.write(text + "\n")

    def wait_log(self, name, timeout=None):
        until = time.monotonic() + (timeout or PATIENCE)
        seen = 0
        with self.told:
            while True:
                for event in self.log[seen:]:
                    if event.get("event") == name:
                        return event
                seen = len(self.log)
                left = until - time.monotonic()
                if left <= 0 or self.log_over:
                    raise AssertionError(f"no '{name}' in the log: {self.log[-5:]}")
                self.told.wait(left)

    def read_log(self, timeout):
        """Whether there are lines since the last call, within that time."""
        with self.told:
            self.told.wait_for(lambda: len(self.log) > self.n_read or self.log_over, timeout)
            n, self.n_read = self.n_read, len(self.log)
            return self.n_read > n

    def connect(self, timeout=None):
        if self.address.startswith("unix:"):
            return UnixConnection(self.address[5:], timeout or PATIENCE)
        host, port = self.address.rsplit(":", 1)
        return http.client.HTTPConnection(host.strip("[]"), int(port), timeout or PATIENCE)

    def call(self, method, path, body=None, headers=None, query=None, timeout=None):
        connection = self.connect(timeout)
        try:
            if query:
                path += "?" + urllib.parse.urlencode(query)
            headers = {**self.headers, **(headers or {})}
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
            if body is not None:
                headers.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            endless = answer.status == 200 and path.startswith("/v1/events")
            return Answer(answer.status, answer.headers, b"" if endless else answer.read())
        finally:
            connection.close()

    def get(self, path, timeout=None, **query):
        return self.call("GET", path, query=query, timeout=timeout)

    def raw(self, data, timeout=None, shut=False):
        """Bytes out, everything that comes back until the other side closes."""
        connection = self.connect(timeout)
        connection.connect()
        sock = connection.sock
        got = b""
        try:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
            while True:
                part = sock.recv(1 << 16)
                if not part:
                    break
                got += part
        except ConnectionError:
            pass
        finally:
            sock.close()
        return got

    def edit(self, *facts, headers=None, **more):
        return self.call("POST", "/v1/edits", {"facts": list(facts), **more}, headers)

    def wait_job(self, job, *states):
        states = states or ("applied", "done", "rejected", "failed", "cancelled")
        until = time.monotonic() + PATIENCE
        path, seen, known = f"/v1/jobs/{job}", {}, {"If-None-Match": '"none yet"'}
        while time.monotonic() < until:
            answer = self.call("GET", path, headers=known, query={"wait": 2})
            if answer.status == 304:
                continue
            seen, known = answer.json, {"If-None-Match": answer.headers["ETag"]}
            if seen.get("state") in states:
                return seen
        raise AssertionError(f"job {job} is {seen}")

    def apply(self, *facts):
        answer = self.edit(*facts)
        assert answer.status == 202, answer.body
        job = self.wait_job(answer.json["id"])
        assert job["state"] == "applied", job
        return job

    def rest(self):
        """Until what follows a version is done: its jobs are applied before that."""
        wait_until(lambda: self.get("/v1/status").json["batch"] is None)

    def complete(self, prompt, **more):
        body = {"prompt": prompt, "max_tokens": 16, **more}
        return self.call("POST", "/v1/completions", body)

    def sanitized(self):
        """Whether it was built with a sanitizer, which keeps what is freed."""
        with open(f"/proc/{self.process.pid}/maps", encoding="utf-8") as maps:
            return "san.so" in maps.read()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.close_log()

    def stop(self, patience=PATIENCE):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(patience)
        self.close_log()
        return code

    def close_log(self):
        """The process has ended: so has its log."""
        self.reader.join()
        self.process.stderr.close()

    def close(self):
        try:
            if self.process.poll() is None and self.stop() != 0:
                raise AssertionError("the daemon did not end with 0")
        finally:
            if self.process.poll() is None:
                self.kill()
            if self.own:
                self.own.cleanup()


class Case(unittest.TestCase):
    """One daemon for the whole class, unless it starts its own."""

    ARGS = ()

    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(*cls.ARGS)

    @classmethod
    def tearDownClass(cls):
        cls.d.close()

    def problem(self, answer, status, pointer=None, detail=None):
        """The answer is a problem of this status, about this field, saying this."""
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        body = answer.json
        self.assertEqual(body["status"], status)
        for key in ("type", "title", "detail"):
            self.assertIsInstance(body[key], str)
        if pointer is not None:
            self.assertEqual([e["pointer"] for e in body.get("errors", [])], [pointer])
        if detail is not None:
            self.assertIn(detail, body["detail"])
        return body


class TapResult(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.n = 0

    def line(self, test, ok, why="", more=""):
        self.n += 1
        print(f"{'ok' if ok else 'not ok'} {self.n} - {test.id().split('.', 1)[1]}{why}")
        for line in more.splitlines():
            print("# " + line)
        sys.stdout.flush()

    def addSuccess(self, test):
        self.line(test, True)

    def addSkip(self, test, reason):
        self.line(test, True, f" # SKIP {reason}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.line(test, False, more=self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.line(test, False, more=self.errors[-1][1])


def end_all(*_):
    for process in RUNNING:
        if process.poll() is None:
            process.kill()


def main():
    atexit.register(end_all)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    names = sys.argv[1:]
    loader = unittest.defaultTestLoader
    module = sys.modules["__main__"]
    suite = loader.loadTestsFromNames(names, module) if names else loader.loadTestsFromModule(module)
    result = TapResult()
    suite.run(result)
    print(f"1..{result.n}")
    sys.exit(0 if result.wasSuccessful() else 1)
