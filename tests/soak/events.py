"""All that happens is told, once and in order, to one who comes back after each end; and to others from anywhere."""
import contextlib
import http.client
import sqlite3
import threading
import time

from harness import PATIENCE
from sse import Cut, Stream

GONE = OSError, http.client.HTTPException, Cut
NEXT = {None: {"queued"}, "queued": {"running", "cancelled"},
        "running": {"applied", "done", "queued", "rejected", "failed"}}


def stored(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT id, kind, data_json FROM events ORDER BY id").fetchall()


class Follower:
    """Told of everything, in each life from where the last one ended."""

    def __init__(self):
        self.told = []      # (id, kind, text)
        self.states = {}    # of jobs
        self.versions = []  # as they were told
        self.wrong = None
        self.thread = None
        self.headers = {}   # that say who it is

    def begin(self, daemon, headers):
        """The one before has ended, and its stream with it."""
        if self.thread:
            self.thread.join(PATIENCE)
            assert not self.thread.is_alive(), "a stream of events has outlived its daemon"
        self.headers = headers
        self.thread = threading.Thread(target=self.follow, args=(daemon,), daemon=True)
        self.thread.start()

    def follow(self, daemon):
        with contextlib.suppress(*GONE, AssertionError):  # what was wrong is kept
            with Stream(daemon, headers={**self.headers, "Last-Event-ID": str(len(self.told))}) as stream:
                assert stream.status == 200, stream.status
                while event := stream.event():
                    self.take(daemon, event)

    def take(self, daemon, event):
        try:
            assert event.id == len(self.told) + 1, f"event {event.id} after {len(self.told)}"
            assert event.event in ("job", "version"), event.event
            self.told.append((event.id, event.event, event.text))
            getattr(self, event.event)(event.data)
            if event.id % 4 == 0:
                self.look(daemon, event)
        except AssertionError as error:
            self.wrong = self.wrong or error
            raise

    def job(self, data):
        id, state = data["id"], data["state"]
        assert state in NEXT.get(self.states.get(id), ()), f"{data} after {self.states.get(id)}"
        assert ("version" in data) == (state == "applied"), data
        self.states[id] = state

    def version(self, data):
        assert data["version"] == len(self.versions), f"{data} after {len(self.versions)} versions"
        self.versions.append(data)

    def look(self, daemon, event):
        """What is told of is so."""
        if event.event == "version":
            status = daemon.call("GET", "/v1/status", headers=self.headers).json
            assert status.get("title") or status["state"] == "loading" or \
                status["live_version"] >= event.data["version"], (event.text, status)
        elif event.data["state"] not in ("queued", "running"):
            job = daemon.call("GET", "/v1/jobs/" + event.data["id"], headers=self.headers)
            assert job.status >= 500 or job.json["state"] == event.data["state"], (event.text, job.body)

    def check(self, path):
        """What was told is stored."""
        if self.wrong:
            raise self.wrong
        told = list(self.told)
        rows = stored(path)
        assert rows[:len(told)] == told, [pair for pair in zip(rows, told) if pair[0] != pair[1]][:3] or \
            (len(rows), len(told))
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "events have gaps"

    def caught_up(self, w, last):
        """Everything has been told, and the rows say the same."""
        until = time.monotonic() + PATIENCE
        while len(self.told) < last:
            if self.wrong:
                raise self.wrong
            if not self.thread.is_alive() and not w.ending:
                assert w.trouble, f"the stream ended at {len(self.told)}, of {last} events"
                self.begin(w.d, self.headers)
            assert time.monotonic() < until, f"told of {len(self.told)} of {last} events"
            time.sleep(0.005)
            if w.ending:
                return False
        self.check(w.db)
        return True


def some(w):
    """From any event on, of one kind or of both; what is told is what the others were told."""
    r, known = w.rng, list(w.events.told)
    kind = r.choice([None, None, "job", "version"])
    place = r.randint(0, len(known)) if r.random() < 0.9 else len(known) + 1000
    lost = place > len(known)
    want = [row for row in known if row[0] > (0 if lost else place) and kind in (None, row[1])]
    query = {"kind": kind} if kind else {}
    headers = dict(w.show("GET", "/v1/events")[1])
    if r.random() < 0.5:
        headers["Last-Event-ID"] = str(place)
        if r.random() < 0.3:
            query["last_event_id"] = 0
    else:
        query["last_event_id"] = place
    w.note("events", query, headers)
    try:
        with Stream(w.d, headers=headers, **query) as stream:
            if stream.status in (500, 503) and (w.ending or w.trouble and w.trouble.has_come):
                raise OSError("it is being stopped, or fails")
            assert stream.status == 200, stream.status
            if lost:
                reset = stream.event()
                if reset is None:
                    raise OSError("it is being stopped")
                assert reset.event == "reset" and reset.id is None and reset.data["oldest"] == 1, reset.fields
                assert reset.data["newest"] >= len(known), (reset.fields, len(known))
            for row in want:
                event = stream.event()
                if event is None:
                    raise OSError("it is being stopped")
                assert (event.id, event.event, event.text) == row, (event.fields, row)
    except GONE as error:
        w.gone(error, "GET /v1/events", query)


OPERATIONS = {some: 4}
