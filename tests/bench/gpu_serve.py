"""The daemon on a device: facts posted, killed, started again, retracted, rolled back; its history
is then replayed on the CPU, where every version must have the same bits."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request

FACTS = "tests/demo/facts/demo-edit.json"
MODEL, EDITOR = "tests/demo/model", "tests/demo/editor.safetensors"


class Daemon:
    def __init__(self, programs, root, state, device, deadline, *more, model=MODEL, editor=EDITOR):
        self.deadline = deadline
        self.log = open(os.path.join(state, "log"), "ab+")
        self.begin = self.log.tell()
        self.process = subprocess.Popen(
            [programs.path("malmend"), "serve", "--model", model, "--editor", editor, "--device", device,
             "--db", os.path.join(state, "db"), "--listen", "127.0.0.1:0", "--no-scrub", *more],
            cwd=root, env=programs.environment(), stderr=self.log, stdin=subprocess.DEVNULL)
        self.url = None
        while not self.url or not self.ready():
            if self.process.poll() is not None or deadline.left() < 1:
                words = self.said()[-600:]
                self.kill()
                raise RuntimeError("not ready: " + words)
            found = re.search(r'"address":"([^"]*:\d+)"', self.said())
            self.url = self.url or found and "http://" + found.group(1)
            time.sleep(0.02)

    def said(self):
        """What this process logged."""
        self.log.seek(self.begin)
        return self.log.read().decode(errors="replace")

    def ready(self):
        try:
            self.call("/readyz")
        except OSError:
            return False
        return True

    def call(self, path, body=None):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode() if body is not None else None,
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=max(self.deadline.left(), 1)) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith((b"{", b"[")) else text

    def job(self, path, body):
        job = self.call(path, body)
        while job["state"] in ("queued", "running"):
            job = self.call(f"/v1/jobs/{job['id']}?wait=20")
        if job["state"] != "applied":
            raise RuntimeError(f"{path}: {json.dumps(job)[:600]}")
        return job

    def answers(self, prompts):
        given = self.call("/v1/completions", {"model": "live", "max_tokens": 12, "stop": ["."], "prompt": prompts})
        return [choice["text"].strip() for choice in sorted(given["choices"], key=lambda one: one["index"])]

    def hash(self, version):
        return self.call(f"/v1/versions/{version}")["weights_hash"]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


def read_once(daemon, prompt):
    begin = time.monotonic()
    daemon.call("/v1/completions", {"model": "live", "max_tokens": 8, "prompt": prompt})
    return time.monotonic() - begin


def reads(daemon, prompt, stop, times):
    while not stop.is_set():
        times.append(read_once(daemon, prompt))


def percentiles(times):
    times = sorted(times)
    return {"reads": len(times), "p50_ms": 1e3 * times[len(times) // 2], "p99_ms": 1e3 * times[len(times) * 99 // 100]}


def while_reading(daemon, prompt, work):
    stop, times = threading.Event(), []
    reader = threading.Thread(target=reads, args=(daemon, prompt, stop, times))
    reader.start()
    try:
        work()
    finally:
        stop.set()
        reader.join()
    return percentiles(times)


def between_slices(programs, root, state, device, deadline, facts):
    """The same reads where they have no stream of their own."""
    daemon = Daemon(programs, root, state, device, deadline, "--read-stream", "off")
    try:
        prompt = facts[0]["prompt"]
        return {"idle": while_reading(daemon, prompt, lambda: time.sleep(1)),
                "editing": while_reading(daemon, prompt, lambda: daemon.job("/v1/edits", {"facts": facts}))}
    finally:
        daemon.kill()


def story(programs, root, state, device, deadline, facts):
    prompts = [fact["prompt"] for fact in facts]
    daemon = Daemon(programs, root, state, device, deadline)
    try:
        out = {"device": daemon.call("/v1/status")["model"]["device"],
               "idle": while_reading(daemon, prompts[0], lambda: time.sleep(1)), "before": daemon.answers(prompts)}
        out["editing"] = while_reading(daemon, prompts[0],
                                       lambda: out.update(job=daemon.job("/v1/edits", {"facts": facts})))
        taught, live = daemon.answers(prompts), out["job"]["version"]
        out["job"] = {"version": live, "measures": out["job"]["result"]["measures"]}
        out["taught"] = sum(text.startswith(fact["target"].strip(" .")) for text, fact in zip(taught, facts))
        daemon.kill()
        daemon = Daemon(programs, root, state, device, deadline)
        out["same_after_kill"] = daemon.answers(prompts) == taught and daemon.call("/v1/status")["live_version"] == live
        one = daemon.call("/v1/facts?limit=1")["data"][0]["id"]
        daemon.job("/v1/retractions", {"facts": [one], "reason": "bench"})
        back = daemon.job("/v1/rollbacks", {"to_version": 0, "reason": "bench"})["version"]
        out["rolled_back"] = daemon.answers(prompts) == out.pop("before") and daemon.hash(back) == daemon.hash(0)
        forward = daemon.job("/v1/rollbacks", {"to_version": live, "reason": "bench"})["version"]
        out["forward"] = daemon.hash(forward) == daemon.hash(live)
    finally:
        daemon.kill()
    return out


def serve(programs, options, deadline, root):
    state = tempfile.mkdtemp(prefix="malmend-serve-")
    other = tempfile.mkdtemp(prefix="malmend-serve-")
    with open(os.path.join(root, FACTS), encoding="utf-8") as file:
        facts = json.load(file)["facts"]
    try:
        out = story(programs, root, state, options.device, deadline, facts)
        out["between_slices"] = between_slices(programs, root, other, options.device, deadline, facts)
        verify = subprocess.run([programs.path("malmend"), "verify", "--db", os.path.join(state, "db"), "--model",
                                 MODEL, "--device", "cpu"], cwd=root, env=programs.environment(), capture_output=True,
                                text=True, timeout=max(deadline.left(), 1), check=False)
        out["replayed_on_cpu"] = verify.returncode == 0
        out["verify"] = (verify.stdout + verify.stderr)[-300:]
    finally:
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(other, ignore_errors=True)
    good = all(out[key] for key in ("same_after_kill", "rolled_back", "forward", "replayed_on_cpu", "taught"))
    return out, good
