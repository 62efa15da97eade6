"""malmend export: every format read again by hand, against each other and against what is served."""
import json
import math
import os
import shutil
import sqlite3
import struct

import harness
from golden import T5, Golden
from harness import main
from lab import (TINY_MODULES, Lab, change_safetensors, each, floats, malmend, read_floats,
                 read_safetensors, snapshot, tiny_model, write_safetensors)
from test_serve import roll_back

FACTS = [{"prompt": f"{letter} is", "target": letter.upper()} for letter in "abcdef"]


def rounded(x):
    """To fp32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def tensors(path):
    """{name: (shape, numbers)} of fp32 tensors."""
    _, found = read_safetensors(path)
    assert all(t[0] == "F32" for t in found.values())
    return {name: (t[1], read_floats(t)) for name, t in found.items()}


def halved(metadata, found):
    """A checkpoint's tensors in fp16."""
    for name, (_, shape, data) in found.items():
        values = read_floats((None, None, data))
        found[name] = "F16", shape, struct.pack(f"<{len(values)}e", *values)


def norm(values):
    return math.sqrt(math.fsum(x * x for x in values))


def product(a, b, rows, columns, rank):
    """a (rows, rank) b (rank, columns)."""
    return [math.fsum(a[i * rank + k] * b[k * columns + j] for k in range(rank))
            for i in range(rows) for j in range(columns)]


def transposed(values, rows, columns):
    return [values[i * columns + j] for j in range(columns) for i in range(rows)]


def eigenvalues(a, n):
    """Of a symmetric matrix, by Jacobi's rotations."""
    for _ in range(60):
        for p in range(n):
            for q in range(p + 1, n):
                if a[p * n + q] == 0:
                    continue
                angle = 0.5 * math.atan2(2 * a[p * n + q], a[q * n + q] - a[p * n + p])
                c, s = math.cos(angle), math.sin(angle)
                for k in range(n):
                    x, y = a[k * n + p], a[k * n + q]
                    a[k * n + p], a[k * n + q] = c * x - s * y, s * x + c * y
                for k in range(n):
                    x, y = a[p * n + k], a[q * n + k]
                    a[p * n + k], a[q * n + k] = c * x - s * y, s * x + c * y
    return sorted((a[i * n + i] for i in range(n)), reverse=True)


class Exports(Lab):
    """Versions: 0 base, 1 and 2 edits, 3 rollback to 1, 4 an edit of three facts, 5 rollback to 0."""

    LAST = 5
    exported = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "tiny")
        cls.modules = TINY_MODULES
        cls.make(cls.editor(cls(), modules=cls.modules, model=cls.model, lr="0.05"), FACTS)

    @classmethod
    def make(cls, editor, facts, home="home", *args):
        harness.MODEL_ARGS = ["--model", str(cls.model), "--editor", str(editor)]
        cls.db = cls.dir / home / "db"
        cls.db.parent.mkdir()
        # nothing by itself: the versions are those that were asked for
        cls.d = harness.Daemon("--no-scrub", *args, directory=str(cls.db.parent))
        cls.addClassCleanup(cls.d.close)
        cls.d.apply(facts[0])
        cls.d.apply(facts[1])
        roll_back(cls.d, 1)
        cls.d.apply(*facts[2:])
        roll_back(cls.d, 0)
        cls.base = read_safetensors(cls.model / "model.safetensors")[1]

    def args(self, version, form, out, *more):
        return ["export", "--db", self.db, "--model", self.model, "--version", version, "--format",
                form, "--out", out, *more]

    def export(self, version, form, *more):
        """Where it is, and what was said of it; made once."""
        made = self.exported.setdefault(self.db, {})
        key = version, form, *more
        if key not in made:
            out = self.db.parent / ("out" + ".".join(map(str, key)))
            made[key] = out, self.json(*self.args(version, form, out, *more))
        return made[key]

    def version(self, n):
        return self.d.get(f"/v1/versions/{n}").json

    def logits(self, *args):
        out = self.dir / "logits"
        self.ok("logits", *args, "--tokens", self.write("ids", self.ids), "--out", out)
        return read_safetensors(out)[1]

    ids = "65 32 105 115 10\n70 32 105 115\n"

    def difference(self, version):
        """The module's shape in the checkpoint and T, of every module."""
        return {name.removesuffix(".weight"): t
                for name, t in tensors(self.export(version, "delta")[0]).items()}

    # ---- What each format must be ----

    def check_delta(self):
        for version in range(self.LAST + 1):
            path, report = self.export(version, "delta")
            metadata, found = read_safetensors(path)
            row = self.version(version)
            self.assertEqual(sorted(found), sorted(f"{m}.weight" for m in self.modules))
            self.assertEqual((metadata["format"], metadata["version"]),
                             ("malmend-delta-1", str(version)))
            self.assertEqual(metadata["weights_hash"], row["weights_hash"])
            self.assertEqual(report["weights_hash"], row["weights_hash"])
            norms = {f"{m['name']}.weight": m["shift_norm"] for m in row["modules"]}
            for name, (dtype, shape, data) in found.items():
                self.assertEqual((dtype, shape), ("F32", self.base[name][1]))
                self.assertAlmostEqual(norm(read_floats((dtype, shape, data))), norms[name])
                if version in (0, 5):
                    self.assertEqual(data, bytes(len(data)), "+0")

    def check_weights(self, letter):
        """The weights are W0 + T, rounded once."""
        for version in 4, 0, 5:
            path, report = self.export(version, "safetensors")
            metadata, found = read_safetensors(path)
            self.assertEqual((metadata["format"], metadata["version"]), ("pt", str(version)))
            self.assertEqual(metadata["weights_hash"], self.version(version)["weights_hash"])
            self.assertEqual(report["modules"], len(found))
            self.assertEqual(sorted(found), sorted(f"{m}.weight" for m in self.modules))
            if version != 4:  # so that an engine that has loaded another one returns with it
                self.assertEqual(found, {name: self.base[name] for name in found})
        found = read_safetensors(self.export(4, "safetensors")[0])[1]
        for module, (shape, t) in self.difference(4).items():
            dtype, base_shape, data = self.base[module + ".weight"]
            w0 = struct.unpack(f"<{len(t)}{letter}", data)
            sums = [rounded(x + y) for x, y in zip(w0, t)]
            self.assertEqual(found[module + ".weight"],
                             (dtype, base_shape, struct.pack(f"<{len(t)}{letter}", *sums)))

    @staticmethod
    def in_adapter(module):
        """As transformers calls it."""
        return module.replace("language_model.model.", "model.language_model.")

    def factors(self, folder, module, shape, fan_in_fan_out):
        """T as the adapter's product, in the checkpoint's orientation, and its rank."""
        found = tensors(folder / "adapter_model.safetensors")
        (rank, d_in), a = found[f"base_model.model.{module}.lora_A.weight"]
        (d_out, rank_b), b = found[f"base_model.model.{module}.lora_B.weight"]
        self.assertEqual(rank, rank_b)
        self.assertEqual([d_in, d_out] if fan_in_fan_out else [d_out, d_in], shape)
        t = product(b, a, d_out, d_in, rank)
        return (transposed(t, d_out, d_in) if fan_in_fan_out else t), rank

    def check_lora(self, version, rank=None):
        """Its report; the error it states is the one it has."""
        more = [] if rank is None else ["--rank", rank]
        folder, report = self.export(version, "lora", *more)
        self.assertEqual(sorted(p.name for p in folder.iterdir()),
                         ["adapter_config.json", "adapter_model.safetensors"])
        config = json.loads((folder / "adapter_config.json").read_text())
        self.assertEqual((config["peft_type"], config["bias"]), ("LORA", "none"))
        self.assertEqual(config["r"], config["lora_alpha"])
        self.assertEqual(report["rank"], config["r"])
        difference = {self.in_adapter(m): t for m, t in self.difference(version).items()}
        self.assertEqual(sorted(config["target_modules"]),
                         sorted(m for m, (_, t) in difference.items() if any(t)))
        self.assertEqual(report["modules"], len(config["target_modules"]))
        worst = 0
        for module in config["target_modules"]:
            shape, t = difference[module]
            got, r = self.factors(folder, module, shape, config["fan_in_fan_out"])
            self.assertEqual(r, config["r"])
            worst = max(worst, norm([x - y for x, y in zip(t, got)]) / norm(t))
        self.assertAlmostEqual(report["relative_error"] / worst, 1, 3)
        metadata, _ = read_safetensors(folder / "adapter_model.safetensors")
        self.assertAlmostEqual(float(metadata["relative_error"]) / worst, 1, 2)
        self.assertEqual(report["exact"], worst < 1e-6)
        return report

    def check_model(self):
        folder, _ = self.export(4, "model")
        self.assertEqual(sorted(os.listdir(folder)), sorted(os.listdir(self.model)))
        delta, _ = self.export(4, "delta")
        want = self.logits("--model", self.model, "--delta", delta)
        self.assertEqual(self.logits("--model", folder), want)
        self.assertNotEqual(self.logits("--model", self.model), want)
        found = read_safetensors(folder / "model.safetensors")[1]
        self.assertEqual(list(found), list(self.base))
        for name, tensor in found.items():
            if name.removesuffix(".weight") not in self.modules:
                self.assertEqual(tensor, self.base[name], name)
        unedited, _ = self.export(0, "model")
        self.assertEqual(list(snapshot(unedited).values()), list(snapshot(self.model).values()))
        return folder


class Formats(Exports):
    def test_delta(self):
        self.check_delta()

    def test_weights(self):
        self.check_weights("f")

    def test_lora(self):
        self.assertEqual(self.check_lora(1)["rank"], 2, "one fact of two tokens")
        self.assertEqual(self.check_lora(3)["rank"], 2, "a rollback to it")
        report = self.check_lora(4)
        self.assertGreater(report["rank"], 2)
        self.assertIs(report["exact"], True)

    def test_lora_of_less(self):
        """Of a rank too low the nearest product there is."""
        report = self.check_lora(4, rank=2)
        self.assertEqual((report["rank"], report["exact"]), (2, False))
        worst = 0
        for (rows, columns), t in self.difference(4).values():
            gram = product(transposed(t, rows, columns), t, columns, columns, rows)
            values = eigenvalues(gram, columns)
            worst = max(worst, math.sqrt(sum(values[2:]) / sum(values)))
        self.assertAlmostEqual(report["relative_error"] / worst, 1, 5)

    def test_lora_of_nothing(self):
        """An adapter must have a module: one that adds zeros."""
        folder, report = self.export(5, "lora")
        self.assertEqual((report["modules"], report["rank"], report["relative_error"]), (1, 1, 0))
        for _, values in tensors(folder / "adapter_model.safetensors").values():
            self.assertFalse(any(values))

    def test_same_bytes(self):
        for form in "delta", "lora":
            first, _ = self.export(4, form)
            second = self.dir / "again"
            self.ok(*self.args(4, form, second))
            self.assertEqual(*(list(snapshot(p).values()) if p.is_dir() else p.read_bytes()
                               for p in (first, second)))
            shutil.rmtree(second) if second.is_dir() else second.unlink()

    def test_model(self):
        """Answers as the daemon does on that version."""
        folder = self.check_model()
        roll_back(self.d, 4)
        self.addCleanup(roll_back, self.d, 0)
        for fact in FACTS:
            said = self.json("complete", "--model", folder, "--prompt", fact["prompt"],
                             "--max-tokens", 3)["text"]
            answer = self.d.complete(fact["prompt"], max_tokens=3).json
            self.assertEqual(answer["choices"][0]["text"], said)

    def test_model_beside_others(self):
        """Weights that were not edited do not come along: a program might read those."""
        others = ("pytorch_model.bin", "consolidated.safetensors",
                  "model-00001-of-00001.safetensors", "model.safetensors.index.json")
        for name in others:
            path = self.model / name
            shutil.copy(self.model / "model.safetensors", path)
            self.addCleanup(path.unlink)
        self.write(self.model / "notes.txt", "kept")
        self.addCleanup((self.model / "notes.txt").unlink)
        out = self.dir / "beside"
        self.ok(*self.args(4, "model", out))
        want = set(os.listdir(self.model)) - set(others)
        self.assertEqual(set(os.listdir(out)), want)

    def test_text(self):
        for form, says in ("delta", "2 modules"), ("lora", "exact (relative error"):
            out = self.dir / f"text.{form}"
            text = self.ok(*self.args(4, form, out))
            for part in f"version 4 as {form}", str(out), says, self.version(4)["weights_hash"]:
                self.assertIn(part, text)


class Narrow(Exports):
    """fp16 weights."""

    @classmethod
    def make(cls, editor, facts):
        change_safetensors(cls.model / "model.safetensors", halved)
        super().make(cls.editor(cls(), "half", modules=cls.modules, model=cls.model, lr="0.05"),
                     facts)

    def test_formats(self):
        self.check_delta()
        self.check_weights("e")
        self.check_model()
        self.check_lora(4)


class AllFormats(Exports):
    @classmethod
    def setUpClass(cls):
        Lab.setUpClass.__func__(cls)

    def check(self, model, editor, modules, facts, ids, home="home"):
        type(self).model, type(self).modules, type(self).ids = model, modules, ids
        self.make(editor, facts, home)
        self.check_delta()
        self.check_weights("f")
        self.check_model()
        report = self.check_lora(4)
        self.assertIs(report["exact"], True)
        self.assertIs(self.check_lora(4, rank=1)["exact"], False)


@each([("llama", Golden("llama-malmen"), "5 6 7\n3\n"), ("t5", T5, "5 6 7 | 0 9 8\n"),
       ("bert", Golden("bert-malmen"), "2 9 8 3\n"), ("gptj", Golden("gptj-malmen"), "5 6 7\n")])
class Kinds(AllFormats):
    """Weights stored the other way round, and models of each kind; more rows than d_in."""

    def check(self, case, ids):
        super().check(case.model, case.editor, case.modules, case.facts, ids, case.dir.name)


class BesideImages(AllFormats):
    """A text model that is a part of another, whose other tensors come along."""

    def test_formats(self):
        def named(module):
            return module.replace("model.", "language_model.model.", 1)

        def rename(_, found):
            rest = {name: found.pop(name) for name in list(found)}
            found.update({named(name): tensor for name, tensor in rest.items()})
            found["vision_tower.head.probe"] = "F32", [2, 3], floats(range(6))

        def reedit(metadata, _):
            metadata["modules"] = json.dumps([named(m) for m in json.loads(metadata["modules"])])

        case = Golden("gemma3-malmen")
        model, editor = self.dir / "images", self.dir / "editor.safetensors"
        shutil.copytree(case.model, model)
        shutil.copy(case.editor, editor)
        change_safetensors(model / "model.safetensors", rename)
        change_safetensors(editor, reedit)
        text = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
        self.check(model, editor, [named(m) for m in case.modules], case.facts, "5 6 7\n3\n")


class Refused(Exports):
    def copy(self, *statements):
        """A copy of the database, changed behind malmend's back."""
        bad = self.dir / "bad.db"
        for path in self.dir.glob("bad.db*"):
            path.unlink()
        with sqlite3.connect(self.db) as source, sqlite3.connect(bad) as db:
            source.backup(db)
        db = sqlite3.connect(bad, isolation_level=None)
        triggers = db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, in triggers:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            self.assertTrue(db.execute(statement).rowcount, statement)
        db.close()
        return bad

    def refused(self, version, says, db=None, model=None):
        for form in "safetensors", "delta", "lora", "model":
            self.fails("export", "--db", db or self.db, "--model", model or self.model,
                       "--version", version, "--format", form, "--out", self.dir / "out",
                       says=says)

    def test_unknown_version(self):
        self.refused(6, [self.db, "no version 6", "newest is 5"])

    def test_pruned(self):
        bad = self.copy("UPDATE versions SET pruned = 1 WHERE version = 2")
        self.refused(2, [bad, "version 2 was pruned", "no longer stored"], bad)

    def test_other_weights(self):
        bad = self.copy("UPDATE versions SET weights_hash = replace(weights_hash, "
                        "substr(weights_hash, 1, 1), 'x') WHERE version = 4")
        self.refused(4, ["version 4", "hash to"], bad)

    def test_not_a_difference(self):
        """Weights have a difference's tensors: applied as one they gave nonsense."""
        adapter = self.export(4, "lora")[0] / "adapter_model.safetensors"
        bare = self.dir / "bare"
        write_safetensors(bare, read_safetensors(self.export(4, "delta")[0])[1])
        weights = "not a weight difference, but weights or an adapter: metadata 'format' is 'pt'"
        for path, says in ((self.export(4, "safetensors")[0], weights), (adapter, weights),
                           (self.model / "model.safetensors", "not a weight difference"),
                           (self.dir / "editor.safetensors", "'malmend-editor-1', not"),
                           (bare, "'format' is missing")):
            self.fails("complete", "--model", self.model, "--prompt", "a", "--delta", path,
                       says=[f"{path}: ", says])

    def test_damaged_delta(self):
        bad = self.copy("UPDATE blob_chunks SET data = zeroblob(length(data)) WHERE blob IN "
                        "(SELECT id FROM blobs WHERE version = 4)")
        self.refused(4, ["version 4", "hash"], bad)

    def test_other_model(self):
        other = tiny_model(self.dir / "other", seed=2)
        self.refused(4, [self.db, "base_model"], model=other)

    def test_no_files(self):
        self.refused(4, [self.dir / "none"], db=self.dir / "none")
        self.refused(4, [self.dir / "none"], model=self.dir / "none")

    def test_out_is_there(self):
        there = self.write("there", "mine")
        full = self.dir / "full"
        full.mkdir()
        self.write("full/file", "mine")
        for form in "safetensors", "delta":
            for out in there, full:
                self.fails(*self.args(4, form, out), says=[out, "already"])
        for form in "lora", "model":
            self.fails(*self.args(4, form, full), says=[full, "already"])
            self.fails(*self.args(4, form, there), says=[there])
        for form in "safetensors", "delta", "lora", "model":
            self.fails(*self.args(4, form, self.dir / "no/where"), says=["no/where"])

    def test_usage(self):
        for args, says in ((self.args(-1, "lora", "x"), "--version"),
                           (self.args(1, "gguf", "x"), "gguf"),
                           (self.args(1, "lora", "x", "--rank", 0), "--rank")):
            done = malmend(*args)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(says, done.stderr.decode())

    def test_database_untouched(self):
        self.d.stop()
        before = self.db.read_bytes()
        for form in "safetensors", "delta", "lora", "model":
            self.ok(*self.args(4, form, self.dir / f"untouched.{form}"))
        self.assertEqual(self.db.read_bytes(), before)
        self.d.start()


if __name__ == "__main__":
    main()
