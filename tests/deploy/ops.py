"""Runs the ops scripts, against a daemon or against a server that says what a daemon seldom does."""
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import unittest
from pathlib import Path

import harness
from harness import PATIENCE, Daemon
from lab import MODEL, Lab, demo_facts

SCRIPTS = Path(os.environ["MAL_SOURCE_ROOT"]) / "deploy/ops"
FACTS = demo_facts()


def environment(url, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALMEND_") or k == "MALMEND_BIN"}
    return {**clean, "MALMEND_URL": url, "MALMEND_TIMEOUT": str(int(PATIENCE * 3)), **more}


def begin(script, *args, url, **more):
    """Its process."""
    process = subprocess.Popen([SCRIPTS / f"{script}.sh", *map(str, args)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment(url, **more))
    harness.RUNNING.append(process)
    return process


def run(script, *args, url="http://127.0.0.1:1", stdin="", **more):
    return subprocess.run([SCRIPTS / f"{script}.sh", *map(str, args)], input=stdin, text=True,
                          capture_output=True, timeout=4 * PATIENCE, env=environment(url, **more))


class Ops(Lab):
    """One daemon for the class."""

    ARGS = ()
    LISTEN = "127.0.0.1:0"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        harness.MODEL_ARGS = ["--model", str(MODEL), "--editor", str(cls.choose_editor()),
                              "--no-scrub"]  # versions are counted
        listen = cls.LISTEN.replace("DIR", str(cls.dir))
        cls.d = Daemon(*cls.ARGS, listen=listen)
        cls.url = cls.d.address if cls.d.address.startswith("unix:") else "http://" + cls.d.address

    @classmethod
    def choose_editor(cls):
        """A daemon with the demo's own editor takes seconds to start."""
        return cls.editor(cls())

    @classmethod
    def tearDownClass(cls):
        cls.d.close()
        super().tearDownClass()

    def run_script(self, script, *args, code=0, **more):
        more.setdefault("url", self.url)
        done = run(script, *args, **more)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def said(self, script, *args, code=0, **more):
        """Its one JSON object."""
        return json.loads(self.run_script(script, *args, "--json", code=code, **more).stdout)

    def facts(self, name, facts=None, **more):
        return self.write(name, {"facts": FACTS if facts is None else facts, **more})


class Stub:
    """An HTTP server that answers by a function: answer(method, path, headers, body) -> (status,
    headers, body)."""

    def __init__(self, answer):
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.asked.append((self.command, self.path, dict(self.headers), body))
                status, headers, text = answer(self.command, self.path, self.headers, body)
                text = text if isinstance(text, bytes) else json.dumps(text).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "text/event-stream" in headers.values():
                    self.send_header("Connection", "close")
                else:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = handle_any

            def log_message(self, *args):
                pass

        self.asked = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that has gone
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Cutter:
    """A relay to a daemon that ends each connection after so many bytes of what the daemon says."""

    def __init__(self, address, bytes_each):
        host, port = address.rsplit(":", 1)
        self.to, self.bytes_each = (host, int(port)), bytes_each
        self.asked = []  # the heads of the requests
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(16)
        self.url = "http://127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.relay, args=(client,), daemon=True).start()

    def relay(self, client):
        head = b""
        with client, socket.create_connection(self.to) as server:
            while b"\r\n\r\n" not in head:
                part = client.recv(1 << 16)
                if not part:
                    return
                head += part
            self.asked.append(head.decode())
            server.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            left = self.bytes_each
            while left > 0:
                part = server.recv(min(left, 1 << 16))
                if not part:
                    return
                client.sendall(part)
                left -= len(part)

    def close(self):
        self.socket.close()


def tool(name):
    """Of a test that needs it."""
    return unittest.skipUnless(shutil.which(name), f"{name} is not here")
