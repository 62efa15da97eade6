#!/usr/bin/env python3
"""Makes the fixtures of SentencePiece's kinds: NAME.model, as SentencePiece trains it on the invented
text of make_tokenizer.py, NAME.json, the tokenizer.json that Hugging Face's converters make of it, and
NAME.cases.json, texts with the ids that `tokenizers` gives for them.

    pip install tokenizers sentencepiece protobuf && python3 make_sentencepiece.py

unigram (T5's parts, extra ids, a character map of few rules), unigram-bytes (byte fallback, Strip and
Replace, one space piece for several), llama (BPE with byte fallback, Prepend), mistral (the same pieces,
Metaspace before the first word only), gemma (the same pieces, blanks replaced, nothing before a text,
added tokens of blanks), blanks (no file but the model, whose cases SentencePiece itself
gives: blanks are removed, nothing is put before a text)."""
import io
import json
import os
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from make_tokenizer import FIXED, TEXT

HERE = os.path.dirname(os.path.abspath(__file__))

# Shorter and longer texts with one beginning, a mark alone, what becomes nothing.
RULES = {"\ufb01": "fi", "\u2460": "1", "\u2122": "TM", "e\u0301": "\u00e9", "\u0340": "\u0300", "\u00a0": " ",
         "\t": " ", "\n": " ", "\r\n": " ", "\u3000": " ", "\u200b": "", "\uff21": "A", "\u00bd": "1\u20442",
         "\u0915\u093c": "\u0958", "\u2025": "..", "\u2026": "...", "\u00b4": " \u0301", "\u0600": "n"}

MORE = [
    "<s>", "</s>", "<unk>", "<pad>", "a</s>b", "</s> a", "<s> a<s>b", " <unk> ", "<extra_id_0>", "<extra_id_99> a",
    "<extra_id_100>", "<0x41>", "<0x0A>\n", "\u2581", "\u2581a", "a\u2581b", "\u2581\u2581 a", " \u2581", "\u2581 ",
    "\ufb01ne \ufb01\u0301", "\u2460\u0301x", "\u2460\u0301\u0301", "e\u0301", "e\u0301\u0301", "e\u0301\u0301\u0301",
    "\u0340\u0341", "\u00bd\u0345\u200d", "\uff21\u0300", "\u0600\u2460", "\u0600\uff21a", "\u2460\u20dd", "a\u200b\u0301b", "x\u200by\u200b", "\u200b",
    "\r\n", "a\r\nb\rc", "\u2026\u2025", "\u00b4a", "\u0915\u093c\u0902", "{}", "a{b}c", "\\", "~~~ ~", "\U0001f600\U0001f600 \U0001f600",
    "\u4e2d\u6587{\u4e2d", "<left>", "a <left>b", "<left><left> ", "<ctl>", "x<ctl> y", "ab<left", "\u0e01\u0e33",
    "Mirela  Todrovan   lives", "  Velmark  ", "aaaaaaaaaaaaaaaaaaaaaaaaa", "lalalalalalalala", "ssssssss",
]

AFTER = [("Mirela lives in", " Velmark"), ("Mirela", " lives"), ("The town", " 1483 was"), ("a", "-b"), ("x", "\u00e9"),
         ("Velmark", "'s glass"), ("It is", "  two"), ("one", " \u65e5\u672c"), ("Oleg", " a</s> b"),
         ("Oleg</s>", " Velmark"), ("<ctl>", "er"), ("Oleg <left>", " a</s> b")]


def train(**options):
    out = io.BytesIO()
    # Without some alphabets, so that there are characters that no piece has.
    lines = [line for line in TEXT.splitlines() if line.strip() and max(line) < "\u0460"]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, minloglevel=2,
                                             num_threads=1, hard_vocab_limit=False, **options)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(out.getvalue())
    for field in ("input", "model_prefix"):  # say nothing about the model
        proto.trainer_spec.ClearField(field)
    return proto


def rules_file():
    path = os.path.join(HERE, "rules.tsv")
    with open(path, "w") as f:
        for source, target in RULES.items():
            f.write("\t".join(" ".join("%X" % ord(c) for c in text) for text in (source, target)) + "\n")
    return path


def unigram(proto, extra=100):
    vocab = [(p.piece, p.score) for p in proto.pieces] + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra))]
    tok = Tokenizer(models.Unigram(vocab, unk_id=proto.trainer_spec.unk_id,
                                   byte_fallback=proto.trainer_spec.byte_fallback))
    special = [p.piece for p in proto.pieces if p.type in (2, 3)] + [v[0] for v in vocab[len(proto.pieces):]]
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    end = proto.trainer_spec.eos_id
    tok.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"],
                                                       special_tokens=[("</s>", end)])
    return tok


def t5(proto):
    tok = unigram(proto)
    tok.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tok.decoder = decoders.Metaspace(prepend_scheme="always")
    return tok


def unigram_bytes(proto):
    tok = unigram(proto, 0)
    tok.normalizer = normalizers.Sequence([
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "\u2581")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tok.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return tok


def merges_of(proto, vocab):
    found = []
    for p in proto.pieces:
        ways = [(p.piece[:k], p.piece[k:]) for k in range(1, len(p.piece))]
        ways = sorted((w for w in ways if w[0] in vocab and w[1] in vocab), key=lambda w: (vocab[w[0]], vocab[w[1]]))
        found += [(p.score, len(a), len(b), a, b) for a, b in ways]
    found.sort(key=lambda m: m[:3], reverse=True)
    return [m[3:] for m in found]


def bpe(proto):
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    tok = Tokenizer(models.BPE(vocab, merges_of(proto, vocab), unk_token=proto.trainer_spec.unk_piece, fuse_unk=True,
                               byte_fallback=proto.trainer_spec.byte_fallback))
    tok.add_special_tokens([AddedToken(p.piece, normalized=False, special=True)
                            for p in proto.pieces if p.type in (2, 3)])
    tok.add_tokens([AddedToken(p.piece, normalized=False, special=False) for p in proto.pieces if p.type == 4])
    tok.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], pair=["<s>", "$A", "<s>", "$B"],
                                                       special_tokens=[("<s>", proto.trainer_spec.bos_id)])
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    return tok


def llama(proto):
    tok = bpe(proto)
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return tok


def mistral(proto):
    tok = bpe(proto)
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tok


def gemma(proto):
    """Nothing is put before a text; runs of blanks and ends of lines are tokens beside the vocabulary."""
    tok = bpe(proto)
    tok.add_tokens([AddedToken(t, normalized=False, special=False)
                    for t in ("\n\n", "\n\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<table>")])
    tok.normalizer = normalizers.Replace(" ", "\u2581")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tok


def texts():
    rng = random.Random(8)
    words = TEXT.split() + [" ", "  ", "\n", "</s>", "<left>", "\u00a0", "\u2581", "\u0301", "\ufb01", "\U0001f600",
                            "\u65e5", "\t", "{", "1", "\r\n", "e\u0301", "\u2460"]
    made = ["".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(rng.randint(1, 9))) for _ in range(60)]
    fixed = [t for t in FIXED if not t.startswith("<") or t == "<|end|>"]
    return fixed + MORE + [line for line in TEXT.splitlines() if line] + made


def follows(tok, prompt, text):
    first, both = tok.encode(prompt).ids, tok.encode(prompt + text).ids
    assert both[:len(first)] == first
    return {"last": first[-1], "text": text, "ids": both[len(first):]}


def write_cases(name, cases, after):
    with open(os.path.join(HERE, name + ".cases.json"), "w") as f:
        f.write('{"cases":[\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        f.write('\n],"after":[\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in after))
        f.write("\n]}\n")


def write_json(name, tok):
    with open(os.path.join(HERE, name + ".json"), "w") as f:
        f.write(json.dumps(json.loads(tok.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")


def cases_of(tok):
    cases = []
    for t in texts():
        plain = tok.encode(t, add_special_tokens=False).ids
        cases.append({"text": t, "ids": tok.encode(t).ids, "ids_no_special": plain,
                      "decoded": tok.decode(plain, skip_special_tokens=False)})
    rng = random.Random(9)
    for _ in range(40):  # Ids in any order: bytes that are no characters.
        ids = [rng.randrange(tok.get_vocab_size() if rng.random() < 0.4 else 260) for _ in range(rng.randint(1, 7))]
        cases.append({"decode": ids, "decoded": tok.decode(ids, skip_special_tokens=False)})
    return cases


def write_model(name, proto):
    with open(os.path.join(HERE, name + ".model"), "wb") as f:
        f.write(proto.SerializeToString(deterministic=True))


def main():
    rules = rules_file()
    first = train(model_type="unigram", vocab_size=220, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
                  normalization_rule_tsv=rules)
    second = train(model_type="unigram", vocab_size=440, byte_fallback=True, normalization_rule_tsv=rules,
                   unk_id=0, bos_id=1, eos_id=2)
    os.remove(rules)
    third = train(model_type="bpe", vocab_size=470, byte_fallback=True, character_coverage=0.98,
                  normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
                  user_defined_symbols=["<left>"], control_symbols=["<ctl>"])
    fourth = train(model_type="bpe", vocab_size=200, normalization_rule_name="identity", add_dummy_prefix=False,
                   character_coverage=0.98)
    made = {"unigram": t5(first), "unigram-bytes": unigram_bytes(second), "llama": llama(third),
            "mistral": mistral(third), "gemma": gemma(third)}
    write_model("unigram", first)
    write_model("llama", third)
    write_model("blanks", fourth)
    for name, tok in made.items():
        write_json(name, tok)
        tok = Tokenizer.from_file(os.path.join(HERE, name + ".json"))
        after = [follows(tok, *pair) for pair in AFTER] if "unigram" not in name else []
        write_cases(name, cases_of(tok), after)
    own = sentencepiece.SentencePieceProcessor(model_proto=fourth.SerializeToString())
    cases = [{"text": t, "ids": [own.bos_id()] + own.encode(t), "ids_no_special": own.encode(t)}
             for t in texts() if "\u2581" not in t and "<" not in t and "\0" not in t]
    write_cases("blanks", cases, [])


if __name__ == "__main__":
    main()
