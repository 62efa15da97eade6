"""A GPT-J of any size whose weights are zeros: a sparse file, which takes hardly a block of the disk."""
import json
import struct

TOKENIZER = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
             "decoder": None, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}


def shapes(layers, channels, vocab):
    yield "transformer.wte.weight", [vocab, channels]
    yield "transformer.ln_f.weight", [channels]
    yield "transformer.ln_f.bias", [channels]
    yield "lm_head.weight", [vocab, channels]
    yield "lm_head.bias", [vocab]
    for i in range(layers):
        block = f"transformer.h.{i}."
        yield block + "ln_1.weight", [channels]
        yield block + "ln_1.bias", [channels]
        for name in ("q", "k", "v", "out"):
            yield f"{block}attn.{name}_proj.weight", [channels, channels]
        yield block + "mlp.fc_in.weight", [4 * channels, channels]
        yield block + "mlp.fc_in.bias", [4 * channels]
        yield block + "mlp.fc_out.weight", [channels, 4 * channels]
        yield block + "mlp.fc_out.bias", [channels]


def gptj(path, layers, channels, heads, vocab=50400):
    """Makes the directory, weights in fp16; the size of its tensors in bytes."""
    header, end = {}, 0
    for name, shape in shapes(layers, channels, vocab):
        size = 2
        for d in shape:
            size *= d
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.mkdir()
    with open(path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (path / "config.json").write_text(json.dumps({
        "model_type": "gptj", "n_layer": layers, "n_embd": channels, "n_head": heads,
        "rotary_dim": 64, "n_positions": 2048, "vocab_size": vocab}))
    return end
