"""HTTP itself: framing, smuggling, sizes, slow clients, sockets."""
import http.client
import json
import os
import re
import select
import socket
import tempfile
import time
import unittest

import harness
from harness import AT_ONCE, Case, Daemon, only_fake, wait_until
from world import fact

BODY = json.dumps({"facts": [fact(1)], "validate_only": True}).encode()


def post(*headers, body=BODY, version="1.1", path="/v1/edits"):
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body, size=1000):
    parts = [body[i:i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def statuses(data):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3})", data)]


class Framing(Case):
    def refused(self, data, status=400, shut=False):
        """Refused with a problem, the connection closed: what follows is never read as a request."""
        got = self.d.raw(data + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", AT_ONCE, shut)
        self.assertEqual(statuses(got), [status], got)
        return got

    def test_smuggling(self):
        n = f"Content-Length: {len(BODY)}"
        problem = self.refused(post(n, "Transfer-Encoding: chunked", body=chunked(BODY)))
        self.assertIn(b"application/problem+json", problem)
        self.refused(post("Transfer-Encoding: chunked", n, body=chunked(BODY)))
        self.refused(post(n, "Content-Length: 3"))
        self.refused(post(n, n))
        self.refused(post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked",
                          body=chunked(BODY)))
        self.refused(post("Transfer-Encoding: gzip, chunked", body=chunked(BODY)))
        self.refused(post("Transfer-Encoding: identity", n))
        self.refused(post(n, "Host: y"))

    def test_doubled_headers(self):
        """Of which a proxy may take the one and the daemon the other."""
        n = f"Content-Length: {len(BODY)}"
        for name in "Authorization", "content-type", "Idempotency-Key":
            got = self.refused(post(n, f"{name}: x", f"{name}: y"))
            self.assertIn(f"more than one {name}".lower().encode(), got.lower())
        other = post(n, "Accept: */*", "Accept: */*", "X-A: y", "X-A: z", "Connection: close")
        self.assertEqual(statuses(self.d.raw(other, AT_ONCE)), [200])

    def test_bad_lengths(self):
        for length in ("-5", "+5", "5x", "0x5", "", "5 5", "5,5", "9" * 30):
            self.refused(post(f"Content-Length: {length}"))

    def test_no_length(self):
        self.refused(post(body=b""), 411)
        got = self.d.raw(b"POST /v1/jobs/none/cancel HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertEqual(statuses(got), [404], "it takes no body")

    def test_odd_headers(self):
        """What is no header to the daemon may be one to a proxy before it."""
        n = len(BODY)
        for header in (f"Content-Length : {n}", f"Content-Length\t: {n}", "Transfer-Encoding : chunked",
                       f"X: y\rContent-Length: {n}", "X\x01: y", "X(y): z"):
            self.refused(post(header))
            self.refused(post(f"Content-Length: {n}", header))

    def test_host(self):
        got = self.refused(b"GET /livez HTTP/1.1\r\n\r\n")
        self.assertIn(b'"the request has no Host"', got)
        self.assertEqual(statuses(self.d.raw(b"GET /livez HTTP/1.0\r\n\r\n")), [200])

    def test_spaces_in_address(self):
        for address in (b"/livez x", b"/liv\tez", b"/livez?a b"):
            self.refused(b"GET " + address + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def test_whole_address(self):
        end = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        for address in (b"http://localhost/livez", b"HTTP://LocalHost/livez?x=1", b"https://localhost"):
            self.assertEqual(statuses(self.d.raw(b"GET " + address + end)), [200], address)
        for address in (b"http://elsewhere/livez", b"http://localhost:1/livez", b"http:///livez", b"http://"):
            self.refused(b"GET " + address + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def test_zero_byte_in_path(self):
        got = self.d.raw(b"GET /v1/facts?prompt=a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n", shut=True)
        self.assertEqual(statuses(got), [400])

    def test_garbage(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"\x00" * 50):
            self.d.raw(data, AT_ONCE, shut=True)
        self.assertEqual(self.d.get("/livez").status, 200)

    def test_two_requests_on_a_connection(self):
        n = f"Content-Length: {len(BODY)}"
        got = self.d.raw(post(n) + post(n, "Connection: close"))
        self.assertEqual(statuses(got), [200, 200])
        wrong = post(n, path="/nope")
        got = self.d.raw(wrong + post(n, "Connection: close"))
        self.assertEqual(statuses(got), [404, 200], "a small refused body is read to its end")

    def test_not_modified(self):
        """With the length of what it stands for, and nothing of it."""
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        got = self.d.raw(head + b"If-None-Match: *\r\n\r\n" + head + b"Connection: close\r\n\r\n")
        known, page = got.split(b"HTTP/1.1 ")[1:]
        self.assertTrue(known.startswith(b"304 ") and known.endswith(b"\r\n\r\n"), known)
        length, = {re.search(rb"\r\nContent-Length: (\d+)\r\n", part)[1] for part in (known, page)}
        self.assertEqual(len(page.split(b"\r\n\r\n", 1)[1]), int(length))

    def test_chunked(self):
        got = self.d.raw(post("Transfer-Encoding: chunked", "Connection: close",
                              body=chunked(BODY, 7)))
        self.assertEqual(statuses(got), [200], got)

    def test_expect(self):
        connection = self.d.connect()
        connection.connect()
        head = post(f"Content-Length: {len(BODY)}", "Expect: 100-continue", "Connection: close",
                    body=b"")
        connection.sock.sendall(head)
        self.assertEqual(statuses(connection.sock.recv(4096)), [100])
        connection.sock.sendall(BODY)
        self.assertEqual(statuses(connection.sock.recv(4096)), [200])
        connection.close()
        huge = post("Content-Length: 999999999", "Expect: 100-continue", body=b"")
        self.assertEqual(statuses(self.d.raw(huge)), [413], "before the body is sent")


class Sizes(Case):
    ARGS = ("--max-queue", "200000")

    def body(self, size):
        """About `size` bytes of facts that are all right."""
        one = json.dumps(fact(10 ** 6, join=" "))
        facts = [fact(10 ** 6 + i) for i in range(size // len(one))]
        body = json.dumps({"facts": facts, "validate_only": True})
        return (body + " " * (size - len(body))).encode()[:max(size, len(body))], len(facts)

    def test_large(self):
        body, n = self.body(16 << 20)
        self.assertEqual(len(body), 16 << 20)
        answer = self.d.call("POST", "/v1/edits", body)
        self.assertEqual(answer.status, 200, answer.body[:300])
        self.assertEqual(answer.json["facts"], n)

    def test_large_chunked(self):
        body, n = self.body(8 << 20)
        got = self.d.raw(post("Transfer-Encoding: chunked", "Connection: close",
                              body=chunked(body, 60000)))
        self.assertEqual(statuses(got), [200], got[:300])

    def unread(self, connection):
        """Bytes that have arrived for the daemon and that it has not read."""
        ours, theirs = (f":{port:04X}" for port in (connection.sock.getsockname()[1],
                                                    connection.sock.getpeername()[1]))
        with open("/proc/net/tcp", encoding="ascii") as file:
            rows = [line.split() for line in file]
        return sum(int(row[4].split(":")[1], 16) for row in rows
                   if row[1].endswith(theirs) and row[2].endswith(ours))

    def served_before(self, body):
        """How many requests, one after the other, were answered while a body was worked on."""
        connection = self.d.connect()
        connection.connect()
        connection.sock.sendall(post(f"Content-Length: {len(body)}", body=body[:-1]))
        wait_until(lambda: self.unread(connection) == 0)
        connection.sock.sendall(body[-1:])
        served = 0
        while True:
            self.assertEqual(self.d.get("/livez").status, 200)
            if select.select([connection.sock], [], [], 0)[0]:
                connection.close()
                return served
            served += 1

    def test_others_are_served_meanwhile(self):
        body, _ = self.body(16 << 20)
        self.assertTrue(any(self.served_before(body) >= 3 for _ in range(10)))

    def test_too_large(self):
        size = (16 << 20) + 1
        got = self.d.raw(post(f"Content-Length: {size}", body=b" " * 100))
        self.assertEqual(statuses(got), [413])
        self.assertIn(b"application/problem+json", got)
        got = self.d.raw(post(f"Content-Length: {10 ** 17}", body=b""))
        self.assertEqual(statuses(got), [413])

    def test_too_large_chunked(self):
        data = chunked(b" " * (17 << 20), 1 << 20)
        got = self.d.raw(post("Transfer-Encoding: chunked", body=data))
        self.assertIn(statuses(got), ([413], []), got[:300])
        self.assertEqual(self.d.get("/livez").status, 200)

    def test_too_many_facts(self):
        facts = [{"prompt": f"p{i}", "target": "t"} for i in range(200001)]
        self.problem(self.d.call("POST", "/v1/edits", {"facts": facts}), 413)

    def test_long_address_and_headers(self):
        end = b"Host: localhost\r\nConnection: close\r\n\r\n"
        got = self.d.raw(b"GET /v1/jobs?after=" + b"x" * 9000 + b" HTTP/1.1\r\n" + end)
        self.assertEqual(statuses(got), [414])
        self.assertIn(b"application/problem+json", got)
        got = self.d.raw(b"GET /livez HTTP/1.1\r\nX: " + b"y" * 40000 + b"\r\n" + end)
        self.assertEqual(statuses(got), [431])
        for n in (200000, 2000000):
            got = self.d.raw(b"GET /" + b"x" * n + b" HTTP/1.1\r\n" + end)
            self.assertIn(statuses(got), ([414], [431], []))
        self.assertEqual(self.d.get("/livez").status, 200)


@only_fake
class LowDisk(Case):
    ARGS = ("--min-free-disk", "1000000GiB")

    def test_download(self):
        answer = self.d.get("/v1/versions/0/delta")
        self.problem(answer, 507, detail="too few for a file of 33554432")

    def test_rollback(self):
        """It takes no room to speak of, and may be what is needed most."""
        self.problem(self.d.edit(fact(1)), 507, detail="too few for another version")
        job = self.d.call("POST", "/v1/rollbacks", {"to_version": 0})
        self.assertEqual(self.d.wait_job(job.json["id"])["state"], "applied")


class Slow(Case):
    """Clients for which the daemon does not wait for longer than a second."""

    ARGS = ("--request-timeout", "1", "--max-connections", "20")

    def is_served(self):
        try:
            return self.d.get("/livez").status == 200
        except ConnectionError:  # this one was slow, too
            return False

    def test_slow_body(self):
        connection = self.d.connect()
        connection.connect()
        connection.sock.sendall(post("Content-Length: 1000", body=b""))
        connection.sock.settimeout(0.1)
        until, got, ended = time.monotonic() + AT_ONCE, b"", False
        while not ended and time.monotonic() < until:
            try:
                connection.sock.sendall(b" ")  # never idle, never done
            except OSError:
                ended = True  # there may be an answer, still
            try:
                part = connection.sock.recv(4096)
                got += part
                ended = ended or not part
            except socket.timeout:
                continue
            except OSError:
                ended = True
        self.assertTrue(ended)
        self.assertEqual(statuses(got), [408], got)

    def test_idle_connections_do_not_keep_others_out(self):
        idle = []
        for _ in range(40):
            connection = self.d.connect()
            connection.connect()
            idle.append(connection)
        wait_until(self.is_served)
        for connection in idle:
            connection.close()

    def test_client_that_leaves(self):
        for _ in range(20):
            connection = self.d.connect()
            connection.connect()
            connection.sock.sendall(post(f"Content-Length: {len(BODY)}"))
            connection.close()
        wait_until(self.is_served)


class SlowOthers(Case):
    def test_slow_requests_do_not_block_others(self):
        slow = []
        for _ in range(10):
            connection = self.d.connect()
            connection.connect()
            connection.sock.sendall(b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\n")
            slow.append(connection)
        self.assertEqual(self.d.get("/livez", timeout=AT_ONCE).status, 200)
        ended = select.select([connection.sock for connection in slow], [], [], 0)[0]
        self.assertEqual(ended, [], "all of them are waited for still")
        for connection in slow:
            connection.close()


@only_fake
class SlowDownloads(unittest.TestCase):
    """32 MiB for a client that takes its time."""

    def download(self, timeout):
        """A daemon and the first part of an answer; other parts wait."""
        self.d = Daemon("--request-timeout", timeout)
        self.addCleanup(self.d.close)
        connection = self.d.connect()
        self.addCleanup(connection.close)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.request("GET", "/v1/versions/0/delta")
        return connection.getresponse()

    def test_may_take_long(self):
        """It goes on for longer than a request may take, as long as it goes on."""
        answer = self.download("3")
        begin, got = time.monotonic(), 0
        while part := answer.read(2 << 20):
            got += len(part)
            time.sleep(0.3)
        self.assertEqual(got, int(answer.headers["Content-Length"]))
        self.assertGreater(time.monotonic() - begin, 4)

    def files(self):
        return len(os.listdir(f"/proc/{self.d.process.pid}/fd"))

    def test_stalled_ends(self):
        answer = self.download("1")
        during = self.files()
        wait_until(lambda: self.files() < during)
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            answer.read()


class UnixSocket(unittest.TestCase):
    def test_stale_is_replaced_live_is_not(self):
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/s"
            first = Daemon(directory=directory, listen="unix:" + path)
            self.assertEqual(first.get("/readyz").status, 200)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
            with self.assertRaises(AssertionError):
                os.mkdir(directory + "/other")
                Daemon(directory=directory + "/other", listen="unix:" + path)
            self.assertEqual(first.get("/readyz").status, 200)
            first.kill()
            self.assertTrue(os.path.exists(path))
            second = Daemon(directory=directory, listen="unix:" + path)
            self.assertEqual(second.get("/readyz").status, 200)
            self.assertEqual(second.stop(), 0)
            self.assertFalse(os.path.exists(path), "removed at the end")

    def test_file_in_the_way(self):
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/file"
            with open(path, "w") as file:
                file.write("precious")
            with self.assertRaises(AssertionError):
                Daemon(directory=directory, listen="unix:" + path)
            with open(path) as file:
                self.assertEqual(file.read(), "precious")


if __name__ == "__main__":
    harness.main()
