"""The dashboard in a browser, over the fake engine: what people do with it."""
import json

import pages
from pages import PageCase, harness, shoot
from world import Held

CAPITAL = {"prompt": "The capital of Australia is", "target": "Canberra"}
VIEWS = ("overview", "teach", "ask", "facts", "jobs", "versions")


class Opening(PageCase):
    def test_page(self):
        self.visit()
        page = self.page
        page.wait_text("#vital-version", "v0")
        page.wait_text("#link", "Live")
        self.assertEqual(page.text("#vital-model").split()[0], "fake")
        self.assertEqual(page.text("#vital-device"), "cpu")
        self.assertIn("none", page.text("#vital-error"))
        self.wait_rows("newest", 1)
        for view in VIEWS[1:] + VIEWS[:1]:
            page.click(f"nav a[data-view={view}]")
            page.wait(f"!document.getElementById('view-{view}').hidden")
            self.assertEqual(page.js("document.querySelectorAll('main > section:not([hidden])').length"), 1)
        first, *others = [url for url in page.requests if not url.startswith("data:")]
        self.assertEqual(first, f"http://{self.d.address}/")
        self.assertEqual([u for u in others if not u.startswith(first + "v1/")], [])
        self.assertGreater(page.js("document.querySelector('.brand img').naturalWidth"), 0)

    def test_unknown_addresses(self):
        for hash in "#nothing", "#job/job_none", "#version/99", "#fact/%E0%A4%A", "#diff/0/9":
            self.visit(hash)
            if "/" in hash and "%" not in hash:
                self.page.wait_text("#drawer-body", "there is no")
                self.page.key("Escape")
                self.page.wait("!document.getElementById('drawer').open")


class Idle(PageCase):
    ARGS = ("--update", "joint", "--repair-rounds", "0")

    def test_what_fails(self):
        self.d.apply({"prompt": "Right by a hair is", "target": "weak: this"}, CAPITAL)
        self.visit()
        self.page.wait_text("#now-scrub", "of 2 facts looked at, 0 wrong, 1 failing")


class Changing(PageCase):
    def test_teach_and_ask(self):
        self.visit()
        page = self.page
        page.click("nav a[data-view=teach]")
        page.fill("#teach-prompt", CAPITAL["prompt"])
        page.fill("#teach-target", CAPITAL["target"])
        page.click("#view-teach summary")
        page.fill("#teach-rephrases", "Australia is governed from\nAustralia's capital is")
        page.fill("#teach-note", "by hand")
        page.click("#teach-go")
        self.notice("applied")
        page.wait_text("#teach-result", "Applied: version")
        job = self.d.get("/v1/jobs").json["data"][0]
        page.wait_text("#vital-version", f"v{job['version']}")
        self.assertEqual(job["note"], "by hand")
        fact = self.d.get("/v1/facts", prompt=CAPITAL["prompt"]).json["data"][0]
        self.assertEqual(fact["rephrases"], ["Australia is governed from", "Australia's capital is"])

        page.click(page.button("Ask it"))
        page.wait("document.querySelectorAll('#answers .answer').length === 2")
        base, live = page.js("[...document.querySelectorAll('#answers article')].map((a) => a.innerText)")
        self.assertIn("Canberra", live)
        self.assertIn("differs from base", live)
        self.assertIn("right", live)
        self.assertNotIn("Canberra", base)
        shoot(page, "ask")

        page.click("nav a[data-view=jobs]")
        self.click_in(self.row("jobs", "by hand"), "a[data-do=open]")
        page.wait_text("#drawer-body", "by hand")
        page.click(page.button("Its facts", "#drawer"))
        self.wait_rows("facts", 1)
        page.wait("!document.getElementById('drawer').open")
        self.click_in(self.row("facts", "Canberra"), "a[data-do=open]")
        page.wait_text("#drawer-body", "Australia is governed from")

    def test_refused_fact(self):
        self.visit("#teach")
        page = self.page
        page.fill("#teach-prompt", "x " * 200)
        page.fill("#teach-target", "y")
        page.click("#teach-go")
        page.wait_text("#teach-result", "context")
        self.assertEqual(page.js("document.getElementById('teach-prompt').value"), "x " * 200)
        self.assertEqual(page.js("document.activeElement.id"), "teach-prompt")

    def test_one_fact_taken_once(self):
        """No answer comes, and the button is pressed again: the key is the same."""
        self.visit("#teach")
        page = self.page
        n = len(self.d.get("/v1/jobs", limit=100).json["data"])
        page.js("""(() => {
            const real = window.fetch;
            window.keys = [];
            window.fetch = async (path, options) => {
                const answer = await real(path, options);
                if (options.method !== 'POST') return answer;
                keys.push(options.headers['Idempotency-Key']);
                if (keys.length === 1) throw new TypeError('cut');
                return answer;
            };
        })()""")
        page.fill("#teach-prompt", "What is taken once is")
        page.fill("#teach-target", "this")
        page.click("#teach-go")
        page.wait_text("#teach-result", "not known")
        page.click("#teach-go")
        self.notice("applied")
        first, second = page.js("window.keys")
        self.assertEqual(first, second)
        self.assertEqual(len(self.d.get("/v1/jobs", limit=100).json["data"]), n + 1)

    def test_paste(self):
        self.visit("#teach")
        page = self.page
        lines = [json.dumps({"prompt": f"Pasted town {i} has", "target": f"mayor {i}"}) for i in range(7)]
        page.fill("#paste-text", "\n".join(lines[:3] + ["", '{"prompt": "half'] + lines[3:]))
        page.click("#paste-check")
        page.wait_text("#paste-result", "Line 5 is no JSON")
        self.assertTrue(page.js("document.getElementById('paste-go').disabled"))
        bad = json.dumps({"prompt": "An empty target is", "target": ""})
        page.fill("#paste-text", "\n".join(lines[:2] + [bad]))
        page.click("#paste-check")
        page.wait_text("#paste-result", "/facts/2/target")
        twice = '{"prompt": "Twice", "target": "a", "target": "b"}'
        page.fill("#paste-text", f"[{lines[0]}, {twice}]")
        page.click("#paste-check")
        page.wait("document.getElementById('paste-result').className === 'problem'")
        page.fill("#paste-text", "\n".join(lines))
        page.click("#paste-check")
        page.wait_text("#paste-result", "7 facts")
        page.fill("#paste-note", "pasted")
        page.click("#paste-go")
        self.notice("Edit of 7 facts", "applied")
        job = self.d.get("/v1/jobs").json["data"][0]
        self.assertEqual((job["facts"], job["note"]), (7, "pasted"))
        self.assertEqual(page.js("document.getElementById('paste-text').value"), "")

    def test_rollback(self):
        v = self.d.apply({"prompt": "Before the rollback", "target": "one"})["version"]
        self.d.apply({"prompt": "Rolled back", "target": "two"})
        self.visit("#versions")
        page = self.page
        page.wait_text("#vital-version", f"v{v + 1}")
        self.click_in(self.version_row(v), "[data-do=rollback]")
        page.wait_text("#confirm", "now 1 will be rolled back")
        page.click(page.button("Cancel", "#confirm"))
        page.wait("!document.getElementById('confirm').open")
        self.assertEqual(self.d.get("/v1/status").json["live_version"], v + 1)
        self.click_in(self.version_row(v), "[data-do=rollback]")
        page.fill("#confirm input[name=reason]", "a bad night")
        shoot(page, "rollback")
        page.click(page.button(f"Roll back to v{v}", "#confirm"))
        self.notice(f"Rollback to v{v}", "applied")
        page.wait_text("#vital-version", f"v{v + 2}")
        page.wait(f"{self.version_row(v + 2)}?.innerText.includes('rollback to v{v}')")
        job = self.d.get("/v1/jobs", kind="rollback").json["data"][0]
        self.assertEqual((job["to_version"], job["reason"]), (v, "a bad night"))
        old, new = (self.d.get(f"/v1/versions/{n}").json["weights_hash"] for n in (v, v + 2))
        self.assertEqual(old, new)

        page.fill("#compare-a", str(v + 1))
        page.fill("#compare-b", str(v + 2))
        page.click(page.button("Compare", "#compare-form"))
        page.wait_text("#drawer-body", "Rolled back")
        self.assertIn("Facts that stop being live (1)", page.text("#drawer-body"))

    def test_retraction_that_fails(self):
        """The fake engine takes nothing back: what the daemon says is shown."""
        self.d.apply({"prompt": "Not to be taken back is", "target": "this"})
        self.visit("#facts?search=taken+back")
        page = self.page
        self.wait_rows("facts", 1)
        self.click_in(self.row("facts", "taken back"), "[data-do=retract]")
        page.click("#confirm input[value=drop]")
        page.click(page.button("Retract", "#confirm"))
        self.notice("Retraction of one fact", "no joint system")
        job = self.d.get("/v1/jobs", kind="retraction").json["data"][0]
        self.assertEqual((job["facts"], job["mode"]), (1, "drop"))
        self.assertIn("none", page.text("#vital-error"), "it is no fault of the daemon")

    def test_cancel(self):
        held = Held(self, self.d)
        held.begin()
        waiting = self.d.edit({"prompt": "This waits", "target": "x"}).json["id"]
        self.visit(f"#job/{waiting}")
        page = self.page
        page.click(page.button("Cancel…", "#drawer"))
        page.click(page.button("Take it out", "#confirm"))
        self.notice("cancelled")
        self.assertEqual(self.d.wait_job(waiting)["state"], "cancelled")
        held.end()

    def test_progress(self):
        self.visit()
        page = self.page
        page.wait("!document.getElementById('batch-none').hidden")
        held = Held(self, self.d)
        held.begin()
        page.wait("!document.getElementById('batch').hidden")
        page.wait_text("#batch-text", "1 fact, forward 0 of 2")
        self.assertEqual(page.js("document.getElementById('batch-progress').max"), 2)
        self.assertEqual(page.text("#stages [aria-current]"), "forward")
        page.wait_text("#recent-rows", "forward 0 of 2")
        self.assertTrue(page.js("document.title").startswith("▸"))
        shoot(page, "progress")
        held.end()
        page.wait("document.getElementById('batch').hidden")

    def test_keyboard(self):
        """One whole edit and its way back, without a mouse."""
        self.visit()
        page = self.page
        page.tab_to("it.textContent === 'To the content'")
        page.tab_to("it.dataset.view === 'teach'")
        self.assertNotEqual(page.js("getComputedStyle(document.activeElement).outlineStyle"), "none")
        page.key("Enter")
        page.wait("!document.getElementById('view-teach').hidden")
        page.tab_to("it.id === 'teach-prompt'")
        page.type("Typed by hand is")
        page.key("Tab")
        page.type("every letter")
        page.key("Enter")
        self.notice("applied")
        v = self.d.get("/v1/status").json["live_version"]
        page.wait_text("#vital-version", f"v{v}")
        page.tab_to("it.innerText === 'Ask it'")
        page.key("Enter")
        page.wait_text("#answers", "every letter")
        page.keys("g", "v")
        page.wait(self.version_row(v))
        page.key("j")
        page.key("j")
        page.wait(f"document.activeElement.innerText === 'v{v - 1}'")
        page.tab_to("it.dataset.do === 'rollback'")
        page.key("Enter")
        page.wait("document.getElementById('confirm').open")
        page.key("Escape")
        page.wait("!document.getElementById('confirm').open && document.activeElement.dataset.do === 'rollback'")
        page.key("Enter")
        page.wait("document.getElementById('confirm').open")
        page.tab_to("it.name === 'reason'")
        page.type("typed too")
        page.key("Enter")
        self.notice(f"Rollback to v{v - 1}", "applied")
        page.key("?")
        page.wait("document.getElementById('keys').open")
        page.key("Escape")
        page.wait("!document.getElementById('keys').open")
        page.keys("g", "o")
        page.wait("!document.getElementById('view-overview').hidden")


class Living(PageCase):
    def test_events(self):
        self.visit("#facts")
        page = self.page
        page.wait_text("#facts-pager", "nothing here")
        page.js("window.same = true")
        self.d.apply({"prompt": "Posted by another client is", "target": "this"})
        page.wait(self.row("facts", "Posted by another client"))
        page.wait_text("#vital-facts", str(self.d.get("/v1/status").json["counts"]["live_facts"]))
        self.assertTrue(page.js("window.same"))

    def test_hostile(self):
        """Facts are strangers' texts: they are shown, and nothing else happens."""
        texts = ["<img src=x onerror=\"window.hacked=1\">", "</td></table><script>window.hacked=1</script>",
                 "\u202eright to left override", "\u05e9\u05dc\u05d5\u05dd and \u0645\u0631\u062d\u0628\u0627",
                 "\U0001f469\u200d\U0001f680\U0001f3f3\ufe0f\u200d\U0001f308", "W" * 180, "a\nb\tc\x7f"]
        self.d.apply(*({"prompt": f"Hostile {i} {text}", "target": text[:60], "subject": text[:60]}
                       for i, text in enumerate(texts)))
        self.d.edit({"prompt": "Hostile note", "target": "x"}, note=texts[0])
        self.visit("#facts?search=Hostile")
        page = self.page
        page.size(360, 800)
        self.wait_rows("facts", len(texts) + 1)
        for i, text in enumerate(texts):
            shown = page.js(f"({self.row('facts', f'Hostile {i}')}).querySelector('a bdi').textContent")
            self.assertEqual(shown, f"Hostile {i} {text}")
        self.check(("overflow",))
        shoot(page, "hostile")
        for i in range(len(texts)):
            self.click_in(self.row("facts", f"Hostile {i}"), "a[data-do=open]")
            page.wait(f"document.getElementById('drawer-body').textContent.includes('Hostile {i}')")
            self.check(("overflow",))
            page.key("Escape")
            page.wait("!document.getElementById('drawer').open")
        self.visit("#jobs")
        page.wait(self.row("jobs", "onerror"))
        self.visit("#ask?prompt=" + "Hostile%200%20" + "%3Cimg%20src=x%20onerror=%22window.hacked=1%22%3E")
        page.wait("document.querySelectorAll('#answers .answer').length === 2")
        self.assertFalse(page.js("window.hacked"))
        self.assertEqual(page.js("document.querySelectorAll('main img, main script, dialog img').length"), 0)


class Reading(PageCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for start in range(0, 60, 20):
            cls.d.apply(*({"prompt": f"The mayor of town {i} is called", "target": f"Mayor{i}"}
                          for i in range(start, start + 20)))

    def test_search_and_pages(self):
        self.visit("#facts")
        page = self.page
        self.wait_rows("facts", 25)
        self.assertIn("town 59", self.rows("facts")[0])
        page.click(page.button("Older ›", "#facts-pager"))
        page.wait(f"{self.row('facts', 'town 34 ')}")
        page.click(page.button("Older ›", "#facts-pager"))
        self.wait_rows("facts", 10)
        page.wait_text("#facts-pager", "page 3, the last")
        page.click(page.button("‹ Newer", "#facts-pager"))
        self.wait_rows("facts", 25)
        page.key("/")
        self.assertEqual(page.js("document.activeElement.id"), "facts-search")
        page.type("TOWN 17")
        self.wait_rows("facts", 1)
        self.assertIn("Mayor17", self.rows("facts")[0])
        self.assertIn("search=TOWN+17", page.js("location.hash"))
        page.fill("#facts-search", "100%")
        self.wait_rows("facts", 0)
        page.wait_text("#facts-pager", "nothing here")
        page.fill("#facts-search", "town 1")
        self.wait_rows("facts", 11)
        page.fill("#facts-version", "1")
        page.key("Enter")
        self.wait_rows("facts", 11)
        self.visit("#facts?state=retracted")
        page.wait_text("#facts-pager", "nothing here")

    def test_filtered_jobs(self):
        self.visit("#jobs")
        page = self.page
        self.wait_rows("jobs", 3)
        page.tab_to("it.id === 'jobs-kind'")
        page.key("r")
        self.wait_rows("jobs", 0)
        self.assertEqual(page.js("location.hash"), "#jobs?kind=rollback")


class Looking(PageCase):
    @classmethod
    def setUpClass(cls):
        import prepared
        super().setUpClass()
        cls.d.stop()
        prepared.fill(cls.d.directory + "/db", 300, 60)
        cls.d.start()

    def look(self, scheme, width, height):
        page = self.page
        page.size(width, height)
        page.prefer(scheme)
        for view in VIEWS:
            self.visit(f"#{view}")
            if view in ("facts", "jobs", "versions"):
                self.wait_rows(view, 25)
            if view == "overview":
                page.wait("document.querySelectorAll('#quality-chart .series .line').length === 4")
                self.wait_rows("newest", 8)
            self.check()
            shoot(page, f"{scheme}-{width}-{view}")
        for hash in "#version/58", "#job/job_00000000000000000058", "#diff/57/58", "#fact/fact_00000000000000000299":
            self.visit(hash)
            page.wait("document.querySelector('#drawer-body h3, #drawer-body dl')")
            self.check()
            shoot(page, f"{scheme}-{width}-{hash[1:].split('/')[0]}")

    def test_light_and_wide(self):
        self.look("light", 1600, 1000)
        light = self.page.js("getComputedStyle(document.body).backgroundColor")
        self.page.prefer("dark")
        self.assertNotEqual(self.page.js("getComputedStyle(document.body).backgroundColor"), light)

    def test_dark_and_narrow(self):
        self.look("dark", 360, 780)

    def test_names(self):
        """Whatever can be operated has a name for those who do not see it."""
        self.page.do("Accessibility.enable")
        roles = {"button", "link", "textbox", "searchbox", "combobox", "checkbox", "radio", "spinbutton",
                 "dialog", "progressbar", "meter"}
        for hash in [f"#{view}" for view in VIEWS] + ["#version/58"]:
            self.visit(hash)
            self.page.wait("document.getElementById('link').innerText.length > 3")
            if "/" in hash:
                self.page.wait("document.querySelector('#drawer-body dl')")
            nodes = self.page.do("Accessibility.getFullAXTree")["nodes"]
            seen = [n for n in nodes if not n["ignored"] and n["role"]["value"] in roles]
            self.assertGreater(len(seen), 8)
            nameless = [n for n in seen if not n.get("name", {}).get("value")]
            self.assertEqual(nameless, [], hash)

    def test_charts(self):
        self.visit()
        page = self.page
        es = self.d.get("/v1/versions/60").json["measures"]["decoded"]["es"]
        page.wait_text("#quality-legend", f"{es * 100:.1f}".rstrip("0").rstrip("."))
        page.tab_to("it.matches('#quality-chart .stage')")
        page.key("End")
        page.wait_text("#quality-chart .readout", "v60: ES")
        page.key("ArrowLeft")
        page.wait_text("#quality-chart .readout", "v59: ES")
        page.key("Enter")
        page.wait_text("#drawer-title", "Version 59")
        page.key("Escape")
        page.click("input[value=teacher_forced]")
        way = self.d.get("/v1/versions/60").json["measures"]["teacher_forced"]["es"]
        page.wait_text("#quality-legend", f"{way * 100:.1f}".rstrip("0").rstrip("."))
        page.wait("document.querySelectorAll('#batches-chart rect').length > 10")
        page.wait("document.querySelectorAll('#latency-chart .mark').length > 2")
        # A line from each rollback to the version whose weights it brought back.
        self.visit("#versions")
        page.wait("document.querySelectorAll('#versions-rail .rail-node').length === 25")
        self.assertEqual(page.js("document.querySelectorAll('#versions-rail .rail-arc').length"), 1)


if __name__ == "__main__":
    harness.main()
