"""A model of some hundred megabytes opens in little more memory than its file has: no second copy."""
import os
import subprocess

from harness import main
from lab import MALMEND, Lab, read_floats, read_safetensors
from sparse import gptj


def peak_bytes(command):
    """Of the process; its own, not the parent's."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


class LargeModel(Lab):
    def test_one_copy(self):
        bytes_ = gptj(self.dir / "large", layers=8, channels=1024, heads=8)
        self.assertGreater(bytes_, 400e6)
        out = self.dir / "out"
        code, peak = peak_bytes([MALMEND, "logits", "--model", self.dir / "large", "--tokens",
                                 self.write("tokens", "1 2 50399\n"), "--out", out])
        self.assertEqual(code, 0)
        logits = read_safetensors(out)[1]["logits.0"]
        self.assertEqual(logits[:2], ("F32", [3, 50400]))
        self.assertEqual(set(read_floats(logits)), {0.0})
        self.assertLessEqual(peak, 1.15 * bytes_)


if __name__ == "__main__":
    main()
