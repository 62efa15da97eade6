"""What proto/openapi.yaml says, held against a running daemon: every example of proto/example gets
its status and its words, and every answer fits the schema of its call."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))
try:
    import description
except ImportError as missing:
    print(f"1..0 # SKIP {missing}")
    sys.exit(0)
import harness
from harness import Case
from sse import Stream


class Contract(Case):
    ARGS = ("--update", "joint")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        until = time.monotonic() + harness.PATIENCE
        while cls.d.get("/readyz").status != 200 and time.monotonic() < until:
            time.sleep(0.01)

    def check(self, call, path=None, status=None, **more):
        """Makes a call; its answer must be described. Returns its body."""
        method, pattern = call.split(" ")
        path = path or pattern
        answer = self.d.call(method, path, **more)
        place = f"{method} {path}: {answer.status} {answer.body[:500]}"
        if status:
            self.assertEqual(answer.status, status, place)
        described = description.DOC["paths"][pattern][method.lower()]["responses"]
        self.assertIn(str(answer.status), described, place)
        content = description.resolved(described[str(answer.status)]).get("content", {})
        kind = answer.headers["Content-Type"]
        self.assertIn(kind, content, place)
        if kind == "text/event-stream":
            text = answer.body.decode()
            self.assertEqual(description.event_errors(content[kind]["schema"], text), [], place)
            self.assertTrue(text.endswith("\n\ndata: [DONE]\n\n"), place)
            return text
        value = answer.json if "json" in kind else answer.body.decode()
        self.assertEqual(description.errors_of(content[kind]["schema"], value), [], place)
        return value

    def play(self, example):
        body = example["body"] if "body" in example else json.dumps(example["request"])
        headers = {"Content-Type": example.get("media_type", "application/json")}
        answer = self.check(example["call"], status=example["status"], body=body.encode(),
                            headers=headers)
        if example["status"] >= 400:
            pointers = [e["pointer"] for e in answer.get("errors", [])]
            self.assertEqual(pointers, [example["pointer"]] if example["pointer"] else [])
            self.assertIn(example["says"], answer["detail"])
        elif example["status"] == 202:
            self.d.wait_job(answer["id"])

    def test_examples(self):
        played = 0
        for name, example in description.examples():
            if "request" not in example and "body" not in example:
                continue
            if example.get("needs_daemon") and example["status"] < 400:
                continue  # wants a version or a fact that may not be there
            try:
                self.play(example)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None
            played += 1
        self.assertGreater(played, 40)

    def test_records(self):
        self.d.apply({"prompt": "The contract is", "target": "kept", "id": "contract"})
        jobs = self.check("GET /v1/jobs", "/v1/jobs?limit=100", 200)["data"]
        versions = self.check("GET /v1/versions", status=200)["data"]
        facts = self.check("GET /v1/facts", status=200)["data"]
        self.assertTrue(jobs and facts and len(versions) > 1)
        for job in jobs:
            self.check("GET /v1/jobs/{id}", f"/v1/jobs/{job['id']}", 200)
        for version in versions:
            path = f"/v1/versions/{version['version']}"
            self.check("GET /v1/versions/{n}", path, 200)
            self.check("GET /v1/versions/{n}/facts", path + "/facts", 200)
        for fact in facts:
            self.check("GET /v1/facts/{id}", f"/v1/facts/{fact['id']}", 200)
        self.check("GET /v1/versions/{a}/diff/{b}", "/v1/versions/0/diff/1", 200)
        cancel = f"/v1/jobs/{jobs[0]['id']}/cancel"
        self.check("POST /v1/jobs/{id}/cancel", cancel, 409, body=b"")

    def test_taking_back(self):
        kinds = {"POST /v1/retractions": {"job": self.d.apply({"prompt": "One", "target": "a"})["id"]},
                 "POST /v1/consolidations": {}}
        for call, body in kinds.items():
            job = self.check(call, status=202, body=json.dumps(body).encode(),
                             headers={"Content-Type": "application/json"})
            self.d.wait_job(job["id"])
            self.check("GET /v1/jobs/{id}", f"/v1/jobs/{job['id']}", 200)
        self.d.apply({"prompt": "Two", "target": "b", "id": "two"})
        self.d.wait_job(self.check("DELETE /v1/facts/{id}", "/v1/facts/two?mode=drop", 202)["id"])
        self.check("GET /v1/facts/{id}", "/v1/facts/two", 200)

    def test_service(self):
        self.d.apply({"prompt": "Who asked", "target": "is known"})
        self.assertTrue(self.check("GET /v1/audit", status=200)["data"])
        for path in ("/v1/models", "/v1/status", "/metrics", "/livez", "/readyz",
                     "/openapi.json"):
            self.check("GET " + path, status=200)
        described = description.DOC["paths"]["/"]["get"]["responses"]["200"]
        page = self.d.get("/")
        self.assertIn(page.headers["Content-Type"].split(";")[0], described["content"])
        for name in described["headers"]:
            self.assertIn(name, page.headers)
        self.assertEqual(self.d.get("/openapi.json").json, json.loads(json.dumps(description.DOC)))

    def test_events(self):
        answer = description.DOC["paths"]["/v1/events"]["get"]["responses"]["200"]
        schema = description.resolved(answer["content"]["text/event-stream"]["schema"])
        self.d.apply({"prompt": "Three", "target": "c"})
        seen = set()
        for place in 0, 10 ** 9:
            with Stream(self.d, last_event_id=place) as stream:
                for name in answer["headers"]:
                    self.assertIn(name, stream.headers)
                for event in stream.events(5):
                    text = f"event: {event.event}\ndata: {event.text}\n\n"
                    self.assertEqual(description.event_errors(schema, text), [], text)
                    seen.add(event.event)
        self.assertEqual(seen, {one["properties"]["event"]["const"] for one in schema["oneOf"]})
        self.check("GET /v1/events", "/v1/events?last_event_id=x", 400)
        self.check("GET /v1/events", "/v1/events?kind=x", 422)

    def test_broken_stream(self):
        self.d.apply({"prompt": "Broken", "target": "here fail:here"})
        answer = self.d.complete("Broken", stream=True)
        content = description.DOC["paths"]["/v1/completions"]["post"]["responses"]["200"]["content"]
        schema = content["text/event-stream"]["schema"]
        self.assertEqual(description.event_errors(schema, answer.body.decode()), [])
        self.assertIn(b'data: {"error":', answer.body)

    def test_downloads(self):
        for form in "safetensors", "lora":
            path = "/v1/versions/0/delta?format=" + form
            answers = description.DOC["paths"]["/v1/versions/{n}/delta"]["get"]["responses"]
            tag = self.d.get(path).headers["ETag"]
            for status, headers in ((200, {}), (206, {"Range": "bytes=0-99"}),
                                    (304, {"If-None-Match": tag})):
                answer = self.d.call("GET", path, headers=headers)
                self.assertEqual(answer.status, status)
                described = description.resolved(answers[str(status)])
                if status != 304:
                    self.assertIn(answer.headers["Content-Type"], described["content"])
                for name, header in described["headers"].items():
                    if name != "Malmend-Relative-Error" or form == "lora":
                        self.assertIn(name, answer.headers)
        call = "GET /v1/versions/{n}/delta"
        self.check(call, "/v1/versions/99999/delta", 404)
        self.check(call, "/v1/versions/0/delta?format=gguf", 422)
        self.check(call, "/v1/versions/0/delta", 416, headers={"Range": "bytes=999999999-"})

    def test_refusals(self):
        self.check("GET /v1/jobs/{id}", "/v1/jobs/none", 404)
        self.check("GET /v1/facts/{id}", "/v1/facts/none", 404)
        self.check("GET /v1/versions/{n}", "/v1/versions/none", 404)
        self.check("GET /v1/versions/{n}/facts", "/v1/versions/99999/facts", 404)
        self.check("GET /v1/versions/{a}/diff/{b}", "/v1/versions/0/diff/99999", 404)
        self.check("DELETE /v1/facts/{id}", "/v1/facts/none", 404)
        self.check("DELETE /v1/facts/{id}", "/v1/facts/none?mode=x", 422)
        self.check("DELETE /v1/facts/{id}", "/v1/facts/none", 400, body=b"{}")
        self.check("GET /v1/audit", status=403, headers={"Host": "elsewhere.example"})
        for path in ("/v1/jobs", "/v1/facts", "/v1/versions", "/v1/audit"):
            self.check("GET " + path, path + "?limit=many", 400)
            self.check("GET " + path, path + "?limit=0", 422)
            self.check("GET " + path, path + "?after=none", 422)
        plain = {"Content-Type": "text/plain"}
        for call in ("POST /v1/edits", "POST /v1/rollbacks", "POST /v1/retractions",
                     "POST /v1/consolidations", "POST /v1/evaluations", "POST /v1/completions",
                     "POST /v1/scores"):
            self.check(call, status=415, body=b"{}", headers=plain)


if __name__ == "__main__":
    harness.main()
