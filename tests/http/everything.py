"""What an edit does not touch, without memory: tokens, audit, metrics, events, evaluations, facts by
the line, answers that are streamed, retractions, cancelling, old versions, pages."""
import json
import re
import signal
import time

import harness
from faults import GONE
from no_memory import NoMemory
from sse import Cut, Stream
from tokens import Tokens, bearer
from world import fact

PAGES = ("/", "/openapi.json", "/metrics", "/v1/audit", "/v1/audit?who=admin", "/v1/models",
         "/v1/jobs", "/v1/versions/1")
OLD = ("/v1/versions/1/facts", "/v1/versions/0/diff/1", "/v1/versions/0/delta",
       "/v1/versions/0/delta?format=lora")


def shape(value):
    """Which members there are."""
    if isinstance(value, dict):
        return {key: shape(v) for key, v in value.items()}
    return list(map(shape, value)) if isinstance(value, list) else type(value)


def told(answer):
    """What must be the same when it is asked again."""
    if "json" in answer.headers["Content-Type"]:
        return shape(answer.json)
    if answer.headers["Content-Type"].startswith("text/plain"):
        return re.findall(rb"^# TYPE .*", answer.body, re.M)
    return answer.body


class Pages(NoMemory):
    """What is read of versions over a connection of its own to the database: nearly all allocations
    are for that."""
    late = True
    paths = OLD

    def further(self, point, d):
        d.process.send_signal(signal.SIGUSR2)
        return self.pages(point, d)

    def pages(self, point, d):
        """Nothing is missing in what is answered."""
        for path in self.paths:
            first, second = (point.patiently(d, "GET", path) for _ in range(2))
            if second is None:
                return False
            assert first.status == second.status == 200, (path, first.status, first.body)
            assert told(first) == told(second), (path, told(first), told(second))
        return True


class Everything(Pages):
    ends = ("applied", "done", "cancelled")
    paths = PAGES

    def __init__(self, name, directory, source):
        super().__init__(name, source)
        suites = directory / "suites"
        suites.mkdir()
        (suites / "towns.ndjson").write_text("".join(json.dumps(fact(100001 + i)) + "\n"
                                                     for i in range(3)))
        tokens = Tokens(directory)
        self.args = ("--tokens", tokens.path, "--suites", str(suites), "--keep-versions", "0")
        self.headers = bearer(tokens.of["admin"])

    def further(self, point, d):
        d.process.send_signal(signal.SIGUSR2)
        steps = [self.lines, self.evaluate, self.stream, self.pages, self.events, self.reload,
                 self.cancel]
        if not harness.FAKE:  # it has no joint system
            steps.append(self.retract)
        return all(step(point, d) for step in steps)

    def lines(self, point, d):
        body = "".join(json.dumps(point.fact(f"line {i}")) + "\n" for i in range(1))
        return point.teach(d, "lines", "/v1/edits", body,
                           **{"Content-Type": "application/x-ndjson"}) is not None

    def evaluate(self, point, d):
        """The suite, and facts on a version that is made again for it."""
        bodies = {"suite": "towns"}, {"facts": [fact(100001)], "version": 1}
        return all(point.teach(d, f"evaluation-{i}", "/v1/evaluations", body) is not None
                   for i, body in enumerate(bodies))

    def streamed(self, point, d, take, *request, **more):
        """take() of a stream; begun again where that is None, or it was cut. False: no daemon."""
        until = time.monotonic() + harness.PATIENCE
        while d.process.poll() is None:
            try:
                with Stream(d, *request, **{**more, "headers": {**d.headers,
                                                                **more.get("headers", {})}}) as s:
                    if s.status != 200:
                        text = s.answer.read().decode()
                        assert point.ends(d, s.status, text) or \
                            s.status in self.statuses and self.says.search(text), (s.status, text)
                    elif (taken := take(s)) is not None:
                        return taken
            except (Cut, *GONE):
                pass
            point.tries += 1
            assert time.monotonic() < until, f"no stream: {request} {d.said[-900:]}"
            time.sleep(0.02)
        return False

    def stream(self, point, d):
        """All of an answer, or why it ends."""
        body = {"prompt": fact(100001)["prompt"], "max_tokens": 4}
        whole = point.patiently(d, "POST", "/v1/completions", body)
        if whole is None:
            return False
        body |= {"stream": True, "stream_options": {"include_usage": True}}

        def take(stream):
            text = ""
            while block := stream.block():
                if block.text == "[DONE]":
                    assert stream.block() is None
                    return text
                if "error" in block.data:
                    assert point.ends(d, block.data["error"]["status"], block.text) or \
                        self.says.search(block.text), block.text
                    return None
                text += "".join(choice["text"] for choice in block.data["choices"])
            raise AssertionError("it ends without an end")
        text = self.streamed(point, d, take, "/v1/completions", "POST", body)
        assert text is False or text == whole.json["choices"][0]["text"], (text, whole.body)
        return text is not False

    def events(self, point, d):
        """From the first to the last, none twice."""
        def take(stream):
            seen = [event.id for event in stream.until(
                lambda e: e.event == "job" and e.data["id"] == point.accepted["lines"]
                and e.data["state"] in ("applied", "failed"))]
            assert seen == list(range(1, len(seen) + 1)), seen
            return True
        return self.streamed(point, d, take, headers={"Last-Event-ID": "0"})

    def reload(self, point, d):
        """The tokens: they are as before, whatever came of it."""
        d.process.send_signal(signal.SIGHUP)

        def came():
            return d.process.poll() is not None or [
                e for e in d.log if e["event"] in ("tokens read", "tokens not read")]
        for e in harness.wait_until(came) if d.process.poll() is None else []:
            assert e["event"] == "tokens read" or "lost" in e or self.says.search(e["detail"]), e
        return d.process.poll() is None

    def retract(self, point, d):
        facts = point.patiently(d, "GET", "/v1/facts?state=live")
        if facts is None:
            return False
        body = {"facts": [facts.json["data"][0]["id"]], "mode": "drop"}
        return point.teach(d, "retraction", "/v1/retractions", body) is not None

    def cancel(self, point, d):
        """A job that is told to be cancelled is never run."""
        job = point.post(d, "cancelled")
        answer = job and point.patiently(d, "POST", f"/v1/jobs/{job}/cancel", "")
        if not answer:
            return False
        assert answer.status in (200, 409), (answer.status, answer.body)
        end = point.wait(d, job)
        assert end is None or answer.status == 409 or end["state"] == "cancelled", end
        return end is not None
