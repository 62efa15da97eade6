"""The life of facts on the real daemon: taught, verified, taken back, superseded, rolled back,
solved anew."""
import socket
import time

import harness
from golden import BERT, T5
from harness import main
from lab import DEMO, MODEL, Lab, malmend
from life_lab import A, ABSURD, B, C, FACTS, ONCE, Life, prompts
from test_serve import Serving, roll_back, version


class Retraction(Life):
    def test_story(self):
        d = self.serve()
        status = d.get("/v1/status").json
        self.assertEqual((status["editor"]["update"], status["scrub"]["enabled"],
                          status["joint"]["stale"]), ("joint", True, True))
        for n, facts in enumerate((A, B, C), 1):
            job, ids = self.teach(d, facts)
            self.assertEqual((job["version"], job["result"]["facts"], job["result"]["wrong"]),
                             (n, 16, []))
            self.assertEqual(job["result"]["wrong_others"], 0)
            self.assertGreaterEqual(job["result"]["rounds"], 1)
            verified = [f["verified"] for f in self.facts(d, job=job["id"])]
            self.assertTrue(all(v["decoded"] and v["rank"] == 1 for v in verified), verified)
            rounds = {v["rounds"] for v in verified}
            self.assertEqual((min(rounds), max(rounds)), (0, job["result"]["rounds"]))
            if n == 1:
                first = ids
        self.knows(d, A + B + C)
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 48)
        self.assertFalse(d.get("/v1/status").json["joint"]["stale"])

        job = self.retract(d, *first[:4], reason="wrong")
        self.assertEqual((job["version"], job["result"]["facts"]), (4, 4))
        self.knows_not(d, A[:4])
        self.knows(d, A[4:] + B + C)
        self.assertEqual(self.live(d), prompts(A[4:] + B + C))
        states = [(f["state"], f["pinned"]) for f in self.facts(d, state="retracted")]
        self.assertEqual(states, [("retracted", True)] * 4)
        self.assertEqual((version(d, 4)["kind"], version(d, 4)["live_facts"]), ("retraction", 44))
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 48, "pinned keys stay")

        self.retract(d, *first[4:6], mode="drop")
        self.knows(d, A[6:] + B + C)
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 46)
        self.assertFalse(d.get("/v1/facts/" + first[4]).json["pinned"])
        self.run_job(d, "/v1/facts/" + first[6], method="DELETE", mode="drop")
        self.run_job(d, "/v1/facts/" + first[7], method="DELETE")
        self.knows_not(d, A[7:8])
        self.knows(d, A[8:] + B + C)
        for answer in (d.call("POST", "/v1/retractions", {"facts": first[8:9] + first[:1]}),
                       d.call("DELETE", "/v1/facts/" + first[0])):
            self.problem(answer, 409, detail=f"{first[0]} is not live: it is retracted")

        jobs = {f["job"] for f in self.facts(d, state="live")}
        last = max(jobs)
        self.run_job(d, "/v1/retractions", {"job": last})
        self.knows_not(d, C)
        self.assertEqual(self.live(d), prompts(A[8:] + B))
        self.problem(d.call("POST", "/v1/retractions", {"job": last}), 409)
        self.verified(d)
        self.knows(d, A[8:] + B)
        self.knows_not(d, A[:4] + C)

    def test_superseded(self):
        d = self.serve()
        _, ids = self.teach(d, A)
        newer = {**A[0], "target": next(f["target"] for f in FACTS if f["target"] != A[0]["target"]
                                        and f["prompt"].split()[0] == A[0]["prompt"].split()[0])}
        self.retract(d, ids[1])
        self.knows_not(d, A[1:2])
        # a live one by another target, a pinned one by itself
        _, (new, again) = self.teach(d, [newer, A[1]])
        self.knows(d, [newer] + A[1:])
        self.assertEqual(self.live(d), prompts(A[2:] + [newer, A[1]]))
        old, back = (d.get("/v1/facts/" + id).json for id in ids[:2])
        self.assertEqual((old["state"], old["superseded_by"]), ("superseded", new))
        self.assertEqual((back["state"], back["pinned"]), ("retracted", False))
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 16)
        self.retract(d, again)
        self.knows_not(d, A[1:2])
        self.problem(d.call("DELETE", "/v1/facts/" + ids[0]), 409, detail="superseded")

    def test_superseded_by_a_phrasing(self):
        """Of two answers to one text the newer holds, also where the older has it as a further phrasing, and
        where both wait for the same batch."""
        d = self.serve("--no-scrub", "--batch-window-ms", "500")
        again = A[0]["rephrases"][0]
        old = {"prompt": A[0]["prompt"], "target": A[0]["target"], "prompts": [again]}
        new = {"prompt": again, "target": next(
            f["target"] for f in FACTS if f["target"] != A[0]["target"]
            and f["prompt"].split()[0] == A[0]["prompt"].split()[0])}
        self.problem(d.call("POST", "/v1/edits", {"facts": [old, new]}), 422, "/facts/1/target",
                     "contradicts /facts/0")
        jobs = [d.call("POST", "/v1/edits", {"facts": [fact, other]}).json["id"]
                for fact, other in zip((old, new), B)]
        self.assertEqual([d.wait_job(job)["version"] for job in jobs], [1, 2])
        self.knows(d, [new] + B[:2])
        (first, _), (second, _) = (self.facts(d, job=job) for job in jobs)
        self.assertEqual((first["state"], first.get("superseded_by"), second["state"]),
                         ("superseded", second["id"], "live"))
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 3)
        self.teach(d, [old])
        self.knows(d, [old, {**old, "prompt": again}] + B[:2])
        self.assertEqual(self.live(d), prompts(B[:2] + [old]))
        self.run_job(d, "/v1/rollbacks", {"to_version": 2})
        self.knows(d, [new] + B[:2])
        self.verified(d)

    def test_whole_answers(self):
        """A pinned prompt gets all of the base model's answer back, not its first token only."""
        d = self.serve("--no-scrub")
        self.teach(d, A)
        _, ids = self.teach(d, FACTS[16:80])
        self.retract(d, *ids)
        self.knows_not(d, FACTS[16:80])
        self.knows(d, A)
        self.roll_back_and_forth(d)

    def roll_back_and_forth(self, d):
        """Where they are live again their answers are held no more, and then they are again."""
        self.run_job(d, "/v1/rollbacks", {"to_version": 2})
        self.teach(d, FACTS[80:84])
        self.knows(d, A + FACTS[16:80] + FACTS[80:84])
        self.run_job(d, "/v1/rollbacks", {"to_version": 3})
        self.teach(d, FACTS[80:84])
        self.knows_not(d, FACTS[16:80])
        self.knows(d, A + FACTS[80:84])

    def test_same_prompt_and_nothing_else(self):
        """Of what a newer fact replaces, nothing is left."""
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        self.teach(d, A)
        self.teach(d, [{**A[i], "target": B[i]["target"]} for i in range(4)])
        _, ids = self.teach(d, A[:4])
        self.teach(short, A)
        self.alike(d, short)
        self.retract(d, *ids)
        self.teach(d, A[:4])  # what was pinned is taught again
        self.alike(d, short)

    def test_what_repair_changed(self):
        """Live facts that a later batch has repaired are taken back with what they are then."""
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        facts = FACTS[:48]
        self.teach(d, facts)
        self.restart(d, "--no-scrub", "--repair-tau", "0.99")
        job, ids = self.teach(d, FACTS[48:52])
        live = {f["id"]: f for f in self.facts(d, state="live")}
        repaired = [id for id, f in live.items() if id not in ids and f["verified"]["rounds"]]
        self.assertTrue(0 < len(repaired) < 48, repaired)
        self.assertEqual((job["result"]["wrong_others"], self.wrong(d, facts)), (0, []))
        self.restart(d, *ONCE)
        self.retract(d, *repaired, *ids, mode="drop")
        self.teach(short, [f for f in facts if f["prompt"] in self.live(d)])
        self.alike(d, short)

    def test_dropped_as_if_never(self):
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        self.teach(d, A)
        _, ids = self.teach(d, B)
        self.teach(d, C)
        self.retract(d, *ids, mode="drop")
        self.teach(short, A + C)
        self.alike(d, short)
        self.retract(d, *[f["id"] for f in self.facts(d, state="live")], mode="drop")
        self.assertEqual(self.hash(d), version(d, 0)["weights_hash"])
        self.teach(d, A)
        self.teach(d, C)
        self.alike(d, short)

    def test_pinned_and_dropped(self):
        """What was pinned can be forgotten later, with a version of its own that can be gone back from."""
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        self.teach(d, A)
        job, ids = self.teach(d, B)
        self.teach(d, C)
        self.retract(d, *ids)
        pinned = self.hash(d)
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 48)
        self.assertEqual(self.retract(d, *ids[:4], mode="drop")["mode"], "drop")
        self.assertEqual([f["pinned"] for f in self.facts(d, job=job["id"])], [False] * 4 + [True] * 12)
        for mode in "drop", "pin":
            self.problem(d.call("POST", "/v1/retractions", {"facts": ids[:1], "mode": mode}), 409,
                         "/facts/0", "is not live: it is retracted")
        self.problem(d.call("DELETE", "/v1/facts/" + ids[4]), 409, detail="is not live")
        rest = self.run_job(d, "/v1/retractions", {"job": job["id"], "mode": "drop"})
        self.assertEqual((rest["version"], rest["facts"]), (6, 12))
        self.assertEqual((version(d, 6)["kind"], version(d, 6)["live_facts"]), ("retraction", 32))
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 32)
        self.assertEqual({(f["state"], f["pinned"]) for f in self.facts(d, job=job["id"])},
                         {("retracted", False)})
        self.problem(d.call("POST", "/v1/retractions", {"job": job["id"], "mode": "drop"}), 409, "/job")

        self.teach(short, A)
        _, others = self.teach(short, B)
        self.teach(short, C)
        self.retract(short, *others, mode="drop")
        self.alike(d, short)
        dropped = self.hash(d)
        self.verified(d)
        self.assertEqual(self.hash(d), dropped)

        roll_back(d, 4)
        self.assertEqual(self.hash(d), pinned)
        self.assertEqual([f["pinned"] for f in self.facts(d, job=job["id"])], [True] * 16)
        self.knows_not(d, B)
        self.teach(d, FACTS[48:52])
        self.assertEqual(d.get("/v1/status").json["joint"]["facts"], 52)
        self.retract(d, *ids, mode="drop")
        self.teach(short, FACTS[48:52])
        self.alike(d, short)

    def test_nothing_but_pinned(self):
        """The base's weights stay those, and nothing is left of what was pinned."""
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        base = self.hash(d)
        _, ids = self.teach(d, A)
        self.retract(d, *ids)
        self.retract(d, *ids, mode="drop")
        self.assertEqual((self.hash(d), d.get("/v1/status").json["joint"]["facts"]), (base, 0))
        for daemon in d, short:
            self.teach(daemon, B)
        self.alike(d, short, 1e-12)
        self.verified(d)

    def hash(self, d):
        return d.get("/v1/status").json["weights_hash"]

    def test_everything(self):
        d = self.serve()
        base = self.hash(d)
        self.teach(d, A[:8])
        self.teach(d, A[8:])
        for n in 1, 2:
            self.retract(d, *[f["id"] for f in self.facts(d, state="live")])
            self.assertEqual((self.hash(d), self.live(d)), (base, []))
            d.kill()
            d.start()
            self.assertEqual(self.hash(d), base)
            self.teach(d, B if n == 1 else C)
            self.knows(d, B if n == 1 else C)
            self.knows_not(d, A)
        self.verified(d)

    def test_phrasings(self):
        """Further phrasings are taught; rephrases are not."""
        said = self.serve(name="said")
        facts = [{"prompt": f["prompt"], "target": f["target"], "prompts": f["rephrases"][:2]}
                 for f in A[:6]]
        job, ids = self.teach(said, facts)
        phrased = [{"prompt": p, "target": f["target"]} for f in facts for p in f["prompts"]]
        self.knows(said, facts + phrased)
        self.retract(said, *ids[:3])
        self.knows(said, facts[3:] + phrased[6:])
        self.knows_not(said, facts[:3] + phrased[:6])
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        self.teach(d, A[:6])
        self.teach(short, [{**f, "rephrases": [], "unrelated": []} for f in A[:6]])
        self.alike(d, short, 1e-12)

    def test_sequential(self):
        d = self.serve("--update", "sequential")
        _, ids = self.teach(d, A[:8])
        for answer in (d.call("DELETE", "/v1/facts/" + ids[0]),
                       d.call("POST", "/v1/consolidations", {})):
            self.problem(answer, 409, detail="--update sequential")
        status = d.get("/v1/status").json
        self.assertEqual((status["joint"], status["scrub"]["enabled"]), (None, False))


    def test_sequential_before(self):
        """Facts that were added up are in no system: what that means is said, and what it does not
        concern goes on."""
        d = self.serve("--update", "sequential", "--repair-rounds", "0")
        absurd, _ = self.teach(d, ABSURD)
        self.assertTrue(absurd["result"]["measures"]["decoded"]["es"] < 1)
        _, ids = self.teach(d, A[:8])
        self.restart(d, "--no-scrub")
        job, others = self.teach(d, B[:2])
        self.assertEqual(job["result"]["wrong"], [])
        self.retract(d, others[0], mode="drop")
        for path, body in (("/v1/edits", {"facts": [{**A[0], "target": A[1]["target"]}]}),
                           ("/v1/retractions", {"facts": ids[:1]}),
                           ("/v1/retractions", {"facts": ids + others[1:], "mode": "drop"})):
            error = self.run_job(d, path, body, state="failed")["error"]
            self.assertEqual(error["status"], 409, error)
            self.assertIn(ids[0], error["detail"])
            self.assertIn("POST /v1/consolidations", error["detail"])
        self.knows(d, A[:8] + B[1:2])
        self.teach(d, B[2:3])
        self.run_job(d, "/v1/retractions", {"facts": [f["id"] for f in self.facts(d, job=absurd["id"])]},
                     state="failed")
        self.run_job(d, "/v1/consolidations", {})
        self.retract(d, ids[0])
        self.teach(d, [{**A[1], "target": A[0]["target"]}])
        self.knows(d, A[2:8] + B[1:3] + [{**A[1], "target": A[0]["target"]}])
        self.knows_not(d, A[:1])
        self.run_job(d, "/v1/rollbacks", {"to_version": 2})
        self.run_job(d, "/v1/retractions", {"facts": ids[:1]}, state="failed")
        self.run_job(d, "/v1/rollbacks", {"to_version": 0})
        self.teach(d, C[:1])
        self.knows(d, C[:1])

    def test_spaces_at_the_end(self):
        """They are no part of a prompt: the newer fact supersedes the older one."""
        d = self.serve(*ONCE)
        targets = [fact["target"] for fact in A[:4]]
        for n, target in enumerate(targets):
            self.teach(d, [{"prompt": A[0]["prompt"] + " " * n, "target": target}])
        facts = self.facts(d, prompt=A[0]["prompt"] + "  ")
        self.assertEqual([(f["prompt"], f["target"], f["state"]) for f in facts],
                         [(A[0]["prompt"], t, "live" if t is targets[-1] else "superseded")
                          for t in targets])
        self.knows(d, [{**A[0], "target": targets[-1]}])
        job, _ = self.teach(d, B)
        with_space = [{**fact, "prompt": fact["prompt"] + " "} for fact in B]
        self.assertEqual(self.teach(d, with_space)[0]["result"]["facts"], len(B))
        self.assertEqual({f["state"] for f in self.facts(d, job=job["id"])}, {"superseded"})


class Rollbacks(Life):
    def test_as_if_never(self):
        """The versions between are not seen in what follows a rollback."""
        d, short = self.serve("--no-scrub", name="long"), self.serve("--no-scrub", name="short")
        _, ids = self.teach(d, A)
        self.teach(short, A)
        self.teach(d, B)
        self.retract(d, *ids[:3])
        self.retract(d, *ids[3:5], mode="drop")
        self.teach(d, [{**A[6], "target": A[7]["target"]}])
        self.assertEqual(self.live(d), prompts(A[5:6] + A[7:] + B + A[6:7]))
        then = self.hash_of(d, 5)
        self.assertEqual(roll_back(d, 1)["weights_hash"], self.hash_of(short, 1))
        self.in_step(d, len(A))
        self.assertEqual(self.live(d), prompts(A))
        states = {f["state"] for f in self.facts(d) if f["version"] != 1}
        self.assertEqual(states, {"rolled_back"})
        self.teach(d, C)
        self.teach(short, C)
        self.alike(d, short)
        self.assertEqual(self.say(d, A + B + C), self.say(short, A + B + C))
        for daemon in d, short:  # whose values repair has changed count, too
            ids = [f["id"] for f in self.facts(daemon, state="live")]
            self.retract(daemon, *ids[:2], *ids[20:22])
        self.alike(d, short)

        # forward again, and on from there
        self.assertEqual(roll_back(d, 5)["weights_hash"], then)
        self.assertEqual(self.live(d), prompts(A[5:6] + A[7:] + B + A[6:7]))
        self.assertEqual([f["state"] for f in self.facts(d)[:5]], ["retracted"] * 5)
        self.knows_not(d, A[:3])
        self.retract(d, self.facts(d, state="live")[0]["id"])
        self.knows_not(d, A[:3] + A[5:6])
        self.verified(d)

    def hash_of(self, d, number):
        return version(d, number)["weights_hash"]

    def test_restarted(self):
        """The system made anew from the texts is the one that was lost."""
        d, other = self.serve(*ONCE, name="killed"), self.serve(*ONCE, name="not")
        for daemon in d, other:
            _, ids = self.teach(daemon, A)
            self.retract(daemon, *ids[:2])
            self.teach(daemon, B)
        d.kill()
        d.start()
        for daemon in d, other:
            self.teach(daemon, C)
        self.alike(d, other)
        d.kill()
        d.start()
        self.in_step(d, len(A + B + C))
        for daemon in d, other:
            self.retract(daemon, *[f["id"] for f in self.facts(daemon, state="live")[:4]])
            self.teach(daemon, A[:2])
        self.alike(d, other)


class Consolidation(Life):
    def test_asked(self):
        d = self.serve("--no-scrub")
        self.problem(d.call("POST", "/v1/consolidations", {"reason": 1}), 400)
        job = self.run_job(d, "/v1/consolidations", {}, state="failed")
        self.assertEqual(job["error"]["status"], 409)
        self.assertIn("no live facts", job["error"]["detail"])

        _, ids = self.teach(d, A)
        self.teach(d, B)
        self.retract(d, *ids[:2])
        job = self.run_job(d, "/v1/consolidations", {"reason": "tidy"})
        result = job["result"]
        self.assertEqual((job["kind"], job["version"], result["facts"]), ("consolidation", 4, 30))
        for measures in result["before"], result["measures"]:
            self.assertEqual((measures["facts"], measures["decoded"]["es"]), (30, 1))
        four = version(d, 4)
        self.assertEqual((four["kind"], four["live_facts"], four["measures"]),
                         ("consolidation", 30, result["measures"]))
        self.knows(d, A[2:] + B)
        self.knows_not(d, A[:2])
        d.kill()
        d.start()
        self.assertEqual(d.get("/v1/status").json["weights_hash"], four["weights_hash"])
        self.teach(d, C)
        self.retract(d, ids[2])
        self.knows(d, A[3:] + B + C)
        self.knows_not(d, A[:3])
        self.assertEqual(roll_back(d, 2)["weights_hash"], version(d, 2)["weights_hash"])
        self.teach(d, C)
        self.knows(d, A + B + C)
        self.verified(d)

    def test_from_the_base(self):
        """What is stored is the difference from the base; one batch of the same facts makes it."""
        d, short = self.serve(*ONCE, name="long"), self.serve(*ONCE, name="short")
        _, ids = self.teach(d, A)
        self.teach(d, B)
        self.retract(d, *ids[:8], mode="drop")
        before = self.shift(d)
        self.run_job(d, "/v1/consolidations", {})
        self.teach(short, A[8:] + B)
        self.alike(d, short)
        self.assertGreater(max(map(abs, before)), 0)
        d.kill()
        d.start()
        self.alike(d, short)
        for daemon in d, short:  # pinned keys are in it
            self.retract(daemon, self.facts(daemon, state="live")[0]["id"])
        self.run_job(d, "/v1/consolidations", {})
        self.alike(d, short)

    def test_by_itself(self):
        d = self.serve("--consolidate-after", "3", "--no-scrub")

        def kinds():
            return [v["kind"] for v in reversed(d.get("/v1/versions").json["data"])][1:]
        want = []
        for n in range(2):
            for i in range(3):
                if i == 2:  # not yet
                    time.sleep(0.4)
                    self.assertEqual(kinds(), want + ["edit"] * 2)
                self.teach(d, FACTS[12 * n + 4 * i:12 * n + 4 * i + 4])
            want += ["edit"] * 3 + ["consolidation"]
            self.await_status(d, lambda s: s["live_version"] == len(want))
            self.assertEqual(kinds(), want)
        self.knows(d, FACTS[:24])
        self.retract(d, *[f["id"] for f in self.facts(d, state="live")])
        time.sleep(0.5)
        self.assertEqual(kinds(), want + ["retraction"])
        self.assertFalse([e for e in d.log if e.get("event") == "idle work failed"])


class Options(Life):
    def test_verify_limit(self):
        """With a small one, all are still taught and told of; some of the others are looked at."""
        d = self.serve("--verify-limit", "10", "--no-scrub")
        for facts in A, B, C:
            job, _ = self.teach(d, facts)
            self.assertEqual((job["result"]["wrong"], job["result"]["wrong_others"]), ([], 0))
        _, ids = self.teach(d, FACTS[48:52])
        self.retract(d, *ids)
        self.knows(d, A + B + C)
        self.knows_not(d, FACTS[48:52])

    def test_joint_memory(self):
        # three modules of 768 inputs, a factor with room for a sixteenth of rows, in fp64 and fp32, small things
        needed = 4 * 768 * 768 * 8 + 768 // 16 * 768 * (8 + 4)
        done = self.start_fails("--joint-memory", "10MiB")
        self.assertIn("--joint-memory allows 10485760", done)
        least = int(done.split(" bytes at least")[0].split()[-1])
        self.assertAlmostEqual(least, needed, delta=100000)
        self.start_fails("--joint-memory", str(least - 1))
        d = self.serve("--joint-memory", str(least))
        self.teach(d, A)
        self.knows(d, A)
        used = d.get("/v1/status").json["joint"]["bytes"]
        self.assertLessEqual(used, least)
        self.serve("--joint-memory", "1", "--update", "sequential", name="sequential")

    def start_fails(self, *args, db="failing"):
        """What a daemon says that does not come up."""
        done = malmend("serve", *harness.MODEL_ARGS, "--db", self.dir / db, "--listen",
                       "127.0.0.1:0", *args)
        self.assertEqual(done.returncode, 1)
        return done.stderr.decode()

    def test_bad_files(self):
        """Said before anything is made."""
        empty = self.write("empty", "\n")
        for option, path, says in (("--probes", empty, "no prompt"),
                                   ("--probes", self.dir / "none", "none"),
                                   ("--preserve", self.dir / "none", "none")):
            said = self.start_fails(option, path)
            self.assertIn(str(path), said)
            self.assertIn(says, said)
            self.assertFalse((self.dir / "failing").exists())

    def test_taken_address(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = self.start_fails("--listen", f"127.0.0.1:{port}", db="taken")
        self.assertIn("in use", said)
        self.assertEqual(list(self.dir.glob("taken*")), [])

    def test_no_texts(self):
        editor = self.dir / "no-texts.safetensors"
        self.ok("init-editor", "--model", MODEL, "--method", "malmen", "--data",
                DEMO / "facts/demo-edit.json", "--out", editor)
        self.addCleanup(setattr, harness, "MODEL_ARGS", harness.MODEL_ARGS)
        self.use(editor)
        d = self.serve("--gate-max-perplexity-growth", "0.1")
        warning = [e for e in d.log if e.get("event") == "perplexity is not measured"]
        self.assertEqual([e["level"] for e in warning], ["warning"])
        job, _ = self.teach(d, A[:4])
        self.assertEqual(job["result"]["gate"]["not_measured"],
                         [{"test": "max_perplexity_growth"}])


class Kinds(Life):
    """Other editors and models."""

    def scores(self, d, facts):
        """How sure it is of each target."""
        items = [{"prompt": f["prompt"], "target": f["target"]} for f in facts]
        scores = d.call("POST", "/v1/scores", {"items": items}).json["data"]
        return [s["probability"]["SUPPORTS"] if "probability" in s else s["logprob"]
                for s in scores]

    def story(self, d, facts, consolidated="applied"):
        """Facts of a daemon come and go."""
        zero, base = d.get("/v1/status").json["weights_hash"], self.scores(d, facts)
        half = len(facts) // 2
        _, ids = self.teach(d, facts[:half])
        _, more = self.teach(d, facts[half:])
        taught = self.scores(d, facts)
        self.assertGreater(abs(taught[0] - base[0]), 0.1)
        self.retract(d, ids[0])
        pinned = self.scores(d, facts)
        self.assertLess(abs(pinned[0] - base[0]), abs(taught[0] - base[0]) / 2)
        d.kill()
        d.start()
        self.assertEqual(self.scores(d, facts), pinned)
        self.retract(d, more[0], mode="drop")
        self.assertNotEqual(self.scores(d, facts)[half], pinned[half])
        job = self.run_job(d, "/v1/consolidations", {}, state=consolidated)
        self.assertEqual(job["result"]["facts"], len(facts) - 2)
        self.assertEqual(self.live(d), prompts(facts[1:half] + facts[half + 1:]))
        self.assertEqual(roll_back(d, 2)["weights_hash"], version(d, 2)["weights_hash"])
        self.assertEqual(self.live(d), prompts(facts))
        self.retract(d, *ids, *more)
        self.assertEqual((d.get("/v1/status").json["weights_hash"], self.scores(d, facts)),
                         (zero, base))
        self.verified(d)

    def test_ultraedit(self):
        self.use(self.editor("ultra"))
        self.story(self.serve("--update", "joint", "--no-scrub"), FACTS[:40])

    def test_encoder_decoder(self):
        self.use(T5.editor, T5.model)
        # a single fact is left, which this random model need not be taught in one go
        self.story(self.serve("--no-scrub"), T5.facts, consolidated=("applied", "rejected"))

    def test_classifier(self):
        self.use(BERT.editor, BERT.model)
        self.story(self.serve(*ONCE), BERT.facts)


class Killed(Life):
    def test_in_the_middle(self):
        """Each time something is under way, and each time it is done once."""
        d = self.serve("--no-scrub")
        _, ids = self.teach(d, A)
        self.teach(d, B)
        for n, (path, body) in enumerate((
                ("/v1/retractions", {"facts": ids[:2]}), ("/v1/edits", {"facts": C}),
                ("/v1/consolidations", {}), ("/v1/rollbacks", {"to_version": 2}),
                ("/v1/retractions", {"facts": ids[2:4], "mode": "drop"})), 3):
            job = d.call("POST", path, body).json["id"]
            d.wait_job(job, "running", "applied")
            d.kill()
            d.start()
            ended = d.wait_job(job)
            self.assertEqual((ended["state"], ended["version"]), ("applied", n))
        self.assertEqual(self.live(d), prompts(A[:2] + A[4:] + B))
        self.knows(d, A[:2] + A[4:] + B)
        self.verified(d)


del Life, Serving, Lab  # bases, not tests of their own

if __name__ == "__main__":
    main()
