"""Without an editor: edit and serve make one on the spot, and serve keeps it."""
import hashlib
import json
import time

import harness
from harness import Daemon, main
from lab import (DEMO, MODEL, MODULES, Lab, change_safetensors, demo_facts, malmend,
                 read_safetensors, tiny_model)

FACTS = demo_facts()
DATA = DEMO / "facts/demo-edit.json"
DEFAULT = [f"transformer.h.{i}.mlp.c_proj" for i in (2, 3)]


def bare(facts):
    return [{"prompt": f["prompt"], "target": f["target"]} for f in facts]


class Edit(Lab):
    def edit(self, facts, *args):
        path = self.write("facts.json", {"facts": facts})
        return self.json("edit", "--model", MODEL, "--facts", path, "--repair-rounds", 0, "--verify",
                         *args)

    def test_one_fact(self):
        """One fact and nothing else: it is taught."""
        report = self.edit(bare(FACTS[:1]))
        self.assertEqual(report["before"]["decoded"]["es"], 0.0)
        self.assertEqual(report["after"]["decoded"]["es"], 1.0)
        editor = report["editor"]
        self.assertEqual((editor["made"], editor["method"], editor["modules"], editor["facts"]),
                         (True, "malmen", 2, 1))
        self.assertGreater(editor["made_up"], 30)
        self.assertGreater(editor["lr"], 0)

    def test_keeps_the_rest(self):
        """Facts that say nothing of what is to stay once gave a step that kept a quarter of it."""
        with_all = self.edit(FACTS)
        self.assertGreater(with_all["after"]["decoded"]["es"], 0.8)
        self.assertGreater(with_all["after"]["decoded"]["ls"], 0.85)
        self.assertEqual(self.edit(bare(FACTS))["weights_hash"], with_all["weights_hash"])

    def test_data(self):
        report = self.edit(bare(FACTS[:2]), "--data", DATA)
        self.assertEqual(report["editor"]["facts"], 25)
        self.assertEqual(report["after"]["decoded"]["es"], 1.0)
        given = self.edit(bare(FACTS[:2]), "--editor", self.editor())
        self.assertEqual(given["editor"], {"made": False, "method": "ultraedit", "modules": 3})

    def test_says_so(self):
        path = self.write("facts.json", {"facts": bare(FACTS[:1])})
        done = malmend("edit", "--model", MODEL, "--facts", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr.decode(), "no editor given, one made on 1 of the facts .*"
                                               "malmen, 2 modules, step 0")

    def test_bad_data(self):
        facts = self.write("facts.json", {"facts": FACTS})
        edit = ["edit", "--model", MODEL, "--facts", facts, "--data"]
        self.fails(*edit, self.dir / "none", says=["none"])
        long = self.write("long.json", [{"prompt": "word " * 200, "target": "x"}])
        self.fails(*edit, long, says=[long, "/facts/0/prompt"])

    def test_warns(self):
        """More facts than the editor was made for."""
        editor, facts = self.dir / "small.safetensors", self.write("facts.json", {"facts": FACTS})
        self.ok("init-editor", "--model", MODEL, "--method", "ultraedit", "--data", DATA,
                "--n-edits", "5", "--out", editor)
        for n, warned in ((5, False), (6, True)):
            path = self.write("some.json", {"facts": FACTS[:n]})
            done = malmend("edit", "--model", MODEL, "--facts", path, "--editor", editor)
            self.assertEqual(b"6 facts, the editor was made for up to 5" in done.stderr, warned)


class Serve(Lab):
    def serve(self, *args, editor=None, model=MODEL, name="db", **more):
        harness.MODEL_ARGS = ["--model", str(model), *(["--editor", str(editor)] if editor else [])]
        directory = self.dir / self._testMethodName / name
        directory.mkdir(parents=True, exist_ok=True)
        self.cache = directory / "db.editor.safetensors"
        d = Daemon(*map(str, args), directory=str(directory), **more)
        self.addCleanup(d.close)
        return d

    def editor_of(self, d):
        return d.get("/v1/status").json["editor"]

    def version(self, d, n):
        return d.get(f"/v1/versions/{n}").json

    def say(self, d, fact):
        return d.complete(fact["prompt"], max_tokens=12, stop=["."]).json["choices"][0]["text"]

    def digest(self):
        return hashlib.sha256(self.cache.read_bytes()).hexdigest()

    def test_story(self):
        d = self.serve()
        self.assertEqual(self.editor_of(d),
                         {"method": None, "modules": DEFAULT, "update": "joint"})
        zero = self.version(d, 0)
        self.assertEqual(zero["editor"], {"method": "", "hash": ""})
        self.assertEqual(d.call("POST", "/v1/rollbacks", {"to_version": 0}).status, 202)
        self.assertFalse(self.cache.exists())

        job = d.apply(*bare(FACTS[:1]))
        self.assertEqual(self.say(d, FACTS[0]).strip(), FACTS[0]["target"])
        one = self.version(d, job["version"])
        self.assertEqual(one["editor"], {"method": "malmen", "hash": self.digest()})
        self.assertEqual(self.editor_of(d)["method"], "malmen")
        made = d.wait_log("editor made")
        self.assertEqual((made["facts"], made["modules"], made["file"]), (1, 2, str(self.cache)))
        metadata, _ = read_safetensors(self.cache)
        self.assertEqual((metadata["blocks"], json.loads(metadata["modules"])), ("0", DEFAULT))

        d.kill()
        d.start()
        self.assertEqual(self.editor_of(d)["method"], "malmen")
        status = d.get("/v1/status").json
        self.assertEqual(status["weights_hash"], one["weights_hash"])
        two = self.version(d, d.apply(*FACTS[1:9])["version"])
        self.assertEqual(two["editor"], one["editor"])
        self.assertEqual([e for e in d.log if e["event"] == "editor made"], [])
        self.assertEqual([e for e in d.log if e["level"] == "warning"], [])
        d.apply(*demo_facts("train.ndjson", 100))
        warning = d.wait_log("batch above the editor's")
        self.assertEqual((warning["facts"], warning["editor_facts"]),
                         (100, int(metadata["n_edits"])))
        d.close()
        self.assertEqual(self.json("verify", "--db", self.cache.with_name("db"), "--model",
                                   MODEL)["versions"], 5)

    def test_data(self):
        """Made while loading; the first version has it already."""
        d = self.serve("--data", DATA)
        self.assertEqual(self.version(d, 0)["editor"], {"method": "malmen", "hash": self.digest()})
        self.assertEqual(d.wait_log("editor made")["facts"], 25)
        d.apply(*bare(FACTS[:2]))
        self.assertEqual(self.say(d, FACTS[0]).strip(), FACTS[0]["target"])

    def test_reads_meanwhile(self):
        """Completions are answered from the old version while the editor is made."""
        for n in range(5):
            answered = self.reads_meanwhile(f"db{n}")
            if answered:
                return
        self.fail("none of five")

    def reads_meanwhile(self, name):
        """How many were answered since the search was seen."""
        d = self.serve("--update", "sequential", "--repair-rounds", "0", name=name)
        base = self.say(d, FACTS[0])
        job = d.edit(*bare(FACTS)).json["id"]
        answered = 0
        while (now := d.get(f"/v1/jobs/{job}").json)["state"] in ("queued", "running"):
            said = d.complete(FACTS[0]["prompt"], max_tokens=12, stop=["."])
            if (now.get("progress", {}).get("stage") == "search"
                    and said.headers["Malmend-Version"] == "0"):
                self.assertEqual(said.json["choices"][0]["text"], base)
                answered += 1
        self.assertEqual(now["state"], "applied", now)
        once = self.json("edit", "--model", MODEL, "--editor", self.cache, "--facts",
                         self.write("facts", {"facts": FACTS}), "--repair-rounds", 0)
        self.assertEqual(self.version(d, 1)["weights_hash"], once["weights_hash"])
        return answered

    def test_killed_while_making(self):
        """The job is back in the queue, the file is whole or not there."""
        d = self.serve(ready=False)
        d.wait_log("ready")
        job = d.edit(*bare(FACTS)).json["id"]
        for wait in (0.0, 0.1, 0.3, 0.6):
            d.wait_job(job, "running", "applied")
            time.sleep(wait)
            d.kill()
            if self.cache.exists():
                read_safetensors(self.cache)
            d.start()
        ended = d.wait_job(job)
        self.assertEqual((ended["state"], ended["version"]), ("applied", 1))
        self.assertEqual(self.version(d, 1)["editor"]["hash"], self.digest())
        self.assertEqual(self.version(d, 1)["live_facts"], 25)

    def test_stopped_while_making(self):
        d = self.serve()
        job = d.edit(*bare(FACTS)).json["id"]
        d.wait_job(job, "running", "applied")
        self.assertEqual(d.stop(), 0)
        d.start()
        self.assertEqual(d.wait_job(job)["state"], "applied")

    def test_keeps_the_modules(self):
        """A database made with other modules than the architecture's own keeps them."""
        given = self.editor("given")
        d = self.serve(editor=given)
        one = self.version(d, d.apply(*FACTS[:4])["version"])
        d.close()
        d = self.serve()
        self.assertEqual(self.editor_of(d), {"method": None, "modules": MODULES,
                                             "update": "joint"})
        self.assertEqual(d.get("/v1/status").json["weights_hash"], one["weights_hash"])
        two = self.version(d, d.apply(*bare(FACTS[4:8]))["version"])
        self.assertEqual([m["name"] for m in two["modules"]], MODULES)
        self.assertEqual(two["editor"], {"method": "malmen", "hash": self.digest()})
        self.assertEqual(self.say(d, FACTS[4]).strip(), FACTS[4]["target"])
        d.close()
        d = self.serve(editor=given)  # the given one counts
        self.assertEqual(self.editor_of(d)["method"], "ultraedit")

    def refused(self, d, answer, detail):
        self.assertEqual(answer.status, 202, answer.body)
        job = d.wait_job(answer.json["id"])
        self.assertEqual((job["state"], job["error"]["status"]), ("failed", 409), job)
        self.assertIn(detail, job["error"]["detail"])

    def test_backup(self):
        """It has the editor, and what is there in its place already is not replaced."""
        d = self.serve()
        db, directory = self.cache.with_name("db"), self.dir / self._testMethodName / "copied"
        directory.mkdir()
        out, editor = directory / "db", directory / "db.editor.safetensors"
        self.assertIsNone(self.json("backup", "--db", db, "--out", out)["editor"])
        self.assertFalse(editor.exists())
        out.unlink()
        d.apply(*bare(FACTS[:2]))
        editor.write_text("of another database")
        self.fails("backup", "--db", db, "--out", out, says=[editor, "is there already"])
        self.assertFalse(out.exists())
        self.assertEqual(editor.read_text(), "of another database")
        editor.unlink()
        self.assertIn(f"its editor: {editor}", self.ok("backup", "--db", db, "--out", out))
        live = d.get("/v1/status").json["weights_hash"]
        d.close()
        d = self.serve(name="copied")
        self.assertEqual(d.get("/v1/status").json["weights_hash"], live)
        known = d.get("/v1/facts", state="live").json["data"]
        self.assertEqual(d.wait_job(d.call("DELETE", f"/v1/facts/{known[0]['id']}").json["id"])["state"],
                         "applied")

    def test_before_there_is_one(self):
        """What needs an editor is refused; it once killed the daemon, and every one after it."""
        d = self.serve()
        self.refused(d, d.call("POST", "/v1/consolidations", {}), "no live facts")
        d.kill()
        d.start()
        job = d.apply(*bare(FACTS[:2]))
        known = d.get("/v1/facts", job=job["id"]).json["data"]
        self.ok("backup", "--db", self.cache.with_name("db"), "--out", self.dir / "copy.db")
        d.close()

        directory = self.dir / self._testMethodName / "copied"
        directory.mkdir()
        (self.dir / "copy.db").rename(directory / "db")
        self.assertEqual((self.dir / "copy.db.editor.safetensors").read_bytes(), self.cache.read_bytes())
        d = self.serve(name="copied")  # with the database alone
        self.assertIsNone(self.editor_of(d)["method"])
        for call in (("DELETE", f"/v1/facts/{known[0]['id']}"),
                     ("POST", "/v1/retractions", {"job": job["id"]}),
                     ("POST", "/v1/consolidations", {})):
            self.refused(d, d.call(*call), "there is no editor")
        self.assertEqual(self.say(d, FACTS[0]).strip(), FACTS[0]["target"])
        self.assertEqual(d.wait_job(d.call("POST", "/v1/rollbacks", {"to_version": 1}).json["id"])
                         ["state"], "applied")
        d.apply(*bare(FACTS[2:4]))  # makes one
        base = d.complete(FACTS[0]["prompt"], max_tokens=12, stop=["."], model="base")
        job = d.wait_job(d.call("DELETE", f"/v1/facts/{known[0]['id']}").json["id"])
        self.assertEqual(job["state"], "applied", job)
        self.assertEqual(self.say(d, FACTS[0]), base.json["choices"][0]["text"])

    def test_no_editor_to_be_had(self):
        """Of a model whose answers no step moves the job fails and says so; the next may do."""
        model = tiny_model(self.dir / "tiny")
        change_safetensors(model / "model.safetensors", lambda metadata, tensors: tensors.update(
            {"transformer.ln_f.weight": ("F32", [8], bytes(32))}))
        d = self.serve(model=model)
        job = d.wait_job(d.edit({"prompt": "ab", "target": "cd"}).json["id"])
        self.assertEqual(job["state"], "failed")
        self.assertIn("editor", job["error"]["detail"])
        self.assertFalse(self.cache.exists())
        self.assertEqual(d.get("/v1/status").json["state"], "ready")

    def refuses(self, name, *args, says):
        (self.dir / name).mkdir(exist_ok=True)
        done = malmend("serve", "--model", MODEL, "--db", self.dir / name / "db", "--listen",
                       "127.0.0.1:0", *args)
        self.assertEqual(done.returncode, 1)
        for text in says:
            self.assertIn(str(text), done.stderr.decode())

    def test_bad_files(self):
        self.refuses("a", "--data", self.dir / "none", says=["none"])
        self.assertFalse((self.dir / "a/db").exists())
        long = self.write("long.json", [{"prompt": "word " * 200, "target": "x"}])
        self.refuses("a", "--data", long, says=[long, "/facts/0/prompt"])

        (self.dir / "b").mkdir()
        self.write("b/db.editor.safetensors", b"torn")
        self.refuses("b", says=["db.editor.safetensors"])
        self.assertFalse((self.dir / "b/db").exists())

        other = tiny_model(self.dir / "other")
        self.editor("b/db.editor", "malmen", ["transformer.h.0.mlp.c_proj"], other)
        self.refuses("b", says=["db.editor.safetensors", "h.0.mlp.c_proj"])


if __name__ == "__main__":
    main()
