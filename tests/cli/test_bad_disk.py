"""The real daemon on a disk that fails (../http/faults.py)."""
import errno

from bad_disk import BadDisk
from broken import Broken
from harness import main

EVER = 1 << 30


class Real(Broken):
    def test_start(self):
        self.check_points(BadDisk("start", "wsn", 1, armed=True), 3)
        self.check_points(BadDisk("next start", "wsn", EVER, source=self.used, armed=True), 2)

    def test_edit(self):
        self.check_points(BadDisk("edit", "ws", 1, source=self.used), 4)
        self.check_points(BadDisk("edit, ever", "ws", EVER, source=self.used), 2)

    def test_checkpoint(self):
        source = self.with_log(960)
        self.check_points(BadDisk("checkpoint", "ws", 1, source=source), 3)
        self.check_points(BadDisk("full checkpoint", "w", 3, errno.ENOSPC, source=source), 2)

    def test_read(self):
        self.check_points(BadDisk("read", "r", 1, source=self.used), 2)

    def test_full(self):
        self.check_points(BadDisk("full", "w", 1, errno.ENOSPC, source=self.used), 3)


if __name__ == "__main__":
    main()
