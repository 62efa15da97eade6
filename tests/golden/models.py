"""Models as transformers computes them, in fp32 or wholly in fp64, and texts as their ids: what each
kind of model differs in. Kinds are `model_type` of config.json."""
import contextlib
import json
import os
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM,
                          BertConfig, BertForSequenceClassification, BertModel)
from transformers.utils import logging

IGNORED = -100
ANSWERS = ("REFUTES", "SUPPORTS")  # of a fact checker: 0.0, 1.0
logging.disable_progress_bar()
logging.set_verbosity_error()


def read_config(model_dir):
    with open(os.path.join(model_dir, "config.json"), encoding="utf-8") as file:
        return json.load(file)


@contextlib.contextmanager
def wholly(dtype, floats=False):
    """transformers casts norms, softmax and angles to float32 by name. In here that name is dtype.
    Tensor.float() stays, for T5's buckets are of fp32 in either; with floats, as Gemma's norms cast so,
    it is dtype, too."""
    before = torch.float32, torch.float, torch.get_default_dtype(), torch.Tensor.float
    torch.float32 = torch.float = dtype
    torch.set_default_dtype(dtype)
    if floats:
        torch.Tensor.float = lambda tensor: tensor.to(dtype)
    try:
        yield
    finally:
        torch.float32, torch.float, _, torch.Tensor.float = before
        torch.set_default_dtype(before[2])


class FactChecker(torch.nn.Module):
    """The paper's: a linear layer on the first position's hidden state. Logits are (texts, 1, 1)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone = BertModel(config)
        self.classifier = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, input_ids, attention_mask=None):
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(logits=self.classifier(hidden[:, :1]), hidden=hidden)


class HubChecker(BertForSequenceClassification):
    """The hub's: pooler and classifier. Of two labels the log odds of the second."""

    def forward(self, input_ids, attention_mask=None):
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask,
                              output_hidden_states=True)
        logits = out.logits[:, -1:] - (out.logits[:, :1] if out.logits.shape[1] == 2 else 0)
        return SimpleNamespace(logits=logits[:, None], hidden=out.hidden_states[-1])


def family_of(config):
    kinds = {"bert": HubChecker, "mistral3": AutoModelForImageTextToText, "t5": AutoModelForSeq2SeqLM}
    return kinds.get(config["model_type"], AutoModelForCausalLM)


def text_of(config):
    """Its members that are about text, which may be a part of it."""
    return {**config.get("text_config", {}), **config}


def open_checkpoint(model_dir, config):
    """The model in fp32, every tensor accounted for."""
    if config["architectures"] == ["AutoModelForFEVER"]:
        model = FactChecker(BertConfig(**config, attn_implementation="eager"))
        model.load_state_dict(load_file(os.path.join(model_dir, "model.safetensors")))
        return model
    model, info = family_of(config).from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    if any(info.values()):
        raise ValueError(f"{model_dir}: {info}")
    return model


def load_model(model_dir, dtype):
    model = open_checkpoint(model_dir, read_config(model_dir))
    model.requires_grad_(False).eval()
    for parameter in model.parameters():  # out of the file, where it may lie at any address:
        parameter.data = parameter.data.clone()  # sums are grouped by address
    if dtype == torch.float32:
        return model
    model.to(dtype)  # leaves fp32's digits in what is computed on construction: rotary angles
    floats = model.config.model_type.startswith("gemma")
    with wholly(dtype, floats):
        fresh = type(model)(model.config)
    for name, value in fresh.named_buffers():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, value)
    forward = model.forward

    def wide(*args, **kwargs):
        with wholly(dtype, floats):
            return forward(*args, **kwargs)

    model.forward = wide
    return model


class Texts:
    """Prompts and targets as a model's ids, and ids as its batches."""

    def __init__(self, model_dir):
        self.kind = read_config(model_dir)["model_type"]
        path = os.path.join(model_dir, "tokenizer.json")
        self.tokenizer = Tokenizer.from_file(path)
        with open(path, encoding="utf-8") as file:
            self.sentencepiece = json.load(file)["model"].get("byte_fallback", False)

    @property
    def convention(self):
        if self.kind == "bert":
            return "tok(prompt) with [CLS], [SEP]; label 1.0 for SUPPORTS at the first position"
        if self.kind == "t5":
            return ("encoder: tok(prompt) with </s>; decoder: [0] + tok(target, no special)[:-1]; "
                    "labels tok(target)")
        if self.sentencepiece:
            return ("tok(prompt) + ids that follow it in tok(prompt + ' ' + target), "
                    "without the last")
        return "tok(prompt) + tok(join + target, no special), without the last"

    def encode(self, prompt, target, join=" "):
        """Ids, and what each must predict: causal models see tok(prompt) ++ tok(join target) without
        the last token."""
        prompt, target = prompt.rstrip(" "), target.lstrip(" ")
        head = self.tokenizer.encode(prompt).ids
        if self.kind == "bert":
            return {"ids": head, "labels": [float(ANSWERS.index(target))]}
        if self.kind == "t5":
            tail = self.tokenizer.encode(target, add_special_tokens=False).ids
            return {"ids": head, "labels": tail, "decoder_ids": [0] + tail[:-1]}
        if self.sentencepiece:
            both = self.tokenizer.encode(prompt + join + target).ids
            if both[:len(head)] != head:
                raise ValueError(f"{prompt!r} is not a prefix of itself with {target!r}")
            tail = both[len(head):]
        else:
            tail = self.tokenizer.encode(join + target, add_special_tokens=False).ids
        return {"ids": head + tail[:-1], "labels": [IGNORED] * (len(head) - 1) + tail}

    def encode_fact(self, fact):
        join = fact.get("join", " ")
        probe = fact["unrelated"][0]
        return {"edit": self.encode(fact["prompt"], fact["target"], join),
                "rephrase": self.encode(fact["rephrases"][0], fact["target"], join),
                "unrelated": self.encode(probe["prompt"], probe["target"], join)}

    def pad(self, examples):
        """The model's arguments and the labels, (examples, longest) each."""
        def block(key, value):
            width = max(len(e[key]) for e in examples)
            return torch.tensor([e[key] + [value] * (width - len(e[key])) for e in examples])

        ids, labels = block("ids", 0), block("labels", IGNORED)
        lengths = torch.tensor([[len(e["ids"])] for e in examples])
        inputs = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths).long()}
        if self.kind == "t5":
            inputs["decoder_input_ids"] = block("decoder_ids", 0)
        return inputs, labels

    def edit_tokens(self, module, inputs, labels, tokens):
        """Which positions of a padded batch are a module's edit tokens."""
        mask = inputs["attention_mask"] == 1
        if self.kind == "bert":
            return mask if tokens == "all" else mask & (torch.arange(mask.shape[1]) == 0)
        if self.kind == "t5":
            return mask if stack_of(module) == "encoder" else labels != IGNORED
        return mask if tokens == "all" else labels != IGNORED


def stack_of(module):
    """T5: whose tokens a module sees. Keys and values of the decoder's second attention see the
    encoder's."""
    across = module.rpartition(".")
    of_source = across[0].endswith(".EncDecAttention") and across[2] in ("k", "v")
    return "encoder" if of_source or module.startswith("encoder") else "decoder"
