#!/usr/bin/env python3
"""Turns openapi.yaml into a C file that holds the same document as compact JSON."""
import json
import sys

import yaml


def main():
    source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        document = yaml.safe_load(file)
    text = json.dumps(document, separators=(",", ":"))
    data = text.encode("ascii") + b"\0"
    with open(target, "w", encoding="ascii") as out:
        out.write("/* Made from proto/openapi.yaml. */\n")
        out.write('#include "proto/wire.h"\n')
        out.write("const char mal_openapi_json[] = {\n")
        for i in range(0, len(data), 20):
            out.write(",".join(map(str, data[i : i + 20])) + ",\n")
        out.write("};\n")


if __name__ == "__main__":
    main()
