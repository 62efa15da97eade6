/* test_store_prune.c - random histories against a model of them that is too simple to be
 * wrong: states of facts, members, and after pruning the values in force. */
#include "store_fixture.h"

#include <inttypes.h>
#include <time.h>

enum { MAX_FACTS = 200, MAX_VERSIONS = 60, N_HISTORIES = 40, N_PROMPTS = 7 };

static uint64_t seed_state;

static uint32_t draw(uint32_t below) {
    seed_state = seed_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed_state >> 33) % below;
}

/* ---- The model: everything of every version, written out ---- */

struct fate {
    enum mal_fact_state state; /* MAL_FACT_QUEUED: not taught yet */
    bool pinned;
    int by; /* -1: none */
};

struct model {
    int n_facts, n_versions;
    int prompts[MAX_FACTS];
    bool rejected[MAX_FACTS];
    struct fate fates[MAX_VERSIONS][MAX_FACTS];
    bool values[MAX_VERSIONS][MAX_FACTS];
    enum mal_version_kind kinds[MAX_VERSIONS];
    int to_version[MAX_VERSIONS];
    bool keyframes[MAX_VERSIONS];
    int pruned_below;
};

static struct model model;

static bool is_member(const struct fate *fate) {
    return fate->state == MAL_FACT_LIVE || fate->pinned;
}

/* The versions of the path of `version`, newest first. */
static size_t path_of_version(int version, int64_t path[MAX_VERSIONS]) {
    size_t n = 0;
    while (version > 0) {
        if (model.kinds[version] == MAL_VERSION_ROLLBACK) {
            version = model.to_version[version];
            continue;
        }
        path[n++] = version;
        if (model.kinds[version] == MAL_VERSION_CONSOLIDATION) break;
        version--;
    }
    return n;
}

/* The version whose values of a fact are in force in `version`, -1: none. */
static int in_force(int version, int fact) {
    int64_t path[MAX_VERSIONS];
    size_t n = path_of_version(version, path);
    for (size_t i = 0; i < n; i++)
        if (model.values[path[i]][fact]) return (int)path[i];
    return -1;
}

/* The version whose weights are the next older ones on the way to `version`. */
static int before(int version) {
    switch (model.kinds[version]) {
    case MAL_VERSION_CONSOLIDATION: return 0;
    case MAL_VERSION_ROLLBACK: return model.to_version[version];
    default: return version - 1;
    }
}

static int oldest_needed(int version) {
    int oldest = INT32_MAX;
    for (; version > 0; version = before(version)) {
        if (model.kinds[version] != MAL_VERSION_ROLLBACK) oldest = version;
        if (model.keyframes[version]) return version;
    }
    return oldest;
}

static bool can_prune(int below) {
    for (int v = below; v < model.n_versions; v++)
        if (oldest_needed(v) < below) return false;
    return true;
}

/* ---- A random version, in the model and in the store ---- */

struct step {
    struct mal_version_row row;
    struct mal_publish publish;
    char job[16];
    const char *jobs[1];
    char ids[MAX_FACTS][24];
    struct mal_retraction retracted[MAX_FACTS];
    const char *rejected[4];
};

static struct fate *fates(void) {
    return model.fates[model.n_versions];
}

static void give_id(struct step *step, int fact, int job, int index) {
    snprintf(step->ids[fact], sizeof step->ids[fact], "%d.%d", job, index);
}

/* Facts as if each had come alone; of some the gate says no. */
static void edit(struct mal_store *store, struct step *step) {
    static const char *const words[N_PROMPTS] = {"a", "b", "c", "d", "e", "f", "g"};
    const char *prompts[3];
    int n = 1 + (int)draw(3), version = model.n_versions, first = model.n_facts;
    for (int i = 0; i < n; i++) {
        int fact = model.n_facts++, prompt = (int)draw(N_PROMPTS);
        prompts[i] = words[prompt];
        model.prompts[fact] = prompt;
        give_id(step, fact, version, i);
        model.rejected[fact] = draw(5) == 0;
        if (model.rejected[fact]) {
            step->rejected[step->publish.n_rejected++] = step->ids[fact];
        }
    }
    for (int fact = first; fact < model.n_facts; fact++) {
        if (model.rejected[fact]) continue;
        for (int old = 0; old < fact; old++) {
            struct fate *fate = &fates()[old];
            if (model.prompts[old] != model.prompts[fact] || model.rejected[old])
                continue;
            bool same_batch = old >= first; /* superseded by the newest of its batch */
            if (fate->state == MAL_FACT_LIVE || same_batch) {
                *fate = (struct fate){MAL_FACT_SUPERSEDED, false, fact};
            } else if (fate->state == MAL_FACT_SUPERSEDED && fate->by >= first) {
                fate->by = fact;
            }
            fate->pinned = false;
        }
        fates()[fact] = (struct fate){MAL_FACT_LIVE, false, -1};
        model.values[version][fact] = true;
    }
    snprintf(step->job, sizeof step->job, "%d", version);
    assert_done(add_job(store, step->job, (size_t)n, prompts, &err));
    step->jobs[0] = step->job;
    step->publish.n_jobs = 1;
    step->publish.rejected = step->rejected;
}

static void retract(struct step *step) {
    for (int fact = 0; fact < model.n_facts; fact++) {
        struct fate *fate = &fates()[fact];
        if (fate->state != MAL_FACT_LIVE || draw(3)) continue;
        bool pin = draw(2);
        *fate = (struct fate){MAL_FACT_RETRACTED, pin, -1};
        step->retracted[step->publish.n_retracted++] =
            (struct mal_retraction){step->ids[fact], pin};
    }
    step->publish.retracted = step->retracted;
}

static void back(int to) {
    for (int fact = 0; fact < model.n_facts; fact++) {
        struct fate *fate = &fates()[fact];
        bool ever = fate->state != MAL_FACT_QUEUED;
        *fate = model.fates[to][fact];
        if (fate->state == MAL_FACT_QUEUED && ever) fate->state = MAL_FACT_ROLLED_BACK;
    }
    model.to_version[model.n_versions] = to;
}

static void revalue(bool all) {
    for (int fact = 0; fact < model.n_facts; fact++) {
        bool live = fates()[fact].state == MAL_FACT_LIVE;
        model.values[model.n_versions][fact] = live && (all || draw(3) == 0);
    }
}

static void stage(struct mal_store *store, struct step *step) {
    static char hash[] = "h";
    int version = model.n_versions;
    for (int fact = 0; fact < model.n_facts; fact++) {
        char text[32];
        if (!model.values[version][fact]) continue;
        int n = snprintf(text, sizeof text, "%d of %d", fact, version);
        struct mal_fact_values values = {fact + 1, text, (uint64_t)n, "ff"};
        assert_done(mal_store_stage_values(store, version, &values, 1, &err));
        step->row.values_hash = hash;
    }
    struct mal_blob blob = {"delta/x", "{}", &version, sizeof version, "ff"};
    assert_done(mal_store_stage_blob(store, version, &blob, &err));
}

static void add_version(struct mal_store *store, struct step *step) {
    int version = model.n_versions;
    if (version > 0) {
        memcpy(fates(), model.fates[version - 1], sizeof model.fates[0]);
    }
    enum mal_version_kind kind = MAL_VERSION_BASE;
    step->publish = (struct mal_publish){.row = &step->row, .jobs = step->jobs};
    switch (version == 0 ? 99 : draw(10)) {
    case 0:
        kind = MAL_VERSION_CONSOLIDATION;
        revalue(true);
        break;
    case 1:
    case 2:
        kind = MAL_VERSION_REPAIR;
        revalue(false);
        break;
    case 3:
    case 4:
        kind = MAL_VERSION_RETRACTION;
        retract(step);
        break;
    case 5:
    case 6:
        kind = MAL_VERSION_ROLLBACK;
        back(draw(5) == 0 ? 0
                          : model.pruned_below +
                                (int)draw((uint32_t)(version - model.pruned_below)));
        break;
    case 99: break;
    default:
        kind = MAL_VERSION_EDIT;
        edit(store, step);
        break;
    }
    model.kinds[version] = kind;
    bool rollback = kind == MAL_VERSION_ROLLBACK;
    model.keyframes[version] = version > 0 && draw(4) == 0;
    step->row = version_row(version, rollback ? model.to_version[version] : -1);
    step->row.kind = kind;
    step->row.keyframe = model.keyframes[version];
    stage(store, step);
    assert_done(mal_store_publish(store, &step->publish, &err));
    model.n_versions++;
}

/* ---- What must hold ---- */

static void check_states(struct mal_store *store) {
    const struct fate *now = model.fates[model.n_versions - 1];
    size_t n_members = 0, n, n_live = 0;
    struct mal_fact_row row;
    for (int fact = 0; fact < model.n_facts; fact++) {
        assert_done(mal_store_get_fact_seq(store, fact + 1, &row, &err));
        enum mal_fact_state wanted =
            model.rejected[fact] ? MAL_FACT_REJECTED : now[fact].state;
        assert_string_equal(mal_fact_state_name(row.state), mal_fact_state_name(wanted));
        assert_int_equal(row.pinned, now[fact].pinned);
        assert_int_equal(row.superseded_by != NULL, now[fact].by >= 0);
        mal_fact_row_finish(&row);
        n_members += is_member(&now[fact]);
        n_live += now[fact].state == MAL_FACT_LIVE;
    }
    struct mal_member *members;
    assert_done(mal_store_member_list(store, &members, &n, &err));
    assert_int_equal(n, n_members);
    for (size_t i = 0; i < n; i++) {
        assert_true(is_member(&now[members[i].seq - 1]));
        assert_int_equal(members[i].pinned, now[members[i].seq - 1].pinned);
    }
    mal_free(members);
    struct mal_version_row version;
    assert_done(mal_store_get_version(store, model.n_versions - 1, &version, &err));
    assert_int_equal(version.live_facts, n_live);
    mal_version_row_finish(&version);
}

static void check_values_of(struct mal_store *store, int version, int fact) {
    int64_t path[MAX_VERSIONS], ascending[MAX_VERSIONS];
    size_t n = path_of_version(version, path);
    char wanted[32], *sha256;
    void *data;
    uint64_t bytes;
    for (size_t i = 0; i < n; i++)
        ascending[i] = path[n - 1 - i];
    assert_done(mal_store_read_values(store, fact + 1, ascending, n, &data, &bytes,
                                      &sha256, &err));
    int from = in_force(version, fact);
    snprintf(wanted, sizeof wanted, "%d of %d", fact, from);
    assert_int_equal(data != NULL, from >= 0);
    if (data) {
        assert_int_equal(bytes, strlen(wanted));
        assert_memory_equal(data, wanted, bytes);
    }
    mal_free(data);
    mal_free(sha256);
}

/* Members have their values in every version that is not pruned. Of what is pruned no
 * other rows are left than those in force where the path of such a version comes out. */
static void check_values(struct mal_store *store) {
    static bool wanted[MAX_VERSIONS][MAX_FACTS];
    int oldest = model.pruned_below;
    int64_t n_wanted = 0, n_kept;
    memset(wanted, 0, sizeof wanted);
    for (int v = oldest; v < model.n_versions; v++) {
        for (int fact = 0; fact < model.n_facts; fact++) {
            if (!is_member(&model.fates[v][fact])) continue;
            check_values_of(store, v, fact);
            int from = before(v) < oldest ? in_force(before(v), fact) : -1;
            if (from < 0 || wanted[from][fact]) continue;
            wanted[from][fact] = true;
            n_wanted++;
        }
    }
    char sql[96];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM fact_values WHERE version < %d",
             oldest);
    assert_done(mal_store_ask(store, sql, &n_kept, &err));
    assert_int_equal(n_kept, n_wanted);
}

static void check_blobs(struct mal_store *store) {
    for (int v = 0; v < model.n_versions; v++) {
        struct mal_version_row row;
        struct mal_blob_row *blobs;
        size_t n;
        bool pruned = v > 0 && v < model.pruned_below;
        assert_done(mal_store_get_version(store, v, &row, &err));
        assert_int_equal(row.pruned, pruned);
        assert_int_equal(row.keyframe, model.keyframes[v]);
        mal_version_row_finish(&row);
        assert_done(mal_store_blobs(store, v, &blobs, &n, &err));
        assert_int_equal(n, pruned ? 0 : 1);
        mal_blob_rows_free(blobs, n);
    }
}

static void prune(struct mal_store *store) {
    int last = model.n_versions - 1, limit = (int)draw((uint32_t)last + 2);
    int64_t prunable, wanted = 0;
    for (int below = 1; below <= last && below <= limit; below++)
        if (can_prune(below)) wanted = below;
    assert_done(mal_store_prunable(store, limit, &prunable, &err));
    assert_int_equal(prunable, wanted);

    int below = 1 + (int)draw((uint32_t)last);
    if (!can_prune(below)) {
        char *before = dump_all(store->db);
        assert_fails(MAL_CONFLICT, "is made from version",
                     mal_store_prune(store, below, &err));
        char *after = dump_all(store->db);
        assert_string_equal(before, after);
        free(before);
        free(after);
        below = (int)wanted;
    }
    assert_done(mal_store_prune(store, below, &err));
    if (below > model.pruned_below) model.pruned_below = below;
    check_values(store);
    check_blobs(store);
}

/* ---- The tests ---- */

static void run_history(uint64_t seed) {
    static struct step step;
    struct place place;
    place_make(&place);
    memset(&model, 0, sizeof model);
    for (int v = 0; v < MAX_VERSIONS; v++) {
        for (int fact = 0; fact < MAX_FACTS; fact++)
            model.fates[v][fact].by = -1;
    }
    seed_state = seed;
    struct mal_store *store = open_store(place.path);
    int n_versions = 5 + (int)draw(MAX_VERSIONS - 5);
    while (model.n_versions < n_versions) {
        add_version(store, &step);
        check_states(store);
        if (model.n_versions > 2 && draw(10) == 0) prune(store);
    }
    prune(store);
    assert_done(mal_store_check(store, &err));
    mal_store_close(store);
    place_remove(&place);
}

static void random_histories_read_as_their_model(void **state) {
    const char *given = getenv("MAL_PRUNE_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL) * 1000;
    for (int i = 0; i < (given ? 1 : N_HISTORIES); i++) {
        print_message("# MAL_PRUNE_SEED=%" PRIu64 "\n", seed + (uint64_t)i);
        run_history(seed + (uint64_t)i);
    }
}

static void live_version_stays(void **state) {
    struct place place;
    int64_t below = 9;
    place_make(&place);
    struct mal_store *store = open_store(place.path);
    assert_fails(MAL_INVALID, "live version", mal_store_prune(store, 1, &err));
    for (int v = 0; v < 3; v++)
        assert_done(publish(store, v, -1, NULL, &err));
    assert_fails(MAL_INVALID, "the live version is 2", mal_store_prune(store, 3, &err));
    assert_fails(MAL_CONFLICT, "version 2 is made from version 1",
                 mal_store_prune(store, 2, &err));
    assert_done(mal_store_prunable(store, 2, &below, &err));
    assert_int_equal(below, 1);
    assert_done(mal_store_prune(store, 1, &err));
    assert_done(mal_store_prune(store, 0, &err));
    mal_store_close(store);
    place_remove(&place);
}

int main(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories_read_as_their_model),
        cmocka_unit_test(live_version_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
