"""Counts the single tests of a run, from the JUnit file meson writes; 1 if any failed."""
import sys
import xml.etree.ElementTree as ElementTree

passed, failed, skipped = 0, [], []
for suite in ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"):
    for case in suite.iter("testcase"):
        name = f"{suite.get('name')}: {case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif case.find("skipped") is not None:
            skipped.append(name)
        else:
            passed += 1
for kind, names in (("skipped", skipped), ("failed", failed)):
    for name in names:
        print(f"{kind}: {name}")
print(f"{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
sys.exit(1 if failed or passed == 0 else 0)
