"""What a world is made of, and what may change from one life of its daemon to the next."""
import json

from lab import DEMO, MODEL, MODULES, STEP, change_safetensors, copy_model, demo_facts, malmend
from test_bf16 import narrow

POOL = demo_facts("heldout.ndjson") + demo_facts("train.ndjson")
SMALL_QUEUE = 6


class Shelf:
    """Models and editors, made when they are first asked for."""

    def __init__(self, directory):
        self.dir = directory
        self.made = {}

    def get(self, kind):
        """(the model, the editor, the number of edited modules)"""
        if kind not in self.made:
            self.made[kind] = getattr(self, kind)()
        return self.made[kind]

    def trained(self):
        return MODEL, DEMO / "editor.safetensors", 3

    def on_the_spot(self):
        return MODEL, None, 2

    def untrained(self):
        return MODEL, self.editor("untrained", MODEL, *self.malmen()), 3

    def ultraedit(self):
        return MODEL, self.editor("ultraedit", MODEL, "--method", "ultraedit", "--lr", STEP, "--blocks", 0,
                                  "--rank", 4), 3

    def bf16(self):
        model = copy_model(MODEL, self.dir / "bf16")
        change_safetensors(model / "model.safetensors", narrow)
        return model, self.editor("bf16", model, *self.malmen()), 3

    def malmen(self):
        return "--method", "malmen", "--blocks", 0, "--data", DEMO / "facts/train.ndjson", "--n-edits", 32

    def editor(self, name, model, *args):
        path = self.dir / f"{name}.safetensors"
        done = malmend("init-editor", "--model", model, *args, "--modules", ",".join(MODULES), "--out", path)
        assert done.returncode == 0, done.stderr
        return path


class Options:
    def __init__(self, rng, shelf, directory):
        self.rng, self.dir = rng, directory
        self.kind = rng.choices(["trained", "untrained", "ultraedit", "on_the_spot", "bf16"], [4, 2, 2, 3, 2])[0]
        self.model, self.editor, self.n_modules = shelf.get(self.kind)
        self.mixed = rng.random() < 0.4  # joint in one life, sequential in another
        self.update = rng.choice(["joint", "sequential"] if self.kind == "ultraedit" else ["joint"] * 3 +
                                 ["sequential"])
        self.pruned = False  # in this life or one before
        self.suite = rng.sample(POOL, 5)
        (directory / "suites").mkdir()
        (directory / "suites" / "five.ndjson").write_text("".join(json.dumps(f) + "\n" for f in self.suite))
        self.change()

    @property
    def joint(self):
        return self.update == "joint"

    def change(self):
        """Others, for the next life."""
        r = self.rng
        if self.mixed and r.random() < 0.6:
            self.update = r.choice(["joint", "sequential"])
        self.max_queue = r.choice([10000, 10000, SMALL_QUEUE])
        self.rounds = r.choice([4, 4, 1, 0])
        self.keep_versions = r.randint(0, 3)
        self.args = ["--device", "cpu", "--preserve-weight", 0, "--suites", self.dir / "suites",
                     "--update", self.update, "--max-queue", self.max_queue, "--repair-rounds", self.rounds,
                     "--keep-versions", self.keep_versions, "--batch-window-ms", r.choice([0, 5, 20, 150]),
                     "--keyframe-every", r.choice([0, 1, 2, 4]), "--max-batch-facts", r.choice([1024, 8]),
                     "--verify-limit", r.choice([4096, 4096, 5]),
                     "--consolidate-after", r.choice([64, 64, 3, 0])]
        if self.editor:
            self.args += ["--editor", self.editor]
        if r.random() < 0.5:
            self.args.append("--no-scrub")
        if r.random() < 0.4:
            self.pruned = True
            self.args += r.choice([["--retain-bytes", r.choice([1, 1500000, 4000000])],
                                   ["--retain-age", r.choice(["1s", "3s"])]])
        self.args = [str(arg) for arg in self.args]
