"""What is no HTTP: one answer, a problem, and the connection is closed."""
import re
import tempfile
import unittest

import harness
from harness import AT_ONCE, Case, Daemon
from test_http import chunked, statuses

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"
LONG = 300000

LENGTHS = [(400, GET + b"Content-Length: " + length + END)
           for length in (b"abc", b"2, 2", b"-2", b"+2", b"0x2", b"", b"9" * 23)]
HEADS = [(505, b"GET /livez HTTP/9.9\r\nHost: localhost" + END),
         (400, b"GET /livez" + END),
         (400, GET + b"no colon" + END),
         (400, GET + b"X: y\r\nno colon" + END),
         (414, b"GET /" + b"x" * LONG + b" HTTP/1.1\r\nHost: localhost" + END),
         (431, GET + b"X: " + b"y" * LONG + END),
         (431, GET + b"a:b\r\n" * 4000 + END)]
BODIES = [(400, CHUNKS + b"zz\r\n{}\r\n0" + END),
          (400, CHUNKS + b"2\r\n{}xx0" + END),
          (413, CHUNKS + b"f" * 20 + b"\r\n"),
          (400, CHUNKS + b"2\r\n{}\r\n0\r\nno colon" + END)]


class Refused(Case):
    def refused(self, status, data):
        got = self.d.raw(data + GET + END, AT_ONCE)
        self.assertEqual(statuses(got), [status], (data[:100], got))
        head, body = got.split(END)
        self.assertIn(b"\r\nContent-Type: application/problem+json\r\n", head)
        self.assertIn(b"\r\nConnection: close", head)
        self.assertEqual(int(re.search(rb"\r\nContent-Length: (\d+)", head)[1]), len(body))
        self.assertIn(b'"status":%d' % status, body)

    def test_lengths(self):
        for status, data in LENGTHS:
            self.refused(status, data)

    def test_heads(self):
        for status, data in HEADS:
            if len(data) < LONG:  # what is not read to its end may be reset
                self.refused(status, data)
            else:
                self.assertIn(statuses(self.d.raw(data, AT_ONCE)), ([status], []))

    def test_bodies(self):
        for status, data in BODIES:
            self.refused(status, data)

    def test_beside_others(self):
        """Connections that rest between two requests, or have sent nothing yet."""
        for _ in range(3):
            for used in ((("GET", "/livez"), ("POST", "/v1/edits", "no JSON", {"Content-Type": "application/json"})),
                         (("POST", "/nothing", "x" * 20000), ("GET", "/livez?x=" + "y" * 3000)), ()):
                connection = self.d.connect()
                self.addCleanup(connection.close)
                connection.connect()
                for request in used:
                    connection.request(*request)
                    answer = connection.getresponse()
                    self.assertTrue(answer.read())
                    self.assertNotEqual(answer.headers["Connection"], "close")
        for status, data in LENGTHS + HEADS[:4] + BODIES:
            self.refused(status, data)

    def test_behind_another(self):
        """On the same connection, at once and later."""
        for status, data in LENGTHS + HEADS[:4] + BODIES:
            self.assertEqual(statuses(self.d.raw(GET + END + data, AT_ONCE)), [200, status], data)
            connection = self.d.connect()
            connection.request("GET", "/livez")
            self.assertEqual(connection.getresponse().read(), b'{"status":"alive"}')
            connection.sock.sendall(data)
            got = b""
            while part := connection.sock.recv(1 << 16):
                got += part
            connection.close()
            self.assertEqual((statuses(got), b"problem+json" in got), ([status], True), got)

    def test_others_go_on(self):
        """Where it could be one of several, none is taken for it."""
        half = GET[:30]
        first, second = self.d.connect(), self.d.connect()
        for connection in (first, second):
            connection.connect()
            connection.sock.sendall(half)
        self.assertEqual(self.d.get("/livez").status, 200, "what came before is read")
        self.assertEqual(statuses(self.d.raw(GET + b"no colon" + END, AT_ONCE)), [400])
        for connection in (first, second):
            connection.sock.sendall(GET[30:] + b"Connection: close" + END)
            self.assertEqual(statuses(connection.sock.recv(1 << 16)), [200])
            connection.close()

    def test_smuggled(self):
        """A line that ends the head for one and not for the other; a value that one cuts."""
        inner = b"GET /livez HTTP/1.1\r\nHost: inner"
        for line in (b": x", b":", b"\0", b"\0X: y", b"X: y\0z", b"X: y\r\n z", b"X: y\r\n\tz"):
            for end in (END, b"\r\nX: y" + END, b"\r\n" + inner + END):
                self.refused(400, GET + line + end)

    def test_line_feeds(self):
        """They end a line of a head. Of a chunk, too; but what follows the body is not read."""
        self.assertEqual(statuses(self.d.raw(GET.replace(b"\r", b"") + b"Connection: close\n\n")), [200])
        for body in (b"2\n{}\n0\n\n", chunked(b"{}"), b"2\r\n{}\r\n0\r\n: x" + END):
            got = self.d.raw(CHUNKS + body + GET + END, AT_ONCE)
            self.assertEqual(statuses(got), [422], got)

    def test_many_headers(self):
        """9 KB of them, each a few bytes."""
        headers = b"".join(b"a%d: b\r\n" % i for i in range(1000))
        got = self.d.raw(GET + headers + b"Connection: close" + END)
        self.assertEqual(statuses(got), [200])


class UnixSocket(unittest.TestCase):
    def test_lengths(self):
        with tempfile.TemporaryDirectory() as directory:
            d = Daemon(listen=f"unix:{directory}/s")
            self.addCleanup(d.close)
            for status, data in LENGTHS + HEADS[:4] + BODIES:
                self.assertEqual(statuses(d.raw(data, AT_ONCE)), [status])


if __name__ == "__main__":
    harness.main()
