"""The dashboard as HTTP serves it: one document."""
import base64
import hashlib
import html.parser
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))
import harness
from harness import Case

POLICY = ("default-src 'none'; script-src {script}; style-src {style}; img-src data:;"
          " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Parts(html.parser.HTMLParser):
    """What stands in the page's scripts and styles, and every attribute of its elements."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.attributes = {"script": [], "style": []}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_data(self, text):
        if self.cdata_elem:
            self.inside[self.cdata_elem].append(text)


class Serving(Case):
    def parts(self):
        return Parts(self.d.get("/").body.decode())

    def test_headers(self):
        answer = self.d.get("/")
        headers = answer.headers
        self.assertEqual(headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["Referrer-Policy"], "no-referrer")
        self.assertEqual(headers["Cache-Control"], "no-cache")
        again = self.d.call("GET", "/", headers={"If-None-Match": headers["ETag"]})
        self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(again.headers["ETag"], headers["ETag"])
        other = self.d.call("GET", "/", headers={"If-None-Match": '"other"'})
        self.assertEqual((other.status, other.body), (200, answer.body))

    def test_policy(self):
        """Its own style and script, by their hashes, and no other."""
        sources = {}
        for tag, texts in self.parts().inside.items():
            digest = hashlib.sha256("".join(texts).encode()).digest()
            sources[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
        self.assertEqual(self.d.get("/").headers["Content-Security-Policy"], POLICY.format(**sources))

    def test_head(self):
        head, get = self.d.call("HEAD", "/"), self.d.get("/")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.headers["Content-Length"], str(len(get.body)))

    def test_nothing_else(self):
        for path in "/main.js", "/icon.svg", "/index.html", "/dashboard/main.js", "/dashboard":
            self.problem(self.d.get(path), 404)
        answer = self.d.call("POST", "/", b"")
        self.problem(answer, 405)
        self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")

    def test_refers_to_nothing(self):
        """The page names no resource but what is in it; its links lead within it and to the description."""
        parts = self.parts()
        for tag, name, value in parts.attributes:
            self.assertNotIn(name, ("srcset", "action", "formaction", "data", "poster", "style"), tag)
            self.assertFalse(name.startswith("on"), name)
            if tag == "a" and name == "href":
                self.assertTrue(value[0] == "#" or value == "openapi.json", value)
            elif name in ("src", "href"):
                self.assertTrue(value.startswith("data:"), f"{tag} {value}")
        style, script = ("".join(parts.inside[tag]) for tag in ("style", "script"))
        self.assertNotRegex(style, r"url\(|@import")
        self.assertNotRegex(script, r"(?m)^(import|export)\b|\bimport\(|innerHTML|javascript:")
        self.assertNotRegex(script.replace("http://www.w3.org/2000/svg", ""), r"(https?:)?//\w+\.\w")

    def test_while_loading(self):
        d = harness.Daemon(env={"MAL_FAKE_LOAD_HELD": "/nowhere"}, ready=False)
        try:
            self.assertEqual(d.get("/").status, 200)
            self.assertEqual(d.get("/v1/jobs").status, 503)
        finally:
            d.kill()
            d.close()


if __name__ == "__main__":
    harness.main()
