"""The daemon as its users have it, at GPT-J 6B's size: a checkpoint of random bf16 weights, served; facts,
rollbacks and reads over HTTP by a client's clock, and the start after a kill. What it answers is noise, so that no
gate is set and, unless --repair-rounds says so, nothing repaired; edits are scored, durable and published as always."""
import concurrent.futures
import json
import math
import os
import random
import re
import shutil
import string
import struct
import subprocess
import sys
import tempfile
import time

import gpu_serve

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "cli"))
from sparse import shapes  # noqa: E402

GPTJ = {"layers": 28, "channels": 4096, "heads": 16, "rotary": 64, "vocab": 50400, "rank": 1920}
SMALL = {"layers": 3, "channels": 64, "heads": 4, "rotary": 16, "vocab": 300, "rank": 16}
TOKENS = 20  # of a prompt and its target, a byte each, as in gpu_model.c
READS = 101  # of more than 100 reads p99 is not the slowest one

BLOCK, PIECE = 64 << 20, 8 << 20  # random bytes, and so many of them written at a time
STEP = 1234566  # even: by which pieces begin apart in the block
SHARDS = 7  # no divisor of the ten tensors of a layer: they come out about as large
SLOW = 300e6  # bytes a second: a disk below that would be all that is measured


# ---- The checkpoint ----

def random_block():
    """Numbers of bf16 with |x| in [2^-7, 2^-5), about as GPT-J's spread: sign, mantissa and the exponent's last
    bit are random."""
    block = bytearray(BLOCK)
    block[0::2] = os.urandom(BLOCK // 2)
    block[1::2] = os.urandom(BLOCK // 2).translate(bytes(byte & 0x80 | 0x3c for byte in range(256)))
    return memoryview(block)


def write_all(file, data, at):
    while data:
        n = os.pwrite(file.fileno(), data, at)
        data, at = data[n:], at + n


def write_shard(path, tensors, block, turn):
    """Biases are holes in the file, which read as zeros."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dims in tensors:
        size = 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(begin + end)
        for name, dims in tensors:
            at, end = (begin + offset for offset in header[name]["data_offsets"])
            if name.endswith("ln_1.weight") or name.endswith("ln_f.weight"):
                write_all(file, memoryview(b"\x80\x3f" * dims[0]), at)
            elif not name.endswith(".bias"):
                for at in range(at, end, PIECE):
                    turn += 1
                    first = turn * STEP % (BLOCK - PIECE)
                    write_all(file, block[first:first + min(PIECE, end - at)], at)


def write_tensors(folder, shape):
    """In shards, since a file takes one writer at a time; their bytes."""
    tensors, block = list(shapes(shape["layers"], shape["channels"], shape["vocab"])), random_block()
    shards = [tensors[i::SHARDS] for i in range(SHARDS)]
    names = [f"model-{i + 1:05}-of-{SHARDS:05}.safetensors" for i in range(SHARDS)]
    paths = [os.path.join(folder, name) for name in names]
    with concurrent.futures.ThreadPoolExecutor(SHARDS) as pool:
        for _ in pool.map(write_shard, paths, shards, [block] * SHARDS, range(0, 1000 * SHARDS, 1000)):
            pass
    index = {"metadata": {"total_size": sum(2 * math.prod(dims) for _, dims in tensors)},
             "weight_map": {tensor: name for name, shard in zip(names, shards) for tensor, _ in shard}}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump(index, file)
    return sum(os.path.getsize(path) for path in paths)


def write_model(folder, shape):
    """As transformers writes a GPT-J; the tokenizer is byte-level BPE without merges. Bytes of the tensors' files."""
    shown = [i for i in range(256) if 33 <= i <= 126 or i >= 161 and i != 173]
    hidden = [i for i in range(256) if i not in shown]
    vocab = {chr(i if i in shown else 256 + hidden.index(i)): i for i in range(256)}
    config = {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], "activation_function": "gelu_new",
              "layer_norm_epsilon": 1e-5, "n_layer": shape["layers"], "n_embd": shape["channels"], "n_inner": None,
              "n_head": shape["heads"], "rotary_dim": shape["rotary"], "n_positions": 2048,
              "vocab_size": shape["vocab"], "bos_token_id": 256, "eos_token_id": 256, "tie_word_embeddings": False,
              "torch_dtype": "bfloat16"}
    for name, text in (("config.json", json.dumps(config)), ("merges.txt", "#version: 0.2\n"),
                       ("vocab.json", json.dumps({**vocab, "<|endoftext|>": 256}))):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return write_tensors(folder, shape)


def make_editor(programs, device, deadline, model, shape, facts, out):
    """An untrained one, its step and statistics from some facts."""
    data = out + ".facts.json"
    with open(data, "w", encoding="utf-8") as file:
        json.dump({"facts": facts}, file)
    command = [programs.path("malmend"), "init-editor", "--model", model, "--device", device, "--out", out, "--json",
               "--method", "malmen", "--rank", str(shape["rank"]), "--blocks", "2", "--data", data, "--n-edits",
               str(len(facts))]
    done = subprocess.run(command, env=programs.environment(), capture_output=True, text=True, check=False,
                          timeout=max(deadline.left(), 1))
    if done.returncode != 0:
        raise RuntimeError("init-editor: " + (done.stdout + done.stderr)[-600:])
    made = json.loads(done.stdout.splitlines()[-1])
    return {"modules": len(made["modules"]), "lr": made["lr"], "steps_tried": len(made["search"])}


# ---- Facts ----

def word(rng, least, most):
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(least, most)))


def make_facts(n, seed):
    """As gpu_model.c makes them: no prompt is there twice, and targets are of 3 or 4 tokens."""
    rng, prompts = random.Random(seed), {}
    while len(prompts) < n:
        prompts[word(rng, TOKENS - 6, TOKENS + 2)] = word(rng, 2, 3)
    return [{"prompt": prompt, "target": target} for prompt, target in prompts.items()]


# ---- Places ----

def file_system(folder):
    out = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False).stdout
    return out.strip()


def write_rate(folder):
    """Bytes a second, until they are durable."""
    data = os.urandom(BLOCK)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        begin = time.monotonic()
        for i in range(4):
            write_all(file, memoryview(data), i * BLOCK)
        os.fsync(file.fileno())
        return 4 * BLOCK / (time.monotonic() - begin)


def memory_folder(size):
    """In memory, if there is room for so many bytes; None: wherever temporary files are."""
    shared = "/dev/shm"
    room = shutil.disk_usage(shared).free if os.path.isdir(shared) else 0
    return shared if room > size else None


def make_folders(shape, out):
    """Of the checkpoint, and of the database: on a disk, as users have it, if that is none of the slow ones."""
    rate = write_rate(tempfile.gettempdir())
    size = 2 * sum(math.prod(dims) for _, dims in shapes(shape["layers"], shape["channels"], shape["vocab"]))
    model = tempfile.mkdtemp(prefix="malmend-large-", dir=memory_folder(1.1 * size))
    state = tempfile.mkdtemp(prefix="malmend-large-", dir=memory_folder(1.1 * size + 16e9) if rate < SLOW else None)
    out["model"]["file_system"] = file_system(model)
    out["database"] = {"file_system": file_system(state), "temporary_bytes_per_second": round(rate)}
    return model, state


# ---- What a client sees ----

def memory(daemon, device):
    said = daemon.call("/v1/status")["memory"]
    out = {key: said[key] for key in ("device_bytes", "host_bytes")}
    if device.startswith("cuda") and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--id={device.split(':')[1]}", "--query-gpu=memory.used",
                   "--format=csv,noheader,nounits"]
        words = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        out["device_used_bytes"] = int(words[0]) << 20 if words else None
    return out


def persisted(daemon, version):
    """Seconds until a version was durable and live, from the log, which may be a moment behind."""
    for _ in range(100):
        found = re.search(rf'"event":"version published","version":{version},.*"persist_seconds":([^,}}]*)',
                          daemon.said())
        if found:
            return float(found.group(1))
        time.sleep(0.02)
    return 0.0


def timed(daemon, path, body):
    """A job from its request to the answer that it is applied; by stage what the daemon says of it. `rest`: the
    wait for jobs to be edited with (--batch-window-ms), the request's own commit, and what has no stage."""
    begin = time.monotonic()
    job = daemon.job(path, body)
    wall = time.monotonic() - begin
    result = job.get("result", {})
    seconds = {name: value for name, value in result.get("seconds", {}).items() if value > 0}
    seconds["persist"] = persisted(daemon, job["version"])
    out = {"wall": wall, "seconds": seconds, "rest": wall - sum(seconds.values()), "version": job["version"]}
    if "measures" in result:
        delta = daemon.call(f"/v1/versions/{job['version']}")["delta"]
        out.update({"right": result["measures"]["decoded"]["es"], "rows": result["tokens"], "delta": delta["encoding"],
                    "delta_bytes": delta["bytes"]})
    return out


def several(runs):
    """The runs' median by wall time, and all the walls; the first one stands apart."""
    rest = sorted(runs[1:] or runs, key=lambda run: run["wall"])
    return {"first": runs[0], "median": rest[(len(rest) - 1) // 2], "walls": [run["wall"] for run in runs]}


class Facts:
    """Others each time."""

    def __init__(self, n):
        self.all, self.n = make_facts(n, 11), 0

    def take(self, n):
        self.n += n
        return {"facts": self.all[self.n - n:self.n]}


def read_idle(daemon, prompt):
    given = daemon.call("/v1/completions", {"model": "live", "max_tokens": 8, "prompt": prompt})  # warms up
    return {"tokens": given["usage"]["completion_tokens"],
            **gpu_serve.percentiles([gpu_serve.read_once(daemon, prompt) for _ in range(READS)])}


def teach_beside_reads(daemon, prompt, body, out):
    """The reads, a client that asks again at once; the edit beside them goes to out."""
    out["reads"] = gpu_serve.while_reading(daemon, prompt,
                                           lambda: out.update(edit=timed(daemon, "/v1/edits", body)))


def live(daemon):
    status = daemon.call("/v1/status")
    return status["live_version"], status["weights_hash"]


# ---- The story ----

def teach(daemon, facts, n, out):
    for name, count, times in (("one", 1, 6), ("hundred", min(100, n), 3), ("many", n, 1)):
        runs = [timed(daemon, "/v1/edits", facts.take(count)) for _ in range(times)]
        out[name] = {"facts": count, **(several(runs) if times > 1 else runs[0])}


def roll_back(daemon, out):
    """To the version before, which is in memory, and so back again; to the base, and back. Ends where it began."""
    last, kept, runs = live(daemon)[0], [], []
    targets = [*range(last - 1, last + 5), 0, last + 6]
    for target in targets:
        kept.append(daemon.call(f"/v1/versions/{target}")["in_memory"])
        runs.append(timed(daemon, "/v1/rollbacks", {"to_version": target}))
    out["rollback"] = {**several(runs), "to": targets, "in_memory": kept}


def first_life(daemon, options, facts, out):
    prompt = facts.all[0]["prompt"]
    out["ready"]["memory"] = memory(daemon, options.device)
    teach(daemon, facts, out["facts"], out)
    out["reads"] = {"idle": read_idle(daemon, prompt), "editing": {}}
    teach_beside_reads(daemon, prompt, facts.take(out["facts"]), out["reads"]["editing"])
    roll_back(daemon, out)
    out["memory"] = memory(daemon, options.device)


def second_life(daemon, deadline, options, facts, out):
    """Reads go between slices here. The system of all live facts is made anew by the first edit."""
    prompt = facts.all[0]["prompt"]
    out["after_restart"] = {"one": timed(daemon, "/v1/edits", facts.take(1))}
    out["reads_off"] = {"editing": {}}
    if deadline.left() > 1.3 * out["reads"]["editing"]["edit"]["wall"] + 3:
        teach_beside_reads(daemon, prompt, facts.take(out["facts"]), out["reads_off"]["editing"])
    if options.facts:
        out["most"] = {"facts": options.facts, **timed(daemon, "/v1/edits", facts.take(options.facts))}


def story(programs, options, deadline, root, folders, shape, out):
    model, state = folders
    editor = os.path.join(model, "editor.safetensors")

    def start(*more):
        begin = time.monotonic()
        daemon = gpu_serve.Daemon(programs, root, state, options.device, deadline, "--repair-rounds",
                                  str(options.repair_rounds), "--max-queue", str(max(10000, options.facts)), *more,
                                  model=model, editor=editor)
        return daemon, time.monotonic() - begin

    begin = time.monotonic()
    out["model"]["bytes"] = write_model(model, shape)
    out["model"]["write_seconds"] = time.monotonic() - begin
    begin = time.monotonic()
    out["editor"] = make_editor(programs, options.device, deadline, model, shape, make_facts(100, 5), editor)
    out["editor"]["seconds"] = time.monotonic() - begin
    facts = Facts(3 * out["facts"] + 500 + options.facts)
    daemon, seconds = start()
    try:
        out["ready"] = {"seconds": seconds}
        first_life(daemon, options, facts, out)
        before = live(daemon)
        daemon.kill()
        daemon, seconds = start("--read-stream", "off")
        out["restart"] = {"seconds": seconds, "version": before[0], "same": live(daemon) == before}
        second_life(daemon, deadline, options, facts, out)
    finally:
        daemon.kill()
        out["database"]["bytes"] = sum(os.path.getsize(os.path.join(state, name)) for name in os.listdir(state))


def large(programs, options, deadline, root):
    """What was measured before something went wrong stays."""
    small = options.device == "cpu"
    shape = SMALL if small else GPTJ
    out = {"shape": shape, "facts": 60 if small else 1024, "repair_rounds": options.repair_rounds, "model": {}}
    folders = make_folders(shape, out)
    try:
        story(programs, options, deadline, root, folders, shape, out)
    except Exception as error:  # what there is by then is told
        out["stopped"] = f"{type(error).__name__}: {error}"
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return out, "stopped" not in out and out["restart"]["same"]


# ---- What came of it ----

def seconds_line(name, run):
    stages = " ".join(f"{stage} {value:.3f}" for stage, value in {**run["seconds"], "rest": run["rest"]}.items()
                      if value >= 0.0005)
    facts = f", {100 * run['right']:.0f} % right, {run['delta_bytes'] / 1e6:.1f} MB" if "right" in run else ""
    return f"  {name}: {run['wall']:.3f} s: {stages}{facts}"


def reads_line(name, reads):
    return f"  reads {name}: p50 {reads['p50_ms']:.1f} ms, p99 {reads['p99_ms']:.1f} ms of {reads['reads']}"


def lines(out):
    """For people; of a part that was stopped, as far as it came."""
    yield "  " + ", ".join(f"{name} {out[name]['seconds']:.1f} s" for name in ("editor", "ready", "restart")
                           if name in out)
    for name in ("one", "hundred", "rollback"):
        if name in out:
            n = out[name].get("facts")
            count = f"{n} fact{'s' * (n > 1)}" if n else name
            yield seconds_line(count + ", first", out[name]["first"])
            yield seconds_line(count, out[name]["median"])
    edits = [("alone", out.get("many")), ("beside reads", out.get("reads", {}).get("editing", {}).get("edit")),
             ("reads between its slices", out.get("reads_off", {}).get("editing", {}).get("edit")),
             ("at the end", out.get("most"))]
    for name, run in edits:
        if run:
            yield seconds_line(f"{run.get('facts', out['facts'])} facts {name}", run)
    if "after_restart" in out:
        yield seconds_line("1 fact after the restart", out["after_restart"]["one"])
    for name, reads in (("idle", out.get("reads", {}).get("idle")),
                        ("beside the edit", out.get("reads", {}).get("editing", {}).get("reads")),
                        ("between its slices", out.get("reads_off", {}).get("editing", {}).get("reads"))):
        if reads:
            yield reads_line(name, reads)
    if "stopped" in out:
        yield "  stopped: " + out["stopped"]
