"""What gpu.sh runs: tests on a GPU, the sanitizer over them, measurements, and the one file that says what came
of all that. Each part has a time of its own, and one that fails or takes too long does not keep the others."""
import argparse
import concurrent.futures
import datetime
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import gpu_large
import gpu_serve

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))  # of the sources, or of what gpu_pack.sh packed
PACKED = os.path.join(ROOT, "pack.json")

# Seconds that each part may take: together they stay below ten minutes.
LIMITS = {"parity": 75, "ops": 40, "torch": 40, "edit": 140, "model": 40, "sanitize": 95,
          "serve": 35, "large": 130}
JOBS = 6  # tests at once
# What holds to the same limits where operands of products are rounded.
ALIKE = ["test_act", "test_attention", "test_gemm_bf16", "test_kl", "test_normalizer", "test_rope", "test_rows64", "test_train_ops",
         "test_versioned", "test_weights_state"]
# What fp64 that is made of integers is for.
EMULATED = ["test_joint", "test_joint_change", "test_linalg", "test_orthonormal", "test_solve"]

# Words in mangled names of kernels of cuBLAS and cuSOLVER that we come to call, in no name of ours. racecheck leaves
# these out: what races in shared memory there is not ours to find, and to watch it takes minutes. memcheck sees them,
# since what they are given is ours; and initcheck, which takes what an unwatched kernel wrote for uninitialised.
LIBRARIES = ["cublas", "cutlass", "gemm", "gemv", "magma", "nvjet", "syherk", "syrk", "trmm", "trsm", "trsv", "xmma",
             "geqr", "lacpy", "larf", "orgqr", "ormqr"]

# Of a GPU by its data sheet, dense, in 10^12 a second.
PEAKS = {
    "A100": {"bf16": 312, "tf32": 156, "fp32": 19.5, "fp64": 19.5, "bytes": 2.04},
    "H100": {"bf16": 989, "tf32": 494, "fp32": 67, "fp64": 67, "bytes": 3.35},
    "H200": {"bf16": 989, "tf32": 494, "fp32": 67, "fp64": 67, "bytes": 4.8},
    "B200": {"bf16": 2250, "tf32": 1100, "fp32": 75, "fp64": 37, "bytes": 8},
    "CPU": {"bf16": 0.2, "tf32": 0.2, "fp32": 0.2, "fp64": 0.1, "bytes": 0.02},
}

EDIT_CASES = ["generate:1", "generate:64", "passes:1024", "alone:1", "alone:100", "alone:100", "once:1", "once:100",
              "joint:100", "joint:1", "reads:1024", "once:16384", "alone:16384", "rollback", "train:512",
              "memit:256"]
# What stands in for all that on a CPU, to see that it runs.
SMALL_CASES = ["generate:2", "passes:64", "alone:1", "alone:60", "alone:60", "once:60", "joint:20", "joint:1",
               "reads:60", "once:200", "alone:200", "rollback", "train:16", "memit:6"]
SMALL_SHAPE = {"layers": 10, "channels": 128, "inner": 512, "heads": 4, "vocab": 1000, "rank": 60}


# ---- Programs ----

def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def included(path, seen):
    """The headers of tests that a file includes, and theirs."""
    for name in re.findall(r'#\s*include "([^"]+)"', read(path)):
        header = os.path.join(os.path.dirname(path), name)
        if "/" not in name and name not in seen and os.path.exists(header):
            seen.add(name)
            included(header, seen)
    return seen


def list_tests():
    """Names of test programs that run on a device: those of operations, all others, golden ones."""
    groups = {"ops": [], "unit": [], "golden": []}
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/unit/test_*.c"))):
        text = "".join([read(path)] + [read(os.path.join(ROOT, "tests/unit", name))
                                       for name in included(path, set())])
        if "MAL_TEST_DEVICE" not in text:
            continue
        group = "ops" if "device.h" in included(path, set()) else "unit"
        groups[group].append(os.path.basename(path)[:-2])
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/golden/test_*.c"))):
        groups["golden"].append("test_golden_" + os.path.basename(path)[5:-2])
    return groups


class Programs:
    def __init__(self, build):
        self.build = build
        self.packed = build is None
        described = json.loads(read(PACKED)) if self.packed else {"commit": commit(), "tests": list_tests()}
        self.commit, self.tests = described["commit"], described["tests"]

    def path(self, name):
        places = ["bin"] if self.packed else ["tests/unit", "tests/golden", "tests/bench", "daemon"]
        for place in places:
            path = os.path.join(ROOT if self.packed else self.build, place, name)
            if os.path.exists(path):
                return path
        return None

    def environment(self, **more):
        env = {**os.environ, "MAL_SOURCE_ROOT": ROOT, "CMOCKA_MESSAGE_OUTPUT": "TAP", **more}
        folders = [os.path.join(ROOT, "lib")] if self.packed else []
        folders += [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
        folders += glob.glob("/usr/local/cuda/lib64") + glob.glob(
            os.path.join(sys.prefix, "lib/python3*/site-packages/nvidia/cu*/lib"))  # PyTorch's
        env["LD_LIBRARY_PATH"] = ":".join(folders)
        return env


def commit():
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False).stdout.strip()
    return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain") else "")


def run(command, env, seconds, cwd=None):
    """(exit code or None when it was stopped, output, seconds)."""
    begin = time.monotonic()
    process = subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        out = process.communicate(timeout=max(seconds, 0.1))[0]
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, code = process.communicate()[0], None
    return code, out.decode(errors="replace"), round(time.monotonic() - begin, 3)


class Deadline:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


# ---- The device ----

QUERY = "name,driver_version,memory.total,power.limit,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu"
WATCHED = "clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used"


def describe_device(device):
    if not device.startswith("cuda"):
        return {"name": "CPU", "cores": os.cpu_count()}
    index = device.split(":")[1]
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"name": "unknown", "error": str(error)}
    return {**dict(zip(QUERY.split(","), (word.strip() for word in out.strip().split(",")))),
            "cores": os.cpu_count()}


def peaks_of(name):
    return next((peaks for key, peaks in PEAKS.items() if key in name), PEAKS["H100"])


def peak_list(name):
    return ",".join(f"{key}={value}" for key, value in peaks_of(name).items())


class Sampler:
    """Clocks, power and memory of the device while a part runs."""

    def __init__(self, device):
        self.rows, self.process = [], None
        if not device.startswith("cuda") or not shutil.which("nvidia-smi"):
            return
        command = ["nvidia-smi", f"--id={device.split(':')[1]}", f"--query-gpu={WATCHED}",
                   "--format=csv,noheader,nounits", "-lms", "500"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()

    def collect(self):
        for line in self.process.stdout:
            try:
                self.rows.append([float(word) for word in line.split(",")])
            except ValueError:
                pass

    def end(self):
        if not self.process:
            return None
        self.process.terminate()
        self.process.wait()
        self.thread.join()
        columns = list(zip(*self.rows))
        return {name: {"median": statistics.median(values), "most": max(values)}
                for name, values in zip(WATCHED.split(","), columns)}


# ---- Tests ----

def read_tap(out):
    """Counts of a program's TAP lines, and the names of what failed."""
    counts, failed = {"passed": 0, "failed": 0, "skipped": 0}, []
    for line in out.splitlines():
        match = re.match(r"(not )?ok \d+(?: -)? ?(.*)", line)
        if not match:
            continue
        if re.search(r"# ?SKIP", line, re.I):
            counts["skipped"] += 1
        elif match.group(1):
            counts["failed"] += 1
            failed.append(match.group(2))
        else:
            counts["passed"] += 1
    return counts, failed


def run_test(programs, name, device, seconds):
    path = programs.path(name)
    if not path:
        return {"program": name, "error": "is not there"}
    env = programs.environment(MAL_TEST_DEVICE=device, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")
    code, out, spent = run([path], env, seconds, ROOT)
    counts, failed = read_tap(out)
    result = {"program": name, **counts, "seconds": spent, "exit": code}
    if failed:
        result["failed_cases"] = failed
    if code != 0:  # what it said, shortly
        words = [line for line in out.splitlines() if line.startswith("#") or not re.match(r"ok |\d+\.\.", line)]
        result["words"] = "\n".join(words[-25:])[-2500:]
    return result


def parity(programs, options, deadline):
    out = {}
    names = [name for group in ("golden", "unit", "ops") for name in programs.tests[group]]
    devices = {options.device: names}
    if options.device != "cpu":
        devices = {options.device + ":fp32": names, options.device: [name for name in names if name in ALIKE],
                   options.device + ":emulated": [name for name in names if name in EMULATED]}
    with concurrent.futures.ThreadPoolExecutor(JOBS if options.device != "cpu" else 2) as pool:
        for device, names in devices.items():
            each = 60 if options.device != "cpu" else 300
            results = list(pool.map(lambda name: run_test(programs, name, device, min(each, deadline.left())),
                                    names))
            table = {key: sum(one.get(key, 0) for one in results) for key in ("passed", "failed", "skipped")}
            table["programs"] = len(results)
            table["programs_not_well"] = [one for one in results if one.get("exit") != 0]
            table["seconds"] = {one["program"]: one.get("seconds") for one in results}
            out[device] = table
    out["product"] = product(programs, devices, deadline)
    ok = all(not out[device]["programs_not_well"] for device in devices)
    return out, ok and not any("error" in one for one in out["product"].values())


def product(programs, devices, deadline):
    """The demo model taught by the program itself, on each device and on the CPU."""
    out, path = {}, programs.path("malmend")
    if not path:
        return {"cpu": {"error": "malmend is not there"}}
    for device in ["cpu"] + [device for device in devices if device != "cpu"]:
        command = [path, "edit", "--model", "tests/demo/model", "--editor", "tests/demo/editor.safetensors",
                   "--facts", "tests/demo/facts/demo-edit.json", "--device", device, "--verify", "--json"]
        code, text, spent = run(command, programs.environment(), min(60, deadline.left()), ROOT)
        lines = [line for line in text.splitlines() if line.startswith('{"facts"')]
        out[device] = json.loads(lines[-1]) if code == 0 and lines else {"error": text[-500:], "exit": code}
        out[device]["wall"] = spent
    return out


# ---- The sanitizer ----

def find_sanitizer():
    places = [shutil.which("compute-sanitizer"), "/usr/local/cuda/bin/compute-sanitizer",
              "/usr/local/cuda/compute-sanitizer/compute-sanitizer"]
    return next((path for path in places if path and os.path.exists(path)), None)


def leave_out(sanitizer, programs):
    """The sanitizer's option that leaves kernels out by name: of 2023.3 and later, of those before, or None."""
    text = run([sanitizer, "--help"], programs.environment(), 20)[1]
    return next((option for option in ("--kernel-name-exclude", "--kernel-regex-exclude") if option in text), None)


def sanitize_one(programs, sanitizer, filters, tool, name, device, deadline):
    path = programs.path(name)
    if not path or deadline.left() < 3:
        return {"tool": tool, "program": name, "not_run": True}
    command = [sanitizer, "--tool", tool, "--error-exitcode", "77", "--report-api-errors", "no", "--print-limit", "8",
               *filters.get(tool, []), path]
    env = programs.environment(MAL_TEST_DEVICE=device, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive",
                               MAL_TEST_SANITIZED="1")
    code, out, spent = run(command, env, min(75, deadline.left()), ROOT)
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", out)
    result = {"tool": tool, "program": name, "exit": code, "seconds": spent, **read_tap(out)[0],
              "found": int(found[-1]) if found else None}
    if result["found"] != 0:
        result["words"] = "\n".join(line for line in out.splitlines() if line.startswith("========="))[:3000]
    return result


def sanitize(programs, options, deadline):
    sanitizer = find_sanitizer()
    if not sanitizer or options.device == "cpu":
        return {"error": "compute-sanitizer is not there"}, options.device == "cpu"
    tools = ["memcheck", "racecheck", "initcheck"]
    option = leave_out(sanitizer, programs)
    filters = {"racecheck": [word for name in LIBRARIES if option for word in (option, "kns=" + name)]}
    work = [(tool, name) for tool in tools for name in programs.tests["ops"]]
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(lambda one: sanitize_one(programs, sanitizer, filters, *one, options.device, deadline),
                                work))
    out = {}
    for tool in tools:
        ours = [one for one in results if one["tool"] == tool]
        out[tool] = {"clean": [one["program"] for one in ours if one.get("found") == 0],
                     "found": [one for one in ours if one.get("found")],
                     "stopped": [one["program"] for one in ours if "exit" in one and one["found"] is None],
                     "not_run": [one["program"] for one in ours if one.get("not_run")]}
    out["racecheck"]["kernels_left_out"] = LIBRARIES if option else []
    return out, not any(out[tool]["found"] for tool in tools)


# ---- Measurements ----

def lines_of(text):
    lines = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            lines.append(json.loads(line))
        except ValueError:
            pass
    return lines


def measured(command, env, seconds, cwd=ROOT):
    """The lines that a program wrote, whether it ended well or not."""
    code, text, spent = run(command, env, seconds, cwd)
    lines = lines_of(text)
    out = {"command": " ".join(command), "exit": code, "seconds": spent, "lines": lines}
    if code != 0:
        out["words"] = "\n".join(line for line in text.splitlines() if not line.startswith("{"))[-1500:]
    return out, code == 0 and not any("error" in line for line in lines)


def ops(programs, options, deadline):
    command = [programs.path("bench_gpu") or "bench_gpu", "--device", options.device, "--peak",
               peak_list(options.gpu)]
    if options.device == "cpu":
        command += ["--scale", "32", "--seconds", "0.02"]
    return measured(command, programs.environment(), deadline.left())


def python_with_torch():
    for python in (sys.executable, shutil.which("python3")):
        if python and subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def torch_lines(programs, options, deadline, what):
    python = python_with_torch()
    if not python:
        return {"error": "there is no PyTorch"}, False
    command = [python, os.path.join(HERE, "torch_ops.py"), "--device", options.device, "--only", what]
    if options.device == "cpu":
        command += ["--scale", "32", "--seconds", "0.02", "--layers", "2"]
    env = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    return measured(command, env, deadline.left())


def torch_ops(programs, options, deadline):
    return torch_lines(programs, options, deadline, "ops")


def torch_model(programs, options, deadline):
    return torch_lines(programs, options, deadline, "model")


def edit(programs, options, deadline):
    small = options.device == "cpu"
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = tempfile.mkdtemp(prefix="malmend-gpu-", dir=memory)
    command = [programs.path("bench_gpu_edit") or "bench_gpu_edit", "--dir", folder, "--device", options.device,
               "--peak", peak_list(options.gpu)]
    if small:
        for name, value in SMALL_SHAPE.items():
            command += [f"--{name}", str(value)]
    cases = options.cases.split() if options.cases else SMALL_CASES if small else EDIT_CASES
    try:
        out, ok = measured(command + cases, programs.environment(), deadline.left() - 3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    hashes = {}
    for line in out["lines"]:
        if "weights" in line and line["case"] != "joint":
            hashes.setdefault((line["case"], line["facts"]), set()).add(line["weights"])
    out["reproduced"] = all(len(values) == 1 for values in hashes.values())
    return out, ok and out["reproduced"]


def serve(programs, options, deadline):
    return gpu_serve.serve(programs, options, deadline, ROOT)


def large(programs, options, deadline):
    return gpu_large.large(programs, options, deadline, ROOT)


PARTS = {"parity": parity, "ops": ops, "torch": torch_ops, "edit": edit, "serve": serve, "large": large,
         "model": torch_model, "sanitize": sanitize}


# ---- What came of it ----

def compare(results):
    """Beside each of our operations the library's time, where both were measured."""
    theirs = {(line["name"], line["case"]): line for line in results.get("torch", {}).get("lines", [])
              if "ms" in line}
    for line in results.get("ops", {}).get("lines", []):
        peer = theirs.get((line.get("name", "").removesuffix(" a16"), line.get("case")))
        if not peer or "ms" not in line:
            continue
        line["torch_ms"] = peer["ms"]
        line["of_torch"] = round(peer["ms"] / line["ms"], 4)
        if "cast_ms" in peer and not line["name"].endswith(" a16"):  # then neither casts
            line["of_torch_cast"] = round(peer["cast_ms"] / line["ms"], 4)


def print_parity(part):
    for device, table in part.items():
        if device == "product":
            for name, one in table.items():
                print(f"  edit of the demo on {name}: {one.get('error') or one.get('after', {})}"[:150])
            continue
        print(f"  {device}: {table['passed']} passed, {table['failed']} failed, {table['skipped']} skipped, "
              f"{table['programs']} programs")
        for one in table["programs_not_well"]:
            print(f"    {one['program']}: exit {one.get('exit')} {one.get('error', '')} "
                  f"{'; '.join(one.get('failed_cases', []))[:200]}")


def print_sanitize(part):
    for tool, one in part.items():
        if isinstance(one, dict):
            print(f"  {tool}: {len(one['clean'])} clean, found in {[x['program'] for x in one['found']]}, "
                  f"stopped {len(one['stopped'])}, not run {len(one['not_run'])}"
                  + (", the libraries' kernels left out" if one.get("kernels_left_out") else ""))


RATES = (("tflops", 1, "TF/s"), ("tokens_per_second", 0, "token/s"), ("gbps", 0, "GB/s"))


def print_lines(part):
    for line in part.get("lines", []):
        if "ms" in line:
            peer = f"  {line['of_torch']:.2f} of torch" if "of_torch" in line else ""
            cast = f" ({line['of_torch_cast']:.2f} of cast)" if "of_torch_cast" in line else ""
            rate = next((f"{line[key]:8.{digits}f} {unit}" for key, digits, unit in RATES if key in line), "")
            share = f"{100 * line['share']:5.0f} %" if "share" in line else ""
            print(f"  {line['name'][:20]:20} {line['case'][:34]:34} {line['ms']:9.3f} ms {rate} {share}{peer}{cast}")
        elif "total_seconds" in line:
            stages = " ".join(f"{name} {value:.3f}/{line.get('floor', {}).get(name, 0):.3f}"
                              for name, value in line.get("seconds", {}).items() if value >= 0.0005)
            beside = f" beside {line['beside']}" if "beside" in line else ""
            tick = max(line.get("longest", {}).items(), key=lambda one: one[1], default=None)
            longest = f"; between ticks at most {tick[1]:.3f}, {tick[0]}" if tick else ""
            print(f"  {line['case']} {line.get('facts', '')}{beside}: {line['total_seconds']:.3f} s: {stages}{longest}")
            if "at_16384_seconds" in line:
                print(f"    of 16384, extrapolated: {line['at_16384_seconds']:.0f} s")
        elif "case" in line:
            print("  " + json.dumps(line)[:300])


def print_summary(results):
    """The longest first, so that the end of the output says the most."""
    order = ["ops", "torch", "model", "edit", "sanitize", "large", "serve", "parity"]
    for name in [name for name in order if name in results["parts"]]:
        part = results["parts"][name]
        print(f"{name}: {'ok' if part['ok'] else 'NOT WELL'}, {part['seconds']:.1f} s"
              + (f": {part['result']['error']}" if "error" in part["result"] else ""))
        if "error" in part["result"]:
            continue
        if name == "parity":
            print_parity(part["result"])
        elif name == "sanitize":
            print_sanitize(part["result"])
        elif name == "large":
            print(*gpu_large.lines(part["result"]), sep="\n")
        elif name == "serve":
            print("  " + json.dumps(part["result"])[:1500])
        else:
            if name != "torch" or "ops" not in results["parts"]:  # else it stands beside ours
                print_lines(part["result"])
            if part["result"].get("words"):
                print("  " + part["result"]["words"][-600:])


def write(path, results):
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    os.replace(path + ".part", path)


def run_part(name, programs, options, results):
    limit = float(os.environ.get(f"MAL_GPU_{name.upper()}_SECONDS", LIMITS[name]))
    begin, sampler = time.monotonic(), Sampler(options.device)
    try:
        result, ok = PARTS[name](programs, options, Deadline(limit))
    except Exception as error:  # the others still have their turn
        result, ok = {"error": f"{type(error).__name__}: {error}"}, False
    device = sampler.end()
    results["parts"][name] = {"ok": bool(ok), "seconds": round(time.monotonic() - begin, 1), "limit": limit,
                              "device": device, "result": result}
    print(f"# {name}: {'ok' if ok else 'not well'} after {time.monotonic() - begin:.1f} s", flush=True)


def result_path(options):
    folder = os.environ.get("OUT") or os.path.join(HERE, "results")
    os.makedirs(folder, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", options.gpu).strip("-").lower()
    return os.path.join(folder, f"{datetime.date.today().isoformat()}-gpu-{name}.json")


def main():
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--build", help="the build directory; not where it is packed")
    parser.add_argument("--device", default="cuda:0", help="cuda:N; cpu: a small run, to see that it works")
    parser.add_argument("--cases", help="of bench_gpu_edit")
    parser.add_argument("--facts", type=int, default=0, help="of large: at its end so many more in one request")
    parser.add_argument("--repair-rounds", type=int, default=0, help="of large's daemon")
    parser.add_argument("--describe", action="store_true", help="what gpu_pack.sh is to pack")
    options = parser.parse_args()
    if options.describe:
        print(json.dumps({"commit": commit(), "tests": list_tests()}))
        return 0
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]}")
    packed = os.path.exists(PACKED)
    if not packed and not options.build:
        parser.error("--build is needed")
    programs = Programs(None if packed else os.path.abspath(options.build))
    device = describe_device(options.device)
    options.gpu = device["name"]
    results = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
               "command": "gpu.sh " + " ".join(sys.argv[1:]), "commit": programs.commit, "device": device,
               "peaks": peaks_of(options.gpu), "parts": {}}
    path = result_path(options)
    for name in options.parts or PARTS:
        run_part(name, programs, options, results)
        compare({part: one["result"] for part, one in results["parts"].items()})
        write(path, results)
    print_summary(results)
    print(path)
    return 0 if all(part["ok"] for part in results["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
