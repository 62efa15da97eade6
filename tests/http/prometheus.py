"""Prometheus' text format 0.0.4, read strictly: what its server lets pass and should not be there is
an error, too.

    families = parse(text)
    families["malmend_jobs"].value(state="applied")
"""
import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)\}})? (\S+)\Z")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


class FormatError(AssertionError):
    pass


def need(condition, *what):
    if not condition:
        raise FormatError(" ".join(map(str, what)))


class Family:
    def __init__(self, name, help_):
        self.name, self.help, self.type = name, help_, None
        self.samples = {}  # (suffix, frozenset of labels) -> value

    def value(self, suffix="", **labels):
        return self.samples[suffix, frozenset(labels.items())]

    def total(self, suffix="", **labels):
        """Of all samples that have these labels."""
        wanted = set(labels.items())
        return sum(v for (s, have), v in self.samples.items() if s == suffix and wanted <= have)

    def labels(self, suffix=""):
        return [dict(have) for s, have in self.samples if s == suffix]


def number(text):
    if text in ("NaN", "+Inf", "-Inf"):
        return float(text)
    need(re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", text), "not a number:", text)
    return float(text)


def unescape(text):
    return re.sub(r'\\(["\\n])', lambda m: "\n" if m[1] == "n" else m[1], text)


def add_sample(family, line):
    match = SAMPLE.match(line)
    need(match, "not a sample:", line)
    need(family and family.type, "before its TYPE:", line)
    need(match[1].startswith(family.name), f"within {family.name}:", line)
    suffix = match[1][len(family.name):]
    need(suffix in SUFFIXES.get(family.type, ("",)), f"not of a {family.type}:", line)
    pairs = re.findall(LABEL, match[2] or "")
    labels = {name: unescape(value) for name, value in pairs}
    need(len(labels) == len(pairs), "a label twice:", line)
    need(not any(name.startswith("__") for name in labels), "a label of Prometheus' own:", line)
    need(("le" in labels) == (suffix == "_bucket"), "le:", line)
    key = suffix, frozenset(labels.items())
    need(key not in family.samples, "a sample twice:", line)
    family.samples[key] = number(match[7])


def check_histogram(family):
    series = {}
    for (suffix, labels), value in family.samples.items():
        rest = frozenset(pair for pair in labels if pair[0] != "le")
        of = series.setdefault(rest, {"_bucket": []})
        if suffix == "_bucket":
            of["_bucket"].append((float(dict(labels)["le"]), value))
        else:
            of[suffix] = value
    for labels, of in series.items():
        place = f"{family.name} {dict(labels)}"
        bounds, counts = zip(*of["_bucket"])
        need(list(bounds) == sorted(set(bounds)), place, "le do not ascend")
        need(list(counts) == sorted(counts), place, "buckets are not cumulative")
        need(bounds[-1] == math.inf, place, "has no +Inf")
        need(counts[-1] == of["_count"], place, "+Inf is not the count")
        need(of["_sum"] >= 0, place, "a negative sum")


def check_family(family):
    need(family.type, family.name, "has no TYPE")
    need(family.samples, family.name, "has no samples")
    need(re.fullmatch(r"(malmend|process)_[a-z0-9]+(_[a-z0-9]+)*", family.name), family.name)
    need(len(family.help) > 5 and family.help[-1] == ".", family.name, "is not explained")
    need(family.name.endswith("_total") == (family.type == "counter"), family.name, "_total")
    words = set(family.name.split("_"))
    need(not words & {"ms", "milliseconds", "minutes", "kb", "mb", "mib", "percent", "count", "sum",
                      "bucket", "gauge", "counter"}, family.name, "has a word it should not have")
    sets = {frozenset(labels) - {"le"} for suffix in {s for s, _ in family.samples}
            for labels in family.labels(suffix)}
    need(len(sets) == 1, family.name, "has samples of different labels")
    if family.type == "counter":
        need(all(v >= 0 for v in family.samples.values()), family.name, "is negative")
    if family.type == "histogram":
        check_histogram(family)


def parse(text):
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    need(text.endswith("\n"), "the last line does not end")
    families, family = {}, None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, help_ = re.fullmatch(rf"# HELP ({NAME}) (.+)", line).groups()
            need(name not in families, name, "twice")
            family = families[name] = Family(name, help_)
        elif line.startswith("# TYPE "):
            name, type_ = line[7:].split(" ")
            need(family and family.name == name and not family.type and not family.samples, line)
            need(type_ in ("counter", "gauge", "histogram"), line)
            family.type = type_
        else:
            add_sample(family, line)
    for family in families.values():
        check_family(family)
    return families


def scrape(daemon):
    answer = daemon.get("/metrics")
    need(answer.status == 200, answer.status, answer.body)
    kind = answer.headers["Content-Type"]
    need(kind == "text/plain; version=0.0.4; charset=utf-8", kind)
    return parse(answer.body)


# What the parser must refuse, so that it is known to look.
HEAD = "# HELP malmend_x Some words.\n# TYPE malmend_x gauge\n"
TOTAL = HEAD.replace("_x", "_x_total").replace("gauge", "counter")
HISTOGRAM = HEAD.replace("gauge", "histogram")
BUCKETS = 'malmend_x_bucket{le="1"} 1\nmalmend_x_bucket{le="+Inf"} 2\n'
GOOD = (HEAD + "malmend_x 1\n", HEAD + 'malmend_x{a="\\\\ \\" \\n é",b=""} -1.5e-07\n',
        TOTAL + "malmend_x_total 3\n", HISTOGRAM + BUCKETS + "malmend_x_sum 1\nmalmend_x_count 2\n")
BROKEN = (
    HEAD + "malmend_x 1", HEAD, "malmend_x 1\n", HEAD + "malmend_x\n", HEAD + "malmend_x 1 1700000000\n",
    HEAD + "malmend_x 0x1\n", HEAD + "malmend_x inf\n", HEAD + "malmend_y 1\n", HEAD + "malmend_xy 1\n",
    HEAD + "malmend_x 1\nmalmend_x 2\n", HEAD + "malmend_x 1\n\n", HEAD + "malmend_x 1\n" + HEAD,
    HEAD + 'malmend_x{a="1",a="2"} 1\n', HEAD + 'malmend_x{a="1"b="2"} 1\n', HEAD + 'malmend_x{a="\\t"} 1\n',
    HEAD + 'malmend_x{a="1",} 1\n', HEAD + "malmend_x{a=1} 1\n", HEAD + 'malmend_x{a="1"} 1\nmalmend_x 1\n',
    HEAD + 'malmend_x{__name="1"} 1\n', HEAD.replace("gauge", "counter") + "malmend_x 1\n",
    TOTAL + "malmend_x_total -1\n", HEAD.replace("malmend", "other") + "other_x 1\n",
    HEAD.replace("_x", "_x_ms") + "malmend_x_ms 1\n", HEAD.replace(" words.", "") + "malmend_x 1\n",
    HISTOGRAM + BUCKETS + "malmend_x_sum 1\nmalmend_x_count 3\n",
    HISTOGRAM + BUCKETS.replace(" 1\n", " 3\n") + "malmend_x_sum 1\nmalmend_x_count 2\n",
    HISTOGRAM + BUCKETS.replace("+Inf", "2") + "malmend_x_sum 1\nmalmend_x_count 2\n",
    HISTOGRAM + BUCKETS.replace('"1"', '"+Inf"') + "malmend_x_sum 1\nmalmend_x_count 2\n",
)
