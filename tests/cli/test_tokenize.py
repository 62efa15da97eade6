"""malmend tokenize: text to ids and back."""
import json

from harness import main
from lab import MODEL, Lab, demo_facts, each, malmend, tiny_model

TEXTS = ["", " ", "a", "The birthplace of Parette Fitman is Glamdale.", "  two  spaces ",
         "tab\tand nothing", "Grüße, \u4e16\u754c \U0001f642", "e\u0301", "a\u00a0b", "don't I'll",
         "<|endoftext|>", "x<|endoftext|>y", "12345 67", "...!?", "\u200b", "\r"]
ODD = TEXTS + ["two\nlines\n", "a zero \0 byte", '"quoted" \\ and /', "\u2028"]


class Tokenize(Lab):
    def tokenize(self, *args, stdin):
        return self.ok("tokenize", "--model", MODEL, *args, stdin=stdin.encode())

    def test_round_trip(self):
        text = "".join(t + "\n" for t in TEXTS)
        ids = self.tokenize(stdin=text)
        self.assertRegex(ids, r"\A((\d+( \d+)*)?\n)+\Z")
        self.assertEqual(len(ids.splitlines()), len(TEXTS))
        self.assertEqual(self.tokenize("--decode", stdin=ids), text)

    def test_json_round_trip(self):
        lines = "".join(json.dumps(t) + "\n" for t in ODD)
        ids = self.tokenize("--json", stdin=lines)
        self.assertTrue(all(isinstance(i, int) for line in ids.splitlines()
                            for i in json.loads(line)))
        back = self.tokenize("--decode", "--json", stdin=ids)
        self.assertEqual([json.loads(line) for line in back.split("\n")[:-1]], ODD)

    def test_agrees(self):
        """Lines and JSON give the same ids; every target is a few tokens of the vocabulary."""
        targets = [" " + fact["target"] for fact in demo_facts()]
        plain = self.tokenize(stdin="\n".join(targets))
        lines = self.tokenize("--json", stdin="\n".join(map(json.dumps, targets)))
        ids = [json.loads(line) for line in lines.splitlines()]
        self.assertEqual([list(map(int, line.split())) for line in plain.splitlines()], ids)
        self.assertTrue(all(1 <= len(i) <= 8 and max(i) < 1536 for i in ids))

    def test_special(self):
        self.assertEqual(self.tokenize(stdin="<|endoftext|>\n"), "0\n")
        self.assertEqual(self.tokenize("--decode", stdin="0\n"), "<|endoftext|>\n")
        self.assertEqual(self.tokenize("--decode", "--no-special", stdin="0\n"), "\n")

    def test_nothing(self):
        self.assertEqual(self.tokenize(stdin=""), "")

    def test_vocab_txt(self):
        """A directory with nothing but BERT's vocabulary: lower case, [CLS] and [SEP] around."""
        (self.dir / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nglam\n##dale\n.\n")
        args = ("tokenize", "--model", self.dir)
        self.assertEqual(self.ok(*args, stdin="GLAMDAL\u00c9 . x\n".encode()), "1 3 4 5 0 2\n")
        self.assertEqual(self.ok(*args, "--no-special", stdin=b"glam"), "3\n")
        self.assertEqual(self.ok(*args, "--decode", stdin=b"3 4 5 3"), "glamdale . glam\n")
        (self.dir / "tokenizer_config.json").write_text('{"do_lower_case": 1}')
        done = malmend(*args, stdin=b"")
        self.assertEqual(done.returncode, 1)
        self.assertIn("tokenizer_config.json: 'do_lower_case'", done.stderr.decode())

    def test_half_a_letter(self):
        """Ids that are no whole character decode as the reference does, replaced."""
        tiny = tiny_model(self.dir / "tiny")
        out = self.ok("tokenize", "--model", tiny, "--decode", "--json", stdin=b"[195]\n[195,169]")
        self.assertEqual([json.loads(line) for line in out.splitlines()], ["\ufffd", "\u00e9"])


@each([
    ("id", ["--decode"], b"1 2\n3 x\n", ["line 2", "x"]),
    ("negative", ["--decode"], b"-1\n", ["line 1", "-1"]),
    ("unknown", ["--decode"], b"1536\n", ["line 1", "1536"]),
    ("huge", ["--decode"], b"99999999999999999999\n", ["line 1"]),
    ("not_utf8", [], b"ok\n\xff\n", ["line 2"]),
    ("not_json", ["--json"], b'"a"\n"b\n', ["line 2"]),
    ("not_a_string", ["--json"], b"7\n", ["line 1", "string"]),
    ("not_an_array", ["--json", "--decode"], b'{"a": 1}\n', ["line 1", "array"]),
    ("not_an_integer", ["--json", "--decode"], b"[1, 2.5]\n", ["line 1", "element 1"]),
    ("surrogate", ["--json"], b'"\\ud800"\n', ["line 1"]),
])
class Refused(Lab):
    def check(self, args, stdin, says):
        done = malmend("tokenize", "--model", MODEL, *args, stdin=stdin)
        self.assertEqual(done.returncode, 1, done.stdout)
        for text in says:
            self.assertIn(text, done.stderr.decode(errors="replace"))
        self.assertEqual(len(done.stderr.splitlines()), 1)


if __name__ == "__main__":
    main()
