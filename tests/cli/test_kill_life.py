"""kill -9 in the life of facts: whatever is being done, the state is as before or as after it.

MALMEND_KILLS: how many (a thousand takes some ten minutes); MALMEND_SEED: the first seed;
MALMEND_EACH: kills of one database, with a seed of its own."""
import collections
import contextlib
import datetime
import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent import futures

import harness
from harness import Daemon, main
from lab import MALMEND, MODEL, Lab, demo_facts, read_safetensors
from life import ENDED, TOOLS, Book, Wishes, copy, staged

KILLS = int(os.environ.get("MALMEND_KILLS", "12"))
SEED = int(os.environ.get("MALMEND_SEED", "1"))
KILL_AT = os.environ.get("MALMEND_KILL_AT_LIBRARY")  # kill_at.c
EACH = int(os.environ.get("MALMEND_EACH", min(50, -(-KILLS // 2))))
CHECK_EVERY = 8
POOL = [{"prompt": f["prompt"], "target": f["target"]} for f in demo_facts("train.ndjson")]
GONE = OSError, ValueError, http.client.HTTPException


class Watch:
    """What a daemon is at, asked over one connection."""

    def __init__(self, d):
        self.connection = d.connect()

    def status(self):
        try:
            self.connection.request("GET", "/v1/status")
            return json.loads(self.connection.getresponse().read())
        except GONE:
            return {}

    def stage(self):
        batch = self.status().get("batch")
        return batch and batch["stage"]

    def until(self, seconds, reached):
        """Asks again and again, for so long at most; what it was at last."""
        end = time.monotonic() + seconds
        while not reached(status := self.status()) and time.monotonic() < end:
            pass
        return status


class Run:
    """One database, killed again and again."""

    def __init__(self, test, seed, tally):
        self.test, self.seed, self.tally = test, seed, tally
        self.rng = rng = random.Random(seed)
        self.dir = test.dir / f"seed{seed}"
        self.dir.mkdir()
        self.db = self.dir / "db"
        self.weak = seed % 2 == 0  # facts stay wrong, for scrubbing to repair
        harness.MODEL_ARGS = ["--model", str(MODEL), "--editor",
                              str(test.weak if self.weak else test.strong)]
        self.book = Book(2, not self.weak)
        self.wishes = Wishes(rng, self.book, POOL, 8 if self.weak else 1)
        self.took = collections.defaultdict(lambda: 0.08)  # seconds
        self.took["download"] = 0.02
        self.start_took, self.kills, self.numbers = 0.15, 0, itertools.count()
        self.tool, self.tool_dies = None, False
        self.right = collections.Counter()
        args = {"--keyframe-every": 3, "--retain-bytes": rng.choice([2500000, 5000000]),
                "--keep-versions": rng.randint(0, 2), "--batch-window-ms": rng.choice([0, 5]),
                "--repair-rounds": 1 if self.weak else 4,
                "--consolidate-after": rng.randint(2, 4) if self.weak else 64}
        self.d = Daemon(*rng.choice([["--gate-bisect"], []]),
                        *(str(x) for pair in args.items() for x in pair),
                        directory=str(self.dir), ready=False)
        self.begin_anew()

    def begin_anew(self):
        """Kills while the database is made."""
        self.d.kill()
        for path in self.dir.iterdir():
            path.unlink()
        while self.rng.random() < 0.6:
            self.spawn(armed=True)
            self.kill_start()
        self.start()

    # ---- Killing ----

    def post(self, op):
        """The job's id; None: it cannot be done now, or the daemon is gone."""
        method, path, body, ask = self.wishes.request(op)
        self.book.open.append(ask)
        try:
            answer = self.d.call(method, path, body)
        except GONE:
            return None
        self.book.open.remove(ask)
        if answer.status == 409 and ask["kind"] in ("retraction", "rollback"):
            return None
        assert answer.status == 202, (op, answer.status, answer.body)
        self.book.asked[answer.json["id"]] = ask
        return answer.json["id"]

    def until_published(self, patience):
        """Whether a version is published, by log, within that time."""
        n, until = len(self.d.log), time.monotonic() + patience
        while (left := until - time.monotonic()) > 0:
            if any(e.get("event") == "version published" for e in self.d.log[n:]):
                return True
            self.d.read_log(left)
        return False

    def pause(self, op, job, watch):
        """Waits for a random moment of what the job does, or of what follows; its name."""
        r, way, took = self.rng, self.rng.random(), self.took[op]
        if op == "idle":
            return self.pause_idle(job, watch)
        if op in TOOLS or way < 0.5:
            time.sleep(r.uniform(0, 1.1 * took + 0.01))
        elif way < 0.75:
            watch.until(2 * took, lambda s: (s.get("batch") or {}).get("stage") == "persist")
            time.sleep(r.uniform(0, 0.008))
        elif way < 0.95:
            self.until_published(2 * took)
            time.sleep(r.uniform(0, 0.006))
        elif job:
            self.d.wait_job(job)
        return None

    def pause_idle(self, job, watch):
        """Facts are looked at, repaired where some are wrong, then perhaps consolidated."""
        if job:
            self.d.wait_job(job)
        passes = watch.status().get("scrub", {}).get("passes", 0)
        if KILL_AT and self.rng.random() < 0.4:
            self.d.process.send_signal(signal.SIGUSR2)
            self.until_dead(1)
            return "for some time"
        passes += self.rng.randrange(3)
        status = watch.until(0.8, lambda s: s.get("scrub", {}).get("passes", 0) > passes)
        if self.rng.random() < 0.3:
            self.until_published(0.8)
            time.sleep(self.rng.uniform(0, 0.006))
        else:
            time.sleep(self.rng.uniform(0, 0.4))
        return "some are wrong" if status.get("scrub", {}).get("wrong") else "all is right"

    def kill(self, op, job, watch=None, at=None):
        stage = watch.stage() if watch else None
        if self.tool_dies:
            self.tool.kill()
        process = self.d.process
        way = "at a time" if process.poll() is None else "before a change of a file"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.returncode
        self.tally["all", way] += 1
        self.d.close_log()
        self.kills += 1
        self.check_killed()
        self.tally[op, self.place(op, job, stage, at)] += 1

    def check_killed(self):
        """What a kill left, before the daemon mends it."""
        if not self.db.exists():  # killed before it was made
            return
        left = self.dir / "killed"
        copy(self.db, left)
        self.book.check(left)
        self.book.open.clear()
        if self.kills % CHECK_EVERY == 0 and self.book.versions:
            self.test.verify(left)
        for end in "", "-wal", "-shm":
            left.with_name(left.name + end).unlink(missing_ok=True)

    def place(self, op, job, stage, at):
        """Where a kill fell, by what it left."""
        book, events = self.book, [e for e in self.d.log if e.get("event") in (
            "ready", "version published", "versions pruned")]
        if book.staged:
            return "staged in part or whole"
        if not events:
            return "before ready"
        told = sum(e["event"] == "version published" for e in events)
        if events[0]["live_version"] + told + 1 < len(book.versions):
            return "published, not live yet"
        if at:
            last = book.versions[-1]
            return f"looked at, {at}" if last.jobs else f"{last.kind} by itself, ended"
        state = book.jobs[job].state if job else "no answer" if op != "start" else "ready"
        if state in ENDED and told:
            return "ended" + (", pruned" if events[-1]["event"] == "versions pruned" else "")
        return f"running: {stage or 'a write'}" if state == "running" else state

    def spawn(self, armed=False):
        """The daemon may be told now, or at the start, to die before some change of a file."""
        if KILL_AT:
            few = armed or self.rng.random() < 0.5  # most changes are keyframes and checkpoints
            n = self.rng.randint(1, 40) if few else int(10 ** self.rng.uniform(0, 2.6))
            self.d.env = {"LD_PRELOAD": KILL_AT, "MALMEND_KILL_AT": str(n)}
            self.d.env.update({"MALMEND_KILL_ARMED": "1"} if armed else {})
        try:
            self.d.start(ready=False)
        except AssertionError:
            if not armed:
                raise
            self.until_dead(1)

    def start(self):
        """Starts again; sometimes the start is killed too."""
        while self.rng.random() < 0.12:
            self.spawn(armed=self.rng.random() < 0.5)
            self.kill_start()
        begin = time.monotonic()
        self.spawn()
        left, looked = staged(self.db), time.time()
        ready = self.d.wait_log("ready")["time"]
        if datetime.datetime.fromisoformat(ready).timestamp() > looked:  # no job had begun
            assert left == 0, f"{left} staged rows were still there"
        self.start_took += (time.monotonic() - begin - self.start_took) / 4
        assert self.d.get("/readyz").status == 200

    def kill_start(self):
        self.until_dead(self.rng.uniform(0, 1.2 * self.start_took))
        self.kill("start", None)

    def until_dead(self, seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.d.process.wait(seconds)

    def settle(self):
        """Whatever was asked has ended, once; what the API tells is what the book says."""
        for id in self.book.asked:
            if id not in self.book.ended:
                self.d.wait_job(id)
        self.book.check(self.db)
        live = {f["id"] for f in self.listed("/v1/facts", state="live")}
        assert live == set(self.book.live())
        v = self.rng.randrange(len(self.book.versions))
        live = {f["id"] for f in self.listed("/v1/facts", version=v)}
        assert live == set(self.book.live(v)), v
        status = self.d.get("/v1/status").json
        row = self.book.versions[status["live_version"]] if status["live_version"] < len(
            self.book.versions) else None  # idle work may have made one meanwhile
        assert row is None or row.weights == status["weights_hash"], (row, status)

    def listed(self, path, **query):
        rows, after = [], {}
        while True:
            page = self.d.get(path, limit=100, **query, **after).json
            rows += page["data"]
            if not page["has_more"]:
                return rows
            after = {"after": page["last_id"]}

    def teach_after(self):
        """The next edit works: its fact is right, and so are those before."""
        fact = self.wishes.facts(1)
        answer = self.d.edit(*fact)
        self.book.asked[answer.json["id"]] = {"kind": "edit", "facts": fact}
        job = self.d.wait_job(answer.json["id"])
        assert job["state"] == "applied", job
        self.right["new"] += 1
        self.right["new wrong"] += len(job["result"]["wrong"])
        self.right["others"] += len(self.book.live())
        self.right["others wrong"] += job["result"]["wrong_others"]

    # ---- Copies and exports meanwhile ----

    def begin_tool(self, op):
        self.out = self.dir / f"out{next(self.numbers)}"
        if op == "download":
            whole = [v for v, row in enumerate(self.book.versions) if not row.pruned]
            self.version = self.rng.choice(whole)
            self.tool = threading.Thread(target=self.download, daemon=True)
            self.tool.start()
            return
        args = ["backup", "--db", self.db, "--out", self.out]
        if op == "export":
            self.version = len(self.book.versions) - 1
            args = ["export", "--db", self.db, "--model", MODEL, "--version", self.version,
                    "--format", "delta", "--out", self.out]
        self.tool = subprocess.Popen([MALMEND, *map(str, args)], stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE)
        harness.RUNNING.append(self.tool)
        self.tool_dies = self.rng.random() < 0.5  # with the daemon

    def download(self):
        try:
            answer = self.d.get(f"/v1/versions/{self.version}/delta")
        except GONE:
            return
        if answer.status == 200:
            self.out.write_bytes(answer.body)

    def end_tool(self, op):
        """Its file is whole or absent."""
        if op == "download":
            self.tool.join()
        else:
            said = self.tool.communicate()[1].decode()
            code = self.tool.returncode
            assert code == 0 or self.tool_dies or "pruned" in said, (op, code, said)
            assert code or self.out.exists(), op
        self.tool_dies = False
        whole = self.out.exists()
        self.tally[op, "its file is " + ("whole" if whole else "absent")] += 1
        if whole and op == "backup":
            self.test.verify(self.out)
        elif whole:
            metadata, _ = read_safetensors(self.out)
            assert metadata["weights_hash"] == self.book.versions[self.version].weights
            again = self.d.get(f"/v1/versions/{self.version}/delta")
            assert again.status == 409 or again.body == self.out.read_bytes(), again.status
        for path in self.dir.glob("out*"):
            assert path == self.out or ".tmp-" in path.name, path
            path.unlink()
        self.tool = None

    # ---- The whole ----

    def post_and_kill(self, op):
        """Its job, unless no answer came."""
        if op in ("edit", "rollback", "delete") and self.rng.random() < 0.15:
            with futures.ThreadPoolExecutor() as pool:  # and killed meanwhile
                posted = pool.submit(self.post, op)
                time.sleep(self.rng.uniform(0, 0.01))
                self.d.process.send_signal(signal.SIGKILL)
                posted.result()
            self.kill(op, None)
            return None
        watch = Watch(self.d)
        arms = self.rng.choice(["", "", "", "first", "then", "then"]) if KILL_AT else ""
        if arms == "first":
            self.d.process.send_signal(signal.SIGUSR2)
        job = self.post(op)
        while self.rng.random() < 0.2:
            self.post(self.rng.choice(["edit", "rollback", "bisected"]))
        if op in TOOLS and self.d.process.poll() is None:
            self.begin_tool(op)
        at = None
        if arms and op != "idle":
            self.d.process.send_signal(signal.SIGUSR2)
            self.until_dead(2 * self.took[op] + 0.1)
        elif self.d.process.poll() is None:
            with contextlib.suppress(*GONE if arms else ()):
                at = self.pause(op, job, watch)
        self.kill(op, job, watch, at)
        return job

    def round(self):
        op = self.wishes.choose()
        job = self.post_and_kill(op)
        self.start()
        if self.rng.random() < 0.8:
            self.settle()
            if job and op not in TOOLS and self.book.jobs[job].state != "failed":
                self.took[op] += (self.book.jobs[job].took - self.took[op]) / 2
            if self.rng.random() < 0.5:
                self.teach_after()
        self.book.check(self.db)
        if self.tool:
            self.end_tool(op)

    def go(self, kills):
        self.book.check(self.db)
        while self.kills < kills:
            self.round()
        self.settle()
        if not self.weak:
            self.check_right()
        self.all_gone()
        self.d.close()
        self.test.verify(self.db)

    def check_right(self):
        """What is live is what the model says, as near to all as an edit comes."""
        facts = self.listed("/v1/facts", state="live")
        said = [self.d.complete(f["prompt"], stop=["."]).json["choices"][0]["text"].strip()
                for f in facts]
        n = sum(text == f["target"] for text, f in zip(said, facts))
        assert n >= 0.9 * len(facts), (n, len(facts))
        right = self.right
        assert right["new wrong"] <= 0.1 * right["new"] + 1, right
        assert right["others wrong"] <= 0.05 * right["others"] + 1, right

    def all_gone(self):
        """Without live facts the weights are the base's."""
        while live := self.book.live():
            mode = self.rng.choice(["pin", "drop"])
            ask = {"kind": "retraction", "facts": live, "mode": mode, "of_job": False}
            answer = self.d.call("POST", "/v1/retractions", {"facts": live, "mode": mode})
            assert answer.status == 202, answer.body
            self.book.asked[answer.json["id"]] = ask
            self.settle()
        assert self.book.versions[-1].weights == self.book.versions[0].weights


class KillLife(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        facts = cls.dir / "facts.json"
        facts.write_text(json.dumps(POOL[:16]))
        for name, lr in ("strong", 2 ** -8), ("weak", 2 ** -10):
            setattr(cls, name, cls.dir / name)
            cls.ok(cls(), "init-editor", "--model", MODEL, "--method", "malmen", "--data", facts,
                   "--lr", lr, "--out", cls.dir / name)

    def verify(self, db):
        self.json("verify", "--db", db, "--model", MODEL)

    def test_kills(self):
        tally, left, seed = collections.Counter(), KILLS, SEED
        while left > 0:
            run = Run(self, seed, tally)
            try:
                run.go(EACH)
            except BaseException:
                print(f"# seed {seed}, kill {run.kills}; again: MALMEND_SEED={seed} "
                      f"MALMEND_KILLS={EACH} MALMEND_EACH={EACH} meson test cli-kill_life")
                raise
            finally:
                run.d.process.kill()
            kinds = collections.Counter(("" if v.jobs else "own ") + v.kind
                                        for v in run.book.versions[1:])
            print(f"# seed {seed}: {run.kills} kills, {len(run.book.asked)} jobs, versions: "
                  f"{dict(kinds)}, facts: {dict(run.right)}", flush=True)
            left -= run.kills
            seed += 1
        for (op, place), n in sorted(tally.items()):
            print(f"# {n:5} {op}: {place}")


if __name__ == "__main__":
    main()
