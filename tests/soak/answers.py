"""Every answer against proto/openapi.yaml, whatever was asked."""
import functools
import re

import description

PATHS = sorted(((re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), path) for path in description.DOC["paths"]),
               key=lambda one: "{" in one[1])


@functools.lru_cache(None)
def validator(method, path, status, kind):
    """Of a content that is described; None: of no content."""
    described = description.resolved(description.DOC["paths"][path][method.lower()]["responses"][status])
    content = described.get("content", {})
    if not content:
        return None
    assert kind in content, f"{kind} is not described"
    schema = {"allOf": [content[kind]["schema"]], "components": description.DOC["components"]}
    return description.jsonschema.Draft202012Validator(schema) if "json" in kind else None


def check(method, path, answer):
    place = f"{method} {path}: {answer.status} {answer.body[:600]}"
    assert "X-Request-Id" in answer.headers, place
    kind = answer.headers["Content-Type"]
    if answer.status >= 400:
        assert kind == "application/problem+json", place
        assert answer.json["status"] == answer.status, place
    if answer.status in (429, 503):
        assert "Retry-After" in answer.headers, place
    pattern = next((known for regex, known in PATHS if regex.fullmatch(path)), None)
    if pattern is None:
        assert answer.status == 404, place
        return
    described = description.DOC["paths"][pattern].get(method.lower())
    if described is None:
        assert answer.status == 405 and "Allow" in answer.headers, place
        return
    assert str(answer.status) in described["responses"], place
    if answer.status == 304:
        assert not answer.body, place
        return
    judge = validator(method, pattern, str(answer.status), kind)
    if judge:
        wrong = [error.message for error in judge.iter_errors(answer.json)]
        assert not wrong, f"{wrong[:3]} of {place}"
