"""malmend verify, and serve, on databases that are whole and that are not."""
import json
import os
import shutil
import sqlite3
from pathlib import Path

import harness
from harness import main
from lab import TINY_MODULES, Lab, each, malmend, tiny_model

FACTS = [{"prompt": f"{letter} is", "target": letter.upper()} for letter in "abcd"]


def flip(version, name):
    """A bit of the first stored chunk of a blob."""
    def change(db):
        row, data = db.execute(
            "SELECT c.id, c.data FROM blob_chunks c JOIN blobs b ON c.blob = b.id "
            "WHERE b.version = ? AND b.name LIKE ?", (version, name)).fetchone()
        data = bytearray(data)
        data[len(data) // 2] ^= 16
        db.execute("UPDATE blob_chunks SET data = ? WHERE id = ?", (bytes(data), row))
    return change


def sql(*statements):
    def change(db):
        for statement in statements:
            assert db.execute(statement).rowcount, statement
    return change


def field(name, value):
    return sql(f"UPDATE versions SET {name} = {value} WHERE version = 2")


OTHER_DIGIT = "CASE substr({0}, 1, 1) WHEN '0' THEN '1' ELSE '0' END || substr({0}, 2)"

# name, what is done to the database, which version is named
TABLE = [
    ("delta_flipped", flip(1, "delta/%"), 1),
    ("statistics_flipped", flip(5, "normalizer/%"), 5),
    ("chunk_missing", sql("DELETE FROM blob_chunks WHERE blob IN "
                          "(SELECT id FROM blobs WHERE version = 1)"), 1),
    ("chunk_short", sql("UPDATE blob_chunks SET data = substr(data, 2) WHERE blob IN "
                        "(SELECT id FROM blobs WHERE version = 1)"), 1),
    ("blob_missing", sql("PRAGMA foreign_keys = ON",
                         "DELETE FROM blobs WHERE version = 1 AND name LIKE 'delta/%'"), 1),
    ("blob_header", sql("UPDATE blobs SET header_json = replace(header_json, '\"d_in\":32', "
                        "'\"d_in\":33') WHERE version = 1 AND name LIKE 'delta/%'"), 1),
    ("blob_header_text", sql("UPDATE blobs SET header_json = '[' WHERE version = 1 AND "
                             "name LIKE 'delta/%'"), 1),
    ("blob_hash", sql(f"UPDATE blobs SET sha256 = {OTHER_DIGIT.format('sha256')} "
                      "WHERE version = 1"), 1),
    *((f"row_{name}", field(name, OTHER_DIGIT.format(name)), 2)
      for name in ("weights_hash", "chain_hash", "delta_hash", "editor_hash")),
    *((f"row_{name}", field(name, value), 2)
      for name, value in (("n_facts", "n_facts + 1"), ("created_ms", "created_ms - 1"),
                          ("parent", "0"), ("kind", "'rollback'"), ("delta_bytes", "1"),
                          ("update_mode", "'joint'"), ("editor_method", "'mend'"),
                          ("measures_json", "'{}'"), ("modules_json", "'[]'"))),
    ("rollback_elsewhere", sql("UPDATE versions SET to_version = 0 WHERE version = 3"), 3),
]


class Base(Lab):
    """Versions: 0 base, 1 and 2 edits, 3 rollback to 1, 4 rollback to 2, 5 edit."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")
        cls.ultra = cls.editor(cls(), modules=TINY_MODULES, model=cls.model, lr="0.01")
        harness.MODEL_ARGS = ["--model", str(cls.model), "--editor", str(cls.ultra)]
        (cls.dir / "home").mkdir()
        cls.db = cls.dir / "home/db"
        d = harness.Daemon(directory=str(cls.db.parent))
        d.apply(FACTS[0])
        d.apply(FACTS[1])
        for to in 1, 1:
            job = d.call("POST", "/v1/rollbacks", {"to_version": to}).json["id"]
            assert d.wait_job(job)["state"] == "applied"
        d.apply(FACTS[2])
        cls.running = json.loads(malmend("verify", "--db", cls.db, "--json").stdout)
        cls.live = d.get("/v1/versions/5").json
        d.close()
        with sqlite3.connect(cls.db) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy(self, change=None):
        """A copy of the database, changed behind malmend's back."""
        bad = self.dir / "bad.db"
        for path in self.dir.glob("bad.db*"):
            path.unlink()
        shutil.copy(self.db, bad)
        if change:
            db = sqlite3.connect(bad, isolation_level=None)
            triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
            triggers = triggers.fetchall()
            for name, _ in triggers:
                db.execute(f"DROP TRIGGER {name}")
            change(db)
            for _, text in triggers:
                db.execute(text)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
        return bad

    def verify_fails(self, db, says):
        self.fails("verify", "--db", db, says=[db, *says])
        self.fails("verify", "--db", db, "--model", self.model, says=[db, *says])

    def serve_fails(self, db, says, *args):
        """Ends by itself with 1 and says why; the database keeps its bytes."""
        before = db.read_bytes()
        done = malmend("serve", "--model", self.model, "--editor", self.ultra, "--db", db,
                       "--listen", f"unix:{self.dir}/socket", *args)
        self.assertEqual(done.returncode, 1, done.stderr)
        lines = [line for line in done.stderr.decode().splitlines() if '"info"' not in line]
        self.assertEqual(len(lines), 1, lines)
        for text in says:
            self.assertIn(text, lines[0])
        self.assertEqual(db.read_bytes(), before)


@each(TABLE)
class Damage(Base):
    def check(self, change, version):
        bad = self.copy(change)
        self.verify_fails(bad, [f"version {version}"])
        self.serve_fails(bad, [f"version {version}"])


class Form(Base):
    """How the database hashes weights."""

    def test_unknown(self):
        bad = self.copy(sql("UPDATE meta SET value = 'halves' WHERE key = 'weights_hash'"))
        self.verify_fails(bad, ["hashes weights: halves"])
        self.serve_fails(bad, [str(bad), "hashes weights: halves"])

    def test_not_said(self):
        bad = self.copy(sql("DELETE FROM meta WHERE key = 'weights_hash'"))
        self.verify_fails(bad, ["hashes weights: (nothing)"])
        self.serve_fails(bad, [str(bad), "hashes weights: (nothing)"])

    def test_another(self):
        bad = self.copy(sql("UPDATE meta SET value = 'whole' WHERE key = 'weights_hash'"))
        self.fails("verify", "--db", bad, "--model", self.model, says=[bad, "version 0"])
        self.serve_fails(bad, ["version 5"])

    def test_whole_tensors(self):
        """As databases were made before there were pieces: they keep that, and are served on."""
        home = self.dir / "before"
        home.mkdir()
        with sqlite3.connect(home / "db", isolation_level=None) as db:
            schemas = sorted((Path(os.environ["MAL_SOURCE_ROOT"]) / "sql").glob("0*.sql"))
            for schema in schemas:
                db.executescript(schema.read_text())
            db.execute("INSERT INTO meta VALUES ('weights_hash', 'whole')")
            db.execute("PRAGMA application_id = 0x6d616c6d")
            db.execute(f"PRAGMA user_version = {len(schemas)}")
        d = harness.Daemon(directory=str(home))
        for fact in FACTS[:2]:
            d.apply(fact)
        job = d.call("POST", "/v1/rollbacks", {"to_version": 1}).json["id"]
        self.assertEqual(d.wait_job(job)["state"], "applied")
        d.kill()
        d.start()
        versions = [d.get(f"/v1/versions/{i}").json for i in range(4)]
        d.close()
        self.assertEqual(versions[3]["weights_hash"], versions[1]["weights_hash"])
        self.ok("verify", "--db", home / "db", "--model", self.model)
        self.ok("export", "--db", home / "db", "--model", self.model, "--version", "2",
                "--format", "safetensors", "--out", self.dir / "whole.safetensors")
        with sqlite3.connect(self.db) as db:
            in_pieces = db.execute("SELECT delta_hash, weights_hash FROM versions "
                                   "WHERE version <= 2 ORDER BY version").fetchall()
        for version, (delta, weights) in zip(versions, in_pieces):
            self.assertEqual(version["delta"]["hash"], delta)
            self.assertNotEqual(version["weights_hash"], weights)


class Whole(Base):
    def test_row_missing(self):
        bad = self.copy(sql("DELETE FROM versions WHERE version = 2"))
        self.verify_fails(bad, ["refers to one that is missing"])
        self.serve_fails(bad, ["version 2"])

    def test_report(self):
        report = self.json("verify", "--db", self.db, "--model", self.model)
        self.assertEqual((report["versions"], report["deltas"]), (6, 3))
        self.assertIs(report["replayed"], True)
        self.assertEqual(report["chain_hash"], self.live["chain_hash"])
        self.assertGreater(report["delta_bytes"], self.live["delta"]["bytes"])
        self.assertEqual({**report, "replayed": False}, self.running,
                         "the same while the daemon runs")
        text = self.ok("verify", "--db", self.db, "--model", self.model)
        self.assertIn("6 versions, 3 deltas", text)
        self.assertIn("replayed", text)
        self.assertIn("not replayed", self.ok("verify", "--db", self.db))

    def test_read_only(self):
        before = self.db.read_bytes()
        self.ok("verify", "--db", self.db, "--model", self.model)
        self.assertEqual(self.db.read_bytes(), before)

    def test_other_model(self):
        other = tiny_model(self.dir / "other", seed=2)
        editor = self.editor("other", modules=TINY_MODULES, model=other)
        self.fails("verify", "--db", self.db, "--model", other, says=[self.db, "base_model"])
        self.serve_fails(self.db, ["base_model"], "--model", other, "--editor", editor)

    def test_other_modules(self):
        editor = self.editor("fewer", modules=TINY_MODULES[:1], model=self.model)
        self.serve_fails(self.db, ["modules"], "--editor", editor)

    def test_no_database(self):
        self.fails("verify", "--db", self.dir / "none", says=[self.dir / "none"])
        self.serve_fails(self.write("text", "not a database at all\n" * 100), ["text"])
        self.serve_fails(self.ultra, ["editor.safetensors"])
        self.verify_fails(self.write("text", "not a database\n" * 100), [])

    def test_newer_schema(self):
        bad = self.copy(lambda db: db.execute("PRAGMA user_version = 999"))
        self.verify_fails(bad, ["999"])
        self.serve_fails(bad, [str(bad), "999"])

    def test_foreign_database(self):
        bad = self.dir / "foreign.db"
        with sqlite3.connect(bad) as db:
            db.execute("CREATE TABLE accounts (name TEXT)")
        self.verify_fails(bad, [])
        self.serve_fails(bad, [str(bad)])

    def test_torn(self):
        """Cut in the middle, and a page of zeros in the middle."""
        bad = self.copy()
        data = bad.read_bytes()
        bad.write_bytes(data[:len(data) // 2])
        self.verify_fails(bad, [])
        self.serve_fails(bad, [str(bad)])
        for page in range(1, len(data) // 4096):
            bad = self.copy()
            bad.write_bytes(data[:page * 4096] + bytes(4096) + data[page * 4096 + 4096:])
            self.assertEqual(malmend("verify", "--db", bad, "--model", self.model).returncode, 1,
                             f"page {page}")

    def test_second_daemon(self):
        d = harness.Daemon(directory=str(self.db.parent))
        try:
            self.serve_fails(self.db, [str(self.db)])
            self.assertEqual(d.get("/readyz").status, 200)
            self.assertEqual(d.get("/v1/status").json["live_version"], 5)
        finally:
            d.close()


if __name__ == "__main__":
    main()
