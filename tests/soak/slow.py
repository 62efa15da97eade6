"""Clients that are slow, say several things at once, give up in the middle or say nothing more. The others do not
notice, and what was not said to its end is not done."""
import contextlib
import http.client
import json
import os
import select
import socket
import struct
import time
import urllib.parse

import answers
import changes
import figures
from harness import PATIENCE, Answer

MOST_HUNG = 8
MOST_FILES = 50  # that are no connections
IMPATIENT = 4    # seconds that a request may take, in some lives
BESIDE = ("/livez", "/v1/status", "/v1/jobs", "/metrics", "/v1/facts", "/v1/none")
PAUSES = 0, 0, 0.001, 0.01


class Shared:
    """What comes, for several answers one after the other."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def close(self):
        """An answer has come to its end, which is not the connection's."""


class Client:
    def __init__(self, w, small=False):
        connection = w.d.connect()
        connection.connect()
        self.w, self.sock, self.since = w, connection.sock, time.monotonic()
        if small:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.file = Shared(self.sock.makefile("rb"))
        self.closes = False

    def makefile(self, _):
        return self.file

    def readable(self, timeout=0):
        return bool(select.select([self.sock], [], [], timeout)[0])

    def send(self, data, in_any_case=False):
        """In pieces; whether all of it was wanted."""
        r, cuts = self.w.rng, sorted(self.w.rng.randrange(len(data) + 1) for _ in range(self.w.rng.randint(0, 8)))
        for begin, end in zip([0, *cuts], [*cuts, len(data)]):
            if not in_any_case and self.readable():
                return False  # it has its answer already
            self.sock.sendall(data[begin:end])
            time.sleep(r.choice(PAUSES))
        return True

    def answer(self, method, slowly=False):
        response = http.client.HTTPResponse(self, method=method)
        response.begin()
        body, piece = b"", 1000 if slowly else 1 << 20
        while part := response.read(piece):
            body += part
            if slowly and len(body) < 20000:
                time.sleep(self.w.rng.choice(PAUSES))
        if response.length:
            raise http.client.IncompleteRead(body)
        self.closes = response.will_close
        return Answer(response.status, response.headers, body)

    def close(self, abruptly=False):
        with contextlib.suppress(OSError):
            if abruptly:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.file.close()
        self.sock.close()


def written(r, method, path, body=None, headers=None, query=None, chunked=False):
    """A request's head and its body."""
    if query:
        path += "?" + urllib.parse.urlencode(query)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost",
             *(f"{name}: {text}" for name, text in (headers or {}).items())]
    if body is not None:
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
        if "Content-Type" not in (headers or {}):
            lines.append("Content-Type: application/json")
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    elif method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode(), in_chunks(r, body) if body is not None and chunked else body or b""


def in_chunks(r, data):
    made, at = b"", 0
    while at < len(data):
        piece = data[at:at + r.choice([1, 7, 300, 5000] if len(data) - at < 400 else [300, 5000])]
        made += b"%x%s\r\n%s\r\n" % (len(piece), r.choice([b"", b"", b";a=b"]), piece)
        at += len(piece)
    return made + b"0\r\n" + r.choice([b"", b"", b"X-Trailer: a\r\n"]) + b"\r\n"


# ---- Ways to call ----

def call(w, method, path, body=None, headers=None, query=None):
    """As harness.Daemon.call(), in any way."""
    request = method, path, body, headers, query
    if w.rng.random() >= w.slowness:
        return w.d.call(*request)
    return w.rng.choice([by_dribs, by_dribs, kept, after_others])(w, request)


@contextlib.contextmanager
def client(w, small=False):
    one = Client(w, small)
    try:
        yield one
    finally:
        one.close()


def by_dribs(w, request):
    r = w.rng
    with client(w, small=r.random() < 0.5) as c:
        method, path, body, headers, query = request
        waits = body is not None and r.random() < 0.2
        if waits:
            headers = {**(headers or {}), "Expect": "100-continue"}
        head, body = written(r, method, path, body, headers, query, chunked=r.random() < 0.4)
        if waits:
            c.send(head)
            c.readable(PAUSES[-1])
            if not c.readable() or c.sock.recv(12, socket.MSG_PEEK)[-3:] == b"100":
                c.sock.sendall(body)
        else:
            c.send(head + body)
        return c.answer(method, slowly=True)


def kept(w, request):
    """On a connection that was there already, or will be."""
    with contextlib.suppress(IndexError):
        c = w.kept.pop()
        if c.w.d is w.d and c.daemon is w.d.process and time.monotonic() - c.since < 1 and not c.readable():
            return keep(w, c, request)
        c.close()
    c = Client(w)
    c.daemon = w.d.process
    return keep(w, c, request)


def keep(w, c, request):
    try:
        c.sock.sendall(b"".join(written(w.rng, *request)))
        answer = c.answer(request[0])
    except BaseException:
        c.close()
        raise
    c.since = time.monotonic()
    if c.closes or len(w.kept) > 3:
        c.close()
    else:
        w.kept.append(c)
    return answer


def after_others(w, request):
    """In one go with others, which are answered before."""
    r = w.rng
    with client(w) as c:
        others = [(r.choice(["GET", "GET", "HEAD"]), path) for path in r.choices(BESIDE, k=r.randint(1, 5))]
        sent = b""
        for i, (method, path) in enumerate(others):
            sent += written(r, method, path, headers={**w.show(method, path)[1], "X-Request-Id": f"beside-{i}"})[0]
        c.send(sent + b"".join(written(r, *request)), in_any_case=True)
        for i, (method, path) in enumerate(others):
            answer = c.answer(method, slowly=True)
            if answer.status < 500:
                assert answer.headers["X-Request-Id"] == f"beside-{i}", (others, i, answer.headers)
                assert method == "HEAD" or not answers.check(method, path, answer)
        return c.answer(request[0])


# ---- Operations ----

def give_up(w):
    """An edit or a rollback that is not waited for; what was not sent to its end is not there."""
    r = w.rng
    key = changes.key(w, 0.5)
    if r.random() < 0.2:
        to = r.randrange(len(w.model.versions))
        ask = {"kind": "rollback", "path": "/v1/rollbacks", "body": json.dumps({"to_version": to}), "to_version": to,
               "type": "application/json"}
    else:
        taught = changes.facts(w, r.choice([1, 2, 8, 24]))
        taught[0]["id"] = f"own-{r.randrange(1 << 40)}"
        ask = {"kind": "edit", "path": "/v1/edits", "facts": taught, "gate": {}, **r.choice([
            {"body": changes.lines(w, taught), "type": "application/x-ndjson"},
            {"body": json.dumps({"facts": taught}), "type": "application/json"}])}
    ask.update(method="POST", query=None, key=key)
    head, body = written(r, "POST", ask["path"], ask["body"], w.headers(ask), chunked=r.random() < 0.4)
    whole = head + body
    sent = r.choice([r.randrange(len(head)), len(head) + r.randrange(len(body)), len(whole) - 1,
                     *[len(whole)] * 2])
    w.note("gives up", ask["path"], ask["type"], key, sent, "of", len(whole))
    if sent == len(whole):
        w.model.open.append(ask)
    try:
        with client(w) as c:
            if c.send(whole[:sent]) and sent == len(whole) and r.random() < 0.5:
                c.readable(r.choice([0, 0.05]))
                if r.random() < 0.5:
                    c.sock.recv(r.randint(1, 200))
            c.close(abruptly=r.random() < 0.5)
    except OSError as error:
        w.gone(error, "gives up")
    if sent == len(whole) and key and r.random() < 0.5:
        answer = w.send(ask)  # which is the same
        w.model.close(ask)
        w.book(ask, answer)


def hang(w):
    """It says no more, and takes nothing."""
    r = w.rng
    begun = written(r, "POST", "/v1/edits", changes.lines(w, r.sample(w.options.pool, 9)), {
        **w.show("POST", "/v1/edits")[1], "Content-Type": "application/x-ndjson"}, chunked=r.random() < 0.3)
    path = r.choice(["/v1/facts?limit=100", "/v1/versions/0/delta", "/v1/events"])
    asked = written(r, "GET", path, headers=w.show("GET", path.partition("?")[0])[1])[0]
    said = r.choice([b"", begun[0][:r.randrange(len(begun[0]))],
                     begun[0] + begun[1][:r.randrange(len(begun[1]))], asked])
    try:
        c = Client(w, small=True)
        c.waits = said is asked and path == "/v1/events"  # as long as it likes
        w.hung.append(c)
        c.sock.sendall(said)
    except OSError as error:
        w.gone(error, "hangs")
    if len(w.hung) > MOST_HUNG:
        w.hung.pop(0).close(abruptly=r.random() < 0.5)


def is_over(w, c):
    """It has had its time."""
    return w.options.impatient and not c.waits and time.monotonic() - c.since > IMPATIENT


def let_go(w):
    """Of those who gave up nothing is being done any more, and there are the files of no other connections than clients
    have."""
    until = time.monotonic() + PATIENCE
    while True:
        n = figures.scrape(w)["malmend_http_connections"].value()
        own = 2 + len(w.kept) + sum(not is_over(w, c) for c in w.hung)  # this one, and who follows all events
        if n <= own:
            break
        assert time.monotonic() < until, f"{n} connections, of which {own} are known"
        time.sleep(0.05)
    n = len(os.listdir(f"/proc/{w.d.process.pid}/fd"))
    assert n < MOST_FILES + own, f"{n} open files and {own} connections"


def forget(w):
    """The daemon of those has ended."""
    for c in w.hung + w.kept:
        c.close()
    w.hung.clear()
    w.kept.clear()


OPERATIONS = {give_up: 6, hang: 3}
