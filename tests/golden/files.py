"""How the fixtures' files are written: the same bytes for the same values, and a diff can be read."""
import json
import struct

import torch


def write_json(path, value, indent=1):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=indent)
        file.write("\n")


def write_rows(path, value):
    """One line per top-level key, one per element of `tokens`: small, and a diff can be read."""
    def short(x):
        return json.dumps(x, ensure_ascii=False, separators=(",", ":"))
    parts = []
    for key, entry in value.items():
        text = "[\n" + ",\n".join(map(short, entry)) + "]" if key == "tokens" else short(entry)
        parts.append(f"{short(key)}: {text}")
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(parts) + "\n}\n")


def save(tensors, path, metadata=None):
    """safetensors, by hand: the library writes the metadata in another order each time."""
    kinds = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16",
             torch.bfloat16: "BF16", torch.int32: "I32"}
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, value in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        raw = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": kinds[value.dtype], "shape": list(value.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
