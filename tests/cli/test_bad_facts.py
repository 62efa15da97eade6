"""Fact files that cannot be taught: the record and its field named, nothing written."""
import json

from harness import main
from lab import TINY_MODULES, Lab, each, malmend, tiny_model

GOOD = {"prompt": "a", "target": "b"}


def lines(*facts):
    return "".join(json.dumps(fact) + "\n" for fact in facts)


def second(**changes):
    return lines(GOOD, {**GOOD, "prompt": "c", **changes})


TABLE = [
    ("empty", "", []),
    ("blank", "\n \n", []),
    ("no_facts", '{"facts": []}', []),
    ("not_json", '{"prompt": "a"', []),
    ("cut", lines(GOOD) + '{"prompt": "a', ["line 2"]),
    ("not_utf8", b'{"prompt": "\xff", "target": "b"}\n', []),
    ("twice", '{"prompt": "a", "prompt": "b", "target": "c"}', ["prompt"]),
    ("text", "a prompt without a target\n", ["line 1", "tab"]),
    ("a_number", "[1]", ["record 0", "object"]),
    ("facts_type", '{"facts": 7}', ["facts", "array"]),
    ("unknown_form", '[{"question": "x"}]', ["record 0", "no known form"]),
    ("no_target", lines(GOOD, {"prompt": "c"}), ["line 2", "target"]),
    ("empty_target", second(target=""), ["line 2", "target", "empty"]),
    ("blank_target", second(target=" "), ["/facts/1/target:", "target", "empty"]),
    ("empty_prompt", second(prompt=""), ["line 2", "prompt"]),
    ("target_type", second(target=5), ["line 2", "target"]),
    ("zero_byte", second(target="a\0b"), ["line 2"]),
    ("rephrases_type", second(rephrases="c"), ["line 2", "rephrases"]),
    ("rephrase_type", second(rephrases=["c", 1]), ["line 2", "rephrases"]),
    ("unrelated_type", second(unrelated=["c"]), ["line 2", "unrelated"]),
    ("too_long", second(prompt="x" * 64), ["/facts/1/prompt:", "64"]),
    ("prompts_too_long", second(prompts=["d", "x" * 64]), ["/facts/1/prompts/1:", "64"]),
    ("unknown_member", second(promts=["d"]), ["/facts/1/promts:", "no such member"]),
    ("unknown_in_unrelated", second(unrelated=[{"prompt": "e"}, {"prompt": "d", "answer": "e"}]),
     ["/facts/1/unrelated/1/answer:", "no such member"]),
    ("as_listed", second(state="live"), ["/facts/1/state:"]),
    ("id", second(id="a b"), ["/facts/1/id:"]),
    ("long_id", second(id=65 * "x"), ["/facts/1/id:"]),
    ("rephrase_too_long", second(rephrases=["x" * 64]), ["/facts/1/rephrases/0:", "64"]),
]


@each(TABLE)
class BadFacts(Lab):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model(cls.dir / "model")
        cls.ultra = cls.editor(cls(), modules=TINY_MODULES, model=cls.model)

    def edit(self, facts, *args):
        return ["edit", "--model", self.model, "--editor", self.ultra, "--facts", facts, "--verify",
                "--out", self.dir / "out", "--save-model", self.dir / "saved", *args]

    def check(self, text, says):
        facts = self.write("facts", text)
        self.fails(*self.edit(facts), says=[facts, *says])
        self.fails("init-editor", "--model", self.model, "--method", "ultraedit", "--modules",
                   ",".join(TINY_MODULES), "--data", facts, "--out", self.dir / "editor2",
                   says=[facts, *says])

    def test_together(self):
        """What one request is refused for, one batch is; apart they may be as they like."""
        for change, says in (({"prompt": "a "}, "/facts/1/target contradicts /facts/0"),
                             ({"prompt": "x", "prompts": ["y", "a"]}, "/facts/1/target contradicts"),
                             ({"prompt": "x", "id": "one"}, "/facts/1/id: /facts/0 has the same id")):
            facts = self.write("facts", lines({**GOOD, "id": "one"}, {"target": "c", **change}))
            self.fails(*self.edit(facts), says=[facts, says])
            self.fails("eval", "--model", self.model, "--editor", self.ultra, "--data", facts,
                       says=[facts, says])
            done = malmend("eval", "--model", self.model, "--editor", self.ultra, "--data", facts,
                           "--n-edits", 1)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(b"1 of 2 facts have the prompt of an earlier one" in done.stderr,
                             "id" not in change)
        same = self.write("same", lines(GOOD, {"prompt": "a ", "target": " b"}))
        self.assertEqual(malmend(*self.edit(same)[:7]).stderr.count(b"earlier"), 0)

    def test_data_sets(self):
        """In them nobody wrote what contradicts: it is counted and said."""
        sets = {"zsre": [{"src": "a", "alt": x, "pred": "y", "answers": ["z"]} for x in "bcb"],
                "flat": [{"prompt": "a", "target_new": x, "case_id": 7, "id": "?"} for x in "bcb"],
                "fever": [{"claim": "a", "label": x, "id": 1} for x in ("SUPPORTS", "REFUTES", "SUPPORTS")]}
        for name, records in sets.items():
            facts = self.write(name, lines(*records))
            done = malmend(*self.edit(facts)[:7])
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"{facts}: 1 of 3 facts have the prompt of an earlier one and another target",
                          done.stderr.decode())
        pairs = self.write("pairs", "a\tb\na\tc\na\td\n")
        self.assertIn(b"2 of 3 facts", malmend(*self.edit(pairs)[:7]).stderr)

    def test_training(self):
        """Any draw of them may hold two: said, and not refused."""
        args = ["train", "--model", self.model, "--modules", TINY_MODULES[0], "--rank", 2, "--n-edits",
                2, "--lr", 1, "--steps", 1, "--out", self.dir / "trained"]
        self.fails(*args, "--data", self.write("facts", second(rephrase="x")),
                   says=[self.dir / "facts", "/facts/1/rephrase:"])
        many = [{"prompt": "a", "target": x, "rephrases": ["c"], "unrelated": [{"prompt": "d", "target": "e"}]}
                for x in "bc"]
        done = malmend(*args, "--data", self.write("many", lines(*many)))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"1 of 2 facts", done.stderr)

    def test_missing(self):
        self.fails(*self.edit(self.dir / "none"), says=[self.dir / "none"])

    def test_json_problem(self):
        """With --json the problem is an object on stdout, too."""

        done = malmend(*self.edit(self.dir / "none"), "--json")
        self.assertEqual(done.returncode, 1)
        problem = json.loads(done.stdout)
        self.assertIn(str(self.dir / "none"), problem["detail"])
        self.assertEqual(problem["status"], 404)

    def test_good(self):
        facts = self.write("good", second(prompts=["d"], rephrases=["e"],
                                          unrelated=[{"prompt": "f"}]))
        self.assertEqual(self.json("edit", "--model", self.model, "--editor", self.ultra,
                                   "--facts", facts)["facts"], 2)


if __name__ == "__main__":
    main()
