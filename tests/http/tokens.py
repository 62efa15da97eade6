"""Tokens for tests, and the calls they may make."""
import base64
import hashlib
import os
import re
import secrets

ROLES = ("read", "infer", "edit", "admin")


def line(name, role, token):
    return f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}\n"


def bearer(token):
    return {"Authorization": "Bearer " + token}


def basic(user, token):
    pair = f"{user}:{token}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


class Tokens:
    """A file with a token of each role, named after it."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "tokens")
        self.of = {role: secrets.token_urlsafe(24) for role in ROLES}
        self.write("".join(line(role, role, self.of[role]) for role in ROLES))

    def write(self, text, mode=0o600):
        """At once: a daemon may read it at any time."""
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path + ".new", mode)
        os.rename(self.path + ".new", self.path)


def calls(description):
    """(method, path with values in it, its pattern, the role it needs or None) of all calls."""
    for pattern, item in description["paths"].items():
        path = re.sub(r"{([a-z]+)}", lambda m: "0" if m[1] in "nab" else "x", pattern)
        for method, operation in item.items():
            ways = operation["security"]
            roles = {role for way in ways for needed in way.values() for role in needed}
            assert len(roles) == (1 if ways else 0), (method, pattern, ways)
            yield method.upper(), path, pattern, roles.pop() if roles else None
