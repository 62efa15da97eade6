"""A model in bf16: facts' values, and deltas that are added up, are stored in two bytes a number, and facts are
held, repaired, taken back and brought back by them as by four."""
import json
import sqlite3
import struct

import harness
from harness import main
from lab import DEMO, MODEL, MODULES, change_safetensors, copy_model
from life_lab import A, B, Life
from test_serve import roll_back, version


def narrow(_, tensors):
    """Half precision to bf16."""
    for name, (_, shape, data) in tensors.items():
        values = struct.unpack(f"<{len(data) // 2}e", data)
        wide = struct.pack(f"<{len(values)}f", *values)
        out = bytearray(len(data))
        out[0::2], out[1::2] = wide[2::4], wide[3::4]
        tensors[name] = "BF16", shape, bytes(out)


class Values(Life):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = copy_model(MODEL, cls.dir / "model")
        change_safetensors(cls.model / "model.safetensors", narrow)
        cls.editor_file = cls.dir / "editor"
        cls.ok(cls(), "init-editor", "--model", cls.model, "--method", "malmen", "--blocks", 0, "--data",
               DEMO / "facts/train.ndjson", "--n-edits", 32, "--modules", ",".join(MODULES), "--out",
               cls.editor_file)

    def sizes(self, d):
        """By fact, of all that is stored."""
        with sqlite3.connect(f"file:{d.db}?mode=ro", uri=True) as db:
            return db.execute("SELECT fact, length(data) FROM fact_values ORDER BY fact, version") \
                .fetchall()

    def delta(self, d, number):
        """By module, of a version's delta."""
        with sqlite3.connect(f"file:{d.db}?mode=ro", uri=True) as db:
            return db.execute("SELECT name, bytes FROM blobs WHERE version = ? AND name LIKE 'delta/%'"
                              " ORDER BY name", (number,)).fetchall()

    def types(self, d, number):
        with sqlite3.connect(f"file:{d.db}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT header_json FROM blobs WHERE version = ? AND name LIKE 'delta/%'",
                              (number,))
            return {json.loads(text)["dtype"] for text, in rows}

    def bf16(self, *args, **kwargs):
        self.addCleanup(setattr, harness, "MODEL_ARGS", harness.MODEL_ARGS)
        self.use(self.editor_file, self.model)
        return self.serve(*args, **kwargs)

    def test_sequential(self):
        """Deltas that are added up, without a system."""
        args = "--update", "sequential", "--repair-rounds", "0"
        d = self.serve(*args, name="sequential")
        self.teach(d, A)
        wide = self.delta(d, 1)
        d = self.bf16(*args, name="bf16-sequential")
        self.teach(d, A)
        self.assertEqual(self.delta(d, 1), [(name, n // 2) for name, n in wide])
        self.assertEqual(self.types(d, 1), {"BF16"})
        self.teach(d, B)
        roll_back(d, 1)
        self.assertEqual(version(d, 3)["weights_hash"], version(d, 1)["weights_hash"])
        self.json("verify", "--db", d.db, "--model", self.model)

    def test_values(self):
        d = self.serve()  # the model as it is, in half precision
        self.teach(d, A)
        wide = self.sizes(d)
        d = self.bf16(name="bf16")
        job, ids = self.teach(d, A)
        self.assertEqual(self.sizes(d), [(fact, n // 2) for fact, n in wide])
        self.assertEqual(self.types(d, 1), {"F32"}, "facts leave the system")
        self.assertEqual(job["result"]["measures"]["decoded"]["es"], 1)
        base = self.say(d, A, "base")
        taught = self.say(d, A)
        self.assertEqual(taught, [f["target"] for f in A])
        self.teach(d, B)
        d.kill()
        d.start()  # the system is made again, of what is stored
        self.retract(d, *ids[:2])
        self.retract(d, *ids[2:4], mode="drop")
        said = self.say(d, A)
        self.assertEqual(said[:2], base[:2])
        self.assertEqual(said[4:], taught[4:])
        back = roll_back(d, 2)
        self.assertEqual(back["weights_hash"], version(d, 2)["weights_hash"])
        self.assertEqual(self.say(d, A)[:4], taught[:4])
        self.retract(d, *ids, *[f["id"] for f in self.facts(d, state="live") if f["id"] not in ids])
        self.assertEqual(version(d, d.get("/v1/status").json["live_version"])["weights_hash"],
                         version(d, 0)["weights_hash"], "nothing is left of them")
        report = self.json("verify", "--db", d.db, "--model", self.model)
        self.assertEqual(report["chain_hash"], version(d, report["versions"] - 1)["chain_hash"])


    def test_dropped_as_if_never(self):
        """What rounding takes from a delta comes back hundreds of times larger where its facts are dropped."""
        once = "--repair-rounds", "0", "--no-scrub", "--preserve-weight", "0"
        d, short = self.bf16(*once, name="long"), self.bf16(*once, name="short")
        self.teach(d, A)
        _, ids = self.teach(d, B)
        self.retract(d, *ids, mode="drop")
        self.teach(short, A)
        self.alike(d, short)


del Life  # a base, not a test of its own

if __name__ == "__main__":
    main()
