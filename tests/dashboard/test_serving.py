"""The dashboard's files as HTTP serves them."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))
import harness
from harness import Case

POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
         "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


class Serving(Case):
    def files(self):
        """Every file that the page leads to, with its text."""
        found, wanted = {}, ["/"]
        while wanted:
            path = wanted.pop()
            if path in found:
                continue
            answer = self.d.get(path)
            self.assertEqual(answer.status, 200, path)
            found[path] = answer
            text = answer.body.decode()
            wanted += re.findall(r"[\"'(](/dashboard/[\w.]+)", text)
            wanted += ["/dashboard/" + name for name in re.findall(r"from '\./([\w.]+)'", text)]
        return found

    def test_headers(self):
        files = self.files()
        self.assertGreater(len(files), 20)
        for path, answer in files.items():
            headers = answer.headers
            kind = path.rsplit(".", 1)[-1] if "." in path else "html"
            self.assertEqual(headers["Content-Type"], TYPES[kind], path)
            self.assertEqual(headers["Content-Security-Policy"], POLICY)
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["Referrer-Policy"], "no-referrer")
            self.assertEqual(headers["Cache-Control"], "no-cache")
            again = self.d.call("GET", path, headers={"If-None-Match": headers["ETag"]})
            self.assertEqual((again.status, again.body), (304, b""))
            self.assertEqual(again.headers["ETag"], headers["ETag"])
            other = self.d.call("GET", path, headers={"If-None-Match": '"other"'})
            self.assertEqual((other.status, other.body), (200, answer.body))
        self.assertEqual(len({f.headers["ETag"] for f in files.values()}), len(files))

    def test_head(self):
        for path in "/", "/dashboard/main.js":
            head, get = self.d.call("HEAD", path), self.d.get(path)
            self.assertEqual((head.status, head.body), (200, b""))
            self.assertEqual(head.headers["Content-Length"], str(len(get.body)))

    def test_nothing_else(self):
        for path in ("/dashboard/none.js", "/dashboard/index.html", "/dashboard/", "/dashboard",
                     "/dashboard/../README.md", "/dashboard/%2e%2e%2fREADME.md", "/index.html"):
            self.problem(self.d.get(path), 404)
        for path in "/", "/dashboard/main.js":
            answer = self.d.call("POST", path, b"")
            self.problem(answer, 405)
            self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")

    def test_nothing_from_outside(self):
        for path, answer in self.files().items():
            text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
            self.assertNotRegex(text, r"(https?:)?//[\w]+\.\w", path)
            self.assertNotIn("innerHTML", text, path)
            self.assertNotRegex(text, r"(?i)<[^>]*\sstyle=|<style|\son\w+=\"|javascript:", path)

    def test_while_loading(self):
        d = harness.Daemon(env={"MAL_FAKE_LOAD_HELD": "/nowhere"}, ready=False)
        try:
            self.assertEqual(d.get("/").status, 200)
            self.assertEqual(d.get("/dashboard/main.js").status, 200)
            self.assertEqual(d.get("/v1/jobs").status, 503)
        finally:
            d.kill()
            d.close()


if __name__ == "__main__":
    harness.main()
