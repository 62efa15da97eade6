"""Counts the single tests of a run, from the JUnit file meson writes, and shows what those said that
failed; 1 if any failed."""
import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

MOST_LINES = 40  # of what a test said
GOOD = ("OK", "SKIP", "EXPECTEDFAIL")


def said(suite, name):
    """The comments that follow a test's line; without any, what stands before it."""
    lines = (suite.findtext("system-out") or "").splitlines()
    for i, line in enumerate(lines):
        if line.startswith("not ok ") and line.endswith(name):
            more = [j for j in range(i + 1, len(lines)) if not lines[j].startswith("#")]
            return lines[i + 1:more[0] if more else len(lines)] or lines[:i]
    return lines + (suite.findtext("system-err") or "").splitlines()


def ended_badly(path, known):
    """Programs that failed without a test of theirs that did: (name, lines)."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        run = json.loads(line)
        if run["result"] not in GOOD and run["name"] not in known:
            lines = (run.get("stdout", "") + "\n" + run.get("stderr", "")).strip().splitlines()
            yield f"{run['name']}: {run['result']}, exit status {run['returncode']}", lines


passed, failed, skipped, programs = 0, [], [], set()
for suite in ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"):
    for case in suite.iter("testcase"):
        name = f"{suite.get('name')}: {case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            if case.get("time") is None:  # otherwise it is a program
                failed.append((name, said(suite, case.get("name").split(" - ", 1)[-1])))
                programs.add(suite.get("name").split(".", 1)[-1])
        elif case.find("skipped") is not None:
            skipped.append(name)
        else:
            passed += 1
failed += ended_badly(pathlib.Path(sys.argv[1]).with_name("testlog.json"), programs)
for name in skipped:
    print(f"skipped: {name}")
for name, lines in failed:
    print(f"failed: {name}")
    for line in lines[-MOST_LINES:]:
        print("    " + line)
print(f"{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
sys.exit(1 if failed or passed == 0 else 0)
