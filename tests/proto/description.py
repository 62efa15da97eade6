"""proto/openapi.yaml and proto/example, read for tests."""
import glob
import json
import os

import jsonschema
import yaml

METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
ROOT = os.environ.get("MAL_SOURCE_ROOT") or os.path.join(os.path.dirname(__file__), "..", "..")


class UniqueLoader(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one; here that is a mistake."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{node.start_mark}: {twice} twice"
        return super().construct_mapping(node, deep)


with open(os.path.join(ROOT, "proto", "openapi.yaml"), encoding="utf-8") as file:
    DOC = yaml.load(file, UniqueLoader)


def walk(value, place=""):
    yield place, value
    if isinstance(value, dict):
        for key, member in value.items():
            yield from walk(member, f"{place}/{key}")
    elif isinstance(value, list):
        for i, member in enumerate(value):
            yield from walk(member, f"{place}/{i}")


def follow(ref):
    assert ref.startswith("#/"), f"{ref} leaves the document"
    value = DOC
    for part in ref[2:].split("/"):
        value = value[part]
    return value


def resolved(value):
    while "$ref" in value:
        value = follow(value["$ref"])
    return value


def operations():
    for path, item in DOC["paths"].items():
        for method, operation in item.items():
            assert method in METHODS, f"{path}: {method}"
            yield method.upper(), path, operation


def errors_of(schema, value, kind=jsonschema.Draft202012Validator):
    """What is wrong with the value. The schema sees the components, as its references need."""
    whole = {"allOf": [schema], "components": DOC["components"]}
    return [error.message for error in kind(whole).iter_errors(value)]


def content_errors(validator, schema, text, _):
    """JSON in a text, which Validator leaves alone otherwise."""
    try:
        yield from validator.descend(json.loads(text), schema)
    except ValueError:
        yield jsonschema.ValidationError(f"{text!r} is not JSON")


EventValidator = jsonschema.validators.extend(jsonschema.Draft202012Validator,
                                              {"contentSchema": content_errors})


def events_of(text):
    """What a browser would make of server-sent events, each with one line of data."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            yield {"event": "message", **fields}


def event_errors(schema, text):
    """What is wrong with server-sent events."""
    return [error for event in events_of(text) for error in errors_of(schema, event, EventValidator)]


def examples():
    """Name and content of every file in proto/example."""
    for path in sorted(glob.glob(os.path.join(ROOT, "proto", "example", "*.json"))):
        with open(path, encoding="utf-8") as source:
            yield os.path.basename(path)[:-5], json.load(source)
