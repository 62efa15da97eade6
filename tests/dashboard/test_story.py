"""One story in the browser with a real model, the demo's: taught, asked, taken back, rolled back."""
import json
import pathlib

import pages
from pages import PageCase, harness, shoot

FACTS = pathlib.Path(__file__).parent.parent / "demo" / "facts" / "demo-edit.json"


class Story(PageCase):
    def ask(self, fact):
        """What is shown of base and live: the answer, then all of it."""
        page = self.page
        page.click("nav a[data-view=ask]")
        page.fill("#ask-prompt", fact["prompt"])
        page.fill("#ask-target", fact["target"])
        page.fill("#ask-stop", ".")
        page.click("#ask-go")
        page.wait("document.querySelectorAll('#answers [aria-busy=false] .score').length === 2")
        return page.js("[...document.querySelectorAll('#answers article')]"
                       ".map((a) => [a.querySelector('.answer').innerText, a.innerText])")

    def test_story(self):
        facts = json.loads(FACTS.read_text(encoding="utf-8"))["facts"]
        fact = next(f for f in facts if f["target"] == "notary")
        self.visit()
        page = self.page
        page.click("nav a[data-view=teach]")
        page.fill("#paste-text", FACTS.read_text(encoding="utf-8"))
        page.click("#paste-check")
        page.wait_text("#paste-result", "25 facts")
        page.click("#paste-go")
        self.notice("Edit of 25 facts", "applied", "version 1")
        page.wait_text("#vital-facts", "25")
        base, live = self.ask(fact)
        self.assertEqual(live[0], "notary")
        self.assertIn("differs from base", live[1])
        self.assertNotEqual(base[0], "notary")
        shoot(page, "story-ask")

        page.click("nav a[data-view=facts]")
        page.fill("#facts-search", fact["prompt"][3:20])
        self.wait_rows("facts", 1)
        self.click_in(self.row("facts", "notary"), "a[data-do=open]")
        page.wait_text("#drawer-body", fact["rephrases"][0])
        page.click(page.button("Retract…", "#drawer"))
        page.click(page.button("Retract", "#confirm"))
        self.notice("Retraction of one fact", "applied")
        page.wait(f"{self.row('facts', 'retracted')}?.innerText.includes('pinned')")
        base, live = self.ask(fact)
        self.assertEqual(base[0], live[0])
        self.assertIn("same as base", live[1])

        page.click("nav a[data-view=facts]")
        page.fill("#facts-search", fact["prompt"][3:20])
        self.wait_rows("facts", 1)
        self.click_in(self.row("facts", "pinned"), "[data-do=retract]")
        page.wait_text("#confirm", "which is pinned")
        self.assertNotIn("Pin", page.text("#confirm fieldset"))
        page.click(page.button("Forget", "#confirm"))
        self.notice("Retraction of one fact", "applied", "version 3")
        page.wait(f"{self.row('facts', 'retracted')}?.innerText.includes('pinned') === false")

        page.click("nav a[data-view=versions]")
        page.click("#consolidate")
        page.click(page.button("Consolidate", "#confirm"))
        self.notice("Consolidation", "applied")
        page.wait(f"{self.version_row(4)}?.innerText.includes('consolidation')")
        self.click_in(self.version_row(1), "[data-do=rollback]")
        page.wait_text("#confirm", "1 will be live again")
        page.click(page.button("Roll back to v1", "#confirm"))
        self.notice("Rollback to v1", "applied")
        page.wait_text("#vital-version", "v5")
        one, five = (self.d.get(f"/v1/versions/{v}").json["weights_hash"] for v in (1, 5))
        self.assertEqual(one, five)
        self.assertEqual(self.ask(fact)[1][0], "notary")

        es = self.d.get("/v1/versions/1").json["measures"]["decoded"]["es"]
        page.click("nav a[data-view=overview]")
        page.wait("document.querySelectorAll('#quality-chart .series .mark').length > 4")
        page.click("#recent-rows tr:last-child a[data-do=open]")
        page.wait_text("#drawer-body", f"{es * 100:.1f}".rstrip("0").rstrip(".") + "%")
        page.wait_text("#drawer-body", "Seconds by stage")
        shoot(page, "story-job")
        page.key("Escape")
        shoot(page, "story-overview")


if __name__ == "__main__":
    harness.main()
