"""What the tests of the dashboard share: one browser, one daemon a class, a tab for each test."""
import atexit
import json
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))
import browser
import harness

if not browser.BINARY:
    print("1..0 # SKIP there is no Chromium")
    sys.exit(0)

CHECKS = (pathlib.Path(__file__).parent / "checks.js").read_text(encoding="utf-8")
SHOTS = os.environ.get("MALMEND_SHOTS")  # a directory: pictures of the page are left there

CHROMIUM = browser.Browser()
atexit.register(CHROMIUM.close)


def shoot(page, name):
    if SHOTS:
        page.shot(os.path.join(SHOTS, name + ".png"))


class PageCase(harness.Case):
    ARGS = ("--update", "joint", "--no-scrub")  # versions are counted

    def setUp(self):
        self.page = browser.Page(CHROMIUM)

    def tearDown(self):
        self.page.close()
        self.assertEqual(self.page.faults, [], "the console is silent")

    def visit(self, hash="", address=None):
        self.page.open(f"http://{address or self.d.address}/{hash}")
        self.page.wait_text("#vital-state", "ready")

    def rows(self, table):
        return self.page.js(f"[...document.querySelectorAll('#{table}-rows tr')].map((r) => r.innerText)")

    def wait_rows(self, table, n):
        self.page.wait(f"document.querySelectorAll('#{table}-rows tr').length === {n}",
                       f"{table} has {n} rows")

    def version_row(self, version):
        return f"(document.querySelector('#versions-rows [data-key=\"{version}\"]'))"

    def row(self, table, text):
        """An expression for the row that says something."""
        return (f"([...document.querySelectorAll('#{table}-rows tr')]"
                f".find((r) => r.innerText.includes({json.dumps(text)})))")

    def click_in(self, row, button):
        self.page.click(f"({row}?.querySelector({json.dumps(button)}))")

    def notice(self, *texts):
        """Waits until one of what was asked for on the page says all this."""
        said = " && ".join(f"n.innerText.includes({json.dumps(t)})" for t in texts)
        self.page.wait(f"[...document.querySelectorAll('.notice')].some((n) => {said})",
                       f"a notice says {texts}")

    def check(self, checks=("contrast", "overflow")):
        if not self.page.js("'checks' in window"):
            self.page.js(CHECKS)
        for name in checks:
            self.assertEqual(self.page.js(f"checks.{name}()"), [], name)
