"""The golden cases of encoder-decoders and classifiers, as the tests of commands use them."""
import json
import math
import struct

from lab import DEMO, read_safetensors

CASES = DEMO.parent / "golden/cases"


class Golden:
    """A model, its editor, facts, and what PyTorch computes from them."""

    def __init__(self, name):
        self.dir = CASES / name
        self.model, self.editor, self.path = (self.dir / n for n in
                                              ("model", "editor.safetensors", "facts.json"))
        self.facts = json.loads(self.path.read_text())
        self.expected = json.loads((self.dir / "expected.json").read_text())
        self.prompts = [fact["prompt"] for fact in self.facts]
        self.probes = [probe for fact in self.facts for probe in fact["unrelated"]]
        self.modules = sorted(self.expected["modules"])
        self.args = ["--model", self.model, "--editor", self.editor]

    def measures(self, when):
        """Teacher-forced, as a report has them."""
        return {key: self.expected[when][key] for key in ("es", "gs", "ls")}

    def logits(self, of, when):
        _, tensors = read_safetensors(self.dir / "expected.safetensors")
        dtype, (rows, columns), data = tensors[f"logits.{of}.{when}"]
        assert dtype == "F32"
        values = struct.unpack(f"<{rows * columns}f", data)
        return [values[i * columns:(i + 1) * columns] for i in range(rows)]

    def probabilities(self, of, when):
        """Of SUPPORTS."""
        return [1 / (1 + math.exp(-logit)) for logit, in self.logits(of, when)]


T5, T5_ORIGINAL, BERT = Golden("t5-malmen"), Golden("t5-malmen-original"), Golden("bert-malmen")
