"""Small tokenizers of every kind, trained on the world's own texts, with the settings the hub's have:
tokenizer.json, tokenizer_config.json and special_tokens_map.json as objects."""
import json
import math
from collections import Counter

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

from world import sentences

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
         r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train(tokenizer, size, lines):
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return json.loads(tokenizer.to_str())["model"]


def specials(tokenizer, names):
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])


def bos_first(token, number):
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, number)])


# ---- Byte-level BPE ----

def byte_level(size, added, digits=None, normalizer=None, bos=None):
    """digits: how many a piece may have, with the split pattern of today's models."""
    tok = Tokenizer(models.BPE(ignore_merges=bos is not None))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits is not None:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(SPLIT.format(digits=digits)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    if normalizer:
        tok.normalizer = normalizer
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tok, size, sentences())
    specials(tok, added)
    if bos:
        tok.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False), bos_first(bos, tok.token_to_id(bos))])
    return tok


def gptj():
    end = "<|endoftext|>"
    tok = byte_level(96, [end])
    tok.add_tokens([AddedToken(f"<|extratoken_{k}|>", normalized=True) for k in (1, 2)])
    return tok, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": end,
                 "eos_token": end, "unk_token": end}


def llama3():
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    tok = byte_level(96, [begin, end, "<|eot_id|>"], digits="{1,3}", bos=begin)
    return tok, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end}


def qwen2():
    end = "<|endoftext|>"
    tok = byte_level(96, [end, "<|im_start|>", "<|im_end|>"], digits="", normalizer=normalizers.NFC())
    return tok, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None,
                 "eos_token": end, "pad_token": end, "unk_token": None}


# ---- SentencePiece ----

MARK = "▁"


def pieces(size, lines):
    """A BPE's vocabulary and merges over words with their mark."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    model = train(tok, size, lines)
    return list(model["vocab"]), [tuple(pair) for pair in model["merges"]]


def frequent(lines, n):
    """The lines with their n most frequent characters only."""
    counts = Counter("".join(lines))
    kept = sorted(counts, key=lambda c: (-counts[c], c))[:n]
    return ["".join(c for c in line if c in kept) for line in lines]


def sentencepiece_bpe(prepend):
    """Llama 2's with a Prepend normalizer, Mistral's with Metaspace. Rare letters are bytes."""
    first = ["<unk>", "<s>", "</s>"]
    names, merges = pieces(60, frequent(sentences(), 27))
    vocabulary = first + [f"<0x{b:02X}>" for b in range(256)] + names
    tok = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(vocabulary)}, merges=merges,
                               unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    specials(tok, first)
    if prepend:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend(MARK),
                                               normalizers.Replace(" ", MARK)])
    else:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="first",
                                                     split=False)
    tok.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = bos_first("<s>", 1)
    return tok, {"tokenizer_class": "LlamaTokenizer", "legacy": prepend, "add_bos_token": True,
                 "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
                 "unk_token": "<unk>"}


def llama():
    return sentencepiece_bpe(prepend=True)


def mistral():
    return sentencepiece_bpe(prepend=False)


def gemma():
    """A mark for every blank and none in front; all letters are there, so that none is bytes."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    names, merges = pieces(92, sentences())
    tok = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(first + names)}, merges=merges,
                               unk_token="<unk>", fuse_unk=True))
    specials(tok, first)
    tok.normalizer = normalizers.Replace(" ", MARK)
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(),
                                     decoders.Fuse()])
    tok.post_processor = bos_first("<bos>", 2)
    return tok, {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False,
                 "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
                 "unk_token": "<unk>"}


def t5():
    """Unigram: scores are logarithms of how often a piece stands in the texts. No charsmap: it would be
    larger than all else."""
    names, _ = pieces(88, sentences())
    text = " ".join(sentences()).replace(" ", MARK)
    counts = Counter({name: max(text.count(name), 1) for name in names})
    total = sum(counts.values())
    first, extra = ["<pad>", "</s>", "<unk>"], ["<extra_id_1>", "<extra_id_0>"]
    vocabulary = [(name, 0.0) for name in first]
    vocabulary += [(name, round(math.log(n / total) * (0.7 if len(name) > 1 else 1), 4))
                   for name, n in counts.most_common()]
    tok = Tokenizer(models.Unigram(vocabulary + [(name, 0.0) for name in extra], unk_id=2,
                                   byte_fallback=False))
    specials(tok, first + extra)
    mark = {"replacement": MARK, "prepend_scheme": "always"}
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                                 pre_tokenizers.Metaspace(**mark)])
    tok.decoder = decoders.Metaspace(**mark)
    tok.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tok, {"tokenizer_class": "T5Tokenizer", "extra_ids": len(extra), "eos_token": "</s>",
                 "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}


# ---- WordPiece ----

def bert():
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    names, _ = pieces(80, [normalizer.normalize_str(line) for line in sentences()])
    names = [name[1:] if name[0] == MARK else "##" + name for name in names if name != MARK]
    letters = sorted({name[2:] for name in names if len(name) == 3 and name[:2] == "##"})
    vocabulary = list(dict.fromkeys(first + [".", ":"] + letters + names))
    tok = Tokenizer(models.WordPiece({name: k for k, name in enumerate(vocabulary)},
                                     unk_token="[UNK]"))
    specials(tok, first)
    tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(cleanup=False)
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tok, {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "unk_token": "[UNK]",
                 "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                 "mask_token": "[MASK]"}


KINDS = {"bert": bert, "gptj": gptj, "t5": t5, "llama": llama, "mistral": mistral, "qwen2": qwen2,
         "qwen3": qwen2, "llama3": llama3, "phi3": qwen2, "gemma2": gemma, "gemma3": gemma, "olmo2": qwen2}


def make_tokenizer(kind, positions):
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json."""
    tok, config = KINDS[kind]()
    tokens = {k: v for k, v in config.items() if k.endswith(("_token", "_tokens")) and v is not None
              and not k.startswith("add_")}
    config = {**config, "model_max_length": positions, "clean_up_tokenization_spaces": False}
    return json.loads(tok.to_str()), config, tokens
