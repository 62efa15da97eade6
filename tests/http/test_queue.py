"""Jobs and their queue: repeats, waiting, room, batches, failures, reads during an edit."""
import contextlib
import json
import re
import sqlite3
import threading
import time
import unittest

import harness
from harness import AT_ONCE, Case, Daemon, only_fake, wait_until
from world import BAD, COMPANY, OTHER, PROBE, Held, answers, fact, wait_durable


def together(n, function):
    """Runs function(i) in n threads at once; the results."""
    results = [None] * n
    gate = threading.Barrier(n)

    def run(i):
        gate.wait()
        results[i] = function(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Repeats(Case):
    def test_same_key_same_body(self):
        headers = {"Idempotency-Key": "k1"}
        first = self.d.edit(fact(1), headers=headers)
        self.d.wait_job(first.json["id"])
        again = self.d.edit(fact(1), headers=headers)
        self.assertEqual((again.status, again.body), (202, first.body))
        self.assertEqual(again.headers["Location"], first.headers["Location"])
        self.assertEqual([a.headers["Idempotent-Replayed"] for a in (first, again)], [None, "true"])
        self.assertEqual(len(self.d.get("/v1/facts", prompt=fact(1)["prompt"]).json["data"]), 1)

    def test_other_body(self):
        headers = {"Idempotency-Key": "k2"}
        self.assertEqual(self.d.edit(fact(2), headers=headers).status, 202)
        self.problem(self.d.edit(fact(3), headers=headers), 422)
        self.problem(self.d.call("POST", "/v1/rollbacks", {"to_version": 0}, headers), 422)

    def test_refused_is_not_remembered(self):
        headers = {"Idempotency-Key": "k3"}
        self.assertEqual(self.d.edit({"prompt": "", "target": ""}, headers=headers).status, 422)
        self.assertEqual(self.d.edit(fact(4), headers=headers).status, 202)

    def test_at_the_same_time(self):
        headers = {"Idempotency-Key": "k4"}
        results = together(8, lambda i: self.d.edit(fact(5), headers=headers))
        self.assertEqual({r.status for r in results}, {202})
        self.assertEqual(len({r.body for r in results}), 1)
        self.assertEqual(len(self.d.get("/v1/facts", prompt=fact(5)["prompt"]).json["data"]), 1)

    def test_after_a_restart(self):
        headers = {"Idempotency-Key": "k5"}
        first = self.d.edit(fact(6), headers=headers)
        self.d.kill()
        self.d.start()
        self.assertEqual(self.d.edit(fact(6), headers=headers).body, first.body)
        self.problem(self.d.edit(fact(7), headers=headers), 422)

    def test_after_a_restart_with_less_room(self):
        """What was taken once is answered so again, though it would be refused now."""
        d = Daemon()
        self.addCleanup(d.close)
        headers = {"Idempotency-Key": "k"}
        facts = [fact(n) for n in range(12)]
        first = d.edit(*facts, headers=headers)
        self.assertEqual(first.status, 202)
        d.kill()
        d.args = (*d.args, "--max-queue", "10")
        d.start()
        again = d.edit(*facts, headers=headers)
        self.assertEqual((again.status, again.body), (202, first.body))
        self.problem(d.edit(*facts), 413)
        self.problem(d.edit(*facts, headers={"Idempotency-Key": "l"}), 413)
        self.problem(d.edit(*facts, fact(12), headers=headers), 422)

    def test_rollback(self):
        self.d.apply(fact(8))
        headers = {"Idempotency-Key": "k6"}
        body = {"to_version": 0}
        first, again = (self.d.call("POST", "/v1/rollbacks", body, headers) for _ in range(2))
        self.assertEqual((first.status, again.body), (202, first.body))
        self.assertEqual(self.d.wait_job(first.json["id"])["state"], "applied")


class Waiting(Case):
    def test_ended_job_answers_at_once(self):
        job = self.d.apply(fact(1))["id"]
        answer = self.d.get(f"/v1/jobs/{job}", wait=30, timeout=AT_ONCE)
        self.assertEqual(answer.json["state"], "applied")
        tag = answer.headers["ETag"]
        self.assertRegex(tag, '^W/"[0-9a-f]+"$')
        known = {"If-None-Match": tag}
        same = self.d.call("GET", f"/v1/jobs/{job}", headers=known)
        self.assertEqual((same.status, same.body, same.headers["ETag"]), (304, b"", tag))
        same = self.d.call("GET", f"/v1/jobs/{job}?wait=30", headers=known, timeout=AT_ONCE)
        self.assertEqual(same.status, 304)
        for other in tag.removeprefix("W/"), f'"x", {tag}', "*":
            same = self.d.call("GET", f"/v1/jobs/{job}", headers={"If-None-Match": other})
            self.assertEqual(same.status, 304, other)
        other = self.d.call("GET", f"/v1/jobs/{job}", headers={"If-None-Match": '"x"'})
        self.assertEqual(other.status, 200)

    def test_bad_wait(self):
        job = self.d.apply(fact(2))["id"]
        self.problem(self.d.get(f"/v1/jobs/{job}", wait="soon"), 400, detail="wait")
        self.problem(self.d.get(f"/v1/jobs/{job}", wait=-1), 422, detail="wait")
        self.problem(self.d.get("/v1/jobs/job_none", wait=5), 404)

    def ask(self, d, job, n=1):
        """Connections that wait for the job's state to change."""
        connections = [d.connect(AT_ONCE) for _ in range(n)]
        for connection in connections:
            connection.request("GET", f"/v1/jobs/{job}?wait=30")
            self.addCleanup(connection.close)
        self.assertEqual(d.get("/livez").status, 200, "asked later, answered before")
        return connections

    @only_fake
    def test_wakes_with_the_state(self):
        held = Held(self, self.d)
        job = held.begin()
        first = self.d.get(f"/v1/jobs/{job}")
        self.assertEqual(set(first.json["progress"]), {"stage", "done", "total"})
        asked = self.ask(self.d, job, 5)
        self.assertEqual(self.d.get(f"/v1/jobs/{job}").json["state"], "running")
        held.let_go()
        for connection in asked:
            answer = connection.getresponse()
            self.assertEqual(json.loads(answer.read())["state"], "applied")
            self.assertNotEqual(answer.headers["ETag"], first.headers["ETag"])

    @only_fake
    def test_waits_through_progress(self):
        """The tag that is known stands for the state, however far the job is."""
        held = Held(self, self.d)
        job = held.begin()
        seen, tags = set(), set()
        while len(seen) < 2:
            answer = self.d.get(f"/v1/jobs/{job}")
            seen.add(answer.json["progress"]["done"])
            tags.add(answer.headers["ETag"])
        self.assertEqual(len(tags), 1)
        connection = self.d.connect(AT_ONCE)
        self.addCleanup(connection.close)
        connection.request("GET", f"/v1/jobs/{job}?wait=30", headers={"If-None-Match": tags.pop()})
        self.assertEqual(self.d.get("/livez").status, 200)
        held.let_go()
        answer = connection.getresponse()
        self.assertEqual((answer.status, json.loads(answer.read())["state"]), (200, "applied"))

    @only_fake
    def test_gives_up_in_time(self):
        held = Held(self, self.d)
        job = held.begin()
        begin = time.monotonic()
        answer = self.d.get(f"/v1/jobs/{job}", wait=1, timeout=AT_ONCE)
        self.assertGreater(time.monotonic() - begin, 0.9)
        self.assertEqual(answer.json["state"], "running")
        held.end()

    @only_fake
    def test_stop_answers_those_who_wait(self):
        d = Daemon()
        held = Held(self, d)
        job = held.begin()
        asked, = self.ask(d, job)
        self.assertEqual(d.stop(AT_ONCE), 0)
        self.assertEqual(asked.getresponse().status, 200)
        d.start()
        self.assertEqual(held.end()["version"], 1, "taken up again")
        d.close()


@only_fake
class Listed(Case):
    def test_in_the_state_asked_for(self):
        """Also between the moment a version is durable and the one it is live."""
        stop, problems = threading.Event(), []

        def teach():
            try:
                n = 0
                while not stop.is_set():
                    self.d.apply(fact(10000 + n % 50))
                    n += 1
            except Exception as error:
                problems.append(error)

        writer = threading.Thread(target=teach)
        writer.start()
        try:
            for state in ("applied", "running") * 400:
                page = self.d.get("/v1/jobs", state=state, limit=1).json
                self.assertLessEqual({job["state"] for job in page["data"]}, {state})
                if state == "applied" and page["has_more"]:
                    self.assertEqual(len(page["data"]), 1)
        finally:
            stop.set()
            writer.join()
        self.assertEqual(problems, [])


class Room(Case):
    ARGS = ("--max-queue", "5", "--batch-window-ms", "0")

    def test_full(self):
        held = Held(self, self.d)
        held.begin()
        self.assertEqual(self.d.edit(*[fact(i) for i in range(4)]).status, 202)
        before = self.d.get("/v1/jobs").json["data"]
        full = self.d.edit(fact(11), fact(12), headers={"Idempotency-Key": "full"})
        self.problem(full, 429)
        self.assertTrue(int(full.headers["Retry-After"]) > 0)
        self.assertEqual(len(self.d.get("/v1/jobs").json["data"]), len(before))
        self.assertEqual(self.d.get("/v1/facts", prompt=fact(11)["prompt"]).json["data"], [])
        last = self.d.edit(fact(13), headers={"Idempotency-Key": "last"})
        self.assertEqual(last.status, 202, "one more fits")
        back = self.d.call("POST", "/v1/rollbacks", {"to_version": 0})
        self.assertEqual(back.status, 202, "what is to undo edits takes no room of theirs")
        again = self.d.edit(fact(13), headers={"Idempotency-Key": "last"})
        self.assertEqual(again.body, last.body, "a repeat takes no room")
        queue = self.d.get("/v1/status").json["queue"]
        self.assertEqual((queue["jobs"], queue["facts"], queue["capacity"]), (3, 5, 5))
        self.problem(self.d.edit(*[fact(i) for i in range(6)]), 413)
        held.let_go()
        self.d.wait_job(last.json["id"])
        self.assertEqual(self.d.edit(fact(11)).status, 202, "there is room again")

    def test_full_of_jobs(self):
        """Those without facts are counted by themselves."""
        held = Held(self, self.d)
        held.begin()
        jobs = [self.d.call("POST", "/v1/rollbacks", {"to_version": 0}) for _ in range(256)]
        self.assertEqual({job.status for job in jobs}, {202})
        self.problem(self.d.call("POST", "/v1/rollbacks", {"to_version": 0}), 429,
                     detail="256 jobs without facts")
        self.assertEqual(self.d.edit(fact(14)).status, 202)
        for job in jobs[:200]:
            self.d.call("POST", f"/v1/jobs/{job.json['id']}/cancel", b"")
        again = self.d.call("POST", "/v1/rollbacks", {"to_version": 0})
        held.let_go()
        self.assertEqual(self.d.wait_job(again.json["id"])["state"], "applied")

    def test_cancel(self):
        held = Held(self, self.d)
        held.begin()
        job = self.d.edit(fact(20), fact(21)).json["id"]
        self.problem(self.d.call("POST", f"/v1/jobs/{held.job}/cancel", b""), 409)
        done = self.d.call("POST", f"/v1/jobs/{job}/cancel", b"")
        self.assertEqual((done.status, done.json["state"]), (200, "cancelled"))
        self.problem(self.d.call("POST", f"/v1/jobs/{job}/cancel", b""), 409)
        self.assertEqual(self.d.get("/v1/facts", job=job).json["data"][0]["state"], "rejected")
        held.end()
        self.assertEqual(self.d.get("/v1/status").json["queue"]["facts"], 0)


class Batches(Case):
    """A batch that is not full would wait for longer than any test does."""

    ARGS = ("--batch-window-ms", "60000", "--max-batch-facts", "8")

    def test_jobs_go_together(self):
        """They wait for each other, and a full batch does not wait."""
        jobs = [self.d.edit(fact(i), fact(100 + i)).json["id"] for i in range(4)]
        versions = {self.d.wait_job(job)["version"] for job in jobs}
        self.assertEqual(len(versions), 1)
        version = self.d.get(f"/v1/versions/{versions.pop()}").json
        self.assertEqual(version["jobs"], jobs)
        self.assertEqual(version["facts"], 8)

    def test_more_than_a_batch_does_not_wait(self):
        self.d.apply(*[fact(200 + i) for i in range(9)])

    def test_newer_fact_with_the_same_prompt_comes_after(self):
        first = self.d.edit(fact(300, "One")).json["id"]
        second = self.d.edit(fact(300, "Two")).json["id"]
        fill = [fact(310 + i) for i in range(7)]
        rest = [self.d.edit(*fill[:6]).json["id"]]
        versions = [self.d.wait_job(first)["version"]]
        rest.append(self.d.edit(fill[6]).json["id"])
        versions += [self.d.wait_job(job)["version"] for job in (second, *rest)]
        self.assertEqual(versions, [versions[0]] + [versions[0] + 1] * 3)
        text = self.d.complete(fact(300)["prompt"]).json["choices"][0]["text"]
        self.assertTrue(answers(text, "Two"), text)

    @only_fake
    def test_only_the_culprit_is_refused(self):
        before = self.d.get("/v1/status").json["live_version"]
        last = [fact(402 + i) for i in range(6)]
        jobs = [self.d.edit(*facts).json["id"] for facts in ([fact(401)], [BAD], last)]
        one, bad, two = (self.d.wait_job(job) for job in jobs)
        self.assertEqual((one["state"], bad["state"], two["state"]),
                         ("applied", "rejected", "applied"))
        self.assertEqual((one["version"], two["version"]), (before + 1, before + 2))
        self.assertEqual(self.d.wait_log("batch split")["jobs"], 3)
        self.assertEqual(bad["error"]["status"], 500)
        self.assertIn("module table", bad["error"]["detail"])
        failed, = bad["result"]["gate"]["failed"]
        self.assertEqual((failed["test"], failed["detail"]), ("finite", bad["error"]["detail"]))
        self.assertNotIn("version", bad)
        status = self.d.get("/v1/status").json
        self.assertIn("module table", status["last_error"]["detail"])
        self.assertEqual(self.d.get("/v1/facts", job=jobs[1]).json["data"][0]["state"],
                         "rejected")

    @only_fake
    def test_what_was_split_waits(self):
        """Jobs that failed together run in halves; those whose turn has not come can be cancelled."""
        held = Held(self, self.d)
        slow = {"prompt": "What takes long to be live is", "target": held.fact["prompt"]}
        rest = [fact(412 + i) for i in range(5)]
        bad, first, others, last = (self.d.edit(*facts).json["id"]
                                    for facts in ([BAD], [slow], rest, [fact(420)]))
        self.assertEqual(self.d.wait_job(bad)["state"], "rejected")
        self.assertEqual([e["jobs"] for e in self.d.log if e["event"] == "batch split"][-2:],
                         [4, 2])
        status = wait_until(lambda: (s := self.d.get("/v1/status").json)["batch"] and s)
        self.assertEqual((status["batch"]["jobs"], status["queue"]["facts"]), ([first], 6))
        self.assertEqual([self.d.get("/v1/jobs/" + job).json["state"] for job in (others, last)],
                         ["queued"] * 2)
        self.assertEqual(self.d.call("POST", f"/v1/jobs/{last}/cancel").json["state"], "cancelled")
        held.let_go()
        self.assertEqual([self.d.wait_job(job)["state"] for job in (first, others)], ["applied"] * 2)

    @only_fake
    def test_shared_lack_of_memory(self):
        """Jobs that fail together for want of memory, and pass alone, where there is enough."""
        rest = [fact(431 + i) for i in range(7)]
        jobs = [self.d.edit(*facts).json["id"] for facts in ([fact(430, "lack:json")], rest)]
        self.assertEqual([self.d.wait_job(job)["state"] for job in jobs], ["applied"] * 2)
        split = wait_until(lambda: [e for e in self.d.log if e["event"] == "batch split"])[-1]
        self.assertIn("a stored fact", split["detail"])

    @only_fake
    def test_full_disk_passes(self):
        before = self.d.get("/v1/status").json["live_version"]
        rest = [fact(501 + i) for i in range(7)]
        job = self.d.wait_job(self.d.edit(fact(500, "fail:space"), *rest).json["id"])
        self.assertEqual((job["state"], job["error"]["status"]), ("failed", 507))
        self.assertEqual(self.d.apply(fact(508), *rest)["version"], before + 1)


@only_fake
class LastError(Case):
    ARGS = ("--update", "joint", "--batch-window-ms", "0")

    def failed(self, answer, status):
        """The error that the status names after a job that ended so."""
        job = self.d.wait_job(answer.json["id"])
        self.assertEqual(job["error"]["status"], status)
        return self.d.get("/v1/status").json["last_error"], job["error"]

    def test_for_whom(self):
        """What a request got wrong is for who sent it, not for who runs the daemon."""
        self.d.apply(fact(1))
        taken_back = {"facts": [self.d.get("/v1/facts").json["data"][0]["id"]]}
        self.assertIsNone(self.failed(self.d.call("POST", "/v1/retractions", taken_back), 422)[0])
        known, error = self.failed(self.d.edit(BAD), 500)
        self.assertEqual(known, error)
        self.assertEqual(self.failed(self.d.call("POST", "/v1/retractions", taken_back), 422)[0], error)


@only_fake
class Unread(Case):
    ARGS = ("--batch-window-ms", "0")

    def logged(self):
        return [e for e in self.d.log if e["event"] == "database not read"]

    def test_tried_again(self):
        """One read that failed, and an edit that was answered 202 had failed for good."""
        n = len(self.logged())
        job = self.d.edit(fact(1, "unread:2")).json["id"]
        wait_until(lambda: len(self.logged()) > n)
        self.assertEqual(self.d.complete("x").status, 200, "meanwhile")
        self.assertEqual(self.d.get(f"/v1/jobs/{job}").json["state"], "running")
        self.assertIn("malformed", self.d.get("/v1/status").json["last_error"]["detail"])
        self.assertEqual(self.d.wait_job(job)["state"], "applied")
        self.assertEqual([e["tries_left"] for e in self.logged()[n:]], [3, 2])

    def test_not_for_ever(self):
        n = len(self.logged())
        held = Held(self, self.d)
        held.begin()
        jobs = [self.d.edit(f).json["id"] for f in (fact(2), fact(3, "unread:99"), fact(4))]
        held.end()
        states = [self.d.wait_job(job) for job in jobs]
        self.assertEqual([job["state"] for job in states], ["applied", "failed", "applied"])
        self.assertEqual((states[1]["error"]["status"], states[1]["error"]["title"]),
                         (500, "stored data is corrupt"))
        self.assertEqual([e["tries_left"] for e in self.logged()[n:]], [3, 2, 1])
        self.d.apply(fact(5))

    def test_evaluation(self):
        n = len(self.logged())
        facts = [fact(6, "unread:2"), fact(7)]
        job = self.d.wait_job(self.d.call("POST", "/v1/evaluations", {"facts": facts}).json["id"])
        self.assertEqual((job["state"], job["facts"]), ("done", 2))
        job = self.d.call("POST", "/v1/evaluations", {"facts": [fact(6, "unread:99")]}).json["id"]
        self.assertEqual(self.d.wait_job(job)["state"], "failed")
        self.assertEqual([e["tries_left"] for e in self.logged()[n:]], [3, 2, 3, 2, 1])

    def test_facts_that_cannot_be_read(self):
        """A daemon ended at each of its starts for a queued job whose rows are damaged."""
        d = Daemon("--batch-window-ms", "60000")
        self.addCleanup(d.close)
        damaged, other = (d.edit(*facts).json["id"] for facts in ((fact(1), fact(2)), (fact(3),)))
        d.kill()
        with contextlib.closing(sqlite3.connect(d.directory + "/db", isolation_level=None)) as db:
            db.execute("UPDATE jobs SET n_facts = 1 WHERE id = ?", [damaged])
        d.args = ("--batch-window-ms", "0")
        d.start()
        self.assertEqual(d.wait_job(damaged)["state"], "failed")
        self.assertIn("more facts", d.get(f"/v1/jobs/{damaged}").json["error"]["detail"])
        self.assertEqual(d.wait_job(other)["state"], "applied")

    def test_stop_meanwhile(self):
        d = Daemon("--batch-window-ms", "0")
        self.addCleanup(d.own.cleanup)
        job = d.edit(fact(1, "unread:2")).json["id"]
        d.wait_log("database not read")
        self.assertEqual(d.stop(), 0)
        d.start()
        self.assertEqual(d.wait_job(job)["state"], "applied")
        d.stop()


@only_fake
class Fatal(unittest.TestCase):
    def ends(self, target):
        d = Daemon()
        job = d.edit(fact(1, target)).json["id"]
        d.process.wait(harness.PATIENCE)
        d.close_log()
        code, log = d.process.returncode, d.log
        d.start()
        return d, job, code, log

    def test_device(self):
        for target in ("fail:device", "lost:device"):
            d, job, code, log = self.ends(target)
            self.assertEqual(code, 1)
            self.assertTrue(any("fell off" in e.get("detail", "") for e in log), log)
            self.assertEqual(d.wait_job(job)["state"], "failed")
            self.assertEqual(d.apply(fact(2))["version"], 1)
            d.close()

    def test_database(self):
        d = Daemon()
        job = d.edit(fact(1, "fail:io")).json["id"]
        d.process.wait(harness.PATIENCE)
        d.close_log()
        self.assertEqual(d.process.returncode, 1)
        self.assertTrue(any("fsync" in e.get("detail", "") for e in d.log), d.log)
        self.assertTrue(job)
        d.own.cleanup()


class Readers(Case):
    ARGS = ("--batch-window-ms", "0",)

    @only_fake
    def test_served_during_an_edit(self):
        version = self.d.apply(PROBE)["version"]
        held = Held(self, self.d)
        job = held.begin()
        for _ in range(20):
            answer = self.d.complete(PROBE["prompt"])
            self.assertTrue(answers(answer.json["choices"][0]["text"], PROBE["target"]))
            self.assertEqual(answer.headers["Malmend-Version"], str(version))
        status = self.d.get("/v1/status").json
        self.assertEqual(status["batch"]["jobs"], [job])
        self.assertEqual(set(status["batch"]),
                         {"jobs", "facts", "stage", "done", "total", "started_at"})
        self.assertEqual(held.end()["version"], version + 1)

    @only_fake
    def test_applied_is_live(self):
        """A version is durable before it is live; its job is applied when it is live."""
        live = self.d.get("/v1/status").json["live_version"]
        held = Held(self, self.d)
        posted = self.d.edit(fact(50, held.fact["prompt"])).json
        wait_durable(self.d, live + 1)
        row = self.d.get(f"/v1/jobs/{posted['id']}").json
        self.assertEqual((row["state"], set(row) - set(posted)),
                         ("running", {"started_at", "progress"}))
        listed = self.d.get("/v1/jobs", limit=1).json["data"]
        self.assertEqual(listed, [row])
        self.assertEqual(self.d.get("/v1/status").json["live_version"], live)
        self.assertEqual(self.versions(live), (live, 200, live + 1, live + 1))
        self.assertEqual(self.versions(live + 1), (live, 404, live + 1, live + 1))
        for path in "facts", "delta", f"diff/{live}":
            self.problem(self.d.get(f"/v1/versions/{live + 1}/{path}"), 404)
        self.problem(self.d.get("/v1/facts", version=live + 1), 422)
        self.problem(self.d.get("/v1/versions", after=live + 1), 422)
        held.let_go()
        self.assertEqual(self.d.wait_job(posted["id"])["version"], live + 1)
        self.assertEqual(self.d.get("/v1/status").json["live_version"], live + 1)
        self.assertEqual(self.versions(live + 1), (live + 1, 200, live + 2, live + 2))

    def versions(self, n):
        """The newest one, whether there is that one, and how many there are."""
        metrics = self.d.get("/metrics").body.decode()
        return (self.d.get("/v1/versions", limit=1).json["data"][0]["version"],
                self.d.get(f"/v1/versions/{n}").status,
                self.d.get("/v1/status").json["counts"]["versions"],
                int(re.search(r"^malmend_versions (\d+)$", metrics, re.M)[1]))

    def test_many_at_once(self):
        self.d.apply(OTHER, *COMPANY)
        results = together(16, lambda i: self.d.complete(OTHER["prompt"]))
        for answer in results:
            self.assertEqual(answer.status, 200, answer.body)
            self.assertTrue(answers(answer.json["choices"][0]["text"], OTHER["target"]))

    def test_version_that_left_memory(self):
        first = self.d.apply(fact(1))["version"]
        self.assertEqual(self.d.complete("x", model=f"v{first}").status, 200)
        for i in range(4):
            self.d.apply(fact(2 + i))
        self.problem(self.d.complete("x", model=f"v{first}"), 404)
        names = [m["id"] for m in self.d.get("/v1/models").json["data"]]
        self.assertNotIn(f"v{first}", names)


@only_fake
class ReadTimeout(Case):
    ARGS = ("--request-timeout", "1")

    def test_answer_that_takes_too_long(self):
        held = Held(self, self.d)
        answer = self.d.complete(held.fact["prompt"])
        self.assertEqual(answer.status, 503, answer.body)
        self.assertTrue(answer.headers["Retry-After"])
        wait_until(lambda: self.d.complete("quick").status == 200)


if __name__ == "__main__":
    harness.main()
