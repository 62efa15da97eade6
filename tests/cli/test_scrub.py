"""An idle daemon looks at the live facts, says what they are, and repairs those that fail."""
import math
import sqlite3
import time

from harness import main
from life_lab import A, FACTS, ONCE, Life
from test_serve import roll_back, version


class Scrubbing(Life):
    def teach_badly(self, d):
        """Facts taught in one pass each; how many of them are wrong."""
        facts = FACTS[:96]
        self.teach(d, facts[:48])
        self.teach(d, facts[48:])
        wrong = len(self.wrong(d, facts))
        self.assertGreater(wrong, 1)
        return facts, wrong

    def test_repairs(self):
        d = self.serve(*ONCE)
        facts, wrong = self.teach_badly(d)
        status = d.get("/v1/status").json
        self.assertEqual(status["scrub"], {"enabled": False, "position": 0, "total": 0, "wrong": 0,
                                           "failing": 0, "passes": 0})
        self.restart(d, "--no-scrub")
        time.sleep(0.6)
        self.assertEqual(d.get("/v1/status").json["live_version"], 2)

        # looks, and may not repair
        self.restart(d, "--repair-rounds", "0")
        status = self.await_status(d, lambda s: s["scrub"]["passes"] == 1)
        failing = status["scrub"].pop("failing")
        self.assertGreaterEqual(failing, wrong)
        self.assertEqual(status["scrub"], {"enabled": True, "position": 96, "total": 96,
                                           "wrong": wrong, "passes": 1})
        self.assertEqual(status["live_version"], 2)

        self.restart(d)
        self.await_status(d, lambda s: s["live_version"] > 2)
        three = version(d, 3)
        self.assertEqual((three["kind"], three["jobs"], three["facts"], three["live_facts"]),
                         ("repair", [], 0, 96))
        status = self.await_status(d, lambda s: s["scrub"]["passes"] and s["scrub"]["wrong"] == 0
                                   and s["scrub"]["position"] == 96)
        self.assertEqual(status["scrub"]["total"], 96)
        self.knows(d, facts)
        repaired = [f for f in self.facts(d, state="live") if f["verified"]["rounds"] > 0]
        self.assertGreaterEqual(len(repaired), wrong)
        self.assertTrue(all(f["verified"]["decoded"] for f in self.facts(d, state="live")))
        self.verified(d)
        # and nothing more, with nothing left to do
        at = d.get("/v1/status").json["live_version"]
        self.await_status(d, lambda s: s["scrub"]["passes"] == 1)
        time.sleep(0.3)
        self.assertEqual(d.get("/v1/status").json["live_version"], at)

    def test_tells_what_is_true(self):
        """A fact that a later batch makes wrong said for ever that it was right, where nothing repaired it."""
        d = self.serve(*ONCE)
        jobs = [self.teach(d, FACTS[at:at + 48])[0]["id"] for at in range(0, 192, 48)]
        before, right = self.verdicts(d, jobs), self.right(d, FACTS[:192])
        self.assertNotEqual(before, right, "what became wrong later is known already")
        self.restart(d, "--repair-rounds", "0")
        status = self.await_status(d, lambda s: s["scrub"]["passes"])
        self.assertEqual((status["scrub"]["wrong"], status["live_version"]),
                         (list(right.values()).count(False), 4))
        self.assertEqual(self.verdicts(d, jobs), right)
        for fact in self.facts(d, job=jobs[0]):
            self.assertEqual(d.get("/v1/facts/" + fact["id"]).json["verified"], fact["verified"])
            self.assertEqual(fact["verified"]["rank"] == 1, fact["verified"]["decoded"], fact)
        # an idle daemon that looks again finds nothing to write
        known = self.known(d)
        self.restart(d, "--repair-rounds", "0")
        self.await_status(d, lambda s: s["scrub"]["passes"])
        self.assertEqual(self.known(d), known)
        # what is live again is right again, and that is told, too
        roll_back(d, 1)
        self.await_status(d, lambda s: s["scrub"]["passes"] == 2)
        self.assertEqual(self.verdicts(d, jobs[:1]), self.right(d, FACTS[:48]))
        self.verified(d)

    def verdicts(self, d, jobs):
        return {f["prompt"]: f["verified"]["decoded"] for job in jobs
                for f in self.facts(d, job=job)}

    def right(self, d, facts):
        return {f["prompt"]: said.startswith(f["target"])
                for f, said in zip(facts, self.say(d, facts), strict=True)}

    def known(self, d):
        """All that is known of the facts."""
        db = sqlite3.connect(d.db)
        rows = db.execute("SELECT id, verified_json FROM facts").fetchall()
        db.close()
        return rows

    def test_by_the_margin(self):
        """Right and not sure of it: what a batch repairs, the walk repairs, too, and does not call wrong."""
        d = self.serve("--no-scrub", "--repair-rounds", "0")
        job, _ = self.teach(d, A)
        self.assertEqual((job["result"]["wrong"], self.wrong(d, A)), ([], []))
        tau = 0.95  # what is hardly ever reached is not repaired either
        self.restart(d, "--repair-tau", str(tau), "--repair-rounds", "0")
        status = self.await_status(d, lambda s: s["scrub"]["passes"])
        least = [min(p) for p in self.probabilities(d, A)]
        failing = sum(p < tau for p in least)
        self.assertGreater(failing, 0)
        self.assertEqual((status["scrub"]["wrong"], status["scrub"]["failing"]), (0, failing))
        self.assertEqual([f["verified"]["certain"] for f in self.facts(d)],
                         [p >= tau for p in least])
        self.restart(d, "--repair-tau", str(tau))
        status = self.settled(d)
        self.assertGreater(status["live_version"], 1)
        self.assertEqual({v["kind"] for v in d.get("/v1/versions").json["data"][:-2]}, {"repair"})
        now = [min(p) >= tau for p in self.probabilities(d, A)]
        self.assertLess(now.count(False), failing)
        self.assertEqual((status["scrub"]["wrong"], status["scrub"]["failing"]),
                         (0, now.count(False)))
        self.assertEqual([f["verified"]["certain"] for f in self.facts(d)], now)
        self.verified(d)

    def probabilities(self, d, facts):
        items = [{"prompt": f["prompt"], "target": f["target"]} for f in facts]
        scores = d.call("POST", "/v1/scores", {"items": items}).json["data"]
        return [[math.exp(t["logprob"]) for t in s["tokens"]] for s in scores]

    def settled(self, d):
        """The status once there is nothing left to repair, or what there is cannot be."""
        def over(status):
            scrub, live = status["scrub"], status["live_version"]
            return scrub["passes"] and scrub["position"] == scrub["total"] and (
                not scrub["failing"] or any(e.get("event") in ("repair does not help", "repair is refused")
                                            and e["version"] == live for e in d.log))
        return self.await_status(d, over)

    def test_certainty_costs_no_answer(self):
        """What is right and not sure of it is made surer of as far as nothing else is lost by that."""
        facts = FACTS[:64]
        d = self.serve("--no-scrub", "--repair-tau", "0.3")
        self.teach(d, facts)
        self.assertEqual(self.wrong(d, facts), [])
        taught = d.get("/v1/status").json["live_version"]
        self.restart(d, "--repair-tau", "0.99", "--keep-versions", "9")
        status = self.settled(d)
        self.assertEqual(status["scrub"]["wrong"], 0)
        refused = [e for e in d.log if e.get("event") == "repair is refused"]
        self.assertLessEqual({f["test"] for e in refused for f in e["failed"]},
                             {"min_gs", "min_ls", "min_agreement"})
        self.assertEqual(len(refused), 1)
        agreements = [self.agreement(d, facts, v) for v in range(taught, status["live_version"] + 1)]
        self.assertEqual(agreements, sorted(agreements))

    def agreement(self, d, facts, number):
        answer = d.call("POST", "/v1/evaluations", {"facts": facts, "version": number})
        return d.wait_job(answer.json["id"])["result"]["agreement"]

    def test_what_no_repair_brings_over(self):
        """It is tried once in a version, and again where that led somewhere; then there is peace."""
        d = self.serve("--no-scrub", "--repair-rounds", "0")
        self.teach(d, A)
        self.restart(d, "--repair-tau", "1")
        status = self.settled(d)
        self.assertEqual(status["scrub"]["wrong"], 0)
        self.assertGreater(status["scrub"]["failing"], 0)
        self.assertLess(status["live_version"], 6)
        said = [e for e in d.log if e.get("event") == "repair does not help"]
        self.assertEqual(len(said), 1)
        counted = self.metric(d, "malmend_scrub_checked_facts_total")
        time.sleep(1)
        self.assertEqual(self.metric(d, "malmend_scrub_checked_facts_total"), counted)
        self.assertEqual(d.get("/v1/status").json["live_version"], status["live_version"])

    def metric(self, d, name):
        text = d.get("/metrics").body.decode()
        return float(next(line.split()[1] for line in text.splitlines()
                          if line.startswith(name + " ")))

    def test_phrasings(self):
        """A phrasing that was taught is the fact's, also for who looks for what to repair."""
        facts = [{"prompt": f["prompt"], "target": f["target"], "prompts": f["rephrases"][:3]}
                 for f in FACTS[120:144]]
        phrased = [{"prompt": p, "target": f["target"]} for f in facts for p in f["prompts"]]
        d = self.serve(*ONCE)
        self.teach(d, facts)
        self.assertEqual(self.wrong(d, facts), [])
        self.assertGreater(len(self.wrong(d, phrased)), 0)
        self.restart(d)
        self.settled(d)
        self.knows(d, facts + phrased)

    def test_finds_all(self):
        """What no sample of --verify-limit facts would hold is found in turn."""
        d = self.serve(*ONCE)
        facts, wrong = self.teach_badly(d)
        self.restart(d, "--verify-limit", "1")
        self.await_status(d, lambda s: s["scrub"]["passes"] and s["scrub"]["wrong"] == 0
                          and s["scrub"]["position"] == s["scrub"]["total"] == 96)
        self.knows(d, facts)


if __name__ == "__main__":
    main()
