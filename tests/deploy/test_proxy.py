"""The proxy examples, run as they are but for names, ports and certificates: TLS in front of the real
daemon, and of an upstream that shows when bytes pass.

nginx and Caddy are looked for in MALMEND_NGINX, MALMEND_CADDY, build/tools and PATH."""
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import unittest
from pathlib import Path

import harness
from harness import PATIENCE, Daemon, main
from lab import MODEL, Lab, demo_facts, malmend
from ops import run

PROXY = Path(os.environ["MAL_SOURCE_ROOT"]) / "deploy/proxy"
TOOLS = Path(os.environ["MAL_BUILD_ROOT"]).parent / "tools"
NAME = "malmend.example.org"
HOST = "127.0.80.1"  # where nobody else listens: a port that is free stays so until the proxy has it


def find(name, path):
    """The program, wherever it was unpacked."""
    places = [os.environ.get("MALMEND_" + name.upper()), TOOLS / path, shutil.which(name)]
    return next((str(p) for p in places if p and os.access(p, os.X_OK)), None)


def free_port():
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


class Upstream:
    """What a proxy is in front of: shows each request as it arrives, and answers in parts."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(16)
        self.port = self.socket.getsockname()[1]
        self.heads, self.n_got, self.end = [], 0, b""  # of the body: how much, and its last bytes
        self.changed, self.go_on = threading.Condition(), threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def take(self, client):
        part = client.recv(1 << 16)
        self.add(part)
        return part

    def add(self, part):
        with self.changed:
            self.n_got += len(part)
            self.end = (self.end + part)[-5:]
            self.changed.notify_all()

    def serve(self, client):
        with client:
            data = b""
            while b"\r\n\r\n" not in data:
                part = client.recv(1 << 16)
                if not part:
                    return
                data += part
            head, body = data.split(b"\r\n\r\n", 1)
            with self.changed:
                self.heads.append(head.decode())
                self.n_got, self.end = 0, b""
            self.add(body)
            if re.search(rb"(?im)^(transfer-encoding|content-length): *(?!0\r?$)", head):
                length = re.search(rb"(?im)^content-length: *(\d+)", head)
                while (self.n_got < int(length.group(1)) if length else self.end != b"0\r\n\r\n"):
                    if not self.take(client):
                        return
                client.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                return
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                           b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n9\r\ndata: 1\n\n\r\n")
            self.go_on.wait(PATIENCE)
            client.sendall(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    def wait(self, true):
        with self.changed:
            if not self.changed.wait_for(true, PATIENCE):
                raise AssertionError(f"{self.heads} {self.n_got}")

    def close(self):
        self.socket.close()


class Front(Lab):
    """A proxy that listens on a port of its own."""

    def certificate(self):
        done = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
             "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", self.dir / "key.pem", "-out",
             self.dir / "cert.pem"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def start(self, upstream):
        """In front of 127.0.0.1:upstream. The port."""
        if not (self.dir / "cert.pem").exists():
            self.certificate()
        self.port = free_port()
        self.process = self.launch(upstream)
        harness.RUNNING.append(self.process)
        self.addCleanup(self.stop)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
                return
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise AssertionError((self.dir / "proxy.log").read_text())
                time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)

    def connect(self):
        context = ssl.create_default_context(cafile=self.dir / "cert.pem")
        sock = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        return context.wrap_socket(sock, server_hostname=NAME)

    def exchange(self, data):
        """Bytes out, and all that comes back."""
        with self.connect() as sock:
            sock.sendall(data)
            got = b""
            try:
                while part := sock.recv(1 << 16):
                    got += part
            except (ConnectionError, ssl.SSLError):
                pass
            return got

    def get(self, path, *headers):
        head = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {NAME}", "Connection: close", *headers])
        got = self.exchange(head.encode() + b"\r\n\r\n")
        return int(got.split(b" ", 2)[1]), got


class Passing:
    """What must hold for both."""

    def upstream(self):
        upstream = Upstream()
        self.addCleanup(upstream.close)
        self.start(upstream.port)
        return upstream

    def test_stream(self):
        """The first event is there while the stream goes on."""
        for path in ("/v1/events", "/v1/completions"):
            upstream = self.upstream()
            with self.connect() as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
                got = b""
                while b"data: 1" not in got:
                    part = sock.recv(4096)
                    self.assertTrue(part, got)
                    got += part
                upstream.go_on.set()
                while b"data: 2" not in got:
                    part = sock.recv(4096)
                    self.assertTrue(part, got)
                    got += part
            self.stop()

    def test_upload(self):
        """The daemon has the first facts while the last ones are not sent yet, and all in the end."""
        upstream = self.upstream()
        part = b"x" * (1 << 20)
        with self.connect() as sock:
            sock.sendall(f"POST /v1/edits HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n"
                         f"Content-Type: application/x-ndjson\r\nContent-Length: {20 * len(part)}\r\n\r\n"
                         .encode() + part)
            upstream.wait(lambda: upstream.n_got > len(part) // 2)
            for _ in range(19):
                sock.sendall(part)
            self.assertIn(b" 202 ", sock.recv(4096))

    def test_what_is_passed_on(self):
        """Host as it came; whom a client says it speaks for does not count."""
        upstream = self.upstream()
        upstream.go_on.set()
        self.get("/v1/a//b%2Fc?x=%20y", "Authorization: Bearer t", "X-Forwarded-For: 6.6.6.6",
                 "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6", "traceparent: 00-1", "If-None-Match: \"e\"")
        head = upstream.heads[0]
        self.assertTrue(head.startswith("GET /v1/a//b%2Fc?x=%20y HTTP/1.1\r\n"), head)
        self.assertRegex(head, rf"(?im)^Host: {NAME}\r?$")
        self.assertRegex(head, r"(?im)^X-Forwarded-For: 127\.0\.0\.1\r?$")
        self.assertNotIn("6.6.6.6", head)
        for line in ("Authorization: Bearer t", "traceparent: 00-1", 'If-None-Match: "e"'):
            self.assertRegex(head, f"(?im)^{re.escape(line)}\r?$")

    def test_smuggling(self):
        """What can be read in two ways is refused, or passed on as one request with one length."""
        upstream = self.upstream()
        upstream.go_on.set()
        inner = f"GET /smuggled HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
        for lines, body in (
                (["Content-Length: 5", "Transfer-Encoding: chunked"], "0\r\n\r\n" + inner),
                (["Transfer-Encoding: chunked", f"Content-Length: {5 + len(inner)}"], "0\r\n\r\n" + inner),
                (["Content-Length: 0", f"Content-Length: {len(inner)}"], inner),
                (["Transfer-Encoding: xchunked"], "0\r\n\r\n" + inner),
                (["Transfer-Encoding : chunked"], "0\r\n\r\n" + inner),
                (["Content-Length: +5"], "12345" + inner)):
            n = len(upstream.heads)
            head = "\r\n".join(["POST /v1/edits HTTP/1.1", f"Host: {NAME}", *lines, "", ""])
            got = self.exchange((head + body).encode())
            for passed in upstream.heads[n:]:
                if passed.startswith("GET /smuggled"):  # as a request of its own: after an answer to the first
                    self.assertGreaterEqual(got.count(b"HTTP/1.1 "), 2, lines)
                self.assertFalse(re.search("(?im)^content-length", passed) and
                                 re.search("(?im)^transfer-encoding", passed), passed)
                self.assertLessEqual(len(re.findall("(?im)^content-length", passed)), 1, passed)
            if len(upstream.heads) == n:
                self.assertRegex(got, rb"^HTTP/1\.1 (400|501) |^$", lines)

    def test_no_daemon(self):
        """Said as the daemon would, so that scripts understand it."""
        with socket.socket() as taken:  # by somebody who does not listen
            taken.bind(("127.0.0.1", 0))
            self.start(taken.getsockname()[1])
            status, got = self.get("/v1/status")
        self.assertEqual(status, 503)
        self.assertRegex(got, rb"(?i)content-type: application/problem\+json")
        self.assertRegex(got, rb"(?i)retry-after: 5")
        body = json.loads(got.split(b"\r\n\r\n", 1)[1])
        self.assertEqual((body["status"], body["title"]), (503, "Service Unavailable"))

    def test_daemon(self):
        """The real daemon through it: refused without a token; taught, polled and downloaded with one."""
        harness.MODEL_ARGS = ["--model", str(MODEL), "--editor", str(self.editor()),
                              "--no-scrub"]
        token, line = malmend("token", "proxied", "edit").stdout.decode().splitlines()
        tokens = self.write("tokens", line + "\n")
        tokens.chmod(0o600)
        d = Daemon("--tokens", tokens)
        self.addCleanup(d.close)
        self.start(int(d.address.rsplit(":", 1)[1]))
        self.assertEqual(self.get("/livez")[0], 200)
        self.assertEqual(self.get("/v1/status")[0], 401)
        bearer = "Authorization: Bearer " + token
        url = f"https://{NAME}:{self.port}"
        file = self.write("facts.json", {"facts": demo_facts(n=3)})
        done = run("post-facts", "--wait", file, url=url, MALMEND_TOKEN=token,
                   CURL_CA_BUNDLE=str(self.dir / "cert.pem"), PATH=f"{self.resolving()}:{os.environ['PATH']}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("edit applied, version 1, 3 facts", done.stdout)
        status, got = self.get("/v1/versions/1/delta", bearer, "Range: bytes=8-15")
        self.assertEqual(status, 206)
        self.assertEqual(len(got.split(b"\r\n\r\n", 1)[1]), 8)

    def resolving(self):
        """A folder with a curl that finds the name on this machine."""
        folder = self.dir / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "curl"
        script.write_text(f'#!/bin/sh\nexec {shutil.which("curl")} "$@" --resolve {NAME}:{self.port}:{HOST}\n')
        script.chmod(0o755)
        return folder


NGINX, CADDY = find("nginx", "nginx/usr/sbin/nginx"), find("caddy", "caddy/usr/bin/caddy")


@unittest.skipUnless(NGINX, "nginx is not here")
class Nginx(Passing, Front):
    def config(self, upstream):
        text = (PROXY / "nginx.conf").read_text()
        site = text.split("\nserver {\n    listen 80;")[0]
        for old, new in (("127.0.0.1:8780", f"127.0.0.1:{upstream}"),
                         ("listen 443 ", f"listen {HOST}:{self.port} "),
                         ("    listen [::]:443 ssl http2;\n", ""),
                         ("/etc/ssl/malmend.pem", str(self.dir / "cert.pem")),
                         ("/etc/ssl/private/malmend.key", str(self.dir / "key.pem"))):
            self.assertIn(old, site)
            site = site.replace(old, new)
        return self.whole("daemon off;\nmaster_process off;\n", site)

    def whole(self, first, site):
        """A configuration with nothing outside of this folder."""
        temporary = "".join(f"{name}_temp_path {self.dir}/{name};\n" for name in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return self.write("nginx.conf", f"{first}pid {self.dir}/pid;\nerror_log {self.dir}/proxy.log;\n"
                          f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{site}\n}}\n")

    def launch(self, upstream):
        return subprocess.Popen([NGINX, "-c", self.config(upstream), "-e", self.dir / "proxy.log"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def test_checks(self):
        """nginx -t on all of it, the plain port too."""
        self.certificate()
        text = (PROXY / "nginx.conf").read_text()
        text = text.replace("/etc/ssl/malmend.pem", str(self.dir / "cert.pem"))
        text = text.replace("/etc/ssl/private/malmend.key", str(self.dir / "key.pem"))
        done = subprocess.run([NGINX, "-t", "-q", "-c", self.whole("", text), "-e", self.dir / "proxy.log"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


@unittest.skipUnless(CADDY, "caddy is not here")
class Caddy(Passing, Front):
    def config(self, upstream):
        text = (PROXY / "Caddyfile").read_text()
        text = text.replace("127.0.0.1:8780", f"127.0.0.1:{upstream}")
        text = text.replace("{\n\tservers {", "{\n\tadmin off\n\tauto_https off\n\tservers {", 1)
        text = text.replace(f"\n{NAME} {{", f"\nhttps://{NAME}:{self.port} {{\n\tbind {HOST}\n\ttls "
                            f"{self.dir}/cert.pem {self.dir}/key.pem")
        return self.write("Caddyfile", text)

    def launch(self, upstream):
        with open(self.dir / "proxy.log", "wb") as log:
            return subprocess.Popen([CADDY, "run", "--config", self.config(upstream), "--adapter",
                                     "caddyfile"], stdout=log, stderr=log,
                                    env={**os.environ, "HOME": str(self.dir)})

    def test_checks(self):
        for command in ("validate", "fmt"):
            more = ["--adapter", "caddyfile", "--config"] if command == "validate" else []
            done = subprocess.run([CADDY, command, *more, PROXY / "Caddyfile"], capture_output=True,
                                  text=True, timeout=60, env={**os.environ, "HOME": str(self.dir)})
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, (PROXY / "Caddyfile").read_text())


if __name__ == "__main__":
    main()
