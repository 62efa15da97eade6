#!/usr/bin/env python3
"""Turns the network that the authors' MALMEN code saves (..._net.pth) into malmend's editor file.

    convert_editor.py IN.pth OUT.safetensors --method malmen --config model/gpt-2.yaml --n-edits 1024
    convert_editor.py IN.pth OUT.safetensors --method mend --modules NAME,NAME...

The modules and their order are those of the configuration it was trained with: rows of lr, lamda,
scale and shift belong to them in that order. Needs no PyTorch. Of the pickle in the file only what
a state dict consists of is read; anything else it names is refused, and nothing of it is run."""
import argparse
import array
import collections
import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile

MAX_PICKLE = 16 << 20

# torch's storage classes: type code in array (or one read by hand), bytes each
STORAGES = {"FloatStorage": ("f", 4), "DoubleStorage": ("d", 8), "HalfStorage": ("half", 2),
            "BFloat16Storage": ("bfloat", 2)}


class Problem(Exception):
    """What is wrong with the input, to be shown."""


# ---- torch.save's files ----

Kind = collections.namedtuple("Kind", "name code size")
Storage = collections.namedtuple("Storage", "kind key numel")
Tensor = collections.namedtuple("Tensor", "storage offset shape stride")


def is_count(value):
    return type(value) is int and value >= 0


def rebuild_tensor(storage, offset, shape, stride, *_):
    sizes = (*shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else ()
    if not isinstance(storage, Storage) or not all(map(is_count, (offset, *sizes))) \
            or len(shape) != len(stride):
        raise Problem("a tensor whose description makes no sense")
    return Tensor(storage, offset, shape, stride)


def rebuild_parameter(data, *_):
    return data


ALLOWED = {("collections", "OrderedDict"): collections.OrderedDict,
           ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
           ("torch._utils", "_rebuild_parameter"): rebuild_parameter}
ALLOWED.update({("torch", name): Kind(name, *how) for name, how in STORAGES.items()})


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise Problem(f"its pickle asks for {module}.{name}, which no state dict needs: refused")
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise Problem("its pickle refers to something that is no storage")
        _, kind, key, _, numel = pid
        if not isinstance(kind, Kind) or not isinstance(key, str) or not is_count(numel):
            raise Problem("a storage whose description makes no sense")
        return Storage(kind, key, numel)


class TorchFile:
    """{name: Tensor} of a state dict, and their numbers."""

    def __init__(self, path):
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                legacy = file.read(2) == b"\x80\x02"
            raise Problem("torch.save's old form, not a zip archive; load it with PyTorch and save it again"
                          if legacy else "not a file of torch.save")
        self.zip = zipfile.ZipFile(path)
        pickles = [name for name in self.zip.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise Problem("a zip archive, but not one of torch.save: no data.pkl")
        self.root = pickles[0].removesuffix("data.pkl")
        if self.root + "byteorder" in self.zip.namelist() and self.entry("byteorder") != b"little":
            raise Problem("it was saved on a machine of another byte order")
        self.tensors = self.load(self.entry("data.pkl", MAX_PICKLE))

    def entry(self, name, most=None):
        """An entry's bytes. torch.save stores entries as they are, so none can be larger than the
        file."""
        try:
            info = self.zip.getinfo(self.root + name)
        except KeyError:
            raise Problem(f"its entry {name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 \
                or (most and info.file_size > most):
            raise Problem(f"its entry {name} is compressed, encrypted or too large")
        return self.zip.read(info)

    @staticmethod
    def load(data):
        try:
            state = Unpickler(io.BytesIO(data)).load()
        except Problem:
            raise
        except Exception as problem:
            raise Problem(f"its pickle cannot be read: {problem}") from None
        if not isinstance(state, dict):
            raise Problem("it holds no state dict")
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                hint = "; the network's file ends in _net.pth" if "param_groups" in state else ""
                raise Problem(f"'{name}' is not a tensor{hint}")
        return state

    def numbers(self, name):
        """A tensor's elements in order as fp32."""
        storage, offset, shape, stride = self.tensors[name]
        kind = storage.kind
        data = self.entry("data/" + storage.key)
        count = 1
        for n in shape:
            count *= n
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
        if len(data) < storage.numel * kind.size or count > storage.numel or \
                (count and last >= storage.numel):
            raise Problem(f"tensor '{name}' is larger than what is stored of it")
        values = floats(memoryview(data)[:storage.numel * kind.size], kind.code)
        return gather(values, offset, shape, stride) if count else array.array("f")


def floats(data, code):
    """fp32 out of a storage's bytes; what fp32 has no room for is infinite."""
    if code == "half":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data))
    out = array.array("f" if code == "bfloat" else code)
    if code == "bfloat":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        data = wide
    out.frombytes(data)
    if sys.byteorder == "big":
        out.byteswap()
    return out if out.typecode == "f" else array.array("f", out)


def gather(values, offset, shape, stride):
    if not shape:
        return values[offset:offset + 1]
    (n, *shape), (step, *stride) = shape, stride
    if not shape and step > 0:
        return values[offset:offset + (n - 1) * step + 1:step]
    out = array.array("f")
    for i in range(n):
        out += gather(values, offset + i * step, shape, stride)
    return out


# ---- Editors ----

def parts(size, rank, blocks, modules):
    """Name and shape of each tensor of a network."""
    yield "normalizer.n", (1,)
    for part in ("mean", "var", "std"):
        yield f"normalizer.{part}", (size,)
    for i in range(blocks):
        block = f"blocks.{i}."
        yield from ((block + "A", (size, rank)), (block + "B", (rank, size)), (block + "bias", (size,)),
                    (block + "scale.weight", (modules, size)), (block + "shift.weight", (modules, size)))
    yield from (("lr.weight", (modules, 1)), ("lamda.weight", (modules, 1)))


def dimension(shapes, name, axis):
    """One of a matrix's sizes, from which the others' follow."""
    if name not in shapes:
        raise Problem(f"tensor '{name}' is missing")
    if len(shapes[name]) != 2:
        raise Problem(f"tensor '{name}' is {shapes[name]}, not a matrix")
    return shapes[name][axis]


def check(tensors, modules):
    """rank, blocks; every tensor is one of an editor for these modules, and none is missing."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    pattern = re.compile(r"(\(([1-9]\d*), ([1-9]\d*)\))\.(blocks\.(\d{1,3})\.)?")
    found = {name: pattern.match(name) for name in shapes}
    for name, match in found.items():
        if not match:
            raise Problem(f"tensor '{name}' is not part of an editor")
    if not found:
        raise Problem("it holds no tensors")
    blocks = 1 + max(int(match[5] or -1) for match in found.values())
    prefixes = {match[1]: int(match[2]) + int(match[3]) for match in found.values()}
    rank = dimension(shapes, f"{next(iter(prefixes))}.blocks.0.A", 1) if blocks else 1
    rows, expected = 0, {}
    for prefix, size in prefixes.items():
        own = dimension(shapes, f"{prefix}.lr.weight", 0)
        rows += own
        expected.update({f"{prefix}.{part}": shape for part, shape in parts(size, rank, blocks, own)})
    for name in {**expected, **shapes}:
        if name not in shapes:
            raise Problem(f"tensor '{name}' is missing")
        if name not in expected:
            raise Problem(f"tensor '{name}' is not part of an editor")
        if shapes[name] != expected[name]:
            raise Problem(f"tensor '{name}' is {shapes[name]}, not {expected[name]}")
    if rows != len(modules):
        raise Problem(f"its lr has {rows} rows in all, but {len(modules)} modules are named")
    return rank, blocks


def write(path, tensors, metadata):
    """tensors: [(name, shape, bytes)]. The file is there whole or not at all."""
    header, at = {"__metadata__": metadata}, 0
    for name, shape, data in tensors:
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, _, data in tensors:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.isfile(partial):
            os.remove(partial)
        raise


def little_endian(values):
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


# ---- Command line ----

def configured_modules(path):
    """edit_modules of one of the reference's YAML files: names behind dashes, comments aside."""
    names, inside = [], False
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split("#", 1)[0].strip()
            if inside and words.startswith("- "):
                names.append(words[2:].strip().strip("'\""))
            elif words:
                inside = words == "edit_modules:"
    if not names:
        raise Problem("no list of edit_modules in it")
    return names


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("input", metavar="IN.pth")
    parser.add_argument("output", metavar="OUT.safetensors")
    parser.add_argument("--method", required=True, choices=["malmen", "mend"],
                        help="what it was trained as; the file itself does not say")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--modules", metavar="LIST", help="edited modules in order, between commas")
    which.add_argument("--config", metavar="FILE", help="the reference's YAML file with edit_modules")
    parser.add_argument("--tokens", choices=["answer", "all"],
                        help="rows that were edited (default: answer for malmen, all for mend)")
    parser.add_argument("--micro-batch", type=int, default=32, metavar="N",
                        help="the reference's data.batch_size (default: 32)")
    parser.add_argument("--n-edits", type=int, metavar="N", help="facts per step of its training")
    args = parser.parse_args()
    if args.micro_batch < 1 or (args.n_edits is not None and args.n_edits < 1):
        parser.error("--micro-batch and --n-edits must be positive")
    return args


def convert(args, modules):
    file = TorchFile(args.input)
    rank, blocks = check(file.tensors, modules)
    metadata = {"format": "malmend-editor-1", "method": args.method, "modules": json.dumps(modules),
                "tokens": args.tokens or ("answer" if args.method == "malmen" else "all"),
                "loss": "microbatch_mean", "micro_batch": str(args.micro_batch), "rank": str(rank),
                "blocks": str(blocks)}
    if args.n_edits is not None:
        metadata["n_edits"] = str(args.n_edits)
    tensors = [(name, file.tensors[name].shape, little_endian(file.numbers(name)))
               for name in sorted(file.tensors)]
    return tensors, metadata


def main():
    args = arguments()
    at = args.config or args.input
    try:
        modules = configured_modules(args.config) if args.config else args.modules.split(",")
        if "" in modules or len(set(modules)) < len(modules):
            raise Problem("a module is named twice, or not at all")
        at = args.input
        tensors, metadata = convert(args, modules)
        at = args.output
        if os.path.exists(at) and not os.path.isfile(at):
            raise Problem("not a regular file")
        write(at, tensors, metadata)
    except (Problem, OSError, UnicodeDecodeError, zipfile.BadZipFile) as problem:
        text = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        print(f"convert_editor.py: {at}: {text}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
