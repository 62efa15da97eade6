"""Fine-tuning that is killed goes on where it was saved, in a daemon and in the command, to the bits
of one go."""
import contextlib
import json
import signal
import sqlite3
import subprocess

from harness import main, wait_until
from lab import MALMEND, each
from test_serve import version
from test_tuned import FACTS, HYPER, Tuned

TOGETHER = ["--batch-window-ms", "60000", "--max-batch-facts", "2"]
METHODS = [("ft", "ft", "steps"), ("locft", "locft-bf", "epochs")]


class CutOff(Tuned):
    def long_enough(self, method, passes, cut):
        """Cuts an edit off that has been saved; the editor, and what `cut` gave."""
        for n in 800, 6400, 51200:
            editor = self.make(method, {**HYPER[method], "lr": 1e-4, passes: n})
            if given := cut(editor, n):
                return editor, given
        return self.fail("never seen at work")


@each(METHODS)
class Command(CutOff):
    def check(self, method, passes):
        out = self.dir / f"{method}.delta"
        state = self.dir / f"{method}.delta.state"

        def command(editor):
            return [MALMEND, "edit", "--model", self.model, "--editor", editor, "--facts", self.path,
                    "--out", out, "--save-every", "0", "--json"]

        def cut(editor, _):
            for path in out, state:  # of an edit that had ended by the kill
                path.unlink(missing_ok=True)
            process = subprocess.Popen(command(editor), stdout=subprocess.DEVNULL)
            wait_until(lambda: state.exists() or process.poll() is not None)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return state.exists() and not out.exists()
        editor, _ = self.long_enough(method, passes, cut)
        self.assertFalse(out.exists())
        state.with_name(f"{state.name}.tmp-0").write_text("cut off while it was saved")
        done = subprocess.run(command(editor), capture_output=True, check=True, text=True)
        self.assertRegex(done.stderr, r"goes on after [1-9]\d* of \d+ mini-batches: .*\.state")
        self.assertFalse(state.exists(), "it is done")
        whole = self.dir / f"{method}.whole"
        hash = self.once(editor, "--out", whole)["weights_hash"]
        self.assertEqual(json.loads(done.stdout)["weights_hash"], hash)
        self.assertEqual(out.read_bytes(), whole.read_bytes())
        self.assertEqual(list(self.dir.glob("*.state*")), [])

    def test_bad_state(self):
        editor = self.make("ft")
        out = self.dir / "bad.delta"
        state = self.dir / "bad.delta.state"
        state.write_text("no state")
        done = subprocess.run([MALMEND, "edit", "--model", self.model, "--editor", editor, "--facts",
                               self.path, "--out", out], capture_output=True, check=True, text=True)
        self.assertIn("begins anew: ", done.stderr)
        self.assertIn("bad.delta.state", done.stderr)
        self.assertFalse(state.exists())


@each(METHODS)
class Served(CutOff):
    def saved(self, n):
        """A daemon that has saved its batch of two jobs, or has ended it; the jobs."""
        d = self.serve("--save-every", "0", *TOGETHER, name=f"db{n}")
        jobs = [d.edit(fact).json["id"] for fact in FACTS[:2]]
        wait_until(lambda: any(e["event"] in ("edit saved", "version published") and
                               e.get("version") != 0 for e in d.log))
        return d, jobs

    def left(self, d, jobs):
        """The same, where it has saved the batch and not ended it."""
        with contextlib.closing(sqlite3.connect(d.db)) as db:
            live, = db.execute("SELECT max(version) FROM versions").fetchone()
        return (d, jobs) if d.db.with_suffix(".state").exists() and live == 0 else None

    def check(self, method, passes):
        """The batch is the same again, though another job waits by then."""
        def cut(_, n):
            d, jobs = self.saved(n)
            jobs += [d.edit(fact).json["id"] for fact in FACTS[2:4]]
            if method == "ft":
                d.kill()
            else:
                self.assertEqual(d.stop(), 0)
            return self.left(d, jobs)
        editor, (d, jobs) = self.long_enough(method, passes, cut)
        d.log.clear()
        d.db.with_suffix(".state.tmp-0").write_text("cut off while it was saved")
        d.start()
        resumed = d.wait_log("edit resumed")
        self.assertGreater(resumed["done"], 0)
        ended = [d.wait_job(job) for job in jobs]
        self.assertEqual([e["state"] for e in ended], ["applied"] * 4)
        self.assertEqual([e["version"] for e in ended], [1, 1, 2, 2])
        self.path.write_text(json.dumps(FACTS[:2]))
        self.assertEqual(version(d, 1)["weights_hash"], self.once(editor)["weights_hash"])
        self.path.write_text(json.dumps(FACTS))
        self.assertEqual(d.stop(), 0)  # not before what follows a version is done
        self.assertEqual(list(d.db.parent.glob("*.state*")), [], "nothing is to be resumed")

    def test_other_jobs(self):
        """One of the jobs was withdrawn: what was saved is of no use, and nobody is kept from work."""
        def cut(_, n):
            d, jobs = self.saved(n)
            d.kill()
            return self.left(d, jobs)
        _, (d, jobs) = self.long_enough("ft", "steps", cut)
        state = d.db.with_suffix(".state")
        text = state.read_bytes()
        self.assertEqual(text.count(jobs[1].encode()), 1)
        state.write_bytes(text.replace(jobs[1].encode(), jobs[1].encode()[::-1]))
        d.log.clear()
        d.start()
        self.assertEqual([d.wait_job(job)["state"] for job in jobs], ["applied"] * 2)
        self.assertEqual(d.stop(), 0)  # not before what follows a version is done
        self.assertEqual([e for e in d.log if e["event"] == "edit resumed"], [])
        self.assertFalse(state.exists())


if __name__ == "__main__":
    main()
