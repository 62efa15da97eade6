"""What a large batch stores is on its way to the disk before the batch is applied: it is one with its
version, and gone where the batch is refused or the daemon killed."""
import sqlite3

from harness import main, wait_until
from lab import MODEL, demo_facts
from life_lab import A, Life, prompts

MANY = demo_facts("heldout.ndjson", 240)  # a few more than a megabyte of values


class Early(Life):
    def open(self, *more):
        d = self.serve("--no-scrub", *more)
        self.db = d.db
        return d

    def rows(self, version):
        """How many values and blobs are there for a version, and whether it is."""
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as db:
            return tuple(db.execute(
                "SELECT (SELECT count(*) FROM fact_values WHERE version = ?1),"
                " (SELECT count(*) FROM blobs WHERE version = ?1),"
                " (SELECT count(*) FROM versions WHERE version = ?1)", (version,)).fetchone())

    def wait_staged(self, version):
        """Whether there is something of a version before it."""
        seen = []
        wait_until(lambda: seen.append(self.rows(version)) or seen[-1][0] or seen[-1][2])
        self.assertEqual(seen[-1][2], 0, "nothing came before the version")

    def post(self, d, facts, **more):
        return d.call("POST", "/v1/edits", {"facts": facts, **more}).json["id"]

    def check(self, d, *counts):
        """So many values with each version, which is what its hashes say."""
        self.assertEqual(d.stop(), 0)
        report = self.json("verify", "--db", self.db, "--model", MODEL)
        self.assertEqual(report["versions"], len(counts) + 1)
        self.assertEqual([self.rows(v + 1)[0] for v in range(len(counts))], list(counts))

    def test_applied(self):
        d = self.open()
        job = self.post(d, MANY)
        self.wait_staged(1)
        job = d.wait_job(job)
        self.assertEqual(job["state"], "applied", job)
        self.assertGreater(job["result"]["rounds"], 0, "none was repaired")
        self.check(d, len(MANY))

    def test_single_pass(self):
        """The delta is on its way before it is verified, too."""
        d = self.open("--repair-rounds", "0")
        for gate, state in (({"max_norm_growth": 1e-9}, "rejected"), ({}, "applied")):
            job = self.post(d, MANY, gate=gate)
            self.wait_staged(1)
            self.assertEqual(d.wait_job(job)["state"], state)
        self.check(d, len(MANY))

    def test_refused(self):
        d = self.open()
        job = self.post(d, MANY, gate={"max_norm_growth": 1e-9})
        self.wait_staged(1)
        self.assertEqual(d.wait_job(job)["state"], "rejected")
        wait_until(lambda: self.rows(1) == (0, 0, 0))
        self.teach(d, A)
        self.assertEqual(self.live(d), prompts(A))
        self.check(d, len(A))

    def test_killed(self):
        d = self.open()
        job = self.post(d, MANY)
        self.wait_staged(1)
        d.kill()
        d.start()
        self.assertEqual(d.wait_job(job)["state"], "applied")
        self.check(d, len(MANY))


del Life  # a base, not a test of its own

if __name__ == "__main__":
    main()
