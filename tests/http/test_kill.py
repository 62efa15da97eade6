"""kill -9 at random moments: what was answered 202 is there and is applied exactly once."""
import os
import random
import tempfile
import threading
import time
import unittest

import harness
from harness import Daemon, wait_until
from world import fact

ROUNDS = int(os.environ.get("MALMEND_ROUNDS", "20"))
SEED = int(os.environ.get("MALMEND_SEED", "1"))


class Kill(unittest.TestCase):
    def client(self, d, number, accepted, maybe, killed):
        """Posts facts until the daemon is gone, remembering which were answered."""
        i = 0
        while not killed.is_set():
            i += 1
            f = fact(f"{number}-{i}", f"T{number}x{i}")
            key = f"key-{number}-{i}"
            maybe.append((key, f))
            try:
                answer = d.edit(f, headers={"Idempotency-Key": key})
            except Exception as error:
                if not killed.is_set():
                    self.problems.append(repr(error))
                return
            if answer.status == 202:
                accepted.append((answer.json["id"], f, key, answer.body))
            else:
                self.problems.append(answer.body)
            time.sleep(0.002)

    def one_round(self, d, number, accepted, maybe):
        killed = threading.Event()
        clients = [threading.Thread(target=self.client,
                                    args=(d, f"{number}{c}", accepted, maybe, killed))
                   for c in "ab"]
        n = len(accepted)
        for thread in clients:
            thread.start()
        if number % 2:  # on a slow machine the other kills may all come before an answer
            wait_until(lambda: len(accepted) > n or self.problems)
        time.sleep(self.random.uniform(0.02, 0.5))
        killed.set()  # a moment before: nobody finds it gone who cannot know why
        d.kill()
        for thread in clients:
            thread.join()
        d.start()

    def listed(self, d, path):
        rows, after = [], {}
        while True:
            page = d.get(path, limit=100, **after).json
            rows += page["data"]
            if not page["has_more"]:
                return rows
            after = {"after": page["last_id"]}

    def check_audit(self, d, accepted):
        """A row for each job, whether or not its answer came through, and no other."""
        rows = self.listed(d, "/v1/audit")
        jobs = [job["id"] for job in self.listed(d, "/v1/jobs")]
        self.assertEqual(sorted(row["job"] for row in rows), sorted(jobs))
        self.assertLessEqual({job for job, _, _, _ in accepted}, set(jobs))

    def check(self, d, accepted):
        versions = self.listed(d, "/v1/versions")
        versions.reverse()
        self.assertEqual([v["version"] for v in versions], list(range(len(versions))))
        self.assertEqual([v["parent"] for v in versions[1:]],
                         [v["version"] for v in versions[:-1]])
        applied = {}
        for v in versions:
            for job in v["jobs"]:
                self.assertNotIn(job, applied, "applied twice")
                applied[job] = v["version"]
        for job, _, _, _ in accepted:
            self.assertIn(job, applied, "answered 202 and not applied")
        self.assertEqual(sum(v["facts"] for v in versions), versions[-1]["live_facts"])
        return versions

    def test_rounds(self):
        self.random = random.Random(SEED)
        accepted, maybe, self.problems = [], [], []
        with tempfile.TemporaryDirectory() as directory:
            d = Daemon("--batch-window-ms", "5", directory=directory)
            for number in range(ROUNDS):
                self.one_round(d, number, accepted, maybe)
                if self.random.random() < 0.3:  # and while it recovers
                    d.kill()
                    d.start()
            self.assertEqual(self.problems, [])
            for job, _, _, _ in accepted:
                self.assertEqual(d.wait_job(job)["state"], "applied")
            for job in d.get("/v1/jobs", limit=100).json["data"]:
                d.wait_job(job["id"])  # a kill may take the answer of one that is durable
            self.assertGreaterEqual(len(accepted), ROUNDS // 2)
            self.check_audit(d, accepted)
            before = {}
            for version in self.check(d, accepted):
                before[version["version"]] = (version["weights_hash"], version["chain_hash"])
            for job, f, key, body in self.random.sample(accepted, min(10, len(accepted))):
                facts = d.get("/v1/facts", prompt=f["prompt"]).json["data"]
                self.assertEqual([x["state"] for x in facts], ["live"])
                self.assertEqual(d.edit(f, headers={"Idempotency-Key": key}).body, body)
            live = d.get("/v1/status").json
            d.kill()
            d.start()
            again = d.get("/v1/status").json
            self.assertEqual(again["live_version"], live["live_version"])
            self.assertEqual(again["weights_hash"], live["weights_hash"])
            self.assertEqual(before[live["live_version"]][0], live["weights_hash"])
            print(f"# {len(accepted)} of {len(maybe)} posts answered 202, "
                  f"{live['live_version']} versions, {ROUNDS} rounds")
            d.close()


if __name__ == "__main__":
    harness.main()
