"""GET /v1/events: all that happens to jobs and versions, once, in order, for as many as follow."""
import os
import random
import socket
import sqlite3
import struct
import tempfile
import threading
import time
import unittest

import harness
from harness import Case, Daemon, only_fake, wait_until
from sse import Stream
from world import OTHER, PROBE, Held, fact, wait_durable

ROUNDS = int(os.environ.get("MALMEND_ROUNDS", "6"))
SEED = int(os.environ.get("MALMEND_SEED", "1"))
SMALL = {"prepare": lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)}


def ended(job):
    """Whether an event says that this job has ended."""
    return lambda e: e.event == "job" and e.data["id"] == job and \
        e.data["state"] not in ("queued", "running")


def wait_streams(d, n):
    until = time.monotonic() + harness.PATIENCE
    while (seen := d.get("/v1/status").json["events"]["streams"]) != n:
        assert time.monotonic() < until, f"{seen} streams, not {n}"
        time.sleep(0.02)


class History:
    """Checks events against what the daemon says of jobs and versions otherwise."""

    NEXT = {None: {"queued"}, "queued": {"running", "cancelled"},
            "running": {"applied", "queued", "rejected", "failed"}}

    def check(self, d, events, jobs):
        self.assertEqual([e.id for e in events], list(range(1, len(events) + 1)))
        states, versions = {}, {}
        for e in events:
            if e.event == "version":
                self.assertEqual(set(e.data), {"version", "kind", "weights_hash"})
                self.assertNotIn(e.data["version"], versions, "a version twice")
                versions[e.data["version"]] = e.data
                continue
            self.assertEqual(e.event, "job")
            before, state = states.get(e.data["id"]), e.data["state"]
            self.assertIn(state, self.NEXT[before], f"{e.data} after {before}")
            self.assertEqual("version" in e.data, state == "applied", e.data)
            states[e.data["id"]] = state
        for e in events:
            if "version" in e.data and e.event == "job":
                self.assertIn(e.data["version"], versions)
        self.assertLessEqual(set(jobs), set(states), "accepted, and no event tells of it")
        after, known = {}, 0
        while page := d.get("/v1/jobs", limit=100, **after).json["data"]:
            for job in page:
                self.assertEqual(states[job["id"]], job["state"])
            known += len(page)
            after = {"after": page[-1]["id"]}
        self.assertEqual(known, len(states))
        for version in d.get("/v1/versions", limit=100).json["data"]:
            self.assertEqual({key: version[key] for key in ("version", "kind", "weights_hash")},
                             versions[version["version"]])


class Following(Case, History):
    ARGS = ("--batch-window-ms", "0")

    def test_1_all_from_many_posts(self):
        jobs = []

        def post(number):
            for i in range(12):
                jobs.append(self.d.edit(fact(f"{number}-{i}")).json["id"])

        with Stream(self.d, last_event_id=0) as all_:
            threads = [threading.Thread(target=post, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(len(set(jobs)), 48)
            last = self.d.edit(fact("last")).json["id"]
            events = all_.until(ended(last)) + all_.events(1)  # its version
        self.check(self.d, events, jobs)

    def test_begins_now(self):
        self.d.apply(PROBE)
        last = self.d.get("/v1/status").json["events"]["last_id"]
        with Stream(self.d) as stream:
            self.assertEqual(stream.headers["Content-Type"], "text/event-stream")
            self.assertEqual(stream.headers["Cache-Control"], "no-store")
            self.assertEqual(stream.headers["X-Accel-Buffering"], "no")
            opening = stream.block()
            self.assertEqual(opening.fields, {"retry": "1000", "id": str(last)})
            self.assertTrue(opening.comments)
            job = self.d.edit(OTHER).json["id"]
            first = stream.event()
            self.assertEqual((first.id, first.event), (last + 1, "job"))
            self.assertEqual(first.data, {"id": job, "state": "queued", "kind": "edit"})
            rest = stream.until(ended(job))
        # who comes back before anything has happened misses nothing either
        headers = {"Last-Event-ID": opening.fields["id"]}
        with Stream(self.d, headers=headers) as again:
            self.assertNotIn("id", again.block().fields)
            seen = again.events(1 + len(rest))
        self.assertEqual([(e.id, e.text) for e in seen], [(e.id, e.text) for e in [first, *rest]])

    @only_fake
    def test_told_is_live(self):
        """A version is durable before it is live; until then nothing is told from there on."""
        live = self.d.apply(fact("live"))["version"]
        last = self.d.get("/v1/status").json["events"]["last_id"]
        held = Held(self, self.d)
        with Stream(self.d, last_event_id=last) as early:
            job = self.d.edit(fact("durable", held.fact["prompt"])).json["id"]
            wait_durable(self.d, live + 1)
            later = self.d.edit(fact("later")).json["id"]
            status = self.d.get("/v1/status").json
            self.assertEqual(status["live_version"], live)
            with Stream(self.d) as late:
                self.assertEqual(late.block().id, status["events"]["last_id"])
                held.let_go()
                seen = late.until(ended(later))
            all_ = early.until(ended(later))
        told = next(e for e in all_ if e.event == "version" and e.data["version"] == live + 1)
        self.assertLess(status["events"]["last_id"], told.id)
        self.assertIn(("applied", job), [(e.data.get("state"), e.data.get("id")) for e in seen])
        self.assertEqual([e.id for e in all_], list(range(last + 1, all_[-1].id + 1)))
        self.assertEqual([e.id for e in seen],
                         list(range(status["events"]["last_id"] + 1, all_[-1].id + 1)))

    def test_header_before_query(self):
        self.d.apply(fact("header"))
        last = self.d.get("/v1/status").json["events"]["last_id"]
        with Stream(self.d, headers={"Last-Event-ID": str(last - 1)}, last_event_id=1) as stream:
            self.assertEqual(stream.event().id, last)

    def test_kinds(self):
        job = self.d.apply(fact("kinds"))
        last = self.d.get("/v1/status").json["events"]["last_id"]
        with Stream(self.d, last_event_id=0) as stream:
            all_ = stream.events(last)
        for kind in "job", "version":
            wanted = [(e.id, e.text) for e in all_ if e.event == kind]
            with Stream(self.d, last_event_id=0, kind=kind) as stream:
                got = stream.events(len(wanted))
                self.assertEqual([(e.id, e.text) for e in got], wanted)
                done = self.d.apply(fact("kinds", kind))
                more = stream.until(lambda e: e.data["version"] == done["version"]) \
                    if kind == "version" else stream.until(ended(done["id"]))
                self.assertEqual({e.event for e in more}, {kind})
        self.assertEqual(job["state"], "applied")

    def test_bad_values(self):
        for value in ("x", "1.5", " ", "1 2"):
            self.problem(self.d.get("/v1/events", last_event_id=value), 400, detail="last_event_id")
            header = {"Last-Event-ID": value + "x"}
            self.problem(self.d.call("GET", "/v1/events", headers=header), 400,
                         detail="Last-Event-ID")
        for value in (-1, -10 ** 30):
            self.problem(self.d.get("/v1/events", last_event_id=value), 422, detail="last_event_id")
            header = {"Last-Event-ID": str(value)}
            self.problem(self.d.call("GET", "/v1/events", headers=header), 422,
                         detail="Last-Event-ID")
        self.problem(self.d.get("/v1/events", kind="fact"), 422, detail="kind")
        self.assertEqual(self.d.call("POST", "/v1/events", b"{}").headers["Allow"], "GET, HEAD, OPTIONS")

    def test_head(self):
        connection = self.d.connect()
        for _ in range(3):
            connection.request("HEAD", "/v1/events")
            answer = connection.getresponse()
            self.assertEqual((answer.status, answer.read()), (200, b""))
            self.assertEqual(answer.headers["Content-Type"], "text/event-stream")
            connection.request("GET", "/livez")
            answer = connection.getresponse()
            self.assertEqual((answer.status, answer.read()[:1]), (200, b"{"))
        connection.close()
        wait_streams(self.d, 0)

    def test_http_1_0(self):
        connection = self.d.connect()
        connection.connect()
        connection.sock.sendall(b"GET /v1/events?last_event_id=0 HTTP/1.0\r\n"
                                b"Connection: keep-alive\r\n\r\n")
        job = self.d.edit(fact("old")).json["id"]
        got = b""
        while f'"id":"{job}","state":"applied"'.encode() not in got:
            part = connection.sock.recv(1 << 16)
            self.assertTrue(part, got)
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        self.assertIn(b"Connection: close", head)
        self.assertNotIn(b"chunked", head)
        self.assertTrue(body.startswith(b": "), body[:100])
        connection.close()
        wait_streams(self.d, 0)


@only_fake
class Killed(unittest.TestCase, History):
    """Who comes back with the last id it has gets each event exactly once, whatever was killed."""

    def follow(self, d, events, done):
        """Until the daemon is gone, or an event for which done(event) is true has come."""
        last = events[-1].id if events else 0
        try:
            with Stream(d, headers={"Last-Event-ID": str(last)}) as stream:
                while event := stream.event():
                    events.append(event)
                    if done(event):
                        return
        except Exception:  # killed in the middle of anything
            return

    def post(self, d, number, jobs):
        try:
            for i in range(1000):
                answer = d.edit(fact(f"{number}-{i}"))
                if answer.status == 202:
                    jobs.append(answer.json["id"])
                time.sleep(self.random.uniform(0, 0.01))
        except Exception:
            return

    def test_rounds(self):
        self.random = random.Random(SEED)
        events, jobs = [], []
        with tempfile.TemporaryDirectory() as directory:
            d = Daemon("--batch-window-ms", "3", directory=directory)
            for number in range(ROUNDS):
                before = len(events)
                threads = [threading.Thread(target=self.post, args=(d, number, jobs)),
                           threading.Thread(target=self.follow, args=(d, events, lambda e: False))]
                for thread in threads:
                    thread.start()
                until = time.monotonic() + harness.PATIENCE
                while len(events) < before + self.random.randint(5, 60):
                    self.assertLess(time.monotonic(), until, "no events come")
                    time.sleep(0.005)
                d.kill()
                for thread in threads:
                    thread.join()
                d.start()
            last = d.edit(fact("last")).json["id"]
            self.follow(d, events, ended(last))
            self.follow(d, events, lambda e: e.event == "version")
            self.check(d, events, [*jobs, last])
            print(f"# {len(events)} events of {len(jobs)} jobs in {ROUNDS} rounds, seed {SEED}")
            d.close()


class Old(unittest.TestCase):
    """A database with as many events as are kept, and one version before them."""

    def setUp(self):
        # what the sanitizer keeps of freed memory is not the daemon's
        options = [os.environ.get("ASAN_OPTIONS", ""), "quarantine_size_mb=8"]
        self.d = Daemon(env={"ASAN_OPTIONS": ":".join(filter(None, options))})
        self.d.apply(PROBE)
        self.assertEqual(self.d.stop(), 0)
        db = sqlite3.connect(self.d.directory + "/db")
        db.execute("WITH RECURSIVE more (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM more"
                   " WHERE i < 100000) INSERT INTO events (created_ms, kind, data_json) SELECT 1,"
                   " 'job', '{\"id\":\"job_' || i || '\",\"state\":\"queued\",\"kind\":\"edit\"}'"
                   " FROM more")
        db.commit()
        db.close()

    def test_reset(self):
        self.d.start()
        last = self.d.get("/v1/status").json["events"]["last_id"]
        first = last - 99999
        for place in (0, 1, first - 2, last + 1, 2 ** 62, 10 ** 30):
            with Stream(self.d, last_event_id=place) as stream:
                reset, then = stream.events(2)
                self.assertEqual((reset.event, reset.id), ("reset", None))
                self.assertEqual(reset.data, {"oldest": first, "newest": last})
                self.assertEqual(then.id, first)
        for place in (first - 1, first, last - 1):
            with Stream(self.d, last_event_id=place) as stream:
                self.assertEqual(stream.event().id, place + 1)
        with Stream(self.d, last_event_id=0, kind="version") as stream:
            self.assertEqual(stream.event().event, "reset")
            version = self.d.apply(OTHER)["version"]
            self.assertEqual(stream.event().data["version"], version, "past all the jobs")
        self.d.close()

    def test_slow_readers(self):
        """30 who do not read 15 MB each cost nothing, and stop nobody."""
        self.d.args = ("--request-timeout", "600")  # none of them is cut off meanwhile
        self.d.start()
        last = self.d.get("/v1/status").json["events"]["last_id"]
        first = last - 99999
        before = self.d.get("/v1/status").json["memory"]["host_bytes"]
        slow = [Stream(self.d, last_event_id=first - 1, **SMALL) for _ in range(30)]
        with Stream(self.d, last_event_id=first - 1) as fast:
            ids = [e.id for e in fast.events(5000)]
            self.assertEqual(ids, list(range(first, first + 5000)))
        with Stream(self.d) as newest:
            job = self.d.apply(OTHER)["id"]
            self.assertEqual([e.id for e in newest.until(ended(job))][:2], [last + 1, last + 2])
        grown = self.d.get("/v1/status").json["memory"]["host_bytes"] - before
        print(f"# {len(slow)} slow readers: {grown / 2 ** 20:.1f} MiB")
        self.assertLess(grown, 100 << 20)
        for stream in slow[1:]:
            stream.close()
        ids = [e.id for e in slow[0].events(40000)]  # more than sockets hold
        self.assertEqual(ids, list(range(first, first + 40000)))
        slow[0].close()
        wait_streams(self.d, 0)
        self.d.close()

    def test_idle_stays_and_stalled_goes(self):
        self.d.args = ("--request-timeout", "1")
        self.d.start()
        with Stream(self.d) as idle, Stream(self.d, last_event_id=1, **SMALL):
            wait_streams(self.d, 1)  # it took nothing for a second; the other waits for longer
            job = self.d.edit(PROBE).json["id"]
            self.assertEqual(idle.event().data["id"], job)
        self.d.close()


class Many(Case):
    ARGS = ("--max-event-streams", "50")

    def test_limit(self):
        streams = [Stream(self.d) for _ in range(50)]
        full = self.d.get("/v1/events")
        self.problem(full, 503, detail="50 event streams")
        self.assertGreater(int(full.headers["Retry-After"]), 0)
        job = self.d.apply(PROBE)["id"]
        seen = {tuple((e.id, e.text) for e in s.until(ended(job))) for s in streams}
        self.assertEqual(len(seen), 1, "all are told the same")
        # clients leave with FIN, with RST, and by closing one direction only
        streams[0].close()
        streams[1].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        streams[1].close()
        streams[2].sock.shutdown(socket.SHUT_WR)
        wait_streams(self.d, 47)
        with Stream(self.d) as again:
            self.assertEqual(again.status, 200)
        for stream in streams[3:]:
            stream.close()
        wait_streams(self.d, 0)


@only_fake
class None_(Case):
    ARGS = ("--max-event-streams", "0")

    def test_none(self):
        self.problem(self.d.get("/v1/events"), 503)


class Times(unittest.TestCase):
    @only_fake
    def test_stop(self):
        d = Daemon()
        Held(self, d).begin()
        streams = [Stream(d) for _ in range(5)]
        for stream in streams:
            stream.block()
        begin = time.monotonic()
        self.assertEqual(d.stop(), 0)
        print(f"# stopped with {len(streams)} streams in {time.monotonic() - begin:.2f} s")
        for stream in streams:
            while stream.block():
                pass  # a stream that is cut has no end
            stream.close()
        d.own.cleanup()

    @only_fake
    def test_while_loading(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        loaded = directory.name + "/loaded"
        d = Daemon(ready=False, env={"MAL_FAKE_LOAD_HELD": loaded})
        with Stream(d) as stream:
            self.assertEqual(stream.block().fields["id"], "0")
            open(loaded, "w", encoding="utf-8").close()
            first = stream.event()
            self.assertEqual((first.id, first.event, first.data["kind"]), (1, "version", "base"))
        d.wait_log("ready")
        d.close()


if __name__ == "__main__":
    harness.main()
