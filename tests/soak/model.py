"""What must have come of all that was asked, after tests/cli/life.py: the rows of the database are those that
the requests make, version by version."""
import json
import threading

from life import WHY_FAILED, Book

ADDED_UP = "POST /v1/consolidations"  # what a daemon with one system says of facts that are in none
SEQUENTIAL = "runs --update sequential"
NO_EDITOR = "there is no editor"
NO_STEP = "no step teaches the model anything"  # of facts that contradict each other, say


def plain(prompt):
    """Spaces at its end are no part of a prompt."""
    return prompt.rstrip(" ")


def texts(posted):
    """What a fact is taught in."""
    return {plain(prompt) for prompt in [posted["prompt"], *posted.get("prompts", [])]}


def contradict(one, other):
    return one["target"].strip(" ") != other["target"].strip(" ") and texts(one) & texts(other)


class Model(Book):
    def __init__(self, options):
        super().__init__(options.n_modules, exact=False)
        self.options = options
        self.added = []        # by version: whether some facts may have been added up, and are in no system
        self.was_added = False  # in any version
        self.lock = threading.Lock()
        self.troubles = []     # of lives of the daemon
        self.editor_missed = False  # a daemon may have been without

    def check(self, path):
        new = super().check(path)
        for id in self.jobs:
            ask = self.asked[id]
            if ask["kind"] == "edit" and not ask.get("seen"):
                self.check_posted(id, ask)
        self.check_order()
        return new

    def close(self, ask):
        """It has its answer. Another may ask the very same at this moment."""
        with self.lock:
            del self.open[next(i for i, one in enumerate(self.open) if one is ask)]

    # ---- Jobs ----

    def fits(self, ask, id, job):
        if ask["kind"] != job.kind:
            return False
        if job.kind == "edit":
            rows = [(f, fact.prompt) for f, fact in self.facts.items() if fact.job == id]
            return len(rows) == len(ask["facts"]) and all(
                (posted.get("id", f), plain(posted["prompt"])) == (f, prompt)
                for (f, prompt), posted in zip(rows, ask["facts"]))
        if job.kind == "rollback":
            return ask["to_version"] == job.to_version
        if job.kind == "retraction":
            return set(json.loads(job.request)["facts"]) <= set(ask["facts"])
        return True

    def check_ended(self, id, job):
        ask = self.asked[id]
        if ask.get("cancelled"):
            assert job.state == "cancelled", (id, job)
        if job.state == "cancelled":
            assert ask.get("cancel"), (id, job)
        elif job.state == "rejected":
            assert job.kind == "consolidation" or ask.get("gate") or self.options.gate, (id, job)
        elif job.state == "failed":
            error = json.loads(job.error)
            if any(trouble.explains(error["detail"]) for trouble in self.troubles):
                return
            expected = error["status"] < 500 or NO_STEP in error["detail"]
            assert expected and any(why in error["detail"] for why in self.reasons(job.kind)), (id, job)

    def reasons(self, kind):
        """Why a job of this kind may fail."""
        yield WHY_FAILED.get(kind, "pruned" if kind == "evaluation" else "\0")
        if self.was_added and kind in ("edit", "retraction"):
            yield ADDED_UP
        if self.options.mixed and kind in ("retraction", "consolidation"):
            yield SEQUENTIAL  # taken by a daemon with one system, done by the next
        if self.editor_missed and kind in ("retraction", "consolidation"):
            yield NO_EDITOR
        if not self.options.editor and kind == "edit":
            yield NO_STEP

    def check_posted(self, id, ask):
        """Facts are as they were posted."""
        ask["seen"] = True
        rows = [(f, fact) for f, fact in self.facts.items() if fact.job == id]
        assert len(rows) == len(ask["facts"]), f"{id} is there in part"
        for (f, fact), posted in zip(rows, ask["facts"]):
            assert fact.prompt == plain(posted["prompt"]), (f, fact, posted)
            assert posted.get("id", f) == f, (f, fact, posted)

    def check_order(self):
        """Versions come of jobs in the order in which they were taken."""
        last = 0
        for id in self.jobs:
            if self.jobs[id].state == "applied":
                assert self.jobs[id].version >= last, f"{id} was done before one that came earlier"
                last = self.jobs[id].version

    def rejected(self, id):
        job = self.jobs[id]
        if job.state != "applied" or job.kind != "edit":
            return set()
        refused = set(json.loads(job.result).get("rejected", []))
        assert not refused or self.options.gate.get("bisect") or self.asked[id].get("gate", {}).get("bisect"), \
            (id, job)
        return refused

    # ---- Versions ----

    def add_version(self, v, row, written):
        super().add_version(v, row, written)
        before = self.added[-1] if v else False
        if row.kind == "edit":
            before = before or not self.options.joint
        elif row.kind == "rollback":
            before = self.added[row.to_version]
        elif row.kind == "consolidation":
            before = False
        self.added.append(before)
        self.was_added = self.was_added or before
        if row.kind == "retraction" and not self.live():
            assert row.weights == self.versions[0].weights, f"nothing is live in {v}, and it is not the base"

    def posted(self, f):
        """The fact as it was posted."""
        job = self.facts[f].job
        return self.asked[job]["facts"][[g for g, fact in self.facts.items() if fact.job == job].index(f)]

    def excludes(self, new, old, pinned):
        one, other = self.posted(new), self.posted(old)
        return (plain(one["prompt"]) == plain(other["prompt"]) or contradict(one, other)
                or pinned and texts(one) & texts(other))

    def teach(self, state, job):
        taught = [f for f, fact in self.facts.items() if fact.job == job and f not in self.rejected(job)]
        newest = {plain(self.facts[f].prompt): f for f in taught}
        for f, (word, by, pinned) in list(state.items()):
            if word != "live" and not pinned:
                continue
            new = [g for g in taught if self.excludes(g, f, pinned)]
            if new:
                state[f] = ("superseded", new[-1], 0) if word == "live" else (word, by, 0)
        for f in taught:
            new = newest[plain(self.facts[f].prompt)]
            state[f] = ("live", None, 0) if f == new else ("superseded", new, 0)
