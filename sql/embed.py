#!/usr/bin/env python3
"""Embeds text files in C: embed.py NAME OUTPUT.c FILE...

Writes `const char *const NAME[]`, the contents of the files in the order of their names, closed by
NULL. Files called 0001_name.sql, 0002_... must be numbered without a gap: position is version.
"""
import pathlib
import re
import sys


def literal(data):
    """The bytes as an initialiser: string literals may not be longer than 4095 in ISO C."""
    numbers = [str(byte) for byte in data] + ["0"]
    lines = [", ".join(numbers[i : i + 18]) for i in range(0, len(numbers), 18)]
    return ",\n    ".join(lines)


def main(name, output, files):
    files = sorted((pathlib.Path(f) for f in files), key=lambda f: f.name)
    for position, file in enumerate(files, 1):
        number = re.match(r"(\d{4})_", file.name)
        if number and int(number[1]) != position:
            sys.exit(f"{file}: number {position:04} expected")

    parts = [f"/* Generated from {', '.join(f.name for f in files)}. */\n"]
    for position, file in enumerate(files):
        data = file.read_bytes()
        data.decode("utf-8")
        if 0 in data:
            sys.exit(f"{file}: contains a zero byte")
        parts.append(f"static const char text_{position}[] = {{\n    {literal(data)}}};\n")
    texts = "".join(f"text_{position}, " for position in range(len(files)))
    parts.append(f"extern const char *const {name}[];\n")
    parts.append(f"const char *const {name}[] = {{{texts}0}};\n")
    pathlib.Path(output).write_text("\n".join(parts))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
