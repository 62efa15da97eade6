"""A disk that fills, a small tmpfs in a mount namespace of the test's own: requests are answered 507
or their jobs fail and say why, reads go on, and with room again everything does."""
import errno
import os
import subprocess
import sys
import time
import unittest

import harness
from harness import Daemon, main
from lab import MALMEND, MODEL, Lab, demo_facts
from world import fact

OWN = "MALMEND_OWN_MOUNTS"
UNSHARE = ["unshare", "--mount"] + ([] if os.getuid() == 0 else ["--user", "--map-root-user"])
SIZE = 12 << 20
SPACE = "space|full|bytes left"


class Disk:
    def __init__(self, path):
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", path], check=True)
        self.filler = open(path / "filler", "wb", buffering=0)

    def free(self):
        fs = os.statvfs(self.path)
        return fs.f_bavail * fs.f_frsize

    def fill(self, leave):
        self.filler.seek(0, os.SEEK_END)
        try:
            while (more := self.free() - leave) > 0:
                self.filler.write(bytes(min(more, 1 << 20)))
        except OSError as e:
            assert e.errno == errno.ENOSPC, e

    def empty(self):
        self.filler.truncate(0)

    def remount(self, how):
        subprocess.run(["mount", "-o", f"remount,{how}", self.path], check=True)


@unittest.skipUnless(os.environ.get(OWN), "no mount namespace of its own")
class FullDisk(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.learnt = cls.dir / "editor"
        facts = cls.write(cls(), "facts.json", {"facts": demo_facts("train.ndjson", 16)})
        cls.ok(cls(), "init-editor", "--model", MODEL, "--method", "malmen", "--data", facts,
               "--lr", 2 ** -8, "--out", cls.learnt)

    def setUp(self):
        self.disk = Disk(self.dir / self._testMethodName)

    def tearDown(self):
        self.disk.filler.close()
        subprocess.run(["umount", "--lazy", self.disk.path], check=True)

    def serve(self, *args):
        harness.MODEL_ARGS = ["--model", str(MODEL), "--editor", str(self.learnt)]
        d = Daemon("--no-scrub", *args, directory=str(self.disk.path))
        self.addCleanup(lambda: d.process.poll() is not None or d.kill())
        return d

    def full(self, answer, status=507):
        self.assertEqual(answer.status, status, answer.body)
        self.assertRegex(answer.json["detail"], SPACE)

    def reads(self, d):
        for path in ("/v1/status", "/v1/jobs", "/v1/facts", "/v1/versions", "/readyz", "/livez"):
            self.assertEqual(d.get(path).status, 200, path)
        self.assertEqual(d.complete(fact(1)["prompt"]).status, 200)

    def ends(self, d, jobs):
        """Each has been applied, or failed for want of room; how many were."""
        applied = 0
        for job in jobs:
            job = d.wait_job(job)
            if job["state"] == "failed":
                self.assertRegex(job["error"]["detail"], SPACE)
            else:
                self.assertEqual(job["state"], "applied", job)
                applied += 1
        return applied

    def check(self, d):
        """It teaches again."""
        d.apply(*demo_facts("heldout.ndjson", 2))
        self.sound(d)

    def sound(self, d):
        live = d.get("/v1/status").json
        self.assertEqual(d.stop(), 0)
        report = self.json("verify", "--db", self.disk.path / "db", "--model", MODEL)
        self.assertEqual(report["versions"], live["live_version"] + 1)

    def test_posts(self):
        d = self.serve("--min-free-disk", "0")
        d.apply(*demo_facts("train.ndjson", 2))
        self.disk.fill(600 << 10)
        accepted = []
        for i in range(200):
            answer = d.edit({**fact(i), "subject": "x" * 9000})
            if answer.status != 202:
                break
            accepted.append(answer.json["id"])
        self.full(answer)
        d.wait_log("database full")
        self.assertEqual(d.get("/v1/status").json["last_error"], answer.json)
        self.reads(d)
        self.full(d.call("POST", "/v1/edits", {"facts": [{**fact(i), "subject": "x" * 90000}
                                                         for i in range(20)]}))
        self.assertGreater(len(accepted), 0)
        self.disk.empty()
        self.ends(d, accepted)
        self.check(d)

    def test_keyframes(self):
        """A version is there whole or not at all."""
        d = self.serve("--min-free-disk", "0", "--keyframe-every", "1")
        d.apply(*demo_facts("train.ndjson", 2))
        before = d.get("/v1/versions").json["data"]
        self.disk.fill(300 << 10)
        answer = d.edit(*demo_facts("heldout.ndjson", 8))
        self.assertEqual(answer.status, 202, answer.body)
        until = time.monotonic() + harness.PATIENCE
        while not any(e["event"] in ("job failed", "database full") for e in d.log):
            self.assertLess(time.monotonic(), until)
            d.read_log(0.1)
        self.reads(d)
        self.assertEqual(d.get("/v1/versions").json["data"], before)
        self.disk.empty()
        self.assertEqual(self.ends(d, [answer.json["id"]]), 0)
        self.check(d)

    def test_cancel(self):
        """A job that could not be cancelled once was in no queue any more, and never ran."""
        d = self.serve("--min-free-disk", "0", "--batch-window-ms", "60000")
        waiting = [d.edit(f).json["id"] for f in demo_facts("train.ndjson", 3)]
        self.disk.fill(0)
        self.full(d.call("POST", f"/v1/jobs/{waiting[1]}/cancel"))
        self.assertEqual(d.get("/v1/status").json["queue"]["jobs"], 3)
        self.disk.empty()
        self.assertEqual(d.call("POST", f"/v1/jobs/{waiting[0]}/cancel").status, 200)
        answer = d.call("POST", "/v1/rollbacks", {"to_version": 0})  # those before it run now
        self.assertEqual(self.ends(d, waiting[1:] + [answer.json["id"]]), 3)
        self.sound(d)

    def test_little_room(self):
        """Before the disk is full."""
        d = self.serve("--min-free-disk", "1MiB")
        d.apply(*demo_facts("train.ndjson", 2))
        self.disk.fill(600 << 10)
        d.wait_log("disk low")
        answer = d.edit(fact(1))
        self.full(answer)
        self.assertEqual(d.get("/v1/status").json["last_error"], answer.json)
        self.full(d.get("/v1/versions/1/delta"))
        self.reads(d)
        self.disk.empty()
        d.wait_log("disk has room again")
        self.check(d)

    def test_download(self):
        d = self.serve("--min-free-disk", "0")
        d.apply(*demo_facts("train.ndjson", 2))
        whole = d.get("/v1/versions/1/delta")
        self.assertEqual(whole.status, 200)
        d.apply(*demo_facts("train.ndjson", 3))
        self.disk.fill(100 << 10)
        self.full(d.get("/v1/versions/2/delta"))
        self.reads(d)
        self.disk.empty()
        self.assertEqual(d.get("/v1/versions/2/delta").status, 200)
        self.check(d)

    def test_backup(self):
        d = self.serve("--min-free-disk", "0", "--keyframe-every", "1")
        d.apply(*demo_facts("train.ndjson", 2))
        db, out = self.disk.path / "db", self.disk.path / "copy"
        self.disk.fill(100 << 10)
        done = subprocess.run([MALMEND, "backup", "--db", db, "--out", out], capture_output=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.decode(), SPACE)
        self.assertEqual([p.name for p in self.disk.path.glob("copy*")], [])
        self.reads(d)
        self.disk.empty()
        self.ok("backup", "--db", db, "--out", out)
        self.ok("verify", "--db", out, "--model", MODEL)

        editor = self.disk.path / "db.editor.safetensors"  # room for the copy, and not for this
        out.unlink()
        with open(editor, "wb") as file:
            file.truncate(64 << 20)
        done = subprocess.run([MALMEND, "backup", "--db", db, "--out", out], capture_output=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.decode(), SPACE)
        self.assertEqual([p.name for p in self.disk.path.glob("copy*")], [])
        editor.unlink()
        self.check(d)

    def test_start(self):
        """A new database needs room; one that is there does not, to be read."""
        db = self.disk.path / "db"
        start = [MALMEND, "serve", "--model", MODEL, "--editor", self.learnt, "--db", db,
                 "--listen", "127.0.0.1:0"]
        for leave in 0, 30 << 10:
            self.disk.fill(leave)
            done = subprocess.run(start, capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr.decode(), SPACE)
            self.disk.empty()
        d = self.serve("--min-free-disk", "0")
        d.apply(*demo_facts("train.ndjson", 2))
        d.kill()
        self.disk.fill(0)
        d.start()  # what is there is served
        self.full(d.edit(fact(1)))
        self.reads(d)
        self.disk.empty()
        self.check(d)

    def test_read_only(self):
        """The directory, at the start."""
        d = self.serve("--min-free-disk", "0")
        d.apply(*demo_facts("train.ndjson", 2))
        d.kill()
        self.disk.filler.close()
        self.disk.remount("ro")
        done = subprocess.run([MALMEND, "serve", "--model", MODEL, "--editor", self.learnt, "--db",
                               self.disk.path / "db", "--listen", "127.0.0.1:0"],
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.decode(), "Read-only file system")
        self.disk.remount("rw")
        d.start()
        self.check(d)


if __name__ == "__main__":
    if OWN not in os.environ and subprocess.run([*UNSHARE, "true"]).returncode == 0:
        os.execvpe(UNSHARE[0], [*UNSHARE, sys.executable, *sys.argv], {**os.environ, OWN: "1"})
    main()
