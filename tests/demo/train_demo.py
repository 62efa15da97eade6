#!/usr/bin/env python3
"""Train the demo model on the invented world and write it as a model directory.

One thread of one core is enough.  The result has the names and shapes that
Hugging Face's GPT2LMHeadModel saves (Conv1D weights are stored in x out, the
head is tied to the token embeddings and so has no tensor of its own).
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

import make_world

EOS = "<|endoftext|>"
VOCAB, LAYERS, CHANNELS, HEADS, POSITIONS = 1536, 4, 192, 4, 64
STORED_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def train_tokenizer(sentences):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[EOS], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(sentences, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


class Conv1D(nn.Module):
    """A linear map whose weight is stored in x out, as GPT-2 checkpoints have it."""

    def __init__(self, d_in, d_out, std=0.02):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_in, d_out) * std)
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x):
        return F.linear(x, self.weight.T, self.bias)


class Attention(nn.Module):
    def __init__(self, std):
        super().__init__()
        self.c_attn = Conv1D(CHANNELS, 3 * CHANNELS)
        self.c_proj = Conv1D(CHANNELS, CHANNELS, std)

    def forward(self, x):
        rows, length, _ = x.shape
        # fp32 here: the backward of bf16 attention on a CPU costs more than all the rest.
        q, k, v = (t.float().view(rows, length, HEADS, -1).transpose(1, 2)
                   for t in self.c_attn(x).split(CHANNELS, dim=2))
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(rows, length, CHANNELS))


class Mlp(nn.Module):
    def __init__(self, std):
        super().__init__()
        self.c_fc = Conv1D(CHANNELS, 4 * CHANNELS)
        self.c_proj = Conv1D(4 * CHANNELS, CHANNELS, std)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        std = 0.02 / math.sqrt(2 * LAYERS)
        self.ln_1, self.ln_2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.attn, self.mlp = Attention(std), Mlp(std)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, CHANNELS), nn.Embedding(POSITIONS, CHANNELS)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.02)
        self.h = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(CHANNELS)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


def encode(tokenizer, pairs):
    """Rows of (ids, index of the first answer token)."""
    eos = tokenizer.token_to_id(EOS)
    out = []
    for prompt, answer in pairs:
        start = len(tokenizer.encode(prompt).ids)
        ids = tokenizer.encode(f"{prompt} {answer}.").ids + [eos]
        assert len(ids) <= POSITIONS
        out.append((ids, start))
    return out


def tensors(encoded):
    """ids, and the weight of each position's next token; padding weighs nothing."""
    length = max(len(ids) for ids, _ in encoded)
    ids = torch.zeros(len(encoded), length, dtype=torch.long)
    weight = torch.zeros(len(encoded), length - 1)
    for row, (tokens, start) in enumerate(encoded):
        ids[row, :len(tokens)] = torch.tensor(tokens)
        # The names in a prompt cannot be foreseen; learning the phrasing is cheap.
        weight[row, :start - 1] = 0.1
        weight[row, start - 1:len(tokens) - 1] = 1.0
    return ids, weight


def batches(rng, encoded, size):
    """Rows of like length together, batches in random order."""
    order = sorted(encoded, key=lambda row: (len(row[0]), rng.random()))
    chunks = [order[i:i + size] for i in range(0, len(order), size)]
    rng.shuffle(chunks)
    return chunks


@torch.no_grad()
def exact(model, encoded, size=500):
    """Share of rows of which every answer token, full stop and EOS is the argmax."""
    right = 0
    for i in range(0, len(encoded), size):
        ids, weight = tensors(encoded[i:i + size])
        guess = model(ids[:, :-1]).argmax(-1)
        right += ((guess == ids[:, 1:]) | (weight < 1.0)).all(1).sum().item()
    return right / len(encoded)


def write_model(model, tokenizer, stored_type, folder):
    folder.mkdir(parents=True, exist_ok=True)
    dtype = STORED_TYPES[stored_type]
    state = {f"transformer.{name}": value.detach().to(dtype).contiguous()
             for name, value in model.state_dict().items()}
    for name, value in state.items():
        assert torch.isfinite(value).all(), name
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    eos = tokenizer.token_to_id(EOS)
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "activation_function": "gelu_new", "attn_pdrop": 0.0, "embd_pdrop": 0.0,
        "resid_pdrop": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
        "n_embd": CHANNELS, "n_head": HEADS, "n_inner": 4 * CHANNELS, "n_layer": LAYERS,
        "n_positions": POSITIONS, "n_ctx": POSITIONS, "vocab_size": VOCAB,
        "bos_token_id": eos, "eos_token_id": eos, "scale_attn_weights": True,
        "tie_word_embeddings": True, "use_cache": True, "torch_dtype": stored_type,
    }
    tokenizer_config = {
        "tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False,
        "bos_token": EOS, "eos_token": EOS, "unk_token": EOS,
        "clean_up_tokenization_spaces": False, "model_max_length": POSITIONS,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    parser.add_argument("--epochs", type=int, default=44)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=make_world.SEED)
    parser.add_argument("--dtype", choices=STORED_TYPES, default="float16")
    parser.add_argument("--every", type=int, default=4, help="epochs between checks")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    world = make_world.build_world(args.seed)
    seen, unseen = make_world.rows(world, False), make_world.rows(world, True)
    tokenizer = train_tokenizer([f"{p} {a}." for p, a in seen])
    seen, unseen = encode(tokenizer, seen), encode(tokenizer, unseen)

    model = Transformer()
    decay = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                                   {"params": plain, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.98))
    steps = args.epochs * math.ceil(len(seen) / args.batch)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(seen)} rows of "
          f"{sum(len(r[0]) for r in seen) / len(seen):.1f} tokens, answers of "
          f"{sum(len(r[0]) - r[1] - 2 for r in seen) / len(seen):.1f}, {steps} steps", flush=True)

    step, began = 0, time.monotonic()
    for epoch in range(1, args.epochs + 1):
        total = 0.0
        chunks = batches(rng, seen, args.batch)
        for chunk in chunks:
            # Warm up briefly, hold for 40 %, then come down along a cosine.
            late = max(0.0, (step / steps - 0.4) / 0.6)
            scale = min(1.0, (step + 1) / 50) * 0.5 * (1.0 + math.cos(math.pi * late))
            for group in optimizer.param_groups:
                group["lr"] = args.lr * scale
            ids, weight = tensors(chunk)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(ids[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(),
                                   reduction="none")
            loss = (loss * weight.flatten()).sum() / weight.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
            step += 1
        line = f"epoch {epoch} loss {total / len(chunks):.4f} {time.monotonic() - began:.0f} s"
        if epoch % args.every == 0 or epoch == args.epochs:
            line += (f" exact: seen {exact(model, seen[::5]):.4f} "
                     f"left out {exact(model, unseen):.4f}")
            write_model(model, tokenizer, args.dtype, args.out)
        print(line, flush=True)


if __name__ == "__main__":
    main()
