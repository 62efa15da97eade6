"""A daemon in which the n-th of something fails, n = 1..: a start ends with 1 and says why, or goes
on; a request or a job fails with a problem that says why, or the daemon ends with 1 and its next
start has all that was answered 202. Nothing is applied twice, and afterwards all is well again.

MALMEND_POINTS: how many n of each kind (a sample), or "all", or FROM:TO, or numbers with commas;
MALMEND_SEED: of the sample."""
import collections
import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import harness
from harness import Daemon
from world import fact

POINTS = os.environ.get("MALMEND_POINTS", "")
SEED = int(os.environ.get("MALMEND_SEED", "1"))
QUIET = 100  # so many n that are not reached are the end: counts of threads differ from run to run
GONE = OSError, http.client.HTTPException
ENDS = re.compile("the daemon is (failed|draining|stopping)")  # why is in its log


class Victim(Daemon):
    """Its start may fail: then it is not `up`, and `said` is what it said."""

    def start(self, ready=True):
        self.up = False
        try:
            super().start(ready)
            self.up = True
        except KeyError:  # a log line without its fields
            self.address = self.listen
            self.wait_log("ready")
            self.up = True
        except AssertionError:
            self.wait_end()

    def wait_end(self):
        try:
            self.process.wait(harness.PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.said[-900:]}")
        self.reader.join()

    @property
    def said(self):
        return "\n".join(e.get("text") or json.dumps(e) for e in self.log)

    def heard(self, text):
        """It is expected here."""

    def bury(self):
        self.close_log()
        harness.RUNNING.remove(self.process)


class Point:
    """One n, from a copy of a directory to its end."""

    KEYS = "first", "second", "third", "fourth", "fifth"

    def __init__(self, test, kind, n):
        self.test, self.kind, self.n = test, kind, n
        self.dir = test.dir / f"{kind.name}{n}"
        self.told = self.dir / "told"
        self.accepted = {}  # by key: the job
        self.tries, self.outcome = 0, "went on"

    def victim(self, n):
        env = self.kind.env(self, n)
        d = Victim(*self.kind.args, directory=str(self.dir), listen=f"unix:{self.dir}/socket",
                   env=env)
        d.headers = self.kind.headers
        return d

    def says_why(self, text):
        return self.kind.says.search(text)

    def check_end(self, d):
        """It has ended by itself: with 1, and said why."""
        d.wait_end()
        code = d.process.returncode
        assert code == 1, (code, d.said[-900:])
        assert self.says_why(d.said), d.said[-900:]
        d.bury()

    def ends(self, d, status, text):
        """Whether it says that it is about to end; then it does."""
        if status != 503 or not ENDS.search(text):
            return False
        d.wait_end()
        return True

    # ---- What is asked; None: no answer ----

    def ask(self, d, method, path, *body, **headers):
        try:
            answer = d.call(method, path, *body, headers=headers)
        except GONE:
            return None
        assert answer.headers["X-Request-Id"], (path, answer.status, answer.body)
        if answer.status >= 500 and not self.ends(d, answer.status, answer.body.decode()):
            assert answer.status in self.kind.statuses, (path, answer.status, answer.body)
            assert self.says_why(answer.body.decode()), (path, answer.status, answer.body)
            assert answer.status != 503 or "Retry-After" in answer.headers, (path, answer.body)
        if answer.status >= 500:
            return None
        return answer

    def patiently(self, d, *request, **headers):
        """Tried again until it is answered or the daemon has ended."""
        until = time.monotonic() + harness.PATIENCE
        while True:
            answer = self.ask(d, *request, **headers)
            if answer or d.process.poll() is not None:
                return answer
            self.tries += 1
            assert time.monotonic() < until, f"no answer: {request[:2]} {d.said[-900:]}"
            d.read_log(0.02)

    def fact(self, key):
        return fact(f"{self.n} {key}")

    def post(self, d, key, path="/v1/edits", body=None, **headers):
        """The job; None: the daemon has ended."""
        body = body or {"facts": [self.fact(key)]}
        answer = self.patiently(d, "POST", path, body, **{"Idempotency-Key": key, **headers})
        if answer is None:
            return None
        assert answer.status == 202, (answer.status, answer.body)
        job = answer.json["id"]
        assert self.accepted.setdefault(key, job) == job, "two jobs of one key"
        return job

    def wait(self, d, job):
        """The job's end; None: the daemon's."""
        until = time.monotonic() + harness.PATIENCE
        while time.monotonic() < until:
            answer = self.patiently(d, "GET", f"/v1/jobs/{job}?wait=1")
            if answer is None:
                return None
            assert answer.status == 200, (job, answer.status, answer.body)
            if answer.json["state"] not in ("queued", "running"):
                return answer.json
        raise AssertionError(f"job {job} hangs: {d.said[-900:]}")

    def teach(self, d, key, *request, **headers):
        """Whether it is done; None: the daemon has ended."""
        job = self.post(d, key, *request, **headers)
        job = job and self.wait(d, job)
        if not job:
            return None
        if job["state"] in ("applied", "done"):
            return True
        assert job["state"] == "failed" and self.says_why(json.dumps(job["error"])), job
        self.outcome = "job failed"
        return False

    def story(self, d):
        """Whether the daemon lives to its end."""
        taught = []
        for key in self.KEYS:
            done = self.teach(d, key)
            if done is None:
                return False
            taught += [key] * done
            if len(taught) == 2:
                break
        assert len(taught) == 2, taught
        prompt = self.fact(taught[0])["prompt"]
        for request in (("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 2}),
                        ("GET", "/v1/status"), ("GET", "/v1/facts?state=live"),
                        ("GET", "/v1/versions"), ("GET", "/readyz"), *self.kind.more):
            answer = self.patiently(d, *request)
            if answer is None:
                return False
            assert answer.status == 200, (request, answer.status, answer.body)
        return self.kind.further(self, d)

    # ---- The whole ----

    def recover(self):
        """Without faults."""
        d = Daemon(*self.kind.args, directory=str(self.dir))
        d.headers = self.kind.headers
        for job in self.accepted.values():
            state = d.wait_job(job)
            assert state["state"] in self.kind.ends or self.says_why(json.dumps(state)), state
        self.post(d, "last")
        job = d.wait_job(self.accepted["last"])
        assert job["state"] == "applied", job
        assert d.stop() == 0, d.log[-3:]
        harness.RUNNING.remove(d.process)

    def check_rows(self):
        """Each job once, and no version twice; the facts of the applied ones are live. Who asked
        and what was told agree."""
        db = sqlite3.connect(self.dir / "db")
        jobs = dict(db.execute("SELECT id, state FROM jobs"))
        kinds = dict(db.execute("SELECT id, kind FROM jobs"))
        assert set(self.accepted.values()) <= set(jobs), "answered 202 and lost"
        assert "queued" not in jobs.values() and "running" not in jobs.values(), jobs
        applied = [job for job, in db.execute(
            "SELECT j.id FROM version_jobs v JOIN jobs j ON j.seq = v.job")]
        assert sorted(applied) == sorted(j for j in jobs if jobs[j] == "applied"), (applied, jobs)
        live = db.execute("SELECT count(*), count(DISTINCT prompt) FROM facts"
                          " WHERE state = 'live'").fetchone()
        n = collections.Counter(kinds[job] for job in applied)
        assert live == (n["edit"] - n["retraction"],) * 2, (live, n)
        asked = [job for job, in db.execute("SELECT j.id FROM audit a JOIN jobs j ON j.seq = a.job"
                                            " WHERE a.action NOT LIKE '%/cancel'")]
        assert sorted(asked) == sorted(jobs), (asked, jobs)
        self.check_events(db, jobs)
        db.close()

    def check_events(self, db, jobs):
        """All of them, in order, up to what is."""
        rows = db.execute("SELECT id, kind, data_json FROM events ORDER BY id").fetchall()
        assert [id for id, _, _ in rows] == list(range(1, len(rows) + 1)), rows
        told = {kind: [json.loads(data) for _, k, data in rows if k == kind]
                for kind in ("job", "version")}
        assert {e["id"]: e["state"] for e in told["job"]} == jobs, (told["job"], jobs)
        versions = [v for v, in db.execute("SELECT version FROM versions ORDER BY version")]
        assert [e["version"] for e in told["version"]] == versions, (told["version"], versions)

    def begin(self, n):
        if self.kind.source:
            shutil.copytree(self.kind.source, self.dir)
        else:
            self.dir.mkdir()
        d = self.victim(n)
        if d.up and not self.kind.armed and not self.kind.late:
            d.process.send_signal(signal.SIGUSR2)
        return d

    def live_on(self, d):
        code = d.stop()
        assert code == 0 or code == 1 and self.says_why(d.said), (code, d.said[-900:])
        harness.RUNNING.remove(d.process)
        if code:
            self.outcome = "ended at the stop"
            self.recover()
        elif self.outcome == "went on" and self.tries:
            self.outcome = "request failed"

    def thorough(self):
        """Of thousands of starts that fail, and leave the database alone, one in ten."""
        few = POINTS != "all" and ":" not in POINTS
        return few or self.outcome != "start failed" or self.n % 10 == 0

    def run(self):
        """What came of it; None: n is too large."""
        d = self.begin(self.n)
        if d.up and self.story(d):
            self.live_on(d)
        else:
            self.outcome = "daemon ended" if d.up else "start failed"
            self.check_end(d)
            if self.thorough():
                self.recover()
        if self.thorough():
            self.check_rows()
            self.test.verify(self.dir / "db")
        told = self.told.read_text() if self.told.exists() else None
        assert told or self.outcome == "went on", self.outcome
        if told:
            self.kind.check(self, told)
        shutil.rmtree(self.dir)
        return self.outcome if told else None

    def count(self):
        """How many there are."""
        d = self.begin(0)
        assert self.story(d) and d.stop() == 0, d.said[-900:]
        n = int(self.told.read_text())
        shutil.rmtree(self.dir)
        return n


class Kind:
    """What fails, when, and how that is said."""

    statuses, args, more, headers, ends = (500, 503), (), (), {}, ("applied",)
    late = False  # only what is asked further is counted

    def __init__(self, name, source=None, armed=False):
        self.name, self.source, self.armed = name, source, armed

    def further(self, point, d):
        """What else is asked; whether the daemon lives to its end."""
        return True

    def check(self, point, told):
        pass


class Points:
    """Mixed into a test case that has `dir` and verify(db)."""

    def excuses(self, told):
        """Whether what failed is no part of the daemon."""
        return False

    def points(self, kind, sample):
        if "," in POINTS:
            return [int(n) for n in POINTS.split(",") if n]
        if ":" in POINTS:
            return range(*map(int, POINTS.split(":")))
        if POINTS == "all":
            return itertools.count(1)
        n = Point(self, kind, 0).count()
        return sorted(random.Random(SEED).sample(range(1, n + 1), min(n, int(POINTS or sample))))

    def check_points(self, kind, sample):
        tally, last, wrong = collections.Counter(), 0, []
        for n in self.points(kind, sample):
            point = Point(self, kind, n)
            try:
                outcome = point.run()
            except Exception as e:
                told = point.told.read_text() if point.told.exists() else ""
                if self.excuses(told):
                    tally["not the daemon's"] += 1
                    continue
                outcome = "wrong"
                wrong.append(n)
                print(f"# {kind.name}, point {n}; again: MALMEND_POINTS={n},")
                print("".join(f"#   {line}\n" for line in f"{e}\n{told}".splitlines()), flush=True)
            if outcome:
                last = n
            elif n > last + QUIET:
                break
            tally[outcome or "not reached"] += 1
        print(f"# {kind.name}, seed {SEED}, to {last}: {dict(tally)}", flush=True)
        self.assertEqual(wrong, [])
