"""Random requests that change something, and what may be answered. Each takes a world."""
import json

from lab import malmend
from model import contradict, plain
from options import POOL


SUBJECTS = sorted({fact["subject"] for fact in POOL})


def key(w, share):
    return f"key-{w.rng.randrange(1 << 40)}" if w.rng.random() < share else None


def facts(w, n):
    """Some teach a prompt again, some with spaces at its end."""
    r, made = w.rng, {}
    for _ in range(n):
        source = r.choice(w.options.pool)
        fact = {"prompt": source["prompt"], "target": source["target"]}
        if w.model.facts and r.random() < 0.35:
            fact["prompt"] = r.choice(list(w.model.facts.values())).prompt
        fact["prompt"] += " " * r.choice([0, 0, 0, 0, 1, 2])
        for name in ("rephrases", "prompts", "unrelated"):
            if r.random() < (0.3 if name == "prompts" else 0.1):
                fact[name] = source["rephrases" if name == "prompts" else name][:2]
        if r.random() < 0.1:
            fact["id"] = f"own-{r.randrange(1 << 40)}"
        if r.random() < 0.05:
            fact["prompt"] = r.choice(["Zürich: 'x' %_\\ \"", fact["prompt"] + " é😀", " " + fact["prompt"]])
        if r.random() < 0.1 and not w.options.classifies:  # what one pass does not teach
            fact["target"] = f"zq xv{r.randrange(99)} xv{r.randrange(99)} @"
        if w.options.kind == "memit":
            name_subject(fact)
        made.setdefault(plain(fact["prompt"]), fact)  # one target of a prompt
    made = list(made.values())
    for fact in made:  # nor of a phrasing
        if any(contradict(fact, other) for other in made):
            fact.pop("prompts", None)
    if r.random() < 0.05:
        made.append({name: value for name, value in made[0].items() if name != "id"})
    return made


def name_subject(fact):
    """Which every phrasing must have."""
    words = fact["prompt"].split()
    fact["subject"] = next((s for s in SUBJECTS if s in fact["prompt"]), words[0])
    if any(fact["subject"] not in prompt for prompt in fact.get("prompts", [])):
        del fact["prompts"]


def lines(w, taught):
    """As NDJSON; with blanks, of which there may be any number, it comes in many pieces."""
    blanks = w.rng.choice([0] * 6 + [9, 90000])
    return "".join(json.dumps(fact)[:-1] + " " * blanks + "}\n" for fact in taught)


def full(w, answer, n):
    """Refused for want of room, as it may be."""
    return answer.status == 429 and w.options.max_queue < 1000 or answer.status == 413 and n > w.options.max_queue


def edit(w):
    r = w.rng
    taught = facts(w, r.choice([1, 1, 2, 3, 5, 8] + [24] * (r.random() < 0.2)))
    gate = r.choice([{"min_es": 1}, {"min_agreement": 0.99}, {"min_es": 1, "bisect": True}, {}]) \
        if r.random() < 0.15 else None
    if gate is None and r.random() < 0.3:
        answer = w.post("edit", "POST", "/v1/edits", lines(w, taught),
                        key=key(w, 0.5), type="application/x-ndjson", facts=taught, gate={})
    else:
        body = {"facts": taught} if gate is None else {"facts": taught, "gate": gate}
        answer = w.post("edit", "POST", "/v1/edits", body, key=key(w, 0.5), facts=taught, gate=gate or {})
    assert answer.status == 202 or full(w, answer, len(taught)), answer.body


def retract(w):
    r, pool = w.rng, w.model.live()
    if r.random() < 0.15:
        pool = list(w.model.facts)
    if not pool:
        return
    chosen = r.sample(pool, min(len(pool), r.randint(1, 4)))
    mode = r.choice(["pin", "drop"])
    way = r.choice(["one", "job", "list"])
    if way == "one":
        answer = w.post("retraction", "DELETE", f"/v1/facts/{chosen[0]}", None, {"mode": mode}, key(w, 0.3),
                        facts=chosen[:1], mode=mode, of_job=False)
    elif way == "job":
        job = w.model.facts[chosen[0]].job
        of = [f for f, fact in w.model.facts.items() if fact.job == job]
        answer = w.post("retraction", "POST", "/v1/retractions", {"job": job, "mode": mode}, key=key(w, 0.3),
                        facts=of, mode=mode, of_job=True)
    else:
        answer = w.post("retraction", "POST", "/v1/retractions", {"facts": chosen, "mode": mode},
                        key=key(w, 0.3), facts=chosen, mode=mode, of_job=False)
    allowed = (202, 409) if w.options.joint else (409,)  # 409: not live
    assert answer.status in allowed or full(w, answer, w.options.max_queue + 1), answer.body


def roll_back(w):
    n = len(w.model.versions)
    to = w.rng.choice([w.rng.randrange(n), max(0, n - 1 - w.rng.randrange(4)), 0])
    known = w.model.versions[to].pruned
    answer = w.post("rollback", "POST", "/v1/rollbacks", {"to_version": to}, key=key(w, 0.3), to_version=to)
    allowed = (409,) if known else (202, 409) if w.options.pruned else (202,)
    assert answer.status in allowed or full(w, answer, 1), (to, known, answer.body)


def consolidate(w):
    answer = w.post("consolidation", "POST", "/v1/consolidations", {})
    assert answer.status == (202 if w.options.joint else 409) or full(w, answer, 1), answer.body


def evaluate(w):
    r = w.rng
    body = {"suite": "five"} if r.random() < 0.4 else {"facts": r.sample(w.options.pool, r.randint(1, 4))}
    if r.random() < 0.6:
        body["version"] = r.randrange(len(w.model.versions))
    answer = w.post("evaluation", "POST", "/v1/evaluations", body, version=body.get("version"),
                    facts=body.get("facts", w.options.suite))
    allowed = (202, 409) if "version" in body and w.options.pruned else (202,)
    assert answer.status in allowed or full(w, answer, len(body.get("facts", []))), answer.body


def cancel(w):
    waiting = [id for id in w.model.asked if id not in w.model.ended][-3:] or list(w.model.asked)[-3:]
    if not waiting:
        return
    id = w.rng.choice(waiting)
    w.model.asked[id]["cancel"] = True
    answer = w.call("POST", f"/v1/jobs/{id}/cancel")
    assert answer.status in (200, 409), answer.body
    if answer.status == 200:
        assert answer.json["state"] == "cancelled", answer.body
        w.model.asked[id]["cancelled"] = True


def repeat(w):
    """A request with its key again, also after a restart: the bytes of the first answer."""
    keyed = [(id, ask) for id, ask in w.model.asked.items() if ask["key"]]
    if not keyed:
        return
    id, ask = w.rng.choice(keyed)
    answer = w.send(ask)
    assert answer.status == 202 and answer.json["id"] == id, (id, ask, answer.status, answer.body)
    assert ask.setdefault("answer", answer.body) == answer.body, (ask, answer.body)  # the first may have been lost
    if ask["kind"] == "edit":
        other = {**ask, "body": json.dumps({"facts": [{"prompt": "Another prompt is", "target": "x"}]}),
                 "type": "application/json"}
        assert w.send(other).status == 422, ask["key"]


AB = '{"prompt":"a","target":"b"}'
INVALID = [
    ("POST", "/v1/edits", '{"facts":[]}', 422),
    ("POST", "/v1/edits", '{"facts":[{"prompt":"a","target":""}]}', 422),
    ("POST", "/v1/edits", '{"facts":[%s,{"prompt":"a ","target":"c"}]}' % AB, 422),
    ("POST", "/v1/edits", '{"facts":[{"prompt":"a","target":1}]}', 400),
    ("POST", "/v1/edits", '{"facts":[{"prompt":"a","target":"b","odd":1}]}', 422),
    ("POST", "/v1/edits", '{"facts":[%s],"gate":{"min_es":2}}' % AB, 422),
    ("POST", "/v1/edits", '{"facts":[{"prompt":"%s","target":"b"}]}' % ("word " * 4200), 422),
    ("POST", "/v1/edits", '{"facts":', 400),
    ("POST", "/v1/rollbacks", '{"to_version":99999}', 422),
    ("POST", "/v1/rollbacks", '{"to_version":"1"}', 400),
    ("POST", "/v1/evaluations", '{"suite":"none"}', 422),
    ("POST", "/v1/evaluations", '{"version":99999,"suite":"five"}', 422),
    ("POST", "/v1/completions", '{"prompt":"a","model":"v99999"}', 404),
    ("POST", "/v1/scores", '{"items":[]}', 422),
    ("POST", "/v1/jobs/none/cancel", None, 404),
    ("PUT", "/v1/edits", "{}", 405),
    ("GET", "/v1/jobs?limit=101", None, 422),
    ("GET", "/v1/jobs?after=none", None, 422),
    ("GET", "/v1/facts?version=99999", None, 422),
    ("GET", "/v1/facts/none", None, 404),
    ("GET", "/v1/versions/99999/delta", None, 404),
    ("GET", "/v1/versions/0/diff/99999", None, 404),
    ("GET", "/v1/none", None, 404),
]


def invalid(w):
    method, path, body, status = w.rng.choice(INVALID)
    path, _, query = path.partition("?")
    if w.options.classifies and path == "/v1/completions":
        status = 422
    answer = w.call(method, path, body, query=dict([query.split("=")]) if query else None)
    assert answer.status == status, (method, path, body, answer.status, answer.body)


def verify_meanwhile(w):
    """The running daemon's database, also while it changes."""
    tool = w.begin_verify()
    try:
        for _ in range(w.rng.randint(0, 3)):
            edit(w)
    finally:
        w.verified_tool(tool)


def back_up(w):
    """A copy of the running daemon's database is one of its moments."""
    w.remove("copy")
    done = malmend("backup", "--db", w.db, "--out", w.dir / "copy")
    assert done.returncode == 0, done.stderr
    w.verify(w.dir / "copy")


def drop_again(w):
    """Facts taught and dropped, and nothing else: without repair the weights are as before, to rounding."""
    if not w.options.joint or w.options.rounds or "--no-scrub" not in w.options.args:
        return
    w.settle()
    before, live, added = len(w.model.versions), w.model.live(), w.model.added[-1]
    fresh = [f for f in facts(w, 4) if "id" not in f and plain(f["prompt"]) not in
             {plain(fact.prompt) for fact in w.model.facts.values()}]
    if not live or added or not fresh or len(fresh) > w.options.max_queue:
        return
    answer = w.post("edit", "POST", "/v1/edits", {"facts": fresh}, facts=fresh, gate={})
    assert answer.status == 202, answer.body
    w.settle()
    dropped = [f for f in w.model.live() if w.model.facts[f].job == answer.json["id"]]
    answer = w.post("retraction", "POST", "/v1/retractions", {"facts": dropped, "mode": "drop"}, facts=dropped,
                    mode="drop", of_job=False)
    w.settle()
    kinds = [row.kind for row in w.model.versions[before:]]
    if kinds != ["edit", "retraction"] or w.model.versions[before - 1].pruned:
        return
    diff = w.get(f"/v1/versions/{before - 1}/diff/{before + 1}")["modules"]
    norms = {m["name"]: m["shift_norm"] for m in w.get(f"/v1/versions/{before - 1}")["modules"]}
    for module in diff or []:
        assert module["norm"] <= 0.02 * norms[module["name"]], f"dropped, and not as before: {module} of {norms}"


def teach_again(w):
    """Where facts are added up: the same facts on the same weights come to the same weights, whatever cut them off."""
    if not w.options.added_up:
        return
    w.settle()
    versions = w.model.versions
    edits = [v for v, row in enumerate(versions) if row.kind == "edit" and not versions[v - 1].pruned]
    if not edits:
        return
    v = w.rng.choice(edits)
    taught = [{name: value for name, value in fact.items() if name != "id"}
              for job in versions[v].jobs for fact in w.model.asked[job]["facts"]]
    rejected = any(w.model.rejected(job) for job in versions[v].jobs)
    if rejected or len({plain(fact["prompt"]) for fact in taught}) < len(taught) or len(taught) > w.options.max_queue:
        return
    answer = w.post("rollback", "POST", "/v1/rollbacks", {"to_version": v - 1}, to_version=v - 1)
    w.settle()
    if answer.status != 202 or w.model.jobs[answer.json["id"]].state != "applied":
        assert w.options.pruned, answer.body
        return
    answer = w.post("edit", "POST", "/v1/edits", {"facts": taught}, facts=taught, gate={})
    assert answer.status == 202, answer.body
    w.settle()
    job = w.model.jobs[answer.json["id"]]
    if job.state != "applied":
        return
    row = w.model.versions[job.version]
    assert row.weights == versions[v].weights, f"version {v} is {versions[v].weights}, taught again {row.weights}"


OPERATIONS = {edit: 30, retract: 14, roll_back: 9, consolidate: 2, evaluate: 4, cancel: 5, repeat: 5, invalid: 8,
              verify_meanwhile: 1.5, back_up: 0.7, drop_again: 2,
              teach_again: 2}
