#!/usr/bin/env python3
"""Who may include whom, and the rules of form a compiler does not check.

    layers.py SOURCE_ROOT

The tables below are the rules; each rule is one TAP line, what breaks it stands in '#' lines
before it. Before the tree is looked at, every rule must find the case in BROKEN that breaks it.
"""
import ast
import os
import re
import sys

FOLDERS = ['core', 'cuda', 'sql', 'proto', 'daemon', 'tests']
MAX_LINES = 600

# Files whose path matches the first pattern may include our headers that match the second; the
# first line that fits decides.
OURS = [
    (r'tests/', r'.*'),
    (r'core/cpu/', r'core/cpu/|core/[^/]*$'),
    (r'core/backend\.c', r'core/cpu/|core/[^/]*$|cuda/cuda\.h'),
    (r'core/tokenizer/', r'core/tokenizer/|core/[^/]*$'),
    (r'core/model/', r'core/(model|tokenizer)/|core/[^/]*$'),
    (r'core/editor/', r'core/(editor|model|tokenizer)/|core/[^/]*$'),
    (r'core/train/', r'core/(train|editor|model|tokenizer)/|core/[^/]*$'),
    (r'core/export/', r'core/(export|model|tokenizer)/|core/[^/]*$'),
    (r'core/', r'core/(model|tokenizer)/|core/[^/]*$'),
    (r'cuda/', r'cuda/|core/(backend_impl|tensor|error|round)\.h'),
    (r'sql/', r'sql/|core/(error|alloc|hash|new_file)\.h'),
    (r'proto/', r'proto/|core/(error|facts|alloc|hash|json|utf8)\.h'),
    (r'daemon/base/', r'daemon/base/|(proto|sql)/|core/(?!cpu/)'),
    (r'daemon/engine/', r'daemon/(engine|base)/|(proto|sql)/|core/(?!cpu/)'),
    (r'daemon/worker/', r'daemon/(worker|engine|base)/|(proto|sql)/|core/(?!cpu/)'),
    (r'daemon/http/', r'daemon/(http|base)/|(proto|sql)/|core/(?!cpu/)'),
    (r'daemon/api/', r'daemon/(api|http|worker|engine|base)/|(proto|sql)/|core/(?!cpu/)'),
    (r'daemon/command/', r'daemon/(command|engine|http|base)/|daemon/serve\.h|(proto|sql)/|core/(?!cpu/)'),
    (r'daemon/main\.c', r'daemon/command/|core/cpu/blas\.h'),
    (r'daemon/', r'daemon/(api|http|worker|engine|base)/|daemon/[^/]*$|(proto|sql)/|core/(?!cpu/)'),
]

# A third-party header that matches the first pattern may be included where the second matches.
THEIRS = [
    (r'sqlite3\.h', r'sql/'),
    (r'microhttpd\.h', r'daemon/http/'),
    (r'uv\.h', r'daemon/base/loop'),
    (r'jansson\.h', r'(proto|core|daemon)/'),
    (r'(cuda(?!/)|cublas|cusolver|curand|nccl|cooperative_groups|mma)', r'cuda/'),
    (r'openssl/', r'core/'),
    (r'(pcre2|utf8proc)\.h', r'core/tokenizer/'),
    (r'(cblas|lapack|lapacke|openblas_config)\.h', r'core/cpu/'),
    (r'cmocka\.h', r'tests/'),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
# What a // may stand in: strings, characters, comments. Group 1 is what no file may hold.
TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|(//[^\n]*)', re.S)


def line_of(text, position):
    return text.count('\n', 0, position) + 1


def our_includes(path, text):
    allowed = next((a for who, a in OURS if re.match(who, path)), None)
    for m in INCLUDE.finditer(text):
        header = m.group(2)
        if m.group(1) == '<' or header == 'mal_config.h' or path.startswith('tests/'):
            continue
        if not re.match(r'(%s)/' % '|'.join(FOLDERS), header):
            yield line_of(text, m.start()), f'"{header}" is not named from the root'
        elif not allowed or not re.match(allowed, header):
            yield line_of(text, m.start()), f'must not include "{header}"'


def their_includes(path, text):
    if path.startswith('tests/'):
        return
    for m in INCLUDE.finditer(text):
        for header, where in THEIRS:
            if re.match(header, m.group(2)) and not re.match(where, path):
                yield line_of(text, m.start()), f'must not include <{m.group(2)}>'


def cuda_switch(path, text):
    if path == 'core/backend.c':
        return
    for m in re.finditer(r'\bMAL_HAVE_CUDA\b', text):
        yield line_of(text, m.start()), 'MAL_HAVE_CUDA belongs in core/backend.c only'


def comments(path, text):
    for m in TOKEN.finditer(text):
        if m.group(1):
            yield line_of(text, m.start()), 'a // comment'


def length(path, text):
    n = text.count('\n')
    if n > MAX_LINES:
        yield n, f'{n} lines, more than {MAX_LINES}'


def library_words():
    path = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'bench', 'gpu.py')
    with open(path, encoding='utf-8') as file:
        return ast.literal_eval(re.search(r'^LIBRARIES = (\[.*?\])', file.read(), re.M | re.S).group(1))


# What a GPU's sanitizer leaves out by these words must not be ours: names and types of parameters are in
# a kernel's mangled name.
WORDS = library_words()


def kernel_names(path, text):
    for m in re.finditer(r'__global__[^{;]*', text):
        for word in WORDS:
            if word in m.group(0):
                yield line_of(text, m.start()), f'"{word}" in the name or a parameter of a kernel'


RULES = [
    ('our headers', our_includes),
    ('third-party headers', their_includes),
    ('MAL_HAVE_CUDA only in core/backend.c', cuda_switch),
    ('no // comments', comments),
    (f'at most {MAX_LINES} lines', length),
    ('no kernel is taken for a library\'s', kernel_names),
]

# rule, path, text that breaks it; then text beside it that does not.
BROKEN = [
    (our_includes, 'core/facts.c', '#include "daemon/engine/engine.h"\n', '#include "core/facts.h"\n'),
    (our_includes, 'core/hash.c', '#include "sql/store.h"\n', '#include "core/model/model.h"\n'),
    (our_includes, 'core/hash.c', '#include "core/editor/edit.h"\n', '#include <string.h>\n'),
    (our_includes, 'core/hash.c', '#include "hash.h"\n', '#include "mal_config.h"\n'),
    (our_includes, 'core/hash.c', '#include "core/cpu/cpu.h"\n', ''),
    (our_includes, 'core/model/model.c', '# include "core/editor/edit.h"\n',
     '#include "core/tokenizer/tokenizer.h"\n'),
    (our_includes, 'core/model/model.c', '#include "core/cpu/cpu.h"\n', '#include "core/backend.h"\n'),
    (our_includes, 'core/tokenizer/bpe.c', '#include "core/model/model.h"\n', ''),
    (our_includes, 'core/editor/edit.c', '#include "proto/wire.h"\n',
     '#include "core/model/model.h"\n'),
    (our_includes, 'core/export/lora.c', '#include "core/editor/edit.h"\n',
     '#include "core/export/tar.h"\n'),
    (our_includes, 'core/cpu/gemm.c', '#include "core/model/model.h"\n', '#include "core/tensor.h"\n'),
    (our_includes, 'cuda/gemm.cu', '#include "core/backend.h"\n', '#include "core/backend_impl.h"\n'),
    (our_includes, 'sql/store.c', '#include "core/facts.h"\n', '#include "core/hash.h"\n'),
    (our_includes, 'proto/wire.c', '#include "core/tensor.h"\n', '#include "core/facts.h"\n'),
    (our_includes, 'daemon/engine/engine.c', '#include "core/cpu/cpu.h"\n', '#include "core/editor/edit.h"\n'),
    (our_includes, 'daemon/engine/gate.c', '#include "daemon/worker/worker.h"\n', '#include "daemon/base/log.h"\n'),
    (our_includes, 'daemon/http/server.c', '#include "daemon/api/daemon.h"\n', '#include "daemon/base/loop.h"\n'),
    (their_includes, 'daemon/base/loop.c', '#include <sqlite3.h>\n', '#include <uv.h>\n'),
    (their_includes, 'daemon/api/router.c', '#include <microhttpd.h>\n', '#include <jansson.h>\n'),
    (their_includes, 'core/hash.c', '#include <uv.h>\n', '#include <openssl/evp.h>\n'),
    (their_includes, 'proto/wire.c', '#include <microhttpd.h>\n', '#include <jansson.h>\n'),
    (their_includes, 'sql/store.c', '#include <jansson.h>\n', '#include <sqlite3.h>\n'),
    (their_includes, 'core/backend.c', '#include <cuda_runtime.h>\n', ''),
    (their_includes, 'core/editor/solve.c', '#include <cblas.h>\n', ''),
    (cuda_switch, 'daemon/main.c', '#if MAL_HAVE_CUDA\n', '#if MAL_HAVE_CUDA_ROUTES\n'),
    (comments, 'core/hash.c', 'int x; // why\n', 'char *x = "http://x"; /* http://y */\n'),
    (comments, 'core/hash.c', "char c = '\"'; // \"\n", "char c = '\\'', *d = \"\\\"//\";\n"),
    (kernel_names, 'cuda/potrf64.cu', '__global__ static void f(struct mal_gemm64 g) {\n',
     '__global__ static void f(int64_t n) {\n    struct mal_gemm64 g;\n'),
    (length, 'core/hash.c', '\n' * (MAX_LINES + 1), '\n' * MAX_LINES),
]


def unseen_breaks():
    for rule, path, bad, good in BROKEN:
        if not list(rule(path, bad)):
            yield f'{rule.__name__} does not see {bad[:60]!r} in {path}'
        if list(rule(path, good)):
            yield f'{rule.__name__} refuses {good[:60]!r} in {path}'


def sources(root):
    for folder in FOLDERS:
        for here, folders, names in os.walk(os.path.join(root, folder)):
            folders.sort()
            for name in sorted(names):
                if name.endswith(('.c', '.h', '.cu', '.cuh')):
                    path = os.path.join(here, name)
                    with open(path, encoding='utf-8') as file:
                        yield os.path.relpath(path, root), file.read()


def main():
    root = sys.argv[1]
    files = list(sources(root))
    results = [('every rule sees what breaks it', list(unseen_breaks())),
               ('there are files to look at', [] if len(files) > 20 else [f'{len(files)} files'])]
    for title, rule in RULES:
        results.append((title, [f'{path}:{line}: {what}' for path, text in files
                                for line, what in rule(path, text)]))
    print(f'1..{len(results)}')
    for number, (title, problems) in enumerate(results, 1):
        for problem in problems:
            print(f'# {problem}')
        print(f'{"not ok" if problems else "ok"} {number} - {title}')
    return 1 if any(problems for _, problems in results) else 0


if __name__ == '__main__':
    sys.exit(main())
