"""The Debian package: built, installed in a clean root with nothing but what it depends on, used, and
taken away again."""
import json
import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

import harness
from clean_root import make_root
from harness import Daemon, main
from lab import MODEL, Lab, demo_facts
from ops import tool

ROOT = Path(os.environ["MAL_SOURCE_ROOT"])
BINARY = os.environ["MALMEND_PACKAGED"]


class Inside(Daemon):
    """In the root, as the user of the package."""

    def __init__(self, case):
        self.case = case
        super().__init__(directory="/var/lib/malmend")

    def command(self, command):
        return self.case.inside("malmend", "serve", "--config", "/etc/malmend/malmend.json", "--listen",
                                "127.0.0.1:0", user="malmend")


@unittest.skipUnless(shutil.which("dh"), "debhelper is not here")
@unittest.skipUnless(os.geteuid() == 0, "a root is made by root")
class Package(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        done = subprocess.run([ROOT / "deploy/build-deb.sh", "--prebuilt", BINARY, cls.dir / "deb"],
                              capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        cls.deb = Path(done.stdout.splitlines()[-1])
        cls.root = cls.dir / "root"
        cls.root.mkdir()
        cls.dir.chmod(0o755)

    def field(self, name):
        return subprocess.run(["dpkg-deb", "-f", self.deb, name], capture_output=True, text=True,
                              check=True).stdout.strip()

    def inside(self, *command, user=None):
        """The command line of something in the root, with a /proc of its own."""
        mounted = ["unshare", "--mount", "sh", "-c", 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"',
                   str(self.root)]
        drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return [*mounted, *drop, *map(str, command)]

    def run_inside(self, *command, code=0, user=None):
        done = subprocess.run(self.inside(*command, user=user), capture_output=True, text=True, timeout=120,
                              env={"PATH": "/usr/sbin:/usr/bin", "DEBIAN_FRONTEND": "noninteractive",
                                   "LC_ALL": "C"})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_version(self):
        self.assertEqual(self.field("Version"), json.loads(self.ok("--help=json").splitlines()[0])["version"])

    @tool("lintian")
    def test_lintian(self):
        done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", self.deb],
                              capture_output=True, text=True, timeout=240)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_life(self):
        missing = make_root(self.root, self.field("Depends"))
        self.assertEqual(missing, [])
        shutil.copy(self.deb, self.root / "malmend.deb")
        self.check_install()
        self.check_use()
        self.check_removal()

    def check_install(self):
        self.run_inside("dpkg", "-i", "/malmend.deb")
        self.assertIn("Status: install ok installed", self.run_inside("dpkg", "-s", "malmend"))
        self.assertNotIn("not found", self.run_inside("ldd", "/usr/bin/malmend"))
        self.assertEqual(self.run_inside("stat", "-c", "%U %G %a", "/var/lib/malmend").strip(),
                         "malmend malmend 750")
        self.assertIn("malmend serve", self.run_inside("malmend", "serve", "--help"))
        self.assertRegex(self.run_inside("ls", "-l", "/etc/systemd/system"), r"total 0\s*$",
                         "nothing is enabled")
        unit = (self.root / "lib/systemd/system/malmend.service").read_text()
        self.assertIn("ExecStart=/usr/bin/malmend serve --config /etc/malmend/malmend.json\n", unit)

    def check_use(self):
        check = ["malmend", "serve", "--config", "/etc/malmend/malmend.json", "--check-config"]
        self.assertIn("model: /var/lib/malmend/model", self.run_inside(*check, code=1, user="malmend"))
        shutil.copytree(MODEL, self.root / "var/lib/malmend/model")
        self.assertIn("model: gpt2", self.run_inside(*check, user="malmend"))
        self.assertIn("curl is not installed", self.run_inside("malmend-status", code=1))
        d = Inside(self)
        self.addCleanup(d.close)
        fact = demo_facts(n=1)[0]
        answer = d.complete(fact["prompt"])
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(d.get("/v1/status").json["model"]["device"], "cpu")
        self.assertEqual(d.stop(), 0)
        out = json.loads(self.run_inside("malmend", "backup", "--db", "/var/lib/malmend/malmend.db", "--out",
                                         "/var/lib/malmend/backups/copy.db", "--json", user="malmend"))
        self.assertEqual(out["live_version"], 0)

    def check_removal(self):
        config = self.root / "etc/malmend/malmend.json"
        config.write_text(config.read_text().replace("10000", "20000"))
        self.run_inside("dpkg", "-r", "malmend")
        self.assertFalse((self.root / "usr/bin/malmend").exists())
        self.assertIn("20000", config.read_text(), "what the administrator wrote stays")
        self.assertFalse((self.root / "lib/systemd/system/malmend.service").exists())
        said = self.run_inside("dpkg", "-P", "malmend")
        self.assertIn("/var/lib/malmend is not empty and was left", said)
        self.assertTrue((self.root / "var/lib/malmend/malmend.db").exists())
        left = [str(p.relative_to(self.root)) for p in self.root.rglob("*malmend*")
                if p.parts[len(self.root.parts)] in ("etc", "usr", "lib")]
        self.assertEqual(left, [])


if __name__ == "__main__":
    main()
