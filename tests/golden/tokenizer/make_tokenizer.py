#!/usr/bin/env python3
"""Makes the tokenizer fixtures of this folder: NAME.json, a small byte-level BPE tokenizer, and
NAME.cases.json, texts with the ids that Hugging Face's `tokenizers` gives for them.

    pip install tokenizers && python3 make_tokenizer.py

The text it is trained on is invented. Three tokenizers share one vocabulary: gpt2 (GPT-2's
pre-tokenizer), llama3 (a Split pattern, merges ignored for whole words, a template that puts a
token before and one behind), added (added tokens with every flag, a space put before the text)."""
import json
import os
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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


def texts():
    rng = random.Random(7)
    words = TEXT.split() + [" ", "  ", "\n", "'s", "<|end|>", "<left>", "<right>", "<both>", "<word>",
                            "<norm>", "日本", "né", "ñé ", "\t", "1", "!", "\u00a0", "😀", "\u180e"]
    made = ["".join(rng.choice(words) for _ in range(rng.randint(1, 9))) for _ in range(60)]
    return FIXED + [line for line in TEXT.splitlines() if line] + made


def main():
    for name, data in variants(train()).items():
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        tok = Tokenizer.from_str(text)
        cases = []
        for t in texts():
            plain = tok.encode(t, add_special_tokens=False).ids
            cases.append({"text": t, "ids": tok.encode(t).ids, "ids_no_special": plain,
                          "decoded": tok.decode(plain, skip_special_tokens=False)})
        with open(os.path.join(HERE, name + ".json"), "w") as f:
            f.write(text + "\n")
        with open(os.path.join(HERE, name + ".cases.json"), "w") as f:
            f.write('{"tokenizer":"%s.json","cases":[\n' % name)
            f.write(",\n".join(json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases))
            f.write("\n]}\n")


if __name__ == "__main__":
    main()
