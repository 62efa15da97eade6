"""Ids of requests, and methods that are answered alike everywhere."""
import itertools
import re
import socket
import time
import unittest

import harness
from harness import Case, Daemon
from test_http import post, statuses
from world import fact

OURS = re.compile(r"^req_[0-9a-hjkmnp-tv-z]{20}$")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Ids(Case):
    marks = itertools.count()

    def id_of(self, answer):
        return answer.headers["X-Request-Id"]

    def logged(self, id):
        """The line of the request with this id."""
        mark = f"mark-{next(self.marks)}"
        self.d.call("DELETE", "/v1/facts/none", headers={"X-Request-Id": mark})
        while not any(e.get("request_id") == mark for e in self.d.log):
            self.assertTrue(self.d.read_log(harness.PATIENCE), "no line")
        return [e for e in self.d.log if e.get("request_id") == id]

    def test_made(self):
        ids = [self.id_of(self.d.get("/livez")) for _ in range(20)]
        for id in ids:
            self.assertRegex(id, OURS)
        self.assertEqual(ids, sorted(set(ids)), "each its own, ascending")

    def test_taken_over(self):
        for id in ("a", "x" * 128, "A-z_0.9"):
            answer = self.d.call("POST", "/v1/edits", {"facts": []}, {"X-Request-Id": id})
            self.assertEqual((answer.status, self.id_of(answer)), (422, id))
            line, = self.logged(id)
            self.assertEqual((line["method"], line["path"], line["status"], line["who"],
                              line["origin"]), ("POST", "/v1/edits", 422, "local", "127.0.0.1"))
            self.assertNotIn("trace_id", line)
        for id in ("x" * 129, "a b", "", "a\"b", "a\tb", "caf\xe9"):
            answer = self.d.call("GET", "/livez", headers={"X-Request-Id": id})
            self.assertRegex(self.id_of(answer), OURS, id)

    def test_trace(self):
        for i, (parent, expected) in enumerate([(f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
                                                (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
                                                ("nonsense", None)]):
            id = f"traced-{i}"
            self.d.call("POST", "/v1/edits", {"facts": []},
                        {"X-Request-Id": id, "traceparent": parent})
            line, = self.logged(id)
            self.assertEqual(line.get("trace_id"), expected)

    def test_in_refusals(self):
        """Whatever is wrong with a request, its answer has its id."""
        head = b"Host: localhost\r\nX-Request-Id: mine\r\n"
        for status, data in [
                (404, b"GET /none HTTP/1.1\r\n" + head),
                (405, b"BREW /livez HTTP/1.1\r\n" + head),
                (403, b"GET /livez HTTP/1.1\r\nX-Request-Id: mine\r\nHost: evil.example\r\n"),
                (400, b"GET /livez HTTP/1.1\r\n" + head + b"Host: again\r\n"),
                (414, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + head),
                (431, b"GET /livez HTTP/1.1\r\n" + head + b"X: " + b"x" * 40000 + b"\r\n"),
                (411, b"POST /v1/edits HTTP/1.1\r\nContent-Type: application/json\r\n" + head),
                (413, b"POST /v1/edits HTTP/1.1\r\nContent-Type: application/json\r\n"
                      b"Content-Length: 99999999\r\n" + head),
                (415, b"POST /v1/edits HTTP/1.1\r\nContent-Length: 2\r\n" + head)]:
            got = self.d.raw(data + b"Connection: close\r\n\r\n{}", shut=True)
            self.assertEqual((statuses(got), b"\r\nX-Request-Id: mine\r\n" in got),
                             ([status], True), got[:500])


class Slow(Case):
    ARGS = ("--request-timeout", "1")

    def dribble(self, head, drop):
        """What comes back of a request that never pauses for long and never ends."""
        connection = self.d.connect()
        connection.connect()
        connection.sock.settimeout(0.1)
        got, over, until = b"", False, time.monotonic() + harness.PATIENCE
        connection.sock.sendall(head)
        while not over and time.monotonic() < until:
            try:
                connection.sock.sendall(drop)
            except OSError:
                over = True  # there may be an answer, still
            try:
                part = connection.sock.recv(4096)
                got += part
                over = over or not part
            except socket.timeout:
                continue
            except OSError:
                over = True
        self.assertTrue(over, "the connection is still open")
        connection.close()
        return got

    def test_body(self):
        got = self.dribble(post("Content-Length: 100000", "X-Request-Id: slow", body=b""), b" ")
        self.assertEqual((statuses(got), b"\r\nX-Request-Id: slow\r\n" in got), ([408], True), got)
        while not any(e.get("request_id") == "slow" for e in self.d.log):
            self.assertTrue(self.d.read_log(harness.PATIENCE), "no line")
        self.assertEqual([e["status"] for e in self.d.log if e.get("request_id") == "slow"], [408])

    def test_headers(self):
        got = self.dribble(b"POST /v1/edits HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n")
        self.assertEqual((statuses(got), b"\r\nX-Request-Id: req_" in got), ([408], True), got)

    def test_first_line(self):
        self.assertEqual(self.dribble(b"GET /livez", b"z"), b"")


class Methods(Case):
    def test_every_path(self):
        """HEAD as GET without the body, OPTIONS with what there is, anything else refused."""
        for path, item in self.d.get("/openapi.json").json["paths"].items():
            path = re.sub(r"{([a-z]+)}", lambda m: "0" if m[1] in "nab" else "x", path)
            known = {method.upper() for method in item}
            known |= {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
            options = self.d.call("OPTIONS", path)
            self.assertEqual((options.status, options.body), (204, b""), path)
            self.assertEqual(set(options.headers["Allow"].split(", ")), known, path)
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - known:
                refused = self.d.call(method, path, b"")
                self.problem(refused, 405)
                self.assertEqual(refused.headers["Allow"], options.headers["Allow"])
            if "GET" in known:
                head, get = self.d.call("HEAD", path), self.d.call("GET", path)
                self.assertEqual((head.status, head.body), (get.status, b""), path)
                for name in ("Content-Type", "ETag", "Allow"):
                    self.assertEqual(head.headers[name], get.headers[name], path)

    def test_no_path(self):
        for method in ("OPTIONS", "HEAD", "TRACE", "BREW", "PUT"):
            self.assertEqual(self.d.call(method, "/none").status, 404)
        got = self.d.raw(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertEqual(statuses(got), [204], got)
        self.assertIn(b"Allow: POST, GET, HEAD, DELETE, OPTIONS\r\n", got)


class Limits(unittest.TestCase):
    def test_per_address(self):
        """Further connections are closed at once; the next may come when one has gone."""
        d = Daemon("--max-connections-per-address", "3")
        try:
            held = [d.connect() for _ in range(3)]
            for connection in held:
                connection.request("GET", "/livez")
                self.assertEqual(connection.getresponse().read(), b'{"status":"alive"}')
            for _ in range(3):
                self.assertEqual(d.raw(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"), b"")
            held[0].request("GET", "/livez")
            self.assertEqual(held[0].getresponse().status, 200, "the others go on")
            held.pop().close()
            self.until_served(d)
            for connection in held:
                connection.close()
            self.until_served(d)
        finally:
            d.close()

    def until_served(self, d):
        until = time.monotonic() + harness.PATIENCE
        request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        while statuses(d.raw(request)) != [200]:
            self.assertLess(time.monotonic(), until)

    def test_no_limit_here(self):
        """Behind a proxy all come from one address."""
        d = Daemon()
        try:
            held = [d.connect() for _ in range(100)]
            for connection in held:
                connection.request("GET", "/livez")
                self.assertEqual(connection.getresponse().status, 200)
            for connection in held:
                connection.close()
        finally:
            d.close()


if __name__ == "__main__":
    harness.main()
