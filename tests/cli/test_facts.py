"""malmend facts: facts of every form as the daemon takes them, and what it would refuse."""
import json

import harness
from harness import Daemon, main
from lab import MODEL, Lab, demo_facts, each, malmend

API = {"id": "one:1", "prompt": "Ada Quill was born in", "target": "Norwick", "subject": "Ada Quill",
       "prompts": ["The birthplace of Ada Quill is"], "rephrases": ["Ada Quill comes from", "\u00c9"],
       "unrelated": [{"prompt": "Bo Tarn was born in", "target": "Elmsea"}, {"prompt": "Rain is"}],
       "join": ""}
MEASURED = {"subject": "Ada Quill", "rephrases": ["Where is Ada Quill from?"],
            "unrelated": [{"prompt": "nq question: where is bo tarn from", "target": "Elmsea"}]}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


FORMS = [
    ("api_lines", lines(API, {"prompt": "p", "target": "t", "subject": None, "rephrases": []}),
     [API, {"prompt": "p", "target": "t"}]),
    ("api_array", [API], [API]),
    ("api_request", {"facts": [API], "note": "n"}, [API]),
    ("zsre", [{"subject": "Ada Quill", "src": "Where was Ada Quill born?", "pred": "Elmsea",
               "rephrase": "Where is Ada Quill from?", "alt": "Norwick", "answers": ["Oakden"],
               "loc": "nq question: where is bo tarn from", "loc_ans": "Elmsea", "cond": "x"},
              {"src": "Nothing to teach?", "alt": ""}],
     [{"prompt": "Where was Ada Quill born?", "target": "Norwick", **MEASURED}]),
    ("zsre_reference", [{"src": "Where?", "ans": "Norwick", "loc": "who", "loc_ans": "Bo"}],
     [{"prompt": "Where?", "target": "Norwick", "unrelated": [{"prompt": "who?", "target": "Bo"}]}]),
    ("zsre_pairs", "Where?\tNorwick\nNothing?\t\nWho? \tBo\n",
     [{"prompt": "Where?", "target": "Norwick"}, {"prompt": "Who? ", "target": "Bo"}]),
    ("counterfact", [{"case_id": 1, "requested_rewrite": {
        "prompt": "{} comes from", "subject": "Ada Quill", "relation_id": "P1",
        "target_new": {"str": "Norwick", "id": "Q1"}, "target_true": {"str": "Elmsea", "id": "Q2"}},
        "paraphrase_prompts": ["a", "b"], "neighborhood_prompts": ["c"], "attribute_prompts": ["d"]}],
     [{"prompt": "Ada Quill comes from", "target": "Norwick", "subject": "Ada Quill",
       "rephrases": ["a", "b"], "unrelated": [{"prompt": "c", "target": "Elmsea"}]}]),
    ("counterfact_flat", [{"case_id": 1, "prompt": "p", "target_new": "t", "subject": "s",
                           "ground_truth": "u", "rephrase_prompt": "a", "locality_prompt": "b",
                           "locality_ground_truth": "c"}],
     [{"prompt": "p", "target": "t", "subject": "s", "rephrases": ["a"],
       "unrelated": [{"prompt": "b", "target": "c"}]}]),
    ("fever", lines({"id": 1, "claim": "Bo sings.", "label": "NOT ENOUGH INFO", "evidence_pages": []},
                    {"id": 2, "claim": "Ada sings.", "label": "REFUTES", "evidence_pages": ["A"]}),
     [{"prompt": "Ada sings.", "target": "REFUTES"}]),
    ("fever_reference", [{"prompt": "p", "equiv_prompt": ["a", "b"], "alt": "SUPPORTS",
                          "unrel_prompt": "c", "unrel_ans": "REFUTES"}],
     [{"prompt": "p", "target": "SUPPORTS", "rephrases": ["a", "b"],
       "unrelated": [{"prompt": "c", "target": "REFUTES"}]}]),
    ("kilt", [{"input": "p", "alternatives": ["t", "u"], "filtered_rephrases": ["a"], "output": []}],
     [{"prompt": "p", "target": "t", "rephrases": ["a"]}]),
]


@each(FORMS)
class Forms(Lab):
    def check(self, data, facts):
        """What is printed is those facts, and of itself makes itself again."""
        file = self.write("file", data)
        text = self.ok("facts", file)
        self.assertEqual([json.loads(line) for line in text.splitlines()], facts)
        self.assertEqual(self.ok("facts", self.write("again", text)), text)
        request = self.ok("facts", file, "--json")
        self.assertEqual(json.loads(request), {"facts": facts})
        self.assertEqual(self.ok("facts", self.write("request", request)), text)
        self.assertEqual(self.ok("facts", "/dev/stdin", stdin=file.read_bytes()), text)


SAME = lines({"prompt": "a", "target": "b"}, {"prompt": "c", "target": "d"},
             {"prompt": "a ", "target": "e", "rephrases": ["f"]}, {"prompt": "a", "target": " b"},
             {"prompt": "g", "target": "h", "prompts": ["c"]})


@each([
    ("blank_target", lines({"prompt": "a", "target": "b"}, {"prompt": "c", "target": "  "}),
     ["/facts/1/target"]),
    ("blank_rephrase", [{"src": "a", "alt": "b", "rephrase": " "}], ["/facts/0/rephrases/0"]),
    ("blank_probe", [{"prompt": "a", "target_new": "b", "locality_prompt": " "}],
     ["/facts/0/unrelated/0/prompt"]),
    ("member", [{"prompt": "a", "target": "b", "promts": []}], ["/facts/0/promts: there is no such member"]),
    ("id", [{"prompt": "a", "target": "b", "id": "?"}], ["/facts/0/id"]),
    ("ids", [{"prompt": p, "target": "b", "id": "x"} for p in "ac"], ["/facts/1/id: /facts/0 has the same id"]),
    ("label", [{"claim": "a", "label": "MAYBE"}], ["record 0", "SUPPORTS or REFUTES"]),
    ("no_facts", [], ["no facts in it"]),
    ("zero", '[{"prompt":"a\\u0000","target":"b"}]', ["line 1 column", "the character U+0000"]),
    ("contradiction", SAME, ["2 of 5 facts", "--keep-first", "/facts/2/target contradicts /facts/0"]),
    ("of_a_set", [{"claim": "a", "label": x} for x in ("SUPPORTS", "REFUTES")],
     ["1 of 2 facts", "--keep-first", "/facts/1/target contradicts /facts/0"]),
])
class Refused(Lab):
    def check(self, data, says):
        file = self.write("file", data)
        self.fails("facts", file, says=[file, *says])
        done = malmend("facts", file, "--json")
        self.assertEqual(done.returncode, 1)
        self.assertIn(says[-1], json.loads(done.stdout)["detail"])


class Choice(Lab):
    def test_part(self):
        """Places are those in the file, whatever is passed over; what is, is not looked at."""
        facts = demo_facts(n=6)
        file = self.write("file", {"facts": facts})
        for args, part in (((), facts), (("--limit", 2), facts[:2]), (("--skip", 4), facts[4:]),
                           (("--skip", 1, "--limit", 3), facts[1:4]), (("--limit", 100), facts)):
            self.assertEqual(self.json("facts", file, *args)["facts"], part)
        self.fails("facts", file, "--skip", 6, says=["6 facts", "--skip"])
        mixed = self.write("mixed", SAME + lines({"prompt": "i", "target": " "}))
        self.assertEqual(len(self.ok("facts", mixed, "--limit", 2).splitlines()), 2)
        self.fails("facts", mixed, "--skip", 1, "--limit", 3,
                   says=["1 of 3 facts", "/facts/3/target contradicts /facts/2"])
        self.fails("facts", mixed, "--skip", 4, says=["/facts/5/target"])

    def test_nothing_to_teach(self):
        """Records of a set without an answer are counted."""
        for name, data in [("zsre", [{"src": "a", "alt": ""}, {"src": "b", "alt": "c"}]),
                           ("pairs", "a\t\nb\tc\n"),
                           ("fever", [{"claim": "a", "label": "NOT ENOUGH INFO"},
                                      {"claim": "b", "label": "SUPPORTS"}])]:
            file = self.write(name, data)
            self.assertEqual(malmend("facts", file).stderr.decode(),
                             f"malmend: {file}: 1 of 2 records left out: there is nothing to teach in them\n")
        self.assertEqual(malmend("facts", self.write("all", SAME), "--keep-first").stderr.count(b"left out"), 1)

    def test_keep_first(self):
        """The first stay, a fact that says the same again does, too; how many go is said."""
        same = self.write("same", SAME)
        done = malmend("facts", same, "--keep-first")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([json.loads(line)["target"] for line in done.stdout.splitlines()], ["b", "d", " b"])
        self.assertIn(f"malmend: {same}: 2 of 5 facts left out: they have the prompt of an earlier one",
                      done.stderr.decode())
        self.assertEqual(self.ok("facts", self.write("kept", done.stdout)), done.stdout.decode())
        fine = malmend("facts", self.write("fine", demo_facts()), "--keep-first")
        self.assertEqual((fine.returncode, fine.stderr), (0, b""))
        ids = lines(*({"prompt": p, "target": t, "id": i} for p, t, i in ("abx", "acy", "dex")))
        self.fails("facts", self.write("ids", ids), "--keep-first",
                   says=["/facts/2/id: /facts/0 has the same id"])


class Posted(Lab):
    def test_taken(self):
        """The daemon takes what is printed, with all that a fact has."""
        harness.MODEL_ARGS = ["--model", str(MODEL), "--editor", str(self.editor())]
        d = Daemon()
        self.addCleanup(d.close)
        for name, data, facts in FORMS:
            request = self.json("facts", self.write(name, data))
            answer = d.call("POST", "/v1/edits", {**request, "validate_only": True})
            self.assertEqual((answer.status, answer.json.get("facts")), (200, len(facts)), name)
        text = self.ok("facts", self.dir / "api_array")
        answer = d.call("POST", "/v1/edits", text.encode(), headers={"Content-Type": "application/x-ndjson"})
        self.assertEqual((answer.status, answer.json.get("facts")), (202, 1))
        fact = d.get("/v1/facts/" + API["id"]).json
        self.assertEqual({key: fact.get(key) for key in API}, API)


if __name__ == "__main__":
    main()
