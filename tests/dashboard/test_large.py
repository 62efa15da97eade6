"""A daemon with a long life: the page loads pages, never whole lists.

MALMEND_LARGE="100000 1000" says how many facts and versions; MALMEND_TIMES=1 prints how long each
view took."""
import os
import time

import pages
import prepared
from pages import PageCase, harness, shoot

FACTS, VERSIONS = map(int, os.environ.get("MALMEND_LARGE", "12000 1000").split())


class Large(PageCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.d.stop()
        prepared.fill(cls.d.directory + "/db", FACTS, VERSIONS)
        cls.d.start()

    def lap(self, what):
        if os.environ.get("MALMEND_TIMES"):
            print(f"# {what}: {time.monotonic() - self.since:.2f} s", flush=True)
        self.since = time.monotonic()

    def test_pages(self):
        self.since = time.monotonic()
        self.page.open(f"http://{self.d.address}/")
        page = self.page
        self.wait_rows("recent", 8)
        self.wait_rows("newest", 8)
        page.wait("document.querySelectorAll('#quality-chart .series .line').length === 4")
        self.lap("overview")
        for view in "facts", "jobs", "versions":
            page.click(f"nav a[data-view={view}]")
            self.wait_rows(view, 25)
            self.lap(view)
            for _ in range(3):
                first = self.rows(view)[0]
                page.click(page.button("Older ›", f"#{view}-pager"))
                page.wait(f"document.querySelector('#{view}-rows tr').innerText !== {pages.json.dumps(first)}")
            self.lap(f"three pages on, {view}")
        page.click("nav a[data-view=facts]")
        page.fill("#facts-search", f"number {FACTS // 2} ")
        self.wait_rows("facts", 1)
        self.lap("search")
        page.fill("#facts-search", "nowhere to be found")
        self.wait_rows("facts", 0)
        self.lap("search in vain")
        page.js(f"location.hash = '#diff/{VERSIONS // 2}/{VERSIONS}'")
        page.wait_text("#drawer-body", "Facts that become live")
        self.lap("diff")
        limits = [url for url in page.requests if "/v1/" in url and "?" in url]
        self.assertTrue(all("limit=" in url for url in limits), limits)
        self.assertLess(page.js("document.querySelectorAll('*').length"), 6000)


if __name__ == "__main__":
    harness.main()
