"""The real daemon without memory, from its start and through an edit (../http/faults.py)."""
import os
import random
import subprocess

import harness
from broken import Broken
from everything import Everything, Pages
from faults import SEED
from harness import main
from lab import MALMEND
from no_memory import NoMemory


class Real(Broken):
    def test_first_start(self):
        self.check_points(NoMemory("first start", armed=True), 8)

    def test_next_start(self):
        self.check_points(NoMemory("next start", self.used, armed=True), 8)

    def test_edit(self):
        self.check_points(NoMemory("edit", self.used), 8)

    def test_everything(self):
        self.check_points(Everything("everything", self.dir, self.used), 6)

    def test_pages(self):
        self.check_points(Pages("pages", self.used), 3)

    def check_config(self, n, *more):
        """What it prints and its exit code; what it says in any way."""
        told = self.dir / "told"
        env = {"LD_PRELOAD": os.environ["MALMEND_NO_MEMORY_LIBRARY"], "MALMEND_NO_MEMORY_ARMED": "1",
               "MALMEND_NO_MEMORY_AT": str(n), "MALMEND_NO_MEMORY_TOLD": str(told)}
        done = subprocess.run([MALMEND, "serve", "--check-config", *harness.MODEL_ARGS, "--db",
                               self.dir / "none", *more], capture_output=True, text=True,
                              env={**os.environ, "OMP_WAIT_POLICY": "passive", **env})
        return (done.stdout, done.returncode), done.stdout + done.stderr, told

    def test_check_config(self):
        """All that there is to say, or that memory is out."""
        for more in (), ("--json",):
            good, _, told = self.check_config(0, *more)
            self.assertEqual(good[1], 0)
            count = int(told.read_text())
            for n in random.Random(SEED).sample(range(1, count + 1), 8):
                came, said, _ = self.check_config(n, *more)
                if came != good:
                    self.assertEqual(came[1], 1, (n, said))
                    self.assertRegex(said, "memory")


if __name__ == "__main__":
    main()
