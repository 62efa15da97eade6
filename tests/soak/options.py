"""What a world is made of, and what may change from one life of its daemon to the next."""
import json

import families
import gates
import slow
from lab import DEMO, MODEL, MODULES, STEP, change_safetensors, copy_model, demo_facts, malmend
from test_bf16 import narrow

POOL = demo_facts("heldout.ndjson") + demo_facts("train.ndjson")
SMALL_QUEUE = 6
KINDS = {"trained": 4, "untrained": 2, "ultraedit": 2, "on_the_spot": 3, "bf16": 2, "mend": 1, "memit": 1, "ft": 1,
         "locft": 1, **dict.fromkeys(families.KINDS, 1)}
ADDED_UP = ("mend", "memit", "ft", "locft")  # never in one system
TUNED = ("ft", "locft")


class Shelf:
    """Models and editors, made when they are first asked for."""

    def __init__(self, directory, only=None):
        self.dir = directory
        self.only = only or list(KINDS)
        self.made = {}

    def choose(self, rng):
        return rng.choices(self.only, [KINDS[kind] for kind in self.only])[0]

    def get(self, kind):
        """(the model, the editor, the number of edited tensors, the method, what may be taught)"""
        if kind not in self.made:
            self.made[kind] = families.get(kind) if kind in families.KINDS else (*getattr(self, kind)(), kind, POOL)
        return self.made[kind]

    def trained(self):
        return MODEL, DEMO / "editor.safetensors", 3

    def on_the_spot(self):
        return MODEL, None, 2

    def untrained(self):
        return MODEL, self.editor("untrained", MODEL, *self.malmen()), 3

    def ultraedit(self):
        return MODEL, self.editor("ultraedit", MODEL, "--method", "ultraedit", "--lr", STEP), 3

    def bf16(self):
        model = copy_model(MODEL, self.dir / "bf16")
        change_safetensors(model / "model.safetensors", narrow)
        return model, self.editor("bf16", model, *self.malmen()), 3

    def mend(self):
        return MODEL, self.editor("mend", MODEL, "--method", "mend", "--blocks", 0, "--data",
                                  DEMO / "facts/train.ndjson", "--n-edits", 32), 3

    def memit(self):
        text = self.dir / "text"
        text.write_text("".join(f"{fact['prompt']} {fact['target']}.\n" for fact in POOL))
        return MODEL, self.editor("memit", MODEL, "--method", "memit", "--preserve", text, "--contexts", 0, "--hyper",
                                  '{"v_steps": 15, "mom2_weight": 100}', modules=MODULES[:2]), 2

    def ft(self):
        return MODEL, self.editor("ft", MODEL, "--method", "ft", "--hyper",
                                  '{"lr": 1e-3, "steps": 40, "batch_size": 2}', modules=MODULES[1:2]), 2

    def locft(self):
        return MODEL, self.editor("locft", MODEL, "--method", "locft-bf", "--hyper",
                                  '{"lr": 1e-3, "epochs": 40, "batch_size": 2}', modules=MODULES[2:]), 1

    def malmen(self):
        return "--method", "malmen", "--blocks", 0, "--data", DEMO / "facts/train.ndjson", "--n-edits", 32

    def editor(self, name, model, *args, modules=MODULES):
        path = self.dir / f"{name}.safetensors"
        done = malmend("init-editor", "--model", model, *args, "--modules", ",".join(modules), "--out", path)
        assert done.returncode == 0, done.stderr
        return path


class Options:
    def __init__(self, rng, shelf, directory):
        self.rng, self.dir = rng, directory
        self.kind = shelf.choose(rng)
        self.model, self.editor, self.n_modules, self.method, self.pool = shelf.get(self.kind)
        self.family = json.loads((self.model / "config.json").read_text())["model_type"]
        self.mixed = rng.random() < 0.4 and not self.added_up  # joint in one life, sequential in another
        self.update = "sequential" if self.added_up else rng.choice(
            ["joint", "sequential"] if self.method == "ultraedit" else ["joint"] * 3 + ["sequential"])
        self.pruned = False  # in this life or one before
        self.suite = rng.sample(self.pool, 5)
        (directory / "suites").mkdir()
        (directory / "suites" / "five.ndjson").write_text("".join(json.dumps(f) + "\n" for f in self.suite))
        self.gate = gates.choose(rng) if rng.random() < 0.25 else {}
        (directory / "probes").write_text("".join(fact["prompt"] + "\n" for fact in self.pool[-40:]))
        self.bias = self.method == "ft"  # is edited, too
        self.change()

    @property
    def joint(self):
        return self.update == "joint"

    @property
    def added_up(self):
        return self.method in ADDED_UP

    @property
    def classifies(self):
        return self.family == "bert"

    def change(self):
        """Others, for the next life."""
        r = self.rng
        if self.mixed and r.random() < 0.6:
            self.update = r.choice(["joint", "sequential"])
        self.max_queue = r.choice([10000, 10000, SMALL_QUEUE])
        self.rounds = r.choice([4, 4, 1, 0])
        self.keep_versions = r.randint(0, 3)
        self.args = ["--device", "cpu", "--suites", self.dir / "suites",
                     "--update", self.update, "--max-queue", self.max_queue, "--repair-rounds", self.rounds,
                     "--keep-versions", self.keep_versions, "--batch-window-ms", r.choice([0, 5, 20, 150]),
                     "--keyframe-every", r.choice([0, 1, 2, 4]), "--max-batch-facts", r.choice([1024, 8]),
                     "--verify-limit", r.choice([4096, 4096, 5]),
                     "--consolidate-after", r.choice([64, 64, 3, 0])]
        if not self.added_up:
            self.args += ["--preserve-weight", 0]
        if self.method in TUNED:
            self.args += ["--save-every", r.choice([0, 0, 0.1, 30])]
        self.impatient = r.random() < 0.3
        if self.impatient:
            self.args += ["--request-timeout", slow.IMPATIENT]
        if self.editor:
            self.args += ["--editor", self.editor]
        self.args += gates.args(self.gate)
        if r.random() < 0.2:
            self.args += ["--probes", self.dir / "probes"]
        if r.random() < 0.5:
            self.args.append("--no-scrub")
        if r.random() < 0.4:
            self.pruned = True
            self.args += r.choice([["--retain-bytes", r.choice([1, 1500000, 4000000])],
                                   ["--retain-age", r.choice(["1s", "3s"])]])
        self.args = [str(arg) for arg in self.args]
