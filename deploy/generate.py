#!/usr/bin/env python3
"""What is said about the options in other places than `--help`, made from the same tables.

    generate.py man MALMEND TEMPLATE          the manual page: TEMPLATE with @COMMANDS@ filled in
    generate.py completion MALMEND TEMPLATE   the completion for bash: TEMPLATE with @TABLE@
    generate.py config MALMEND                malmend.json, every option of `serve` with its default

MALMEND is the binary: it prints its tables by `--help=json`. The result goes to stdout.
"""
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

# What the package serves, where it keeps it.
PLACES = {"model": "/var/lib/malmend/model", "db": "/var/lib/malmend/malmend.db"}


def tables(malmend):
    """What malmend is, and [(help of a command, its table)]."""
    done = subprocess.run([malmend, "--help=json"], stdout=subprocess.PIPE, check=True)
    about, *commands = map(json.loads, done.stdout.splitlines())
    return about, [(c["help"], table) for c, table in zip(about["commands"], commands)]


# ---- Manual page ----

def roff(text):
    """Text with nothing in it that roff would take for itself."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti").replace("`", "\\(ga")
    return re.sub(r"^\.", r"\\&.", text, flags=re.M)


def paragraphs(text, between=".PP"):
    """Short lines, so that the source can be read, too."""
    parts = (textwrap.fill(p, 65, break_long_words=False, break_on_hyphens=False)
             for p in text.split("\n\n"))
    return f"\n{between}\n".join(roff(part) for part in parts)


def default_of(option):
    if option["required"]:
        return "Required."
    if option["kind"] == "flag":
        return "Default: on." if option["default"] == "true" else "Default: off."
    if option["default"] is None:
        return ""
    return f"Default: {option['default'] or 'empty'}."


def entry(option):
    if option["positional"]:
        name = f".I {roff(option['metavar'])}"
    elif option["kind"] == "flag":
        name = f".B \\-\\-{roff(option['name'])}"
    else:
        name = f".BI \\-\\-{roff(option['name'])} \" {roff(option['metavar'])}\""
    text = " ".join(filter(None, [option["help"], default_of(option)]))
    return f".TP\n{name}\n{paragraphs(text, '.IP')}"


def usage(table):
    parts = [f".B malmend {roff(table['command'])}"]
    for option in table["options"]:
        if option["required"] and not option["positional"]:
            parts.append(f".BI \\-\\-{roff(option['name'])} \" {roff(option['metavar'])}\"")
    if table["configurable"] or any(not o["required"] for o in table["options"]):
        parts.append(".RI [ options ]")
    for option in table["options"]:
        if option["positional"]:
            shown = roff(option["metavar"])
            parts.append(f".I {shown}" if option["required"] else f".RI [ {shown} ]")
    return "\n".join(parts)


def man(malmend, template):
    about, commands = tables(malmend)
    out = []
    for help, table in commands:
        out.append(f".SS malmend {roff(table['command'])}\n{roff(help[0].upper() + help[1:])}.")
        out.append(f".PP\n{usage(table)}\n.PP\n{paragraphs(table['about'])}")
        out += [entry(option) for option in table["options"]]
        if table["configurable"]:
            out.append(".TP\n.BI \\-\\-config \" FILE\"\n"
                       "A JSON object of these options, their names with underscores.")
    return (template.read_text(encoding="utf-8").replace("@VERSION@", about["version"])
            .replace("@DATE@", date_of(template)).replace("@COMMANDS@", "\n".join(out)))


def date_of(template):
    """The package's, where one is built, so that it is built the same again."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or template.stat().st_mtime
    return time.strftime("%Y-%m-%d", time.gmtime(float(seconds)))


# ---- Completion ----

# What a metavar stands for, where the option is no choice.
FILES = ("FILE", "PATH", "FILE.safetensors")


def completes(option):
    """What follows the option: words, `@file`, `@dir`, `-` (something else), or nothing for a
    flag."""
    words = option["choices"]
    if option["kind"] == "flag":
        return ""
    if not words and option["name"] == "device":
        words = ["auto", "cpu", "cpu:bf16", "cuda:0"]
    if words:
        return ",".join(words)
    if option["metavar"] == "DIR":
        return "@dir"
    return "@file" if option["metavar"] in FILES else "-"


def completion(malmend, template):
    _, commands = tables(malmend)
    lines = []
    for _, table in commands:
        options = [(o["name"], completes(o)) for o in table["options"] if not o["positional"]]
        options += [("config", "@file")] * table["configurable"] + [("help", "")]
        words = " ".join(f"--{name}={after}" if after else f"--{name}" for name, after in options)
        lines.append(f"    [{table['command']}]='{words}'")
    return template.read_text(encoding="utf-8").replace("@TABLE@", "\n".join(lines))


# ---- Configuration ----

def value(option):
    """A default as JSON has it, times and sizes as they are written."""
    default, kind = option["default"], option["kind"]
    if kind == "flag":
        return default == "true"
    if default is None or kind in ("text", "choice"):
        return default
    return json.loads(default) if re.fullmatch(r"-?\d+(\.\d+)?", default) else default


def config(malmend):
    serve = next(table for _, table in tables(malmend)[1] if table["command"] == "serve")
    options = [o for o in serve["options"] if not o["here_only"]]
    values = {o["name"].replace("-", "_"): value(o) for o in options}
    return json.dumps({**values, **PLACES}, indent=4) + "\n"


def main():
    what = sys.argv[1:2]
    if what == ["config"] and len(sys.argv) == 3:
        sys.stdout.write(config(sys.argv[2]))
    elif what in (["man"], ["completion"]) and len(sys.argv) == 4:
        make = {"man": man, "completion": completion}[what[0]]
        sys.stdout.write(make(sys.argv[2], Path(sys.argv[3])))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
