#!/usr/bin/env python3
"""Makes one document of the dashboard and embeds it in C: embed.py OUTPUT.c index.html FILE...

What index.html names of the files is put in its place: style sheets, the script, pictures. Writes
mal_dashboard of daemon/api/dashboard.h.
"""
import base64
import graphlib
import hashlib
import pathlib
import re
import sys

IMPORT = re.compile(r"^import (\{ \w+(?:, \w+)* \}) from '\./(\w+)\.js';$", re.M)
EXPORT = re.compile(r"^export (?=(?:const|function|async function) (\w+))", re.M)

STYLES = re.compile(r'(?:<link rel="stylesheet" href="[\w.]+">\s*)+')
SCRIPT = re.compile(r'<script type="module" src="main\.js"></script>')
PICTURE = re.compile(r'"(\w+\.svg)"')


def joined(modules):
    """One script of modules by name: each is a function, called once after those it imports, that
    returns what it exports."""
    imports = {name: [m[2] for m in IMPORT.finditer(text)] for name, text in modules.items()}
    parts = []
    for name in graphlib.TopologicalSorter(imports).static_order():
        text = IMPORT.sub(r"const \1 = \2_js;", modules[name])
        exported = ", ".join(EXPORT.findall(text))
        text = EXPORT.sub("", text)
        if other := re.search(r"^(import|export)\b.*", text, re.M):
            sys.exit(f"{name}.js: this form is not understood: {other[0]}")
        parts.append(f"const {name}_js = (() => {{\n{text}return {{ {exported} }};\n}})();\n")
    return "\n".join(parts)


def document(html, files):
    """The page and its Content-Security-Policy."""
    modules = {name[:-3]: text for name, text in files.items() if name.endswith(".js")}
    sources = {}

    def inline(tag, attributes, text):
        if re.search(rf"</{tag}|<!--", text, re.I):
            sys.exit(f"what would end the {tag} is in it")
        digest = hashlib.sha256(text.encode()).digest()
        sources[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
        return f"<{tag}{attributes}>{text}</{tag}>\n"

    def styles(links):
        names = re.findall(r'href="([\w.]+)"', links[0])
        return inline("style", "", "".join(files[name] for name in names))

    def picture(name):
        return f'"data:image/svg+xml;base64,{base64.b64encode(files[name[1]].encode()).decode()}"'

    html = PICTURE.sub(picture, html)
    html = STYLES.sub(styles, html)
    html = SCRIPT.sub(lambda _: inline("script", ' type="module"', joined(modules)), html)
    return html, (f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']};"
                  " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
                  " frame-ancestors 'none'")


def main(output, page, *paths):
    files = {pathlib.Path(p).name: pathlib.Path(p).read_text(encoding="utf-8") for p in paths}
    html, policy = document(pathlib.Path(page).read_text(encoding="utf-8"), files)
    data = html.encode()
    tag = hashlib.sha256(data).hexdigest()[:32]
    # Numbers: string literals may not be longer than 4095 in ISO C.
    lines = [", ".join(map(str, data[i : i + 18])) for i in range(0, len(data), 18)]
    numbers = ",\n    ".join(lines)
    pathlib.Path(output).write_text(f"""/* Made from daemon/dashboard. */
#include "daemon/api/dashboard.h"

static const unsigned char page[] = {{
    {numbers}}};

const struct mal_dashboard mal_dashboard = {{
    page, sizeof page, "\\"{tag}\\"",
    "{policy}",
}};
""", encoding="ascii")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
