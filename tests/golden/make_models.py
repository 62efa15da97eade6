"""Writes the small models of the golden cases: whole Hugging Face directories. Part of make_golden.py."""
import json
import os

import torch

import world
import world_models
from files import save, write_json
from models import ANSWERS, IGNORED, Texts, load_model
from world_tokenizers import make_tokenizer

# GPT-2: one with n_inner given, one with it null, one of more blocks.
GPT2 = {"given": dict(channels=32, heads=4, inner=20), "null": dict(channels=16, heads=4, inner=None),
        "deep": dict(channels=16, heads=4, inner=24, layers=4)}
POSITIONS = 64


def gpt2(model):
    """Configuration and tokenizer files of a GPT-2."""
    config = world.make_config(**GPT2[model], vocabulary=world.VOCABULARY, positions=POSITIONS)
    special = {k: world.END for k in ("bos_token", "eos_token", "unk_token")}
    return config, (world.make_tokenizer(), {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special,
        "model_max_length": POSITIONS, "clean_up_tokenization_spaces": False}, special)


def weights_of(config, seed):
    make = world.make_weights if config["model_type"] == "gpt2" else world_models.make_weights
    return make(config, seed)


def write_bare(folder, config, stored):
    """A model without a tokenizer."""
    os.makedirs(folder, exist_ok=True)
    write_json(f"{folder}/config.json", config)
    save(stored, f"{folder}/model.safetensors", {"format": "pt"})


def centre(folder):
    """Moves a fact checker's bias so that it says both yes and no."""
    model, texts = load_model(folder, torch.float32), Texts(folder)
    ids = [{"ids": texts.tokenizer.encode(text).ids, "labels": [0]} for text in world.probe_claims()]
    with torch.no_grad():
        model.classifier.bias -= model(**texts.pad(ids)[0]).logits.median()
    save(model.state_dict(), f"{folder}/model.safetensors", {"format": "pt"})


def write_model(folder, model, seed):
    """model: a key of GPT2 or of world_models.CONFIGS. A seed with which the model knows too little is
    passed over."""
    for attempt in range(40):
        write_files(folder, model, seed + 1000 * attempt)
        if len(list(known_probes(folder))) >= 3:
            return
    raise ValueError(f"{model}: no seed is good enough")


def write_files(folder, model, seed):
    if model in GPT2:
        config, (tokenizer, settings, special) = gpt2(model)
    else:
        config = world_models.CONFIGS[model]()
        positions = config.get("max_position_embeddings", config.get("n_positions", 512))
        tokenizer, settings, special = make_tokenizer(model.removesuffix("-original"), positions)
    weights = weights_of(config, seed)
    write_bare(folder, config, world_models.with_copies(weights) if model == "t5-original" else weights)
    with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(tokenizer, file, ensure_ascii=False, separators=(",", ":"))
    write_json(f"{folder}/special_tokens_map.json", special)
    write_json(f"{folder}/tokenizer_config.json", settings)
    if model == "bert":
        centre(folder)


@torch.no_grad()
def known_probes(model_dir):
    """Probes that the base model answers right, so that LS has something to lose."""
    model, texts = load_model(model_dir, torch.float32), Texts(model_dir)
    for prompt in world.probe_claims() if texts.kind == "bert" else world.probe_prompts():
        ids = {"ids": texts.tokenizer.encode(prompt).ids, "labels": [0], "decoder_ids": [0]}
        logits = model(**texts.pad([ids])[0]).logits[0, -1]
        if texts.kind == "bert":
            yield {"prompt": prompt, "target": ANSWERS[int(logits[0] > 0)]}
            continue
        token = logits.argmax().item()
        target = texts.tokenizer.decode([token]).strip()
        if not target:
            continue
        labels = texts.encode(prompt, target)["labels"]
        if [label for label in labels if label != IGNORED] == [token]:
            yield {"prompt": prompt, "target": target}
