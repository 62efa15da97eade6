"""GET /metrics: its form, that the figures move as they should, and that they stay few."""
import os
import random
import socket
import tempfile
import threading
import time
import unittest

import prometheus
from harness import Case, Daemon, only_fake, wait_until
from prometheus import scrape
from tokens import Tokens, bearer
from world import BAD, Held, fact

WRONG = {"prompt": "What stays wrong is", "target": "wrong:1"}


class Parser(unittest.TestCase):
    def test_takes_what_is_right(self):
        for text in prometheus.GOOD:
            prometheus.parse(text)

    def test_refuses_what_is_not(self):
        for text in prometheus.BROKEN:
            with self.assertRaises((AssertionError, AttributeError), msg=repr(text)):
                prometheus.parse(text)


def until(daemon, true):
    """The first scrape of which that holds."""
    def look():
        now = scrape(daemon)
        return now if true(now) else None
    return wait_until(look)


def at_rest(daemon):
    """A scrape when what has ended is counted: a job is seen to have ended a little before."""
    names = ("queue_jobs", "queue_facts", "batch_running", "writes_waiting", "reads_waiting")
    return until(daemon, lambda now: not any(now["malmend_" + n].value() for n in names))


class Moves:
    """What has changed between two scrapes."""

    def __init__(self, daemon):
        self.daemon, self.before = daemon, at_rest(daemon)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.after = at_rest(self.daemon)

    def __call__(self, name, suffix="", **labels):
        old = self.before.get(name)
        return self.after[name].total(suffix, **labels) - (old.total(suffix, **labels) if old else 0)


@only_fake
class Edits(Case):
    ARGS = ("--batch-window-ms", "0", "--update", "joint", "--consolidate-after", "0")

    def job(self, *facts, **more):
        return self.d.wait_job(self.d.edit(*facts, **more).json["id"])

    def test_applied(self):
        with Moves(self.d) as by:
            self.d.apply(fact(1), fact(2), fact(3))
        for name in ("malmend_facts_edited_total", "malmend_live_facts"):
            self.assertEqual(by(name), 3, name)
        for name in ("malmend_live_version", "malmend_versions"):
            self.assertEqual(by(name), 1, name)
        self.assertEqual(by("malmend_jobs_finished_total"), 1)
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="applied"), 1)
        self.assertEqual(by("malmend_jobs", state="applied"), 1)
        self.assertEqual(by("malmend_batch_duration_seconds", "_count", kind="edit"), 1)
        self.assertEqual(by("malmend_batch_duration_seconds", "_count"), 1)
        self.assertEqual(by("malmend_http_requests_total", route="/v1/edits", method="POST",
                            code="202"), 1)
        self.assertEqual(by("malmend_http_request_duration_seconds", "_count", route="/v1/edits"), 1)
        self.assertEqual(by("malmend_writes_total", outcome="committed"), 4,
                         "add, start, publish, prune")
        self.assertEqual(by("malmend_write_duration_seconds", "_count"), 4)
        self.assertEqual(by("malmend_facts_wrong_total"), 0)
        for stage in "forward", "persist":
            self.assertGreater(by("malmend_stage_seconds_total", stage=stage), 0, stage)
        self.assertGreater(by("malmend_worker_busy_seconds_total", work="changes"), 0)
        self.assertGreater(by("malmend_delta_bytes"), 0)
        for mode in "decoded", "teacher_forced":
            self.assertEqual(by.after["malmend_quality_ratio"].value(measure="es", mode=mode), 1)
        self.assertEqual(by.after["malmend_agreement_ratio"].value(), 1)
        self.assertEqual(by.after["malmend_quality_facts"].value(), 3)
        self.assertEqual(by.after["malmend_module_shift_norm"].value(module="table"), 1)
        self.assertEqual(by.after["malmend_module_weight_norm"].value(module="table"), 2)
        made = by.after["malmend_live_version_timestamp_seconds"].value()
        self.assertLess(abs(made - time.time()), 60)

    def test_wrong(self):
        with Moves(self.d) as by:
            self.d.apply(WRONG, fact(10), fact(11), fact(12))
        self.assertEqual(by("malmend_facts_wrong_total"), 1)
        ratio = by.after["malmend_quality_ratio"].value(measure="es", mode="decoded")
        self.assertEqual(ratio, 0.75)

    def test_gate(self):
        with Moves(self.d) as by:
            job = self.job(WRONG, fact(20), gate={"min_es": 0.9})
        self.assertEqual(job["state"], "rejected", job)
        self.assertEqual(by("malmend_gate_rejections_total"), 1)
        self.assertEqual(by("malmend_gate_rejections_total", test="min_es"), 1)
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="rejected"), 1)
        self.assertEqual(by("malmend_facts_rejected_total"), 2)
        for name in ("malmend_facts_edited_total", "malmend_facts_wrong_total",
                     "malmend_live_version"):
            self.assertEqual(by(name), 0, name)

    def test_gate_that_leaves_some(self):
        with Moves(self.d) as by:
            job = self.job(WRONG, fact(21), fact(22), fact(23), gate={"min_es": 1, "bisect": True})
        self.assertEqual(job["state"], "applied", job)
        self.assertEqual(by("malmend_gate_rejections_total", test="min_es"), 1)
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="applied"), 1)
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="rejected"), 0)
        self.assertEqual(by("malmend_facts_rejected_total"), 1)
        self.assertEqual(by("malmend_facts_wrong_total"), 0)

    def test_gate_that_wavers(self):
        """What passed when it was tried, and does not when it is to be published."""
        with Moves(self.d) as by:
            job = self.job(WRONG, fact(25, "wavers:x"), fact(26),
                           gate={"min_es": 1, "bisect": True})
        self.assertEqual(job["state"], "rejected", job)
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="rejected"), 1)
        self.assertEqual(by("malmend_facts_rejected_total"), 3)
        self.assertEqual(by("malmend_live_version"), 0)

    def test_solve_that_fails(self):
        with Moves(self.d) as by:
            self.assertEqual(self.job(BAD)["state"], "rejected")
        self.assertEqual(by("malmend_gate_rejections_total", test="finite"), 1)

    def test_failed(self):
        with Moves(self.d) as by:
            self.assertEqual(self.job(fact(30, "fail:space"))["state"], "failed")
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="failed"), 1)
        self.assertEqual(by("malmend_writes_total", outcome="failed"), 1)
        self.assertEqual(by("malmend_log_lines_total", level="error"), 1)
        self.assertEqual(by("malmend_facts_edited_total"), 0)

    def test_refused_write(self):
        headers = {"Idempotency-Key": "k"}
        self.d.edit(fact(31), headers=headers)
        with Moves(self.d) as by:
            self.assertEqual(self.d.edit(fact(32), headers=headers).status, 422)
        self.assertEqual(by("malmend_writes_total", outcome="refused"), 1)

    def test_running(self):
        held = Held(self, self.d)
        held.begin()
        now = scrape(self.d)
        self.assertEqual(now["malmend_jobs"].value(state="running"), 1)
        self.assertEqual(now["malmend_batch_running"].value(), 1)
        self.assertEqual(now["malmend_batch_facts"].value(), 1)
        until(self.d, lambda now: now["malmend_batch_age_seconds"].value() > 0)
        held.end()
        self.assertEqual(at_rest(self.d)["malmend_batch_age_seconds"].value(), 0)

    def test_evaluation(self):
        with Moves(self.d) as by:
            asked = self.d.call("POST", "/v1/evaluations", {"facts": [fact(45), fact(46)]})
            self.assertEqual(self.d.wait_job(asked.json["id"])["state"], "done")
            name, done = "malmend_jobs_finished_total", {"kind": "evaluation", "outcome": "done"}
            until(self.d, lambda now: now[name].value(**done) > by.before[name].value(**done))
        self.assertEqual(by(name), 1)
        self.assertEqual(by(name, **done), 1)
        self.assertEqual(by("malmend_batch_duration_seconds", "_count", kind="evaluation"), 1)
        self.assertGreater(by("malmend_worker_busy_seconds_total", work="evaluations"), 0)
        self.assertEqual(by("malmend_facts_edited_total"), 0)

    def test_rollback(self):
        self.d.apply(fact(50))
        with Moves(self.d) as by:
            self.d.wait_job(self.d.call("POST", "/v1/rollbacks", {"to_version": 0}).json["id"])
        self.assertEqual(by("malmend_jobs_finished_total", kind="rollback", outcome="applied"), 1)
        self.assertEqual(by("malmend_batch_duration_seconds", "_count", kind="rollback"), 1)
        self.assertEqual(by("malmend_facts_edited_total"), 0)
        self.assertEqual(by.after["malmend_live_facts"].value(), 0)

    def test_idle(self):
        """The walk over the live facts begins when nothing came for a while."""
        before = scrape(self.d)["malmend_scrub_passes_total"].value()
        self.d.apply(fact(51))
        # a walk of before may end meanwhile: it is of other facts
        now = until(self.d, lambda now: now["malmend_scrub_passes_total"].value() > before and
                    now["malmend_scrub_facts"].value() == now["malmend_live_facts"].value())
        self.assertGreater(now["malmend_worker_busy_seconds_total"].value(work="scrub"), 0)
        with Moves(self.d) as by:
            time.sleep(0.3)
            self.d.complete("x")
        self.assertEqual(by("malmend_worker_busy_seconds_total", work="scrub"), 0, "it is over")

    def test_failing(self):
        d = Daemon("--update", "joint", "--repair-rounds", "0")
        self.addCleanup(d.close)
        d.apply(fact(52, "weak: this"), fact(53))
        now = until(d, lambda now: now["malmend_scrub_failing_facts"].value() > 0)
        self.assertEqual(now["malmend_scrub_failing_facts"].value(), 1)
        self.assertEqual(now["malmend_scrub_wrong_facts"].value(), 0)
        self.assertEqual(d.get("/v1/status").json["scrub"]["failing"], 1)

    def test_same_as_the_status(self):
        self.d.apply(fact(60))
        status, now = self.d.get("/v1/status").json, scrape(self.d)
        for state, n in status["counts"]["jobs_by_state"].items():
            self.assertEqual(now["malmend_jobs"].value(state=state), n)
        for name, value in (("live_version", status["live_version"]),
                            ("live_facts", status["counts"]["live_facts"]),
                            ("versions", status["counts"]["versions"]),
                            ("device_bytes", status["memory"]["device_bytes"]),
                            ("queue_capacity_facts", status["queue"]["capacity"])):
            self.assertEqual(now["malmend_" + name].value(), value, name)
        recent = status["rates"]["last_minute"]
        self.assertEqual(set(recent), {name + "_per_second" for name in
                                       ("facts", "jobs", "requests", "reads", "tokens")})
        for name in "facts", "jobs", "requests":
            self.assertGreater(recent[name + "_per_second"], 0, name)


@only_fake
class Queue(Case):
    ARGS = ("--batch-window-ms", "60000", "--max-queue", "50")

    def test_cancelled(self):
        with Moves(self.d) as by:
            job = self.d.edit(fact(40), fact(41)).json["id"]
            now = scrape(self.d)
            self.assertEqual(now["malmend_queue_facts"].value(), 2)
            self.assertEqual(now["malmend_queue_jobs"].value(), 1)
            self.assertEqual(now["malmend_queue_capacity_facts"].value(), 50)
            self.assertEqual(now["malmend_jobs"].value(state="queued"), 1)
            until(self.d, lambda now: now["malmend_queue_oldest_seconds"].value() > 0)
            self.assertEqual(self.d.get(f"/v1/jobs/{job}", wait=1).json["state"], "queued")
            self.assertEqual(self.d.call("POST", f"/v1/jobs/{job}/cancel", b"").status, 200)
        waited = {"route": "/v1/jobs/{id}", "method": "GET"}
        self.assertEqual(by("malmend_http_requests_total", **waited), 1)
        self.assertEqual(by("malmend_http_request_duration_seconds", "_count", **waited), 0,
                         "as long as was asked for is no latency")
        self.assertEqual(by("malmend_jobs_finished_total"), 1)
        self.assertEqual(by("malmend_jobs_finished_total", kind="edit", outcome="cancelled"), 1)
        self.assertEqual(by.after["malmend_queue_oldest_seconds"].value(), 0)
        self.assertEqual(by.after["malmend_queue_facts"].value(), 0)


@only_fake
class Reads(Case):
    def test_completions(self):
        self.d.apply(fact(1, "Ann"))
        with Moves(self.d) as by:
            for _ in range(3):
                self.assertEqual(self.d.complete(fact(1)["prompt"]).status, 200)
        self.assertEqual(by("malmend_reads_total", call="completions", outcome="answered"), 3)
        self.assertEqual(by("malmend_read_duration_seconds", "_count", call="completions"), 3)
        self.assertEqual(by("malmend_tokens_generated_total"), 3 * len(" Ann"))
        self.assertEqual(by("malmend_tokens_prompted_total"), 3 * len(fact(1)["prompt"]))
        self.assertGreater(by("malmend_worker_busy_seconds_total", work="reads"), 0)
        self.assertEqual(by.after["malmend_reads_waiting"].value(), 0)

    def test_scores(self):
        items = [{"prompt": "a", "target": "bc"}, {"prompt": "a", "target": "d"}]
        with Moves(self.d) as by:
            self.assertEqual(self.d.call("POST", "/v1/scores", {"items": items}).status, 200)
        self.assertEqual(by("malmend_reads_total", call="scores", outcome="answered"), 1)
        self.assertEqual(by("malmend_tokens_scored_total"), len(" bc") + len(" d"))
        self.assertEqual(by("malmend_tokens_generated_total"), 0)

    def test_refused(self):
        with Moves(self.d) as by:
            self.assertEqual(self.d.complete("x", model="v99").status, 404)
        self.assertEqual(by("malmend_reads_total", call="completions", outcome="refused"), 1)

    def test_waiting(self):
        held = Held(self, self.d)
        thread = threading.Thread(target=self.d.complete, args=(held.fact["prompt"],))
        thread.start()
        until(self.d, lambda now: now["malmend_reads_waiting"].value())
        held.let_go()
        thread.join()


@only_fake
class Timeouts(Case):
    ARGS = ("--request-timeout", "1")

    def test_read(self):
        with Moves(self.d) as by:
            self.assertEqual(self.d.complete(Held(self, self.d).fact["prompt"]).status, 503)
        self.assertEqual(by("malmend_reads_total", call="completions", outcome="timed_out"), 1)
        self.assertEqual(by("malmend_http_requests_total", route="/v1/completions", code="503"), 1)

    def test_body_that_never_comes(self):
        head = (b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{")
        with Moves(self.d) as by:
            self.assertIn(b"408", self.d.raw(head))
            self.assertEqual(self.d.raw(b"GET /livez HTTP/1.1\r\nHos")[:12], b"HTTP/1.1 408")
        self.assertEqual(by("malmend_http_requests_total", route="/v1/edits", method="POST",
                            code="408"), 1)
        self.assertEqual(by("malmend_http_requests_total", route="other", method="other",
                            code="408"), 1)


class Http(Case):
    ARGS = ("--max-body", "2KiB")

    def series(self):
        return {(name, suffix, labels) for name, family in scrape(self.d).items()
                for suffix, labels in family.samples}

    def test_answers(self):
        with Moves(self.d) as by:
            self.d.get("/livez")
            self.d.call("HEAD", "/livez")
            self.d.call("POST", "/livez", b"{}")
            self.d.call("POST", "/v1/edits", b"{}", {"Content-Type": "text/plain"})
            self.d.call("POST", "/v1/edits", b" " * 3000)
            self.d.raw(b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b" " * 4096)
            self.d.raw(b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
        self.assertEqual(by("malmend_http_requests_total", route="/livez", code="200"), 2)
        self.assertEqual(by("malmend_http_requests_total", route="/livez", method="HEAD"), 1)
        self.assertEqual(by("malmend_http_requests_total", route="other", code="405"), 1)
        self.assertEqual(by("malmend_http_requests_total", route="/v1/edits", code="415"), 1)
        self.assertEqual(by("malmend_http_requests_total", route="/v1/edits", code="413"), 2)
        self.assertEqual(by("malmend_http_requests_total", route="other", code="400"), 1)

    def test_few_series(self):
        """Whatever is asked for, labels are those of the table."""
        rng = random.Random(5)
        self.d.get("/nothing"), self.d.get("/v1/jobs/none"), self.d.call("BREW", "/nothing")
        connection, before = self.d.connect(), self.series()
        for i in range(1000):
            path = "/" + "".join(rng.choices("abc/%{}=é\"", k=rng.randrange(1, 60)))
            path = path.encode("latin-1", "replace").decode("ascii", "replace").replace("�", "%e9")
            if i % 10 == 0:
                path = f"/v1/jobs/{rng.random()}"
            connection.request("GET" if i % 20 else "BREW" + str(i), path.replace("%00", ""))
            connection.getresponse().read()
        connection.close()
        more = self.series() - before
        self.assertEqual({name for name, *_ in more} - {"malmend_http_requests_total"}, set())
        self.assertLessEqual(len(more), 3, more)  # 400, 404, 405 of what is none, at most

    def test_connections(self):
        with Moves(self.d) as by:
            sockets = [socket.create_connection(self.d.address.rsplit(":", 1)) for _ in range(5)]
            until(self.d, lambda now: now["malmend_http_connections"].value() >= 6)
            for s in sockets:
                s.close()
            until(self.d, lambda now: now["malmend_http_connections"].value() < 6)
        self.assertGreaterEqual(by("malmend_http_connections_accepted_total"), 6)
        self.assertEqual(by.after["malmend_http_connections_limit"].value(), 512)
        self.assertGreaterEqual(by.after["malmend_http_requests_in_flight"].value(), 1)

    def test_process(self):
        now, pid = scrape(self.d), self.d.process.pid
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            soft = next(line.split()[3] for line in file if line.startswith("Max open files"))
        self.assertEqual(now["process_max_fds"].value(), float(soft))
        there = len(os.listdir(f"/proc/{pid}/fd"))
        self.assertLess(abs(now["process_open_fds"].value() - there), 40, "some come and go")
        self.assertGreater(now["process_resident_memory_bytes"].value(), 1e6)
        self.assertGreater(now["process_cpu_seconds_total"].value(), 0)
        for name in "process_start_time_seconds", "malmend_start_time_seconds":
            age = time.time() - now[name].value()
            self.assertTrue(-5 < age < 3600, (name, age))

    def test_storage(self):
        now = scrape(self.d)
        size = os.stat(self.d.directory + "/db").st_size
        self.assertLessEqual(abs(now["malmend_database_bytes"].value() - size), 1 << 20)
        self.assertGreater(now["malmend_database_wal_bytes"].value(), 0)
        self.assertGreater(now["malmend_disk_free_bytes"].value(), 0)
        self.assertEqual(now["malmend_disk_low"].value(), 0)

    def test_head(self):
        head = self.d.call("HEAD", "/metrics")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")


@only_fake
class Life(unittest.TestCase):
    def test_who_may(self):
        with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
            tokens = Tokens(directory)
            d = Daemon("--tokens", tokens.path)
            self.assertEqual(d.get("/metrics").status, 401)
            read, infer = (bearer(tokens.of[role]) for role in ("read", "infer"))
            self.assertEqual(d.call("POST", "/v1/edits", b"{}", infer).status, 403)
            self.assertEqual(d.call("GET", "/nothing").status, 401)
            now = prometheus.parse(d.call("GET", "/metrics", headers=read).body)
            requests = now["malmend_http_requests_total"]
            self.assertEqual(requests.value(route="/metrics", method="GET", code="401"), 1)
            self.assertEqual(requests.value(route="/v1/edits", method="POST", code="403"), 1)
            self.assertEqual(requests.value(route="other", method="GET", code="401"), 1)
            d.close()

    def test_downloads(self):
        d = Daemon()
        with Moves(d) as by:
            self.assertEqual(d.get("/v1/versions/0/delta").status, 200)
        self.assertEqual(by("malmend_downloads_made_total"), 1)
        self.assertEqual(by("malmend_download_files"), 1)
        self.assertGreater(by("malmend_download_file_bytes"), 1 << 20)
        d.close()

    def test_pruned(self):
        d = Daemon("--retain-bytes", "1", "--keep-versions", "0", "--keyframe-every", "1")
        with Moves(d) as by:
            for i in range(4):
                d.apply(fact(i))
        self.assertGreater(by("malmend_versions_pruned_total"), 0)
        self.assertGreater(by("malmend_pruned_bytes_total"), 0)
        d.close()

    def test_loading_and_restart(self):
        d = Daemon()
        d.apply(fact(1), fact(2))
        first = at_rest(d)
        d.kill()
        go = d.directory + "/go"
        d.env = {"MAL_FAKE_LOAD_HELD": go}
        d.start(ready=False)
        loading = scrape(d)
        self.assertEqual(loading["malmend_state"].value(state="loading"), 1)
        self.assertEqual(loading["malmend_state"].total(), 1)
        self.assertNotIn("malmend_live_version", loading)
        self.assertEqual(loading["malmend_jobs"].value(state="applied"), 1, "from the database")
        build = {label["version"] for label in loading["malmend_build_info"].labels()}
        with open(go, "wb"):
            pass
        d.wait_log("ready")
        ready = scrape(d)
        self.assertEqual(ready["malmend_state"].value(state="ready"), 1)
        info, = ready["malmend_build_info"].labels()
        self.assertEqual(info, {"version": build.pop(), "device": "cpu", "model": "fake",
                                "architecture": "table", "editor": "ultraedit",
                                "update": "sequential"})
        for name in "malmend_live_version", "malmend_live_facts", "malmend_delta_bytes":
            self.assertEqual(ready[name].value(), first[name].value(), name)
        self.assertEqual(ready["malmend_facts_edited_total"].value(), 0, "begins anew")
        self.assertGreater(ready["malmend_start_time_seconds"].value(),
                           first["malmend_start_time_seconds"].value())
        d.close()

    def test_under_load(self):
        """Every scrape holds together, and no counter ever falls."""
        d = Daemon("--batch-window-ms", "0")
        stop, errors = threading.Event(), []

        def load(i):
            try:
                for n in range(10 ** 6):
                    if stop.is_set():
                        return
                    calls = (lambda: d.edit(fact(i * 1000 + n % 50)), lambda: d.complete("x"),
                             lambda: d.get("/nothing"), lambda: d.get("/v1/status"))
                    calls[(n + i) % 4]()
            except Exception as error:  # pylint: disable=broad-except
                errors.append(error)

        threads = [threading.Thread(target=load, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        last, bad = {}, []
        for _ in range(60):
            for name, family in scrape(d).items():
                if family.type == "gauge":
                    continue
                for key, value in family.samples.items():
                    if value < last.get((name, key), 0):
                        bad.append((name, key, value))
                    last[name, key] = value
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual((bad, errors), ([], []))
        at_rest(d)
        d.close()


if __name__ == "__main__":
    import harness
    harness.main()
