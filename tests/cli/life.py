"""The life of facts as it must be: what was asked of a daemon, replayed version by version and
compared with the rows of its database, also with those that a kill left."""
import json
import os
import shutil
import sqlite3
from collections import namedtuple

TOOLS = ("backup", "export", "download")  # that run meanwhile
MOST_LIVE = 24
Fact = namedtuple("Fact", "seq job prompt state by pinned")
Job = namedtuple("Job", "kind state version to_version request result error took")
Version = namedtuple("Version", "kind parent to_version live_facts weights chain pruned keyframe"
                     " jobs")

ENDED = ("applied", "done", "rejected", "failed", "cancelled")  # done: an evaluation
CALLS = {"edit": {"POST /v1/edits"}, "rollback": {"POST /v1/rollbacks"},
         "consolidation": {"POST /v1/consolidations"}, "evaluation": {"POST /v1/evaluations"},
         "retraction": {"POST /v1/retractions", "DELETE /v1/facts/{id}"}}
CANCEL = "POST /v1/jobs/{id}/cancel"
WHY_FAILED = {"retraction": "is not live", "rollback": "pruned", "consolidation": "no live facts"}


def count_staged(db):
    """Rows above the last version."""
    return sum(db.execute(f"SELECT count(*) FROM {table} WHERE version >"
                          " (SELECT coalesce(max(version), -1) FROM versions)").fetchone()[0]
               for table in ("blobs", "fact_values"))


def staged(path):
    db = sqlite3.connect(path, isolation_level=None)
    n = count_staged(db)
    db.close()
    return n


def read(path):
    """Everything in one snapshot: {id: Job}, {id: Fact}, [Version], {version: [(fact, state...)]},
    what is staged above the last version, and {id of a job: [call that asked for it]}."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN")
    jobs = {row[0]: Job(*row[1:]) for row in db.execute(
        "SELECT id, kind, state, version, to_version, request_json, result_json, error_json,"
        " (finished_ms - started_ms) / 1000.0 FROM jobs ORDER BY seq")}
    facts = {row[0]: Fact(*row[1:]) for row in db.execute(
        "SELECT f.id, f.seq, j.id, f.prompt, f.state, n.id, f.pinned FROM facts f"
        " JOIN jobs j ON j.seq = f.job LEFT JOIN facts n ON n.seq = f.superseded_by"
        " ORDER BY f.seq")}
    of = {}
    for version, job in db.execute("SELECT v.version, j.id FROM version_jobs v"
                                   " JOIN jobs j ON j.seq = v.job ORDER BY v.version, v.idx"):
        of.setdefault(version, []).append(job)
    rows = db.execute("SELECT version, kind, parent, to_version, live_facts, weights_hash,"
                      " chain_hash, pruned, keyframe FROM versions ORDER BY version").fetchall()
    versions = [Version(*row[1:], of.pop(row[0], [])) for row in rows]
    assert [row[0] for row in rows] == list(range(len(rows))) and not of, (rows, of)
    states = {}
    for version, *row in db.execute(
            "SELECT s.version, f.id, s.state, n.id, s.pinned FROM fact_states s"
            " JOIN facts f ON f.seq = s.fact LEFT JOIN facts n ON n.seq = s.by_fact"):
        states.setdefault(version, {})[row[0]] = tuple(row[1:])
    staged = count_staged(db)
    blobs = {}
    for version, name in db.execute("SELECT version, name FROM blobs"):
        blobs.setdefault(version, []).append(name)
    calls = {}
    for job, action in db.execute("SELECT j.id, a.action FROM audit a JOIN jobs j ON j.seq = a.job"
                                  " ORDER BY a.id"):
        calls.setdefault(job, []).append(action)
    db.close()
    return jobs, facts, versions, states, staged, blobs, calls


def copy(source, to):
    """A database nobody writes to, with its log as it is."""
    shutil.copyfile(source, to)
    if os.path.exists(f"{source}-wal"):
        shutil.copyfile(f"{source}-wal", f"{to}-wal")


class Book:
    """What was asked, and what has come of it so far."""

    def __init__(self, n_modules, exact):
        self.n_modules = n_modules
        self.exact = exact  # bad facts are refused for sure
        self.asked = {}     # id of a job that was accepted: what was asked
        self.open = []      # asked, and no answer came
        self.ended = {}     # id of a job: its row
        self.versions, self.states = [], []
        self.staged = 0
        self.jobs, self.facts = {}, {}

    def check(self, path):
        """The rows are those of before or after each thing asked. The ids of new versions."""
        jobs, facts, versions, states, self.staged, blobs, calls = read(path)
        self.facts = facts
        self.check_jobs(jobs)
        for id, job in jobs.items():  # each with its row of the audit, no row without its job
            made, *more = calls.pop(id)
            assert made in CALLS[job.kind], (id, job, made)
            assert more == [CANCEL] * (job.state == "cancelled"), (id, job, more)
        assert not calls, calls
        new = range(len(self.versions), len(versions))
        for v, old in enumerate(self.versions):
            assert versions[v]._replace(pruned=0) == old._replace(pruned=0), (v, old, versions[v])
            assert versions[v].pruned >= old.pruned, f"version {v} is back"
        for v in new:
            self.add_version(v, versions[v], states.get(v, {}))
        self.versions = versions
        self.check_blobs(blobs)
        self.check_facts()
        return new

    # ---- Jobs ----

    def check_jobs(self, jobs):
        for id in set(jobs) - set(self.asked):
            fits = [ask for ask in self.open if self.fits(ask, id, jobs[id])]
            assert fits, f"nobody asked for {id}: {jobs[id]}"
            self.open.remove(fits[0])
            self.asked[id] = fits[0]
        assert set(self.asked) <= set(jobs), "answered 202 and lost"
        self.jobs = jobs
        for id, job in jobs.items():
            assert job.kind == self.asked[id]["kind"], (id, job)
            assert job.state in ("queued", "running") + ENDED, (id, job)
            assert (job.version is not None) == (job.state == "applied"), (id, job)
            if job.state in ENDED:
                self.check_ended(id, job)
                assert self.ended.setdefault(id, job) == job, "ended twice"
            else:
                assert id not in self.ended, f"{id} had ended: {job}"

    def fits(self, ask, id, job):
        """Whether it may be what was asked without an answer."""
        return ask["kind"] == job.kind

    def check_ended(self, id, job):
        bad = self.asked[id].get("bad")
        if job.state == "cancelled":
            assert self.asked[id].get("cancel"), (id, job)
        if job.state == "failed":
            assert WHY_FAILED.get(job.kind, "\0") in job.error, (id, job)
        elif job.state == "rejected" and job.kind == "edit":
            assert bad, (id, job)
        elif job.state == "rejected":
            assert job.kind == "consolidation", (id, job)

    def rejected(self, id):
        """Facts of a job that was applied for its other facts."""
        if self.jobs[id].state != "applied" or self.jobs[id].kind != "edit":
            return set()
        refused = set(json.loads(self.jobs[id].result).get("rejected", []))
        bad = {f for f, fact in self.facts.items()
               if fact.job == id and fact.prompt in self.asked[id].get("bad", [])}
        assert bad or not refused, (id, refused)
        assert bad <= refused or not self.exact, (id, refused, bad)
        return refused

    # ---- Versions ----

    def add_version(self, v, row, written):
        state = self.follow(v, row) if v else {}
        assert {**(self.states[-1] if v else {}), **written} == state, f"facts in version {v}"
        live = sum(word == "live" for word, _, _ in state.values())
        assert row.live_facts == live, (v, row, live)
        assert row.parent == (v - 1 if v else None), (v, row)
        for job in row.jobs:
            assert self.jobs[job].version == v and self.jobs[job].state == "applied", (v, job)
        if row.kind == "rollback":
            assert row.weights == self.versions[row.to_version].weights, (v, row)
        self.versions.append(row)
        self.states.append(state)

    def follow(self, v, row):
        """The states of all facts ever taught, after the version."""
        state = dict(self.states[-1])
        kinds = {self.jobs[job].kind for job in row.jobs}
        if row.kind in ("repair", "consolidation"):
            assert kinds <= {"consolidation"} and len(row.jobs) <= 1, (v, row)
            assert row.kind == "consolidation" or not kinds, (v, row)
            return state
        assert kinds == {row.kind}, (v, row)
        if row.kind == "edit":
            for job in row.jobs:
                self.teach(state, job)
            return state
        assert len(row.jobs) == 1, (v, row)
        ask = self.asked[row.jobs[0]]
        if row.kind == "rollback":
            assert row.to_version == ask["to_version"], (v, row, ask)
            then = self.states[row.to_version]
            return {f: then.get(f, ("rolled_back", None, 0)) for f in state}
        request = json.loads(self.jobs[row.jobs[0]].request)
        assert set(request["facts"]) <= set(ask["facts"]), (v, request, ask)
        assert ask["of_job"] or len(request["facts"]) == len(ask["facts"]), (v, request, ask)
        for f in request["facts"]:
            assert state[f][0] == "live" or state[f][2] and ask["mode"] == "drop", (v, f, state[f])
            state[f] = "retracted", None, int(ask["mode"] == "pin")
        return state

    def teach(self, state, job):
        taught = {f for f, fact in self.facts.items() if fact.job == job} - self.rejected(job)
        assert taught, f"{job} taught nothing"
        by_prompt = {self.facts[f].prompt: f for f in taught}
        for f, (word, by, pinned) in list(state.items()):
            new = by_prompt.get(self.facts[f].prompt)
            if new and word == "live":
                state[f] = "superseded", new, 0
            elif new and pinned:
                state[f] = word, by, 0
        for f in taught:
            state[f] = "live", None, 0

    # ---- Now ----

    def check_blobs(self, blobs):
        for v, row in enumerate(self.versions):
            names = blobs.get(v, [])
            n = sum(name.startswith("keyframe/") for name in names)
            assert not (row.pruned and names), f"version {v} is pruned in part"
            base = row.weights == self.versions[0].weights  # of which nothing is stored
            assert row.pruned or base or n == self.n_modules * row.keyframe, (v, row, names)

    def check_facts(self):
        state = self.states[-1] if self.states else {}
        for f, fact in self.facts.items():
            job = self.jobs[fact.job]
            if f in state:
                assert (fact.state, fact.by, fact.pinned) == state[f], (f, fact, state[f])
            elif job.state in ("queued", "running"):
                assert fact.state == "queued", (f, fact)
            elif job.state == "applied":
                assert fact.state == "rejected" and f in self.rejected(fact.job), (f, fact)
            else:
                word = "rejected" if job.state == "cancelled" else job.state
                assert fact.state == word, (f, fact, job)
        for id, job in self.jobs.items():
            if job.kind == "edit":
                n = sum(fact.job == id for fact in self.facts.values())
                assert n == len(self.asked[id]["facts"]), f"{id} is there in part"

    def live(self, version=-1):
        state = self.states[version] if self.states else {}
        return [f for f, (word, _, _) in state.items() if word == "live"]

    def pinned(self):
        return [f for f, (_, _, pinned) in self.states[-1].items() if pinned] if self.states else []


class Wishes:
    """What may be asked next."""

    def __init__(self, rng, book, pool, idleness):
        self.rng, self.book, self.all, self.idleness = rng, book, pool, idleness
        self.pool = iter(rng.sample(pool, len(pool)))

    def facts(self, n):
        """Some teach a prompt again."""
        facts = [dict(next(self.pool)) for _ in range(n)]
        known = list(self.book.facts.values())
        if known and self.rng.random() < 0.4:
            old = self.rng.choice(known).prompt
            facts[0]["prompt"] = old
            if self.rng.random() < 0.3:  # as it is
                facts[0]["target"] = next(f["target"] for f in self.all if f["prompt"] == old)
        return facts

    def choose(self):
        live, r = self.book.live(), self.rng
        ops = ["edit"] * 4 + ["rollback"] * 2 + ["refused"] * 2 + ["bisected", *TOOLS]
        ops += ["idle"] * self.idleness
        if live:
            ops += ["pin", "drop", "of job", "delete", "consolidation"]
        if len(live) > MOST_LIVE:
            ops = ["drop", "of job", "rollback"] * 2 + ["consolidation"]
        return r.choice(ops)

    def request(self, op):
        """(method, path, body, what the book must know)."""
        r, live = self.rng, self.book.live()
        if op in ("edit", "idle", *TOOLS):
            facts = self.facts(r.randint(1, 3))
            return "POST", "/v1/edits", {"facts": facts}, {"kind": "edit", "facts": facts}
        if op in ("refused", "bisected"):
            facts = [dict(next(self.pool)) for _ in range(1 if op == "refused" else 3)]
            bad = r.choice(facts)
            # Its own prompt must be answered as before.
            bad["unrelated"] = [{"prompt": bad["prompt"]}]
            return ("POST", "/v1/edits", {"facts": facts, "gate": {"min_agreement": 1}},
                    {"kind": "edit", "facts": facts, "bad": [bad["prompt"]]})
        if op == "rollback":
            to = r.choice([v for v, row in enumerate(self.book.versions) if not row.pruned])
            return "POST", "/v1/rollbacks", {"to_version": to}, {"kind": op, "to_version": to}
        if op == "consolidation":
            return "POST", "/v1/consolidations", {}, {"kind": op}
        mode = op if op in ("pin", "drop") else r.choice(["pin", "drop"])
        if mode == "drop":
            live = live + self.book.pinned()
        facts = r.sample(live, min(len(live), r.randint(1, 3)))
        ask = {"kind": "retraction", "facts": facts, "mode": mode, "of_job": op == "of job"}
        if op == "delete":
            ask["facts"] = facts[:1]
            return "DELETE", f"/v1/facts/{facts[0]}?mode={mode}", None, ask
        if op != "of job":
            return "POST", "/v1/retractions", {"facts": facts, "mode": mode}, ask
        job = self.book.facts[facts[0]].job
        ask["facts"] = [f for f, fact in self.book.facts.items() if fact.job == job]
        return "POST", "/v1/retractions", {"job": job, "mode": mode}, ask
