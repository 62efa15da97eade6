"""Times generation against transformers' with its cache, greedy, a thread each, in turn in one run.

    compare_generate.py DIR --malmend build/daemon/malmend [--tokens 48] [--runs 3] [--out FILE]

DIR is of `make_model.py DIR --kind KIND`: the model in fp32, which both compute in fp32, and in bf16, which
transformers computes in bf16, ours in fp32 (`cpu`) and in bf16 (`cpu:bf16`). Figures are processor time, the
least of the runs: of a token of each of 1, 8 and 32 texts side by side, the prompts' own time taken off. Ours is
all that the daemon does for such a request."""
import argparse
import atexit
import datetime
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from measure import processor, write_report

PROMPT = "The capital of place {} is the name of a town that lies"
SIDE_BY_SIDE = (1, 8, 32)


class Daemon:
    def __init__(self, args, model, device):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.dir = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [args.malmend, "serve", "--model", model, "--device", device, "--db", f"{self.dir.name}/db",
             "--listen", f"127.0.0.1:{self.port}", "--request-timeout", "600"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        atexit.register(self.close)
        while True:
            try:
                self.ask("/readyz")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    sys.exit("the daemon ended")
                time.sleep(0.1)

    def ask(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body and json.dumps(body).encode(),
                                         {"Content-Type": "application/json"} if body else {})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read()

    def seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            user, system = file.read().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def once(self, n, tokens):
        begin = self.seconds()
        answer = json.loads(self.ask("/v1/completions", {"prompt": [PROMPT.format(i) for i in range(n)], "max_tokens": tokens}))
        if answer["usage"]["completion_tokens"] < 0.9 * n * tokens:
            sys.exit("answers end early: take another model")
        self.n_prompt = answer["usage"]["prompt_tokens"] // n
        return self.seconds() - begin

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.dir.cleanup()


class Transformers:
    """As many tokens as ours had of the prompt, any."""

    def __init__(self, model, dtype, n_prompt):
        import torch
        from transformers import AutoModelForCausalLM
        torch.set_num_threads(1)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.ids = torch.arange(10, 10 + n_prompt)[None]

    def once(self, n, tokens):
        ids = self.ids.repeat(n, 1)
        begin = time.process_time()
        with self.torch.no_grad():
            self.model.generate(ids, attention_mask=self.torch.ones_like(ids), min_new_tokens=tokens,
                                max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return time.process_time() - begin


def compare(ways, args):
    """{way: {texts: seconds a token}}"""
    best = {name: {} for name in ways}
    for n in SIDE_BY_SIDE:
        for _ in range(args.runs):
            for name, way in ways.items():
                step = (way.once(n, args.tokens) - way.once(n, 1)) / (args.tokens - 1)
                best[name][n] = min(step, best[name].get(n, step))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--malmend", required=True)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    report = {"date": datetime.date.today().isoformat(), "processor": processor(), "threads": 1,
              "tokens": args.tokens, "model": os.path.basename(os.path.abspath(args.dir)), "seconds_a_step": {}}
    for name, dtype, devices in (("model", "float32", ["cpu"]), ("model-bf16", "bfloat16", ["cpu", "cpu:bf16"])):
        path = os.path.join(args.dir, name)
        daemons = {device: Daemon(args, path, device) for device in devices}
        peer = f"transformers {dtype}"
        ways = {f"{device}, {name}": daemon for device, daemon in daemons.items()}
        for daemon in daemons.values():
            daemon.once(1, 1)
        best = compare({**ways, peer: Transformers(path, dtype, daemon.n_prompt)}, args)
        for daemon in daemons.values():
            daemon.close()
        report["seconds_a_step"].update(best)
        for way in best:
            print(f"{way:24}", *(f"{n:3}: {best[way][n] * 1e3:7.2f} ms ({best[peer][n] / best[way][n]:.2f})"
                                 for n in SIDE_BY_SIDE))
    write_report(report, args.out)


if __name__ == "__main__":
    main()
