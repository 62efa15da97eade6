"""Tokens: every call shows one that may make it, and what shows none, another or too little is refused."""
import hashlib
import os
import secrets
import signal
import time

import answers
import description
from harness import PATIENCE
from tokens import ROLES, Tokens, basic, bearer, calls, line
from trouble import Troubled

NEEDED = {(method, pattern): role for method, _, pattern, role in calls(description.DOC)}
KEEPER = "keeper"  # an admin whose token stays


def needed(method, path):
    """The role; of a path or method that there is not, as of OPTIONS, the least."""
    pattern = next((known for regex, known in answers.PATHS if regex.fullmatch(path)), None)
    return NEEDED.get(("GET" if method == "HEAD" else method, pattern), "read")


class Rights:
    """The tokens of a world."""

    def __init__(self, rng, directory):
        self.rng, self.tokens, self.old = rng, Tokens(directory), []
        self.tokens.of[KEEPER] = secrets.token_urlsafe(24)
        self.write()

    def write(self):
        self.tokens.write("".join(line(name, "admin" if name == KEEPER else name, token)
                                  for name, token in self.tokens.of.items()))

    def headers(self, name):
        token = self.tokens.of[name]
        return self.rng.choice([bearer(token), bearer(token), basic("", token), basic(name, token)])

    def show(self, method, path):
        """Who asks, and the headers that say so: anybody who may."""
        role = needed(method, path)
        name = self.rng.choice([*ROLES[ROLES.index(role or "read"):], KEEPER])
        return name, self.headers(name)

    def refused(self, role, anonymous):
        """(headers, status): where that role is needed, and who shows nothing is nobody."""
        r = self.rng
        token = self.tokens.of[role]
        hashed = hashlib.sha256(token.encode()).hexdigest()
        strangers = [*[{}] * anonymous, {"Authorization": token}, basic(KEEPER, token),
                     *map(bearer, ["not-a-token", token[:-1], hashed, *self.old])]
        lesser = [self.headers(name) for name in ROLES[:ROLES.index(role)]]
        return (r.choice(lesser), 403) if lesser and r.random() < 0.5 else (r.choice(strangers), 401)

    def check_log(self, path):
        """No secret is told."""
        log = path.read_text(errors="replace")
        for token in [*self.tokens.of.values(), *self.old]:
            for secret in (token, hashlib.sha256(token.encode()).hexdigest(), basic("", token)["Authorization"][6:]):
                assert secret not in log, f"{secret} is in the log"


def filled(w, pattern):
    """A path of things that are there."""
    facts, jobs = list(w.model.facts) or ["none"], list(w.model.asked) or ["none"]
    for name, choices in (("{id}", facts if "facts" in pattern else jobs), ("{file}", ["main.js"]),
                          *((number, range(len(w.model.versions))) for number in ("{n}", "{a}", "{b}"))):
        pattern = pattern.replace(name, str(w.rng.choice(choices)))
    return pattern


def denied(w):
    """Whatever it is, nothing comes of it."""
    if not w.rights:
        return
    r = w.rng
    (method, pattern), role = r.choice([call for call in NEEDED.items() if call[1]])
    fact = r.choice(w.options.pool)
    body = {"/v1/edits": {"facts": [fact]}, "/v1/rollbacks": {"to_version": 0}, "/v1/consolidations": {},
            "/v1/evaluations": {"facts": [fact]}}.get(pattern, {"facts": list(w.model.facts)[:3]})
    headers, status = w.rights.refused(role, local(w.d) == "local")
    key = {"Idempotency-Key": f"denied-{r.randrange(1 << 40)}"} if r.random() < 0.3 else {}
    answer = w.call(method, filled(w, pattern), body if method == "POST" else None,
                    {"Authorization": None, **headers, **key})
    assert answer.status == status, (method, pattern, headers, answer.status, answer.body)
    assert (status == 401) == ("WWW-Authenticate" in answer.headers), answer.headers


def rotate(w):
    """A token is replaced by another; a file that cannot be read changes nothing."""
    if not w.rights:
        return
    r, tokens = w.rng, w.rights.tokens
    name = r.choice(ROLES)
    if r.random() < 0.3:
        tokens.write(r.choice(["", line("new", "read", "new")[:-9], line("a", "boss", "x")]))
        w.d.process.send_signal(signal.SIGHUP)
        time.sleep(r.choice([0, 0.02]))
    old, tokens.of[name] = tokens.of[name], secrets.token_urlsafe(24)
    w.rights.old.append(old)
    w.rights.write()
    until = time.monotonic() + PATIENCE
    while True:
        w.d.process.send_signal(signal.SIGHUP)  # a first may have been lost to what fails
        try:
            status = w.call("GET", "/v1/jobs", headers=bearer(tokens.of[name])).status
        except Troubled:
            status = None
        if status == 200:
            break
        assert status in (401, None) and time.monotonic() < until, f"the new token of {name}: {status}"
        time.sleep(0.01)
    answer = w.call("GET", "/v1/jobs", headers=bearer(old))
    assert answer.status == 401, f"the old token of {name}: {answer.status}"


def asked_by(w):
    """The audit names who asked for each job."""
    for row in w.pages("/v1/audit"):
        ask = w.model.asked.get(row.get("job"))
        if ask and not row["action"].endswith("/cancel"):
            assert row["who"] in ask["who"], (row, ask)
            role = row["who"] if row["who"] in ROLES else "admin"
            assert row["role"] == role, row


def listen(rng, directory):
    return f"unix:{directory}/socket" if rng.random() < 0.15 else "127.0.0.1:0"


def local(daemon):
    """Who everybody is without a token."""
    return f"uid:{os.geteuid()}" if daemon.address.startswith("unix:") else "local"


OPERATIONS = {denied: 6, rotate: 1, asked_by: 0.5}
