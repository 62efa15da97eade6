"""What is shared or kept where much is asked at once: one commit for many edits, one answer of
/v1/status for many readers. Nobody sees the difference."""
import contextlib
import json
import pathlib
import sqlite3
import threading
import unittest

import harness
from harness import Case, Daemon, only_fake, wait_until
from sse import Stream
from world import Held, fact, wait_durable

NDJSON = {"Content-Type": "application/x-ndjson"}


def waiting(d):
    """Writes that wait."""
    for line in d.get("/metrics").body.decode().splitlines():
        if line.startswith("malmend_writes_waiting "):
            return float(line.split()[-1])


class Post(threading.Thread):
    def __init__(self, d, body, path="/v1/edits", headers=None):
        super().__init__(daemon=True)
        self.d, self.body, self.path, self.headers = d, body, path, headers
        self.start()

    def run(self):
        self.answer = self.d.call("POST", self.path, self.body, self.headers)


def busy(d, work):
    """Seconds of the worker."""
    name = 'malmend_worker_busy_seconds_total{work="%s"} ' % work
    lines = d.get("/metrics").body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


@only_fake
class Shared(Case):
    def test_reads_leave_time_for_changes(self):
        """Clients that ask without a pause had a read before every slice, however short: an edit of
        many slices took as many answers."""
        held = Held(self, self.d)
        held.begin()
        before = {work: busy(self.d, work) for work in ("changes", "reads")}
        threads = [threading.Thread(target=lambda: [self.d.complete("slow: 30") for _ in range(15)])
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(harness.PATIENCE)
        spent = {work: busy(self.d, work) - before[work] for work in before}
        held.end()
        self.assertGreater(spent["reads"], 15 * 0.03)
        self.assertGreater(spent["changes"], 0.3 * spent["reads"])


@only_fake
class Together(Case):
    ARGS = ("--max-queue", "40")

    def at_once(self, posts):
        """All of them wait for the database, which has another writer, before the first is written.
        On a slow machine the daemon gives some up: 503."""
        with contextlib.closing(sqlite3.connect(self.d.directory + "/db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            threads = [Post(self.d, *post) for post in posts]
            wait_until(lambda: waiting(self.d) == len(posts) or
                       any(not t.is_alive() for t in threads))
            db.execute("ROLLBACK")
        for thread in threads:
            thread.join(harness.PATIENCE)
        return [thread.answer for thread in threads]

    def queued(self):
        jobs = self.d.get("/v1/jobs", state="queued", limit=100).json["data"]
        return {job["id"]: job for job in jobs}

    def cancel_all(self):
        for job in self.queued():
            self.assertEqual(self.d.call("POST", f"/v1/jobs/{job}/cancel", "").status, 200)

    def setUp(self):
        self.held = Held(self, self.d)
        self.held.begin()

    def tearDown(self):
        self.cancel_all()
        self.held.end()

    def test_each_ends_its_own_way(self):
        self.assertEqual(self.d.edit(fact(1, id="taken")).status, 202)
        self.cancel_all()
        plain = [({"facts": [fact(10 + i)]},) for i in range(8)]
        mine = {"facts": [fact(2, id="mine")]}
        half = {"facts": [fact(3, id="half"), fact(4, id="taken")]}
        key = {"Idempotency-Key": "key"}
        named = [("plain", 202, post) for post in plain[:3]] + [
            ("mine", 202, (mine,)), ("mine", 202, (mine,)), ("half", 409, (half,)),
            ("plain", 202, plain[3]), ("key", 202, ({"facts": [fact(5)]}, "/v1/edits", key)),
            ("key", 202, ({"facts": [fact(5)]}, "/v1/edits", key)), ("half", 409, (half,)),
            ("lines", 202, (json.dumps(fact(6)), "/v1/edits", NDJSON)),
            ("rollback", 202, ({"to_version": 0}, "/v1/rollbacks")), ("plain", 202, plain[4]),
            ("unknown", 422, ({"to_version": 99}, "/v1/rollbacks"))] + [
            ("plain", 202, post) for post in plain[5:]]
        answers = self.at_once([post for _, _, post in named])
        by = {}
        for (name, wanted, _), answer in zip(named, answers):
            by.setdefault(name, []).append(answer)
            if name != "mine":
                self.assertIn(answer.status, (wanted, 503), (name, answer.body))
        print("# " + ", ".join(f"{name} {[a.status for a in list_]}" for name, list_ in by.items()))
        mine = sorted(a.status for a in by["mine"] if a.status != 503)
        self.assertIn(mine, ([202, 409], [202], []), "one id, one fact")
        self.assertLessEqual(len({a.body for a in by["key"] if a.status == 202}), 1)
        self.check_accepted([a for a in answers if a.status == 202])

    def check_accepted(self, accepted):
        """These jobs wait, in the order of their ids, each with its facts, and nothing else."""
        ids = {a.json["id"] for a in accepted}
        queued = self.queued()
        self.assertEqual(set(queued), ids)
        status = self.d.get("/v1/status").json
        self.assertEqual(status["queue"]["jobs"], len(ids))
        self.assertEqual(status["counts"]["jobs_by_state"]["queued"], len(ids))
        with contextlib.closing(sqlite3.connect(self.d.directory + "/db")) as db:
            stored = db.execute("SELECT j.id, j.n_facts, (SELECT count(*) FROM facts f WHERE f.job ="
                                " j.seq), (SELECT count(*) FROM audit a WHERE a.job = j.seq) FROM jobs j"
                                " WHERE j.state = 'queued' ORDER BY j.seq").fetchall()
            half = db.execute("SELECT count(*) FROM facts WHERE id = 'half'").fetchone()[0]
        self.assertEqual([row[0] for row in stored], sorted(ids))
        for job, n_facts, facts, audits in stored:
            self.assertEqual((facts, audits), (n_facts, 1), job)
        self.assertEqual(half, 0)
        for answer in accepted:
            self.assertEqual(answer.headers["Location"], f"/v1/jobs/{answer.json['id']}")
            self.assertEqual(queued[answer.json["id"]]["created_at"], answer.json["created_at"])

    def test_room_is_exact(self):
        room = self.d.get("/v1/status").json["queue"]["capacity"]
        answers = self.at_once([({"facts": [fact(i)]},) for i in range(room + 10)])
        accepted = [a for a in answers if a.status == 202]
        full = [a for a in answers if a.status == 429]
        self.assertEqual(len(accepted) + len(full) + sum(a.status == 503 for a in answers), room + 10)
        self.assertLessEqual(len(accepted), room)
        if full:
            self.assertEqual(len(accepted), room)
        self.check_accepted(accepted)
        self.cancel_all()
        self.assertEqual(self.d.edit(*[fact(i) for i in range(room)]).status, 202, "nothing is kept")


@only_fake
class Status(unittest.TestCase):
    """What a client was told is in the next status."""

    def setUp(self):
        self.d = Daemon()
        self.addCleanup(self.d.close)

    def status(self):
        return self.d.get("/v1/status").json

    def test_edits_and_cancellations(self):
        held = Held(self, self.d)
        held.begin()
        self.assertEqual(self.status()["batch"]["jobs"], [held.job])
        job = self.d.edit(fact(0)).json["id"]
        for i in range(1, 31):
            self.assertEqual(self.status()["queue"]["jobs"], 1)
            self.assertEqual(self.d.call("POST", f"/v1/jobs/{job}/cancel", "").status, 200)
            if i % 2:
                seen = self.status()
                states = seen["counts"]["jobs_by_state"]
                self.assertEqual((seen["queue"]["jobs"], states["cancelled"]), (0, i))
            job = self.d.edit(fact(i)).json["id"]
            states = self.status()["counts"]["jobs_by_state"]
            self.assertEqual((states["queued"], states["cancelled"]), (1, i))
        held.end()

    def test_durable_then_live(self):
        for i in range(5):
            path = pathlib.Path(self.d.directory) / f"go{i}"
            self.addCleanup(lambda path=path: path.parent.exists() and path.touch())
            job = self.d.edit(fact(i, f"held: {path}")).json["id"]
            wait_durable(self.d, i + 1)
            self.assertEqual(self.status()["live_version"], i)
            path.touch()
            self.assertEqual(self.d.wait_job(job)["version"], i + 1)
            self.assertEqual(self.status()["live_version"], i + 1)

    def test_versions(self):
        for i in range(10):
            version = self.d.apply(fact(i))["version"]
            seen = self.status()
            self.assertEqual((seen["live_version"], seen["counts"]["live_facts"]), (version, i + 1))
            known = self.d.get(f"/v1/versions/{version}").json["weights_hash"]
            self.assertEqual(seen["weights_hash"], known)
        self.d.wait_job(self.d.edit(fact(99, "fail:numeric")).json["id"])
        self.assertIsNotNone(self.status()["last_error"])

    def test_streams(self):
        for _ in range(10):
            self.assertEqual(self.status()["events"]["streams"], 0)
            with Stream(self.d):
                self.assertEqual(self.status()["events"]["streams"], 1)
            wait_until(lambda: self.status()["events"]["streams"] == 0)

    def test_time_goes_on(self):
        """What flows is kept for a tenth of a second, so that an answer is not made for each reader."""
        connection, seen = self.d.connect(), []
        while not seen or seen[-1] < seen[0] + 1:
            connection.request("GET", "/v1/status")
            seen.append(json.loads(connection.getresponse().read())["uptime_seconds"])
        connection.close()
        self.assertEqual(seen, sorted(seen))
        made = len(set(seen))
        print(f"# {len(seen)} answers, {made} made")
        self.assertLessEqual(made, (seen[-1] - seen[0]) * 10 + 2)


if __name__ == "__main__":
    harness.main()
