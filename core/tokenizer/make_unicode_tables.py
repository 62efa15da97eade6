#!/usr/bin/env python3
"""Writes unicode_tables.c: what Hugging Face's `tokenizers` takes characters for, asked of the package
itself, and the newer characters that its normalization forms do not know.

    pip install tokenizers unicodedata2 && python3 make_unicode_tables.py | clang-format --assume-filename=x.c > unicode_tables.c

The package's tables are old and do not change (Unicode 8 for categories, 11 for the forms): models
were trained with what they say, so ours must not change either. Only grapheme clusters go with
Unicode (17)."""
import struct

import unicodedata2
from tokenizers import normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
FORMS = {name: getattr(normalizers, name)().normalize_str for name in ("NFC", "NFD", "NFKC", "NFKD")}


def bert(**flags):
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **flags}).normalize_str


def dropped(normalize):
    return [c for c in POINTS if normalize(chr(c)) == ""]


def punctuation():
    cut = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    return [c for c in POINTS if len(cut("a" + chr(c) + "a")) == 3]


def known_class(c):
    """Whether the package reorders this mark at all."""
    forms = ("a\u0345" + chr(c), "a" + chr(c) + "\u0334")
    return any(FORMS["NFD"](text) != text for text in forms)


def unknown():
    """Characters that to the package are letters without a decomposition or a class, and that
    Unicode says more of: what they compose to, they do not compose to there."""
    marks = {}
    for c in POINTS:
        if unicodedata2.combining(chr(c)) and known_class(c):
            marks.setdefault(unicodedata2.combining(chr(c)), chr(c))
    found = set()
    for c in POINTS:
        around = [chr(c)]
        if unicodedata2.combining(chr(c)):
            around += [t for m in marks.values() for t in ("a" + chr(c) + m, "a" + m + chr(c))]
        if any(form(t) != unicodedata2.normalize(name, t) for t in around for name, form in FORMS.items()):
            found.add(c)
        parts = unicodedata2.decomposition(chr(c)).split()
        if len(parts) == 2 and parts[0][0] != "<":
            pair = "".join(chr(int(p, 16)) for p in parts)
            if FORMS["NFC"](pair) != unicodedata2.normalize("NFC", pair):
                found.update((c, ord(pair[0])))
    for c in found:
        assert all(form(chr(c)) == chr(c) for form in FORMS.values()) and not known_class(c), hex(c)
    return sorted(found)


def rules(replacements):
    """A normalizer with these rules, {text: replacement}: a double array (see charsmap.c) whose
    nodes have a block of 256 units each, and the replacements."""
    trie, texts = {}, b""
    for key, value in replacements.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[None] = len(texts)
        texts += value.encode() + b"\0"
    units, queue = [0] * 256, [(trie, 0, 0)]
    for node, unit, label in queue:
        base = len(units)
        units += [0] * 256
        units[unit] = label | (None in node) << 8 | (unit ^ base) << 10
        for byte, child in node.items():
            if byte is None:
                units[base] = child | 1 << 31
            else:
                queue.append((child, base ^ byte, byte))
    assert len(units) < 1 << 21
    array = struct.pack("<%dI" % len(units), *units)
    return normalizers.Precompiled(struct.pack("<I", len(array)) + array + texts).normalize_str


def prepends():
    """Characters that join an "a" behind: the rule for the character takes both."""
    found = []
    for i in range(0, len(POINTS), 4096):
        part = [c for c in POINTS[i:i + 4096] if c]
        normalize = rules({chr(c): "b" for c in part})
        found += [c for c in part if c != ord("a") and normalize(chr(c) + "a") == "b"]
    return found


def cluster_controls(marks):
    """Characters that two marks do not join: a rule for the first then takes both."""
    normalize = rules({"\u0340": "b"})
    return [c for c in POINTS if c not in marks and normalize(chr(c) + "\u0340\u0341") == chr(c) + "b"]


def table(name, points):
    ranges = []
    for c in points:
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    cells = ", ".join("{0x%x, 0x%x}" % tuple(r) for r in ranges)
    return f"static const struct mal_range {name}_ranges[] = {{{cells}}};\n" \
           f"const struct mal_range_table mal_{name}_table = RANGES({name}_ranges);\n"


def main():
    print('/* unicode_tables.c - written by make_unicode_tables.py: classes of characters as Hugging\n'
          " * Face's package has them. */\n"
          '#include "core/tokenizer/unicode.h"\n\n'
          "#define RANGES(array) {array, sizeof (array) / sizeof *(array)}\n")
    print(table("control", [c for c in dropped(bert(clean_text=True)) if c not in (0, 0xfffd)]))
    print(table("nonspacing", dropped(bert(strip_accents=True))))
    print(table("mark", dropped(normalizers.StripAccents().normalize_str)))
    print(table("punctuation", punctuation()))
    print(table("unknown_to_forms", unknown()))
    join_a = rules({"a": "b"})
    marks = [c for c in POINTS if join_a("a" + chr(c)) == "b"]
    print(table("cluster_control", cluster_controls(set(marks))))
    print(table("cluster_prepend", prepends()))
    print(table("cluster_mark", marks), end="")


if __name__ == "__main__":
    main()
