"""What the comparisons share: running a program for its time and memory, and where it ran."""
import json
import os
import platform
import subprocess
import sys
import time


def run(command, env):
    """The command's JSON lines, its wall seconds and its peak memory in bytes."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with {process.returncode}")
    wall = time.perf_counter() - begin
    lines = [json.loads(line) for line in out.decode().strip().splitlines()]
    return lines, wall, usage.ru_maxrss * 1024


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
