#!/usr/bin/env python3
"""Embeds the dashboard in C: embed.py OUTPUT.c FILE...

Writes mal_dashboard[] of daemon/api/dashboard.h: name, media type, tag over the contents, bytes; in the
order given, closed by a NULL name. The first file is the page itself.
"""
import hashlib
import pathlib
import sys

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def numbers(data):
    """The bytes as an initialiser: string literals may not be longer than 4095 in ISO C."""
    values = [str(byte) for byte in data]
    lines = [", ".join(values[i : i + 18]) for i in range(0, len(values), 18)]
    return ",\n    ".join(lines)


def main(output, files):
    files = [pathlib.Path(file) for file in files]
    parts = ["/* Made from daemon/dashboard. */\n", '#include "daemon/api/dashboard.h"\n']
    rows = []
    for i, file in enumerate(files):
        data = file.read_bytes()
        data.decode("utf-8")
        if file.suffix not in TYPES:
            sys.exit(f"{file}: of which type are the files called *{file.suffix}?")
        tag = hashlib.sha256(data).hexdigest()[:32]
        parts.append(f"static const unsigned char file_{i}[] = {{\n    {numbers(data)}}};\n")
        rows.append(f'    {{"{file.name}", "{TYPES[file.suffix]}", "\\"{tag}\\"", file_{i},'
                    f" sizeof file_{i}}},\n")
    parts.append(f"const struct mal_resource mal_dashboard[] = {{\n{''.join(rows)}    {{0}},\n}};\n")
    pathlib.Path(output).write_text("\n".join(parts), encoding="ascii")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
