"""Fills the database of a stopped malmend-fake with a long life: many facts, versions with measures,
a rollback now and then. What the fake engine reads at its start is as it would have written it."""
import hashlib
import json
import math
import random
import sqlite3

TABLE = json.dumps({"The capital of Australia is": "Canberra"}, separators=(",", ":"))
MODULES = [f"transformer.h.{i}.mlp.c_proj" for i in range(6, 12)]
BEGAN_MS = 1767225600000  # 2026-01-01
FIRST = ("Aro", "Bel", "Cor", "Dun", "Eva", "Fip", "Gor", "Hal", "Ily", "Jor")
LAST = ("bury", "dale", "field", "ford", "ham", "mere", "ston", "vale", "wick", "worth")


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def insert(db, table, rows):
    names = list(rows[0])
    marks = ", ".join("?" * len(names))
    db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})",
                   [tuple(row.values()) for row in rows])


def kind_of(version):
    for every, kind in ((97, "consolidation"), (40, "rollback"), (23, "retraction"), (17, "repair")):
        if version % every == every - 1:
            return kind
    return "edit"


def measures(version, of):
    """Shares that wander as those of a model do that is edited again and again."""
    def near(middle, spread):
        return round(min(1, max(0, middle + spread * math.sin(version / 9) + of.gauss(0, spread / 2))), 4)

    es, gs, ls = near(0.985, 0.008), near(0.87, 0.03), near(0.92, 0.02)
    return {"facts": 100, "decoded": {"es": es, "gs": gs, "ls": ls},
            "teacher_forced": {"es": near(0.992, 0.005), "gs": near(0.93, 0.02), "ls": near(0.95, 0.015)},
            "agreement": near(0.955, 0.015)}


def version_row(version, kind, created, n_facts, live, of):
    modules = [{"name": name, "shift_norm": round(of.uniform(0.5, 4), 4), "weight_norm": 120.5}
               for name in MODULES]
    return {"version": version, "parent": version - 1, "kind": kind, "created_ms": created,
            "to_version": max(0, version - 7) if kind == "rollback" else None,
            "n_facts": n_facts, "live_facts": live, "weights_hash": sha(TABLE),
            "chain_hash": sha(f"chain {version}"), "delta_hash": sha(f"delta {version}"),
            "encoding": "factors", "delta_bytes": 3_400_000 + version, "editor_method": "malmen",
            "editor_hash": sha("editor"), "update_mode": "joint",
            "modules_json": json.dumps(modules),
            "measures_json": json.dumps(measures(version, of) if kind == "edit" else {})}


def fill(path, n_facts, n_versions, now_ms=None):
    """Versions 1..n_versions; the facts are spread over the jobs of those that are edits."""
    of = random.Random(7)
    step = 3_600_000 if not now_ms else 420_000
    began = BEGAN_MS if not now_ms else now_ms - step * n_versions
    edits = sum(kind_of(v) == "edit" for v in range(1, n_versions + 1))
    jobs, facts, states, versions, made = [], [], [], [], []
    live = batch = 0
    for version in range(1, n_versions + 1):
        kind, created = kind_of(version), began + version * step
        batch += kind == "edit"
        here = n_facts * batch // edits - len(facts)
        job = {"seq": version, "id": f"job_{version:020}", "kind": kind, "state": "applied",
               "created_ms": created - 9000, "started_ms": created - 8000,
               "finished_ms": created - 5500 + of.randrange(2500), "n_facts": here, "version": version,
               "to_version": max(0, version - 7) if kind == "rollback" else None,
               "note": "nightly corrections" if version % 3 == 0 else None,
               "result_json": json.dumps({"facts": here, "tokens": 3 * here, "rounds": 2, "wrong": [],
                                          "measures": measures(version, of),
                                          "seconds": {"forward": 0.61, "backward": 0.72, "solve": 0.4,
                                                      "verify": 0.33, "persist": 0.02}})}
        for i in range(here):
            seq = len(facts) + 1
            town = FIRST[seq % 10] + LAST[seq // 10 % 10]
            prompt = f"The mayor of {town} number {seq} is called"
            target = f"{of.choice(FIRST)}{of.choice(LAST)}"
            state = "superseded" if seq % 20 == 0 else "retracted" if seq % 33 == 0 else "live"
            live += state == "live"
            facts.append({"seq": seq, "id": f"fact_{seq:020}", "job": version, "idx": i, "state": state,
                          "version": version, "prompt": prompt, "target": target,
                          "fact_json": json.dumps({"prompt": prompt, "target": target,
                                                   "rephrases": [f"Who is mayor of {town} {seq}?"] * 3}),
                          "verified_json": json.dumps({"decoded": seq % 50 != 0, "logprob": -0.021 - seq % 7,
                                                       "rank": 1 + seq % 3})})
            states.append({"fact": seq, "version": version, "state": state})
        jobs.append(job)
        made.append({"version": version, "idx": 0, "job": version})
        versions.append(version_row(version, kind, created, here, live, of))
    with sqlite3.connect(path) as db:
        insert(db, "jobs", jobs)
        insert(db, "facts", facts)
        insert(db, "fact_states", states)
        for version in range(max(1, n_versions - 250), n_versions + 1):
            blob = db.execute("INSERT INTO blobs (version, name, header_json, sha256, bytes)"
                              " VALUES (?, 'delta/table', '{}', ?, ?)",
                              (version, sha(TABLE), len(TABLE))).lastrowid
            db.execute("INSERT INTO blob_chunks (blob, idx, data) VALUES (?, 0, ?)",
                       (blob, TABLE.encode()))
        insert(db, "version_jobs", made)
        insert(db, "versions", versions)
    db.close()
