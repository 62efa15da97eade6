"""A server between the browser and a daemon: it passes everything on, unless a test wants another
answer (a status for a method and path, a function of the JSON of a path) or a stream of events that
the test writes itself. With a prefix it has the daemon under a path of its own, and nothing beside."""
import http.client
import http.server
import json
import queue
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def refuse(self, status):
        titles = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}
        body = json.dumps({"type": "about:blank", "title": titles[status], "status": status,
                           "detail": f"the test says {status}"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events):
        self.server.streams += 1  # before it is seen
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while (text := events.get()) is not None:
            self.wfile.write(text.encode())
            self.wfile.flush()

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.startswith(self.server.prefix + "/"):
            self.refuse(404)
            return
        self.path = self.path[len(self.server.prefix):]
        path = self.path.split("?")[0]
        self.server.seen.append((self.command, path, dict(self.headers), body))
        for (method, prefix), status in self.server.refused.items():
            if self.command == method and path.startswith(prefix):
                self.refuse(status)
                return
        if path == "/v1/events":
            if self.server.events:
                self.stream(self.server.events)
            else:
                self.refuse(404)
            return
        daemon = http.client.HTTPConnection(self.server.upstream)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            daemon.request(self.command, self.path, body, headers)
            answer = daemon.getresponse()
            content = answer.read()
            if path in self.server.changed and answer.status == 200:
                content = json.dumps(self.server.changed[path](json.loads(content))).encode()
        finally:
            daemon.close()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "date", "content-length"):
                self.send_header(name, value)
        if answer.status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_HEAD = forward

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass


class Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream, prefix=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.prefix = upstream, prefix
        self.refused, self.changed, self.seen = {}, {}, []
        self.events, self.streams = None, 0
        self.address = f"127.0.0.1:{self.server_port}{prefix}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def serve_events(self):
        self.events = queue.Queue()

    def send_event(self, name, **data):
        self.events.put(f"event: {name}\ndata: {json.dumps(data)}\n\n")

    def end_stream(self):
        self.events.put(None)

    def close(self):
        if self.events:
            self.events.put(None)
        self.shutdown()
        self.server_close()
