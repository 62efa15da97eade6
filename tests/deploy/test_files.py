"""What is made from the tables of options: equal to what the binary says of itself."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from harness import main
from lab import DEMO, MODEL, Lab, malmend
from ops import tool

BUILD = Path(os.environ["MAL_BUILD_ROOT"])
DEPLOY = Path(os.environ["MAL_SOURCE_ROOT"]) / "deploy"
MALMEND = os.environ["MALMEND_BIN"]


def generate(what, *template):
    done = subprocess.run([sys.executable, DEPLOY / "generate.py", what, MALMEND, *template],
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


class Config(Lab):
    def test_every_option(self):
        """To be made again with `deploy/generate.py config MALMEND > deploy/malmend.json`."""
        self.assertEqual((DEPLOY / "malmend.json").read_text(), generate("config"))

    def test_defaults(self):
        """With the file, all is as without it but for the places."""
        args = ["serve", "--check-config", "--json", "--model", MODEL, "--db", self.dir / "db",
                "--editor", DEMO / "editor.safetensors"]
        bare = json.loads(malmend(*args).stdout)
        done = malmend(*args, "--config", DEPLOY / "malmend.json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["options"], bare["options"])


def tables():
    lines = malmend("--help=json").stdout.splitlines()
    return {t["command"]: t for t in map(json.loads, lines[1:])}


class Manual(Lab):
    page = BUILD / "deploy/malmend.1"

    @tool("groff")
    def test_groff(self):
        done = subprocess.run(["groff", "-ww", "-man", "-Tutf8", "-z", self.page], capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    @tool("mandoc")
    def test_mandoc(self):
        done = subprocess.run(["mandoc", "-T", "lint", self.page], capture_output=True, text=True)
        self.assertEqual(done.stdout, "")

    @tool("man")
    def test_says_all(self):
        """As it is read: every command with every option and default."""
        done = subprocess.run(["man", "-l", self.page], capture_output=True, text=True,
                              env={**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8",
                                   "MAN_KEEP_FORMATTING": "", "MANPAGER": "cat"})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        text = re.sub(".\\x08", "", done.stdout)
        parts = re.split(r"(?m)^   malmend ([a-z-]+)$", text)
        said = dict(zip(parts[1::2], parts[2::2]))
        self.assertEqual(set(said), set(tables()))
        for name, table in tables().items():
            for option in table["options"]:
                left = re.escape(option["metavar"] if option["positional"] else "--" + option["name"])
                self.assertRegex(said[name], rf"(?m)^       {left}( |$)", name)
                if option["default"]:
                    self.assertIn(f"Default: {option['default']}.", said[name])


# The completion is sourced, one word completed, and what it offers printed.
DRIVER = """
compopt() { :; }
. "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
f=_malmend; [ "$1" = malmend ] || f=_malmend_ops
"$f" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


class Completion(Lab):
    script = BUILD / "deploy/malmend"

    def complete(self, *words):
        done = subprocess.run(["bash", "-c", DRIVER, "bash", self.script, *words], capture_output=True,
                              text=True, cwd=self.dir)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return sorted(done.stdout.split())

    def test_commands(self):
        self.assertEqual(self.complete("malmend", ""),
                         sorted([*tables(), "help", "--help", "--version"]))
        self.assertEqual(self.complete("malmend", "ver"), ["verify"])
        self.assertEqual(self.complete("malmend", "help", "ver"), ["verify"])

    def test_options(self):
        """Of every command those that its --help has."""
        for command in tables():
            help = malmend(command, "--help").stdout.decode()
            self.assertEqual(self.complete("malmend", command, "--"),
                             sorted(re.findall(r"(?m)^  (--[a-z-]+)", help)), command)

    def test_values(self):
        """Choices, files and folders; also after '=', which bash takes apart."""
        self.write("facts.json", "{}")
        self.write("other.txt", "")
        (self.dir / "folder").mkdir(exist_ok=True)
        for words, offered in (
                (["serve", "--update", ""], ["joint", "sequential"]),
                (["serve", "--update", "="], ["joint", "sequential"]),
                (["serve", "--update", "=", "s"], ["sequential"]),
                (["edit", "--facts", "fa"], ["facts.json"]),
                (["edit", "--model", "f"], ["folder"]),
                (["serve", "--max-queue", ""], []),
                (["serve", "--no-scrub", "--gate-b"], ["--gate-bisect"]),
                (["nothing", "--"], [])):
            self.assertEqual(self.complete("malmend", *words), offered, words)

    @tool("shellcheck")
    def test_shellcheck(self):
        done = subprocess.run(["shellcheck", self.script], capture_output=True, text=True)
        self.assertEqual(done.stdout, "")


class Installed(Lab):
    """Everything, where `meson install` puts it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        done = subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir",
                               cls.dir], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        options = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
        cls.prefix = cls.dir / next(o["value"] for o in options if o["name"] == "prefix")[1:]

    def test_places(self):
        for path in ("bin/malmend", "lib/systemd/system/malmend.service",
                     "lib/systemd/system/malmend.socket", "lib/sysusers.d/malmend.conf",
                     "lib/tmpfiles.d/malmend.conf", "share/man/man1/malmend.1",
                     "share/bash-completion/completions/malmend"):
            self.assertGreater((self.prefix / path).stat().st_size, 0, path)

    def test_names_fit(self):
        """The unit starts what was installed, with the file that was installed."""
        unit = (self.prefix / "lib/systemd/system/malmend.service").read_text()
        program, config = re.search(r"(?m)^ExecStart=(\S+) serve --config (\S+)$", unit).groups()
        self.assertTrue((self.dir / program[1:]).exists(), program)
        self.assertTrue((self.dir / config[1:]).exists(), config)

    def test_scripts(self):
        """Each is there by its name, finds what it shares with the others, and is completed."""
        names = sorted(p.stem for p in (DEPLOY / "ops").glob("*.sh") if p.stem != "lib")
        installed = sorted(p.name for p in (self.prefix / "bin").glob("malmend-*"))
        self.assertEqual(installed, ["malmend-" + name for name in names])
        for name in installed:
            done = subprocess.run([self.prefix / "bin" / name, "--help"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"  {name} [options]", done.stdout)
            done = subprocess.run([self.prefix / "bin" / name, "--nothing"], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr.split()[0]), (2, name + ":"))
            completion = self.prefix / "share/bash-completion/completions" / name
            self.assertEqual(os.readlink(completion), "malmend")


if __name__ == "__main__":
    main()
