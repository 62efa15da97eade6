"""What the gate says of an edit, against its limits: those of the daemon's options and of the request."""
SHARES = {"min_es": "es", "min_gs": "gs", "min_ls": "ls"}


def choose(rng):
    """The options' limits, for a world."""
    some = {"min_es": rng.choice([0.5, 0.95]), "min_gs": 0.4, "min_agreement": rng.choice([0.6, 0.95]),
            "max_norm_growth": rng.choice([0.003, 0.1])}
    limits = {name: some[name] for name in rng.sample(list(some), rng.randint(1, 2))}
    if rng.random() < 0.3:
        limits["measure"] = "teacher_forced"
    if rng.random() < 0.4:
        limits["bisect"] = True
    return limits


def args(limits):
    for name, value in limits.items():
        yield "--gate-" + name.replace("_", "-")
        if value is not True:
            yield value


def limits_of(options, request):
    """(test, measure): the stricter."""
    found = {}
    for limits in options, request:
        measure = limits.get("measure", options.get("measure", "decoded"))
        for test, limit in limits.items():
            if test in ("measure", "bisect"):
                continue
            key = test, measure if test in SHARES else None
            found[key] = (max if test.startswith("min") else min)(found.get(key, limit), limit)
    return found


def check(w, row):
    """Of a job that has ended."""
    result = row.get("result") or {}
    if row["kind"] != "edit" or "gate" not in result:
        assert row["kind"] != "edit" or row["state"] != "applied", row
        return
    gate = result["gate"]
    assert gate["passed"] == (not gate["failed"]) == (row["state"] == "applied"), row
    for failed in gate["failed"]:
        least = failed["test"].startswith("min")
        assert (failed["value"] < failed["threshold"]) == least, row
    limits = limits_of(w.options.gate, w.model.asked[row["id"]]["gate"])
    if row["state"] != "applied" or len(w.model.versions[row["version"]].jobs) > 1:
        return
    for (test, measure), limit in limits.items():
        measures = result["measures"]
        value = measures.get(measure, {}).get(SHARES[test]) if measure else measures.get("agreement") \
            if test == "min_agreement" else None
        assert value is None or value >= limit - 1e-9, (test, measure, limit, row)
