"""The daemon over the fake engine without memory (faults.py)."""
import os
import re
import sqlite3
import subprocess
import tempfile
import unittest
from pathlib import Path

from everything import Everything, Pages
from faults import GONE, Point, Points
from harness import BINARY, Daemon, main
from no_memory import NoMemory
from world import fact


class Fake(unittest.TestCase, Points):
    @classmethod
    def setUpClass(cls):
        if os.access("/dev/shm", os.W_OK):  # this is not about the time a disk takes
            tempfile.tempdir = "/dev/shm"
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

    def excuses(self, told):
        """The fake engine checks little."""
        at = re.findall(r"malmend-fake[^ +]*\+(0x[0-9a-f]+)", told)
        lines = subprocess.run(["addr2line", "-e", BINARY, *at], capture_output=True, text=True)
        return "tests/unit/fake_" in lines.stdout

    def test_start(self):
        self.check_points(NoMemory("start", self.used, armed=True), 8)

    def test_edit(self):
        self.check_points(NoMemory("edit", self.used), 8)

    def test_everything(self):
        self.check_points(Everything("everything", self.dir, self.used), 8)

    def test_pages(self):
        self.check_points(Pages("pages", self.used), 3)

    def test_request_id(self):
        """Whichever allocation of a small answer fails."""
        kind, statuses = NoMemory("livez", self.used), []
        while len(statuses) < 10 or set(statuses[-5:]) != {200}:
            n = len(statuses) + 1
            d = Point(self, kind, n).begin(n)
            try:
                answer = d.call("GET", "/livez", headers={"X-Request-Id": f"mine-{n}"})
            except GONE:  # the library has none for the connection
                statuses.append(None)
                continue
            finally:
                d.close()
            statuses.append(answer.status)
            self.assertEqual(answer.headers["X-Request-Id"], f"mine-{n}", (n, statuses, answer.body))
            if answer.status == 503:
                self.assertEqual(answer.json["type"], "urn:malmend:problem:no-memory")
                self.assertEqual(answer.headers["Retry-After"], "1")
        self.assertGreater(statuses.count(503), 5, statuses)


if __name__ == "__main__":
    main()
