"""Clients that take their time, by the dozen: the daemon serves the others meanwhile, keeps nothing
for them, and ends each when its time is over. And the log, when nobody reads it."""
import itertools
import select
import signal
import socket
import threading
import unittest

import harness
from harness import Daemon, only_fake, wait_until
from sse import Stream
from world import OTHER, PROBE, answers, fact

EACH = 8
LARGE = "x" * 30000


class Trickle:
    """A request that arrives a byte at a time, and never ends."""

    def __init__(self, d, head, then):
        self.sock = plain(d)
        self.sock.sendall(head)
        self.then, self.over, self.got = then, False, b""

    def step(self):
        if self.over:
            return
        try:
            self.sock.sendall(self.then)
        except OSError:
            self.over = True  # there may be an answer, still
        try:
            while part := self.sock.recv(4096):
                self.got += part
            self.over = True
        except BlockingIOError:
            pass
        except OSError:
            self.over = True


def plain(d):
    connection = d.connect()
    connection.connect()
    connection.sock.setblocking(False)
    return connection.sock


def deaf(d, path):
    """Asks, and takes nothing."""
    connection = d.connect()
    connection.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.request("GET", path)
    return connection


def metric(d, name):
    lines = d.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split(" ")[0].split("{")[0] == name)


@only_fake
class Slow(unittest.TestCase):
    def furnish(self):
        """Answers of megabytes: a list of long facts; events; the delta has 32 MiB."""
        facts = [fact(i, unrelated=[{"prompt": "p", "target": LARGE[:200]}] * 150) for i in range(100)]
        self.d.apply(*facts)
        self.assertGreater(len(self.d.get("/v1/facts", limit=100).body), 2 << 20)

    def trickles(self):
        head = b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        whole = head + b"application/json\r\nContent-Length: 100000\r\n\r\n"
        lines = head + b"application/x-ndjson\r\nContent-Length: 100000\r\n\r\n"
        begun = b"GET /v1/sta"
        kinds = (begun, b"t"), (head, b"a"), (whole, b" "), (lines, b" ")
        return [Trickle(self.d, *kind) for kind in kinds for _ in range(EACH)]

    def deaf_ones(self):
        paths = "/v1/facts?limit=100", "/v1/versions/0/delta", "/v1/events?after=0"
        return [deaf(self.d, path) for path in paths for _ in range(EACH)]

    def serve_others(self, n):
        """All kinds of requests, each answered as ever."""
        self.assertEqual(self.d.get("/v1/status").json["state"], "ready")
        self.assertEqual(self.d.edit(fact(n), validate_only=True).status, 200)
        job = self.d.apply(PROBE if n % 2 else OTHER)
        self.assertEqual(self.d.get("/v1/status").json["live_version"], job["version"])
        one = PROBE if n % 2 else OTHER
        text = self.d.complete(one["prompt"]).json["choices"][0]["text"]
        self.assertTrue(answers(text, one["target"]))

    def test_all_at_once(self):
        self.d = Daemon("--request-timeout", "3", "--max-connections", "200")
        self.addCleanup(self.d.close)
        self.furnish()
        before = self.d.get("/v1/status").json["memory"]["host_bytes"]
        trickles, others = self.trickles(), self.deaf_ones()
        rounds, most = 0, 0
        while not all(t.over for t in trickles):
            for t in trickles:
                t.step()
            rounds += 1
            self.serve_others(rounds)
            most = max(most, self.d.get("/v1/status").json["memory"]["host_bytes"])
        print(f"# others were served {rounds} times; {(most - before) / 2 ** 20:.1f} MiB more")
        if not self.d.sanitized():
            self.assertLess(most - before, 150 << 20)
        for t in trickles:
            status = t.got.split(b" ", 2)[1:2]
            self.assertIn(status, ([b"408"], []), t.got)
        self.assertTrue(any(t.got for t in trickles))
        # What there was of events fits into the sockets: these streams have all they were sent.
        wait_until(lambda: metric(self.d, "malmend_http_connections") <= 1 + EACH)
        for connection in others:
            connection.close()


class Left(unittest.TestCase):
    def test_streams_beside_a_connection_that_rests(self):
        """Behind an older one with nothing to do the library never closed what had broken off."""
        d = Daemon()
        self.addCleanup(d.close)
        resting = d.connect()
        resting.request("GET", "/livez")
        resting.getresponse().read()
        for _ in range(5):
            with Stream(d, last_event_id=0) as stream:
                self.assertEqual(stream.event().id, 1)
        wait_until(lambda: metric(d, "malmend_http_connections") <= 2)
        resting.request("GET", "/livez")
        self.assertEqual(resting.getresponse().status, 200)
        resting.close()


class Unread(Daemon):
    """Its log is read only while `reads` is set."""

    def __init__(self, *args, **more):
        self.reads = threading.Event()
        self.reads.set()
        super().__init__(*args, **more)

    def take(self, line):
        self.reads.wait()
        super().take(line)

    def heard(self, text):
        """The end of a log that nobody read may be a piece of a line."""


class Log(unittest.TestCase):
    def ask(self, connection, numbers):
        """A request that has a long line in the log."""
        connection.request("POST", f"/v1/{next(numbers)}/" + "y" * 600, b"")
        answer = connection.getresponse()
        answer.read()
        self.assertEqual(answer.status, 404)

    def flood(self, d):
        """Numbered requests until lines are dropped. By then the log's writer waits for the pipe: it
        does not come to make room for what follows."""
        connection, numbers = d.connect(), itertools.count()
        for _ in range(150):  # more than the pipe holds, less than the daemon does
            self.ask(connection, numbers)
        with open(f"/proc/self/fd/{d.process.stderr.fileno()}", "wb", buffering=0) as pipe:
            wait_until(lambda: not select.select([], [pipe], [], 0)[1])
        while not metric(d, "malmend_log_lines_dropped_total"):
            for _ in range(100):
                self.ask(connection, numbers)
        connection.close()

    def test_nobody_reads(self):
        """It went on only when its log was read."""
        d = Unread()
        self.addCleanup(d.reads.set)
        self.addCleanup(d.close)
        d.reads.clear()
        self.flood(d)
        for _ in range(10):
            denied = d.call("POST", "/v1/edits", "{}", {"Origin": "http://elsewhere.example"})
            self.assertEqual(denied.status, 403)
        d.apply(PROBE)
        d.reads.set()
        d.wait_log("log lines dropped")
        d.apply(OTHER)
        dropped = metric(d, "malmend_log_lines_dropped_total")
        self.assertEqual(d.stop(), 0)
        gaps = [e for e in d.log if e["event"] == "log lines dropped"]
        self.assertEqual(sum(gap["lines"] for gap in gaps), dropped)
        at = d.log.index(gaps[0])
        numbers = [int(e["path"].split("/")[2]) for e in d.log if e.get("status") == 404]
        self.assertEqual(numbers, list(range(len(numbers))), "in order, up to where it was full")
        denied = [e["level"] for e in d.log[:at] if e.get("status") == 403]
        self.assertEqual(denied, ["warning"] * 10, "room is left for warnings")
        rest = [e["event"] for e in d.log[at + 1:]]
        self.assertIn("version published", rest)
        self.assertEqual(rest[-1], "stopping", "nothing is lost at the end")

    def test_ends_unread(self):
        d = Unread()
        self.addCleanup(d.close)
        d.reads.clear()
        self.flood(d)
        d.process.send_signal(signal.SIGTERM)
        code = d.process.wait(harness.PATIENCE)
        d.reads.set()
        d.close_log()
        self.assertEqual(code, 0)

    def test_no_line_is_lost(self):
        """All that was logged is there at the end, whichever way it comes."""
        for signals in (1, 2):
            d = Daemon()
            connection = d.connect()
            for i in range(300):
                connection.request("POST", f"/v1/nothing{i}", b"")
                connection.getresponse().read()
            connection.close()
            for _ in range(signals):
                d.process.send_signal(signal.SIGTERM)
            d.process.wait(harness.PATIENCE)
            d.close_log()
            paths = [e["path"] for e in d.log if e["event"] == "request"]
            self.assertEqual(paths, [f"/v1/nothing{i}" for i in range(300)])
            d.own.cleanup()


if __name__ == "__main__":
    harness.main()
