"""The database's files go away, are replaced, or cannot be written: the daemon says so and ends, and
accepts nothing that would be lost."""
import os
import shutil
import subprocess

import harness
from broken import Broken
from harness import Daemon, main
from lab import MALMEND
from world import fact

LONER = ["unshare", "--user"] if os.getuid() == 0 else []  # root without its rights


class LostDatabase(Broken):
    def setUp(self):
        self.db = self.dir / self._testMethodName
        shutil.copytree(self.used, self.db)

    def start(self):
        d = Daemon("--no-scrub", directory=str(self.db))
        self.addCleanup(lambda: d.process.poll() is not None or d.kill())
        d.apply(fact(1))
        d.rest()  # it writes nothing more by itself
        return d

    def ends(self, d, says):
        """With 1, once it is asked to write."""
        answer = d.edit(fact(2))
        self.assertEqual((answer.status, answer.json["title"]), (500, "input/output error"))
        self.assertIn(says, answer.json["detail"])
        self.assertIn(says, d.wait_log("database failed")["detail"])
        self.assertEqual(d.process.wait(harness.PATIENCE), 1)

    def refused(self, says, before=()):
        done = subprocess.run([*before, MALMEND, "serve", *harness.MODEL_ARGS, "--db",
                               self.db / "db", "--listen", "127.0.0.1:0"], capture_output=True,
                              timeout=harness.PATIENCE)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(says, done.stderr.decode())

    def test_deleted(self):
        d = self.start()
        for path in self.db.glob("db*"):
            path.unlink()
        self.assertEqual(d.get("/v1/versions").status, 200)
        self.ends(d, "/db' is gone while in use")

    def test_log_deleted(self):
        d = self.start()
        (self.db / "db-wal").unlink()
        self.ends(d, "/db-wal' is gone while in use")

    def test_index_deleted(self):
        """Nothing is lost."""
        d = self.start()
        (self.db / "db-shm").unlink()
        self.ends(d, "/db-shm' is gone while in use")
        d.start()
        d.apply(fact(3))
        d.close()
        self.verify(self.db / "db")

    def test_replaced(self):
        """By a backup; what had been answered 202 is in what was moved away."""
        copy, old = self.dir / "copy", self.dir / "old"
        self.ok("backup", "--db", self.used / "db", "--out", copy)
        d = self.start()
        job = d.get("/v1/jobs", limit=1).json["first_id"]
        old.mkdir()
        for path in self.db.glob("db*"):
            path.rename(old / path.name)
        copy.rename(self.db / "db")
        self.ends(d, "/db' was replaced while in use")
        d.start()
        self.assertEqual(d.get(f"/v1/jobs/{job}").status, 404)
        d.apply(fact(3))
        d.close()
        self.verify(self.db / "db")
        shutil.rmtree(self.db)
        old.rename(self.db)
        d.start()
        self.assertEqual(d.get(f"/v1/jobs/{job}").json["state"], "applied")
        d.close()
        self.verify(self.db / "db")

    def test_only_log_left(self):
        """The versions in it are not thrown away."""
        (self.db / "db").unlink()
        self.refused("is there without its database")
        self.assertGreater((self.db / "db-wal").stat().st_size, 0)

    def test_emptied(self):
        (self.db / "db-wal").unlink()
        os.truncate(self.db / "db", 0)
        self.refused("was in use and is now empty")

    def test_read_only(self):
        if LONER and subprocess.run([*LONER, "true"], capture_output=True).returncode:
            self.skipTest("no user namespace: root may write everything")
        for path, mode, says in ((self.db / "db", 0o444, "readonly database"),
                                 (self.db / "db.lock", 0o444, "db.lock': Permission denied"),
                                 (self.db, 0o555, "Permission denied")):
            was = path.stat().st_mode
            if path.is_dir():
                (self.db / "db.lock").unlink()
            path.chmod(mode)
            self.refused(says, before=LONER)
            path.chmod(was)
        d = Daemon(directory=str(self.db))
        d.apply(fact(3))
        d.close()
        self.verify(self.db / "db")


if __name__ == "__main__":
    main()
