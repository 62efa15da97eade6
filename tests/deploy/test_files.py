"""What is made from the tables of options: equal to what the binary says of itself."""
import json
import os
import subprocess
import sys
from pathlib import Path

from harness import main
from lab import DEMO, MODEL, Lab, malmend

DEPLOY = Path(os.environ["MAL_SOURCE_ROOT"]) / "deploy"
MALMEND = os.environ["MALMEND_BIN"]


def generate(what, *template):
    done = subprocess.run([sys.executable, DEPLOY / "generate.py", what, MALMEND, *template],
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


class Config(Lab):
    def test_every_option(self):
        """To be made again with `deploy/generate.py config MALMEND > deploy/malmend.json`."""
        self.assertEqual((DEPLOY / "malmend.json").read_text(), generate("config"))

    def test_defaults(self):
        """With the file, all is as without it but for the places."""
        args = ["serve", "--check-config", "--json", "--model", MODEL, "--db", self.dir / "db",
                "--editor", DEMO / "editor.safetensors"]
        bare = json.loads(malmend(*args).stdout)
        done = malmend(*args, "--config", DEPLOY / "malmend.json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["options"], bare["options"])


if __name__ == "__main__":
    main()
