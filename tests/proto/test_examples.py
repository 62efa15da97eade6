#!/usr/bin/env python3
"""Holds proto/openapi.yaml to itself (references, parameters, status codes), to the router, and
proto/example to the schemas in it. Prints TAP."""
import json
import os
import re
import sys

try:
    import jsonschema

    from description import (DOC, ROOT, errors_of, event_errors, examples, follow, operations,
                             resolved, walk)
except ImportError as missing:
    print(f"1..0 # SKIP {missing}")
    sys.exit(0)


# ---- The description itself ----


def test_references():
    used = {value["$ref"] for _, value in walk(DOC) if isinstance(value, dict) and "$ref" in value}
    for ref in used:
        try:
            follow(ref)
        except KeyError:
            raise AssertionError(f"{ref} is not there") from None
    for kind, components in DOC["components"].items():
        for name in components if kind != "securitySchemes" else ():
            assert f"#/components/{kind}/{name}" in used, f"components/{kind}/{name} is not used"


def test_schemas():
    for name, schema in DOC["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        if "example" in schema:
            assert not errors_of(schema, schema["example"]), f"example of {name}"
        known = schema.get("properties", {})
        for required in schema.get("required", []):
            assert required in known, f"{name} requires {required}, which it does not describe"


def test_parameters():
    seen = set()
    for method, path, operation in operations():
        assert operation["operationId"] not in seen, f"{operation['operationId']} twice"
        seen.add(operation["operationId"])
        parameters = [resolved(p) for p in operation.get("parameters", [])]
        in_path = sorted(p["name"] for p in parameters if p["in"] == "path")
        assert in_path == sorted(re.findall(r"{(\w+)}", path)), f"{method} {path}: {in_path}"
        tags = {tag["name"] for tag in DOC["tags"]}
        assert set(operation["tags"]) <= tags, f"{method} {path}: tags"


def test_answers():
    for method, path, operation in operations():
        answers = operation["responses"]
        assert list(answers) == sorted(answers), f"{method} {path}: order of the status codes"
        for code, answer in answers.items():
            types = list(resolved(answer).get("content", {}))
            if int(code) >= 400:
                assert types == ["application/problem+json"], f"{method} {path} {code}: {types}"
        needed = {"400", "403", "405"} | ({"411", "413", "415", "422"} if "requestBody" in operation else set())
        if method != "GET" and path not in ("/v1/completions", "/v1/scores"):
            needed.add("507")  # it writes to the database
        assert needed <= set(answers), f"{method} {path}: {needed - set(answers)} missing"


def test_status_codes_of_the_source():
    with open(os.path.join(ROOT, "core", "error.h"), encoding="utf-8") as source:
        table = re.findall(r"X\((\w+), (\d+), \"([^\"]*)\"\)", source.read())
    assert len(table) > 10, "core/error.h is read wrongly"
    described = {code for _, _, operation in operations() for code in operation["responses"]}
    text = DOC["components"]["schemas"]["Problem"]["properties"]["type"]["description"]
    for name, code, _ in table:
        assert code in described, f"no call answers {code}"
        word = name.lower().replace("_", "-")
        assert name == "OK" or re.search(rf"\b{word}\b", text), f"problem type {word}"


def test_security():
    schemes = DOC["components"]["securitySchemes"]
    for method, path, operation in operations():
        ways = operation["security"]
        assert not ways or {name for way in ways for name in way} == set(schemes), f"{method} {path}"
        assert not ways or len({str(roles) for way in ways for roles in way.values()}) == 1
        assert ("401" in operation["responses"]) == bool(ways), f"{method} {path}"


def test_router():
    with open(os.path.join(ROOT, "daemon", "api", "router.c"), encoding="utf-8") as source:
        table = source.read().split("mal_routes[]")[1].split("{NULL")[0]
    routes = re.findall(r"^    {\"(\w+)\", \"([^\"]+)\",", table, re.M)
    roles = dict(((method, path), role.lower()) for method, path, role in
                 re.findall(r"{\"(\w+)\", \"([^\"]+)\",\s*mal_\w+,\s*MAL_ROLE_(\w+),", table))
    assert set(roles) == set(routes), f"no role: {set(routes) - set(roles)}"
    for method, path, operation in operations():
        ways = operation["security"]
        needed = ways[0]["bearer"][0] if ways else "none"
        assert roles.get((method, path)) == needed, f"{method} {path}: {roles.get((method, path))}"
    answers = {(method, path): re.search(r'\.answers = "([^"]*)"', rest) for method, path, rest in
               re.findall(r"{\"(\w+)\", \"([^\"]+)\",([^}]*)}", table)}
    for method, path, operation in operations():
        types = {kind.split(";")[0] for code, answer in operation["responses"].items() if code < "300"
                 for kind in resolved(answer).get("content", {})}
        named = answers[method, path]
        free = bool(named) and not named[1]
        assert free == ("406" not in operation["responses"]), f"{method} {path}: 406"
        given = named[1].split(", ") if named else ["application/json"]
        assert free or types == set(given), f"{method} {path}: {types}, in the router {given}"
    queries = {(method, path): re.search(r'\.query = "([^"]*)"', rest) for method, path, rest in
               re.findall(r"{\"(\w+)\", \"([^\"]+)\",([^}]*)}", table)}
    for method, path, operation in operations():
        named = queries[method, path]
        known = named[1].split(", ") if named else []
        told = [p["name"] for p in map(resolved, operation.get("parameters", [])) if p["in"] == "query"]
        assert known == ["*"] and not told or sorted(known) == sorted(told), f"{method} {path}: {told}, {known}"
    described = [(method, path) for method, path, _ in operations()]
    assert len(routes) > 10, "daemon/api/router.c is read wrongly"
    assert len(routes) == len(set(routes)), "a route twice"
    both = set(routes) & set(described)
    assert set(routes) == set(described), f"{(set(routes) | set(described)) - both}"


# ---- Examples ----


def request_errors(operation, example):
    media_type = example.get("media_type", "application/json")
    schema = operation["requestBody"]["content"][media_type]["schema"]
    if "request" in example:
        return errors_of(schema, example["request"])
    if media_type == "application/x-ndjson":
        fact = {"$ref": "#/components/schemas/Fact"}
        try:
            lines = [json.loads(line) for line in example["body"].splitlines() if line.strip()]
        except ValueError as error:
            return [str(error)]
        return [e for line in lines for e in errors_of(fact, line)] or ([] if lines else ["empty"])
    try:
        return errors_of(schema, json.loads(example["body"]))
    except ValueError as error:
        return [str(error)]


def check_example(example):
    known = {"call", "about", "request", "body", "media_type", "status", "pointer", "says",
             "response", "schema_accepts", "needs_daemon"}
    assert set(example) <= known, f"unknown members: {set(example) - known}"
    method, path = example["call"].split(" ")
    operation = DOC["paths"][path][method.lower()]
    answer = resolved(operation["responses"][str(example["status"])])
    if "request" in example or "body" in example:
        errors = request_errors(operation, example)
        if example["status"] < 400 or example.get("schema_accepts"):
            assert not errors, f"the schema refuses the request: {errors}"
        else:
            assert errors, "the schema lets the request pass"
            assert example["pointer"] == "" or example["pointer"].startswith("/")
    if "response" in example:
        text = isinstance(example["response"], str)
        (kind,) = [t for t in answer["content"] if t.startswith("text/") == text]
        check = event_errors if kind == "text/event-stream" else errors_of
        errors = check(answer["content"][kind]["schema"], example["response"])
        assert not errors, f"the schema refuses the answer: {errors}"


def main():
    tests = [(name[5:], function) for name, function in globals().items() if name[:5] == "test_"]
    for name, example in examples():
        tests.append(("example " + name, lambda example=example: check_example(example)))
    failed = 0
    print(f"1..{len(tests)}", flush=True)
    for i, (name, function) in enumerate(tests, 1):
        try:
            function()
            print(f"ok {i} - {name}")
        except (AssertionError, KeyError, ValueError, jsonschema.SchemaError) as error:
            failed += 1
            print(f"not ok {i} - {name}\n# {type(error).__name__}: {error}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
