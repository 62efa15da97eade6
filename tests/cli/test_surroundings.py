"""What surrounds a command: streams that are closed, paths that are no text or nothing to write to."""
import json
import os
import subprocess

from harness import main
from lab import MALMEND, TINY_MODULES, Lab, each, malmend, snapshot, tiny_model


class Model(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")
        cls.ultra = cls.editor(cls(), modules=TINY_MODULES, model=cls.model)
        cls.facts = cls.dir / "facts"
        cls.facts.write_text('{"prompt": "a", "target": "b"}\n')

    def edit(self, *args):
        return ["edit", "--model", self.model, "--editor", self.ultra, "--facts", self.facts, *args]


class Streams(Model):
    def closed(self, streams, *args):
        """With these descriptors closed, not empty."""
        redirect = "".join(f" {fd}{'<' if fd == 0 else '>'}&-" for fd in streams)
        return subprocess.run(["sh", "-c", f'exec "$0" "$@"{redirect}', MALMEND, *map(str, args)],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    def test_files_are_kept_apart(self):
        """What is opened takes no closed stream's number: nothing printed ends up in a file."""
        whole = self.dir / "whole"
        self.ok(*self.edit("--out", whole))
        ids = self.write("ids", "1 2\n")
        self.ok("logits", "--model", self.model, "--tokens", ids, "--out", self.dir / "whole-logits")
        for streams in (1,), (2,), (0, 1, 2):
            out = self.dir / "out"
            done = self.closed(streams, *self.edit("--out", out))
            self.assertEqual(done.returncode, 1 if 1 in streams else 0, done.stderr)
            self.assertEqual(out.read_bytes(), whole.read_bytes())
            out.unlink()
            done = self.closed(streams, "logits", "--model", self.model, "--tokens", ids, "--out", out)
            self.assertEqual(done.returncode, 0, done.stderr)  # prints nothing
            self.assertEqual(out.read_bytes(), (self.dir / "whole-logits").read_bytes())
            out.unlink()

    def test_nowhere_to_print(self):
        says = b"malmend: cannot write to standard output\n"
        for args in (["--help=json"], ["serve", "--help=json"], ["--version"], ["token", "a", "read"]):
            done = self.closed((1,), *args)
            self.assertEqual((done.returncode, done.stderr), (1, says), args)
            with open("/dev/full", "wb") as full:
                done = subprocess.run([MALMEND, *args], stdout=full, stderr=subprocess.PIPE, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (1, says), args)

    def test_nothing_to_read(self):
        done = self.closed((0,), "tokenize", "--model", self.model)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard input", done.stderr)


@each([
    ("directory", "there", "not a regular file"),
    ("name_of_one", "new/", "the name of a directory"),
    ("below_a_file", "facts/out", "Not a directory"),
    ("nowhere", "none/out", "No such file or directory"),
    ("device", "/dev/full", "not a regular file"),
])
class Out(Model):
    """Where no file can be is said before the work."""

    def check(self, out, says):
        (self.dir / "there").mkdir(exist_ok=True)
        path = out if out.startswith("/") else f"{self.dir}/{out}"
        self.fails(*self.edit("--out", path), says=[path, says])
        self.fails("init-editor", "--model", self.model, "--method", "ultraedit", "--modules",
                   TINY_MODULES[0], "--out", path, says=[path, says])
        for option in "--report", "--per-fact":
            self.fails("eval", "--model", self.model, "--editor", self.ultra, "--data", self.facts,
                       option, path, says=[path, says])


class Several(Model):
    def test_two_in_one(self):
        same = self.dir / "same"
        self.misused(*self.edit("--out", same, "--save-model", same),
                     says=["--out and --save-model name the same path"])
        self.misused("eval", "--model", self.model, "--data", self.facts, "--report", same,
                     "--per-fact", same, says=["--report and --per-fact"])

    def test_training(self):
        """Its log and its state, before the model is opened."""
        args = ["train", "--model", self.dir / "none", "--data", self.facts, "--out", self.dir / "t"]
        (self.dir / "d").mkdir()
        self.fails(*args, "--log", self.dir / "d", says=[self.dir / "d", "Is a directory"])
        self.fails(*args, "--log", self.dir / "no/log", says=["no/log", "No such file"])
        (self.dir / "t.state").mkdir()
        self.fails(*args, says=["t.state", "not a regular file"])

    def test_limit(self):
        """Of the size of files: an error like a full disk, and nothing is left."""
        for option in "--out", "--save-model":
            before = snapshot(self.dir)
            done = subprocess.run(["bash", "-c", 'ulimit -f 1; exec "$0" "$@"', MALMEND,
                                   *map(str, self.edit(option, self.dir / "limited"))],
                                  capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(b"File too large", done.stderr)
            self.assertEqual(snapshot(self.dir), before)


class Paths(Model):
    def test_tokenizer_not_there(self):
        self.fails("tokenize", "--model", self.dir / "none", says=[self.dir / "none", "No such file"])

    def test_directory_for_a_database(self):
        (self.dir / "d").mkdir()
        for args in (["verify"], ["backup", "--out", self.dir / "x"],
                     ["export", "--model", self.model, "--version", 0, "--format", "delta", "--out",
                      self.dir / "x"]):
            self.fails(*args, "--db", self.dir / "d", says=[self.dir / "d", "is not a regular file"])

    def test_backup_to_nowhere(self):
        for out, says in (("new/", "the name of a directory"), ("facts/x", "Not a directory"),
                          ("none/x", "No such file or directory")):
            self.fails("backup", "--db", self.facts, "--out", f"{self.dir}/{out}", says=[out, says])

    def test_no_text(self):
        """A path may have any bytes; JSON shows those that are no UTF-8 as U+FFFD."""
        odd = self.dir / os.fsdecode(b"odd-\xff")
        model = tiny_model(odd)
        shown = str(odd).replace(os.fsdecode(b"\xff"), "\ufffd")
        report = self.dir / "report"
        said = self.json("eval", "--model", model, "--editor", self.ultra, "--data", self.facts,
                         "--report", report)
        self.assertEqual(said["model"], "odd-\ufffd")
        self.assertEqual(json.loads(report.read_text())["model"], "odd-\ufffd")
        config = odd / "config-of-serve"
        config.write_text("{}")
        before = snapshot(self.dir)
        done = malmend("serve", "--check-config", "--json", "--config", config, "--model", model,
                       "--db", odd / "db", "--editor", odd / "none")
        said = json.loads(done.stdout)
        self.assertEqual(done.returncode, 1)
        self.assertEqual([p["option"] for p in said["problems"]], ["editor"])
        self.assertIn(f"{shown}/none", said["problems"][0]["detail"])
        self.assertEqual(said["options"]["model"], shown)
        self.assertEqual(snapshot(self.dir), before)


if __name__ == "__main__":
    main()
