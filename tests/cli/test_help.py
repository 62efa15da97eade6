"""What malmend says about itself: help, versions, wrong usage."""
import json
import re

from harness import main
from lab import Lab, each, malmend

OPTIONS = {
    "serve": "model editor data db listen tokens device update max-queue max-batch-facts "
             "batch-window-ms max-body max-bulk request-timeout max-connections max-connections-per-address "
             "max-event-streams "
             "read-stream keep-versions preserve preserve-weight repair-rounds repair-tau verify-limit "
             "no-scrub consolidate-after joint-memory keyframe-every retain-bytes retain-age "
             "min-free-disk probes gate-min-es gate-min-gs gate-min-ls gate-measure "
             "gate-min-agreement gate-max-norm-growth gate-max-perplexity-growth gate-bisect "
             "suites save-every check-config json config",
    "edit": "model editor data facts out save-model preserve preserve-weight repair-rounds "
            "repair-tau save-every verify device json",
    "eval": "model editor data n-edits batches update preserve preserve-weight repair-rounds "
            "repair-tau reset report per-fact device json",
    "train": "model data out valid method modules n-edits rank blocks meta-lr lr-meta-lr schedule "
             "warmup loc-coef max-norm micro-batch editor-batch loss epochs steps init lr preserve "
             "preserve-weight no-shuffle seed save-every valid-every patience resume log max-memory "
             "device json",
    "init-editor": "model method modules data n-edits lr rank blocks hyper preserve contexts seed out device "
                   "json",
    "complete": "model delta prompt max-tokens temperature top-p seed device json",
    "facts": "skip limit keep-first json",
    "tokenize": "model decode no-special json",
    "logits": "model delta tokens out hidden device json",
    "verify": "db model device json",
    "backup": "db out json",
    "token": "json",
    "export": "db model version format out rank json",
}


@each([(name.replace("-", "_"), name) for name in OPTIONS])
class Help(Lab):
    def check(self, command):
        text = self.ok(command, "--help")
        self.assertEqual(self.ok(command, "-h"), text)
        self.assertEqual(self.ok("help", command), text)
        self.assertLessEqual(max(map(len, text.splitlines())), 88)
        entries = dict(re.findall(r"^  --([a-z-]+)(.*?)(?=^  --|\Z)", text, re.M | re.S))
        entries.pop("help")
        self.assertEqual(sorted(entries), sorted(OPTIONS[command].split()))
        for name, entry in entries.items():
            self.assertRegex(entry, r"\((required|default:\s+\S.*?)\)", name)
        self.assertIn(f"  {command} ", self.ok("--help"))
        table = json.loads(self.ok(command, "--help=json"))
        named = [o["name"] for o in table["options"] if not o["positional"]]
        self.assertEqual(sorted(named + ["config"] * table["configurable"]), sorted(entries))
        self.assertEqual(table["command"], command)
        for option in table["options"]:
            self.assertIn(option["help"].split()[0], text)
            if option["default"]:
                self.assertIn(option["default"], entries[option["name"]])
        about, *tables = map(json.loads, self.ok("--help=json").splitlines())
        self.assertEqual([c["name"] for c in about["commands"]], [t["command"] for t in tables])
        self.assertIn(table, tables)


@each([
    ("nothing", [], "Usage"),
    ("unknown_command", ["verfy"], "did you mean 'verify'"),
    ("unknown_option", ["edit", "--modle", "x"], "did you mean --model"),
    ("required", ["complete", "--model", "x"], "--prompt TEXT is required"),
    ("no_value", ["complete", "--model"], "--model needs a value"),
    ("too_small", ["complete", "--model", "x", "--prompt", "y", "--max-tokens", "0"], "max-tokens"),
    ("too_large", ["complete", "--model", "x", "--prompt", "y", "--top-p", "1.5"], "top-p"),
    ("not_a_number", ["init-editor", "--model", "x", "--method", "mend", "--out", "y", "--lr", "a"],
     "--lr"),
    ("not_a_choice", ["init-editor", "--model", "x", "--method", "rome", "--out", "y"], "rome"),
    ("not_an_update", ["eval", "--model", "x", "--editor", "y", "--data", "z", "--update", "both"],
     "both"),
    ("tau_too_large", ["eval", "--model", "x", "--data", "z", "--repair-tau", "1.01"], "repair-tau"),
    ("tau_too_small", ["edit", "--model", "x", "--facts", "z", "--repair-tau", "-0.1"], "repair-tau"),
    ("tau_no_number", ["edit", "--model", "x", "--facts", "z", "--repair-tau", "most"], "repair-tau"),
    ("rounds_too_few", ["edit", "--model", "x", "--facts", "z", "--repair-rounds", "-1"],
     "repair-rounds"),
    ("rounds_too_many", ["eval", "--model", "x", "--data", "z", "--repair-rounds", "1001"],
     "repair-rounds"),
    ("half_a_round", ["eval", "--model", "x", "--data", "z", "--repair-rounds", "1.5"],
     "repair-rounds"),
    ("argument", ["verify", "--db", "x", "y"], "unexpected argument 'y'"),
    ("no_file", ["facts", "--limit", "1"], "FILE is required"),
    ("none_of_it", ["facts", "x", "--limit", "0"], "limit"),
    ("json_alone", ["serve", "--model", "x", "--db", "z", "--json"], "--check-config"),
    ("help_in_words", ["serve", "--help=words"], "no option"),
    ("not_served", ["serve", "--model", "x", "--editor", "y", "--db", "z", "--update", "both"], "both"),
])
class Usage(Lab):
    def check(self, args, says):
        done = malmend(*args)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(says, done.stderr.decode())
        self.assertEqual(done.stdout, b"")


class Version(Lab):
    def test_version(self):
        self.assertEqual(self.ok("help"), self.ok("--help"))
        self.assertEqual(malmend("help", "verfy").returncode, 2)
        self.assertRegex(self.ok("--version"), r"^malmend \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    main()
