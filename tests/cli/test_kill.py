"""kill -9 at random moments of real edits: what was answered 202 is applied exactly once."""
import http.client
import os
import random
import threading
import time

import harness
from golden import T5
from harness import Daemon, main, wait_until
from lab import MODEL, Lab, demo_facts

ROUNDS = int(os.environ.get("MALMEND_ROUNDS", "15"))
SEED = int(os.environ.get("MALMEND_SEED", "1"))


class Kill(Lab):
    def ask(self, d, rng):
        if rng.random() < 0.2:
            live = d.get("/v1/status").json["live_version"] or 0
            return d.call("POST", "/v1/rollbacks", {"to_version": rng.randint(0, live)})
        # a lone token, if it is the first, has no variance to be normalised by
        return d.edit(*rng.sample(self.facts, rng.choice([2, 3, 20])))

    def post(self, d, rng, killed):
        """Posts edits, and now and then a rollback, until the daemon is gone."""
        while not killed.is_set():
            try:
                answer = self.ask(d, rng)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if not killed.is_set():
                    self.problems.append(repr(error))
                return
            if answer.status == 202:
                self.accepted.append(answer.json["id"])
            elif answer.status != 503:  # 503: it is loading
                self.problems.append(answer.body)
            killed.wait(rng.uniform(0, 0.05))

    def listed(self, d, path):
        rows, after = [], {}
        while True:
            page = d.get(path, limit=100, **after).json
            rows += page["data"]
            if not page["has_more"]:
                return rows
            after = {"after": page["last_id"]}

    def check(self, d):
        versions = self.listed(d, "/v1/versions")[::-1]
        self.assertEqual([v["version"] for v in versions], list(range(len(versions))))
        self.assertEqual([v["parent"] for v in versions[1:]], list(range(len(versions) - 1)))
        made = [job for v in versions for job in v["jobs"]]
        self.assertEqual(len(made), len(set(made)), "applied twice")
        self.assertEqual(set(self.accepted) - set(made), set(), "answered 202 and not applied")

        prompts, live = {}, [set()]
        for fact in self.listed(d, "/v1/facts"):
            prompts.setdefault(fact["job"], set()).add(fact["prompt"])
        for v in versions[1:]:
            if v["kind"] == "rollback":
                to = d.get(f"/v1/jobs/{v['jobs'][0]}").json["to_version"]
                self.assertEqual(v["weights_hash"], versions[to]["weights_hash"])
                live.append(live[to])
            else:
                live.append(live[-1].union(*(prompts[job] for job in v["jobs"])))
            self.assertEqual(v["live_facts"], len(live[-1]), v["version"])
        return versions

    def test_rounds(self):
        self.rounds(ROUNDS, MODEL, self.editor(), demo_facts("train.ndjson", 60))

    def test_encoder_decoder(self):
        """Modules of both stacks."""
        facts = [{"prompt": f"{fact['prompt']} {i}", "target": fact["target"]}
                 for i in range(20) for fact in T5.facts]
        self.rounds(ROUNDS // 3, T5.model, T5.editor, facts)

    def rounds(self, n, model, editor, facts):
        rng = random.Random(SEED)
        print(f"# seed {SEED}")
        self.facts = facts
        harness.MODEL_ARGS = ["--model", str(model), "--editor", str(editor)]
        self.accepted, self.problems = [], []
        directory = self.dir / self._testMethodName
        directory.mkdir()
        d = Daemon("--batch-window-ms", "5", directory=str(directory))
        for number in range(n):
            killed, before = threading.Event(), len(self.accepted)
            clients = [threading.Thread(target=self.post, args=(
                d, random.Random(rng.random()), killed)) for _ in range(2)]
            for client in clients:
                client.start()
            if number % 2:  # on a slow machine the other kills may all come before an answer
                wait_until(lambda: len(self.accepted) > before or self.problems)
            time.sleep(rng.uniform(0.02, 0.4))
            killed.set()  # a moment before: nobody finds it gone who cannot know why
            d.kill()
            for client in clients:
                client.join()
            d.start(ready=rng.random() < 0.7)  # or the next kill may meet the recovery
        d.wait_log("ready")
        self.assertEqual(self.problems, [])
        for id in self.accepted:
            job = d.wait_job(id)
            self.assertEqual(job["state"], "applied", job)
        for job in d.get("/v1/jobs", limit=100).json["data"]:
            d.wait_job(job["id"])  # a kill may take the answer of one that is durable
        versions = self.check(d)
        self.assertGreaterEqual(len(self.accepted), n // 2)
        status = d.get("/v1/status").json
        self.assertEqual(status["weights_hash"], versions[-1]["weights_hash"])
        d.close()
        report = self.json("verify", "--db", directory / "db", "--model", model)
        self.assertEqual(report["versions"], len(versions))
        self.assertEqual(report["chain_hash"], versions[-1]["chain_hash"])
        print(f"# {n} kills, {len(self.accepted)} jobs answered 202, {len(versions)} versions")


if __name__ == "__main__":
    main()
