"""The daemon over the fake engine without memory (faults.py)."""
import sqlite3
import tempfile
import unittest
from pathlib import Path

from faults import Points
from harness import Daemon, main
from no_memory import NoMemory
from world import fact


class Fake(unittest.TestCase, Points):
    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory(prefix="malmend-")
        cls.dir = Path(cls.own.name)
        cls.used = cls.dir / "used"
        cls.used.mkdir()
        d = Daemon(directory=str(cls.used))
        d.apply(fact(100001))
        d.apply(fact(100002))
        d.stop()

    @classmethod
    def tearDownClass(cls):
        cls.own.cleanup()

    def verify(self, path):
        """The chain hashes of the fake engine are made up."""
        db = sqlite3.connect(path)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        self.assertEqual(db.execute("PRAGMA foreign_key_check").fetchall(), [])
        db.close()

    def test_start(self):
        self.check_points(NoMemory("start", self.used, armed=True), 8)

    def test_edit(self):
        self.check_points(NoMemory("edit", self.used), 8)


if __name__ == "__main__":
    main()
