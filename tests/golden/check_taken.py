#!/usr/bin/env python3
"""Whether every case of cases/ is taken up by a program here.

    check_taken.py SOURCE_ROOT PROGRAM...

A program passes over the cases that are another's; one that no program takes would be passed over by all."""
import os
import subprocess
import sys

root, programs = sys.argv[1], sys.argv[2:]
taken = set()
for program in programs:
    env = {**os.environ, "MAL_SOURCE_ROOT": root, "MAL_GOLDEN_LIST": "1"}
    out = subprocess.run([program], env=env, capture_output=True, text=True, check=True).stdout
    taken.update(os.path.realpath(line) for line in out.splitlines())
cases = os.path.join(root, "tests/golden/cases")
there = [name for name in sorted(os.listdir(cases)) if os.path.exists(os.path.join(cases, name, "expected.json"))]
print(f"1..{len(there)}")
for i, name in enumerate(there):
    found = os.path.realpath(os.path.join(cases, name)) in taken
    print(f"{'' if found else 'not '}ok {i + 1} - {name} is taken")
