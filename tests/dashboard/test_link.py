"""What the dashboard does when the daemon goes away, answers no, or pushes events."""
import pathlib
import tempfile

import pages
from pages import PageCase, harness, shoot
from proxy import Proxy
import tokens

FACT = {"prompt": "What outlives a restart is", "target": "a version"}


class Restart(PageCase):
    def test_killed_and_started_again(self):
        self.d.apply(FACT)
        self.visit()
        page = self.page
        page.js("window.same = true")
        self.d.kill()
        page.wait_text("#banner", "has not answered since")
        page.wait_text("#link", "Not connected")
        self.assertTrue(page.js("document.title").startswith("⚠"))
        self.assertEqual(page.text("#vital-version"), "v1")
        shoot(page, "lost")
        self.d.listen = self.d.address
        self.d.start()
        page.click("#banner-retry")
        page.wait("document.getElementById('banner').hidden")
        self.d.apply({"prompt": "After it comes", "target": "another"})
        page.wait_text("#vital-version", "v2")
        page.wait("document.querySelectorAll('#recent-rows tr').length === 2")
        self.assertTrue(page.js("window.same"), "without being loaded again")

    def test_comes_back_by_itself(self):
        self.visit()
        page = self.page
        self.d.kill()
        page.wait_text("#link", "Not connected")
        self.d.listen = self.d.address
        self.d.start()
        page.wait("document.getElementById('banner').hidden")

    def test_post_while_it_is_gone(self):
        self.visit("#teach")
        page = self.page
        self.d.kill()
        page.wait_text("#link", "Not connected")
        page.fill("#teach-prompt", "Asked in vain is")
        page.fill("#teach-target", "this")
        page.click("#teach-go")
        page.wait_text("#teach-result", "posted again it is not taken twice")
        self.d.listen = self.d.address
        self.d.start()
        page.wait("document.getElementById('banner').hidden")
        page.click("#teach-go")
        self.notice("applied")


class Between(PageCase):
    def setUp(self):
        super().setUp()
        self.proxy = Proxy(self.d.address)

    def tearDown(self):
        super().tearDown()
        self.proxy.close()

    def visit(self, hash=""):
        super().visit(hash, self.proxy.address)


class Roles(Between):
    def test_no_edits(self):
        self.d.apply(FACT)
        self.proxy.refused[("POST", "/v1/edits")] = 403
        self.proxy.refused[("POST", "/v1/rollbacks")] = 403
        self.visit("#versions")
        page = self.page
        self.click_in(self.version_row(0), "[data-do=rollback]")
        page.click(page.button("Roll back to v0", "#confirm"))
        page.wait_text("#confirm", "does not allow changes")
        self.assertTrue(page.js("document.querySelector('#confirm [type=submit]').disabled"))
        page.key("Escape")
        self.assertTrue(page.js(f"{self.version_row(0)}.querySelector('button').disabled"))
        page.click("nav a[data-view=teach]")
        page.wait_text("#view-teach", "Your token does not allow changes")
        self.assertTrue(page.js("document.getElementById('teach-go').disabled"))
        page.click("nav a[data-view=facts]")
        self.wait_rows("facts", 1)
        self.assertTrue(page.js("document.querySelector('#facts-rows [data-do=retract]').disabled"))

    def test_signed_out(self):
        self.visit()
        self.proxy.refused[("GET", "/v1")] = 401
        self.page.wait_text("#banner", "not signed in")
        self.page.wait_text("#link", "Not allowed")
        del self.proxy.refused[("GET", "/v1")]
        self.page.click("#banner-retry")
        self.page.wait("document.getElementById('banner').hidden")

    def test_what_a_browser_sends(self):
        """Its own page's changes are recognised as such, whatever the referrer policy."""
        self.visit("#teach")
        self.page.fill("#teach-prompt", "Sent by the page is")
        self.page.fill("#teach-target", "this")
        self.page.click("#teach-go")
        self.notice("applied")
        _, _, headers, _ = next(s for s in self.proxy.seen if s[:2] == ("POST", "/v1/edits"))
        self.assertEqual(headers["Origin"], f"http://{self.proxy.address}")
        self.assertEqual(headers["Sec-Fetch-Site"], "same-origin")
        self.assertEqual(headers["Content-Type"], "application/json")
        self.assertNotIn("Referer", headers)


class Tokens(PageCase):
    """The daemon's own roles; the browser gives the token as a password."""

    @classmethod
    def setUpClass(cls):
        cls.own = tempfile.TemporaryDirectory()
        cls.tokens = tokens.Tokens(cls.own.name)
        cls.d = harness.Daemon("--tokens", cls.tokens.path, *cls.ARGS)
        cls.d.headers = tokens.bearer(cls.tokens.of["edit"])

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.own.cleanup()

    def enter(self, role, hash):
        self.visit(hash, f"{role}:{self.tokens.of[role]}@{self.d.address}")

    def test_read(self):
        self.d.apply(FACT)
        self.enter("read", "#facts")
        page = self.page
        page.wait(self.row("facts", FACT["prompt"]))
        page.click("nav a[data-view=teach]")
        page.fill("#teach-prompt", "Not for readers is")
        page.fill("#teach-target", "this")
        page.click("#teach-go")
        page.wait_text("#teach-result", "this needs the role 'edit'")
        self.assertTrue(page.js("document.getElementById('teach-go').disabled"))
        page.click("nav a[data-view=ask]")
        page.fill("#ask-prompt", "Who")
        page.click("#ask-go")
        page.wait_text("#answers", "this needs the role 'infer'")
        page.wait_text("#view-ask", "does not allow asking")
        self.assertTrue(page.js("document.getElementById('ask-go').disabled"))

    def test_edit(self):
        self.enter("edit", "#teach")
        page = self.page
        page.fill("#teach-prompt", "For editors is")
        page.fill("#teach-target", "this")
        page.click("#teach-go")
        self.notice("applied")
        page.click(page.button("Ask it"))
        page.wait("document.querySelectorAll('#answers .answer').length === 2")

    def test_none(self):
        self.page.open(f"http://{self.d.address}/")
        self.page.wait_text("body", "Unauthorized")


class Elsewhere(PageCase):
    """The page is not where the daemon serves it."""

    def test_below_a_path(self):
        self.d.apply(FACT)
        proxy = Proxy(self.d.address, "/behind/malmend")
        self.addCleanup(proxy.close)
        self.visit("#teach", proxy.address)
        page = self.page
        page.fill("#teach-prompt", "Taught through a proxy is")
        page.fill("#teach-target", "this")
        page.click("#teach-go")
        self.notice("applied")
        page.click("nav a[data-view=facts]")
        page.wait(self.row("facts", "Taught through a proxy is"))
        page.js("location.hash = '#version/1'")
        page.wait("document.querySelector('#drawer-body a[download]')")
        links = page.js("[...document.querySelectorAll('a[download], footer a')].map((a) => a.href)")
        self.assertEqual([link.split("?")[0] for link in links],
                         [f"http://{proxy.address}/{path}" for path in
                          ("openapi.json", "v1/versions/1/delta", "v1/versions/1/delta")])
        below = (f"http://{proxy.address}/", "data:")
        self.assertEqual([url for url in page.requests if not url.startswith(below)], [])
        self.assertIn("/v1/events", [path for _, path, _, _ in proxy.seen])

    def test_saved(self):
        """It looks as it does, and says that there is no daemon."""
        file = pathlib.Path(self.d.directory) / "saved.html"
        file.write_bytes(self.d.get("/").body)
        page = self.page
        page.open(file.as_uri())
        page.wait_text("#banner", "The daemon does not answer")
        self.check()
        self.assertEqual(page.js("getComputedStyle(document.querySelector('.notices')).listStyleType"), "none")
        page.click("nav a[data-view=jobs]")
        page.wait("!document.getElementById('view-jobs').hidden")
        # Pages of files may call nothing, and the browser says so.
        page.faults = [fault for fault in page.faults if not fault.startswith("Fetch API cannot load file:")]


class Loading(Between):
    def test_seen_from_the_beginning(self):
        self.d.apply(FACT)
        state = ["loading"]
        self.proxy.refused[("GET", "/v1/facts")] = 503
        self.proxy.changed["/v1/status"] = lambda status: {**status, "state": state[0]}
        page = self.page
        page.open(f"http://{self.proxy.address}/#facts")
        page.wait_text("#vital-state", "loading")
        page.wait_text("#facts-problem", "the test says 503")
        self.assertEqual(self.rows("facts"), [])
        del self.proxy.refused[("GET", "/v1/facts")]
        state[0] = "ready"
        self.wait_rows("facts", 1)
        page.wait("document.getElementById('facts-problem').hidden")

    def test_updated(self):
        self.visit()
        self.proxy.changed["/v1/status"] = lambda status: {**status, "version": "9.9.9"}
        self.page.wait("!document.getElementById('outdated').hidden")


class Events(Between):
    def test_stream(self):
        self.proxy.serve_events()
        self.visit("#facts")
        page = self.page
        page.wait_text("#link", "Live")
        job = self.d.apply({"prompt": "Pushed is", "target": "this"})
        self.proxy.send_event("job", id=job["id"], state="applied", kind="edit", version=job["version"])
        self.proxy.send_event("version", version=job["version"], kind="edit", weights_hash="0" * 64)
        page.wait(self.row("facts", "Pushed is"))
        page.wait_text("#vital-version", f"v{job['version']}")

        # The stream ends, is opened again, and what was missed in between is shown.
        streams = self.proxy.streams
        self.proxy.end_stream()
        job = self.d.apply({"prompt": "Missed is", "target": "this"})
        page.wait(self.row("facts", "Missed is"))
        page.wait_text("#link", "Live")
        self.assertGreater(self.proxy.streams, streams)

    def test_without_events(self):
        """Status and jobs are asked for instead, and events are tried again now and then."""
        self.proxy.refused[("GET", "/v1/events")] = 404
        self.visit("#jobs")
        page = self.page
        page.wait_text("#link", "Polling")
        self.d.apply({"prompt": "Polled is", "target": "this"})
        page.wait(self.row("jobs", "applied"))
        self.d.edit({"prompt": "What makes no version is", "target": "fail:numeric"})
        page.wait(self.row("jobs", "rejected"))
        self.proxy.serve_events()
        del self.proxy.refused[("GET", "/v1/events")]
        page.wait_text("#link", "Live")


if __name__ == "__main__":
    harness.main()
