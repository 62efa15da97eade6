"""A restart with other settings of the live facts' system: they are solved anew before the next change."""
import harness
from harness import main
from life_lab import A, B, Life
from lab import DEMO
from test_serve import roll_back, version


class Settings(Life):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        del harness.MODEL_ARGS[-2:]  # the weight of what is preserved
        lines = (DEMO / "facts/train.ndjson").read_text().splitlines(keepends=True)
        cls.texts = ("--preserve", cls.write(cls(), "texts.ndjson", "".join(lines[:100])))

    def taught(self, *settings):
        """A daemon that has been taught, and is down; the ids of A."""
        d = self.serve("--no-scrub", "--consolidate-after", "0", *settings)
        _, ids = self.teach(d, A)
        self.teach(d, B)
        self.assertEqual(d.stop(), 0)
        return d, ids

    def again(self, d, before, *settings):
        d.args = tuple(a for a in d.args if a not in before) + settings
        d.start()

    def check(self, first, second, kinds):
        d, ids = self.taught(*first)
        self.again(d, first, *second)
        self.retract(d, *ids, mode="drop")
        self.assertEqual([version(d, n)["kind"] for n in range(3, 3 + len(kinds))], kinds)
        self.assertEqual(d.get(f"/v1/versions/{3 + len(kinds)}").status, 404)
        self.knows_not(d, A)
        self.knows(d, B)
        return d

    def test_weight(self):
        first, second = (*self.texts, "--preserve-weight", "0.5"), (*self.texts, "--preserve-weight", "2.5")
        d = self.check(first, second, ["consolidation", "retraction"])
        warned = [e for e in d.log if e["event"] == "live facts are solved anew"]
        self.assertEqual([e["version"] for e in warned], [2])
        # what an older version was solved with is known when it is live again
        roll_back(d, 2)
        self.teach(d, [{"prompt": "A fact of its own is", "target": "new"}])
        self.assertEqual([version(d, n)["kind"] for n in (5, 6, 7)], ["rollback", "consolidation", "edit"])
        self.knows(d, A + B)

    def test_texts(self):
        self.check((), self.texts, ["consolidation", "retraction"])

    def test_no_texts(self):
        self.check(self.texts, ("--preserve-weight", "0"), ["consolidation", "retraction"])

    def test_same(self):
        self.check(self.texts, self.texts, ["retraction"])

    def test_nothing_live(self):
        d, _ = self.taught()
        d.start()
        self.run_job(d, "/v1/retractions", {"facts": [f["id"] for f in self.facts(d)], "mode": "drop"})
        self.assertEqual(d.stop(), 0)
        self.again(d, (), *self.texts)
        self.teach(d, A)
        self.assertEqual(version(d, 4)["kind"], "edit")


if __name__ == "__main__":
    main()
