"""/metrics: counters never go back within a life, and all figures agree with what was done in it."""
import collections
import time

import prometheus
from harness import PATIENCE
from life import ENDED


class Figures:
    """Of one life."""

    def __init__(self, model):
        self.counted = {}
        self.ended = set(model.ended)
        self.pruned = sum(row.pruned for row in model.versions)
        self.versions = len(model.versions)

    def take(self, text):
        families = prometheus.parse(text)
        for family in families.values():
            if family.type == "gauge":
                continue
            for sample, value in family.samples.items():
                before = self.counted.get((family.name, *sample), 0)
                assert value >= before, f"{family.name} {sample} was {before} and is {value}"
                self.counted[family.name, *sample] = value
        return families

    def wanted(self, w, status):
        """(family, labels): what it must be in a quiet moment."""
        model, jobs, counts = w.model, w.model.jobs, status["counts"]
        new = [job for id, job in jobs.items() if id not in self.ended and job.state in ENDED]
        finished = collections.Counter((job.kind, job.state) for job in new)
        states = collections.Counter(job.state for job in jobs.values())
        edits = {id for row in model.versions[self.versions:] if row.kind == "edit" for id in row.jobs}
        refused = {id: model.rejected(id) for id in edits}
        yield "malmend_versions", {}, len(model.versions)
        yield "malmend_live_version", {}, len(model.versions) - 1
        yield "malmend_live_facts", {}, len(model.live())
        yield "malmend_queue_jobs", {}, 0
        yield "malmend_queue_facts", {}, 0
        yield "malmend_batch_running", {}, 0
        yield "malmend_jobs_finished_total", {}, len(new)
        yield "malmend_versions_pruned_total", {}, sum(row.pruned for row in model.versions) - self.pruned
        yield "malmend_facts_edited_total", {}, sum(
            fact.job in edits and id not in refused[fact.job] for id, fact in model.facts.items())
        for (kind, state), n in finished.items():
            yield "malmend_jobs_finished_total", {"kind": kind, "outcome": state}, n
        for state, n in {**dict.fromkeys(counts["jobs_by_state"], 0), **states}.items():
            assert counts["jobs_by_state"].get(state, 0) == n, (counts, states)
            yield "malmend_jobs", {"state": state}, n


def scrape(w):
    """At any moment."""
    answer = w.call("GET", "/metrics")
    assert answer.status == 200, answer.body
    return w.figures.take(answer.body)


def agree(w, status):
    """In a quiet moment; what has ended is seen to a little before it is counted."""
    until = time.monotonic() + PATIENCE / 5
    while True:
        families = scrape(w)
        if families["malmend_live_version"].value() != len(w.model.versions) - 1:
            return  # an idle daemon has published another
        wrong = [(name, labels, want, families[name].total(**labels)) for name, labels, want in
                 w.figures.wanted(w, status) if families[name].total(**labels) != want]
        if not wrong:
            return
        assert time.monotonic() < until, wrong
        time.sleep(0.02)


OPERATIONS = {scrape: 2}
