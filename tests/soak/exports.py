"""Versions for other engines, as files of the command and as downloads: each is the version, number for number."""
import array
import hashlib
import io
import json
import math
import operator
import shutil
import struct
import tarfile

from lab import malmend, read_safetensors
from reads import asked

PIECE = 1 << 18  # bytes of a tensor that are hashed together
EXACT = 2e-6     # of an adapter that is said to be


# ---- Numbers ----

def floats(tensor):
    values = array.array("f")
    values.frombytes(tensor[2])
    return values


def wide(tensor):
    dtype, _, data = tensor
    if dtype == "BF16":
        both = bytearray(2 * len(data))
        both[2::4], both[3::4] = data[0::2], data[1::2]
        return floats((dtype, None, bytes(both)))
    letter = {"F16": "e", "F32": "f"}[dtype]
    return array.array("f", struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data))


def narrow(values, dtype):
    """The bytes of fp32 numbers, each rounded once to its nearest, to an even one of two."""
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    bits = array.array("I", values.tobytes())
    return array.array("H", [(b + 0x7fff + (b >> 16 & 1)) >> 16 for b in bits]).tobytes()


def norm(values):
    return math.sqrt(math.fsum(x * x for x in values))


def apply(values, rows, columns, x):
    """A matrix (rows, columns) on a vector."""
    return [sum(map(operator.mul, values[i * columns:(i + 1) * columns], x)) for i in range(rows)]


def turn(values, rows, columns):
    return [values[i * columns + j] for j in range(columns) for i in range(rows)]


# ---- Weights ----

def field(data):
    return struct.pack("<Q", len(data)) + data


def weights_hash(tensors):
    """As core/README.md has it, of {name: tensor}."""
    whole = hashlib.sha256()
    for name in sorted(tensors, key=module_of):
        dtype, shape, data = tensors[name]
        pieces = b"".join(hashlib.sha256(data[i:i + PIECE]).digest() for i in range(0, len(data), PIECE))
        whole.update(field(module_of(name).encode()) + field(dtype.encode()))
        whole.update(struct.pack(f"<{1 + len(shape)}Q", len(shape), *shape) + hashlib.sha256(pieces).digest())
    return whole.hexdigest()


def module_of(tensor):
    return tensor.removesuffix(".weight")


def edited(base, difference):
    """round(W0 + T) of each tensor."""
    made = {}
    for name, t in difference.items():
        dtype, shape, data = base[name]
        assert t[:2] == ("F32", shape), (name, t[:2])
        sums = array.array("f", [x + y for x, y in zip(wide((dtype, shape, data)), floats(t))])
        made[name] = dtype, shape, narrow(sums, dtype)
    return made


# ---- What each must be ----

def check_weights(w, number, path, report):
    row, (about, tensors) = w.model.versions[number], read_safetensors(path)
    assert about["format"] == "pt" and len(tensors) == report["modules"], (about, report)
    assert set(tensors) == set(module_tensors(w, number)), tensors.keys()
    assert weights_hash(tensors) == row.weights, f"version {number} is exported with other weights"


def check_delta(w, number, path, _=None):
    row, (about, tensors) = w.model.versions[number], read_safetensors(path)
    assert (about["version"], about["weights_hash"]) == (str(number), row.weights), about
    w.deltas[number] = tensors
    if row.weights == w.model.versions[0].weights and not any(any(t[2]) for t in tensors.values()):
        return
    assert weights_hash(edited(base_of(w), tensors)) == row.weights, f"the base and the delta are not version {number}"
    norms = {m["name"]: m["shift_norm"] for m in w.get(f"/v1/versions/{number}")["modules"]}
    for name, tensor in tensors.items():
        assert math.isclose(norm(floats(tensor)), norms[module_of(name)], rel_tol=1e-5), (number, name, norms)


def check_lora(w, number, path, report):
    """As far from the difference as it says, at most: by what both make of a vector."""
    config = json.loads((path / "adapter_config.json").read_text())
    about, tensors = read_safetensors(path / "adapter_model.safetensors")
    error = report["relative_error"]
    assert math.isclose(float(about["relative_error"]), error, rel_tol=0.01), (about, report)
    if number not in w.deltas:
        return
    for name, t in w.deltas[number].items():
        module = module_of(name)
        if module not in config["target_modules"]:
            assert not any(t[2]), f"{module} is not in the adapter"
            continue
        rows, columns = t[1]
        turned = config["fan_in_fan_out"]  # rows of GPT-2's matrices are inputs
        assert turned == (w.options.family == "gpt2"), config
        a, b = (tensors[f"base_model.model.{module}.lora_{which}.weight"] for which in "AB")
        r, n_in, n_out = config["r"], *(t[1] if turned else (columns, rows))
        assert (a[1], b[1]) == ([r, n_in], [n_out, r]), (a[1], b[1], config)
        a, b, x = floats(a), floats(b), [w.rng.gauss(0, 1) for _ in range(columns)]
        want = apply(floats(t), rows, columns, x)
        if turned:  # T is (B A)'
            have = apply(turn(a, r, n_in), n_in, r, apply(turn(b, n_out, r), r, n_out, x))
        else:
            have = apply(b, n_out, r, apply(a, r, n_in, x))
        off, bound = norm([p - q for p, q in zip(want, have)]), norm(floats(t)) * norm(x)
        assert off <= (error * 1.01 + EXACT) * bound, f"{module} of version {number} is off by {off / bound}: {report}"


def check_model(w, number, path, _):
    """It has the version's weights, and says what the version says."""
    weights = w.model.versions[number].weights
    tensors = read_safetensors(path / "model.safetensors")[1]
    have = weights_hash({name: tensors[name] for name in module_tensors(w, number)})
    assert have == weights, f"version {number} is exported as a model with the weights {have}"
    if w.options.classifies:
        return
    said, which = w.said.get(weights), w.rng.randrange(len(asked(w)))
    done = malmend("complete", "--model", path, "--device", "cpu", "--prompt", asked(w)[which]["prompt"],
                   "--max-tokens", 10, "--json")
    assert done.returncode == 0, done.stderr
    text = json.loads(done.stdout)["text"]
    assert said is None or said[which] == text, f"version {number} says {said[which]}, exported {text}"


def base_of(w):
    if not w.base:
        w.base.update(read_safetensors(w.options.model / "model.safetensors")[1])
    return w.base


def module_tensors(w, number):
    names = [m["name"] for m in w.get(f"/v1/versions/{number}")["modules"]]
    return [name if name in base_of(w) else name + ".weight" for name in names]


CHECKS = {"safetensors": check_weights, "delta": check_delta, "lora": check_lora, "model": check_model}


# ---- Operations ----

def gone_out(out):
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)


def export(w):
    r = w.rng
    number, form = r.randrange(len(w.model.versions)), r.choice(list(CHECKS))
    out = w.dir / "out"
    row = w.model.versions[number]
    done = malmend("export", "--db", w.db, "--model", w.options.model, "--version", number, "--format", form,
                   "--out", out, "--json")
    w.note("export", number, form, done.returncode, done.stdout, done.stderr)
    why = done.stderr.decode()
    try:
        if done.returncode:
            assert not out.exists(), f"{why}, and {out} is there"
            assert done.returncode == 1, (done.returncode, why)
            assert w.options.pruned and "pruned" in why or form == "lora" and w.options.bias and ".bias" in why, \
                (number, form, why)
            return
        report = json.loads(done.stdout)
        assert (report["version"], report["weights_hash"]) == (number, row.weights), (report, row)
        CHECKS[form](w, number, out, report)
    finally:
        gone_out(out)


def downloaded(w, number, form, answer):
    """A download that is new."""
    out = w.dir / "downloaded"
    try:
        if form == "safetensors":
            out.write_bytes(answer.body)
            check_delta(w, number, out)
        else:
            with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
                tar.extractall(out, filter="data")
            check_lora(w, number, out, {"relative_error": float(answer.headers["Malmend-Relative-Error"])})
    finally:
        gone_out(out)


def download(w):
    """Whole and in part; what has one tag is one file, whatever was pruned since."""
    r = w.rng
    number, form = r.randrange(len(w.model.versions)), r.choice(["safetensors", "lora"])
    if w.files and r.random() < 0.6:
        number, form, _ = r.choice(list(w.files))
    path, query = f"/v1/versions/{number}/delta", {"format": form}
    answer = w.call("GET", path, query=query)
    if answer.status == 409:
        assert w.options.pruned or w.options.bias and form == "lora" and ".bias" in answer.json["detail"], answer.body
        return
    tag, body = answer.headers["ETag"], answer.body
    if (number, form, tag) not in w.files:
        downloaded(w, number, form, answer)
    assert w.files.setdefault((number, form, tag), body) == body, f"{path} {form}: another file under the tag {tag}"
    begin = r.randrange(len(body))
    part = w.call("GET", path, query=query, headers={"Range": f"bytes={begin}-{begin + 999}", "If-Range": tag})
    if part.status == 409 and w.options.pruned or part.status == 200 and part.headers["ETag"] != tag:
        return
    assert (part.status, part.body) == (206, body[begin:begin + 1000]), (path, begin, part.status)


OPERATIONS = {export: 2.5, download: 4}
