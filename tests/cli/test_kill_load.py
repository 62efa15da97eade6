"""kill -9 while everything is asked at once: edits in JSON and NDJSON, retractions, rollbacks,
cancellations, reads and long polls. What was answered 202 is there, once, and ends once; what was
cancelled never runs; versions and facts are those of the jobs that were applied.

MALMEND_KILLS: how many; MALMEND_SEED: the first seed; MALMEND_EACH: kills of one database, with a
seed of its own."""
import collections
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import harness
from broken import Broken
from harness import Daemon, main
from life import ENDED, Book, copy

KILLS = int(os.environ.get("MALMEND_KILLS", "10"))
SEED = int(os.environ.get("MALMEND_SEED", "1"))
EACH = int(os.environ.get("MALMEND_EACH", min(25, -(-KILLS // 2))))
KILL_AT = os.environ.get("MALMEND_KILL_AT_LIBRARY")  # kill_at.c
CLIENTS = 6
VERIFY_EVERY = 10
GONE = OSError, ValueError, http.client.HTTPException


class LoadBook(Book):
    def fits(self, ask, id, job):
        if ask["kind"] != job.kind:
            return False
        if job.kind == "edit":
            prompts = {f.prompt for f in self.facts.values() if f.job == id}
            return prompts == {f["prompt"] for f in ask["facts"]}
        if job.kind == "rollback":
            return ask["to_version"] == job.to_version
        return set(json.loads(job.request)["facts"]) == set(ask["facts"])

    def check_ended(self, id, job):
        super().check_ended(id, job)
        if self.asked[id].get("cancel") == "done":
            assert job.state == "cancelled", (id, job)

    def check_jobs(self, jobs):
        super().check_jobs(jobs)
        for id, ask in self.asked.items():
            assert ask.get("cancel") != "done" or jobs[id].state == "cancelled", (id, jobs[id])


class Client(threading.Thread):
    """Asks one thing after the other until the daemon is gone."""

    def __init__(self, run, seed):
        super().__init__(daemon=True)
        self.run_, self.rng = run, random.Random(seed)
        self.problem = None

    def run(self):
        try:
            while not self.run_.over:
                self.ask()
        except GONE as e:
            if not self.run_.over:
                self.run_.died.wait(harness.PATIENCE)
                self.problem = None if self.run_.died.is_set() else e
        except Exception as e:
            self.problem = e

    def ask(self):
        ask = self.rng.choice([self.edit, self.edit, self.lines, self.rollback, self.retract,
                               self.cancel, self.read, self.read, self.poll])
        self.run_.tally[ask.__name__, ask()] += 1

    def call(self, method, path, body=None, headers=None, **query):
        return self.run_.d.call(method, path, body, headers, query)

    def post(self, path, body, ask, **headers):
        """Books what is asked before, and what comes of it after."""
        book, lock = self.run_.book, self.run_.lock
        key = headers.get("Idempotency-Key")
        with lock:
            book.open.append(ask)
        answer = self.call("POST", path, body, headers)
        with lock:
            if answer.status != 202:
                book.open.remove(ask)
                assert answer.status in (409, 422, 429, 503), (path, answer.status, answer.body)
                return answer.status
            self.book_job(answer.json["id"], ask, key)
        return 202

    def book_job(self, id, ask, key):
        book = self.run_.book
        if ask in book.open:
            book.open.remove(ask)
        book.asked[id] = ask
        if key:
            self.run_.keys.pop(key, None)

    def facts(self):
        return [self.run_.next_fact(self.rng) for _ in range(self.rng.randint(1, 3))]

    def edit(self):
        facts = self.facts()
        ask, key = {"kind": "edit", "facts": facts}, f"key{self.rng.randrange(1 << 40)}"
        body = {"facts": facts}
        self.run_.keys[key] = body, ask
        return self.post("/v1/edits", body, ask, **{"Idempotency-Key": key})

    def lines(self):
        facts = self.facts()
        body = "".join(json.dumps(f) + "\n" for f in facts)
        return self.post("/v1/edits", body, {"kind": "edit", "facts": facts},
                         **{"Content-Type": "application/x-ndjson"})

    def rollback(self):
        to = max(0, self.call("GET", "/v1/status").json["live_version"] - self.rng.randint(0, 4))
        return self.post("/v1/rollbacks", {"to_version": to}, {"kind": "rollback", "to_version": to})

    def retract(self):
        live = [f["id"] for f in self.call("GET", "/v1/facts", state="live", limit=50).json["data"]]
        if not live:
            return "none live"
        facts = self.rng.sample(live, min(len(live), self.rng.randint(1, 3)))
        mode = self.rng.choice(["pin", "drop"])
        ask = {"kind": "retraction", "facts": facts, "mode": mode, "of_job": False}
        return self.post("/v1/retractions", {"facts": facts, "mode": mode}, ask)

    def some_job(self, newest):
        with self.run_.lock:
            jobs = [id for id in self.run_.book.asked if id not in self.run_.book.ended]
        return self.rng.choice(jobs[-3:] if newest else jobs) if jobs else None

    def cancel(self):
        job = self.some_job(newest=True)
        if not job:
            return "no job"
        ask = self.run_.book.asked[job]
        ask.setdefault("cancel", "asked")
        answer = self.call("POST", f"/v1/jobs/{job}/cancel", "")
        assert answer.status in (200, 409), (answer.status, answer.body)
        if answer.status == 200:
            assert answer.json["state"] == "cancelled", answer.json
            ask["cancel"] = "done"
        return answer.status

    def poll(self):
        job = self.some_job(newest=False)
        if not job:
            return "no job"
        answer = self.call("GET", f"/v1/jobs/{job}", wait=2)
        assert answer.status == 200, (job, answer.status, answer.body)
        return answer.json["state"]

    def read(self):
        method, path, body = self.rng.choice([
            ("GET", "/v1/status", None), ("GET", "/v1/jobs?limit=5", None),
            ("GET", "/v1/facts?limit=5", None), ("GET", "/v1/versions", None),
            ("GET", "/v1/models", None), ("GET", "/v1/versions/0/diff/0", None),
            ("GET", "/v1/versions/0/delta", None),
            ("POST", "/v1/completions", {"prompt": "Town 1 is in", "max_tokens": 2}),
            ("POST", "/v1/scores", {"items": [{"prompt": "Town 1 is in", "target": "A"}]})])
        answer = self.call(method, path, body)
        assert answer.status in (200, 429, 503), (path, answer.status, answer.body)
        return answer.status


class Run:
    """One database, killed again and again."""

    def __init__(self, test, seed, tally):
        self.test, self.tally, self.rng = test, tally, random.Random(seed)
        self.dir = test.dir / f"load{seed}"
        self.dir.mkdir()
        self.db = self.dir / "db"
        self.lock, self.died = threading.Lock(), threading.Event()
        self.keys = {}  # what was asked with a key, and is not answered
        self.over, self.n_facts, self.kills = False, 0, 0
        self.d = Daemon("--max-queue", "100", "--batch-window-ms", "2", directory=str(self.dir),
                        env=self.env())
        modules = self.d.get("/v1/status").json["editor"]["modules"]
        self.book = LoadBook(len(modules), exact=False)

    def next_fact(self, rng):
        with self.lock:
            self.n_facts += 1
            n = self.n_facts
        old = rng.random() < 0.3
        return {"prompt": f"Town {rng.randint(1, n) if old else n} is in", "target": f"Land {n % 7}"}

    def load(self):
        """Everything at once, until a random moment."""
        self.over = False
        self.died.clear()
        clients = [Client(self, self.rng.random()) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        if KILL_AT and self.rng.random() < 0.5:
            self.d.process.send_signal(signal.SIGUSR2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.d.process.wait(self.rng.uniform(0, 0.4))
        by_itself = self.d.process.poll() is not None
        self.over = True
        self.d.kill()
        self.died.set()
        for client in clients:
            client.join(harness.PATIENCE)
            assert not client.is_alive(), "a client hangs"
            if client.problem:
                raise client.problem
        assert self.d.process.returncode == -signal.SIGKILL, self.d.process.returncode
        self.kills += 1
        self.tally["killed", "before a change of a file" if by_itself else "at a time"] += 1

    def check_killed(self):
        left = self.dir / "killed"
        copy(self.db, left)
        self.book.check(left)
        if self.kills % VERIFY_EVERY == 0:
            self.test.verify(left)
        self.tally["left", "staged" if self.book.staged else "nothing staged"] += 1
        for end in "", "-wal", "-shm":
            left.with_name(left.name + end).unlink(missing_ok=True)
        self.book.open.clear()

    def env(self):
        n = self.rng.randint(1, 300)
        return {"LD_PRELOAD": KILL_AT, "MALMEND_KILL_AT": str(n)} if KILL_AT else {}

    def start(self):
        self.d.env = self.env()
        self.d.start()
        assert self.d.get("/readyz").status == 200

    def repeat(self):
        """What had a key and no answer: once, now or then."""
        for key, (body, ask) in list(self.keys.items()):
            answer = self.d.call("POST", "/v1/edits", body, {"Idempotency-Key": key})
            self.keys.pop(key)
            if answer.status in (422, 429):
                continue
            assert answer.status == 202, (answer.status, answer.body)
            known = [id for id, other in self.book.asked.items() if other is ask]
            assert known in ([], [answer.json["id"]]), (known, answer.json, "accepted twice")
            self.book.asked[answer.json["id"]] = ask

    def settle(self):
        """Whatever was asked has ended, once; what the API tells is what the book says."""
        for id in self.book.asked:
            if id not in self.book.ended:
                self.d.wait_job(id, *ENDED)
        self.book.check(self.db)
        live, after = set(), {}
        while True:
            page = self.d.get("/v1/facts", state="live", limit=100, **after).json
            live |= {f["id"] for f in page["data"]}
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert live == set(self.book.live())

    def go(self, kills):
        while self.kills < kills:
            self.load()
            self.check_killed()
            self.start()
            self.repeat()
            if self.rng.random() < 0.3:
                self.settle()
        self.settle()
        self.d.close()
        self.test.verify(self.db)
        shutil.rmtree(self.dir)


class KillLoad(Broken):
    def test_kills(self):
        tally, left, seed = collections.Counter(), KILLS, SEED
        while left > 0:
            run = Run(self, seed, tally)
            try:
                run.go(min(EACH, left))
            except BaseException:
                print(f"# seed {seed}, kill {run.kills}; again: MALMEND_SEED={seed} "
                      f"MALMEND_KILLS={EACH} MALMEND_EACH={EACH} meson test cli-kill_load")
                raise
            finally:
                run.over = True
                run.d.process.kill()
            states = collections.Counter(job.state for job in run.book.jobs.values())
            kinds = collections.Counter(v.kind for v in run.book.versions[1:])
            print(f"# seed {seed}: {run.kills} kills, jobs: {dict(states)}, versions: {dict(kinds)}",
                  flush=True)
            left -= run.kills
            seed += 1
        for (what, came), n in sorted(tally.items(), key=str):
            print(f"# {n:6} {what}: {came}")


if __name__ == "__main__":
    main()
