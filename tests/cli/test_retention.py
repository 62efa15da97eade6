"""Keyframes, pruning, backups: what is served, restarted and verified from what is left."""
import hashlib
import json
import sqlite3
import threading
import time

import harness
from harness import main, wait_until
from lab import TINY_MODULES, Lab, malmend, tiny_model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FACTS = [{"prompt": f"{letter} is", "target": letter.upper()} for letter in LETTERS]


class Base(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")
        ultra = cls.editor(cls(), modules=TINY_MODULES, model=cls.model, lr="0.01")
        harness.MODEL_ARGS = ["--model", str(cls.model), "--editor", str(ultra)]

    def daemon(self, *args):
        directory = self.dir / self._testMethodName
        directory.mkdir(exist_ok=True)
        self.db = directory / "db"
        return harness.Daemon(*args, directory=str(directory))

    def versions(self, d):
        rows, after = [], {}
        while True:
            page = d.get("/v1/versions", limit=100, **after).json
            rows += page["data"]
            if not page["has_more"]:
                return rows[::-1]
            after = {"after": page["last_id"]}

    def back(self, d, version):
        job = d.call("POST", "/v1/rollbacks", {"to_version": version}).json["id"]
        return d.wait_job(job)

    def wait_pruned(self, d, version):
        """Pruning comes after the version that makes room for it."""
        wait_until(lambda: d.get(f"/v1/versions/{version}").json["pruned"])

    def verify(self, db=None):
        return self.json("verify", "--db", db or self.db, "--model", self.model)

    def rows(self, sql):
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as db:
            return db.execute(sql).fetchall()


class Keyframes(Base):
    def test_replays(self):
        """A restart, and rollbacks out of memory, begin at keyframes and end at the same hashes."""
        d = self.daemon("--keyframe-every", "3", "--keep-versions", "0")
        for fact in FACTS[:7]:
            d.apply(fact)
        self.assertEqual(self.rows("SELECT version FROM versions WHERE keyframe ORDER BY version"),
                         [(3,), (6,)])
        known = self.versions(d)
        for to in (7, 3, 5, 1, 6, 0):
            self.assertEqual(self.back(d, to)["state"], "applied")
            self.assertEqual(self.versions(d)[-1]["weights_hash"], known[to]["weights_hash"])
        self.assertEqual(self.back(d, 5)["state"], "applied")
        d.apply(FACTS[8])
        live = self.versions(d)[-1]
        d.kill()
        d.start()
        self.assertEqual(d.get("/v1/status").json["weights_hash"], live["weights_hash"])
        d.apply(FACTS[9])
        d.close()
        report = self.verify()
        self.assertEqual((report["pruned"], report["keyframes"]), (0, 3))

    def test_statistics(self):
        """UltraEdit's statistics of a rollback are those of the version, keyframes or not, also
        where all that is left of them is with the rollback's own."""
        after = []
        for options in ("0",), ("2",), ("3", "--keep-versions", "0", "--retain-bytes", "1000"):
            d = self.daemon("--keyframe-every", *options)
            for fact in FACTS[:5]:
                d.apply(fact)
            self.back(d, 4)
            if options[0] == "3":
                self.wait_pruned(d, 5)
            d.kill()
            d.start()
            d.apply(FACTS[6])
            after.append(self.versions(d)[-1]["weights_hash"])
            d.close()
            for path in list(self.db.parent.iterdir()):
                path.unlink()
        self.assertEqual(len(set(after)), 1, after)

    def test_damage(self):
        d = self.daemon("--keyframe-every", "2")
        for fact in FACTS[:3]:
            d.apply(fact)
        d.close()
        db = sqlite3.connect(self.db, isolation_level=None)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        row, data, name = db.execute(
            "SELECT c.id, c.data, b.name FROM blob_chunks c JOIN blobs b ON c.blob = b.id "
            "WHERE b.version = 2 AND b.name LIKE 'keyframe/%'").fetchone()
        trigger = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'blob_chunks_fixed'")
        trigger = trigger.fetchone()[0]
        db.execute("DROP TRIGGER blob_chunks_fixed")
        db.execute("UPDATE blob_chunks SET data = ? WHERE id = ?",
                   (bytes(len(data)), row))
        db.execute(trigger)
        self.fails("verify", "--db", self.db, says=[self.db, "version 2", name])
        # With the hash of the wrong bytes beside them, only the weights tell.
        db.execute("DROP TRIGGER blobs_fixed")
        db.execute("UPDATE blobs SET sha256 = ? WHERE version = 2 AND name = ?",
                   (hashlib.sha256(bytes(len(data))).hexdigest(), name))
        self.ok("verify", "--db", self.db)
        self.fails("verify", "--db", self.db, "--model", self.model,
                   says=["version 2: its keyframe is not its weights"])
        db.close()


class Pruning(Base):
    def test_by_bytes(self):
        d = self.daemon("--keyframe-every", "3", "--keep-versions", "1", "--retain-bytes", "10000")
        for fact in FACTS[:14]:
            d.apply(fact)
        wait_until(lambda: self.rows("SELECT sum(bytes) FROM blobs")[0][0] <= 10000)
        versions = self.versions(d)
        pruned = [v["version"] for v in versions if v["pruned"]]
        self.assertEqual(pruned, list(range(1, len(pruned) + 1)))
        self.assertGreater(len(pruned), 3)
        self.assertLess(len(pruned), 13)
        event = d.wait_log("versions pruned")
        self.assertGreater(event["bytes"], 0)

        answer = d.call("POST", "/v1/rollbacks", {"to_version": 2})
        self.assertEqual(answer.status, 409)
        self.assertEqual(answer.json["detail"],
                         "version 2 was pruned: its weights are no longer stored")
        oldest = len(pruned) + 1
        self.assertEqual(self.back(d, oldest)["state"], "applied")
        self.assertEqual(self.back(d, 0)["state"], "applied")
        self.assertEqual(self.back(d, 14)["state"], "applied")
        live = self.versions(d)[-1]
        self.assertEqual(live["weights_hash"], versions[14]["weights_hash"])
        d.kill()
        d.start()
        self.assertEqual(d.get("/v1/status").json["weights_hash"], live["weights_hash"])
        d.apply(FACTS[15])
        n = len(self.versions(d))
        d.close()
        report = self.verify()
        self.assertEqual((report["versions"], report["replayed"]), (n, True))
        self.assertGreaterEqual(report["pruned"], len(pruned))
        self.assertIn("were pruned", self.ok("verify", "--db", self.db))

    def test_cannot(self):
        """Without keyframes nothing may go: said once, and nothing is lost."""
        d = self.daemon("--keyframe-every", "0", "--retain-bytes", "1000")
        for fact in FACTS[:4]:
            d.apply(fact)
        d.wait_log("versions take more than retain-bytes")
        d.close()
        said = [event for event in d.log if event.get("event", "").startswith("versions take")]
        self.assertEqual(len(said), 1)
        self.assertEqual(self.verify()["pruned"], 0)

    def test_by_age(self):
        options = ["--keyframe-every", "2", "--keep-versions", "0", "--retain-age"]
        d = self.daemon(*options, "1h")
        for fact in FACTS[:5]:
            d.apply(fact)
        self.assertEqual(d.stop(), 0)  # not before what follows a version is done
        self.assertEqual(self.verify()["pruned"], 0)
        time.sleep(1.1)
        d.args = [*options, "1s"]
        d.start()
        d.apply(FACTS[5])
        d.wait_log("versions pruned")
        self.assertEqual([v["pruned"] for v in self.versions(d)],
                         [False, True, True, True, True, True, False])
        d.close()
        self.verify()


class Verifying(Base):
    def test_while_pruning(self):
        """What is pruned while it is read is not called broken, by verify or in a download."""
        d = self.daemon("--keyframe-every", "1", "--keep-versions", "0", "--retain-bytes", "1",
                        "--batch-window-ms", "0", "--repair-rounds", "0", "--no-scrub")
        stop, problems, before = threading.Event(), [], 0
        turns = threading.Semaphore(0)  # not more versions than are verified in a moment

        def write():
            try:
                while turns.acquire() and not stop.is_set():
                    d.apply(FACTS[0])
            except Exception as error:
                problems.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for i in range(60):
                turns.release(8)
                report = self.json("verify", "--db", self.db,
                                   *(["--model", self.model] if i % 2 else []))
                self.assertGreaterEqual(report["versions"], before)
                before = report["versions"]
                for form in ("lora", "safetensors") * 4:
                    number = d.get("/v1/status").json["live_version"]
                    answer = d.get(f"/v1/versions/{number}/delta", format=form)
                    self.assertIn(answer.status, (200, 409), answer.body[:500])
        finally:
            stop.set()
            turns.release()
            writer.join()
        self.assertEqual(problems, [])
        self.assertGreater(before, 20)
        d.close()
        self.assertGreater(self.verify()["pruned"], 20)


class LowDisk(Base):
    def test_low(self):
        """Reads go on, nothing new is accepted, what is queued waits until there is room."""
        d = self.daemon("--batch-window-ms", "60000")
        queued = d.edit(FACTS[0]).json["id"]
        self.assertIs(d.get("/v1/status").json["disk"]["low"], False)
        d.kill()
        d.args = ["--min-free-disk", "900000000000000000"]
        d.start()
        event = d.wait_log("disk low")
        self.assertLess(event["free_bytes"], event["min_free_bytes"])
        disk = d.get("/v1/status").json["disk"]
        self.assertIs(disk["low"], True)
        self.assertGreater(disk["free_bytes"], 0)
        answer = d.edit(FACTS[1])
        self.assertEqual(answer.status, 507, answer.body)
        self.assertIn("disk", answer.json["detail"])
        back = d.call("POST", "/v1/rollbacks", {"to_version": 0})
        self.assertEqual(back.status, 202, "it takes no room; but it has its turn")
        valid = d.edit(FACTS[1], validate_only=True)
        self.assertEqual(valid.status, 200)
        self.assertEqual(d.complete("a is").status, 200)
        time.sleep(0.5)
        for job in queued, back.json["id"]:
            self.assertEqual(d.get(f"/v1/jobs/{job}").json["state"], "queued")
        self.assertEqual(d.stop(), 0)
        d.args = ["--min-free-disk", "0"]
        d.start()
        for job in queued, back.json["id"]:
            self.assertEqual(d.wait_job(job)["state"], "applied")
        d.close()
        self.verify()


class Backup(Base):
    def test_while_writing(self):
        d = self.daemon("--keyframe-every", "4")
        for fact in FACTS[:4]:
            d.apply(fact)
        stop, problems = threading.Event(), []

        def write():
            try:
                for fact in FACTS[4:]:
                    if stop.is_set():
                        return
                    d.apply(fact)
            except Exception as error:
                problems.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        reports = []
        for i in range(3):
            out = self.dir / f"copy{i}"
            reports.append(self.json("backup", "--db", self.db, "--out", out))
            self.assertEqual(reports[-1]["bytes"], out.stat().st_size)
            copy = self.verify(out)
            self.assertEqual(copy["versions"], reports[-1]["live_version"] + 1)
        stop.set()
        writer.join()
        self.assertEqual(problems, [])
        versions = self.versions(d)
        d.close()
        self.assertEqual(self.verify()["chain_hash"], versions[-1]["chain_hash"])

        # The copy is served, and goes on from its own live version.
        copy = self.dir / "served"
        copy.mkdir()
        (self.dir / "copy0").rename(copy / "db")
        d = harness.Daemon(directory=str(copy))
        live = reports[0]["live_version"]
        self.assertEqual(d.get("/v1/status").json["weights_hash"], versions[live]["weights_hash"])
        d.apply(FACTS[-1])
        d.close()

    def test_text(self):
        self.daemon().close()
        out = self.dir / "text.db"
        self.assertIn("live version 0", self.ok("backup", "--db", self.db, "--out", out))
        self.fails("backup", "--db", self.db, "--out", out, says=[out, "there already"])
        self.fails("backup", "--db", self.dir / "none", "--out", self.dir / "x", says=["none"])
        self.fails("backup", "--db", self.db, "--out", self.dir / "no/where", says=["no/where"])
        text = self.write("text", "not a database\n" * 100)
        self.fails("backup", "--db", text, "--out", self.dir / "x", says=[text])
        done = malmend("backup", "--db", self.db, "--out", out, "--json")
        self.assertEqual(json.loads(done.stdout)["status"], 409)


if __name__ == "__main__":
    main()
