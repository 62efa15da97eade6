"""Random reads of a world at any moment, and all there is in a quiet one."""
import collections

import figures
import gates
import rights
from life import ENDED

JOB_STATES = ("queued", "running") + ENDED
JOB_KINDS = ("edit", "rollback", "retraction", "consolidation", "evaluation")
FACT_STATES = ("queued", "live", "superseded", "retracted", "rolled_back", "rejected", "failed")
MAY_CHANGE = ("in_memory", "pruned", "bytes")  # of a version


def asked(w):
    return [{"prompt": fact["prompt"], "target": fact["target"]} for fact in w.options.pool[:6]]


def some(rng, share, choose):
    return choose() if rng.random() < share else None


def jobs(w):
    r = w.rng
    query = {"kind": some(r, 0.5, lambda: r.choice(JOB_KINDS)), "state": some(r, 0.5, lambda: r.choice(JOB_STATES))}
    for job in w.pages("/v1/jobs", r.choice([7, 100]), **query):
        assert all(value in (None, job[name]) for name, value in query.items()), (query, job)


def facts(w):
    r, known = w.rng, list(w.model.facts.values())
    query = {"state": some(r, 0.4, lambda: r.choice(FACT_STATES)),
             "version": some(r, 0.3, lambda: r.randrange(len(w.model.versions))),
             "search": some(r, 0.2, lambda: r.choice(["by trade", "IN", "%", "_", "\\", "é"])),
             "order": some(r, 0.3, lambda: r.choice(["asc", "desc"]))}
    if known:
        query["prompt"] = some(r, 0.2, lambda: r.choice(known).prompt)
        query["job"] = some(r, 0.2, lambda: r.choice(known).job)
    for fact in w.pages("/v1/facts", r.choice([7, 100]), **query):
        for name in ("state", "prompt", "job"):
            assert query.get(name) in (None, fact[name]), (query, fact)
        assert (query["search"] or "").lower() in fact["prompt"].lower(), (query, fact)


def versions(w):
    rows = w.pages("/v1/versions", w.rng.choice([7, 100]))
    assert [row["version"] for row in rows] == list(range(len(rows)))[::-1], rows


def one(w):
    r, n = w.rng, len(w.model.versions)
    paths = ["/v1/status", "/v1/models", "/metrics", "/livez", f"/v1/versions/{r.randrange(n)}",
             f"/v1/versions/{r.randrange(n)}/diff/{r.randrange(n)}"]
    if w.model.facts:
        paths.append("/v1/facts/" + r.choice(list(w.model.facts)))
    answer = w.call("GET", r.choice(paths))
    assert answer.status == 200, answer.body
    w.call(r.choice(["HEAD", "OPTIONS"]), r.choice(["/v1/jobs", "/v1/facts", "/livez"]))


def job(w):
    if not w.model.asked:
        return
    path = "/v1/jobs/" + w.rng.choice(list(w.model.asked)[-6:])
    answer = w.call("GET", path, query={"wait": w.rng.choice([0, 1])})
    assert answer.status == 200, answer.body
    again = w.call("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304 or answer.json["state"] not in ENDED, (answer.body, again.status, again.body)
    if answer.json["state"] == "applied":
        assert w.get("/v1/status")["live_version"] >= answer.json["version"], "applied, and not live"


def audit(w):
    ids = [row["id"] for row in w.pages("/v1/audit")]
    assert ids == sorted(ids, reverse=True), ids


def complete(w):
    """By a random model, sampled or streamed."""
    r, n = w.rng, len(w.model.versions)
    model = r.choice(["live", "base", f"v{r.randrange(n)}"])
    body = {"model": model, "prompt": [r.choice(w.options.pool)["prompt"] for _ in range(r.randint(1, 3))],
            "max_tokens": r.choice([0, 1, 12]), "stop": ["."], "stream": r.random() < 0.3}
    if r.random() < 0.3:
        body.update(temperature=0.8, seed=r.randrange(100), top_p=0.9)
    answer = w.call("POST", "/v1/completions", body)
    if answer.status == 404:
        assert model[0] == "v", answer.body
        return
    if w.options.classifies:
        assert answer.status == 422 and "/v1/scores" in answer.json["detail"], answer.body
        return
    assert answer.status == 200, answer.body
    number = int(answer.headers["Malmend-Version"])
    assert number == {"live": number, "base": 0}.get(model, int(model[1:]) if model[0] == "v" else 0), (model, number)
    assert not body["stream"] or answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-200:]


# ---- In a quiet moment ----

def everything(w):
    status, job_rows, fact_rows, version_rows = w.settle()
    versions, live = w.model.versions, w.model.live()
    last = versions[-1]
    assert status["weights_hash"] == last.weights, (status, last)
    assert (status["counts"]["live_facts"], status["counts"]["versions"]) == (len(live), len(versions)), status
    assert status["queue"]["jobs"] == status["queue"]["facts"] == 0, status
    unchanged(w, job_rows, version_rows)
    for row in job_rows:
        gates.check(w, row)
        if row["kind"] == "evaluation" and row["state"] == "done":
            measured(w, row)
    told = {f["id"]: (f["state"], f.get("superseded_by"), f.get("pinned", False)) for f in fact_rows}
    known = {f: (fact.state, fact.by, bool(fact.pinned)) for f, fact in w.model.facts.items()}
    assert told == known, [(f, told.get(f), known.get(f)) for f in known if told.get(f) != known[f]]
    lists(w, job_rows, fact_rows)
    say(w, status["live_version"])
    rights.asked_by(w)
    figures.agree(w, status)


def unchanged(w, jobs, versions):
    """What has ended, and versions, are told of as they were at first."""
    for row in jobs:
        assert w.first.setdefault(row["id"], row) == row, (w.first[row["id"]], row)
    for row in versions:
        row = {name: value for name, value in row.items() if name not in MAY_CHANGE}
        assert w.first.setdefault(row["version"], row) == row, (w.first[row["version"]], row)


def measured(w, row):
    """The same weights and facts measure the same."""
    result = dict(row["result"])
    number, ask = result.pop("version"), w.model.asked[row["id"]]
    assert ask["version"] in (None, number) and result["facts"] == len(ask["facts"]), (row, ask)
    key = w.model.versions[number].weights, str(ask["facts"])
    assert w.measured.setdefault(key, result) == result, (row, w.measured[key])


def lists(w, job_rows, fact_rows):
    """Random filters and pages give what the whole lists hold."""
    r, n = w.rng, len(w.model.versions)
    number, state = r.randrange(n), r.choice(FACT_STATES)
    live = set(w.model.live(number))
    want = [fact["id"] for fact in fact_rows if fact["id"] in live]
    for path, query in ((f"/v1/versions/{number}/facts", {}), ("/v1/facts", {"version": number})):
        have = [fact["id"] for fact in w.pages(path, r.choice([7, 100]), **query)]
        assert have == want, (path, query, have, want)
    have = [fact["id"] for fact in w.pages("/v1/facts", r.choice([7, 100]), state=state, order="desc")]
    assert have == [fact["id"] for fact in fact_rows if fact["state"] == state][::-1], state
    kinds = collections.Counter(row["kind"] for row in job_rows)
    assert len(w.pages("/v1/jobs", r.choice([7, 100]), kind="edit")) == kinds["edit"], kinds
    other = r.randrange(n)
    diff = w.get(f"/v1/versions/{number}/diff/{other}")
    then = set(w.model.live(other))
    assert (set(diff["facts"]["added"]), set(diff["facts"]["removed"])) == (then - live, live - then), diff
    if w.model.versions[number].weights != w.model.versions[other].weights and diff["modules"]:
        assert any(module["norm"] for module in diff["modules"]), diff


def say(w, live_version):
    """The same weights say the same, in whichever version and life."""
    models = [("live", live_version)]
    models += [(model["id"], int(model["id"][1:])) for model in w.pages("/v1/models") if model["id"][0] == "v"]
    for model, number in models[:4]:
        weights = w.model.versions[number].weights
        if not w.options.classifies:
            answer = w.call("POST", "/v1/completions", {"model": model, "max_tokens": 10,
                                                        "prompt": [fact["prompt"] for fact in asked(w)]})
            if answer.status == 404:
                assert model != "live", answer.body
                continue
            if int(answer.headers["Malmend-Version"]) != number:
                return  # an idle daemon has published another
            said = [c["text"] for c in sorted(answer.json["choices"], key=lambda c: c["index"])]
            assert w.said.setdefault(weights, said) == said, f"{weights} says {said}, and said {w.said[weights]}"
        scores = w.call("POST", "/v1/scores", {"model": model, "items": asked(w)})
        if scores.status == 404:
            assert model != "live", scores.body
            continue
        if scores.json["version"] != number:
            return
        scored = [score(w, item) for item in scores.json["data"]]
        far = max(abs(a - b) for a, b in zip(w.scored.setdefault(weights, scored), scored))
        assert far < 1e-4, f"{weights} scores {scored}, and scored {w.scored[weights]}"


def score(w, item):
    if not w.options.classifies:
        return item["logprob"]
    p = item["probability"]["SUPPORTS"]
    assert 0 <= p <= 1 and item["correct"] == (item["target"] == ("SUPPORTS" if p > 0.5 else "REFUTES")), item
    return p


OPERATIONS = {jobs: 3, facts: 4, versions: 1, one: 4, job: 3, audit: 0.5, complete: 3}
