"""A daemon to measure: started on an empty database, its processor time and its memory."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE = 60  # seconds


class Served:
    """`options` are those of `malmend serve`, beside its database and its address."""

    def __init__(self, binary, options):
        self.directory = tempfile.mkdtemp(prefix="malmend-bench-")
        self.log = os.path.join(self.directory, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [binary, "serve", "--db", self.directory + "/db", "--listen", "127.0.0.1:0",
                 *options], stdout=subprocess.DEVNULL, stderr=log)
        self.url = "http://" + self.wait("listening")["address"]
        self.wait("ready")

    def wait(self, event):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with open(self.log, encoding="utf-8") as log:
                for line in log:
                    if f'"event":"{event}"' in line and line.endswith("\n"):
                        return json.loads(line)
            time.sleep(0.05)
        raise SystemExit(f"no '{event}' in {self.log}")

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    def get(self, path):
        return json.load(urllib.request.urlopen(self.url + path))

    def applied(self, fact):
        """The id of an edit job that has ended."""
        job = self.post("/v1/edits", {"facts": [fact]})["id"]
        until = time.monotonic() + PATIENCE
        while self.get(f"/v1/jobs/{job}?wait=10")["state"] in ("queued", "running"):
            if time.monotonic() > until:
                raise SystemExit(f"job {job} does not end")
        return job

    def idle(self):
        """The counts of its status once no job waits or runs."""
        while True:
            counts = self.get("/v1/status")["counts"]
            if not counts["jobs_by_state"]["queued"] + counts["jobs_by_state"]["running"]:
                return counts
            time.sleep(0.2)

    def hold(self):
        """Of the fake engine: a batch that does not end, so that all that is posted waits."""
        held = {"prompt": f"held: {self.directory}/go", "target": "done"}
        job = self.post("/v1/edits", {"facts": [held]})["id"]
        while self.get(f"/v1/jobs/{job}")["state"] == "queued":
            time.sleep(0.01)

    def cpu(self):
        """Seconds of the processor so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="utf-8") as statm:
            return int(statm.read().split()[1]) * PAGE

    def load(self, call, seconds, connections, job=""):
        """One run of wrk: its figures, and the daemon's processor time per request."""
        before = self.cpu()
        out = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s",
             os.path.join(HERE, "wrk.lua"), self.url, "--", call, job],
            stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
        figures = json.loads(out.strip().splitlines()[-1])
        figures["per_second"] = round(figures["requests"] / figures["seconds"])
        figures["cpu_us"] = round((self.cpu() - before) / max(figures["requests"], 1) * 1e6, 2)
        return figures

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.directory)
