"""The real daemon on a disk that fails (../http/faults.py)."""
import contextlib
import errno
import shutil
import signal

from bad_disk import BadDisk
from broken import Broken
from faults import GONE, Point
from harness import Daemon, main, wait_until
from sse import Cut, Stream
from world import fact

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

    def test_events_again(self):
        """Streams end when the database cannot be read, and begin again when it can, whoever looks meanwhile."""
        kind = BadDisk("events", "l", 1)
        point = Point(self, kind, 1)
        point.dir.mkdir()
        d = Daemon("--no-scrub", directory=str(point.dir), env=kind.env(point, 1))
        with Stream(d) as stream, self.assertRaises((Cut, *GONE)):
            d.process.send_signal(signal.SIGUSR2)
            d.edit(fact(0))
            stream.until(lambda event: False)
        d.wait_log("events not read")
        wait_until(lambda: self.comes(d))
        d.close()

    def comes(self, d):
        """An event, beside one who asks for the status."""
        self.assertEqual(d.get("/v1/status").status, 200)
        with contextlib.suppress(*GONE, Cut), Stream(d, last_event_id=0) as stream:
            return stream.event()
        return None

    def test_full_download(self):
        """Whichever of its writes finds no room."""
        kind, n, told = BadDisk("download", "w", 1, errno.ENOSPC), 0, True
        while told:
            n += 1
            point = Point(self, kind, n)
            shutil.copytree(self.used, point.dir)
            d = Daemon("--no-scrub", *kind.args, directory=str(point.dir), env=kind.env(point, n))
            d.process.send_signal(signal.SIGUSR2)
            answer = d.get("/v1/versions/1/delta", format="lora")
            d.close()
            told = point.told.exists()
            self.assertEqual(answer.status, 507 if told else 200, (n, answer.body[:300]))
        self.assertGreater(n, 3)


if __name__ == "__main__":
    main()
