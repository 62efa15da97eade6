"""deploy/convert_editor.py: the authors' .pth files to editor files, and what it refuses.

data/editor_net.pth is PyTorch's own; the others are made here in its form, without PyTorch."""
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

from harness import main
from lab import Lab, each, read_floats, read_safetensors

ROOT = Path(os.environ["MAL_SOURCE_ROOT"])
SCRIPT = ROOT / "deploy/convert_editor.py"
REAL = Path(__file__).parent / "data/editor_net.pth"
CASE = ROOT / "tests/golden/cases/gpt2-malmen"
MODULES = ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]
SHAPES = {"normalizer.n": (1,), "normalizer.mean": (52,), "normalizer.var": (52,),
          "normalizer.std": (52,), "blocks.0.A": (52, 2), "blocks.0.B": (2, 52), "blocks.0.bias": (52,),
          "blocks.0.scale.weight": (2, 52), "blocks.0.shift.weight": (2, 52), "lr.weight": (2, 1),
          "lamda.weight": (2, 1)}
NAMES = {"(20, 32)." + part: shape for part, shape in SHAPES.items()}


def values(name):
    """As in data/make_net.py."""
    n = 1
    for size in NAMES[name]:
        n *= size
    return [((7 * i + 13 * len(name)) % 101 + 1) / 64 for i in range(n)]


# ---- torch.save's form ----

TORCH, UTILS = types.ModuleType("torch"), types.ModuleType("torch._utils")


def stand_in(module, name, thing):
    """What a pickle names as module.name."""
    thing.__module__, thing.__name__, thing.__qualname__ = module.__name__, name, name
    setattr(module, name, thing)


for kind in "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage":
    stand_in(TORCH, kind, type(kind, (), {}))
for function in "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_device_tensor_from_numpy":
    stand_in(UTILS, function, lambda *args: None)


class Storage:
    def __init__(self, kind, key, numel):
        self.pid = ("storage", getattr(TORCH, kind), key, "cuda:0", numel)


class Call:
    """What unpickling is to call."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


def bfloat(numbers):
    return b"".join(struct.pack("<f", x)[2:] for x in numbers)


def packed(code):
    return lambda numbers: struct.pack(f"<{len(numbers)}{code}", *numbers)


PACK = {"FloatStorage": packed("f"), "DoubleStorage": packed("d"), "HalfStorage": packed("e"),
        "BFloat16Storage": bfloat, "LongStorage": lambda numbers: packed("q")([int(x) for x in numbers])}


class Net:
    """A checkpoint to be: its state dict, and its storages' bytes."""

    def __init__(self, kind="FloatStorage"):
        self.state, self.entries = OrderedDict(), {"byteorder": b"little", "version": b"3\n"}
        for name, shape in NAMES.items():
            self.put(name, kind, values(name), shape)
        self.state._metadata = OrderedDict({"": {"version": 1}})

    def put(self, name, kind, numbers, shape, stride=None, offset=0, numel=None):
        key = str(len(self.entries))
        self.entries[f"data/{key}"] = PACK[kind](numbers)
        if stride is None:
            stride = (shape[1], 1) if len(shape) == 2 else (1,)
        self.state[name] = Call(UTILS._rebuild_tensor_v2,
                                Storage(kind, key, len(numbers) if numel is None else numel), offset,
                                tuple(shape), tuple(stride), False, OrderedDict())

    def write(self, path, compression=zipfile.ZIP_STORED, protocol=2):
        data = io.BytesIO()
        sys.modules.update({"torch": TORCH, "torch._utils": UTILS})
        try:
            Pickler(data, protocol).dump(self.state)
        finally:
            del sys.modules["torch"], sys.modules["torch._utils"]
        with zipfile.ZipFile(path, "w", compression) as file:
            file.writestr("net/data.pkl", data.getvalue())
            for name, content in self.entries.items():
                file.writestr(f"net/{name}", content)
        return path


# ---- Tests ----

class Converting(Lab):
    def convert(self, source, *args, out=None):
        return subprocess.run([sys.executable, SCRIPT, source, out or self.dir / "out.safetensors", *args],
                              capture_output=True, text=True, timeout=60)

    def good(self, source, *args):
        """The editor it became; with no more arguments, one of MODULES."""
        out = self.dir / "out.safetensors"
        args = args or ("--method", "malmen", "--modules", ",".join(MODULES))
        done = self.convert(source, *args)
        self.assertEqual((done.returncode, done.stderr, done.stdout), (0, "", ""))
        self.assertEqual([path.name for path in self.dir.glob("*.partial")], [])
        return read_safetensors(out)

    def check_values(self, tensors):
        self.assertEqual({name: tuple(shape) for name, (_, shape, _) in tensors.items()}, NAMES)
        for name, tensor in tensors.items():
            self.assertEqual(tensor[0], "F32")
            self.assertEqual(list(read_floats(tensor)), values(name), name)

    def refused(self, source, *says, modules=MODULES, code=1):
        out = self.write("kept.safetensors", "what was there")
        done = self.convert(source, "--method", "malmen", "--modules", ",".join(modules), out=out)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for text in (source, *says):
            self.assertIn(str(text), done.stderr)
        self.assertEqual(out.read_text(), "what was there")


class Convert(Converting):
    def test_real(self):
        metadata, tensors = self.good(REAL)
        self.check_values(tensors)
        self.assertEqual(metadata, {
            "format": "malmend-editor-1", "method": "malmen", "modules": json.dumps(MODULES),
            "tokens": "answer", "loss": "microbatch_mean", "micro_batch": "32", "rank": "2", "blocks": "1"})

    def test_options(self):
        config = self.write("gpt-2.yaml", "name_or_path: gpt2\nclass_name: AutoModelForCausalLM\n"
                            f"edit_modules:\n# - transformer.h.9.mlp.c_fc\n- {MODULES[1]}\n"
                            f"- {MODULES[0]}  # the first\n# - x\nhalf: False\nother:\n- y\n")
        metadata, _ = self.good(REAL, "--method", "mend", "--config", config, "--micro-batch", "16",
                                "--n-edits", "1024")
        self.assertEqual(json.loads(metadata["modules"]), MODULES[::-1])
        self.assertEqual({key: metadata[key] for key in ("method", "tokens", "micro_batch", "n_edits")},
                         {"method": "mend", "tokens": "all", "micro_batch": "16", "n_edits": "1024"})
        metadata, _ = self.good(REAL, "--method", "mend", "--config", config, "--tokens", "answer")
        self.assertEqual(metadata["tokens"], "answer")

    def test_edits(self):
        """malmend takes it, for both methods."""
        for method in "malmen", "mend":
            self.good(REAL, "--method", method, "--modules", ",".join(MODULES))
            report = self.json("edit", "--model", CASE / "model", "--editor", self.dir / "out.safetensors",
                               "--facts", CASE / "facts.json", "--out", self.dir / "delta")
            self.assertEqual(report["facts"], 5)

    def test_number_types(self):
        for kind in "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage":
            for protocol in 2, 4:
                _, tensors = self.good(Net(kind).write(self.dir / "net.pth", protocol=protocol))
                self.check_values(tensors)

    def test_strides(self):
        """Views into larger storages, transposed ones, and nn.Parameter."""
        net = Net()
        for name in "(20, 32).blocks.0.A", "(20, 32).blocks.0.B":
            rows, columns = NAMES[name]
            numbers = values(name)
            turned = [numbers[i * columns + k] for k in range(columns) for i in range(rows)]
            net.put(name, "HalfStorage", [9.0] * 3 + turned + [9.0], NAMES[name], (1, rows), 3)
        spread = [x for number in values("(20, 32).normalizer.std") for x in (9.0, number)]
        net.put("(20, 32).normalizer.std", "FloatStorage", spread, (52,), (2,), 1)
        name = "(20, 32).lr.weight"
        net.state[name] = Call(UTILS._rebuild_parameter, net.state[name], True, OrderedDict())
        _, tensors = self.good(net.write(self.dir / "net.pth"))
        self.check_values(tensors)

    def test_two_shapes(self):
        net = Net()
        for name, shape in list(NAMES.items()):
            shape = tuple(1 if part == 2 and "weight" in name else part for part in shape)
            net.put(name.replace("(20, 32)", "(32, 20)"), "FloatStorage", values(name), shape)
        source = net.write(self.dir / "net.pth")
        modules = [*MODULES, "transformer.h.1.mlp.c_fc"]
        _, tensors = self.good(source, "--method", "malmen", "--modules", ",".join(modules))
        self.assertEqual(len(tensors), 2 * len(NAMES))
        self.refused(source, "3 rows", "2 modules")

    def test_usage(self):
        for args in (["--method", "malmen"], ["--modules", "a"], ["--method", "rome", "--modules", "a"],
                     ["--method", "mend", "--modules", "a", "--config", "b"],
                     ["--method", "mend", "--modules", "a", "--n-edits", "0"]):
            self.assertEqual(self.convert(REAL, *args).returncode, 2)
        self.refused(REAL, "named twice", modules=MODULES[:1] * 2)
        config = self.write("empty.yaml", "edit_modules:\nhalf: False\n")
        done = self.convert(REAL, "--method", "mend", "--config", config)
        self.assertEqual((done.returncode, done.stderr),
                         (1, f"convert_editor.py: {config}: no list of edit_modules in it\n"))

    def test_output_refused(self):
        for out in self.dir, self.dir / "no/where":
            done = self.convert(REAL, "--method", "mend", "--modules", ",".join(MODULES), out=out)
            self.assertEqual(done.returncode, 1)
            self.assertIn(str(out), done.stderr)

    def test_other_files(self):
        self.refused(self.dir / "none", "No such file")
        self.refused(self.write("text", "no archive"), "not a file of torch.save")
        self.refused(self.write("legacy", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."),
                     "old form")
        with zipfile.ZipFile(self.dir / "zip", "w") as file:
            file.writestr("a/b", "c")
        self.refused(self.dir / "zip", "no data.pkl")
        self.refused(Net().write(self.dir / "deflated", zipfile.ZIP_DEFLATED), "compressed")
        self.refused(self.write("cut", REAL.read_bytes()[:3000]), "not a file of torch.save")


def change(name, value):
    return lambda net: net.state.update({name: value})


def put(name, *args, **more):
    return lambda net: net.put("(20, 32)." + name, "FloatStorage", *args, **more)


class Popped:
    """Leaves a mark where it runs."""

    def __reduce__(self):
        return os.system, (f"touch {Popped.mark}",)


@each([
    ("command", change("(20, 32).lr.weight", Popped()), "posix.system"),
    ("command_in_metadata", lambda net: setattr(net.state, "_metadata", Popped()), "posix.system"),
    ("eval", change("x", Call(eval, "1")), "__builtin__.eval"),
    ("getattr", change("x", Call(getattr, 1, "real")), "__builtin__.getattr"),
    ("other_rebuild", change("x", Call(UTILS._rebuild_device_tensor_from_numpy, 1)),
     "torch._utils._rebuild_device_tensor_from_numpy"),
    ("integers", lambda net: net.put("(20, 32).normalizer.n", "LongStorage", [1], (1,)),
     "torch.LongStorage"),
    ("odd_storage", change("x", Call(UTILS._rebuild_tensor_v2, 1, 0, (1,), (1,))), "makes no sense"),
    ("negative_stride", put("lr.weight", [1.0] * 4, (2, 1), (-1, 1), 3), "makes no sense"),
    ("optimizer", change("param_groups", [1]), "_net.pth"),
    ("no_dict", lambda net: setattr(net, "state", [1, 2]), "no state dict"),
    ("nothing", lambda net: net.state.clear(), "no tensors"),
    ("missing", lambda net: net.state.pop("(20, 32).lr.weight"), "'(20, 32).lr.weight' is missing"),
    ("missing_mean", lambda net: net.state.pop("(20, 32).normalizer.mean"),
     "'(20, 32).normalizer.mean' is missing"),
    ("missing_block", put("blocks.2.bias", [1.0] * 52, (52,)), "'(20, 32).blocks.1.A' is missing"),
    ("more", put("more", [1.0], (1,)), "'(20, 32).more' is not part"),
    ("foreign", change("wte.weight", Call(UTILS._rebuild_tensor_v2, Storage("FloatStorage", "2", 1), 0,
                                          (1,), (1,))), "'wte.weight' is not part"),
    ("shape", put("normalizer.mean", [1.0] * 51, (51,)), "'(20, 32).normalizer.mean' is (51,), not (52,)"),
    ("turned", put("blocks.0.B", [1.0] * 104, (52, 2)), "'(20, 32).blocks.0.B' is (52, 2), not (2, 52)"),
    ("lr_vector", put("lr.weight", [1.0] * 2, (2,)), "'(20, 32).lr.weight' is (2,), not a matrix"),
    ("rows", put("lr.weight", [1.0] * 3, (3, 1)), "scale.weight' is (2, 52), not (3, 52)"),
    ("beyond_storage", put("lr.weight", [1.0] * 2, (2, 1), (1, 1), 1), "'(20, 32).lr.weight' is larger"),
    ("expanded", put("blocks.0.A", [1.0], (52, 2), (0, 0)), "'(20, 32).blocks.0.A' is larger"),
    ("short_storage", put("lr.weight", [1.0], (2, 1), numel=2), "'(20, 32).lr.weight' is larger"),
    ("no_storage", lambda net: net.entries.pop("data/2"), "data/2 is missing"),
    ("big_endian", lambda net: net.entries.update(byteorder=b"big"), "byte order"),
])
class Refused(Converting):
    """Files in torch.save's form that no editor is in."""

    def check(self, change, says):
        Popped.mark = self.dir / "mark"
        net = Net()
        change(net)
        self.refused(net.write(self.dir / "net.pth"), says)
        self.assertFalse(Popped.mark.exists())


if __name__ == "__main__":
    main()
