"""GET /v1/versions/{n}/delta of the real daemon: the bytes of malmend export, whole and in pieces."""
import io
import os
import socket
import sqlite3
import tarfile
import threading
import time

from golden import T5
from harness import Case, main, wait_until
from lab import TINY_MODULES, tiny_model
from test_export import FACTS, Exports
from test_serve import roll_back


class Downloads(Exports):
    problem = Case.problem

    def get(self, version, form=None, method="GET", **headers):
        query = {"format": form} if form else None
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.d.call(method, f"/v1/versions/{version}/delta", headers=headers, query=query)

    def body(self, version, form=None):
        answer = self.get(version, form)
        self.assertEqual(answer.status, 200, answer.body[:500])
        self.assertEqual(int(answer.headers["Content-Length"]), len(answer.body))
        return answer.body


class Bytes(Downloads):
    def test_delta(self):
        for version in range(self.LAST + 1):
            want = self.export(version, "delta")[0].read_bytes()
            self.assertEqual(self.body(version), want, version)
            self.assertEqual(self.body(version, "safetensors"), want)

    def test_lora(self):
        for version in 0, 4:
            folder, report = self.export(version, "lora")
            answer = self.get(version, "lora")
            with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
                self.assertEqual([(m.mtime, m.uid, m.gid, m.mode) for m in tar],
                                 2 * [(0, 0, 0, 0o644)])
                files = {m.name: tar.extractfile(m).read() for m in tar}
            self.assertEqual(files, {p.name: p.read_bytes() for p in folder.iterdir()})
            self.assertEqual(len(answer.body) % 512, 0)
            error = float(answer.headers["Malmend-Relative-Error"])
            self.assertAlmostEqual(error, report["relative_error"], 9)

    def test_headers(self):
        for form, name, media in (("safetensors", "v4-delta.safetensors", "application/octet-stream"),
                                  ("lora", "v4-lora.tar", "application/x-tar")):
            answer = self.get(4, form)
            self.assertEqual(answer.headers["Content-Type"], media)
            self.assertEqual(answer.headers["Accept-Ranges"], "bytes")
            self.assertEqual(answer.headers["Content-Disposition"], f'attachment; filename="{name}"')
            head = self.get(4, form, "HEAD", Range="bytes=0-9")
            self.assertEqual((head.status, head.body), (200, b""))
            for key in "Content-Length", "Content-Type", "ETag":
                self.assertEqual(head.headers[key], answer.headers[key])
        tags = {self.get(v, f).headers["ETag"] for v in (1, 2, 4) for f in ("safetensors", "lora")}
        self.assertEqual(len(tags), 6)

    def test_at_once(self):
        """Many who ask at once get the same, whoever's request it was made for."""
        got = {}

        def ask(i):
            form = "lora" if i % 2 else "safetensors"
            got[i] = i % 3, form, self.body(i % 3, form)
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(got), 24)
        for version, form, body in got.values():
            self.assertEqual(body, self.body(version, form))

    def test_nothing_left(self):
        self.body(4)
        self.assertEqual([p.name for p in self.db.parent.iterdir()
                          if p.is_file() and not p.name.startswith(("db", "out"))], [])
        self.assertEqual([p.name for p in self.db.parent.glob("db.tmp*")], [])


class Ranges(Downloads):
    def test_pieces(self):
        whole = self.body(4)
        for size in 1000, len(whole) // 2, len(whole) - 1:
            got = b""
            while len(got) < len(whole):
                first, last = len(got), len(got) + size - 1
                answer = self.get(4, Range=f"bytes={first}-{last}")
                self.assertEqual(answer.status, 206)
                last = min(last, len(whole) - 1)
                self.assertEqual(answer.headers["Content-Range"],
                                 f"bytes {first}-{last}/{len(whole)}")
                self.assertEqual(len(answer.body), last - first + 1)
                got += answer.body
            self.assertEqual(got, whole)

    def test_forms(self):
        whole = self.body(4)
        n = len(whole)
        for text, part in (("0-0", whole[:1]), ("5-", whole[5:]), ("-7", whole[-7:]),
                           (f"{n - 1}-", whole[-1:]), (f"-{10 * n}", whole),
                           (f"3-{10 ** 30}", whole[3:])):
            answer = self.get(4, Range="bytes=" + text)
            self.assertEqual((answer.status, answer.body), (206, part), text)

    def test_not_satisfiable(self):
        n = len(self.body(4))
        for text in f"{n}-", f"{n}-{n + 5}", "-0", f"{10 ** 30}-":
            answer = self.get(4, Range="bytes=" + text)
            self.problem(answer, 416)
            self.assertEqual(answer.headers["Content-Range"], f"bytes */{n}")

    def test_ignored(self):
        """What is not one range of bytes is as if it were not there."""
        whole = self.body(4)
        for text in ("bytes=", "bytes=-", "bytes=5", "bytes=a-b", "bytes=5-3", "bytes=0-1,3-4",
                     "bytes=0-1x", "bytes= 0-1", "lines=0-1", "0-1", "bytes=--1"):
            answer = self.get(4, Range=text)
            self.assertEqual((answer.status, len(answer.body)), (200, len(whole)), text)
            self.assertNotIn("Content-Range", answer.headers)

    def test_if_range(self):
        whole = self.body(4)
        tag = self.get(4).headers["ETag"]
        for known, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200),
                              ("Wed, 21 Oct 2015 07:28:00 GMT", 200)):
            answer = self.get(4, Range="bytes=2-", If_Range=known)
            self.assertEqual((answer.status, answer.body),
                             (status, whole[2:] if status == 206 else whole), known)

    def test_not_modified(self):
        tag = self.get(4, "lora").headers["ETag"]
        for known in tag, f'"a", {tag}', f"W/{tag}", "*":
            answer = self.get(4, "lora", If_None_Match=known)
            self.assertEqual((answer.status, answer.body), (304, b""))
            self.assertEqual(answer.headers["ETag"], tag)
        self.assertEqual(self.get(4, If_None_Match=tag).status, 200, "another format's")

    def test_gives_up(self):
        """Clients that leave in the middle take nothing with them."""
        host, port = self.d.address.rsplit(":", 1)

        def files():
            return len(os.listdir(f"/proc/{self.d.process.pid}/fd"))
        before = files()
        for _ in range(20):
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(b"GET /v1/versions/4/delta HTTP/1.1\r\nHost: localhost\r\n\r\n")
                sock.recv(10)
        self.body(4)
        wait_until(lambda: files() < before + 10)


class Stored(Downloads):
    """Databases with keyframes, and with versions gone."""

    @classmethod
    def setUpClass(cls):
        super(Exports, cls).setUpClass()
        cls.model, cls.modules = tiny_model(cls.dir / "tiny"), TINY_MODULES
        cls.ultra = cls.editor(cls(), modules=cls.modules, model=cls.model, lr="0.05")
        cls.make(cls.ultra, FACTS, "plain", "--keyframe-every", "0")
        cls.plain, cls.known = cls.d, cls.db

    def serve(self, name, *args):
        type(self).make(self.ultra, FACTS, name, *args)

    def both(self, version):
        """The file without keyframes and the one here."""
        path = f"/v1/versions/{version}/delta"
        return self.plain.get(path).body, self.body(version)

    def test_keyframes(self):
        self.serve("keyframes", "--keyframe-every", "2")
        self.assertGreater(len(self.keyframes()), 1)
        for version in range(self.LAST + 1):
            self.assertEqual(*self.both(version), version)
            self.assertEqual(self.export(version, "delta")[0].read_bytes(), self.body(version))
        self.assertIs(self.export(4, "lora")[1]["exact"], True)

    def keyframes(self):
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as db:
            return db.execute("SELECT version FROM versions WHERE keyframe = 1").fetchall()

    def test_pruned(self):
        """What is not pruned needs nothing that was."""
        self.serve("pruned", "--keyframe-every", "2", "--keep-versions", "0", "--retain-bytes", "6000")
        for daemon in self.plain, self.d:
            roll_back(daemon, 4)
            self.assertEqual(daemon.apply({"prompt": "z is", "target": "Z"})["version"], 7)
            daemon.rest()
        pruned = {v["version"]: v["pruned"] for v in self.d.get("/v1/versions").json["data"]}
        self.assertTrue(pruned[1], "version 7 goes on from 4, which goes on from 1")
        for version, gone in pruned.items():
            if gone:
                says = f"version {version} was pruned: its weights are no longer stored"
                self.problem(self.get(version), 409, detail=says)
                self.fails(*self.args(version, "lora", self.dir / "none"), says=[self.db, says])
            else:
                self.assertEqual(*self.both(version), version)
        error = self.get(7, "lora").headers["Malmend-Relative-Error"]
        self.assertLess(float(error), 1e-6, "from T itself, without factors")
        self.assertIs(self.export(7, "lora")[1]["exact"], True)
        self.export(7, "model")

    def test_pruned_since(self):
        """Without the factors of versions before an adapter is another file, with another tag."""
        args = ["--keyframe-every", "1", "--keep-versions", "1"]
        self.serve("since", *args)
        for letter in "yz":
            live = self.d.apply({"prompt": f"{letter} is", "target": letter.upper()})["version"]
        one = self.get(live, "lora")
        delta = self.get(live).headers["ETag"]
        self.d.close()
        self.d.args = (*args, "--retain-age", "1s")
        self.d.start()
        time.sleep(1.1)
        self.d.apply({"prompt": "x is", "target": "X"})
        wait_until(lambda: self.version(live - 1)["pruned"])
        self.assertFalse(self.version(live)["pruned"])
        two = self.get(live, "lora")
        self.assertEqual(two.status, 200)
        self.assertNotEqual(two.headers["ETag"], one.headers["ETag"])
        self.assertNotEqual(two.body, one.body)
        answer = self.get(live, "lora", Range="bytes=100-", If_Range=one.headers["ETag"])
        self.assertEqual((answer.status, answer.body), (200, two.body))
        answer = self.get(live, "lora", Range="bytes=100-", If_Range=two.headers["ETag"])
        self.assertEqual((answer.status, answer.body), (206, two.body[100:]))
        for tag in one.headers["ETag"], two.headers["ETag"]:
            answer = self.get(live, "lora", If_None_Match=tag)
            self.assertEqual((answer.status, answer.headers["ETag"]), (304, tag))
        self.assertEqual(self.get(live).headers["ETag"], delta)


class Asked(Downloads):
    def test_refused(self):
        self.problem(self.get(6), 404, detail="6")
        self.problem(self.get("x"), 404)
        self.problem(self.get(4, "gguf"), 422, detail="'gguf' is neither safetensors nor lora")
        self.problem(self.d.call("POST", "/v1/versions/4/delta", b"{}"), 405)
        self.assertEqual(self.d.get("/v1/versions/4/delta", format="").status, 422)


class OtherWay(Downloads):
    """Weights stored (d_out, d_in), dense deltas."""

    @classmethod
    def setUpClass(cls):
        super(Exports, cls).setUpClass()
        cls.model, cls.modules = T5.model, T5.modules
        cls.make(T5.editor, T5.facts)

    def test_bytes(self):
        self.assertEqual(self.d.get("/v1/versions/4").json["delta"]["encoding"], "dense")
        self.assertEqual(self.body(4), self.export(4, "delta")[0].read_bytes())


if __name__ == "__main__":
    main()
