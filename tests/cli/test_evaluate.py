"""POST /v1/evaluations on the real daemon: its measures are those of the edit that made the version,
of `malmend eval` and of `malmend edit`, whichever way the version came about and wherever it is."""
import json

import harness
from golden import BERT, T5, Golden
from harness import main
from lab import DEMO, MODEL, demo_facts
from test_serve import ONE_PASS, Serving, roll_back, version

FACTS = demo_facts("heldout.ndjson", 64)
A, B, C = FACTS[:12], FACTS[12:24], FACTS[24:32]
MEASURES = {"facts", "teacher_forced", "decoded", "agreement"}


class Evaluating(Serving):
    problem = harness.Case.problem

    def post(self, d, facts=None, **more):
        body = {"facts": facts, **more} if facts else more
        answer = d.call("POST", "/v1/evaluations", body)
        self.assertEqual(answer.status, 202, answer.body)
        return answer.json["id"]

    def ended(self, d, job):
        """Which version was measured, and the measures."""
        job = d.wait_job(job)
        self.assertEqual(job["state"], "done", job)
        result = job["result"]
        self.assertEqual(set(result) - {"suite"}, MEASURES | {"version"})
        return result["version"], {key: result[key] for key in MEASURES}

    def measure(self, d, facts=None, **more):
        return self.ended(d, self.post(d, facts, **more))[1]

    def lines(self, name, facts):
        return self.write(name, "".join(json.dumps(fact) + "\n" for fact in facts))

    def untouched(self, d, status):
        now = d.get("/v1/status").json
        for key in "live_version", "weights_hash", "evaluation", "joint":
            self.assertEqual(now[key], status[key], key)


class Joint(Evaluating):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.use(DEMO / "editor.safetensors")
        harness.MODEL_ARGS += ["--preserve-weight", "0"]

    def test_as_the_job_measured(self):
        """Of every kind of version: in memory, then replayed, then after a kill."""
        suites = self.dir / "suites"
        suites.mkdir()
        self.lines("suites/towns.ndjson", B)
        probes = self.write("probes", [f["prompt"] for f in FACTS[40:48]])
        d = self.serve("--keep-versions", "0", "--no-scrub", "--keyframe-every", "3", "--probes",
                       probes, "--suites", suites)
        jobs = [d.apply(*facts) for facts in (A, B, C)]
        last = d.get("/v1/facts", job=jobs[2]["id"], limit=100).json["data"]
        retracted = d.call("DELETE", "/v1/facts/" + last[0]["id"]).json["id"]
        self.assertEqual(d.wait_job(retracted)["version"], 4)
        solved = d.wait_job(d.call("POST", "/v1/consolidations", {}).json["id"])
        self.assertEqual(solved["version"], 5)
        self.assertEqual(roll_back(d, 2)["version"], 6)
        status = d.get("/v1/status").json

        def check():
            self.assertEqual([v["in_memory"] for v in d.get("/v1/versions").json["data"]],
                             [True] + 5 * [False] + [True])
            for number, (job, facts) in enumerate(zip(jobs, (A, B, C)), 1):
                got = self.measure(d, facts, version=number)
                self.assertEqual(got, job["result"]["measures"], number)
                self.assertEqual(got, version(d, number)["measures"])
            solved_facts = A + B + C[1:]
            self.assertEqual(self.measure(d, solved_facts, version=5), solved["result"]["measures"])
            self.assertEqual(self.measure(d, solved_facts, version=4), solved["result"]["before"])
            two = self.measure(d, A, version=2)
            self.assertEqual(self.ended(d, self.post(d, A)), (6, two), "rolled back to it")
            self.assertEqual(self.measure(d, suite="towns"), jobs[1]["result"]["measures"])
            return two, self.measure(d, A, version=0)
        first = check()
        self.untouched(d, status)
        d.kill()
        d.start()
        self.assertEqual(check(), first)
        base = first[1]
        self.assertEqual((base["agreement"], base["decoded"]["es"]), (1, 0))
        self.assertLess(version(d, 1)["measures"]["agreement"], 1)

    def test_while_others_are_edited(self):
        """What is measured stays as it was when it began; what is live and said moves on."""
        d = self.serve("--keep-versions", "0", "--no-scrub", "--batch-window-ms", "0")
        d.apply(*A)
        facts = A + demo_facts("train.ndjson", 120)
        alone = self.measure(d, facts, version=1), self.measure(d, facts, version=0)
        jobs = [self.post(d, facts), self.post(d, facts, version=0)]
        d.wait_job(jobs[0], "running", "done")
        said = [d.complete(A[0]["prompt"], max_tokens=8, model=model).json["choices"][0]["text"]
                for model in ("live", "base")]
        for n, batch in enumerate((B, C, FACTS[32:36]), 2):
            self.assertEqual(d.apply(*batch)["version"], n)
            answer = d.complete(A[0]["prompt"], max_tokens=8, model="base").json
            self.assertEqual(answer["choices"][0]["text"], said[1])
        self.assertTrue(said[0].strip().startswith(A[0]["target"]), said)
        self.assertEqual([self.ended(d, job) for job in jobs], [(1, alone[0]), (0, alone[1])])
        self.assertNotEqual(alone[0], alone[1])
        self.assertEqual(d.get("/v1/status").json["live_version"], 4)
        d.kill()
        report = self.json("verify", "--db", d.db, "--model", MODEL)
        self.assertEqual(report["versions"], 5)
        d.start()

    def test_first_batch_makes_the_editor(self):
        """There is none yet when the evaluation begins."""
        harness.MODEL_ARGS, saved = ["--model", str(MODEL)], harness.MODEL_ARGS
        self.addCleanup(setattr, harness, "MODEL_ARGS", saved)
        d = self.serve("--no-scrub")
        job = self.post(d, A + demo_facts("train.ndjson", 60))
        measured = d.apply(*A)["result"]["measures"]
        self.assertEqual(self.ended(d, job)[0], 0)
        self.assertEqual(self.measure(d, A), measured)

    def test_refused(self):
        d = self.serve("--no-scrub")
        long = {"prompt": "a " * 400, "target": "x"}
        self.problem(d.call("POST", "/v1/evaluations", {"facts": [A[0], long]}), 422,
                     "/facts/1/prompt")
        probe = {**A[1], "unrelated": [{"prompt": "x"}, {"prompt": "a " * 400}]}
        self.problem(d.call("POST", "/v1/evaluations", {"facts": [A[0], probe]}), 422,
                     "/facts/1/unrelated/1/prompt")
        self.problem(d.call("POST", "/v1/evaluations", {"facts": A, "version": 1}), 422, "/version")


class AsTheCommands(Evaluating):
    def test_stream(self):
        """Batches one after the other, as `malmend eval` and `malmend edit` measure them."""
        args = ["--model", MODEL, "--editor", harness.MODEL_ARGS[3], "--repair-rounds", 0]
        report = self.json("eval", *args, "--data", self.lines("data.ndjson", A + B), "--n-edits",
                           len(A))
        once = self.json("edit", *args, "--facts", self.lines("facts.ndjson", A), "--verify")
        d = self.serve(*ONE_PASS, "--keep-versions", "0")
        jobs = [d.apply(*facts) for facts in (A, B)]
        d.kill()
        d.start()
        self.assertEqual(self.measure(d, A + B, version=0), report["before"])
        for n, facts in enumerate((A, B)):
            got = self.measure(d, facts, version=n + 1)
            self.assertEqual(got, jobs[n]["result"]["measures"])
            self.assertEqual(got, report["batches"][n]["measures"])
            self.assertEqual(self.measure(d, (A + B)[:len(A) * (n + 1)], version=n + 1),
                             report["retention"][n]["measures"])
        for number, when in ((0, "before"), (1, "after")):
            got = self.measure(d, A, version=number)
            del got["agreement"]  # which that command does not measure
            self.assertEqual(got, once[when])


class Kinds(Evaluating):
    def check(self, case):
        self.use(case.editor, case.model)
        d = self.serve(*ONE_PASS, "--keep-versions", "0", name=case.dir.name)
        job = d.apply(*case.facts)
        roll_back(d, 0)
        report = self.json("eval", *case.args, "--data", case.path, "--n-edits", len(case.facts),
                           "--repair-rounds", 0)
        for number, when in ((0, "before"), (1, "after"), (2, "before")):
            got = self.measure(d, case.facts, version=number)
            self.assertEqual(got, report[when])
            for key, value in case.measures(when).items():
                self.assertAlmostEqual(got["teacher_forced"][key], value, 6, "PyTorch's")
        self.assertEqual(self.measure(d, case.facts, version=1), job["result"]["measures"])
        return d

    def test_mend(self):
        self.check(Golden("gpt2-mend"))

    def test_encoder_decoder(self):
        self.check(T5)

    def test_fact_checker(self):
        d = self.check(BERT)
        wrong = [BERT.facts[0], {**BERT.facts[1], "target": "Glamdale"}]
        self.problem(d.call("POST", "/v1/evaluations", {"facts": wrong}), 422, "/facts/1/target",
                     "SUPPORTS")


if __name__ == "__main__":
    main()
