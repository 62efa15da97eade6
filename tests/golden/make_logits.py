"""Makes the logits cases: sequences of random ids, and what logits.py computes of them. Part of
make_golden.py."""
import os

import torch

import world
import world_models
from files import save, write_json
from logits import compute
from make_models import weights_of, write_bare
from models import read_config, text_of

SHORT = [1, 2, 17]


def random_sequences(config, lengths, seed):
    """T5: lengths are the encoder's, and the decoder has fewer."""
    rng = torch.Generator().manual_seed(seed)

    def draw(n):
        return torch.randint(text_of(config)["vocab_size"], (n,), generator=rng).tolist()

    sequences = [{"ids": draw(n)} for n in lengths]
    if config["model_type"] == "t5":
        for sequence, n in zip(sequences, (1, 5, 2, 24)):
            sequence["decoder_ids"] = [0] + draw(n - 1)
    return sequences


def is_clear(config, tensors, margin):
    """Greedy generation cannot come out otherwise: margins are as large as in edit cases, no token is
    the end, and it is not one token again and again."""
    end = text_of(config)["eos_token_id"]
    new = [value.tolist() for name, value in tensors.items() if name.startswith("generate")]
    return margin >= 4 and all(len(set(ids)) >= 3 for ids in new) and not any(
        token in (end if isinstance(end, list) else [end]) for ids in new for token in ids)


def make_logits(root, name, folder, kind, lengths, seed, generated=(), note=None):
    """generated: the numbers of the sequences that are continued."""
    config = read_config(f"{root}/{folder}")
    for attempt in range(40):
        sequences = random_sequences(config, lengths, seed + 1000 * attempt)
        tensors, error, margin = compute(f"{root}/{folder}", sequences, generated)
        if not generated or is_clear(config, tensors, margin):
            break
    else:
        raise ValueError(f"logits {name}: no seed is good enough")
    for part in ("ids", "decoder_ids"):
        tensors.update({f"{part}.{k}": torch.tensor(sequence[part], dtype=torch.int32)
                        for k, sequence in enumerate(sequences) if part in sequence})
    save(tensors, f"{root}/logits/{name}.safetensors")
    write_json(f"{root}/logits/{name}.json", {
        "model": folder, "kind": kind, "sequences": len(sequences), "lengths": lengths,
        "tolerance": max(4 * error, 2e-5), "reference_error": error,
        **({"generated": list(generated), "generate_margin": margin} if generated else {}),
        **({"note": note} if note else {})})
    print(f"logits {name}: error {error:.1e}, margin {margin}", flush=True)


# ---- Models of which there are logits only ----

def stored_as(dtype, config, seed):
    text = str(dtype).removeprefix("torch.")
    state = {name: value.to(dtype) for name, value in weights_of(config, seed).items()}
    return {**config, "torch_dtype": text}, state


def with_hub_names(config, seed):
    """GPT-2 as in its first files."""
    stored = {k.removeprefix("transformer."): v for k, v in weights_of(config, seed).items()}
    n = config["n_positions"]
    mask = torch.ones(n, n).tril()[None, None]
    stored.update({f"h.{i}.attn.bias": mask.clone() for i in range(config["n_layer"])})
    return stored


def beside_images(config, seed):
    """Names as on the hub."""
    def name(own):
        if own.startswith("lm_head."):
            return f"language_model.{own}"
        own = own.removeprefix("model.")
        return own.replace("language_model.", "language_model.model.", 1)
    return {name(k): v for k, v in weights_of(config, seed).items()}


def write_sharded(folder, config, state):
    """Three files and an index; a layer's tensors lie in two of them."""
    os.makedirs(folder)
    write_json(f"{folder}/config.json", config)
    names, where = sorted(state), {}
    for k in range(3):
        shard = f"model-0000{k + 1}-of-00003.safetensors"
        part = names[k * len(names) // 3:(k + 1) * len(names) // 3]
        where.update({name: shard for name in part})
        save({name: state[name] for name in part}, f"{folder}/{shard}", {"format": "pt"})
    size = sum(value.nbytes for value in state.values())
    write_json(f"{folder}/model.safetensors.index.json",
               {"metadata": {"total_size": size}, "weight_map": where})


def make_bare_cases(root):
    models = "logits/models"
    small = world.make_config(12, 4, None, vocabulary=48, positions=20)
    llama = world_models.llama(48)
    for kind, config, lengths, seeds in (("gpt2", small, SHORT + [20], (200, 8)),
                                         ("llama", llama, SHORT + [33], (210, 18))):
        for short, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            name = f"{kind}-{short}"
            write_bare(f"{root}/{models}/{name}", *stored_as(dtype, config, seeds[0]))
            make_logits(root, name, f"{models}/{name}", kind, lengths, seeds[1],
                        note=f"weights stored in {short}; computed in fp32 from them")
    for name, config, stored, seed, generated, note in (
            ("gpt2-hubnames", small, with_hub_names(small, 200), 8, (),
             "names without `transformer.`, with stored causal masks"),
            ("qwen2-untied", world_models.qwen2_untied(), None, 38, (1, 2),
             "config.json as transformers 5 writes it"),
            ("llama-yarn", world_models.yarn(), None, 68, (1, 2), "rope_scaling yarn"),
            ("llama-yarn-mscale", world_models.yarn(mscale=1.5, mscale_all_dim=0.5, truncate=False), None,
             78, (), "the same with mscale, bounds between channels"),
            ("gemma", world_models.gemma(), None, 68, (1, 2), "gelu by the name it had first"),
            ("gemma3-resaved", world_models.gemma3_resaved(), None, 78, (1, 2),
             "config.json as transformers 5 writes it"),
            ("gemma3-images", world_models.gemma3_images(), None, 88, (1, 2),
             "a text model beside one of images, named as modules of transformers 5"),
            ("mistral3-images", world_models.mistral3_images(),
             beside_images(world_models.mistral3_images(), 230), 98, (1, 2), "likewise, named as on the hub"),
            ("olmo3", world_models.olmo3(), None, 128, (1, 2), "windows, and rotations by kinds of blocks"),
            ("smollm3", world_models.smollm3(), None, 138, (1, 2), "a block without rotation, with a window"),
            ("bert-hub", world_models.hub_bert(1), None, 48, (), "one label, through the pooler"),
            ("bert-hub-labels", world_models.hub_bert(2), None, 58, (),
             "two labels: logits.* are the second's log odds")):
        folder = f"{models}/{name}"
        write_bare(f"{root}/{folder}", config, stored or weights_of(config, 230))
        limit = 20 if config["model_type"] == "gpt2" else 33
        make_logits(root, name, folder, config["model_type"], SHORT + [limit], seed, generated, note)
    write_sharded(f"{root}/{models}/llama-sharded", llama, weights_of(llama, 210))
    make_logits(root, "llama-sharded", f"{models}/llama-sharded", "llama", SHORT + [33], 18,
                note="three shards and an index")


def make_logit_cases(root, homes):
    """homes: {name of the logits: the case whose model they are of}"""
    os.makedirs(f"{root}/logits/models")
    for k, (name, home) in enumerate(homes.items()):
        folder = f"{home}/model"
        config = read_config(f"{root}/{folder}")
        longest = config.get("max_position_embeddings", config.get("n_positions"))
        longest = config.get("original_max_position_embeddings", longest)
        if config["model_type"] == "t5":  # beyond the last bucket
            longest = 140
        if config["vocab_size"] > 256:  # many numbers a position
            longest = 20
        kind = home.partition("-")[0]
        make_logits(root, name, folder, kind, SHORT + [longest], 7 + 100 * k,
                    () if kind == "bert" else (1, 2))
    make_bare_cases(root)
