/* training_run.c - what the result of a training depends on, so that a run is only
 * resumed as the run it was. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "daemon/command/options.h"
#include "daemon/command/training.h"

enum { MAX_BYTES = INT32_MAX };

static bool hash_file(json_t *run, const char *key, const char *path,
                      struct mal_error *err) {
    char *data, hex[MAL_HASH_HEX];
    size_t bytes;
    if (!path) return true;
    if (!mal_file_read(&data, &bytes, path, MAX_BYTES, err)) return false;
    struct mal_hash hash = mal_hash_of(data, bytes);
    mal_free(data);
    mal_hash_hex(&hash, hex);
    json_object_set_new(run, key, json_string(hex));
    return true;
}

static void add_int(json_t *run, const char *key, int64_t value) {
    if (value != MAL_OPTION_UNSET) json_object_set_new(run, key, json_integer(value));
}

static void add_real(json_t *run, const char *key, double value) {
    if (!isnan(value)) json_object_set_new(run, key, json_real(value));
}

static void add_text(json_t *run, const char *key, const char *value) {
    if (value) json_object_set_new(run, key, json_string(value));
}

/* Keys are the options' names; the number of epochs may grow as long as nothing is spread
 * over them. */
static void add_options(json_t *run, const struct mal_training_options *o) {
    add_text(run, "n-edits", o->n_edits);
    add_text(run, "method", o->method);
    add_text(run, "modules", o->modules);
    add_text(run, "loss", o->loss);
    add_text(run, "schedule", o->schedule);
    add_int(run, "rank", o->rank);
    add_int(run, "blocks", o->blocks);
    add_int(run, "micro-batch", o->micro_batch);
    add_int(run, "editor-batch", o->editor_batch);
    add_int(run, "seed", o->seed);
    add_int(run, "warmup", o->warmup);
    add_real(run, "meta-lr", o->meta_lr);
    add_real(run, "lr-meta-lr", o->lr_meta_lr);
    add_real(run, "loc-coef", o->loc_coef);
    add_real(run, "max-norm", o->max_norm);
    add_real(run, "lr", o->lr);
    add_real(run, "preserve-weight", o->preserve_weight);
    if (o->valid) add_int(run, "valid-every", o->valid_every);
    if (strcmp(o->schedule, "cosine") == 0) {
        add_int(run, "epochs", o->epochs);
        add_int(run, "steps", o->steps);
    }
    json_object_set_new(run, "no-shuffle", json_boolean(o->no_shuffle));
}

bool mal_training_describe(const struct mal_training *training, char **out,
                           struct mal_error *err) {
    const struct mal_training_options *o = training->o;
    mal_json_guard();
    json_t *run = json_object();
    if (!run) return mal_fail(err, MAL_NO_MEMORY, "description of the run");
    json_object_set_new(run, "model", json_string(training->wb.base_model));
    add_options(run, o);
    bool ok = hash_file(run, "data", o->data, err) &&
              hash_file(run, "valid", o->valid, err) &&
              hash_file(run, "init", o->init, err) &&
              hash_file(run, "preserve", o->preserve, err);
    char *text = ok ? mal_json_dump(run, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    json_decref(run);
    if (!ok) return false;
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "description of the run");
    *out = text;
    return true;
}

/* The first key of `a` that `b` has not, or has otherwise. */
static const char *difference(json_t *a, json_t *b) {
    const char *key;
    json_t *value;
    json_object_foreach (a, key, value) {
        if (!json_equal(value, json_object_get(b, key))) return key;
    }
    return NULL;
}

bool mal_training_check_state(const struct mal_training *training, const char *path,
                              struct mal_error *err) {
    char *text;
    json_error_t problem;
    if (!mal_train_state_run(path, &text, err)) return false;
    json_t *then = mal_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &problem);
    json_t *now = mal_json_parse(training->run, strlen(training->run),
                                 JSON_REJECT_DUPLICATES, &problem);
    mal_free(text);
    bool ok = json_is_object(then) && json_is_object(now);
    if (!ok) {
        mal_fail(err, MAL_CORRUPT, "%s: 'run' is not a JSON object",
                 mal_file_shown(path));
    } else {
        const char *key = difference(then, now);
        if (!key) key = difference(now, then);
        ok = !key;
        if (key) {
            mal_fail(err, MAL_CONFLICT,
                     "%s: the state of another run: --%s was another one",
                     mal_file_shown(path), key);
        }
    }
    json_decref(then);
    json_decref(now);
    return ok;
}
