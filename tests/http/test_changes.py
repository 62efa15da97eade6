"""Taking facts back, consolidating, comparing versions: what is accepted and what is refused."""
import json
import sqlite3

import harness
from harness import Case, Daemon, only_fake
from world import Held, fact


class Taking(Case):
    """Helpers; a job that cannot run in this version still ends."""

    def retract(self, *facts, headers=None, **more):
        body = {"facts": list(facts), **more} if facts else more
        return self.d.call("POST", "/v1/retractions", body, headers)

    def delete(self, id, headers=None, **query):
        return self.d.call("DELETE", "/v1/facts/" + id, headers=headers, query=query)

    def teach(self, *facts):
        """Ids of the facts, now live, and the id of their job."""
        job = self.d.apply(*facts)["id"]
        rows = self.d.get("/v1/facts", job=job, limit=100).json["data"]
        return [row["id"] for row in rows], job

    def block(self):
        """The worker is at this until it is let go."""
        held = Held(self, self.d)
        held.begin()
        return held

    def cancel(self, *jobs):
        for job in jobs:
            answer = self.d.call("POST", f"/v1/jobs/{job}/cancel", b"")
            self.assertEqual((answer.status, answer.json["state"]), (200, "cancelled"))


class Refused(Taking):
    ARGS = ("--update", "joint", "--max-queue", "8")

    def test_unknown(self):
        (a, b), job = self.teach(fact(1), fact(2))
        self.problem(self.retract("fact_nope"), 422, "/facts/0", "no fact 'fact_nope'")
        self.problem(self.retract(a, b, "x"), 422, "/facts/2")
        self.problem(self.delete("fact_nope"), 404)
        self.problem(self.delete("x" * 200), 404)
        self.problem(self.retract(job="job_nope"), 422, "/job", "no job 'job_nope'")
        self.problem(self.retract(job=a), 422, "/job")
        self.problem(self.retract(job), 422, "/facts/0")
        for id in (a, b):
            self.assertEqual(self.d.get("/v1/facts/" + id).json["state"], "live")

    def test_not_live(self):
        (old,), first = self.teach(fact(10, "One"))
        (new,), _ = self.teach(fact(10, "Two"))
        says = f"{old} is not live: it is superseded"
        self.problem(self.retract(new, old), 409, "/facts/1", says)
        self.problem(self.delete(old), 409, detail=says)
        self.problem(self.retract(job=first), 409, "/job", "has no live facts")
        version = self.d.get("/v1/facts/" + new).json["version"]
        back = self.d.call("POST", "/v1/rollbacks", {"to_version": version - 1}).json["id"]
        self.d.wait_job(back)
        self.problem(self.delete(new), 409, detail="it is rolled_back")
        self.problem(self.retract(job=back), 422, "/job", "is of kind rollback")

    @only_fake
    def test_not_live_yet(self):
        held = self.block()
        job = self.d.edit(fact(20, id="young")).json["id"]
        self.problem(self.delete("young"), 409, detail="it is queued")
        self.problem(self.retract("young"), 409, "/facts/0", "it is queued")
        self.problem(self.retract(job=job), 409, "/job", "is queued")
        self.problem(self.retract(job=held.job), 409, "/job", "is running")
        held.end()
        self.d.wait_job(job)

    def test_form(self):
        (a, b), job = self.teach(fact(30), fact(31))
        self.problem(self.retract(a, b, a), 422, "/facts/2", "/facts/0")
        self.problem(self.retract(a, mode="forget"), 422, "/mode")
        self.problem(self.retract(a, job=job), 422, "/job")
        self.problem(self.retract(*[a] * 9), 413, "/facts")
        self.problem(self.delete(a, mode="forget"), 422, detail="mode")
        self.problem(self.delete(a, mode=""), 422, detail="mode")
        self.problem(self.delete(a, mod="drop"), 422, detail="'mod'")
        self.problem(self.d.call("DELETE", f"/v1/facts/{a}?mode=pin&mode=drop"), 422,
                     detail="each once")
        self.problem(self.d.call("DELETE", f"/v1/facts/{a}?mode"), 422, detail="mode")
        self.problem(self.delete(a, reason="r" * 4097), 422, detail="reason")
        self.problem(self.d.call("DELETE", f"/v1/facts/{a}?reason=%ff"), 400, detail="UTF-8")
        self.problem(self.d.call("DELETE", "/v1/facts/" + a, {"mode": "drop"}), 400,
                     detail="no body")
        self.problem(self.delete(a, headers={"Idempotency-Key": "a b"}), 400)
        self.problem(self.d.call("DELETE", "/v1/facts/"), 404)
        self.assertEqual(self.d.get("/v1/facts/" + a).json["state"], "live")
        self.assertEqual(self.d.get("/v1/jobs", kind="retraction").json["data"], [])


@only_fake
class Accepted(Taking):
    ARGS = ("--update", "joint", "--max-queue", "8")

    def test_facts(self):
        (a, b), _ = self.teach(fact(1), fact(2))
        held = self.block()
        answer = self.retract(b, a, mode="drop", reason="why")
        self.assertEqual(answer.status, 202, answer.body)
        job = answer.json
        self.assertEqual(answer.headers["Location"], "/v1/jobs/" + job["id"])
        self.assertEqual((job["kind"], job["state"], job["facts"], job["mode"], job["reason"]),
                         ("retraction", "queued", 2, "drop", "why"))
        self.assertEqual(self.d.get("/v1/jobs/" + job["id"]).json, job)
        listed = self.d.get("/v1/jobs", kind="retraction", state="queued").json["data"]
        self.assertEqual(listed, [job])
        self.assertEqual(self.d.get("/v1/status").json["queue"]["facts"], 2)
        self.problem(self.d.edit(*[fact(10 + i) for i in range(7)]), 429)
        self.cancel(job["id"])
        self.assertEqual(self.d.get("/v1/status").json["queue"]["facts"], 0)
        for id in (a, b):
            self.assertEqual(self.d.get("/v1/facts/" + id).json["state"], "live")
        held.end()

    def test_job(self):
        (a, b, c), job = self.teach(fact(20), fact(21), fact(22))
        self.teach(fact(21, "Other"))
        held = self.block()
        answer = self.retract(job=job)
        self.assertEqual(answer.status, 202, answer.body)
        self.assertEqual((answer.json["facts"], answer.json["mode"]), (2, "pin"))
        by = f"to be retracted by {answer.json['id']}"
        self.problem(self.delete(a), 409, detail=by)
        self.problem(self.retract(c), 409, "/facts/0", by)
        self.problem(self.retract(b), 409, "/facts/0", "it is superseded")
        self.problem(self.retract(job=job), 409, "/job", by)
        self.cancel(answer.json["id"])
        again = self.delete(a)
        self.assertEqual(again.status, 202, "what was cancelled holds no fact")
        self.cancel(again.json["id"])
        held.end()

    def test_one(self):
        self.teach(fact(30, id="one"))
        held = self.block()
        for query, mode in (({}, "pin"), ({"mode": "pin"}, "pin"), ({"mode": "drop"}, "drop")):
            answer = self.delete("one", reason="warum nicht ü", **query)
            self.assertEqual(answer.status, 202, answer.body)
            self.assertEqual((answer.json["facts"], answer.json["mode"]), (1, mode))
            self.assertEqual(answer.json["reason"], "warum nicht ü")
            self.cancel(answer.json["id"])
        held.end()

    def test_repeats(self):
        self.teach(fact(40, id="forty"), fact(41, id="more"))
        held = self.block()
        key = {"Idempotency-Key": "k"}
        first, again = self.delete("forty", key), self.delete("forty", key)
        self.assertEqual((first.status, again.status, again.body), (202, 202, first.body))
        self.assertEqual(again.headers["Location"], first.headers["Location"])
        self.problem(self.delete("forty", key, mode="drop"), 422, detail="for another request")
        self.problem(self.delete("forty", key, reason="r"), 422, detail="for another request")
        self.problem(self.delete("more", key), 422, detail="for another request")
        self.problem(self.retract("forty", headers=key), 422, detail="for another request")
        key = {"Idempotency-Key": "l"}
        body = {"reason": "r"}
        first, again = (self.d.call("POST", "/v1/consolidations", body, key) for _ in range(2))
        self.assertEqual((first.status, again.body), (202, first.body))
        self.problem(self.d.call("POST", "/v1/consolidations", {}, key), 422)
        held.end()

    def test_consolidation(self):
        held = self.block()
        answer = self.d.call("POST", "/v1/consolidations", {"reason": "tidy"})
        self.assertEqual(answer.status, 202, answer.body)
        job = answer.json
        self.assertEqual((job["kind"], job["state"], job["reason"]),
                         ("consolidation", "queued", "tidy"))
        self.assertNotIn("facts", job)
        self.assertEqual(self.d.get("/v1/jobs", kind="consolidation").json["data"][0], job)
        self.cancel(job["id"])
        held.end()

    def test_consolidation_without_a_body(self):
        held = self.block()
        path = "/v1/consolidations"
        for headers in ({}, {"Content-Length": "0"}):
            lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            got = self.d.raw("\r\n".join(lines).encode() + b"\r\n\r\n")
            self.assertTrue(got.startswith(b"HTTP/1.1 202 "), got)
            job = json.loads(got.split(b"\r\n\r\n", 1)[1])
            self.assertEqual((job["kind"], job["state"]), ("consolidation", "queued"))
            self.assertNotIn("reason", job)
            self.cancel(job["id"])
        self.problem(self.d.call("POST", path, b"{}", {"Content-Type": ""}), 415)
        self.problem(self.d.call("POST", path, b""), 400)
        held.end()

    def test_survives_a_kill(self):
        (a,), _ = self.teach(fact(50))
        held = self.block()
        job = self.retract(a, mode="drop").json
        self.d.kill()
        self.d.start()
        self.assertEqual(self.d.get("/v1/jobs/" + job["id"]).json["mode"], "drop")
        held.let_go()
        self.d.wait_job(job["id"])


class Sequential(Taking):
    ARGS = ("--update", "sequential")

    def test_refused(self):
        (a,), job = self.teach(fact(1))
        calls = (self.retract(a), self.retract(job=job), self.delete(a),
                 self.d.call("POST", "/v1/consolidations", {}))
        for answer in calls:
            self.problem(answer, 409, detail="this daemon runs --update sequential")
        self.problem(self.retract(a, mode="x"), 422, "/mode")
        self.assertIsNone(self.d.get("/v1/status").json["joint"])


@only_fake
class Stored(Taking):
    """States that only a longer life brings, written into the database."""

    # keyframes: what comes after a pruned version does not need it
    ARGS = ("--update", "joint", "--keep-versions", "0", "--keyframe-every", "1")

    def write(self, *statements):
        self.d.kill()
        db = sqlite3.connect(self.d.directory + "/db")
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.close()
        self.d.start()

    def test_gate(self):
        gate = {"min_es": 0.5, "max_perplexity_growth": None, "bisect": True}
        job = self.d.edit(fact(20), gate=gate).json["id"]
        self.d.wait_job(job)
        db = sqlite3.connect(self.d.directory + "/db")
        text, = db.execute("SELECT request_json FROM jobs WHERE id = ?", (job,)).fetchone()
        db.close()
        self.assertEqual(json.loads(text), {"gate": {"min_es": 0.5, "bisect": True}})

    def test_pruned_version(self):
        v = [self.d.apply(fact(i))["version"] for i in range(3)][0]
        self.write(f"UPDATE versions SET pruned = 1 WHERE version = {v}")
        self.problem(self.d.call("POST", "/v1/rollbacks", {"to_version": v}), 409, "/to_version",
                     f"version {v} was pruned: its weights are no longer stored")
        self.assertIs(self.d.get(f"/v1/versions/{v}").json["pruned"], True)
        diff = self.d.get(f"/v1/versions/{v}/diff/{v + 1}").json
        self.assertIsNone(diff["modules"])
        self.assertEqual(len(diff["facts"]["added"]), 1)
        back = self.d.call("POST", "/v1/rollbacks", {"to_version": v + 1}).json["id"]
        self.assertEqual(self.d.wait_job(back)["state"], "applied")

    def test_retracted_facts(self):
        self.teach(fact(10, id="kept"), fact(11, id="gone"), fact(12, id="live"))
        self.write("UPDATE facts SET state = 'retracted', pinned = (id = 'kept')"
                   " WHERE id IN ('kept', 'gone')",
                   """UPDATE facts SET verified_json = '{"decoded":true,"logprob":-0.5,"rank":1,"""
                   """"rounds":2}' WHERE id = 'live'""")
        page = self.d.get("/v1/facts", state="retracted").json["data"]
        self.assertEqual([(f["id"], f["pinned"]) for f in page], [("kept", True), ("gone", False)])
        live = self.d.get("/v1/facts/live").json
        self.assertNotIn("pinned", live)
        self.assertEqual(live["verified"]["rounds"], 2)
        self.problem(self.delete("kept"), 409, detail="kept is not live: it is retracted")
        for mode in "pin", "drop":
            self.problem(self.retract("live", "gone", mode=mode), 409, "/facts/1",
                         "gone is not live: it is retracted")
        job = self.d.get("/v1/facts/kept").json["job"]
        for n, body in ((1, {"facts": ["kept"], "mode": "drop"}), (2, {"job": job, "mode": "drop"}),
                        (1, {"job": job})):
            answer = self.retract(**body)
            self.assertEqual((answer.status, answer.json.get("facts")), (202, n), answer.json)
            self.d.wait_job(answer.json["id"])  # the fakes take none back
        self.write("UPDATE facts SET state = 'retracted' WHERE id = 'live'")
        self.problem(self.retract(job=job), 409, "/job", "has no live facts")
        self.d.wait_job(self.delete("kept", mode="drop").json["id"])
        self.write("UPDATE facts SET pinned = 0")
        self.problem(self.retract(job=job, mode="drop"), 409, "/job", "has no live or pinned facts")


class Compare(Case):
    def test_facts(self):
        ids = []
        for i, target in ((1, "One"), (2, "Two"), (1, "Three")):
            job = self.d.apply(fact(i, target))
            row, = self.d.get("/v1/facts", job=job["id"]).json["data"]
            ids.append((job["version"], row["id"]))
        (v1, a), (v2, b), (v3, c) = ids
        for x, y, added, removed in ((0, v2, [a, b], []), (v2, 0, [], [a, b]), (v1, v3, [b, c], [a]),
                                     (v3, v1, [a], [b, c]), (v2, v2, [], [])):
            answer = self.d.get(f"/v1/versions/{x}/diff/{y}")
            self.assertEqual(answer.status, 200, answer.body)
            diff = answer.json
            self.assertEqual(set(diff), {"from", "to", "facts", "modules", "measures"})
            self.assertEqual((diff["from"], diff["to"]), (x, y))
            self.assertEqual(diff["facts"], {"added": added, "removed": removed,
                                             "truncated": False})
            if harness.FAKE:
                self.assertEqual(diff["modules"], [{"name": "table", "norm": float(x != y)}])
            for end, version in (("from", x), ("to", y)):
                self.assertEqual(diff["measures"][end],
                                 self.d.get(f"/v1/versions/{version}").json["measures"])

    @only_fake
    def test_pages(self):
        n = 1201
        a = self.d.apply(*[fact(1000 + i) for i in range(n)])["version"]
        b = self.d.apply(fact(1000, "Other"), fact(1600, "Other"))["version"]
        diff = self.d.get(f"/v1/versions/{a}/diff/{b}").json
        self.assertEqual((len(diff["facts"]["added"]), len(diff["facts"]["removed"])), (2, 2))
        diff = self.d.get(f"/v1/versions/{a - 1}/diff/{a}").json
        self.assertEqual((len(diff["facts"]["added"]), diff["facts"]["truncated"]), (n, False))

    @only_fake
    def test_bound(self):
        d = Daemon("--max-queue", "10001")
        try:
            for n, truncated in ((10000, False), (1, True)):
                facts = [{"prompt": f"{n} {i}", "target": "x"} for i in range(n)]
                live = d.apply(*facts)["version"]
                for path, side in ((f"0/diff/{live}", "added"), (f"{live}/diff/0", "removed")):
                    facts = d.get("/v1/versions/" + path).json["facts"]
                    self.assertEqual((len(facts[side]), facts["truncated"]), (10000, truncated))
        finally:
            d.close()


if __name__ == "__main__":
    harness.main()
