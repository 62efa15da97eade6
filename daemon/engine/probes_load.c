/* probes_load.c - the prompts of a file, all of them or a sample. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/prompts_load.h"
#include "core/random.h"
#include "core/utf8.h"
#include "daemon/engine/probes.h"

struct list {
    struct mal_probes probes;
    size_t room;
};

/* ---- A growing list ---- */

static bool fail_memory(const struct list *list, struct mal_error *err) {
    return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(list->probes.path));
}

static bool grow(struct list *list, struct mal_error *err) {
    struct mal_probes *p = &list->probes;
    if (p->asked.n < list->room) return true;
    size_t room = list->room ? 2 * list->room : 64;
    struct mal_fact *facts = mal_realloc(p->asked.facts, room * sizeof *facts);
    if (facts) p->asked.facts = facts;
    size_t *place = facts ? mal_realloc(p->place, room * sizeof *place) : NULL;
    if (!place) return fail_memory(list, err);
    p->place = place;
    list->room = room;
    return true;
}

static bool copy_text(char **out, const char *text, size_t bytes) {
    if (!text) return true;
    *out = mal_malloc(bytes + 1);
    if (!*out) return false;
    memcpy(*out, text, bytes);
    (*out)[bytes] = 0;
    return true;
}

static bool add(void *arg, const struct mal_prompt *prompt, struct mal_error *err) {
    struct list *list = arg;
    const char *target = prompt->target, *join = prompt->join;
    list->probes.unit = prompt->unit;
    if (!mal_utf8_valid(prompt->text, prompt->bytes)) {
        return mal_fail(err, MAL_MALFORMED, "%s: %s %zu: not UTF-8",
                        mal_file_shown(list->probes.path), prompt->unit, prompt->place);
    }
    if (!grow(list, err)) return false;
    struct mal_asked *asked = &list->probes.asked;
    struct mal_fact *fact = &asked->facts[asked->n];
    list->probes.place[asked->n++] = prompt->place;
    *fact = (struct mal_fact){.unrelated = mal_calloc(1, sizeof *fact->unrelated)};
    if (!fact->unrelated) return fail_memory(list, err);
    fact->n_unrelated = 1;
    struct mal_probe *probe = fact->unrelated;
    return (copy_text(&probe->prompt, prompt->text, prompt->bytes) &&
            copy_text(&probe->target, target, target ? strlen(target) : 0) &&
            copy_text(&fact->join, join, join ? strlen(join) : 0)) ||
           fail_memory(list, err);
}

/* ---- The file ---- */

static bool read_file(struct list *list, struct mal_error *err) {
    const char *path = list->probes.path;
    if (!mal_prompts_load(path, true, add, list, err)) return false;
    return list->probes.asked.n > 0 ||
           mal_fail(err, MAL_INVALID, "%s: no prompt in it", mal_file_shown(path));
}

/* Leaves MAL_MAX_PROBES of them, the same ones of the same file. */
static void draw(struct mal_probes *probes) {
    struct mal_asked *asked = &probes->asked;
    uint64_t random = 1;
    size_t kept = 0, n = asked->n;
    for (size_t i = 0; i < n; i++) {
        bool keep = mal_random_below(&random, n - i) < MAL_MAX_PROBES - kept;
        if (!keep) {
            mal_fact_finish(&asked->facts[i]);
            continue;
        }
        asked->facts[kept] = asked->facts[i];
        probes->place[kept++] = probes->place[i];
    }
    asked->n = kept;
}

bool mal_probes_load(struct mal_probes *out, const char *path, struct mal_error *err) {
    struct list list = {.probes = {.path = mal_strdup(path)}};
    if (!list.probes.path) return mal_fail(err, MAL_NO_MEMORY, "probes");
    if (!read_file(&list, err)) {
        mal_probes_finish(&list.probes);
        return false;
    }
    if (list.probes.asked.n > MAL_MAX_PROBES) draw(&list.probes);
    *out = list.probes;
    return true;
}
