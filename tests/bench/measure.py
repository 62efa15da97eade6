"""What the comparisons share: running a program for its time and memory, and where it ran."""
import json
import os
import platform
import subprocess
import sys
import time


def execute(command, env=None, stderr=subprocess.DEVNULL):
    """The command's exit status, what it printed, its wall seconds and its resource usage."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=env)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, out.decode(), time.perf_counter() - begin, usage


def run(command, env):
    """The command's JSON lines, its wall seconds and its peak memory in bytes."""
    code, out, wall, usage = execute(command, env)
    if code != 0:
        sys.exit(f"{command[0]} failed with {code}")
    return [json.loads(line) for line in out.strip().splitlines()], wall, usage.ru_maxrss * 1024


def write_report(report, path):
    """As JSON, where a path is given."""
    if not path:
        return
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
