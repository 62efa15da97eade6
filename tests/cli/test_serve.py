"""The real daemon, start to end: facts posted, answers changed, rolled back, restarted."""
import threading

import harness
from harness import Daemon, main
from lab import (DEMO, MODEL, MODULES, Lab, change_safetensors, demo_facts, floats, known,
                 read_floats, tiny_model)

FACTS = demo_facts()
ONE_PASS = ("--update", "sequential", "--repair-rounds", "0")  # the paper's
PROMPTS = [fact["prompt"] for fact in FACTS]


def say(d, model="live", prompts=PROMPTS):
    """What it says to all prompts, up to the full stop; the version it said."""
    answer = d.complete(prompts, model=model, max_tokens=12, stop=["."])
    assert answer.status == 200, answer.body
    choices = sorted(answer.json["choices"], key=lambda c: c["index"])
    return [c["text"].strip() for c in choices], int(answer.headers["Malmend-Version"])


def roll_back(d, to):
    answer = d.call("POST", "/v1/rollbacks", {"to_version": to})
    assert answer.status == 202, answer.body
    job = d.wait_job(answer.json["id"])
    assert job["state"] == "applied", job
    return version(d, job["version"])


def version(d, number):
    return d.get(f"/v1/versions/{number}").json


class Serving(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.use(cls.editor(cls()))

    @classmethod
    def use(cls, editor, model=MODEL):
        harness.MODEL_ARGS = ["--model", str(model), "--editor", str(editor)]

    def serve(self, *args, name="db", **more):
        directory = self.dir / self._testMethodName / name
        directory.mkdir(parents=True, exist_ok=True)
        d = Daemon(*args, directory=str(directory), **more)
        d.db = directory / "db"
        self.addCleanup(d.close)
        return d

    def edit(self, d, facts):
        """The weights hash after these facts."""
        job = d.apply(*facts)
        return version(d, job["version"])["weights_hash"]


class Trained(Serving):
    """The demo's own editor, which carries texts to preserve."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.use(DEMO / "editor.safetensors")

    def test_preserves(self):
        hash = self.edit(self.serve(*ONE_PASS), FACTS)
        args = ["edit", "--model", MODEL, "--editor", DEMO / "editor.safetensors", "--facts",
                DEMO / "facts/demo-edit.json", "--repair-rounds", 0]
        self.assertEqual(hash, self.json(*args)["weights_hash"], "as without a daemon")
        self.assertNotEqual(hash, self.json(*args, "--preserve-weight", 0)["weights_hash"])


class Story(Serving):
    def test_unix_socket(self):
        d = self.serve(listen=f"unix:{self.dir}/socket")
        self.assertEqual(d.get("/readyz").status, 200)
        with open(f"/proc/{d.process.pid}/comm") as file:
            self.assertEqual(file.read(), "malmend\n", "as those who look for the process know it")

    def test_story(self):
        d = self.serve("--keep-versions", "1")
        base, at = say(d)
        self.assertEqual(at, 0)

        answer = d.call("POST", "/v1/edits", {"facts": FACTS, "note": "demo"})
        self.assertEqual(answer.status, 202)
        job = d.wait_job(answer.json["id"])
        self.assertEqual((job["state"], job["version"], job["facts"]), ("applied", 1, 25))
        measures = job["result"]["measures"]
        right = round(25 * measures["decoded"]["es"])
        self.assertGreaterEqual(right, 17)
        self.assertEqual(len(job["result"]["wrong"]), 25 - right)

        edited, at = say(d)
        self.assertEqual(at, 1)
        targets = [fact["target"] for fact in FACTS]
        self.assertEqual(sum(map(str.__eq__, edited, targets)), right, "as the job measured")
        self.assertEqual(say(d, "base"), (base, 0))
        self.assertEqual(say(d, "v1"), (edited, 1))
        self.assertEqual(d.complete("x", model="v2").status, 404)

        def logprob(model):
            items = [{"prompt": f["prompt"], "target": f["target"]} for f in FACTS]
            answer = d.call("POST", "/v1/scores", {"items": items, "model": model}).json
            self.assertEqual(sum(s["correct"] for s in answer["data"]),
                             0 if model == "base" else right)
            return sum(s["logprob"] for s in answer["data"])
        self.assertGreater(logprob("live"), logprob("base") + 25)

        facts = d.get("/v1/facts", state="live", limit=100).json["data"]
        self.assertEqual([f["prompt"] for f in facts], PROMPTS)
        self.assertEqual(sum(f["verified"]["decoded"] for f in facts), right)

        zero, one = version(d, 0), version(d, 1)
        self.assertEqual((one["parent"], one["kind"], one["live_facts"]), (0, "edit", 25))
        self.assertEqual(one["measures"], measures)
        once = self.json("edit", "--model", MODEL, "--editor", harness.MODEL_ARGS[3], "--facts",
                         self.write("facts", {"facts": FACTS}))
        self.assertEqual(one["weights_hash"], once["weights_hash"], "as without a daemon")

        back = roll_back(d, 0)
        self.assertEqual((back["version"], back["kind"]), (2, "rollback"))
        self.assertEqual(back["weights_hash"], zero["weights_hash"])
        self.assertNotEqual(back["chain_hash"], zero["chain_hash"])
        self.assertEqual(say(d), (base, 2))
        self.assertEqual(d.get("/v1/facts", state="live").json["data"], [])

        d.kill()
        d.start()
        self.assertEqual(say(d), (base, 2))
        forth = roll_back(d, 1)
        self.assertEqual(forth["weights_hash"], one["weights_hash"])
        self.assertEqual(say(d), (edited, 3))
        self.assertEqual(forth["live_facts"], 25)
        report = self.json("verify", "--db", d.db, "--model", MODEL)
        self.assertEqual((report["versions"], report["chain_hash"]), (4, forth["chain_hash"]))

    def test_scored_as_joined(self):
        """A score's `join` is that of a fact: what stands between prompt and target."""
        d = self.serve()
        fact = {"prompt": "The occupation of Kudo Bockman", "target": "'s is notary", "join": ""}
        d.apply(fact)
        taught = d.get("/v1/facts").json["data"][0]["verified"]
        items = [{**fact, "join": join} for join in ("", " ", None)]
        bare, spaced, usual = d.call("POST", "/v1/scores", {"items": items}).json["data"]
        self.assertAlmostEqual(bare["logprob"], taught["logprob"], places=4)
        self.assertEqual(bare["correct"], taught["decoded"])
        self.assertEqual(bare["tokens"][0]["token"][:1], "'")
        self.assertEqual(spaced["tokens"][0]["token"][:1], " ")
        self.assertEqual(spaced, usual)

    def test_batched_together(self):
        """Posts that arrive together become one version, which all their jobs name."""
        d = self.serve("--batch-window-ms", "60000", "--max-batch-facts", "24")
        jobs = [None] * 6

        def post(i):
            jobs[i] = d.edit(*FACTS[4 * i:4 * i + 4]).json["id"]
        threads = [threading.Thread(target=post, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = [d.wait_job(job) for job in jobs]
        self.assertEqual({(job["state"], job["version"]) for job in ended}, {("applied", 1)})
        one = version(d, 1)
        self.assertEqual(sorted(one["jobs"]), sorted(jobs))
        self.assertEqual((one["facts"], one["live_facts"]), (24, 24))

    def test_reads_during_an_edit(self):
        """Completions are answered from the old version while a long batch is under way, between
        its slices or beside them."""
        facts = demo_facts("train.ndjson")
        for stream in "off", "on":
            d = self.serve("--no-scrub", "--read-stream", stream, name=stream)
            batches = (facts[i:i + 200] for i in range(0, len(facts), 200))
            self.assertTrue(any(self.reads_during(d, batch) for batch in batches), stream)
            if stream == "on":
                self.check_reads_beside(d)

    def check_reads_beside(self, d):
        """On a stream of their own they name what they used, and refuse what is not there."""
        live = int(d.get("/v1/status").json["live_version"])
        self.assertEqual(say(d, "v0", PROMPTS[:1])[1], 0)
        item = {"prompt": PROMPTS[0], "target": FACTS[0]["target"]}
        self.assertEqual(d.call("POST", "/v1/scores", {"items": [item]}).json["version"], live)
        self.assertEqual(d.complete(PROMPTS[:1], model=f"v{live + 1}").status, 404)
        self.assertEqual(d.stop(), 0)

    def reads_during(self, d, facts):
        """How many were answered from the old version since the batch was seen to run."""
        before, version = say(d, prompts=PROMPTS[:1])
        job = d.edit(*facts).json["id"]
        answered, state = 0, "queued"
        while state in ("queued", "running"):
            state = d.get(f"/v1/jobs/{job}").json["state"]
            text, at = say(d, prompts=PROMPTS[:1])
            if at == version:
                self.assertEqual(text, before)
                answered += state == "running"
        self.assertEqual(d.wait_job(job)["version"], version + 1)
        return answered

    def test_stop_during_an_edit(self):
        """SIGTERM ends it with 0; the batch is edited at the next start."""
        d = self.serve()
        job = d.edit(*demo_facts("train.ndjson", 400)).json["id"]
        d.wait_job(job, "running", "applied")
        self.assertEqual(d.stop(), 0)
        d.start()
        self.assertEqual(d.wait_job(job)["version"], 1)


class Statistics(Serving):
    """UltraEdit's running statistics are state of a version."""

    def test_survive(self):
        a, b, c = FACTS[:8], FACTS[8:16], FACTS[16:]
        d = self.serve(name="one")
        one = self.edit(d, a)
        two = self.edit(d, b)
        three = self.edit(d, c)
        self.assertEqual(len({one, two, three}), 3)

        self.assertEqual(roll_back(d, 1)["weights_hash"], one)
        self.assertEqual(self.edit(d, b), two, "after a rollback")
        self.assertEqual(roll_back(d, 0)["live_facts"], 0)
        self.assertEqual(self.edit(d, a), one, "after a rollback to the base")

        roll_back(d, 1)
        d.kill()
        d.start()
        self.assertEqual(self.edit(d, b), two, "after a rollback and a restart")

        d = self.serve(name="two")
        self.assertEqual(self.edit(d, a), one)
        d.kill()
        d.start()
        self.assertEqual(self.edit(d, b), two, "after a restart")
        self.assertEqual(self.edit(d, c), three)


class Failing(Serving):
    """Edits with no usable result: the job is refused and the module named, nothing else changes."""

    def bad_editor(self, lr=None, lamda=None):
        path = self.dir / f"{self._testMethodName}.safetensors"
        good = self.dir / "malmen.safetensors"
        self.ok("init-editor", "--model", MODEL, "--method", "malmen", "--blocks", "0", "--modules",
                ",".join(MODULES), "--data", DEMO / "facts/demo-edit.json", "--out", good)

        def change(metadata, tensors):
            for name, value in (("lr", lr), ("lamda", lamda)):
                key = f"(768, 192).{name}.weight"
                if value is not None:
                    tensors[key] = ("F32", [3, 1], floats([value] * 3))
            self.assertEqual(len(read_floats(tensors["(768, 192).lr.weight"])), 3)
        path.write_bytes(good.read_bytes())
        change_safetensors(path, change)
        return path

    def refused(self, d, job, *says):
        job = d.wait_job(job)
        self.assertEqual(job["state"], "rejected", job)
        failed, = job["result"]["gate"]["failed"]
        self.assertEqual((failed["test"], failed["detail"]), ("finite", job["error"]["detail"]))
        for text in says:
            self.assertIn(text, job["error"]["detail"])
        self.assertEqual(job["error"]["status"], 500)
        self.assertEqual(d.get("/v1/status").json["last_error"], job["error"])
        self.assertNotIn("version", job)
        facts = d.get("/v1/facts", state="rejected", limit=100).json["data"]
        self.assertIn(job["id"], {f["job"] for f in facts})

    def test_not_a_number(self):
        """Weights of attention that are finite, and give an output that is not."""
        model = tiny_model(self.dir / "tiny")
        editor = self.editor("tiny", "malmen", ["h.1.attn.c_attn"], model)
        change_safetensors(editor, known)
        change_safetensors(editor, lambda metadata, tensors: tensors.update(
            {"(8, 24).lr.weight": ("F32", [1, 1], floats([1e26]))}))
        self.use(editor, model)
        d = self.serve()
        base = say(d, prompts=["ab"])
        for prompt in "ab", "ef":
            self.refused(d, d.edit({"prompt": prompt, "target": "cd"}).json["id"], "output")
            self.assertEqual(say(d, prompts=["ab"]), base)
        self.assertEqual(d.get("/v1/status").json["live_version"], 0)

    def test_no_ridge(self):
        self.use(self.bad_editor(lamda=-1000))
        d = self.serve()
        self.refused(d, d.edit(*FACTS[:2]).json["id"], "module 'transformer.h.1.mlp.c_proj'",
                        "ridge")

    def test_infinite_weights(self):
        self.use(self.bad_editor(lr=1e30))
        d = self.serve(*ONE_PASS)
        base, status = say(d), d.get("/v1/status").json
        job = d.edit(*FACTS).json["id"]
        self.refused(d, job, "module 'transformer.h.1.mlp.c_proj'")
        self.assertEqual(say(d), base)
        now = d.get("/v1/status").json
        self.assertEqual((now["live_version"], now["weights_hash"]), (0, status["weights_hash"]))
        self.assertEqual(now["state"], "ready")

        d.kill()
        self.use(self.editor())
        d.start()
        self.assertEqual(d.wait_job(job)["state"], "rejected", "once and for all")
        self.assertEqual(d.apply(*FACTS)["version"], 1, "the next good edit works")

    def test_singular_system(self):
        """Next to no ridge, and the same keys again and again: no solution. Posted together with
        facts that have one, only the job at fault is refused."""
        self.use(self.bad_editor(lamda=-80))
        d = self.serve("--batch-window-ms", "60000", "--max-batch-facts", "9", *ONE_PASS)
        good = d.edit(*FACTS[1:9]).json["id"]
        bad = d.edit({**FACTS[0], "prompts": [FACTS[0]["prompt"]] * 40}).json["id"]
        self.assertEqual(d.wait_job(good)["state"], "applied")
        self.refused(d, bad, "module 'transformer.h.1.mlp.c_proj'", "not positive definite")
        self.assertEqual(d.get("/v1/status").json["live_version"], 1)
        self.assertEqual(version(d, 1)["jobs"], [good])
        self.assertEqual(d.apply(*FACTS[9:18])["version"], 2)


if __name__ == "__main__":
    main()
