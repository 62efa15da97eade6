"""malmend serve --check-config: says before the start what the start would say, and more than its
first complaint."""
import json
import os
import sqlite3
import subprocess
import unittest
from unittest import mock

from harness import Daemon, main
import harness
from golden import CASES
from lab import (DEMO, MODEL, Lab, change_safetensors, demo_facts, each, known, malmend, snapshot,
                 tiny_model)

EDITOR = DEMO / "editor.safetensors"


class Checking(Lab):
    def check_config(self, *args, code=0, **options):
        """The report; nothing was touched."""
        options = {"model": MODEL, "editor": EDITOR, "db": self.dir / "db", **options}
        said = [word for name, value in options.items() if value is not None
                for word in ("--" + name.replace("_", "-"), value)]
        before = snapshot(self.dir)
        done = malmend("serve", "--check-config", "--json", *said, *args)
        self.assertEqual(done.returncode, code, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["valid"], code == 0)
        for problem in report["problems"]:
            self.assertIn(problem["detail"], done.stderr.decode())
        self.assertEqual(snapshot(self.dir), before)
        return report

    def problems(self, **options):
        report = self.check_config(code=1, **options)
        return {p["option"]: p["detail"] for p in report["problems"]}


class Good(Checking):
    def test_report(self):
        report = self.check_config()
        self.assertEqual(report["problems"] + report["warnings"], [])
        self.assertEqual(report["found"], {
            "model": {"architecture": "gpt2", "parameters": 2087040, "dtype": "F16",
                      "edit_modules": 3},
            "editor": {"file": str(EDITOR), "method": "malmen"},
            "database": {"exists": False, "to_be_migrated": False, "live_version": None}})
        self.assertEqual(report["options"]["max_body"], 16 << 20)
        self.assertIsNone(report["options"]["gate_min_es"])

    def test_architectures(self):
        """Each is described without its weights."""
        for name in ("bert", "gptj", "llama", "mistral", "phi3", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2",
                     "t5"):
            case = CASES / (name + ("-mend" if name == "mistral" else "-malmen"))
            report = self.check_config(model=case / "model", editor=case / "editor.safetensors")
            expected = json.loads((case / "expected.json").read_text())
            self.assertEqual(report["found"]["model"]["architecture"],
                             "gemma3_text" if name == "gemma3" else name)
            self.assertEqual(report["found"]["model"]["edit_modules"], len(expected["modules"]), name)

    def test_origins(self):
        """Command line before environment before file before default, and it is said which."""
        config = self.write("config.json", {"max_queue": 7, "keep_versions": 3, "repair_tau": 0.5})
        with mock.patch.dict(os.environ, MALMEND_KEEP_VERSIONS="4", MALMEND_MAX_QUEUE="8"):
            report = self.check_config("--max-queue", 9, config=config)
        names = ("max_queue", "keep_versions", "repair_tau", "verify_limit", "preserve", "no_scrub")
        self.assertEqual([report["options"][n] for n in names], [9, 4, 0.5, 4096, None, False])
        self.assertEqual([report["origins"][n] for n in names],
                         ["--max-queue", "MALMEND_KEEP_VERSIONS", f"{config}: 'repair_tau'", "default",
                          None, "default"])
        self.assertEqual(set(report["origins"]), set(report["options"]))

    def test_is_a_config_file(self):
        """What it would run with, given back as a file, is what it would run with."""
        first = self.check_config("--gate-min-es", 0.25, "--retain-age", "30d")["options"]
        config = self.write("again.json", first)
        done = malmend("serve", "--check-config", "--json", "--config", config)
        self.assertEqual(json.loads(done.stdout)["options"], first)

    def test_tokens(self):
        """With them it may listen anywhere."""
        tokens = self.write("tokens", f"ops admin {64 * '0'}\n")
        tokens.chmod(0o600)
        report = self.check_config(tokens=tokens, listen="0.0.0.0:8780")
        self.assertEqual(report["warnings"], [])
        tokens.chmod(0o644)
        report = self.check_config(tokens=tokens, listen="[::]:8780")
        self.assertEqual([w["option"] for w in report["warnings"]], ["tokens"])

    def test_text(self):
        done = malmend("serve", "--check-config", "--model", MODEL, "--db", self.dir / "db")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        text = done.stdout.decode()
        self.assertRegex(text, r"(?m)^max_queue +10000 +default$")
        self.assertRegex(text, r"(?m)^repair_tau +0\.9 +default$")
        self.assertRegex(text, r"(?m)^model: gpt2, 2087040 parameters")
        self.assertIn("editor: none yet", text)

    def test_not_from_elsewhere(self):
        """That it is to check, not to serve, is said on the command line only."""
        config = self.write("check.json", {"check_config": True})
        done = malmend("serve", "--config", config)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no option 'check_config'", done.stderr.decode())
        with mock.patch.dict(os.environ, MALMEND_JSON="true"):
            done = malmend("serve", "--check-config", "--model", MODEL, "--db", self.dir / "db")
        self.assertRegex(done.stdout.decode(), "(?m)^model +")


@each([
    ("no_model", {"model": "none"}, {"model": "none/config.json"}),
    ("no_editor", {"editor": "none"}, {"editor": "none"}),
    ("no_directory", {"db": "none/db"}, {"db": "none"}),
    ("directory", {"db": "/"}, {"db": "not a regular file"}),
    ("not_a_database", {"db": str(MODEL / "config.json")}, {"db": "not a database"}),
    ("listen", {"listen": "everywhere"}, {"listen": "expected ADDRESS:PORT"}),
    ("listen_open", {"listen": "0.0.0.0:80"}, {"listen": "without --tokens"}),
    ("tokens", {"tokens": "none"}, {"tokens": "none"}),
    ("tokens_bad", {"tokens": str(MODEL / "config.json")}, {"tokens": "line 1"}),
    ("listen_file", {"listen": f"unix:{MODEL}/config.json"}, {"listen": "is not a socket"}),
    ("listen_nowhere", {"listen": "unix:none/socket"}, {"listen": "No such file"}),
    ("listen_long", {"listen": "unix:/" + 110 * "x"}, {"listen": "must have 1 to 107 bytes"}),
    ("device", {"device": "tpu"}, {"device": "must be auto"}),
    ("probes", {"probes": "none"}, {"probes": "none"}),
    ("preserve", {"preserve": "none"}, {"preserve": "none"}),
    ("suites", {"suites": "none"}, {"suites": "none"}),
    ("data", {"editor": None, "data": "none"}, {"data": "none"}),
    ("joint_memory", {"joint_memory": 1000}, {"editor": "--joint-memory allows 1000"}),
    ("all", {"model": "none", "db": "none/db", "listen": ":", "device": "x"},
     {"model": "none", "db": "none", "listen": ":", "device": "x"}),
])
class Bad(Checking):
    def check(self, options, expected):
        found = self.problems(**options)
        self.assertEqual(set(found), set(expected))
        for option, says in expected.items():
            self.assertIn(says, found[option])


class Fit(Checking):
    """Files that are fine by themselves and not with each other."""

    def test_editor_of_other_shapes(self):
        tiny = tiny_model(self.dir / "tiny")
        self.assertIn("in the model, the editor has", self.problems(model=tiny)["editor"])

    def test_editor_of_another_model(self):
        """Same shapes, other weights."""
        one, two = tiny_model(self.dir / "one", 1), tiny_model(self.dir / "two", 2)
        editor = self.editor("of-one", model=one, modules=["transformer.h.0.mlp.c_proj"])
        self.check_config(model=one, editor=editor)
        self.assertIn("made for another base model", self.problems(model=two, editor=editor)["editor"])

    def test_mend_and_joint(self):
        editor = self.editor("mend", method="mend")
        change_safetensors(editor, known)
        self.assertIn("MEND", self.problems(editor=editor, update="joint")["editor"])
        self.check_config(editor=editor)

    def test_untrained_editor(self):
        for method in "malmen", "mend":
            editor = self.editor("untrained", method)
            said = self.problems(editor=editor)["editor"]
            self.assertEqual(said, f"{editor}: the editor has no statistics: train it, or make it "
                                   "with init-editor --data")
        self.check_config(editor=self.editor("running", "ultraedit"))

    def test_texts_too_long(self):
        long = self.write("long.json", [{"prompt": "x " * 500, "target": "y"}])
        (self.dir / "suites").mkdir()
        self.write("suites/long.json", [{"prompt": "x " * 500, "target": "y"}])
        found = self.problems(probes=long, data=long, suites=self.dir / "suites", editor=None)
        self.assertEqual(set(found), {"probes", "data", "suites"})

    def test_tokenizer(self):
        model = tiny_model(self.dir / "no-tokenizer")
        (model / "tokenizer.json").unlink()
        self.assertIn("tokenizer", self.problems(model=model, editor=None)["model"])

    def test_without_a_model(self):
        """Its fault hides none of the other files'."""
        bad = self.write("bad.json", "[{]")
        no_tokenizer = tiny_model(self.dir / "untokenized")
        (no_tokenizer / "tokenizer.json").unlink()
        for model in "none", no_tokenizer:
            found = self.problems(model=model, editor=bad, preserve=bad, probes=bad)
            self.assertEqual(set(found), {"model", "editor", "preserve", "probes"})
            for option in "editor", "preserve", "probes":
                self.assertIn(str(bad), found[option])
            found = self.problems(model=model, editor=None, data=bad)
            self.assertEqual(set(found), {"model", "data"})
        report = self.check_config(code=1, model="none", data=bad)
        self.assertEqual(report["found"]["editor"], {"file": str(EDITOR), "method": "malmen"})
        self.assertIn("in the model, the editor has", self.problems(model=no_tokenizer)["editor"])

    def warnings(self, code=0, **options):
        report = self.check_config("--gate-max-perplexity-growth", 0.1, code=code, **options)
        return {w["option"]: w["detail"] for w in report["warnings"]}

    def test_perplexity(self):
        """A gate that will not be measured."""
        text = self.write("text.txt", "Ordinary text, of more than a token.\n")
        bare = self.editor("bare", method="ultraedit")
        lacks = {"gate_max_perplexity_growth": "--gate-max-perplexity-growth is given, and neither "
                                               "--preserve nor the editor has a text to measure it on"}
        self.assertEqual(self.warnings(editor=bare), lacks)
        self.assertEqual(self.warnings(editor=None), lacks)
        self.assertEqual(self.warnings(editor=bare, model="none", code=1), lacks)
        self.assertEqual(self.warnings(editor=bare, preserve=text), {})
        self.assertEqual(self.warnings(editor="none", code=1), {})
        self.assertEqual(self.warnings(editor=bare, preserve="none", code=1), {})
        case = CASES / "bert-malmen"
        said = self.warnings(model=case / "model", editor=case / "editor.safetensors", preserve=text)
        self.assertIn("a fact checker has no perplexity", said["gate_max_perplexity_growth"])

    @unittest.skipIf(os.geteuid() != 0, "needs another user")
    def test_read_only(self):
        """Another user's directory: root may write anywhere."""
        self.dir.chmod(0o755)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", harness.BINARY, "serve",
             "--check-config", "--json", "--model", MODEL, "--db", self.dir / "new"],
            capture_output=True, timeout=60)
        if done.returncode not in (0, 1) or not done.stdout:
            self.skipTest(f"nobody cannot run the binary here: {done.stderr}")
        problems = {p["option"]: p["detail"] for p in json.loads(done.stdout)["problems"]}
        self.assertIn("Permission denied", problems["db"])


class Database(Checking):
    def serve(self, name, model=MODEL, editor=EDITOR):
        directory = self.dir / name
        directory.mkdir()
        harness.MODEL_ARGS = ["--model", str(model), "--editor", str(editor)]
        d = Daemon("--repair-rounds", "0", directory=str(directory))
        self.addCleanup(d.close)
        return d, directory / "db"

    def test_in_use(self):
        """Before the restart of a daemon that runs."""
        d, db = self.serve("running")
        d.apply(*demo_facts(n=2))
        report = self.check_config(db=db)
        self.assertEqual(report["found"]["database"],
                         {"exists": True, "to_be_migrated": False, "live_version": 1})
        other = self.editor("other", modules=["transformer.h.0.mlp.c_proj"])
        self.assertIn("modules", self.problems(db=db, editor=other)["db"])
        warned = self.check_config("--min-free-disk", 10**17, db=db)["warnings"]
        self.assertEqual([w["option"] for w in warned], ["min_free_disk"])
        self.assertEqual(d.get("/readyz").status, 200)

    def test_of_another_model(self):
        one, two = tiny_model(self.dir / "m1", 1), tiny_model(self.dir / "m2", 2)
        editor = self.editor("any", model=one, modules=["transformer.h.0.mlp.c_proj"])
        d, db = self.serve("tiny", one, editor)
        self.assertIn("base_model", self.problems(db=db, model=two, editor=None)["db"])

    def test_schemas(self):
        """An older one would be migrated, a newer one is refused."""
        d, db = self.serve("schema")
        self.assertEqual(d.stop(), 0)
        with sqlite3.connect(db) as sql:
            newest, = sql.execute("PRAGMA user_version").fetchone()
            sql.execute(f"PRAGMA user_version = {newest - 1}")
        report = self.check_config(db=db)
        self.assertTrue(report["found"]["database"]["to_be_migrated"])
        self.assertEqual([w["option"] for w in report["warnings"]], ["db"])
        with sqlite3.connect(db) as sql:
            sql.execute(f"PRAGMA user_version = {newest + 1}")
        self.assertIn("schema", self.problems(db=db)["db"])


if __name__ == "__main__":
    main()
