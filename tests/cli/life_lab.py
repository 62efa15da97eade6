"""What tests of the life of facts share: facts of the demo's world, a daemon they are taught to, and what
it must say then."""
import harness
from harness import wait_until
from lab import DEMO, demo_facts, read_floats, read_safetensors
from test_serve import Serving

FACTS = demo_facts("heldout.ndjson", 200)
A, B, C = FACTS[:16], FACTS[16:32], FACTS[32:48]
# Answers that one pass does not teach.
ABSURD = [{**fact, "target": f"zq xv{i} xv{i} xv{i} xv{i} xv{i} @"}
          for i, fact in enumerate(FACTS[190:193])]
ONCE = ("--repair-rounds", "0", "--no-scrub")  # what is computed depends on nothing else


def prompts(facts):
    return [fact["prompt"] for fact in facts]


class Life(Serving):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.use(DEMO / "editor.safetensors")
        # its texts take seconds to measure; those who want them say so
        harness.MODEL_ARGS += ["--preserve-weight", "0"]

    problem = harness.Case.problem

    def run_job(self, d, path, body=None, method="POST", state="applied", **query):
        answer = d.call(method, path, body, query=query)
        self.assertEqual(answer.status, 202, answer.body)
        job = d.wait_job(answer.json["id"])
        self.assertIn(job["state"], (state,) if isinstance(state, str) else state, job)
        return job

    def teach(self, d, facts, state="applied", **gate):
        """The job, and the facts' ids."""
        body = {"facts": facts, "gate": gate} if gate else {"facts": facts}
        job = self.run_job(d, "/v1/edits", body, state=state)
        return job, [f["id"] for f in d.get("/v1/facts", job=job["id"], limit=100).json["data"]]

    def retract(self, d, *facts, state="applied", **more):
        return self.run_job(d, "/v1/retractions", {"facts": list(facts), **more}, state=state)

    def live(self, d):
        """Prompts of the live facts, in their order."""
        return prompts(self.facts(d, state="live"))

    def facts(self, d, **query):
        page = d.get("/v1/facts", limit=100, **query).json
        self.assertFalse(page["has_more"])
        return page["data"]

    def say(self, d, facts, model="live"):
        answer = d.complete(prompts(facts), model=model, max_tokens=12, stop=["."])
        self.assertEqual(answer.status, 200, answer.body)
        return [c["text"].strip() for c in sorted(answer.json["choices"], key=lambda c: c["index"])]

    def knows(self, d, facts):
        self.assertEqual(self.wrong(d, facts), [])

    def wrong(self, d, facts):
        """What it says instead of the targets."""
        return [said for said, fact in zip(self.say(d, facts), facts, strict=True)
                if not said.startswith(fact["target"])]

    def knows_not(self, d, facts):
        self.assertEqual(self.say(d, facts), self.say(d, facts, "base"))

    def shift(self, d):
        """What the live weights differ from the base by."""
        number = d.get("/v1/status").json["live_version"]
        path = self.dir / "shift"
        path.write_bytes(d.get(f"/v1/versions/{number}/delta").body)
        _, tensors = read_safetensors(path)
        return [x for name in sorted(tensors) for x in read_floats(tensors[name])]

    def alike(self, one, other, share=2e-4):
        """The shifts of two daemons, to rounding."""
        a, b = self.shift(one), self.shift(other)
        largest = max(map(abs, a))
        self.assertGreater(largest, 0)
        self.assertLess(max(abs(x - y) for x, y in zip(a, b, strict=True)), share * largest)

    def restart(self, d, *args):
        d.kill()
        d.args = args
        d.start()

    def verified(self, d):
        d.kill()
        report = self.json("verify", "--db", d.db, "--model", harness.MODEL_ARGS[1])
        d.start()
        self.assertEqual(report["versions"], d.get("/v1/status").json["counts"]["versions"])

    def in_step(self, d, n):
        """An idle daemon brings its system, of n facts, to the live version."""
        joint = self.await_status(d, lambda s: not s["joint"]["stale"])["joint"]
        self.assertEqual(joint["facts"], n)

    def await_status(self, d, done):
        """The status once it says what is waited for."""
        def look():
            status = d.get("/v1/status").json
            return status if done(status) else None
        return wait_until(look)
