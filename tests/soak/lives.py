"""One database and the lives of its daemon."""
import contextlib
import http.client
import json
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import answers
import events
import figures
import harness
import rights
import slow
import trouble
from harness import PATIENCE, Daemon
from lab import MALMEND, malmend
from life import ENDED, copy
from model import Model
from options import Options

GONE = OSError, http.client.HTTPException


class Gone(Exception):
    """The daemon was killed or stopped meanwhile."""


class Logged(Daemon):
    """Its log is kept."""

    def take(self, line):
        with open(self.directory + "/log", "ab") as file:
            file.write(line)
        super().take(line)
        if len(self.log) > 4000:  # wait_log wants those of the start only
            del self.log[1000:2000]


class World:
    def __init__(self, seed, directory, shelf, share):
        self.share = share     # of the lives in which something fails
        self.seed, self.rng, self.dir = seed, random.Random(seed), Path(directory)
        self.options = Options(self.rng, shelf, self.dir)
        self.db = self.dir / "db"
        self.model = Model(self.options)
        self.log = open(self.dir / "operations", "w", buffering=1, encoding="utf-8")
        self.ending = None     # "kill" or "stop", from the moment it is sent
        self.timer = None
        self.kills = self.stops = self.ends = self.n = self.n_refused = 0
        self.trouble = None
        self.calm = False      # nothing fails any more
        self.first = {}        # rows of versions and ended jobs as they were told first
        self.said = {}         # by weights hash
        self.scored = {}
        self.measured = {}     # by weights hash and facts
        self.files = {}        # (version, format, tag): the download
        self.base = {}         # its tensors
        self.deltas = {}       # by version
        self.events = events.Follower()
        self.slowness = self.rng.choice([0, 0, 0.1, 0.4])  # share of the calls
        self.kept, self.hung = [], []  # connections
        self.rights = rights.Rights(self.rng, self.dir) if self.rng.random() < 0.3 else None
        self.d = None

    def note(self, *what):
        self.log.write(f"{time.monotonic():.3f} {' '.join(str(w)[:600] for w in what)}\n")

    # ---- Lives ----

    def begin(self):
        harness.MODEL_ARGS = ["--model", str(self.options.model)]
        self.note("options", self.options.kind, *self.options.args)
        self.model.editor_missed = self.model.editor_missed or not self.has_editor()
        self.ending = None
        self.figures = figures.Figures(self.model)
        self.choose_trouble()
        args = [*self.options.args, *(self.trouble.args if self.trouble else [])]
        if self.rights:
            args += ["--tokens", self.rights.tokens.path]
        self.d = Logged(*args, directory=str(self.dir), ready=False, env=self.trouble and self.trouble.env,
                        listen=rights.listen(self.rng, self.dir))
        self.events.begin(self.d, self.rights.headers(rights.KEEPER) if self.rights else {})
        if self.rng.random() < 0.2:
            time.sleep(self.rng.uniform(0, 0.15))
            self.note("killed while it loads")
            self.end("kill")
            self.wait_end()
            if self.model.versions:
                self.model.check(self.db)
            self.begin()
            return
        self.d.wait_log("ready")
        self.repeat_open()
        if self.trouble:
            self.trouble.arm(self.d)

    def choose_trouble(self):
        self.trouble = None
        if self.model.versions and not self.calm and self.rng.random() < self.share and trouble.there():
            self.trouble = trouble.Trouble(self.rng, self.dir)
            self.model.troubles.append(self.trouble)
            self.note("trouble", self.trouble)

    def has_editor(self):
        return self.options.editor or Path(f"{self.db}.editor.safetensors").exists()

    def end(self, way):
        self.ending = self.ending or way
        self.d.process.send_signal(signal.SIGKILL if way == "kill" else signal.SIGTERM)

    def end_soon(self):
        way, later = self.rng.choice(["kill"] * 3 + ["stop"]), self.rng.choice([0, 0.05, 0.4, 1.5])
        later *= self.rng.random()
        self.note(way, f"in {later:.3f} s")
        self.timer = threading.Timer(later, self.end, (way,))
        self.timer.start()

    def wait_end(self):
        if self.timer:
            self.timer.join()
            self.timer = None
        code = self.d.process.wait(PATIENCE)
        self.d.close_log()
        if code in (-signal.SIGTERM, -signal.SIGKILL) and self.trouble and self.trouble.has_come:
            self.kills += 1  # it may have been ending by itself already
            return
        if code == 1 and self.trouble:
            said = json.dumps(self.d.log)
            assert self.trouble.may_end and self.trouble.explains(said), f"it ended with 1: {said[-900:]}"
            self.ends += 1
            return
        assert code == (-signal.SIGKILL if self.ending == "kill" else 0), f"it ended with {code}: {self.d.log[-3:]}"
        if self.ending == "kill":
            self.kills += 1
        else:
            self.stops += 1

    def live_again(self):
        """After an end: what it left is checked, and the next one begins."""
        self.wait_end()
        slow.forget(self)
        left = self.dir / "left"
        copy(self.db, left)
        if self.model.versions:  # else it may have been killed before there was one
            self.model.check(left)
            self.events.check(left)
            if self.rng.random() < 0.4:
                self.verify(left)
            if self.rng.random() < 0.6:
                self.options.change()
        self.remove("left")
        if not self.options.editor and self.rng.random() < 0.4:
            Path(f"{self.db}.editor.safetensors").unlink(missing_ok=True)  # as where a backup is opened
        self.begin()

    def repeat_open(self):
        """What had no answer is asked again where it has a key; the rest was taken, or was not."""
        for ask in list(self.model.open):
            if ask["key"]:
                answer = self.send(ask)
                self.model.close(ask)
                self.book(ask, answer)
        self.model.check(self.db)
        self.model.open.clear()

    def close(self):
        self.log.close()
        if self.timer:
            self.timer.cancel()
        if self.d and self.d.process.poll() is None:
            self.d.kill()

    # ---- Calls ----

    def call(self, method, path, body=None, headers=None, query=None):
        """An answer that is as described."""
        self.n += 1
        if "Authorization" not in (headers or {}):
            headers = {**(headers or {}), **self.show(method, path)[1]}
        elif not headers["Authorization"]:
            del headers["Authorization"]
        query = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = slow.call(self, method, path, body, headers, query)
        except GONE as error:
            self.gone(error, method, path, query)
        self.note(method, path, query, body or "", answer.status, answer.body[:200] if method != "GET" else "")
        hurt = answer.status >= 500 and self.trouble and self.trouble.explains(answer.body.decode())
        if method not in ("HEAD", "OPTIONS") and not (hurt and self.trouble.kind == "memory"):
            answers.check(method, path, answer)  # what is made ahead, for want of memory, has fewer headers
        if answer.status >= 500:
            self.refused(method, path, answer, hurt)
        return answer

    def refused(self, method, path, answer, hurt):
        """For what fails, or because it is being stopped, which an error of its database does, too."""
        if hurt:
            assert answer.status in self.trouble.statuses, (method, path, answer.status, answer.body)
            self.n_refused += 1
            raise trouble.Troubled
        stops = self.ending or self.trouble and self.trouble.has_come
        assert answer.status == 503 and stops, (method, path, answer.status, answer.body)
        raise Gone if self.ending else trouble.Troubled

    def gone(self, error, *call):
        """A call that had no answer, which it has if the daemon is to live."""
        if not self.ending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.d.process.wait(2)
            if self.trouble and self.trouble.has_come:
                self.note("no answer", *call, repr(error))
                if self.d.process.poll() is None:  # no memory to answer by, or a file that cannot be read to its end
                    assert self.trouble.kind != "full", (error, call)
                    raise trouble.Troubled from error
                self.ending = "trouble"
                raise Gone from error
            raise AssertionError(f"no answer to {call}: {error!r}, exit code {self.d.process.poll()}, "
                                 f"{self.d.log[-3:]}") from error
        raise Gone from error

    def show(self, method, path):
        """Who asks, and what says so."""
        return self.rights.show(method, path) if self.rights else (rights.local(self.d), {})

    def get(self, path, **query):
        answer = self.call("GET", path, query=query)
        assert answer.status == 200, (path, query, answer.status, answer.body)
        return answer.json

    def pages(self, path, limit=100, **query):
        """All entries of a list, page by page."""
        name, data = "version" if path == "/v1/versions" else "id", []
        while True:
            page = self.get(path, limit=limit, after=data[-1][name] if data else None, **query)
            assert len(page["data"]) <= limit, (path, query, limit)
            data += page["data"]
            if not page["has_more"]:
                keys = [entry[name] for entry in data]
                assert len(keys) == len(set(keys)), f"twice in {path} {query}: {keys}"
                return data
            assert page["data"], f"more of an empty page: {path} {query}"

    def headers(self, ask):
        who, headers = self.show(ask["method"], ask["path"])
        if "answer" not in ask:
            ask.setdefault("who", set()).add(who)
        if ask["body"] is not None:
            headers = {**headers, "Content-Type": ask["type"]}
        if ask["key"]:
            headers = {**headers, "Idempotency-Key": ask["key"]}
        return headers

    def send(self, ask):
        return self.call(ask["method"], ask["path"], ask["body"], self.headers(ask), ask["query"])

    def post(self, kind, method, path, body, query=None, key=None, type="application/json", **more):
        """What is asked is booked before, and what comes of it after."""
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
        ask = {"kind": kind, "method": method, "path": path, "body": body, "query": query, "key": key,
               "type": type, **more}
        self.model.open.append(ask)
        answer = self.send(ask)
        self.model.close(ask)
        self.book(ask, answer)
        return answer

    def book(self, ask, answer):
        if answer.status == 202:
            id = answer.json["id"]
            assert answer.headers["Location"] == f"/v1/jobs/{id}", answer.headers
            assert id not in self.model.asked or ask["key"], f"{id} was asked for twice"
            ask["answer"] = answer.body
            self.model.asked[id] = ask

    # ---- Quiet ----

    def settle(self):
        """Every job ends. The status, jobs, facts and versions of a moment in which nothing is done, which the model
        has, too."""
        slow.let_go(self)
        until = time.monotonic() + 4 * PATIENCE
        while time.monotonic() < until:
            status = self.get("/v1/status")
            if status["queue"]["jobs"] or status["batch"] or status["evaluation"]:
                time.sleep(0.02)
                continue
            jobs, facts = self.pages("/v1/jobs"), self.pages("/v1/facts")
            versions = self.pages("/v1/versions")
            self.model.check(self.db)
            after = self.get("/v1/status")
            # one by itself is durable before it is live
            numbers = status["live_version"], after["live_version"], after["counts"]["versions"] - 1
            if all(job["state"] in ENDED for job in jobs) and not after["batch"] and \
                    set(numbers) == {len(self.model.versions) - 1} and \
                    self.events.caught_up(self, after["events"]["last_id"]):
                return after, jobs, facts, versions
        raise AssertionError(f"it does not come to rest: {status}")

    # ---- Tools ----

    def verify(self, db):
        done = malmend("verify", "--db", db, "--model", self.options.model, "--device", "cpu", "--json")
        self.verified(done.returncode, done.stdout, done.stderr)

    def begin_verify(self):
        return subprocess.Popen([MALMEND, "verify", "--db", str(self.db), "--model", str(self.options.model),
                                 "--device", "cpu", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def verified_tool(self, tool):
        out, err = tool.communicate(timeout=4 * PATIENCE)
        self.verified(tool.returncode, out, err)

    def verified(self, code, out, err):
        assert code == 0, f"verify: {err.decode()[-400:]}"
        assert json.loads(out)["versions"] >= len(self.model.versions), out

    def remove(self, name):
        """A database of the world's that is not wanted any more."""
        for path in self.dir.glob(name + "*"):
            path.unlink()
