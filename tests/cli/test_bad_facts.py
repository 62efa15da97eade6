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
