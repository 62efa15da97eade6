"""The benchmark that compares methods (tests/bench/compare.py) runs, and goes on where it was."""
import json
import pathlib
import subprocess
import sys

from harness import main
from lab import MALMEND, Lab, tiny_model

COMPARE = pathlib.Path(__file__).resolve().parent.parent / "bench/compare.py"
FACTS = [{"prompt": f"{letter} is", "target": letter.upper(), "rephrases": [f"is {letter}"],
          "unrelated": [{"prompt": f"{letter} or"}]} for letter in "abcdef"]


class Compare(Lab):
    def compare(self, *labels):
        model, out = self.dir / "model", self.dir / "out.json"
        facts = self.write("facts.json", json.dumps(FACTS))
        subprocess.run([sys.executable, COMPARE, "--malmend", MALMEND, "--model", model, "--data", facts,
                        "--train-data", facts, "--preserve", facts, "--out", out, "--n", "1", "1024",
                        "--methods", *labels], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return json.loads(out.read_text())

    def test_points(self):
        tiny_model(self.dir / "model")
        first = self.compare("MALMEN, untrained")["points"]
        result = self.compare("MALMEN, untrained", "LocFT-BF")
        points = result["points"]
        self.assertEqual(points[:2], first)
        self.assertEqual([(p["label"], p["n"], p["batches"]) for p in points],
                         [(label, n, 6 // n) for label in ("MALMEN, untrained", "LocFT-BF")
                          for n in (1, 6)])
        for point in points:
            self.assertEqual(point["after"]["facts"], 6)
            self.assertGreater(point["seconds_per_fact"], 0)
        tried = result["editors"]["LocFT-BF"]["tried"]
        self.assertEqual(max(t["score"] for t in tried), next(
            t["score"] for t in tried if t["hyper"] == result["editors"]["LocFT-BF"]["chosen"]))


if __name__ == "__main__":
    main()
