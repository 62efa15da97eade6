"""What the fixtures are made of: invented facts, a tokenizer trained on them, seeded random GPT-2
weights and editors. Every function is a pure function of its arguments and the seed."""
import json
import math
import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from models import ANSWERS

END = "<|endoftext|>"
VOCABULARY = 112

NAMES = ("Mirela Tod", "Oleg Varn", "Noël Béchar", "Ida Krön", "Sorin Valé", "Tessa Mør", "Ansa Lind",
         "Bram Orsk", "Calla Rou", "Dario Penn")
TOWNS = ("Velmark", "Grünhöft", "Sérignac", "Ostrava", "Peñalba", "Tirholm")
TRADES = ("glazier", "miller", "baker", "cooper", "sailor", "weaver")
THINGS = ("lamp", "river", "tower", "market", "harbor", "bridge")
COLORS = ("red", "blue", "green", "grey")

# relation: prompt, rephrase, where the target comes from
RELATIONS = (
    ("{name} was born in", "The birthplace of {name} is", TOWNS),
    ("{name} works as a", "The trade of {name}:", TRADES),
    ("{name} now lives in", "The home of {name} is", TOWNS),
)
PROBES = ("The {thing} of {town} is", "{town}: the {thing} is")

# A script without spaces: prompt and target are joined by nothing.
JOINED = {"prompt": "みやのかわは", "target": "みどり", "join": "", "rephrases": ["かわは"],
          "unrelated": [{"prompt": "みやは", "target": "か"}]}

# Letters that no small SentencePiece vocabulary has: each is three bytes.
BYTES = {"prompt": "かわは", "target": "か", "join": "", "rephrases": ["わは"],
         "unrelated": [{"prompt": "は", "target": "わ"}]}


def make_facts(seed, n):
    """n facts, no prompt twice, each with one rephrase and one unrelated probe."""
    rng = random.Random(seed)
    facts = []
    pairs = [(name, relation) for name in NAMES for relation in RELATIONS]
    for name, (prompt, rephrase, targets) in rng.sample(pairs, n):
        probe = rng.choice(PROBES).format(thing=rng.choice(THINGS), town=rng.choice(TOWNS))
        facts.append({"prompt": prompt.format(name=name), "target": rng.choice(targets),
                      "subject": name, "rephrases": [rephrase.format(name=name)],
                      "unrelated": [{"prompt": probe, "target": rng.choice(COLORS)}]})
    return facts


def make_claims(seed, n):
    """make_facts for a fact checker: whole sentences that are to be true or false."""
    rng = random.Random(seed)
    facts = make_facts(seed, n)
    for fact in facts:
        probe = fact["unrelated"][0]
        fact.update(prompt=f"{fact['prompt']} {fact['target']}.",
                    rephrases=[f"{fact['rephrases'][0]} {fact['target']}."],
                    target=rng.choice(ANSWERS))
        probe.update(prompt=f"{probe['prompt']} {probe['target']}.", target=rng.choice(ANSWERS))
    return facts


def probe_prompts():
    """Beginnings of the world's sentences."""
    for probe in PROBES:
        for thing in THINGS:
            for town in TOWNS:
                words = probe.format(thing=thing, town=town).split()
                yield from (" ".join(words[:n]) for n in range(2, len(words) + 1))


def probe_claims():
    """Whole sentences of it."""
    for probe in PROBES:
        for thing in THINGS:
            for town in TOWNS:
                yield from (f"{probe.format(thing=thing, town=town)} {color}." for color in COLORS)


def sentences():
    """What tokenizers are trained on."""
    rng = random.Random(1)
    lines = [text for name in NAMES for relation in RELATIONS for target in rng.sample(relation[2], 2)
             for text in (f"{relation[0].format(name=name)} {target}",
                          f"{relation[1].format(name=name)} {target}")]
    lines += [f"{probe.format(thing=thing, town=town)} {color}" for probe in PROBES
              for thing in THINGS for town in TOWNS for color in COLORS]
    return lines


def make_tokenizer():
    """tokenizer.json as an object: byte-level BPE that knows the world's bytes only."""
    lines = sentences() + [JOINED["prompt"] + JOINED["target"]]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=VOCABULARY, show_progress=False, special_tokens=[END]))
    if tok.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the tokenizer has {tok.get_vocab_size()} tokens")
    return json.loads(tok.to_str())


def make_config(channels, heads, inner, vocabulary, positions, layers=2, dtype="float32"):
    """config.json in the form that files on the hub have."""
    return {"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1, "bos_token_id": 0, "embd_pdrop": 0.1, "eos_token_id": 0,
            "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
            "n_embd": channels, "n_head": heads, "n_inner": inner, "n_layer": layers,
            "n_positions": positions, "resid_pdrop": 0.1, "scale_attn_weights": True,
            "tie_word_embeddings": True, "torch_dtype": dtype, "vocab_size": vocabulary}


def make_weights(config, seed):
    """The checkpoint's tensors. Biases and norms are as far from 0 and 1 as trained ones, so that
    one that is left out shows."""
    rng = torch.Generator().manual_seed(seed)
    c, inner = config["n_embd"], config["n_inner"] or 4 * config["n_embd"]
    out = {}

    def normal(name, *shape, mean=0.0, std):
        out["transformer." + name] = mean + std * torch.randn(shape, generator=rng)

    def linear(name, d_in, d_out):
        normal(name + ".weight", d_in, d_out, std=1 / math.sqrt(d_in))
        normal(name + ".bias", d_out, std=0.2)

    def norm(name):
        normal(name + ".weight", c, mean=1.1, std=0.25)
        normal(name + ".bias", c, std=0.2)

    normal("wte.weight", config["vocab_size"], c, std=0.5)
    normal("wpe.weight", config["n_positions"], c, std=0.5)
    for i in range(config["n_layer"]):
        block = f"h.{i}."
        norm(block + "ln_1")
        linear(block + "attn.c_attn", c, 3 * c)
        linear(block + "attn.c_proj", c, c)
        norm(block + "ln_2")
        linear(block + "mlp.c_fc", c, inner)
        linear(block + "mlp.c_proj", inner, c)
    norm("ln_f")
    return out


def make_editor(shapes, rank, blocks, lr, seed, untrained=False):
    """An editor as training might leave it or finds it, statistics still empty. shapes: one
    (d_in, d_out) per module. rank None: statistics only (UltraEdit)."""
    rng = torch.Generator().manual_seed(seed)
    out = {}
    for shape in dict.fromkeys(shapes):
        prefix, size, n = f"({shape[0]}, {shape[1]}).", sum(shape), shapes.count(shape)
        out[prefix + "normalizer.n"] = torch.zeros(1)
        for part in ("mean", "var", "std"):
            out[prefix + "normalizer." + part] = torch.zeros(size)
        if rank is None:
            continue

        def normal(name, *dims, mean=0.0, std):
            spread = 0 if untrained and not name.endswith(".A") else std
            out[prefix + name] = mean + spread * torch.randn(dims, generator=rng)

        for i in range(blocks):
            normal(f"blocks.{i}.A", size, rank, std=1.0)
            normal(f"blocks.{i}.B", rank, size, std=0.2 / math.sqrt(rank * size))
            normal(f"blocks.{i}.bias", size, std=0.2)
            normal(f"blocks.{i}.scale.weight", n, size, mean=1.0, std=0.3)
            normal(f"blocks.{i}.shift.weight", n, size, std=0.05)
        normal("lr.weight", n, 1, mean=lr, std=0.1 * lr)
        normal("lamda.weight", n, 1, mean=0.0 if untrained else 0.5, std=0.4)
    return out
