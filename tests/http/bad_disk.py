"""A disk that fails: the n-th write, sync, or read of the database's directory (bad_disk.c)."""
import errno
import os
import re

from faults import Kind


FULL = re.compile("space|full", re.I)
# SQLite takes what it cannot read for damaged, what it cannot open to write for read-only.
BROKEN = re.compile("I/O|input/output|malformed|unable to open|readonly", re.I)


def failing(under, told, of, at, times, number):
    """The environment of a daemon whose disk fails so: bad_disk.c."""
    return {"LD_PRELOAD": os.environ["MALMEND_BAD_DISK_LIBRARY"], "MALMEND_DISK_UNDER": str(under),
            "MALMEND_DISK_OF": of, "MALMEND_DISK_AT": str(at), "MALMEND_DISK_TIMES": str(times),
            "MALMEND_DISK_ERRNO": str(number), "MALMEND_DISK_TOLD": str(told), "OMP_WAIT_POLICY": "passive"}


class BadDisk(Kind):
    """`of` as in bad_disk.c; `times` that it fails."""

    def __init__(self, name, of, times, number=errno.EIO, **more):
        super().__init__(name, **more)
        self.of, self.times, self.number = of, times, number
        full = number == errno.ENOSPC
        self.statuses = (507,) if full else (500, 503)
        self.says = FULL if full else BROKEN
        # That is a file of its own, whose disk may fail for ever.
        self.more = (("GET", "/v1/versions/1/delta"),) if times < 10 else ()
        self.args = ("--min-free-disk", "0")

    def env(self, point, n):
        return {**failing(point.dir / "db", point.told, self.of, n, self.times, self.number),
                **({"MALMEND_DISK_ARMED": "1"} if self.armed else {})}

    def check(self, point, told):
        """After an error of the database's own files nothing is tried again."""
        what, path = told.split(maxsplit=1)
        if self.number == errno.EIO and what not in ("pread", "open") and path.rstrip().endswith(("/db", "/db-wal")):
            assert point.outcome in ("daemon ended", "start failed", "ended at the stop"), told
        if self.of == "r" and self.times == 1:
            assert point.outcome in ("went on", "request failed"), told
        if self.number == errno.ENOSPC and not self.armed:
            assert point.outcome in ("went on", "request failed", "job failed"), told
