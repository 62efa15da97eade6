"""Lives in which the disk or the memory fails (tests/http/bad_disk.c, no_memory.c): what is refused says why, what was
answered 202 is done, and where the daemon has to end it ends with 1 and its next life has everything."""
import errno
import os
import signal
import threading

import bad_disk
import no_memory

DISK, MEMORY = "MALMEND_BAD_DISK_LIBRARY", "MALMEND_NO_MEMORY_LIBRARY"
EVER = 1 << 30
SAYS = {"full": bad_disk.FULL, "broken": bad_disk.BROKEN, "memory": no_memory.SAYS}


class Troubled(Exception):
    """A call was refused, or had no answer, for what fails."""


class Trouble:
    """Of one life."""

    args = "--min-free-disk", "0"

    def __init__(self, rng, directory):
        kinds = [kind for kind, library in (("full", DISK), ("full", DISK), ("broken", DISK), ("memory", MEMORY))
                 if library in os.environ]
        self.rng, self.kind = rng, rng.choice(kinds)
        self.says = SAYS[self.kind]
        self.told = directory / f"told-{rng.randrange(1 << 40)}"
        self.at = rng.choice([rng.randint(1, 6), rng.randint(1, 40), rng.randint(1, 400)])
        self.times = 1
        if self.kind == "memory":
            self.at *= 4
            self.env = no_memory.failing(self.told, self.at)
            return
        full = self.kind == "full"
        self.times = rng.choice([1, 3, 8] if full else [1, 3, EVER])
        of = "w" if full else rng.choice(["ws", "ws", "s", "r", "wsn"])
        self.env = bad_disk.failing(directory / "db", self.told, of, self.at, self.times,
                                    errno.ENOSPC if full else errno.EIO)

    def __str__(self):
        return f"{self.kind} {self.env}"

    @property
    def statuses(self):
        return (507,) if self.kind == "full" else (500, 503)

    @property
    def may_end(self):
        """The daemon, by itself: a full disk is no reason to."""
        return self.kind != "full"

    @property
    def has_come(self):
        return self.told.exists()

    def arm(self, daemon):
        """Now, or soon."""
        later = threading.Timer(self.rng.choice([0, 0, 0.3, 2]) * self.rng.random(), send, (daemon,))
        later.daemon = True
        later.start()

    def explains(self, text):
        return self.has_come and self.says.search(text)


def send(daemon):
    if daemon.process.poll() is None:
        daemon.process.send_signal(signal.SIGUSR2)


def there():
    return DISK in os.environ or MEMORY in os.environ
