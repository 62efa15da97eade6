"""Dashboard, alert rules and description of the metrics: what they name must be there, and what
promtool says of them. Without promtool (no network) its tests are skipped by name."""
import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

try:
    import yaml
except ImportError as missing:
    print(f"1..0 # SKIP {missing}")
    sys.exit(0)
import harness
import prometheus
from harness import Daemon
from world import fact

ROOT = Path(os.environ["MAL_SOURCE_ROOT"])
DEPLOY = ROOT / "deploy"
METRIC = re.compile(r"\b(?:malmend|process)_[a-z0-9_]+\b")
SELECTOR = re.compile(r"\b((?:malmend|process)_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
# Of the scrape, not of the daemon.
TARGET = {"job", "instance"}


def dashboard():
    return json.loads((DEPLOY / "grafana/malmend.json").read_text())


def rules():
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_expressions():
    board = dashboard()
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for note in board["annotations"]["list"]:
        yield note["name"], note["expr"]


def expressions():
    yield from dashboard_expressions()
    for rule in rules():
        yield rule["alert"], rule["expr"]


def base_name(name):
    return re.sub(r"_(bucket|sum|count)$", "", name)


class Names(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A daemon that has done a bit of everything."""
        d = Daemon("--update", "joint", "--batch-window-ms", "0")
        d.apply(fact(1), fact(2))
        d.complete("x")
        d.get("/nothing")
        cls.text = d.get("/metrics").body
        cls.families = prometheus.parse(cls.text)
        d.close()

    def test_expressions(self):
        n = 0
        for place, text in expressions():
            names = METRIC.findall(text)
            self.assertTrue(names or text.startswith("up{"), (place, text))
            for name in names:
                family = self.families.get(base_name(name)) or self.families.get(name)
                self.assertIsNotNone(family, f"{place}: {name}")
                self.assertEqual(family.type == "histogram", name != family.name,
                                 f"{place}: {name} is a {family.type}")
                n += 1
        self.assertGreater(n, 80)

    def test_labels(self):
        for place, text in expressions():
            for name, matchers in SELECTOR.findall(text):
                for label, how, value in MATCHER.findall(matchers):
                    if label in TARGET:
                        continue
                    family = self.families[base_name(name)]
                    have = {labels.get(label) for suffix in ("", "_bucket")
                            for labels in family.labels(suffix)}
                    self.assertNotIn(None, have, f"{place}: {name} has no label {label}")
                    if how == "=" and label not in ("code",):
                        self.assertIn(value, have, f"{place}: {name}{{{label}}}")

    def test_counters_are_not_shown_raw(self):
        shown_raw = {"malmend_versions_pruned_total"}
        for place, text in expressions():
            for name in METRIC.findall(text):
                if name.endswith(("_total", "_bucket")) and name not in shown_raw:
                    self.assertRegex(text, rf"(rate|increase)\({name}", place)

    def test_description(self):
        """The table in deploy/prometheus/README.md says of each what the daemon says."""
        text = (DEPLOY / "prometheus/README.md").read_text()
        table = re.findall(r"^\| `((?:malmend|process)_\w+)` \| (.*) \| (.*) \| (.*) \|$", text, re.M)
        table = {name: (kind, labels, words) for name, kind, labels, words in table}
        for name, family in self.families.items():
            labels = {label for suffix in ("", "_bucket") for labels in family.labels(suffix)
                      for label in labels} - {"le"}
            said = family.type, ", ".join(sorted(labels)), family.help
            self.assertEqual(table.pop(name, None), said, name)
        self.assertEqual(table, {})

    def test_promtool_takes_the_metrics(self):
        done = promtool(self, "check", "metrics", stdin=self.text)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, b""))


class Dashboard(unittest.TestCase):
    def test_form(self):
        board = dashboard()
        self.assertGreaterEqual(board["schemaVersion"], 36)
        ids = [panel["id"] for panel in board["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
        self.assertEqual(rows, ["Service", "Queue and batches", "Quality", "Reads and latency",
                                "Storage", "Process"])
        names = [v["name"] for v in board["templating"]["list"]]
        self.assertEqual(names, ["datasource", "job", "instance"])
        self.assertEqual(board["templating"]["list"][0]["type"], "datasource")
        for panel in panels():
            self.assertEqual(panel["datasource"]["uid"], "${datasource}", panel["title"])
            for target in panel["targets"]:
                self.assertEqual(target["datasource"]["uid"], "${datasource}", panel["title"])

    def test_every_expression_is_of_the_chosen_daemon(self):
        for place, text in dashboard_expressions():
            self.assertEqual(len(METRIC.findall(text)), text.count('job="$job",instance=~"$instance"'),
                             place)

    def test_nothing_overlaps(self):
        taken = {}
        for panel in dashboard()["panels"]:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    self.assertNotIn((x, y), taken, panel["title"])
                    taken[x, y] = panel["title"]


class Rules(unittest.TestCase):
    def test_form(self):
        names = [rule["alert"] for rule in rules()]
        self.assertEqual(len(names), len(set(names)))
        for rule in rules():
            self.assertRegex(rule["alert"], "^Malmend[A-Z]")
            self.assertIn(rule["labels"]["severity"], ("page", "ticket"))
            for key in "summary", "description", "runbook":
                self.assertGreater(len(rule["annotations"][key]), 20, (rule["alert"], key))

    def test_every_rule_is_tested(self):
        cases = yaml.safe_load((ROOT / "tests/monitoring/alerts_test.yaml").read_text())["tests"]
        names = {case["name"] for case in cases}
        self.assertEqual({rule["alert"] for rule in rules()} - names, set())


TOOL = None  # path, or why there is none


def promtool(case, *args, stdin=b""):
    global TOOL  # pylint: disable=global-statement
    if TOOL is None:
        script = ROOT / "tests/monitoring/promtool.sh"
        try:
            found = subprocess.run(["sh", script, os.environ["MALMEND_TOOLS"]], timeout=200,
                                   capture_output=True, check=True)
            TOOL = Path(found.stdout.decode().strip())
        except (subprocess.SubprocessError, OSError) as error:
            words = (getattr(error, "stderr", None) or str(error).encode()).decode().split("\n")
            TOOL = "no promtool: " + [word for word in words if word][-1]
    if isinstance(TOOL, str):
        case.skipTest(TOOL)
    return subprocess.run([TOOL, *map(str, args)], input=stdin, capture_output=True, timeout=100,
                          cwd=DEPLOY / "prometheus")


class Promtool(unittest.TestCase):
    def ok(self, *args):
        done = promtool(self, *args)
        self.assertEqual(done.returncode, 0, (done.stdout + done.stderr).decode())
        return done.stdout.decode()

    def test_rules(self):
        self.assertIn(f"{len(rules())} rules found", self.ok("check", "rules", "alerts.yaml"))

    def test_config(self):
        self.ok("check", "config", "prometheus.yaml")

    def test_what_the_rules_say(self):
        self.ok("test", "rules", ROOT / "tests/monitoring/alerts_test.yaml")

    def test_expressions_of_the_dashboard(self):
        """They are PromQL: as rules, promtool can read them."""
        group = [{"record": f"dashboard:panel:{i}",
                  "expr": text.replace("$__rate_interval", "5m").replace("$", "")}
                 for i, (_, text) in enumerate(dashboard_expressions())]
        path = Path(os.environ["MALMEND_TOOLS"]) / "dashboard.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": group}]}))
        self.assertIn(f"{len(group)} rules found", self.ok("check", "rules", path))


if __name__ == "__main__":
    harness.main()
