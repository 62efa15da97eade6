#!/usr/bin/env python3
"""Makes the tokenizer fixtures of this folder: NAME.json, a small tokenizer, and NAME.cases.json,
texts with the ids that Hugging Face's `tokenizers` gives for them.

    pip install tokenizers && python3 make_tokenizer.py

The text they are trained on is invented. Byte-level BPE, one vocabulary: gpt2 (GPT-2's
pre-tokenizer), llama3 (a Split pattern, merges ignored for whole words, a template that puts a
token before and one behind), added (added tokens with every flag, a space put before the text),
qwen2 (NFC), kinds (a pattern that tells kinds of letters apart, as Mistral's newer models have),
forms (several normalizers, added tokens that match normalized text), bert-bytes (BERT's
normalizer and words, of which a byte-level model shows every byte). WordPiece, another: bert (as an
uncased BERT has it, punctuation tidied when decoded), wordpiece (everything else than there), pieces
(Split in every way that a match can go, and runs of digits), digits (each by itself, Split inverted)."""
import json
import os
import random
import unicodedata

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))

TEXT = """
Mirela's friend's house is Oleg's; Velmark's glass is Mirela's.
Mirela Todrovan lives in Velmark and works as a glassblower. It's raining; she doesn't mind.
The town of Velmark was founded in 1483 by settlers from Ostrava-under-Hill, they've said.
Oleg's company, Brightwater & Sons, sold 12,500 lamps in 2019 and 340 in 2021. We'll see!
Die Stadt Grünhöft liegt am Fluss Querl, südlich von Übersee. Straße, Größe, Mädchen.
La ville de Sérignac-sur-Lôme compte 3 200 habitants; le maire s'appelle Noël Béchard.
El río Añuelo nace en la sierra de Peñalba. ¿Dónde está la fábrica? ¡Allí!
Город Снежнополь стоит на реке Тихой. Там живут мастера и музыканты.
Η πόλη Καλλιρρόη βρίσκεται δίπλα στη θάλασσα. עיר הנמל נקראת אלמוג. المدينة تسمى نورهان.
緑川市は山の近くにあります。人口は二万人です。 青石镇的人口是三万。 별내군은 강가에 있다.
Temperature -3.5 degrees, 50% off, a+b=c, f(x) = x^2, e-mail: nobody@velmark.example
\t- item one\n\t- item two\n\n    indented   text   with   spaces
"""

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

KINDS = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

FIXED = [
    "", " ", "  ", "\n", "\r\n", "\t", " \n ", "   leading", "trailing   ", "two  spaces",
    "Mirela lives in Velmark.", "a glassblower, glassblowers", " Velmark", "velmark", "VELMARK", "it's we'll THEY'RE IT'S o'clock",
    "1483 12,500 3.14159 1234567890", "a,b;c:d.e", "...!!!???", "x\r\ny\n\n\nz", "a \n b",
    "Grünhöft Straße", "Снежнополь", "緑川市は", "별내군", "Καλλιρρόη", "नमस्ते", "👩‍👩‍👧‍👦 😀",
    "\u00a0nbsp\u00a0", "\u2003em\u2009thin\u3000wide", "a\u200bb", "a\u180eb \u180e c", "a\u0085b",
    "\x00nul", "\x1c\x1f", "\ufeffbom", "e\u0301 combining", "\U00031350 \U0001e030x \U000116d0",
    "\U00031350's", "\U000116d0's", "\u180e's", "\u0085's", "\u00b2's", "_'s",
    "Ġ Ċ Â", "\ufffd", "a" * 300, "abc" * 100, " " * 65, "\n" * 40, "½ Ⅷ ² ①", "'\u017f 'ſt",
    "<|end|>", "a<|end|>b", "<|end|><|end|>", "<|END|>", "<|begin|>x", "<|en", "<|end|",
    "<left>  a <left> b<left>", "  <right>   x<right>", "<both>  <both> a <both> b", "<word>", "a<word>",
    "<word>b", " <word> ", "a <word>, b", "_<word>", "é<word>é", "\u0301<word>", "-<word>-",
    "<left><leftmost><left", "<leftmos", "x <norm> y<norm>", "<norm><left> <right>", "日本", "x 日本 y",
]


def train():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator([TEXT], trainer)
    tok.decoder = decoders.ByteLevel()
    return json.loads(tok.to_str())


def wordpiece():
    """Not trained: the package's trainer gives other pieces on every run. Short words, how long ones
    begin and end, and all letters but a few."""
    normalize = normalizers.BertNormalizer(lowercase=False, strip_accents=False).normalize_str
    cut = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = {w for text in (TEXT, TEXT.lower()) for w, _ in cut(normalize(text))}
    plain = {c for w in words for c in w if c not in "jqJQ"}
    pieces = plain | {"##" + c for c in plain} | {w for w in words if len(w) < 6}
    pieces |= {w[:3] for w in words if len(w) > 5} | {"##" + w[-3:] for w in words if len(w) > 5}
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {t: i for i, t in enumerate(specials + sorted(pieces))}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None,
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab}}


def token(id, content, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True, **flags}


def variants(base):
    n = len(base["model"]["vocab"])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}

    gpt2 = json.loads(json.dumps(base))
    gpt2["added_tokens"] = [token(n, "<|end|>")]
    gpt2["post_processor"] = byte_level

    llama3 = json.loads(json.dumps(base))
    llama3["model"]["ignore_merges"] = True
    # A word that no merge makes: only its being a token gives it one id.
    assert "Ġglassblower" not in llama3["model"]["vocab"]
    llama3["model"]["vocab"]["Ġglassblower"] = n
    llama3["added_tokens"] = [token(n + 1, "<|begin|>"), token(n + 2, "<|end|>")]
    llama3["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
        {**byte_level, "use_regex": False}]}
    template = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<|end|>", "type_id": 0}}]
    llama3["post_processor"] = {"type": "Sequence", "processors": [byte_level, {
        "type": "TemplateProcessing", "single": template, "pair": template,
        "special_tokens": {t: {"id": t, "ids": [n + 1 + i], "tokens": [t]}
                           for i, t in enumerate(["<|begin|>", "<|end|>"])}}]}

    added = json.loads(json.dumps(base))
    added["pre_tokenizer"]["add_prefix_space"] = True
    plain = {"special": False}
    added["added_tokens"] = [
        token(n, "<|end|>"), token(n + 1, "<left>", lstrip=True), token(n + 2, "<right>", rstrip=True),
        token(n + 3, "<both>", lstrip=True, rstrip=True, **plain),
        token(n + 4, "<word>", single_word=True), token(n + 5, "<leftmost>"),
        token(n + 6, "<norm>", normalized=True, **plain), token(n + 7, "日本", **plain),
        token(n + 8, "   ", normalized=True, **plain), token(n + 9, "ñé ", **plain),
        token(n + 10, "né", normalized=True, **plain)]
    return {"gpt2": gpt2, "llama3": llama3, "added": added}


def more_variants(base):
    """Byte-level, behind normalizers."""
    n = len(base["model"]["vocab"])
    copy = json.dumps(base)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}

    qwen2 = json.loads(copy)
    qwen2["normalizer"] = {"type": "NFC"}
    qwen2["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": SPLIT.replace("{1,3}", "")}, "behavior": "Isolated",
         "invert": False}, byte_level]}
    qwen2["added_tokens"] = [token(n, "<|end|>"), token(n + 1, "<both>", lstrip=True, rstrip=True),
                             token(n + 2, "<norm>", normalized=True, special=False)]

    forms = json.loads(copy)
    forms["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "NFKD"},
        {"type": "Sequence", "normalizers": [{"type": "StripAccents"}, {"type": "Lowercase"}]}]}
    forms["added_tokens"] = [
        token(n, "<|END|>"), token(n + 1, "Straße", normalized=True, special=False),
        token(n + 2, "Né", normalized=True, special=False), token(n + 3, "⅓", special=False),
        token(n + 4, "ﬁ", normalized=True, single_word=True)]

    bert = json.loads(copy)
    bert["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                          "strip_accents": None, "lowercase": True}
    bert["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"},
                                                                   byte_level]}
    kinds = json.loads(copy)
    kinds["normalizer"] = None
    kinds["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": KINDS}, "behavior": "Isolated", "invert": False}, byte_level]}
    return {"qwen2": qwen2, "forms": forms, "bert-bytes": bert, "kinds": kinds}


def wordpiece_variants(base):
    vocab = base["model"]["vocab"]
    specials = [token(i, t) for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])]
    copy = json.dumps(base)

    bert = json.loads(copy)
    bert["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                          "strip_accents": None, "lowercase": True}
    bert["added_tokens"] = specials + [token(len(vocab), "<Norm>", normalized=True, special=False)]
    bert["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "special_tokens": {t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}}
    bert["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}

    other = json.loads(copy)
    other["normalizer"] = {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False,
                           "strip_accents": None, "lowercase": False}
    other["model"].update(unk_token="<unk>", continuing_subword_prefix="@", max_input_chars_per_word=12,
                          vocab={"<unk>" if t == "[UNK]" else t.replace("##", "@") if t != "##" else t: i
                                 for t, i in vocab.items()})
    other["added_tokens"] = [token(1, "<unk>"), token(2, "[CLS]"), token(3, "[SEP]")]
    other["post_processor"] = {"type": "Sequence", "processors": [
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}]}
    other["decoder"] = {"type": "WordPiece", "prefix": "@", "cleanup": False}
    return {"bert": bert, "wordpiece": other, **piece_variants(copy)}


def piece_variants(copy):
    def split(pattern, behavior, invert=False):
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}

    pieces, digits = json.loads(copy), json.loads(copy)
    pieces["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": False},
        split({"String": "e"}, "MergedWithPrevious"), split({"String": "a"}, "MergedWithNext"),
        split({"Regex": "[lsn!?.]"}, "Contiguous"), split({"Regex": "(?=r)"}, "MergedWithNext"),
        split({"String": "o"}, "Removed")]}
    digits["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        split({"Regex": "\\s+"}, "Removed"), {"type": "Digits", "individual_digits": True},
        split({"Regex": "[ei]+"}, "MergedWithPrevious", True), split({"Regex": "[^a]+"}, "MergedWithNext", True),
        split({"Regex": "[lsn]+"}, "Contiguous", True)]}
    return {"pieces": pieces, "digits": digits}


UNICODE = [
    "a\u1c89b\u1c8ac\U00010d4ed\U000105c0e\u0897's \u0897'S", "aBcDEfG AbC's \u01c5x\u02b0Y",
    "a\u33ffb\u3400c\u4dbfd\u4dc0e\u4dffe\u9fffg\ua000h", "a\uf900b\ufaffc\ufb00d", "a\U0002a6dfb\U0002a6e0c\U0002a700d",
    "a\U0002b73fb\U0002b740c\U0002b81fd\U0002b820e\U0002b91ff\U0002b920g\U0002ceafh\U0002ceb0i",
    "a\U0002f800b\U0002fa1fc\U0002fa20d",
    "\u0130stanbul \u0130\u0130", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u03a3\u0391\u03a3", "\u1e9e \ufb01x \ufb01 \u017f", "\uac00\u11a8 \u1100\u1161\u11a8",
    "a\u0345\u0334\u0301 b\u0301\u0327", "\u0301\u0300 x", "\u0344\u0958\u2126\u212b", "\u00ad\u200b\u200d\ufeff",
    "e\u0301" + "\u0327\u0301" * 20, "\x00\x01a\x7fb\x9f\ufffd", "\u00e9\x01\u0301", "\u2028a\u2029b\x0bc\x0c",
    "\u4e00a\u4e8c\u4e09b \uf900\U0002f800\U00020000\U0002ceb0\u3400", "$+<=>^`|~ \u20ac\u00ac", "\u00a1\u00a7\u2014\u3001\u30fb\u0f3a\u2e43\u061d",
    "\u1734\u1734a \u0903b \u20ddc", "\u32ff \u1f16c \U00011938 \U00011935\U00011930", "a\u1abf\u0301\u1abf \U0001e130\u0327",
    "\u1c89 \ua7cb\ua7dc \U00010d50 \U00016ea0", "\u180ea \u00a0b \u0085c", "do not I'm they've n't . , ! ? ' x '", "a . b ! c",
    "straße STRASSE Strasse", "⅓ 1⅓½", "né Né NÉ ne\u0301", "<NORM><norm><Norm> <|end|><|END|>", "x" * 12, "x" * 13, "\u00e9" * 12, "\u00e9" * 13,
    "villages villagers lives", "[CLS] [SEP][MASK] [UNK] [cls]", "<unk>@unk", "##ing @ing", "ing",
]


def unicode_texts():
    """All planes, every category, marks in any order; the same on every run."""
    rng = random.Random(11)
    kinds = {}
    for c in range(0x110000):
        if not 0xd800 <= c < 0xe000:
            kinds.setdefault(unicodedata.category(chr(c)), []).append(c)
    kinds.pop("Cs", None)
    pools = [kinds[k] for k in sorted(kinds)]
    marks = [c for k in ("Mn", "Mc", "Me") for c in kinds[k]]
    latin = list(range(0x41, 0x5b)) + list(range(0x61, 0x7b)) + list(range(0xc0, 0x250))
    made = []
    for _ in range(80):
        text = ""
        for _ in range(rng.randint(1, 5)):
            pool = rng.choice(pools + [latin] * 6 + [[0x20]] * 3)
            text += "".join(chr(rng.choice(pool)) for _ in range(rng.randint(1, 4)))
            text += "".join(chr(rng.choice(marks)) for _ in range(rng.choice([0, 0, 0, 1, 3])))
        made.append(text)
    return UNICODE + made


def texts():
    rng = random.Random(7)
    words = TEXT.split() + [" ", "  ", "\n", "'s", "<|end|>", "<left>", "<right>", "<both>", "<word>",
                            "<norm>", "日本", "né", "ñé ", "\t", "1", "!", "\u00a0", "😀", "\u180e"]
    made = ["".join(rng.choice(words) for _ in range(rng.randint(1, 9))) for _ in range(60)]
    return FIXED + [line for line in TEXT.splitlines() if line] + made


def write(name, data, all_texts, odd=()):
    """`odd`: ids that no text gives, to be decoded."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    tok = Tokenizer.from_str(text)
    cases = []
    for t in all_texts:
        plain = tok.encode(t, add_special_tokens=False).ids
        cases.append({"text": t, "ids": tok.encode(t).ids, "ids_no_special": plain,
                      "decoded": tok.decode(plain, skip_special_tokens=False)})
    cases += [{"decode": ids, "decoded": tok.decode(ids, skip_special_tokens=False)} for ids in odd]
    with open(os.path.join(HERE, name + ".json"), "w") as f:
        f.write(text + "\n")
    with open(os.path.join(HERE, name + ".cases.json"), "w") as f:
        f.write('{"tokenizer":"%s.json","cases":[\n' % name)
        f.write(",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases))
        f.write("\n]}\n")


def main():
    base = train()
    for name, data in variants(base).items():
        write(name, data, texts())
    for name, data in more_variants(base).items():
        write(name, data, texts() + unicode_texts())
    for name, data in wordpiece_variants(wordpiece()).items():
        go_on = [i for t, i in data["model"]["vocab"].items() if t[0] in "#@" and len(t) > 1]
        write(name, data, texts() + unicode_texts(), [go_on[30:33], [2, *go_on[:2]], [go_on[9]], []])


if __name__ == "__main__":
    main()
