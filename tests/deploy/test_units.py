"""The files of systemd: what they name is there, systemd finds nothing wrong with them, and the
daemon takes a socket as systemd's own tool hands it over."""
import configparser
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import harness
from harness import Daemon, PATIENCE, main
from lab import MODEL, Lab
from ops import tool

DEPLOY = Path(os.environ["MAL_SOURCE_ROOT"]) / "deploy"
SERVICE = Path(os.environ["MAL_BUILD_ROOT"]) / "deploy/malmend.service"
MALMEND = os.environ["MALMEND_BIN"]


class Unit(configparser.RawConfigParser):
    """Of a setting given several times, all values apart by newlines."""

    def __init__(self, path):
        class Several(dict):
            def __setitem__(self, key, value):
                if key in self and isinstance(value, list):
                    self[key].extend(value)
                else:
                    super().__setitem__(key, value)
        super().__init__(dict_type=Several, strict=False, delimiters="=", interpolation=None)
        self.optionxform = str
        self.read(path)


class Service(Lab):
    unit = Unit(SERVICE)
    service = unit["Service"]

    def test_starts_the_daemon(self):
        """The command line is one of this binary, with the file that is installed."""
        program, command, *args = self.service["ExecStart"].split()
        self.assertTrue(program.startswith("/") and program.endswith("/bin/malmend"), program)
        self.assertEqual((command, args[0]), ("serve", "--config"))
        self.assertTrue(args[1].endswith("/etc/malmend/malmend.json"), args)
        config = json.loads((DEPLOY / "malmend.json").read_text())
        state = "/var/lib/" + self.service["StateDirectory"]
        self.assertEqual(os.path.dirname(config["db"]), state)
        self.assertTrue(config["model"].startswith(state))

    def test_supervision(self):
        self.assertEqual(self.service["Type"], "notify")
        self.assertEqual(self.service["Restart"], "on-failure")
        self.assertEqual(self.service["RestartPreventExitStatus"], "2")
        self.assertTrue(self.service["WatchdogSec"])

    def test_hardening_lets_cuda_work(self):
        """What CUDA needs is open, everything around it is not."""
        self.assertEqual(self.service["PrivateDevices"], "no")
        self.assertEqual(self.service["DevicePolicy"], "closed")
        self.assertEqual(self.service["DeviceAllow"].split("\n"), ["char-nvidia* rw"])
        self.assertEqual(self.service["MemoryDenyWriteExecute"], "no")
        for name, value in (("ProtectSystem", "strict"), ("NoNewPrivileges", "yes"),
                            ("PrivateTmp", "yes"), ("CapabilityBoundingSet", ""),
                            ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX")):
            self.assertEqual(self.service[name], value, name)

    def test_socket(self):
        socket = Unit(DEPLOY / "systemd/malmend.socket")["Socket"]
        config = json.loads((DEPLOY / "malmend.json").read_text())
        self.assertEqual(socket["ListenStream"], config["listen"])
        self.assertNotIn("Accept", socket)

    def test_user(self):
        """Unit, user and directories are about the same name."""
        user = (DEPLOY / "systemd/malmend.sysusers").read_text()
        self.assertRegex(user, rf"(?m)^u {self.service['User']} ")
        tmpfiles = (DEPLOY / "systemd/malmend.tmpfiles").read_text()
        self.assertRegex(tmpfiles, rf"(?m)^d /var/lib/malmend 0750 {self.service['User']} ")

    def installed(self):
        """The units in a directory, with programs that are here."""
        for path in (SERVICE, DEPLOY / "systemd/malmend.socket"):
            text = re.sub(r"(?m)^Documentation=.*\n", "", path.read_text())
            self.write(path.name, re.sub("(?m)^ExecStart=\\S+", "ExecStart=" + MALMEND, text))
        return self.dir / "malmend.service", self.dir / "malmend.socket"

    @tool("systemd-analyze")
    def test_verify(self):
        done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no",
                               *self.installed()], capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    @tool("systemd-analyze")
    def test_security(self):
        """Exposure as systemd counts it, times ten."""
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                               "--threshold=16", self.installed()[0]],
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout.decode()[-300:])

    @tool("systemd-sysusers")
    def test_sysusers(self):
        (self.dir / "etc").mkdir()
        done = subprocess.run(["systemd-sysusers", "--root", self.dir,
                               DEPLOY / "systemd/malmend.sysusers"],
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex((self.dir / "etc/passwd").read_text(),
                         r"(?m)^malmend:x:\d+:\d+:malmend daemon:/var/lib/malmend:")


class ByTool(Daemon):
    """Started by systemd's own tool when the first client comes."""

    def __init__(self, path):
        self.path = path
        super().__init__(ready=False)

    def command(self, command):
        return ["systemd-socket-activate", "-l", self.path, *command]

    def wait_log(self, name, timeout=None):
        if name == "listening":
            return {"address": "unix:" + self.path}
        return super().wait_log(name, timeout)


class Activation(Lab):
    def connect(self, path):
        """When the tool listens."""
        until = time.monotonic() + PATIENCE
        while True:
            client = harness.UnixConnection(path, PATIENCE)
            try:
                client.connect()
                return client
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    @tool("systemd-socket-activate")
    def test_systemds_own_tool(self):
        harness.MODEL_ARGS = ["--model", str(MODEL), "--editor", str(self.editor())]
        with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
            d = ByTool(directory + "/socket")
            self.addCleanup(d.close)
            client = self.connect(directory + "/socket")
            client.request("GET", "/livez")
            self.assertEqual(client.getresponse().status, 200)
            client.close()
            event = Daemon.wait_log(d, "listening")
            self.assertTrue(event["inherited"])
            self.assertEqual(event["address"], "unix:" + client.path)
            d.wait_log("ready")
            self.assertEqual(d.get("/readyz").status, 200)


if __name__ == "__main__":
    main()
