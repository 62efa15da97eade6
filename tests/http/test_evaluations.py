"""Evaluations: what is measured, in which order they run beside changes, and what is refused."""
import http.client
import json
import os
import sqlite3
import subprocess
import tempfile
import threading
import time

import harness
from harness import Case, Daemon, only_fake, wait_until
from world import TOO_LONG, Held, answers, fact


def hold(version):
    """A fact that takes until this version is live."""
    return {"prompt": f"hold:{version}", "target": "x"}


class Evaluating(Case):
    def evaluate(self, *facts, headers=None, **more):
        body = {"facts": list(facts), **more} if facts else more
        return self.d.call("POST", "/v1/evaluations", body, headers)

    def begin(self, *facts, **more):
        """Its id, once it has begun."""
        answer = self.evaluate(*facts, **more)
        self.assertEqual(answer.status, 202, answer.body)
        self.d.wait_job(answer.json["id"], "running", "done", "failed")
        return answer.json["id"]

    def result(self, *facts, **more):
        answer = self.evaluate(*facts, **more)
        self.assertEqual(answer.status, 202, answer.body)
        return self.done(answer.json["id"])

    def done(self, job):
        job = self.d.wait_job(job)
        self.assertEqual(job["state"], "done", job)
        return job["result"]

    def failed(self, job, status, says):
        job = self.d.wait_job(job)
        self.assertEqual((job["state"], job["error"]["status"]), ("failed", status), job)
        self.assertIn(says, job["error"]["detail"])
        line, = wait_until(lambda: [e for e in self.d.log if e["event"] == "job failed"
                                    and e["job"] == job["id"]])
        self.assertEqual(line["level"], "warning" if status < 500 else "error")

    def live(self):
        return self.d.get("/v1/status").json["live_version"]

    def request_of(self, job):
        """What the database keeps of it."""
        db = sqlite3.connect(self.d.directory + "/db")
        text, = db.execute("SELECT request_json FROM jobs WHERE id = ?", (job,)).fetchone()
        db.close()
        return text


@only_fake
class Measured(Evaluating):
    def test_life(self):
        one, two = fact(1), fact(2)
        v = self.d.apply(one)["version"]
        facts, status = self.d.get("/v1/facts").json, self.d.get("/v1/status").json
        answer = self.evaluate({**one, "rephrases": [two["prompt"]]},
                               {**two, "unrelated": [{"prompt": one["prompt"], "target": "no"},
                                                     {"prompt": "x"}]}, version=v)
        self.assertEqual(answer.status, 202, answer.body)
        job = answer.json
        self.assertEqual(answer.headers["Location"], "/v1/jobs/" + job["id"])
        self.assertEqual((job["kind"], job["state"], job["facts"], job["version"]),
                         ("evaluation", "queued", 2, v))
        ended = self.d.wait_job(job["id"])
        shares = {"es": 0.5, "gs": 0, "ls": 0}
        self.assertEqual(ended["state"], "done")
        self.assertEqual(ended["result"], {"version": v, "facts": 2, "teacher_forced": shares,
                                           "decoded": shares, "agreement": 0.5})
        self.assertLessEqual(ended["started_at"], ended["finished_at"])
        listed = self.d.get("/v1/jobs", kind="evaluation", state="done").json["data"]
        self.assertEqual(listed[0], ended)
        self.assertIsNone(self.request_of(job["id"]), "its facts are gone when it has ended")
        after = self.d.get("/v1/status").json
        self.assertEqual(self.d.get("/v1/facts").json, facts)
        for key in "live_version", "weights_hash", "evaluation":
            self.assertEqual(after[key], status[key])
        self.assertEqual(self.d.get("/v1/facts", job=job["id"]).json["data"], [])

    def test_nothing_to_measure(self):
        result = self.result(fact(5))
        self.assertEqual(set(result), {"version", "facts", "teacher_forced", "decoded"})
        self.assertEqual((result["teacher_forced"], result["decoded"]), ({"es": 0}, {"es": 0}))

    def test_versions(self):
        """Those in memory, those that are not, and the base."""
        f, versions = fact(10), []
        for i in range(5):
            versions.append(self.d.apply(fact(10, f"Target{i}"))["version"])
        self.assertFalse(self.d.get(f"/v1/versions/{versions[0]}").json["in_memory"])
        for i, v in enumerate(versions):
            for j in range(5):
                result = self.result(fact(10, f"Target{j}"), version=v)
                self.assertEqual((result["version"], result["decoded"]["es"]), (v, int(i == j)))
        self.assertEqual(self.result(f, version=0)["decoded"]["es"], 0)
        self.assertEqual(self.result(fact(10, "Target4"))["version"], versions[-1])
        back = self.d.call("POST", "/v1/rollbacks", {"to_version": versions[0]}).json["id"]
        back = self.d.wait_job(back)["version"]
        self.assertEqual(self.result(fact(10, "Target0"), version=back)["decoded"]["es"], 1)
        self.assertFalse(self.d.get(f"/v1/versions/{versions[0]}").json["in_memory"])

    def test_job_fails(self):
        self.failed(self.begin(fact(20, "fail:numeric")), 500, "not a number")
        self.assertIn("not a number", self.d.get("/v1/status").json["last_error"]["detail"])
        self.assertEqual(self.result(fact(21))["facts"], 1, "and the next one goes on")


@only_fake
class Order(Evaluating):
    """What comes while an evaluation runs does not wait for it, and does not move it."""

    ARGS = ("--batch-window-ms", "0")

    def test_edit_during_an_evaluation(self):
        known = fact(1)
        v = self.d.apply(known)["version"]
        # does not end before the edit is applied
        job = self.begin(known, hold(v + 1), fact(2), version=v)
        self.assertEqual(self.d.apply(fact(2))["version"], v + 1)
        result = self.done(job)
        self.assertEqual((result["version"], result["facts"]), (v, 3))
        self.assertAlmostEqual(result["decoded"]["es"], 1 / 3, msg="what it held, not what came")
        self.assertEqual(self.result(known, fact(2))["decoded"]["es"], 1)

    def test_many_changes(self):
        v = self.live()
        job = self.begin(*[hold(v + i) for i in range(1, 8)])
        for i in range(6):
            self.d.apply(fact(100 + i))
        self.assertEqual(self.d.get("/v1/jobs/" + job).json["state"], "running")
        back = self.d.call("POST", "/v1/rollbacks", {"to_version": v}).json["id"]
        self.assertEqual(self.d.wait_job(back)["version"], v + 7)
        self.assertEqual(self.done(job)["version"], v)

    def test_live_when_it_begins(self):
        """The version is that of the changes asked for before, not after."""
        v = self.live()
        held = Held(self, self.d)
        slow = held.begin()
        before = self.d.edit(fact(200)).json["id"]
        job = self.evaluate(fact(200), fact(201)).json
        after = self.d.edit(fact(201)).json["id"]
        self.assertNotIn("version", job)
        held.let_go()
        result = self.done(job["id"])
        versions = [self.d.wait_job(j)["version"] for j in (slow, before, after)]
        self.assertEqual(versions[0], v + 1)
        # the two edits may have gone together
        self.assertEqual(result["version"], versions[1])
        self.assertEqual(result["decoded"]["es"], 1 if versions[1] == versions[2] else 0.5)

    def test_reads_during_an_evaluation(self):
        f = fact(300)
        v = self.d.apply(f)["version"]
        job = self.begin(hold(v + 1), version=0)
        for _ in range(20):
            answer = self.d.complete(f["prompt"])
            self.assertTrue(answers(answer.json["choices"][0]["text"], f["target"]))
            self.assertEqual(answer.headers["Malmend-Version"], str(v))
        items = [{"prompt": f["prompt"], "target": f["target"]}]
        scores = self.d.call("POST", "/v1/scores", {"items": items}).json
        self.assertEqual((scores["version"], scores["data"][0]["correct"]), (v, True))
        seen = self.d.get("/v1/jobs/" + job).json
        self.assertEqual((seen["state"], set(seen["progress"])),
                         ("running", {"stage", "done", "total"}))
        status = self.d.get("/v1/status").json
        self.assertIsNone(status["batch"])
        told = status["evaluation"]
        self.assertEqual((told["job"], told["version"], told["facts"], told["stage"],
                          told["done"], told["total"]), (job, 0, 1, "verify", 0, 1))
        self.d.apply(fact(301))
        self.done(job)
        self.assertIsNone(self.d.get("/v1/status").json["evaluation"])

    def test_progress_of_both(self):
        job = self.begin(hold(self.live() + 1))
        held = Held(self, self.d)
        slow = held.begin()
        status = self.d.get("/v1/status").json
        self.assertEqual((status["batch"]["jobs"], status["evaluation"]["job"]), ([slow], job))
        progress = self.d.get("/v1/jobs/" + job).json["progress"]
        self.assertEqual((progress["stage"], progress["done"], progress["total"]),
                         ("verify", 0, 1))
        held.let_go()
        self.d.wait_job(slow)
        self.done(job)

    def test_cancel(self):
        v = self.live()
        first = self.begin(hold(v + 1))
        second = self.evaluate(fact(400), fact(401)).json["id"]
        self.assertEqual(self.d.get("/v1/status").json["queue"]["facts"], 2)
        running = self.d.call("POST", f"/v1/jobs/{first}/cancel", b"")
        self.problem(running, 409, detail="is running")
        answer = self.d.call("POST", f"/v1/jobs/{second}/cancel", b"")
        self.assertEqual((answer.status, answer.json["state"]), (200, "cancelled"))
        self.problem(self.d.call("POST", f"/v1/jobs/{second}/cancel", b""), 409)
        self.assertIsNone(self.request_of(second))
        queue = self.d.get("/v1/status").json["queue"]
        self.assertEqual((queue["jobs"], queue["facts"]), (0, 0))
        self.d.apply(fact(402))
        self.done(first)
        self.assertEqual(self.d.get("/v1/jobs/" + second).json["state"], "cancelled")

    def test_one_after_the_other(self):
        v = self.live()
        jobs = [self.begin(hold(v + 1))] + [self.evaluate(fact(500 + i)).json["id"]
                                            for i in range(3)]
        self.d.apply(fact(500))
        self.assertEqual([self.done(job)["version"] for job in jobs], [v] + [v + 1] * 3)


@only_fake
class Restart(Evaluating):
    def test_killed_in_the_middle(self):
        known = fact(1)
        v = self.d.apply(known)["version"]
        key = {"Idempotency-Key": "once"}
        answer = self.evaluate(known, hold(v + 1), headers=key)
        job = answer.json["id"]
        self.d.wait_job(job, "running")
        waiting = self.evaluate(known, version=0).json["id"]
        self.d.kill()
        self.d.start()
        again = self.d.wait_job(job, "running")
        self.assertEqual(self.evaluate(known, hold(v + 1), headers=key).body, answer.body)
        self.assertIn("started_at", again)
        self.d.apply(fact(2))
        self.assertEqual(self.done(job)["version"], v)
        self.assertEqual(self.done(waiting)["decoded"]["es"], 0)
        self.assertEqual(len(self.d.get("/v1/jobs", kind="evaluation").json["data"]), 2)
        db = sqlite3.connect(self.d.directory + "/db")
        self.assertEqual(db.execute("SELECT count(*) FROM facts").fetchone()[0], 2)
        db.close()

    def test_stopped_in_the_middle(self):
        d = Daemon()
        self.addCleanup(d.close)
        job = d.call("POST", "/v1/evaluations", {"facts": [hold(1), fact(1)]}).json["id"]
        d.wait_job(job, "running")
        self.assertEqual(d.stop(), 0)
        d.start()
        d.apply(fact(1))
        self.assertEqual(d.wait_job(job)["result"]["version"], 0)

    def test_device_fails(self):
        d = Daemon()
        self.addCleanup(d.close)
        job = d.call("POST", "/v1/evaluations", {"facts": [fact(1, "fail:device")]}).json["id"]
        self.assertEqual(d.process.wait(harness.PATIENCE), 1)
        d.close_log()
        d.start()
        ended = d.wait_job(job)
        self.assertEqual((ended["state"], ended["error"]["status"]), ("failed", 500))


@only_fake
class Pruned(Evaluating):
    ARGS = ("--keep-versions", "0", "--keyframe-every", "1")

    def test_pruned(self):
        v = [self.d.apply(fact(i))["version"] for i in range(3)][0]
        first = self.begin(hold(v + 3))
        waiting = self.evaluate(fact(0), version=v).json["id"]
        self.d.kill()
        db = sqlite3.connect(self.d.directory + "/db")
        db.execute(f"UPDATE versions SET pruned = 1 WHERE version = {v}")
        db.commit()
        db.close()
        self.d.start()
        self.problem(self.evaluate(fact(0), version=v), 409, "/version",
                     f"version {v} was pruned: its weights are no longer stored")
        self.d.apply(fact(3))
        self.done(first)
        self.failed(waiting, 409, f"version {v} was pruned")
        self.assertEqual(self.result(fact(1), version=v + 1)["decoded"]["es"], 1)


class Refused(Evaluating):
    ARGS = ("--max-queue", "4")

    def test_form(self):
        one, two = fact(1), fact(2)
        refused = self.evaluate
        self.problem(refused(), 422, "/facts", "or /suite")
        self.problem(refused(one, suite="s"), 422, "/suite", "expected one of them")
        self.problem(refused(suite="s"), 422, "/suite", "there are none (serve --suites DIR)")
        self.problem(refused(suite="../s"), 422, "/suite")
        self.problem(refused(suite=7), 400, "/suite")
        self.problem(refused(one, version=1000), 422, "/version", "there is no version 1000")
        self.problem(refused(one, version=-1), 422, "/version")
        self.problem(refused(one, version="live"), 400, "/version")
        self.problem(refused(one, note="n"), 422, "/note")
        self.problem(refused(one, {**two, "target": " "}), 422, "/facts/1/target")
        self.problem(refused(one, {**one, "target": "Other"}), 422, "/facts/1/target")
        self.problem(refused(one, {"prompt": TOO_LONG, "target": "x"}), 422, "/facts/1/prompt")
        self.problem(refused(*[fact(i) for i in range(5)]), 413, "/facts")
        lines = {"Content-Type": "application/x-ndjson"}
        body = json.dumps(one)
        self.problem(self.d.call("POST", "/v1/evaluations", body, lines), 415)
        self.problem(self.d.call("GET", "/v1/evaluations"), 405)
        self.problem(refused(one, headers={"Idempotency-Key": "a b"}), 400)
        self.assertEqual(self.d.get("/v1/jobs").json["data"], [])

    def test_own_ids(self):
        """They are not those of facts that are stored."""
        answer = self.evaluate(fact(3, id="mine"), fact(4, id="other"))
        self.assertEqual(answer.status, 202, answer.body)
        self.done(answer.json["id"])
        self.problem(self.evaluate(fact(3, id="mine"), fact(4, id="mine")), 422, "/facts/1/id")
        self.problem(self.d.get("/v1/facts/mine"), 404)

    def test_repeats(self):
        key = {"Idempotency-Key": "k"}
        first = self.evaluate(fact(5), headers=key)
        again = self.evaluate(fact(5), headers=key)
        self.assertEqual((first.status, again.body), (202, first.body))
        self.assertEqual(again.headers["Location"], first.headers["Location"])
        self.problem(self.evaluate(fact(6), headers=key), 422, detail="for another request")
        self.problem(self.d.edit(fact(5), headers=key), 422, detail="for another request")
        self.done(first.json["id"])

    @only_fake
    def test_full(self):
        v = self.live()
        first = self.begin(hold(v + 1))
        jobs = [self.evaluate(fact(10), fact(11)).json["id"], self.evaluate(fact(12)).json["id"]]
        full = self.evaluate(fact(13), fact(14))
        self.problem(full, 429)
        self.assertTrue(int(full.headers["Retry-After"]) > 0)
        queue = self.d.get("/v1/status").json["queue"]
        self.assertEqual((queue["jobs"], queue["facts"], queue["capacity"]), (2, 3, 4))
        self.problem(self.d.edit(fact(15), fact(16)), 429)
        self.d.apply(fact(15))
        for job in [first, *jobs]:
            self.done(job)
        self.assertEqual(self.result(fact(13), fact(14))["facts"], 2)


class Suites(Evaluating):
    """Files of facts that are there at the start."""

    @classmethod
    def setUpClass(cls):
        cls.files = tempfile.TemporaryDirectory(prefix="malmend-")
        write = cls.write
        write("towns.json", {"facts": [fact(1), fact(2)]})
        write("lines.jsonl", *[fact(i) for i in range(3)])
        write("zsre.ndjson", {"src": "Who?", "alt": "Nobody", "rephrase": "Who then?",
                              "loc": "Where?", "loc_ans": "There"})
        write(".hidden.json", {"nothing": 1})
        write("README.md", "not facts")
        cls.ARGS = ("--suites", cls.files.name)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.files.cleanup()

    @classmethod
    def write(cls, name, *records):
        with open(os.path.join(cls.files.name, name), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def test_listed(self):
        self.assertEqual(self.d.get("/v1/status").json["suites"],
                         [{"name": "lines", "facts": 3}, {"name": "towns", "facts": 2},
                          {"name": "zsre", "facts": 1}])

    def test_measured(self):
        v = self.d.apply(fact(1), fact(2))["version"]
        answer = self.evaluate(suite="towns", version=v)
        self.assertEqual(answer.status, 202, answer.body)
        self.assertEqual((answer.json["facts"], answer.json["suite"]), (2, "towns"))
        result = self.done(answer.json["id"])
        self.assertEqual((result["version"], result["suite"], result["facts"]), (v, "towns", 2))
        self.assertEqual(result["decoded"]["es"], 1)
        self.assertLess(self.result(suite="towns", version=0)["decoded"]["es"], 1)
        measured = self.result(suite="zsre")
        self.assertEqual(set(measured["decoded"]), {"es", "gs", "ls"})
        self.assertIsNone(self.request_of(answer.json["id"]))

    def test_refused(self):
        for name in "nope", "", "towns.json", self.files.name + "/towns.json", ".hidden":
            self.problem(self.evaluate(suite=name), 422, "/suite", "there are lines, towns, zsre")

    @only_fake
    def test_gone_after_a_restart(self):
        """The job that waited says so; one whose suite has changed measures what is there."""
        with tempfile.TemporaryDirectory() as directory:
            for name in "a", "b":
                with open(f"{directory}/{name}.json", "w", encoding="utf-8") as file:
                    json.dump([fact(1)], file)
            d = Daemon("--suites", directory)
            self.addCleanup(d.close)
            first, a, b = (d.call("POST", "/v1/evaluations", body).json["id"]
                           for body in ({"facts": [hold(1)]}, {"suite": "a"}, {"suite": "b"}))
            d.wait_job(first, "running")
            d.kill()
            os.unlink(directory + "/a.json")
            with open(directory + "/b.json", "w", encoding="utf-8") as file:
                json.dump([fact(1), fact(2)], file)
            d.start()
            d.apply(fact(2))
            gone, changed = d.wait_job(a), d.wait_job(b)
            self.assertEqual((gone["state"], gone["error"]["status"]), ("failed", 422))
            self.assertIn("there is no suite 'a'; there are b", gone["error"]["detail"])
            self.assertEqual((changed["result"]["facts"], changed["result"]["decoded"]["es"]),
                             (2, 0.5))


class BadSuites(Case):
    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def check(self, files, *says, path=None):
        """The daemon does not start, and says why."""
        with tempfile.TemporaryDirectory() as directory:
            for name, text in files.items():
                with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                    file.write(text)
            db = tempfile.TemporaryDirectory()
            done = subprocess.run([harness.BINARY, "serve", *harness.MODEL_ARGS, "--db",
                                   db.name + "/db", "--listen", "127.0.0.1:0", "--max-queue", "3",
                                   "--suites", path or directory],
                                  capture_output=True, timeout=harness.PATIENCE)
            db.cleanup()
        self.assertEqual(done.returncode, 1, done.stderr)
        for text in says:
            self.assertIn(text, done.stderr.decode())

    def test_not_there(self):
        self.check({}, "/nowhere", "No such file", path="/nowhere")

    def test_not_facts(self):
        self.check({"a.json": "[]"}, "a.json")
        self.check({"a.json": '[{"prompt": "x", "target": "y"}, {"prompt": "x"}]'}, "a.json",
                   "record 1", "target")
        self.check({"a.jsonl": "{", "b.json": "[]"}, "a.jsonl")

    def test_same_name(self):
        text = json.dumps([fact(1)])
        self.check({"a.json": text, "a.jsonl": text}, "a.jsonl", "there is a suite 'a' already")

    def test_too_many(self):
        self.check({"a.json": json.dumps([fact(i) for i in range(4)])}, "a.json", "4 facts",
                   "--max-queue")

    def test_does_not_fit_the_model(self):
        facts = [fact(1), {"prompt": TOO_LONG, "target": "x"}]
        self.check({"a.json": json.dumps(facts)}, "a.json", "/facts/1/prompt")


@only_fake
class Load(Evaluating):
    """Evaluations, edits, completions and a kill, all at once: each job ends once."""

    ARGS = ("--batch-window-ms", "5")

    def test_all_at_once(self):
        jobs, lock = [], threading.Lock()
        stop = threading.Event()

        def client(i):
            for k in range(200):
                if stop.is_set():
                    return
                try:
                    if k % 3 == i:
                        answer = self.d.edit(fact(1000 * i + k))
                    else:
                        answer = self.evaluate(*[fact(1000 * i + j) for j in range(k, k + 5)])
                    if answer.status == 202:
                        with lock:
                            jobs.append(answer.json["id"])
                except (OSError, http.client.HTTPException):
                    return  # killed meanwhile

        for _ in range(2):
            threads = [threading.Thread(target=client, args=(i,)) for i in range(3)]
            for thread in threads:
                thread.start()
            until = time.monotonic() + harness.PATIENCE
            goal = len(jobs) + 40
            while len(jobs) < goal and time.monotonic() < until:
                self.d.complete("x")
            self.d.kill()
            stop.set()
            for thread in threads:
                thread.join()
            stop.clear()
            self.d.start()
        kinds = set()
        for id in jobs:
            job = self.d.wait_job(id)
            kinds.add(job["kind"])
            self.assertEqual(job["state"], "done" if job["kind"] == "evaluation" else "applied")
        self.assertEqual(kinds, {"edit", "evaluation"})


if __name__ == "__main__":
    harness.main()
