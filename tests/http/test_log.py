"""The log of a whole life: every line is JSON of the form that deploy/prometheus/README.md gives."""
import re
import unittest
from pathlib import Path

import harness
from harness import Daemon, only_fake, wait_until
from world import BAD, Held, fact

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "deploy/prometheus/README.md").read_text()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
CALL = re.compile(r"\bmal_log\((.*?)\);", re.S)
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
LEVELS = ("info", "warning", "error")
DROPPED = "log lines dropped"  # the log's own


def documented():
    """event -> levels, names of its members"""
    table = README[README.index("| event |"):].split("\n\n")[0].splitlines()[2:]
    out = {}
    for line in table:
        event, levels, members = (cell.strip() for cell in line.strip("|").split("|"))
        names = members.split(":")[0].split(", ") if members else []
        out[event.strip("`")] = levels.split(", "), names
    return out


def calls():
    """file, events and the rest of the texts of each call in the source"""
    for path in sorted((ROOT / "daemon").rglob("*.c")):
        if path.name == "log.c":
            continue
        for call in CALL.findall(path.read_text()):
            texts = TEXT.findall(re.sub(r'"\s*"', "", call))
            cut = next((i for i, text in enumerate(texts) if text.startswith("{")), len(texts))
            yield path.name, [t for t in texts[:cut] if t not in LEVELS], call


class Source(unittest.TestCase):
    def test_all_events_are_described(self):
        events = {event for _, names, _ in calls() for event in names}
        self.assertGreater(len(events), 20)
        self.assertEqual(events | {DROPPED}, set(documented()))

    def test_names(self):
        for event, (levels, members) in documented().items():
            self.assertRegex(event, r"^[a-z]+([ '-][a-z]+)*$")
            self.assertTrue(set(levels) <= set(LEVELS), event)
            for name in members:
                self.assertRegex(name, r"^[a-z]+(_[a-z]+)*$", event)
                self.assertFalse(set(name.split("_")) & {"ms", "kb", "mb"}, (event, name))

    def test_no_level_but_these(self):
        for file, _, call in calls():
            level = call.split(",")[0]
            self.assertTrue(any(f'"{name}"' in level for name in LEVELS), (file, call))


@only_fake
class Lines(unittest.TestCase):
    def check(self, line, known):
        self.assertIsInstance(line, dict, line)
        self.assertRegex(line["time"], TIME)
        self.assertNotEqual(line["event"], "text", f"not JSON: {line}")
        levels, members = known[line["event"]]
        self.assertIn(line["level"], levels, line)
        self.assertTrue(set(line) - {"time", "level", "event"} <= set(members), line)

    def drive(self, d):
        d.apply(fact(1), fact(2))
        d.wait_job(d.edit(BAD).json["id"])
        d.wait_job(d.edit(fact(3, "fail:space")).json["id"])
        held = Held(self, d)
        held.begin()  # what waits for it goes together
        jobs = [d.edit(f).json["id"] for f in (fact(4), BAD, fact(5))]
        held.let_go()
        for job in jobs:
            d.wait_job(job)
        for i in range(6, 10):
            d.apply(fact(i))
        for path in ("/nothing", "/v1/%ff%22%0a\\", "/v1/" + "x" * 3000, "/v1/%e2%82"):
            d.call("POST", path, b"{}")
        d.call("POST", "/v1/rollbacks", {"to_version": 99})
        d.wait_job(d.call("POST", "/v1/evaluations", {"facts": [fact(1)]}).json["id"])
        d.raw(b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
        d.complete(Held(self, d).fact["prompt"])
        d.call("POST", "/v1/jobs/nothing/cancel")
        d.get("/v1/status"), d.get("/readyz"), d.get("/metrics")

    def test_a_whole_life(self):
        d = Daemon("--batch-window-ms", "0", "--retain-bytes", "1", "--keep-versions", "0",
                   "--keyframe-every", "1", "--request-timeout", "1", "--min-free-disk", "1")
        self.drive(d)
        wait_until(lambda: any(e.get("status") == 503 for e in d.log))  # what comes last of it
        first = d.log
        d.kill()
        d.args += ("--min-free-disk", str(10 ** 15))
        d.start()
        self.assertEqual(d.edit(fact(20)).status, 507)
        self.assertEqual(d.stop(), 0)
        lines, known = first + d.log, documented()
        for line in lines:
            self.check(line, known)
        seen = {line["event"] for line in lines}
        self.assertLessEqual({"listening", "ready", "request", "version published", "job rejected",
                              "evaluated", "job failed", "batch split", "versions pruned", "disk low",
                              "stopping"}, seen)
        times = [line["time"] for line in lines]
        self.assertEqual(times[0], min(times))
        requests = [line for line in lines if line["event"] == "request"]
        paths = {line["path"] for line in requests}
        self.assertIn("/v1/�\"\n\\", paths)
        self.assertIn("/v1/jobs/nothing/cancel", paths)
        self.assertIn("/v1/�", paths)
        self.assertTrue(any(len(path) > 500 for path in paths))
        self.assertTrue(all(len(path.encode()) <= 512 for path in paths))
        by_status = {line["status"]: line["level"] for line in requests}
        self.assertEqual((by_status[202], by_status[404], by_status[503]), ("info", "info", "warning"))
        for line in requests:
            self.assertTrue(0 <= line["seconds"] < harness.PATIENCE, line)


if __name__ == "__main__":
    harness.main()
