"""The ops scripts against the real daemon with the demo model: what they do, print and exit with."""
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import time

import harness
from harness import PATIENCE, Daemon, main
from lab import DEMO, MODEL, Lab, demo_facts
from ops import FACTS, SCRIPTS, Cutter, Ops, begin, environment, run, tool

MORE = demo_facts("heldout.ndjson", 60)


def read_until(stream, text):
    """Lines of a process's stream up to one with this text."""
    seen = []
    for line in stream:
        seen.append(line)
        if text in line:
            return seen
    raise AssertionError(f"no {text!r} in {seen}")


class Post(Ops):
    @classmethod
    def choose_editor(cls):
        return DEMO / "editor.safetensors"

    def test_wait(self):
        """A request, an array and lines; what is printed is what the job says."""
        live = self.d.get("/v1/status").json["live_version"]
        said = self.said("post-facts", "--wait", "--note", "nightly", self.facts("request.json", FACTS[:8]))
        job = self.d.get("/v1/jobs/" + said["job"]["id"]).json
        self.assertEqual(said["job"], job)
        self.assertEqual((job["state"], job["facts"], job["note"]), ("applied", 8, "nightly"))
        self.assertEqual([f["id"] for f in said["wrong"]], job["result"]["wrong"])
        done = self.run_script("post-facts", "--wait", self.write("array.json", FACTS[8:16]))
        es = job["result"]["measures"]["decoded"]["es"]
        self.assertRegex(done.stdout, rf"^job_\w+: edit applied, version {live + 2}, 8 facts, \d+ s\n")
        self.assertRegex(done.stdout, r"(?m)^  whole answers:  facts \d+(\.\d)? %, rephrases \d")
        self.assertRegex(done.stdout, r"(?m)^  answered as before: \d")
        self.assertGreater(es, 0.5)
        lines = "".join(json.dumps(f) + "\n" for f in FACTS[16:20])
        done = self.run_script("post-facts", "--wait", "-", stdin=lines)
        self.assertIn(f"version {live + 3}, 4 facts", done.stdout)
        taught = self.d.get("/v1/facts", prompt=FACTS[19]["prompt"]).json["data"]
        self.assertEqual([fact["state"] for fact in taught], ["live"])

    def test_data_set(self):
        """In parts, by the command that README.md has."""
        records = [{"src": f["prompt"], "alt": f["target"]} for f in MORE[50:53]]
        file = self.write("set.json", [*records, {**records[0], "alt": "x"}])
        facts = self.ok("facts", file, "--keep-first")
        before = self.d.get("/v1/status").json["live_version"]
        done = subprocess.run(["split", "-l", "2", "--filter", f"{SCRIPTS}/post-facts.sh --wait -"],
                              input=facts, capture_output=True, text=True, timeout=4 * PATIENCE,
                              env=environment(self.url))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(re.findall(r"applied, version (\d+), (\d) facts", done.stdout),
                         [(str(before + 1), "2"), (str(before + 2), "1")])

    def test_posted_twice(self):
        """A retry of the same file is the same job; by --again another one."""
        file = self.facts("twice.json", MORE[:1])
        first = self.run_script("post-facts", file).stdout
        self.assertRegex(first, r"^job_\w+\n$")
        self.assertEqual(self.run_script("post-facts", file).stdout, first)
        self.assertNotEqual(self.run_script("post-facts", "--again", file).stdout, first)
        done = self.run_script("post-facts", "--wait", file)
        self.assertIn(first.strip(), done.stdout)
        jobs = self.d.get("/v1/jobs", limit=100).json["data"]
        other = self.write("other.json", file.read_text() + "\n")
        self.assertEqual(self.run_script("post-facts", other).stdout, first, "the same request")
        self.assertEqual(len(self.d.get("/v1/jobs", limit=100).json["data"]), len(jobs))

    def test_posted_again_after_a_rollback(self):
        """Nothing is taught by it: which is told, and no success where it is to be strict."""
        file = self.facts("back.json", MORE[53:55])
        before = self.d.get("/v1/status").json["live_version"]
        post = "post-facts", "--wait", "--strict", file
        self.assertEqual(self.run_script(*post).stderr, "")
        self.assertEqual(self.run_script(*post).stderr, "", "still live")
        self.run_script("rollback", before)
        done = self.run_script(*post, code=1)
        self.assertRegex(done.stderr, "posted before as job_.* taken back since")
        self.assertIn("--again", self.run_script("post-facts", file).stderr)
        self.assertEqual(self.run_script(*post, "--again").stderr, "")

    def test_validate(self):
        file = self.facts("fine.json", MORE[1:3])
        before = self.d.get("/v1/jobs").json
        self.assertEqual(self.said("post-facts", "--validate", file)["facts"], 2)
        self.assertEqual(self.d.get("/v1/jobs").json, before)

    def test_bad_fact(self):
        """The fact's index and its field are named, of lines as of a request."""
        bad = [MORE[3], MORE[4], {"prompt": "x", "target": " "}]
        lines = self.write("bad.ndjson", "\n".join(map(json.dumps, bad)))
        for file in (self.facts("bad.json", bad), lines):
            done = self.run_script("post-facts", "--wait", file, code=1)
            self.assertRegex(done.stderr, r"malmend-post-facts: refused with 422 \(invalid content\): ")
            self.assertIn("fact 2 (/facts/2/target): ", done.stderr)
            self.assertEqual(done.stdout, "")
        said = self.said("post-facts", file, code=1)
        self.assertEqual((said["exit"], said["error"]["status"]), (1, 422))
        self.assertEqual(said["error"]["errors"][0]["pointer"], "/facts/2/target")

    def test_refused_by_the_gate(self):
        """A fact whose own prompt must be answered as before."""
        facts = [{**MORE[5], "unrelated": [{"prompt": MORE[5]["prompt"]}]}]
        done = self.run_script("post-facts", "--wait", "--gate", "min_agreement=1",
                               self.facts("gate.json", facts), code=1)
        self.assertIn("edit rejected", done.stdout)
        self.assertRegex(done.stdout, r"gate: min_agreement is 0(\.\d+)?, the limit 1")
        done = self.run_script("post-facts", "--wait", "--gate", "min_agreement=2",
                               self.facts("gate2.json", facts), code=1)
        self.assertIn("/gate/min_agreement: ", done.stderr)

    def test_not_facts(self):
        for name, data, says in (("text", "nothing", "is not JSON"), ("number", "5", "holds no facts"),
                                 ("empty", "", "is not JSON")):
            done = self.run_script("post-facts", self.write(name, data), code=1)
            self.assertIn(says, done.stderr)
        self.assertIn("cannot be read", self.run_script("post-facts", "/none", code=1).stderr)

    def test_status(self):
        done = self.run_script("status")
        self.assertRegex(done.stdout, r"^ready: version \d+, \d+ live facts, up \d+ s\n")
        self.assertIn("editor: malmen, 3 modules, joint", done.stdout)
        self.assertEqual(self.said("status")["state"], "ready")

    def test_usage(self):
        file = self.facts("usage.json")
        for script, args, says in (
                ("post-facts", [], "a file of facts is needed"),
                ("post-facts", [file, file], "one file"),
                ("post-facts", ["--nothing", file], "no option --nothing"),
                ("post-facts", ["--note"], "--note needs a value"),
                ("post-facts", ["--wait=yes", file], "takes no value"),
                ("post-facts", ["--strict", file], "--strict is for --wait"),
                ("post-facts", ["--timeout", "soon", file], "--timeout: 'soon'"),
                ("post-facts", ["--url", "ftp://x", file], "neither http"),
                ("status", ["x"], "unexpected 'x'"),
                ("watch", ["--job", "x", "--idle"], "either --job or --idle"),
                ("watch", ["--interval", "0"], "1 at least"),
                ("rollback", [], "a version is needed"),
                ("rollback", ["one"], "VERSION: 'one'"),
                ("retract", [], "either ids of facts"),
                ("retract", ["fact_1", "--job", "job_1"], "either ids of facts"),
                ("retract", ["--mode", "hide", "fact_1"], "neither pin nor drop"),
                ("export", ["1"], "a version and a file"),
                ("export", ["1", "x", "--format", "zip"], "neither safetensors nor lora"),
                ("export", ["1", str(self.dir)], "is a directory"),
                ("backup", ["--keep", "-1"], "--keep: '-1'"),
                ("backup", ["--config", "/none"], "--db is needed")):
            done = self.run_script(script, *args, code=2)
            self.assertIn(says, done.stderr, (script, args))
            self.assertIn(f"See 'malmend-{script} --help'.", done.stderr)

    def test_help(self):
        """Every script says what it takes and what it exits with."""
        for path in sorted(SCRIPTS.glob("*.sh")):
            if path.name == "lib.sh":
                continue
            done = self.run_script(path.stem, "--help")
            self.assertIn(f"malmend-{path.stem} ", done.stdout)
            self.assertIn("Exit codes: 0 ", done.stdout)
            named = set(re.findall(r"(?m)^    (--[a-z-]+)(?:\)| \|)", path.read_text()))
            self.assertEqual({o for o in named if f" {o} " not in done.stdout}, set(), path.name)


class Unreachable(Lab):
    def test_unreachable(self):
        file = self.write("facts.json", FACTS[:1])
        for script, args in (("post-facts", [file]), ("status", []), ("watch", []), ("rollback", [0]),
                             ("retract", ["fact_1"]), ("export", [0, self.dir / "out"])):
            done = run(script, *args)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn("no answer from http://127.0.0.1:1: ", done.stderr)
        url = f"unix:{self.dir}/none"
        done = run("status", "--json", url=url)
        self.assertEqual(json.loads(done.stdout)["exit"], 3)
        self.assertIn(f"no answer from {url}: ", done.stderr)


class Waiting(Ops):
    """Jobs wait a minute for others, and there is room for no more facts."""

    ARGS = ("--batch-window-ms", "60000", "--max-queue", "3")
    LISTEN = "unix:DIR/socket"

    def cancel(self, job):
        self.assertEqual(self.d.call("POST", f"/v1/jobs/{job}/cancel").status, 200)

    def test_timed_out(self):
        file = self.facts("late.json", MORE[10:12])
        done = self.run_script("post-facts", "--wait", "--timeout", "1", file, code=4)
        self.assertIn("timed out after 1 s", done.stderr)
        job = self.run_script("post-facts", file).stdout.strip()
        self.cancel(job)
        done = self.run_script("post-facts", "--wait", file, code=1)
        self.assertIn(f"{job}: edit cancelled", done.stdout)

    def test_full_queue(self):
        """It is waited for as long as the daemon asks, then the facts are posted."""
        first = self.run_script("post-facts", self.facts("full.json", MORE[12:15])).stdout.strip()
        file = self.facts("next.json", MORE[15:17])
        second = begin("post-facts", file, url=self.url)
        seen = read_until(second.stderr, "again in 1 s")
        self.assertIn("answers 429 (3 facts are waiting", seen[-1])
        self.cancel(first)
        out, _ = second.communicate(timeout=4 * PATIENCE)
        self.assertEqual(second.returncode, 0)
        done = self.run_script("post-facts", "--timeout", "1", self.facts("more.json", MORE[17:20]), code=4)
        self.assertIn("timed out after 1 s", done.stderr)
        self.cancel(out.strip())

    def test_daemon_killed(self):
        """Whoever waits for a job goes on when the daemon is back."""
        before = len(self.d.log)
        waiting = begin("post-facts", "--wait", self.facts("killed.json", MORE[20:22]), url=self.url)
        until = time.monotonic() + PATIENCE
        while not any(line["event"] == "request" and line["status"] == 202 for line in self.d.log[before:]):
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        self.d.get("/v1/status")  # by then the 202 has left, which is told before
        self.d.kill()
        self.d.args = ("--batch-window-ms", "0")
        self.d.start()
        out, err = waiting.communicate(timeout=4 * PATIENCE)
        self.assertEqual(waiting.returncode, 0, err)
        self.assertIn("edit applied, version 1, 2 facts", out)
        self.d.kill()
        self.d.args = self.ARGS
        self.d.start()


class Wrong(Ops):
    """An editor whose step changes nothing: every fact stays wrong."""

    ARGS = ("--repair-rounds", "0", "--update", "sequential")

    @classmethod
    def choose_editor(cls):
        return cls.editor(cls(), lr="1e-12")

    def test_strict(self):
        file = self.facts("wrong.json", FACTS[:22])
        done = self.run_script("post-facts", "--wait", file)
        self.assertIn("22 of them stayed wrong:", done.stdout)
        self.assertIn(f": {FACTS[0]['prompt']} -> {FACTS[0]['target']}\n", done.stdout)
        self.assertIn("  and 2 more\n", done.stdout)
        done = self.run_script("post-facts", "--wait", "--strict", "--json", file, code=1)
        self.assertIn("22 facts stayed wrong", done.stderr)
        self.assertEqual(len(json.loads(done.stdout)["wrong"]), 20)


class Life(Ops):
    ARGS = ("--update", "joint")

    def ids(self, *states):
        return [f["id"] for f in self.d.get("/v1/facts", limit=100, state="live").json["data"]]

    def test_life(self):
        """Taught, taken back, rolled back, exported, copied."""
        job = self.said("post-facts", "--wait", self.facts("life.json", FACTS[:12]))["job"]["id"]
        live = self.ids()
        self.assertEqual(len(live), 12)
        done = self.run_script("retract", *live[:2], "--reason", "wrong source")
        self.assertRegex(done.stdout, r"^job_\w+: retraction applied, version 2")
        said = self.said("retract", "--mode", "drop", "--from", self.write("ids", "\n".join(live[2:5])))
        self.assertEqual((said["job"]["state"], said["job"]["version"]), ("applied", 3))
        self.assertEqual(self.ids(), live[5:])
        done = self.run_script("retract", live[0], code=1)
        self.assertIn("refused with 409", done.stderr)
        self.run_script("retract", "--from", "-", stdin=live[5] + "\n# the first\n")
        self.run_script("retract", "--job", job)
        self.assertEqual(self.ids(), [])
        done = self.run_script("rollback", 1, "--reason", "too much")
        self.assertRegex(done.stdout, r"rollback applied, version 6")
        self.assertEqual(self.ids(), live)
        self.assertIn("refused with 422", self.run_script("rollback", 99, code=1).stderr)
        said = self.run_script("rollback", 1, "--no-wait").stdout
        self.assertRegex(said, r"^job_\w+\n$")
        self.d.wait_job(said.strip())

        self.check_export()
        self.check_backup()

    def check_export(self):
        out = self.dir / "delta.safetensors"
        whole = self.d.get("/v1/versions/1/delta").body
        done = self.run_script("export", 1, out)
        self.assertEqual(out.read_bytes(), whole)
        self.assertIn(f"version 1, safetensors, {len(whole)} bytes", done.stdout)
        said = self.said("export", "live", out, "--format", "lora")
        self.assertEqual(said["bytes"], out.stat().st_size)
        self.assertEqual(os.listdir(self.dir).count("delta.safetensors.part"), 0)
        self.assertIn("refused with 404", self.run_script("export", 99, out, code=1).stderr)
        done = self.run_script("export", 1, self.dir / "none" / "out", code=1)
        self.assertIn("its directory is not there", done.stderr)

        cutter = Cutter(self.d.address, len(whole) // 3)
        self.addCleanup(cutter.close)
        done = self.run_script("export", 1, out, url=cutter.url)
        self.assertEqual(hashlib.sha256(out.read_bytes()).digest(), hashlib.sha256(whole).digest())
        self.assertGreaterEqual(done.stderr.count("cut off at"), 3)
        ranges = [re.search(r"(?m)^Range: bytes=(\d+)-", head) for head in cutter.asked[1:]]
        starts = [int(m.group(1)) for m in ranges if m]
        self.assertEqual(starts, sorted(set(starts)), "nothing twice")

        part = self.dir / "resumed.part"
        part.write_bytes(whole[:1000])
        tag = self.d.call("HEAD", "/v1/versions/1/delta").headers["ETag"]
        (self.dir / "resumed.part.etag").write_text(tag + "\n")
        self.run_script("export", 1, self.dir / "resumed")
        self.assertEqual((self.dir / "resumed").read_bytes(), whole)
        part.write_bytes(b"of another version")
        (self.dir / "resumed.part.etag").write_text('"another"\n')
        self.run_script("export", 1, self.dir / "resumed")
        self.assertEqual((self.dir / "resumed").read_bytes(), whole)
        self.assertFalse(part.exists())

    def check_backup(self):
        """While the daemon runs; the last two stay, one that does not hold goes."""
        db, backups = self.d.directory + "/db", self.dir / "backups"
        args = ["--db", db, "--dir", backups, "--keep", 2]
        self.assertIn("is not there", self.run_script("backup", *args, code=1).stderr)
        backups.mkdir()
        self.assertIn("the copy failed", self.run_script("backup", "--db", "/none", "--dir", backups,
                                                         code=1).stderr)
        for stamp in ("20200101T000000Z", "20210101T000000Z"):
            (backups / f"malmend-{stamp}.db").write_bytes(b"old")
            (backups / f"malmend-{stamp}.db.editor.safetensors").write_bytes(b"old")
        said = self.said("backup", *args, "--model", MODEL)
        live = self.d.get("/v1/status").json["live_version"]
        self.assertEqual((said["live_version"], said["removed"]), (live, 1))
        self.assertTrue(said["verify"]["replayed"])
        copies = sorted(p.name for p in backups.glob("malmend-*"))
        self.assertEqual(copies, ["malmend-20210101T000000Z.db",
                                  "malmend-20210101T000000Z.db.editor.safetensors",
                                  os.path.basename(said["out"])])
        with sqlite3.connect(said["out"]) as sql:
            self.assertEqual(sql.execute("SELECT max(version) FROM versions").fetchone(), (live,))

        spoils = self.write("spoils", "#!/bin/sh\n"
                            f'{harness.BINARY} "$@" || exit\n[ "$1" = verify ] || '
                            'dd if=/dev/zero of="$5" bs=1 seek=5000 count=9000 conv=notrunc 2>/dev/null\n')
        spoils.chmod(0o755)
        time.sleep(1)  # the names are of whole seconds
        done = self.run_script("backup", *args, code=1, MALMEND_BIN=str(spoils))
        self.assertIn("the copy does not hold and was removed", done.stderr)
        self.assertEqual(sorted(p.name for p in backups.glob("malmend-*")), copies)
        lock = subprocess.Popen(["flock", backups / ".malmend-backup.lock", "cat"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        lock.stdin.write(b"x\n")
        lock.stdin.flush()
        lock.stdout.readline()  # it has the lock
        self.assertIn("another backup", self.run_script("backup", *args, code=1).stderr)
        lock.stdin.close()
        lock.wait()
        lock.stdout.close()


class Watch(Ops):
    ARGS = ("--batch-window-ms", "1000")

    def check(self, *how):
        """Each change of the job is told, and the end is the end."""
        watching = begin("watch", "--interval", 1, "--json", *how, url=self.url)
        first = json.loads(watching.stdout.readline())
        self.assertEqual((first["event"], first["state"]), ("status", "ready"))
        facts = [MORE.pop() for _ in range(3)]
        job = self.d.apply(*facts)
        seen = [json.loads(line) for line in
                read_until(watching.stdout, '"state":"applied"') if "{" in line]
        watching.kill()
        watching.wait()
        watching.stdout.close()
        watching.stderr.close()
        events = [(e["event"], e.get("state")) for e in seen if e.get("id", job["id"]) == job["id"]]
        self.assertIn(("job", "applied"), [("job", e.get("state")) for e in seen] + events)
        done = self.run_script("watch", "--idle", *how)
        self.assertRegex(done.stdout, r"^\d\d:\d\d:\d\d ready: version \d+, 0 jobs queued\n")
        done = self.run_script("watch", "--job", job["id"], *how)
        self.assertIn(f"{job['id']}: edit applied", done.stdout)

    def test_events_or_not(self):
        self.check()

    def test_polling(self):
        self.check("--poll")

    def test_job(self):
        gone = self.run_script("watch", "--job", "job_none", code=1)
        self.assertIn("refused with 4", gone.stderr)
        job = self.d.edit({**MORE[30], "unrelated": [{"prompt": MORE[30]["prompt"]}]},
                          gate={"min_agreement": 1}).json["id"]
        done = self.run_script("watch", "--interval", 1, "--job", job, code=1)
        self.assertIn("edit rejected", done.stdout)
        self.assertIn("timed out", self.run_script("watch", "--timeout", 1, code=4).stderr)


class Form(Lab):
    @tool("shellcheck")
    def test_shellcheck(self):
        root = SCRIPTS.parent.parent
        scripts = sorted(root.glob("deploy/**/*.sh"))
        done = subprocess.run(["shellcheck", "-x", "-P", root, *scripts], capture_output=True,
                              text=True, timeout=120)
        self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    main()
