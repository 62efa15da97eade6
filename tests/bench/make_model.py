"""Makes what the benchmarks run on: a random checkpoint of about 100 M parameters, in fp32 (model) and
bf16 (model-bf16), and facts (facts-N.json).

    make_model.py DIR --kind {bert,gemma3,gpt2,gptj,llama,olmo2,qwen2,qwen3,t5} --data DATA [--facts 512]
    make_model.py DIR [--facts 256 1024] [--train 1280]

With DATA, a folder of public files, the tokenizers and facts are real: zsRE's questions, FEVER's claims
for BERT. Without it the model is of GPT-2 small's shape, tokenizer and facts are invented, and there are
an editor of the paper's size (editor.safetensors), the same before training with the reference's loss
(init.safetensors), and facts with rephrases and probes for training (train.json).

Needs numpy, safetensors, tokenizers, torch and transformers."""
import argparse
import json
import os
import random
import shutil

import numpy
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertConfig, BertModel,
                          Gemma3TextConfig, GPT2Config, GPTJConfig, LlamaConfig, Olmo2Config, Qwen2Config, Qwen3Config,
                          T5Config)

import invented

LAYERS_GPT2, CHANNELS_GPT2 = 12, 768
GPT2_TOKENIZER = {"tokenizer.json": "gpt2/tokenizer.json"}

# kind: its shape, and the files of its tokenizer. BERT and GPT-2 are of their smallest published size.
KINDS = {
    "bert": (BertConfig(vocab_size=30522), {"vocab.txt": "bert/bert-base-uncased-vocab.txt"}),
    "gemma3": (Gemma3TextConfig(vocab_size=50257, num_hidden_layers=12, hidden_size=640, intermediate_size=2048,
                                num_attention_heads=4, num_key_value_heads=1, head_dim=256,
                                max_position_embeddings=1024, sliding_window=512, bos_token_id=None,
                                eos_token_id=50256, pad_token_id=None), GPT2_TOKENIZER),
    "gpt2": (GPT2Config(n_layer=LAYERS_GPT2, n_embd=CHANNELS_GPT2, n_head=12), GPT2_TOKENIZER),
    "gptj": (GPTJConfig(vocab_size=50400, n_layer=16, n_embd=512, n_head=4, rotary_dim=64,
                        n_positions=1024, tie_word_embeddings=False), GPT2_TOKENIZER),
    "llama": (LlamaConfig(vocab_size=32000, num_hidden_layers=12, hidden_size=640, intermediate_size=1728,
                          num_attention_heads=10, max_position_embeddings=1024),
              {"tokenizer.model": "llama2/tokenizer.model"}),
    "olmo2": (Olmo2Config(vocab_size=50257, num_hidden_layers=10, hidden_size=768, intermediate_size=2048,
                          num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=1024,
                          bos_token_id=None, eos_token_id=50256, pad_token_id=None), GPT2_TOKENIZER),
    "qwen2": (Qwen2Config(vocab_size=50257, num_hidden_layers=10, hidden_size=768, intermediate_size=2048,
                          num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=1024,
                          tie_word_embeddings=True, bos_token_id=None, eos_token_id=50256),
              GPT2_TOKENIZER),
    "qwen3": (Qwen3Config(vocab_size=50257, num_hidden_layers=10, hidden_size=768, intermediate_size=2048,
                          num_attention_heads=8, num_key_value_heads=2, head_dim=128,
                          max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
                          eos_token_id=50256), GPT2_TOKENIZER),
    "t5": (T5Config(vocab_size=32128, num_layers=8, d_model=512, d_kv=64, d_ff=1536, num_heads=8,
                    feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                    decoder_start_token_id=0), {"tokenizer.json": "t5/tokenizer.json"}),
}


class FactChecker(torch.nn.Module):
    """BERT as MALMEN trains it: one label, from the first position."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone = BertModel(config, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, **inputs):
        return self.classifier(self.backbone(**inputs).last_hidden_state[:, 0])


def empty_model(config):
    if config.model_type == "bert":
        return FactChecker(config)
    family = AutoModelForSeq2SeqLM if config.model_type == "t5" else AutoModelForCausalLM
    return family.from_config(config)


def make_tensors(config):
    """Biases and norms are not 0 and 1, so that one that is left out shows in the loss."""
    rng = torch.Generator().manual_seed(7)
    tensors = {}
    with torch.device("meta"):  # what is tied is there once
        shapes = {name: value.shape for name, value in empty_model(config).named_parameters()}
    if config.model_type == "t5":
        shapes["lm_head.weight"] = shapes["shared.weight"]
    for name, shape in sorted(shapes.items()):
        norm = len(shape) == 1 and name.endswith("weight") and config.model_type != "gemma3_text"
        tensors[name] = float(norm) + 0.02 * torch.randn(shape, generator=rng)
    return tensors


def make_checkpoint(directory, config, tensors, dtype):
    os.makedirs(directory, exist_ok=True)
    save_file({name: value.to(dtype) for name, value in tensors.items()},
              os.path.join(directory, "model.safetensors"), {"format": "pt"})
    values = {**config.to_dict(), "dtype": str(dtype).removeprefix("torch.")}
    if config.model_type == "t5":  # version 1.1, as files on the hub say it
        values["tie_word_embeddings"] = False
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)


def real_facts(data, kind, n):
    if kind == "bert":
        with open(os.path.join(data, "fever", "fever_labelled_dev.json"), encoding="utf-8") as file:
            facts = [{"prompt": one["claim"], "target": one["label"]} for one in json.load(file)
                     if one["label"] in ("SUPPORTS", "REFUTES")]
    else:
        path = os.path.join(data, "zsre", "zsre_mend_train_en_10000.txt")
        with open(path, encoding="utf-8") as file:
            pairs = [line.rstrip("\n").split("\t") for line in file]
        facts = [{"prompt": src, "target": alt} for src, alt in pairs if alt.strip()]
    return random.Random(7).sample(facts, n)


def write_facts(directory, name, facts):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump({"facts": facts}, file)


def make_real(directory, kind, data, numbers):
    """A checkpoint of that kind in both types with the files of its tokenizer, and real facts."""
    config, files = KINDS[kind]
    tensors = make_tensors(config)
    for name, dtype in (("model", torch.float32), ("model-bf16", torch.bfloat16)):
        model = os.path.join(directory, name)
        make_checkpoint(model, config, tensors, dtype)
        for file, source in files.items():
            shutil.copyfile(os.path.join(data, "tokenizers", source), os.path.join(model, file))
    for n in numbers:
        write_facts(directory, f"facts-{n}.json", real_facts(data, kind, n))


def make_invented(directory, numbers, n_train):
    config, _ = KINDS["gpt2"]
    model = os.path.join(directory, "model")
    make_checkpoint(model, config, make_tensors(config), torch.float32)
    invented.make_tokenizer(os.path.join(model, "tokenizer.json"))
    modules = [f"transformer.h.{i}.mlp.c_proj" for i in range(LAYERS_GPT2 // 2, LAYERS_GPT2)]
    sizes = 4 * CHANNELS_GPT2, CHANNELS_GPT2
    rng = numpy.random.default_rng(7)
    invented.make_editor(os.path.join(directory, "editor.safetensors"), modules, *sizes, rng)
    invented.make_editor(os.path.join(directory, "init.safetensors"), modules, *sizes, rng,
                         "microbatch_mean", 0)
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    for n in numbers:
        write_facts(directory, f"facts-{n}.json", invented.make_facts(n, tokenizer))
    write_facts(directory, "train.json", invented.make_facts(n_train, tokenizer, measured=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("directory")
    parser.add_argument("--kind", choices=sorted(KINDS), default="gpt2")
    parser.add_argument("--data", help="real tokenizers and facts")
    parser.add_argument("--facts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--train", type=int, default=1280)
    args = parser.parse_args()
    if args.data:
        make_real(args.directory, args.kind, args.data, args.facts)
    elif args.kind == "gpt2":
        make_invented(args.directory, args.facts, args.train)
    else:
        parser.error(f"--kind {args.kind} needs --data")


if __name__ == "__main__":
    main()
