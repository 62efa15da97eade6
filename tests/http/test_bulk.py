"""Facts as NDJSON, taken while they arrive: any size within the limits, in little memory."""
import contextlib
import json
import os
import re
import socket
from pathlib import Path

from harness import Answer, Case, Daemon, main, only_fake, wait_until
from world import Held, fact

MANY = int(os.environ.get("MALMEND_BULK_FACTS", "100000"))


def line(i, **more):
    return json.dumps(fact(i, **more)).encode() + b"\n"


def lines(n, first=0):
    return b"".join(line(first + i) for i in range(n))


class Lines(Case):
    """A request whose body is sent in parts of our choosing."""

    def open(self, *headers, d=None):
        d = d or self.d
        connection = d.connect()
        connection.connect()
        head = ["POST /v1/edits HTTP/1.1", "Host: localhost", "Content-Type: application/x-ndjson",
                *headers]
        connection.sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        return connection

    def answer(self, connection):
        sock, got = connection.sock, b""
        while b"\r\n\r\n" not in got:
            part = sock.recv(1 << 16)
            self.assertTrue(part, got)
            got += part
        head, body = got.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        while len(body) < length:
            part = sock.recv(1 << 16)
            self.assertTrue(part, got)
            body += part
        headers = dict(h.split(": ", 1) for h in head.decode().split("\r\n")[1:])
        return Answer(int(head.split(b" ", 2)[1]), headers, body)

    def send(self, parts, *headers, d=None):
        """Chunked, a part a chunk."""
        connection = self.open("Transfer-Encoding: chunked", *headers, d=d)
        for part in parts:
            connection.sock.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        connection.sock.sendall(b"0\r\n\r\n")
        answer = self.answer(connection)
        connection.close()
        return answer

    def post(self, body, headers=None, d=None):
        headers = {"Content-Type": "application/x-ndjson", **(headers or {})}
        return (d or self.d).call("POST", "/v1/edits", body, headers)

    def nothing_queued(self, d=None):
        d = d or self.d
        self.assertEqual(d.get("/v1/jobs").json["data"], [])
        self.assertEqual(d.get("/v1/facts").json["data"], [])


class Query(Lines):
    def test_unknown(self):
        """What is asked for by a parameter that there is not, or twice, is not passed over."""
        answer = self.d.call("POST", "/v1/edits", line(0), {"Content-Type": "application/x-ndjson"},
                             query={"validate_only": "true"})
        self.problem(answer, 422, detail="query parameter 'validate_only': there are none here")
        self.problem(self.d.get("/v1/facts", stat="live"), 422, detail="query parameter 'stat': known are state,")
        self.problem(self.d.call("GET", "/v1/facts?state=live&state=retracted"), 422, detail="'state': known are")
        self.problem(self.d.call("GET", "/v1/jobs?limit"), 422, detail="'limit': known are kind, state, limit, after")
        self.problem(self.d.call("GET", "/v1/versions?after=0&limi=1"), 422, detail="'limi': known are limit, after")
        self.problem(self.d.call("GET", "/v1/versions?after,%20limit=1"), 422, detail="'after, limit': known")
        self.problem(self.d.get("/v1/status", verbose=1), 422, detail="'verbose': there are none here")
        for path in ("/livez", "/readyz", "/metrics", "/", "/openapi.json"):
            self.assertEqual(self.d.get(path, probe=1).status, 200, path)
        self.nothing_queued()


class Cuts(Lines):
    def test_anywhere(self):
        """However the body is cut, the same facts arrive in the same order."""
        for n, cut in enumerate((1, 7, 1 << 20)):
            facts = [fact(100 * n + i, prompts=[f"Anders gesagt: é {n}.{i}"]) for i in range(20)]
            body = b"\n \r\n".join(json.dumps(f, ensure_ascii=False).encode() for f in facts)
            job = self.d.wait_job(self.send([body[i:i + cut]
                                             for i in range(0, len(body), cut)]).json["id"])
            self.assertEqual(job["facts"], 20)
            stored = self.d.get("/v1/facts", job=job["id"], limit=100).json["data"]
            self.assertEqual([s["prompt"] for s in stored], [f["prompt"] for f in facts])
            self.assertEqual([s["prompts"] for s in stored], [f["prompts"] for f in facts])

    def test_no_fact(self):
        for body in (b"", b"\n", b" \r\n\t\n"):
            self.problem(self.post(body), 422, "/facts", "no fact")

    def test_json_without_lines(self):
        """One object over several lines is not a fact a line."""
        self.problem(self.post(json.dumps(fact(1), indent=1).encode()), 400, detail="line 1")

    def test_repeats(self):
        body = lines(5, 500)
        headers = {"Idempotency-Key": "lines"}
        first = self.post(body, headers)
        self.assertEqual(first.status, 202, first.body)
        again = self.send([body[:11], body[11:]], "Idempotency-Key: lines")
        self.assertEqual((again.status, again.body), (202, first.body))
        self.problem(self.post(body + line(600), headers), 422)
        self.assertEqual(len(self.d.get("/v1/facts", job=first.json["id"]).json["data"]), 5)

    def test_taken_id(self):
        self.d.apply(fact(700, id="mine"))
        answer = self.post(line(701) + line(702, id="mine"))
        self.problem(answer, 409, "/facts/1/id", "'mine'")
        self.assertEqual(self.d.get("/v1/facts", prompt=fact(701)["prompt"]).json["data"], [])


class Large(Lines):
    ARGS = ("--max-queue", str(MANY), "--max-bulk", str(400 * MANY))

    def parts(self, n):
        """Chunks of 1,000 facts."""
        return (lines(min(1000, n - i), i) for i in range(0, n, 1000))

    def peak(self, pid):
        with open(f"/proc/{pid}/status") as file:
            return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) << 10

    def test_memory(self):
        """All but the last are right: all are read, none is queued, and little is kept."""
        d = Daemon(*self.ARGS)
        before = self.peak(d.process.pid)
        parts = [*self.parts(MANY - 1), b'{"prompt":"x"}\n']
        answer = self.send(parts, d=d)
        self.problem(answer, 422, f"/facts/{MANY - 1}/target", f"line {MANY}")
        used = self.peak(d.process.pid) - before
        size = sum(map(len, parts))
        print(f"# {MANY} facts, {size >> 20} MiB: {used >> 20} MiB more at the peak")
        if not d.sanitized():
            self.assertLess(used, (24 << 20) + 3 * 56 * MANY)
        self.nothing_queued(d)
        d.close()

    def test_accepted(self):
        d = Daemon(*self.ARGS)
        answer = self.send(self.parts(MANY), d=d)
        self.assertEqual(answer.status, 202, answer.body)
        job = answer.json
        self.assertEqual(job["facts"], MANY)
        d.kill()
        d.start()
        self.assertEqual(d.get(f"/v1/jobs/{job['id']}").json["facts"], MANY)
        for i in (0, MANY // 2, MANY - 1):
            found, = d.get("/v1/facts", prompt=fact(i)["prompt"]).json["data"]
            self.assertEqual((found["target"], found["job"]), (f"Mayor{i}", job["id"]))
        d.kill()

    def test_one_too_many(self):
        answer = self.send(self.parts(MANY + 1))
        self.problem(answer, 413, "/facts", f"at most {MANY}")
        self.nothing_queued()

    def test_far_apart(self):
        """What only all facts together show."""
        n = 5000
        other = lines(n) + line(7, target="Somebody")
        self.problem(self.post(other), 422, f"/facts/{n}/target", "contradicts /facts/7:")
        twice = line(1, id="a") + lines(n, 2) + line(n + 2, id="a")
        self.problem(self.post(twice), 422, f"/facts/{n + 1}/id", "/facts/0 has the same id")
        self.nothing_queued()

    def test_bytes(self):
        """Too long a body by its own word, and as it turns out; too long a line."""
        d = Daemon("--max-bulk", "2MiB", "--max-body", "64KiB")
        said = self.open(f"Content-Length: {(2 << 20) + 1}", d=d)
        self.problem(self.answer(said), 413, detail="at most 2097152")
        said.close()
        blank = self.open("Transfer-Encoding: chunked", d=d)
        got = b""
        try:
            for _ in range(40):
                blank.sock.sendall(b"%x\r\n%s\r\n" % (1 << 16, b"\n" * (1 << 16)))
            while part := blank.sock.recv(1 << 16):
                got += part
        except ConnectionError:
            pass  # cut in the middle of what it was sending
        blank.close()
        self.assertIn(got[:12], (b"HTTP/1.1 413", b""))
        long = line(0, subject="s" * (64 << 10))
        self.problem(self.post(line(1) + long, d=d), 413, detail="line 2 is longer than 65536")
        fits = line(0, subject="s" * (60 << 10))
        self.assertEqual(self.post(fits * 20, d=d).status, 202)
        d.close()


class Middle(Lines):
    """What happens while a body is on its way."""

    def half(self, d=None, n=9000):
        connection = self.open(f"Content-Length: {len(lines(n))}", d=d)
        body = lines(n)
        connection.sock.sendall(body[:len(body) // 2])
        return connection, body[len(body) // 2:]

    def test_others_are_served(self):
        connection, rest = self.half()
        self.d.apply(fact(10 ** 6))
        self.assertEqual(self.d.complete("x").status, 200)
        connection.sock.sendall(rest)
        self.assertEqual(self.answer(connection).status, 202)
        connection.close()

    def test_refused_early(self):
        """The answer names the first bad line; the connection serves on."""
        bad = b'{"prompt":"a","target":7}\n'
        body = line(0) + bad + lines(50000, 1)
        connection = self.open(f"Content-Length: {len(body)}")
        connection.sock.sendall(body)
        self.problem(self.answer(connection), 400, "/facts/1/target", "line 2")
        connection.sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(self.answer(connection).status, 200)
        connection.close()

    def files(self, d):
        """How many files without a name the daemon has open; one may close while we look."""
        found = 0
        for fd in Path(f"/proc/{d.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += "(deleted)" in os.readlink(fd)
        return found

    def test_client_leaves(self):
        d = Daemon()
        connection, _ = self.half(d)
        wait_until(lambda: self.files(d) == 1)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        wait_until(lambda: self.files(d) == 0)
        self.nothing_queued(d)
        d.close()

    def test_kill(self):
        d = Daemon()
        connection, _ = self.half(d)
        d.kill()
        connection.close()
        self.assertEqual([name for name in os.listdir(d.directory) if "tmp" in name], [])
        d.start()
        self.nothing_queued(d)
        d.close()

    def test_stop(self):
        d = Daemon()
        connection, _ = self.half(d)
        self.assertEqual(d.stop(), 0)
        connection.close()
        d.start()
        self.nothing_queued(d)
        d.close()

    def test_too_slow(self):
        d = Daemon("--request-timeout", "1")
        connection, _ = self.half(d)
        self.assertEqual(self.answer(connection).status, 408)
        connection.close()
        wait_until(lambda: self.files(d) == 0)
        d.close()

    def test_full_disk(self):
        d = Daemon("--min-free-disk", "900000000000000000")
        self.problem(self.post(lines(3), d=d), 507, detail="too few for a file")
        self.nothing_queued(d)
        d.close()

    @only_fake
    def test_queue_is_full_by_then(self):
        d = Daemon("--max-queue", "6", "--batch-window-ms", "0")
        held = Held(self, d)
        held.begin()
        self.assertEqual(self.post(lines(4), d=d).status, 202)
        full = self.post(lines(4, 10), d=d)
        self.problem(full, 429)
        self.assertTrue(full.headers["Retry-After"])
        held.let_go()
        d.close()


if __name__ == "__main__":
    main()
