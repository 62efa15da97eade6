"""Nothing of CUDA is touched before a device is asked for; one that is broken is an error or, with
auto, a word about the CPU instead."""
import os
import subprocess
import unittest

from harness import main
from lab import DEMO, MALMEND, MODEL, Lab

FACTS = DEMO / "facts" / "demo-edit.json"


def built_with_cuda():
    done = subprocess.run([MALMEND, "complete", "--model", MODEL, "--prompt", "a", "--device", "cuda:0"],
                          capture_output=True, text=True)
    return "built without CUDA" not in done.stderr


class NoDevice(Lab):
    def run_with(self, *args):
        """What came of it, and whether the driver was loaded."""
        loaded = self.dir / "loaded"
        loaded.unlink(missing_ok=True)
        env = {**os.environ, "LD_LIBRARY_PATH": os.environ["MALMEND_NO_DRIVER_DIR"],
               "MALMEND_DRIVER_LOADED": str(loaded)}
        done = subprocess.run([MALMEND, *map(str, args)], capture_output=True, text=True, env=env)
        return done, loaded.exists()

    def test_not_asked_for(self):
        complete = ("complete", "--model", MODEL, "--prompt", "a", "--max-tokens", 1)
        for args in (("--help",), ("serve", "--help"), ("tokenize", "--help"),
                     ("serve", "--check-config", "--model", MODEL, "--db", self.dir / "db", "--device", "cpu"),
                     (*complete, "--device", "cpu"),
                     ("edit", "--model", MODEL, "--editor", DEMO / "editor.safetensors", "--facts", FACTS,
                      "--out", self.dir / "out", "--repair-rounds", 0, "--device", "cpu")):
            done, loaded = self.run_with(*args)
            self.assertEqual((done.returncode, loaded), (0, False), (args, done.stderr))

    def test_no_such_name(self):
        """Said before anything is opened, as wrong usage: a service manager would try again and again."""
        done, loaded = self.run_with("serve", "--model", MODEL, "--db", self.dir / "db", "--device", "gpu")
        self.assertEqual((done.returncode, loaded, (self.dir / "db").exists()), (2, False, False), done.stderr)
        self.assertIn("--device: device 'gpu': must be auto, cpu,", done.stderr)

    @unittest.skipUnless(built_with_cuda(), "built without CUDA")
    def test_asked_for(self):
        complete = ("complete", "--model", MODEL, "--prompt", "a", "--max-tokens", 1)
        done, loaded = self.run_with(*complete, "--device", "cuda:0")
        self.assertEqual((done.returncode, loaded), (1, True))
        self.assertRegex(done.stderr, "^malmend: cuda:0: .")
        done, loaded = self.run_with(*complete, "--device", "auto")
        self.assertEqual((done.returncode, loaded), (0, True), done.stderr)


if __name__ == "__main__":
    main()
