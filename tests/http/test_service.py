"""The daemon under a service manager: readiness and watchdog over a notify socket, inherited sockets."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import Case, Daemon, MODEL_ARGS, PATIENCE, main, only_fake, wait_until
from world import fact

WATCHDOG_MS = 400
# Becomes the daemon, with a socket as descriptor 3 and LISTEN_PID as a service manager sets it.
ACTIVATE = ("import os, sys; os.dup2(int(sys.argv[1]), 3); n = sys.argv[2]; "
            "os.environ.update(LISTEN_PID=sys.argv[3] if sys.argv[3] != '-' else str(os.getpid()),"
            " LISTEN_FDS=n, LISTEN_FDNAMES='any'); os.execv(sys.argv[4], sys.argv[4:])")


@contextlib.contextmanager
def held():
    """A file that something waits for, and what makes it."""
    with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
        file = directory + "/f"
        try:
            yield file, lambda: open(file, "w").close()
        finally:
            open(file, "w").close()


@contextlib.contextmanager
def asking(d, prompt):
    """A completion meanwhile; the status of its answer, once there is one."""
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(d.complete(prompt).status))
    thread.start()
    try:
        yield statuses
    finally:
        thread.join()


def is_asked(d):
    return b"malmend_reads_waiting 1\n" in d.get("/metrics").body


class Manager:
    """The other end of NOTIFY_SOCKET: what was said, with its time."""

    def __init__(self, abstract=False):
        self.dir = tempfile.TemporaryDirectory(prefix="malmend-")
        path = self.dir.name + "/notify"
        self.name = "@" + path if abstract else path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path if abstract else path)
        self.said, self.changed = [], threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            with self.changed:
                self.said += [(line, time.monotonic()) for line in lines]
                self.changed.notify_all()

    def env(self, **more):
        return {"NOTIFY_SOCKET": self.name, **more}

    def count(self, line):
        return sum(said == line for said, _ in self.said)

    def wait(self, true, why):
        with self.changed:
            if not self.changed.wait_for(true, PATIENCE):
                raise AssertionError(f"{why}: {[line for line, _ in self.said]}")

    def wait_line(self, line, n=1):
        self.wait(lambda: self.count(line) >= n, f"no {line}")

    def wait_silence(self, line, ms):
        """Until it was not said for so long."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            last = max(at for said, at in self.said if said == line)
            if time.monotonic() - last > ms / 1000:
                return
            time.sleep(0.01)
        raise AssertionError(f"{line} all the time")


class Own(Case):
    """Every test has daemons of its own."""

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass


class Notify(Own):
    def daemon(self, manager, *args, **more):
        d = Daemon(*args, env=manager.env(**more))
        self.addCleanup(d.close)
        return d

    def test_ready_and_stopping(self):
        """Ready is said when the model is there, not when the port is."""
        manager = Manager()
        file = manager.dir.name + "/load"
        d = Daemon(env=manager.env(MAL_FAKE_LOAD_HELD=file), ready=False)
        self.addCleanup(d.close)
        manager.wait_line("STATUS=loading")
        self.assertEqual(manager.count("READY=1"), 0)
        self.assertEqual(d.get("/readyz").status, 503)
        open(file, "w").close()
        manager.wait_line("READY=1")
        self.assertEqual(d.get("/readyz").status, 200)
        manager.wait_line("STATUS=version 0; 0 jobs queued")
        self.assertEqual(manager.count("STOPPING=1"), 0)
        self.assertEqual(d.stop(), 0)
        manager.wait_line("STOPPING=1")
        self.assertEqual(manager.count("READY=1"), 1)
        self.assertEqual(manager.count("WATCHDOG=1"), 0, "nobody asked for it")

    def test_abstract_socket(self):
        manager = Manager(abstract=True)
        self.daemon(manager)
        manager.wait_line("READY=1")

    @only_fake
    def test_status(self):
        manager = Manager()
        d = self.daemon(manager)
        with held() as (prompt, release):
            d.edit({"prompt": "held: " + prompt, "target": "b"})
            manager.wait_line("STATUS=version 0; editing 1 facts: forward; 0 jobs queued")
            release()
            manager.wait_line("STATUS=version 1; 0 jobs queued")

    @only_fake
    def test_watchdog(self):
        """It is fed while idle and while slices end; not when the worker is stuck in one, and
        again when that is over."""
        manager = Manager()
        d = self.daemon(manager, WATCHDOG_USEC=str(WATCHDOG_MS * 1000))
        manager.wait_line("WATCHDOG=1", 3)
        with held() as (file, release):
            job = d.edit({"prompt": "held: " + file, "target": "b"}).json["id"]
            d.wait_job(job, "running")
            manager.wait_line("WATCHDOG=1", manager.count("WATCHDOG=1") + 8)
            release()
            d.wait_job(job)
        with held() as (file, release):
            job = d.edit({"prompt": "stuck: " + file, "target": "b"}).json["id"]
            d.wait_job(job, "running")  # or a disk that takes its time is as silent before
            manager.wait_silence("WATCHDOG=1", 2 * WATCHDOG_MS)
            self.assertEqual(d.get("/v1/jobs/" + job).json["state"], "running")
            self.assertEqual(d.get("/livez").status, 200, "the loop is not stuck")
            n = manager.count("WATCHDOG=1")
            release()
            d.wait_job(job)
        manager.wait_line("WATCHDOG=1", n + 2)

    @only_fake
    def test_watchdog_of_reads(self):
        """A read that was stuck on a thread of its own fed the watchdog for ever: the worker waits for
        it, or for work. One that takes its steps may take long, and so may the change that waits."""
        manager = Manager()
        d = self.daemon(manager, WATCHDOG_USEC=str(WATCHDOG_MS * 1000), MAL_FAKE_READS_BESIDE="1")
        manager.wait_line("WATCHDOG=1", 3)
        with held() as (edit, release_edit), held() as (file, release):
            job = d.edit({"prompt": "held: " + edit, "target": "b"}).json["id"]
            d.wait_job(job, "running")
            with asking(d, "held: " + file) as answers:
                wait_until(lambda: is_asked(d))
                manager.wait_line("WATCHDOG=1", manager.count("WATCHDOG=1") + 8)
                release_edit()
                manager.wait_line("WATCHDOG=1", manager.count("WATCHDOG=1") + 4)
                self.assertEqual(d.get("/v1/jobs/" + job).json["state"], "running", "it waits for the read")
                release()
            self.assertEqual(answers, [200])
            d.wait_job(job)
        with held() as (file, release), asking(d, "stuck: " + file) as answers:
            manager.wait_silence("WATCHDOG=1", 2 * WATCHDOG_MS)
            n = manager.count("WATCHDOG=1")
            release()
        self.assertEqual(answers, [200])
        manager.wait_line("WATCHDOG=1", n + 2)

    @only_fake
    def test_read_without_end(self):
        """A change waits for a read as long as the client does at most."""
        manager = Manager()
        d = self.daemon(manager, "--request-timeout", "1", MAL_FAKE_READS_BESIDE="1")
        with held() as (file, _), asking(d, "held: " + file) as answers:
            wait_until(lambda: is_asked(d) or answers)  # a slow look may find it over
            d.apply({"prompt": "a", "target": "b"})
            wait_until(lambda: answers)
        self.assertNotEqual(answers, [200])

    def test_watchdog_of_another(self):
        manager = Manager()
        d = self.daemon(manager, WATCHDOG_USEC="200000", WATCHDOG_PID=str(os.getpid()))
        manager.wait_line("READY=1")
        d.get("/v1/jobs/none")
        self.assertEqual(d.stop(), 0)
        manager.wait_line("STOPPING=1")
        self.assertEqual(manager.count("WATCHDOG=1"), 0)

    def refuses(self, says, env):
        with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
            done = subprocess.run(
                [harness.BINARY, "serve", *MODEL_ARGS, "--db", directory + "/db", "--listen",
                 "127.0.0.1:0"], capture_output=True, timeout=PATIENCE, env={**os.environ, **env})
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(says, done.stderr.decode())

    def test_bad_environment(self):
        self.refuses("NOTIFY_SOCKET", {"NOTIFY_SOCKET": "notify"})
        self.refuses("NOTIFY_SOCKET", {"NOTIFY_SOCKET": "/" + 200 * "x"})
        self.refuses("WATCHDOG_USEC", {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"})

    def test_nobody_listens(self):
        """A manager that went away changes nothing."""
        with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
            d = Daemon(env={"NOTIFY_SOCKET": directory + "/gone"})
        self.addCleanup(d.close)
        self.assertEqual(d.get("/readyz").status, 200)


class Activated(Daemon):
    """Started with an open socket, as descriptor 3."""

    def __init__(self, sock, n="1", pid="-", args=(), **more):
        self.sock, self.n, self.pid = sock, n, pid
        super().__init__(*args, **more)

    def command(self, command):
        return [sys.executable, "-c", ACTIVATE, str(self.sock.fileno()), self.n, self.pid, *command]

    def pass_fds(self):
        return (self.sock.fileno(),)


def listener(family=socket.AF_INET, address=("127.0.0.1", 0), kind=socket.SOCK_STREAM, listen=True):
    sock = socket.socket(family, kind)
    sock.bind(address)
    if listen:
        sock.listen(5)
    return sock


class Activation(Own):
    def activated(self, sock, **more):
        d = Activated(sock, **more)
        self.addCleanup(d.close)
        return d

    def test_tcp(self):
        """A client that came before the daemon is served; --listen is not bound."""
        sock = listener()
        early = socket.create_connection(sock.getsockname())
        early.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        d = self.activated(sock, listen="unix:/nowhere/else")
        self.assertEqual(d.address, "127.0.0.1:%d" % sock.getsockname()[1])
        self.assertTrue(d.wait_log("listening")["inherited"])
        early.settimeout(PATIENCE)
        self.assertIn(b"200 OK", early.recv(4096))
        early.close()
        self.assertEqual(d.get("/readyz").status, 200)

    def test_socket_outlives_the_daemon(self):
        """The manager's socket is neither closed nor removed: the next daemon has it."""
        with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
            path = directory + "/socket"
            sock = listener(socket.AF_UNIX, path)
            d = self.activated(sock)
            self.assertEqual(d.address, "unix:" + path)
            self.assertEqual(d.get("/readyz").status, 200)
            self.assertEqual(d.stop(), 0)
            self.assertTrue(os.path.exists(path))
            waiting = socket.socket(socket.AF_UNIX)
            waiting.connect(path)
            waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            d.start()
            waiting.settimeout(PATIENCE)
            self.assertIn(b"200 OK", waiting.recv(4096))
            waiting.close()

    def test_ipv6(self):
        try:
            sock = listener(socket.AF_INET6, ("::1", 0))
        except OSError:
            self.skipTest("no IPv6 here")
        d = self.activated(sock)
        self.assertEqual(d.address, "[::1]:%d" % sock.getsockname()[1])
        self.assertEqual(d.get("/livez").status, 200)

    def test_open_with_tokens(self):
        """The rule is that of --listen."""
        with tempfile.NamedTemporaryFile("w") as tokens:
            tokens.write(f"ops admin {64 * '0'}\n")
            tokens.flush()
            d = self.activated(listener(address=("0.0.0.0", 0)), args=("--tokens", tokens.name))
            self.assertEqual(d.get("/v1/status").status, 401)

    def test_of_another_process(self):
        """What is meant for another process is left alone."""
        sock = listener()
        d = self.activated(sock, pid=str(os.getpid()))
        self.assertNotEqual(d.address, "127.0.0.1:%d" % sock.getsockname()[1])
        self.assertFalse(d.wait_log("listening")["inherited"])

    def test_none(self):
        d = self.activated(listener(), n="0")
        self.assertFalse(d.wait_log("listening")["inherited"])

    def refused(self, sock, says, n="1"):
        with tempfile.TemporaryDirectory(prefix="malmend-") as directory:
            done = subprocess.run(
                [sys.executable, "-c", ACTIVATE, str(sock.fileno()), n, "-", harness.BINARY, "serve",
                 *MODEL_ARGS, "--db", directory + "/db"],
                capture_output=True, timeout=PATIENCE, pass_fds=(sock.fileno(),))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(says, done.stderr.decode())

    def test_refused(self):
        self.refused(listener(address=("0.0.0.0", 0)), "so only loopback addresses")
        self.refused(listener(kind=socket.SOCK_DGRAM, listen=False), "not a stream socket that listens")
        self.refused(listener(listen=False), "not a stream socket that listens")
        self.refused(listener(), "the daemon listens on one", n="2")
        self.refused(listener(), "the daemon listens on one", n="many")
        self.refused(listener(socket.AF_UNIX, "\0malmend-test-%d" % os.getpid()), "Unix path")
        with open(os.devnull) as file:
            self.refused(file, "descriptor 3")


class Signals(Own):
    def test_stopped_again(self):
        """To its last moment a daemon that ends is not ended by a signal: its exit code is its own."""
        d = Daemon()
        self.addCleanup(d.close)
        d.apply(*[fact(i) for i in range(100)])
        wanted = sum(1 << s - 1 for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        seen = {wanted: 0}
        d.process.send_signal(signal.SIGTERM)
        while (now := self.masks(d.process.pid)) is not None:
            seen[now & wanted] = seen.get(now & wanted, 0) + 1
        self.assertEqual((list(seen), d.stop()), ([wanted], 0), seen)

    def masks(self, pid):
        """Of signals that are caught or ignored; None: it has ended."""
        with open(f"/proc/{pid}/status") as file:
            of = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        return None if of["State"][0] in "ZX" else int(of["SigCgt"], 16) | int(of["SigIgn"], 16)


if __name__ == "__main__":
    main()
