"""The real daemon over a model of a few hundred numbers, for ../http/faults.py."""
import json
import os
import shutil
import sqlite3
import tempfile

import harness
from faults import Points
from harness import Daemon
from lab import Lab, tiny_model
from world import fact


if os.access("/dev/shm", os.W_OK):  # many starts, and none of them about the time a disk takes
    tempfile.tempdir = "/dev/shm"


class Broken(Lab, Points):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")
        facts = cls.dir / "facts.json"
        facts.write_text(json.dumps({"facts": [fact(i) for i in range(8)]}))
        cls.ok(cls(), "init-editor", "--model", cls.model, "--method", "malmen", "--data", facts,
               "--lr", 2 ** -8, "--out", cls.dir / "editor")
        harness.MODEL_ARGS = ["--model", str(cls.model), "--editor", str(cls.dir / "editor")]
        cls.used = cls.dir / "used"
        cls.used.mkdir()
        d = Daemon(directory=str(cls.used))
        d.apply(fact(100001))
        d.apply(fact(100002))
        d.stop()

    def with_log(self, pages):
        """A copy whose log has that many pages or some more."""
        to = self.dir / f"log{pages}"
        db = sqlite3.connect(self.used / "db", isolation_level=None)
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("INSERT INTO meta VALUES ('filler', ?)", ["x" * 40000])
        while (self.used / "db-wal").stat().st_size < pages * 4120:
            db.execute("UPDATE meta SET value = hex(randomblob(20000)) WHERE key = 'filler'")
        shutil.copytree(self.used, to)  # before its last connection shortens it
        db.close()
        return to

    def verify(self, db):
        self.ok("verify", "--db", db, "--model", self.model)
