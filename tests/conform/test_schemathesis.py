"""schemathesis reads the description that the daemon serves, makes requests of it, valid and not, and
holds every answer against it. The same requests each time, as far as answers do not lead to others;
MALMEND_SEED=N makes others, MALMEND_EXAMPLES=N so many times as many."""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import packages

NO_PACKAGES = packages.enter()

import harness
from harness import Daemon
from lab import TINY_MODULES, change_safetensors, known, malmend, tiny_model
from tokens import Tokens, bearer

HERE = Path(__file__).parent
SEED = os.environ.get("MALMEND_SEED")
EXAMPLES = int(os.environ.get("MALMEND_EXAMPLES", "1"))


def tiny_daemon(directory):
    """A daemon of which a token is asked, with a few facts and a suite."""
    model, editor = tiny_model(directory / "model", positions=1024), directory / "editor.safetensors"
    made = malmend("init-editor", "--model", model, "--method", "malmen", "--modules",
                   ",".join(TINY_MODULES), "--lr", "0.001", "--rank", 4, "--out", editor)
    assert made.returncode == 0, made.stderr
    change_safetensors(editor, known)
    (directory / "suites").mkdir()
    (directory / "suites/towns.ndjson").write_text('{"prompt": "a", "target": "b"}\n')
    tokens = Tokens(directory)
    harness.MODEL_ARGS = ["--model", str(model), "--editor", str(editor)]
    d = Daemon("--tokens", tokens.path, "--suites", str(directory / "suites"),
               directory=str(directory))
    d.headers = bearer(tokens.of["admin"])
    for i in range(3):
        d.apply({"prompt": f"Prompt {i}", "target": f"answer {i}", "id": f"fact-{i}"})
    return d


@unittest.skipIf(NO_PACKAGES, NO_PACKAGES)
class Schemathesis(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory(prefix="malmend-")
        cls.dir = Path(cls.own.name)
        cls.d = tiny_daemon(cls.dir)

    @classmethod
    def tearDownClass(cls):
        cls.d.close()
        cls.own.cleanup()

    def run_phases(self, phases, n):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file",
                   HERE / "schemathesis.toml", "--no-color", "run",
                   f"http://{self.d.address}/openapi.json", "--phases", phases, "--max-examples",
                   str(n * EXAMPLES)]
        command += ["--seed", SEED] if SEED else ["--generation-deterministic"]
        for name, value in self.d.headers.items():
            command += ["--header", f"{name}: {value}"]
        done = subprocess.run(command, cwd=self.dir, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(HERE)})
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 0, said)
        self.healthy()

    def healthy(self):
        self.assertEqual(self.d.get("/readyz").status, 200)
        self.assertEqual(self.d.get("/v1/status").json["state"], "ready")
        for line in self.d.log:
            self.assertIn(line["level"], ("info", "warning"), line)

    def test_examples(self):
        self.run_phases("examples,coverage", 1)

    def test_fuzzing(self):
        self.run_phases("fuzzing", 30)

    def test_stateful(self):
        self.run_phases("stateful", 20)


if __name__ == "__main__":
    harness.main()
