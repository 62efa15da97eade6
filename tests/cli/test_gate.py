"""The gate: what a batch must keep, by option and by request, and what becomes of one that does not."""
import harness
from harness import main
from life_lab import A, ABSURD, B, C, FACTS, ONCE, Life, prompts
from test_serve import version


class Gate(Life):
    def refused(self, job, test, limit):
        gate = job["result"]["gate"]
        self.assertIs(gate["passed"], False)
        failed = {f["test"]: f for f in gate["failed"]}
        self.assertEqual(list(failed), [test])
        self.assertEqual(failed[test]["threshold"], limit)
        value = failed[test]["value"]
        (self.assertGreater if test.startswith("max") else self.assertLess)(value, limit)
        self.assertNotIn("version", job)
        return failed[test]

    def state(self, d):
        status = d.get("/v1/status").json
        return status["live_version"], status["weights_hash"], self.live(d)

    def test_each_limit(self):
        """By request, what a batch does not keep; then the same by option, and no laxer."""
        probes = self.write("probes.txt", "\n".join(prompts(FACTS[100:150])))
        d = self.serve(*ONCE, "--probes", str(probes))
        many = FACTS[48:96]
        job, _ = self.teach(d, A)
        self.assertEqual(job["result"]["gate"], {"passed": True, "failed": []})
        before = self.state(d)
        for facts, test, limit in ((ABSURD, "min_es", 0.5), (ABSURD, "min_gs", 0.5),
                                   (many, "min_ls", 1), (many, "min_agreement", 1),
                                   (many, "max_norm_growth", 1e-9)):
            job, ids = self.teach(d, facts, state="rejected", **{test: limit})
            failed = self.refused(job, test, limit)
            self.assertEqual(failed.get("measure"), "decoded" if test in ("min_es", "min_gs",
                                                                          "min_ls") else None)
            self.assertEqual({f["state"] for f in self.facts(d, job=job["id"])}, {"rejected"})
            self.assertEqual(self.state(d), before)
            self.assertEqual(len(ids), len(facts))
        job, _ = self.teach(d, ABSURD, state="rejected", min_es=0.9, measure="teacher_forced")
        self.assertEqual(self.refused(job, "min_es", 0.9)["measure"], "teacher_forced")
        self.knows_not(d, ABSURD)

        self.restart(d, *ONCE, "--gate-max-norm-growth", "1e-9", "--gate-min-es", "0.5")
        job, _ = self.teach(d, B, state="rejected", max_norm_growth=10)
        self.refused(job, "max_norm_growth", 1e-9)
        self.assertEqual(self.state(d), before)

    def test_nothing_has_changed(self):
        """What follows a refused batch is as if it had not been."""
        d, short = self.serve("--no-scrub", name="long"), self.serve("--no-scrub", name="short")
        _, ids = self.teach(d, A)
        self.teach(short, A)
        self.teach(d, B + ABSURD, state="rejected", max_norm_growth=1e-9)
        self.teach(d, [{**A[0], "target": B[0]["target"]}], state="rejected", max_norm_growth=1e-9)
        self.assertEqual(self.live(d), prompts(A))
        self.knows(d, A)
        self.teach(d, C)
        self.teach(short, C)
        self.alike(d, short)
        self.retract(d, ids[0])
        self.knows_not(d, A[:1])

    def test_one_job_of_several(self):
        d = self.serve(*ONCE, "--batch-window-ms", "60000", "--max-batch-facts", "22")
        bodies = [{"facts": A[:5]}, {"facts": ABSURD, "gate": {"min_es": 0.5}}, {"facts": A[5:16]},
                  {"facts": B[:3]}]
        posted = [d.call("POST", "/v1/edits", body).json["id"] for body in bodies]
        jobs = [d.wait_job(job) for job in posted]
        self.assertEqual([job["state"] for job in jobs],
                         ["applied", "rejected", "applied", "applied"])
        self.refused(jobs[1], "min_es", 0.5)
        self.assertEqual(self.live(d), prompts(A + B[:3]))

    def test_own_figures(self):
        """Of jobs in one batch each tells about its own facts."""
        d = self.serve(*ONCE, "--batch-window-ms", "60000", "--max-batch-facts", "16")
        bodies = [{"facts": A[:5]}, {"facts": ABSURD}, {"facts": B[:8]}]
        posted = [d.call("POST", "/v1/edits", body).json["id"] for body in bodies]
        jobs = [d.wait_job(job) for job in posted]
        self.assertEqual({(job["state"], job["version"]) for job in jobs}, {("applied", 1)})
        for job, n in zip(jobs, (5, 3, 8), strict=True):
            own = self.facts(d, job=job["id"])
            wrong = [f["id"] for f in own if not f["verified"]["decoded"]]
            self.assertEqual((job["result"]["facts"], job["result"]["wrong"]), (n, wrong))
            measures = job["result"]["measures"]
            self.assertEqual(measures["facts"], n)
            self.assertAlmostEqual(measures["decoded"]["es"], 1 - len(wrong) / n)
        self.assertEqual(len(jobs[1]["result"]["wrong"]), 3)
        self.assertEqual(version(d, 1)["measures"]["facts"], 16)

    def test_bisect(self):
        """Of a refused batch the facts that are not at fault are kept."""
        for name, args, gate in (("request", (), {"min_es": 1, "bisect": True}),
                                 ("option", ("--gate-bisect", "--gate-min-es", "1"), {})):
            d = self.serve(*ONCE, *args, name=name)
            batch = B[:4] + ABSURD[:1] + B[4:9] + ABSURD[1:] + B[9:12]
            job, ids = self.teach(d, batch, **gate)
            rejected = job["result"]["rejected"]
            bad = [id for id, f in zip(ids, batch, strict=True) if f in ABSURD]
            self.assertLessEqual(set(bad), set(rejected))
            self.assertLess(len(rejected), 6)
            self.assertEqual((job["version"], job["result"]["wrong"]), (1, []))
            kept = [f for id, f in zip(ids, batch, strict=True) if id not in rejected]
            self.assertEqual(self.live(d), prompts(kept))
            self.knows(d, kept)
            self.knows_not(d, ABSURD)
            states = {f["id"]: f["state"] for f in self.facts(d)}
            self.assertEqual({states[id] for id in rejected}, {"rejected"})
            self.assertEqual(d.get("/v1/status").json["counts"]["versions"], 2)
            d.close()

    def test_probes(self):
        asked = [{"prompt": f["prompt"], "target": f["target"]} for f in FACTS[100:150]]
        probes = self.write("probes.json", asked)
        d = self.serve(*ONCE, "--probes", str(probes))
        plain = [{"prompt": f["prompt"], "target": f["target"]} for f in FACTS[:64]]
        job, _ = self.teach(d, plain)
        base, now = self.say(d, asked, "base"), self.say(d, asked)
        same = sum(map(str.__eq__, base, now))
        self.assertLess(same, 50)
        self.assertAlmostEqual(job["result"]["measures"]["agreement"], same / 50, delta=0.05)
        job, _ = self.teach(d, FACTS[64:72], state="rejected", min_agreement=1)
        self.refused(job, "min_agreement", 1)

    def logged(self, d, event):
        return [e for e in d.log if e.get("event") == event]

    def test_repair_while_idle(self):
        """What nobody asked for keeps the daemon's limits, too: repair grew weights beyond them."""
        d = self.serve(*ONCE)
        facts = FACTS[:96]
        for part in facts[:48], facts[48:]:
            self.teach(d, part)
        before, wrong = self.state(d), len(self.wrong(d, facts))
        self.assertGreater(wrong, 0)
        self.restart(d, "--gate-max-norm-growth", "1e-9")
        status = self.await_status(d, lambda s: s["scrub"]["passes"] and self.logged(d, "repair is refused")
                                   or s["live_version"] > 2)
        self.assertEqual((status["scrub"]["wrong"], self.state(d)), (wrong, before))
        refusal, = self.logged(d, "repair is refused")
        self.assertEqual([f["test"] for f in refusal["failed"]], ["max_norm_growth"])
        self.assertGreater(refusal["failed"][0]["value"], refusal["failed"][0]["threshold"])
        told = [f["verified"]["decoded"] for f in self.facts(d, state="live")]
        self.assertEqual(told.count(False), wrong)
        self.restart(d, "--gate-max-norm-growth", "10")
        self.await_status(d, lambda s: s["live_version"] > 2 and s["scrub"]["passes"]
                          and not s["scrub"]["wrong"])
        self.knows(d, facts)
        self.assertEqual(version(d, 3)["measures"]["facts"], 96)

    def test_consolidation(self):
        """Each figure by itself, and what failed is told: rephrases that rise made up for answers that did
        not stay, below --gate-min-agreement."""
        d = self.serve(*ONCE)
        for at in range(0, 96, 48):
            self.teach(d, [{k: v for k, v in f.items() if k != "unrelated"}
                           for f in FACTS[at:at + 48]])
        self.restart(d, "--no-scrub")  # repairs, which one pass did not
        result = self.run_job(d, "/v1/consolidations", {})["result"]
        self.assertEqual(result["gate"], {"passed": True, "failed": []})
        gained = result["measures"]["decoded"]["gs"] - result["before"]["decoded"]["gs"]
        asked = sorted({p["prompt"] for f in FACTS for p in f["unrelated"]})[:250]
        base, was, now = (self.say(d, [{"prompt": p} for p in asked], model)
                          for model in ("base", "v2", "live"))
        answers = list(zip(asked, base, was, now, strict=True))
        stay = [prompt for prompt, b, w, n in answers if b == w == n]
        lost = [prompt for prompt, b, w, n in answers if b == w != n]
        self.assertGreater(gained * (len(stay) + 1), 1, "no more is gained than lost")
        self.run_job(d, "/v1/rollbacks", {"to_version": 2})
        before = self.state(d)
        probes = self.write("asked.txt", "\n".join(stay + lost[:1]))
        self.restart(d, "--no-scrub", "--probes", str(probes), "--gate-min-agreement", "0.9999")
        job = self.run_job(d, "/v1/consolidations", {}, state="rejected")
        self.assertAlmostEqual(self.refused(job, "min_agreement", 1)["value"],
                               1 - 1 / (len(stay) + 1))
        self.assertEqual(self.state(d), before)

    def test_texts_to_preserve(self):
        texts = self.write("texts.json", [f["prompt"] for f in FACTS[100:140]])
        harness.MODEL_ARGS, given = harness.MODEL_ARGS[:-2], harness.MODEL_ARGS
        self.addCleanup(setattr, harness, "MODEL_ARGS", given)
        growth = {}
        for weight in "0.1", "5":
            d = self.serve(*ONCE, "--preserve", str(texts), "--preserve-weight", weight,
                           name=weight)
            job, _ = self.teach(d, FACTS[:40], state="rejected", max_perplexity_growth=0)
            growth[weight] = self.refused(job, "max_perplexity_growth", 0)["value"]
            d.close()
        self.assertLess(growth["5"], growth["0.1"], "held faster")
        d = self.serve(*ONCE, "--preserve", str(texts), "--gate-max-perplexity-growth", "0",
                       "--preserve-weight", "0.1")
        job, _ = self.teach(d, FACTS[:40], state="rejected")
        self.refused(job, "max_perplexity_growth", 0)


del Life  # a base, not a test of its own

if __name__ == "__main__":
    main()
