"""Who did what: every change that was accepted has its row, nothing else has one."""
import re
import tempfile

import harness
from harness import Case, Daemon, only_fake
from tokens import Tokens, bearer
from world import Held, fact

TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


class Audit(Case):
    ARGS = ("--update", "joint")

    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory(prefix="malmend-")
        cls.addClassCleanup(cls.own.cleanup)
        cls.tokens = Tokens(cls.own.name)
        cls.d = Daemon("--tokens", cls.tokens.path, *cls.ARGS)
        cls.d.headers = bearer(cls.tokens.of["edit"])

    def rows(self, **query):
        answer = self.d.call("GET", "/v1/audit", query=query,
                             headers=bearer(self.tokens.of["admin"]))
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json["data"]

    def new(self, call):
        """What a call answers, and the rows it adds."""
        last = (self.rows(limit=1) or [{"id": 0}])[0]["id"]
        answer = call()
        return answer, [row for row in self.rows() if row["id"] > last]

    def changed(self, action, detail, method, path, body=None, headers=None, **more):
        """The one row of a call that is accepted; its job."""
        id = f"change-{len(self.rows(limit=100))}"
        answer, rows = self.new(lambda: self.d.call(
            method, path, body, {"X-Request-Id": id, **(headers or {})}, **more))
        self.assertIn(answer.status, (200, 202), answer.body)
        row, = rows
        self.assertRegex(row.pop("created_at"), TIME)
        self.assertGreater(row.pop("id"), 0)
        job = answer.json["id"]
        self.assertEqual(row, {"object": "audit", "who": "edit", "role": "edit",
                               "origin": "127.0.0.1", "action": action, "request_id": id,
                               "job": job, "detail": detail})
        return self.d.wait_job(job)

    def test_every_change(self):
        job = self.changed("POST /v1/edits", {"facts": 3}, "POST", "/v1/edits",
                           {"facts": [fact(i) for i in range(3)], "note": "not in the audit"})
        ids = [f["id"] for f in self.d.get("/v1/facts", job=job["id"]).json["data"]]
        self.changed("POST /v1/retractions", {"facts": 1, "mode": "drop"}, "POST",
                     "/v1/retractions", {"facts": ids[:1], "mode": "drop"})
        self.changed("DELETE /v1/facts/{id}", {"facts": 1, "mode": "pin", "id": ids[1]}, "DELETE",
                     "/v1/facts/" + ids[1], query={"reason": "not in the audit"})
        n = len(self.d.get("/v1/facts", job=job["id"], state="live").json["data"])
        self.changed("POST /v1/retractions", {"facts": n, "mode": "pin"}, "POST",
                     "/v1/retractions", {"job": job["id"]})
        self.changed("POST /v1/rollbacks", {"to_version": job["version"]}, "POST", "/v1/rollbacks",
                     {"to_version": job["version"]})
        self.changed("POST /v1/consolidations", {}, "POST", "/v1/consolidations", {})
        lines = '{"prompt":"a line","target":"x"}\n{"prompt":"another","target":"y"}\n'
        self.changed("POST /v1/edits", {"facts": 2}, "POST", "/v1/edits", lines,
                     {"Content-Type": "application/x-ndjson"})

    @only_fake
    def test_cancel(self):
        held = Held(self, self.d)
        slow = held.begin()
        waits = self.d.edit(fact(50)).json["id"]
        job = self.changed("POST /v1/jobs/{id}/cancel", {}, "POST", f"/v1/jobs/{waits}/cancel", b"")
        self.assertEqual(job["state"], "cancelled")
        again, rows = self.new(lambda: self.d.call("POST", f"/v1/jobs/{waits}/cancel", b""))
        self.assertEqual((again.status, rows), (409, []))
        self.assertEqual([row["action"] for row in self.rows(job=waits)],
                         ["POST /v1/jobs/{id}/cancel", "POST /v1/edits"])
        held.let_go()
        self.d.wait_job(slow)

    def test_what_changes_nothing(self):
        post = lambda path, body, **more: lambda: self.d.call("POST", path, body, **more)
        for status, call in [
                (200, post("/v1/edits", {"facts": [fact(60)], "validate_only": True})),
                (400, post("/v1/edits", "[]")),
                (422, post("/v1/edits", {"facts": [{"prompt": "p", "target": ""}]})),
                (422, post("/v1/rollbacks", {"to_version": 999})),
                (422, post("/v1/retractions", {"facts": ["fact_none"]})),
                (404, post("/v1/jobs/job_none/cancel", b"")),
                (404, lambda: self.d.call("DELETE", "/v1/facts/none")),
                (200, post("/v1/completions", {"prompt": "x", "max_tokens": 1})),
                (403, post("/v1/edits", {"facts": [fact(60)]},
                           headers=bearer(self.tokens.of["infer"]))),
                (401, post("/v1/edits", {"facts": [fact(60)]}, headers=bearer("not-a-token"))),
                (200, lambda: self.d.get("/v1/jobs"))]:
            answer, rows = self.new(call)
            self.assertEqual((answer.status, rows), (status, []), answer.body)

    def test_repeat(self):
        """Of an idempotent request the first alone; by whom does not matter."""
        key = {"Idempotency-Key": "once"}
        first, rows = self.new(lambda: self.d.edit(fact(70), headers=key))
        self.assertEqual((first.status, len(rows)), (202, 1))
        for headers in ({}, bearer(self.tokens.of["admin"])):
            again, rows = self.new(lambda: self.d.edit(fact(70), headers={**key, **headers}))
            self.assertEqual((again.body, rows), (first.body, []))
        other, rows = self.new(lambda: self.d.edit(fact(71), headers=key))
        self.assertEqual((other.status, rows), (422, []))

    def test_pages(self):
        for i in range(80, 84):
            self.d.apply(fact(i))
        admin = bearer(self.tokens.of["admin"])
        self.d.call("POST", "/v1/rollbacks", {"to_version": 0}, admin)
        everything = self.rows(limit=100)
        ids = [row["id"] for row in everything]
        self.assertEqual(ids, list(range(len(ids), 0, -1)), "newest first, none is missing")
        seen, query = [], {"limit": 2}
        while True:
            page = self.d.call("GET", "/v1/audit", query=query, headers=admin).json
            self.assertEqual((page["first_id"], page["last_id"]),
                             (page["data"][0]["id"], page["data"][-1]["id"]))
            seen += page["data"]
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        self.assertEqual(seen, everything)
        newest = everything[0]
        for name in ("who", "action", "job"):
            self.assertEqual(self.rows(limit=100, **{name: newest[name]}),
                             [row for row in everything if row[name] == newest[name]])
            self.assertEqual(self.rows(**{name: "none"}), [])
        self.assertEqual(self.rows(who="edit", action=newest["action"], job=newest["job"]), [])
        for query, status in (({"after": "x"}, 422), ({"after": "-1"}, 422), ({"after": ""}, 422),
                              ({"after": "9" * 30}, 422), ({"limit": 0}, 422), ({"limit": "x"}, 400)):
            self.problem(self.d.call("GET", "/v1/audit", query=query, headers=admin), status)


class Kept(Case):
    def test_after_a_restart(self):
        self.d.apply(fact(1))
        before = self.d.get("/v1/audit").body
        self.d.kill()
        self.d.start()
        self.assertEqual(self.d.get("/v1/audit").body, before)
        row, = self.d.get("/v1/audit").json["data"]
        self.assertEqual((row["who"], row["role"], row["origin"]), ("local", "admin", "127.0.0.1"))


if __name__ == "__main__":
    harness.main()
