"""Every call, as it should go: codes, headers, shapes."""
import json
import re
import unittest

import harness
from harness import Case
from world import COMPANY, OTHER, PROBE, answers, fact

TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
HEX = re.compile(r"^[0-9a-f]{64}$")


class Edit(Case):
    def test_life_of_a_fact(self):
        before = self.d.complete(PROBE["prompt"])
        self.assertEqual(before.status, 200)
        self.assertFalse(answers(before.json["choices"][0]["text"], PROBE["target"]))

        rephrases = ["The birthplace of Rurus Quobfield is"]
        posted = self.d.edit({**PROBE, "rephrases": rephrases}, *COMPANY, note="a note")
        self.assertEqual(posted.status, 202)
        self.assertEqual(posted.headers["Content-Type"], "application/json")
        job = posted.json
        self.assertRegex(job["id"], r"^job_[0-9a-hjkmnp-tv-z]{20}$")
        self.assertEqual(posted.headers["Location"], "/v1/jobs/" + job["id"])
        self.assertEqual((job["object"], job["kind"], job["state"]), ("job", "edit", "queued"))
        self.assertEqual((job["facts"], job["note"]), (1 + len(COMPANY), "a note"))
        self.assertRegex(job["created_at"], TIME)
        self.assertNotIn("version", job)

        done = self.d.wait_job(job["id"])
        self.assertEqual(done["state"], "applied", done)
        self.assertRegex(done["started_at"], TIME)
        self.assertRegex(done["finished_at"], TIME)
        self.assertEqual(done["result"]["facts"], 1 + len(COMPANY))
        self.assertEqual(self.d.get("/v1/jobs/" + job["id"], wait=10 ** 30).json, done)
        after = self.d.complete(PROBE["prompt"])
        self.assertTrue(answers(after.json["choices"][0]["text"], PROBE["target"]), after.json)
        self.assertEqual(after.headers["Malmend-Version"], str(done["version"]))
        base = self.d.complete(PROBE["prompt"], model="base")
        self.assertEqual(base.headers["Malmend-Version"], "0")
        self.assertEqual(base.json["choices"][0]["text"], before.json["choices"][0]["text"])

        facts = self.d.get("/v1/facts", prompt=PROBE["prompt"], state="live").json["data"]
        self.assertEqual(len(facts), 1)
        self.assertEqual(facts[0]["rephrases"], rephrases)
        self.assertEqual(facts[0]["job"], job["id"])
        self.assertEqual(facts[0]["version"], done["version"])
        self.assertIs(facts[0]["verified"]["decoded"], True)
        one = self.d.get("/v1/facts/" + facts[0]["id"])
        self.assertEqual(one.json, facts[0])

    def test_rollback(self):
        v = self.d.apply(OTHER)["version"]
        posted = self.d.call("POST", "/v1/rollbacks", {"to_version": v - 1, "reason": "why not"})
        self.assertEqual(posted.status, 202)
        self.assertEqual(posted.json["kind"], "rollback")
        done = self.d.wait_job(posted.json["id"])
        self.assertEqual(done["state"], "applied", done)
        self.assertEqual(done["version"], v + 1)
        old, new = (self.d.get(f"/v1/versions/{n}").json for n in (v - 1, v + 1))
        self.assertEqual(new["kind"], "rollback")
        self.assertEqual(new["weights_hash"], old["weights_hash"])
        self.assertNotEqual(new["chain_hash"], old["chain_hash"])
        self.assertEqual(self.d.get("/v1/facts", prompt=OTHER["prompt"]).json["data"][0]["state"],
                         "rolled_back")
        again = self.d.call("POST", "/v1/rollbacks", {"to_version": v})
        self.d.wait_job(again.json["id"])
        self.assertEqual(self.d.get("/v1/facts", prompt=OTHER["prompt"]).json["data"][0]["state"],
                         "live")

    def test_lines(self):
        body = "\n".join(json.dumps(fact(i)) for i in (901, 902)) + "\n\n"
        answer = self.d.call("POST", "/v1/edits", body,
                             {"Content-Type": "application/x-ndjson; charset=utf-8"})
        self.assertEqual(answer.status, 202, answer.body)
        self.assertEqual(answer.json["facts"], 2)
        self.assertEqual(self.d.wait_job(answer.json["id"])["state"], "applied")

    def test_validate_only(self):
        known = {**fact(930), "id": "known-930"}
        self.d.apply(known)
        n = len(self.d.get("/v1/jobs", limit=100).json["data"])
        self.problem(self.d.edit(fact(903), known, validate_only=True), 409, "/facts/1/id")
        answer = self.d.edit(fact(903), validate_only=True)
        self.assertEqual(answer.status, 200)
        self.assertEqual(set(answer.json), {"valid", "facts", "tokens"})
        self.assertIs(answer.json["valid"], True)
        self.assertGreater(answer.json["tokens"], 0)
        self.assertEqual(len(self.d.get("/v1/jobs", limit=100).json["data"]), n)

    def test_supersedes(self):
        first = self.d.apply(fact(904, "One"))
        self.d.apply(fact(904, "Two"))
        facts = self.d.get("/v1/facts", prompt=fact(904)["prompt"]).json["data"]
        states = {f["target"]: f["state"] for f in facts}
        self.assertEqual(states, {"One": "superseded", "Two": "live"})
        by = {f["target"]: f for f in facts}
        self.assertEqual(by["One"]["superseded_by"], by["Two"]["id"])
        self.assertEqual(by["One"]["version"], first["version"])

    def test_own_ids(self):
        self.assertEqual(self.d.edit(fact(905, id="mine-1")).status, 202)
        self.assertEqual(self.d.get("/v1/facts/mine-1").json["id"], "mine-1")
        self.problem(self.d.edit(fact(906), fact(907, id="mine-1")), 409, "/facts/1/id")


class Read(Case):
    def test_completion_shape(self):
        a = self.d.complete("Hello", max_tokens=2, stop=["zz"])
        body = a.json
        self.assertEqual(body["object"], "text_completion")
        self.assertTrue(body["id"].startswith("cmpl-"))
        self.assertIsInstance(body["created"], int)
        self.assertEqual(body["model"], "live")
        choice = body["choices"][0]
        self.assertEqual(set(choice), {"index", "text", "logprobs", "finish_reason"})
        self.assertIn(choice["finish_reason"], ("stop", "length"))
        usage = body["usage"]
        self.assertEqual(usage["total_tokens"],
                         usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertLessEqual(usage["completion_tokens"], 2)

    def test_completion_many_and_echo(self):
        body = self.d.complete(["One", "Two", "Three"], echo=True).json
        self.assertEqual([c["index"] for c in body["choices"]], [0, 1, 2])
        for prompt, choice in zip(("One", "Two", "Three"), body["choices"]):
            self.assertTrue(choice["text"].startswith(prompt))

    def test_scores(self):
        self.d.apply(PROBE, *COMPANY)
        items = [{"prompt": PROBE["prompt"], "target": t} for t in (PROBE["target"], "Xyz")]
        answer = self.d.call("POST", "/v1/scores", {"items": items})
        self.assertEqual(answer.status, 200, answer.body)
        body = answer.json
        self.assertEqual(answer.headers["Malmend-Version"], str(body["version"]))
        right, wrong = body["data"]
        self.assertIs(right["correct"], True)
        self.assertIs(wrong["correct"], False)
        for token in right["tokens"]:
            self.assertEqual(set(token), {"id", "token", "logprob", "rank", "correct"})
            self.assertEqual(token["rank"], 1)
        self.assertEqual("".join(t["token"] for t in right["tokens"]).strip(), PROBE["target"])

    def test_models(self):
        models = self.d.get("/v1/models").json["data"]
        ids = [m["id"] for m in models]
        for name in ("base", "live", "v0"):
            self.assertIn(name, ids)
        self.assertEqual([self.d.get("/v1/models/" + name).json for name in ids], models)
        for name in ("v99", "gpt", "v", "Live", "v00"):
            self.problem(self.d.get("/v1/models/" + name), 404, detail="no model")
        self.assertEqual(self.d.complete("x", model=ids[-1]).status, 200)

    def test_models_by_page(self):
        names = [m["id"] for m in self.d.get("/v1/models").json["data"]]
        first = self.d.get("/v1/models", limit=2).json
        self.assertEqual((first["first_id"], first["last_id"], first["has_more"]),
                         (names[0], names[1], True))
        rest = self.d.get("/v1/models", after=first["last_id"]).json
        self.assertEqual([m["id"] for m in first["data"] + rest["data"]], names)
        self.assertFalse(rest["has_more"])
        last = self.d.get("/v1/models", after=names[-1]).json
        self.assertEqual((last["data"], last["last_id"], last["has_more"]), ([], None, False))
        self.problem(self.d.get("/v1/models", after="v99"), 422, detail="no model 'v99'")
        self.problem(self.d.get("/v1/models", limit=101), 422, detail="limit")

    def test_status(self):
        s = self.d.get("/v1/status").json
        self.assertEqual(set(s), {
            "live_version", "weights_hash", "state", "model", "editor", "queue", "batch",
            "evaluation", "suites", "counts", "rates", "memory", "scrub", "joint", "disk",
            "events", "last_error", "uptime_seconds", "version"})
        self.assertEqual((s["evaluation"], s["suites"]), (None, []))
        self.assertEqual(set(s["model"]),
                         {"name", "architecture", "parameters", "dtype", "device"})
        self.assertEqual(set(s["editor"]), {"method", "modules", "update"})
        self.assertEqual(set(s["queue"]), {"jobs", "facts", "capacity", "oldest_seconds"})
        self.assertEqual(set(s["counts"]), {"live_facts", "versions", "jobs_by_state"})
        self.assertEqual(set(s["rates"]), {"facts_per_second", "last_batch_seconds",
                                           "last_minute"})
        self.assertEqual(set(s["memory"]), {"device_bytes", "host_bytes"})
        self.assertEqual(set(s["scrub"]), {"enabled", "position", "total", "wrong", "failing",
                                          "passes"})
        self.assertEqual(set(s["disk"]), {"free_bytes", "low"})
        self.assertEqual(set(s["events"]), {"streams", "max_streams", "last_id"})
        self.assertIs(s["joint"] is None, s["editor"]["update"] == "sequential")
        self.assertEqual(s["state"], "ready")
        self.assertGreater(s["memory"]["host_bytes"], 0)

    def test_health_and_description(self):
        self.assertEqual(self.d.get("/livez").status, 200)
        self.assertEqual(self.d.get("/readyz").status, 200)
        document = self.d.get("/openapi.json").json
        self.assertTrue(document["openapi"].startswith("3.1"))

    def test_head(self):
        head, get = self.d.call("HEAD", "/livez"), self.d.call("GET", "/livez")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.headers["Content-Length"], get.headers["Content-Length"])
        self.assertEqual(self.d.call("HEAD", "/nope").status, 404)


class Lists(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.jobs = [cls.d.apply(fact(i))["id"] for i in range(5)]

    def walk(self, path, key, **query):
        seen, after = [], {}
        while True:
            page = self.d.get(path, limit=2, **query, **after)
            self.assertEqual(page.status, 200, page.body)
            page = page.json
            self.assertEqual(page["object"], "list")
            ids = [row[key] for row in page["data"]]
            self.assertLessEqual(len(ids), 2)
            if ids:
                self.assertEqual((page["first_id"], page["last_id"]), (ids[0], ids[-1]))
            seen += ids
            if not page["has_more"]:
                return seen
            after = {"after": ids[-1]}

    def test_jobs(self):
        self.assertEqual(self.walk("/v1/jobs", "id"), self.jobs[::-1])
        self.assertEqual(self.walk("/v1/jobs", "id", state="applied", kind="edit"),
                         self.jobs[::-1])
        self.assertEqual(self.walk("/v1/jobs", "id", state="failed"), [])
        self.assertEqual(sorted(self.jobs), self.jobs, "ids sort by time")

    def test_facts(self):
        facts = self.walk("/v1/facts", "id")
        self.assertEqual(len(facts), 5)
        self.assertEqual(self.walk("/v1/facts", "id", version=2), facts[:2])
        self.assertEqual(self.walk("/v1/versions/3/facts", "id"), facts[:3])
        self.assertEqual(self.walk("/v1/facts", "id", order="desc"), facts[::-1])
        self.assertEqual(self.walk("/v1/facts", "id", version=2, order="desc"), facts[1::-1])

    def test_search(self):
        facts = self.walk("/v1/facts", "id")
        self.assertEqual(self.walk("/v1/facts", "id", search="of TOWN 3"), facts[3:4])
        self.assertEqual(self.walk("/v1/facts", "id", search="mayor", order="desc"), facts[::-1])
        self.assertEqual(self.walk("/v1/facts", "id", search="town", version=2), facts[:2])
        self.assertEqual(self.walk("/v1/facts", "id", search="%"), [])

    def test_versions(self):
        self.assertEqual(self.walk("/v1/versions", "version"), [5, 4, 3, 2, 1, 0])
        v = self.d.get("/v1/versions/5").json
        self.assertEqual(set(v), {
            "object", "version", "parent", "kind", "created_at", "jobs", "facts", "live_facts",
            "weights_hash", "chain_hash", "delta", "bytes", "modules", "measures", "editor",
            "update", "keyframe", "in_memory", "pruned"})
        self.assertEqual((v["version"], v["parent"], v["kind"]), (5, 4, "edit"))
        self.assertEqual((v["facts"], v["live_facts"], v["jobs"]), (1, 5, [self.jobs[4]]))
        self.assertRegex(v["weights_hash"], HEX)
        self.assertRegex(v["chain_hash"], HEX)
        self.assertEqual(set(v["delta"]), {"hash", "bytes", "encoding"})
        self.assertEqual(set(v["editor"]), {"method", "hash"})
        self.assertGreaterEqual(v["bytes"], v["delta"]["bytes"])
        self.assertEqual((v["keyframe"], v["pruned"]), (False, False))
        self.assertIs(v["in_memory"], True)
        self.assertIs(self.d.get("/v1/versions/1").json["in_memory"], False)
        base = self.d.get("/v1/versions/0").json
        self.assertEqual((base["kind"], base["parent"], base["jobs"]), ("base", None, []))

    def test_empty_page(self):
        page = self.d.get("/v1/facts", state="retracted").json
        self.assertEqual(page, {"object": "list", "data": [], "first_id": None, "last_id": None,
                                "has_more": False})


if __name__ == "__main__":
    harness.main()
