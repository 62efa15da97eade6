"""HTTP itself: framing, smuggling, sizes, slow clients, sockets."""
import http.client
import json
import os
import re
import socket
import tempfile
import time
import unittest

import harness
from harness import Case, Daemon, only_fake
from world import fact

BODY = json.dumps({"facts": [fact(1)], "validate_only": True}).encode()


def post(*headers, body=BODY, version="1.1", path="/v1/edits"):
    lines = [f"POST {path} HTTP/{version}", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body, size=1000):
    parts = [body[i:i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def statuses(data):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3})", data)]


class Framing(Case):
    def refused(self, data, status=400, shut=False):
        """Refused with a problem, the connection closed: what follows is never read as a request."""
        begin = time.monotonic()
        got = self.d.raw(data + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", shut=shut)
        self.assertEqual(statuses(got), [status], got)
        self.assertLess(time.monotonic() - begin, 5)
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

    def test_bad_lengths(self):
        for length in ("-5", "+5", "5x", "0x5", "", "5 5", "5,5", "9" * 30):
            got = self.d.raw(post(f"Content-Length: {length}"), shut=True)
            self.assertIn(statuses(got)[:1], ([400], [413]), (length, got))

    def test_no_length(self):
        got = self.d.raw(post(body=b""), shut=True)
        self.assertEqual(statuses(got), [411], got)

    def test_zero_byte_in_path(self):
        got = self.d.raw(b"GET /v1/facts?prompt=a%00b HTTP/1.1\r\nHost: x\r\n\r\n", shut=True)
        self.assertEqual(statuses(got), [400])

    def test_garbage(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"\x00" * 50):
            self.d.raw(data, shut=True, timeout=5)
        self.assertEqual(self.d.get("/livez").status, 200)

    def test_two_requests_on_a_connection(self):
        n = f"Content-Length: {len(BODY)}"
        got = self.d.raw(post(n) + post(n, "Connection: close"))
        self.assertEqual(statuses(got), [200, 200])
        wrong = post(n, path="/nope")
        got = self.d.raw(wrong + post(n, "Connection: close"))
        self.assertEqual(statuses(got), [404, 200], "a small refused body is read to its end")

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
        begin = time.monotonic()
        answer = self.d.call("POST", "/v1/edits", body, timeout=60)
        self.assertEqual(answer.status, 200, answer.body[:300])
        self.assertEqual(answer.json["facts"], n)
        print(f"# {len(body)} bytes, {n} facts: {time.monotonic() - begin:.2f} s")

    def test_large_chunked(self):
        body, n = self.body(8 << 20)
        got = self.d.raw(post("Transfer-Encoding: chunked", "Connection: close",
                              body=chunked(body, 60000)), timeout=60)
        self.assertEqual(statuses(got), [200], got[:300])

    def test_others_are_served_meanwhile(self):
        body, _ = self.body(16 << 20)
        connection = self.d.connect(60)
        connection.connect()
        connection.sock.sendall(post(f"Content-Length: {len(body)}", body=body))
        worst = 0
        for _ in range(20):
            begin = time.monotonic()
            self.assertEqual(self.d.get("/livez").status, 200)
            worst = max(worst, time.monotonic() - begin)
        self.assertLess(worst, 1)
        connection.close()

    def test_too_large(self):
        size = (16 << 20) + 1
        got = self.d.raw(post(f"Content-Length: {size}", body=b" " * 100))
        self.assertEqual(statuses(got), [413])
        self.assertIn(b"application/problem+json", got)
        got = self.d.raw(post(f"Content-Length: {10 ** 17}", body=b""))
        self.assertEqual(statuses(got), [413])

    def test_too_large_chunked(self):
        data = chunked(b" " * (17 << 20), 1 << 20)
        got = self.d.raw(post("Transfer-Encoding: chunked", body=data), timeout=60)
        self.assertIn(statuses(got), ([413], []), got[:300])
        self.assertEqual(self.d.get("/livez").status, 200)

    def test_too_many_facts(self):
        facts = [{"prompt": f"p{i}", "target": "t"} for i in range(200001)]
        self.problem(self.d.call("POST", "/v1/edits", {"facts": facts}, timeout=60), 413)

    def test_long_address_and_headers(self):
        end = b"Host: x\r\nConnection: close\r\n\r\n"
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


class Slow(Case):
    ARGS = ("--request-timeout", "1", "--max-connections", "20")

    def test_slow_body(self):
        connection = self.d.connect()
        connection.connect()
        connection.sock.sendall(post("Content-Length: 1000", body=b""))
        begin, got = time.monotonic(), b""
        connection.sock.settimeout(0.1)
        while time.monotonic() - begin < 8:
            try:
                connection.sock.sendall(b" ")  # never idle, never done
                part = connection.sock.recv(4096)
                got += part
                if not part:
                    break
            except socket.timeout:
                continue
            except OSError:
                break
        self.assertLess(time.monotonic() - begin, 5)
        self.assertEqual(statuses(got), [408], got)

    def download(self):
        """A connection on which 32 MiB are waiting."""
        connection = self.d.connect()
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.request("GET", "/v1/versions/0/delta")
        return connection

    @only_fake
    def test_download_may_take_long(self):
        """It goes on for longer than a request may take, as long as it goes on."""
        answer = self.download().getresponse()
        begin, got = time.monotonic(), 0
        while part := answer.read(4 << 20):
            got += len(part)
            time.sleep(0.4)
        self.assertGreater(time.monotonic() - begin, 2)
        self.assertEqual(got, int(answer.headers["Content-Length"]))

    @only_fake
    def test_stalled_download_ends(self):
        answer = self.download().getresponse()
        time.sleep(4)
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            answer.read()

    def test_idle_connections_do_not_keep_others_out(self):
        idle = []
        for _ in range(40):
            connection = self.d.connect()
            connection.connect()
            idle.append(connection)
        begin = time.monotonic()
        self.assertEqual(self.d.get("/livez").status, 200)
        self.assertLess(time.monotonic() - begin, 8)
        for connection in idle:
            connection.close()

    def test_slow_requests_do_not_block_others(self):
        open_ones = []
        for _ in range(10):
            connection = self.d.connect()
            connection.connect()
            connection.sock.sendall(b"POST /v1/edits HTTP/1.1\r\nHost: x\r\n")
            open_ones.append(connection)
        begin = time.monotonic()
        self.assertEqual(self.d.get("/livez").status, 200)
        self.assertLess(time.monotonic() - begin, 0.5)
        for connection in open_ones:
            connection.close()

    def test_client_that_leaves(self):
        for _ in range(20):
            connection = self.d.connect()
            connection.connect()
            connection.sock.sendall(post(f"Content-Length: {len(BODY)}"))
            connection.close()
        self.assertEqual(self.d.get("/livez").status, 200)


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
