/* json.c - JSON files and the typed members of their objects. */
#include "core/json.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/text.h"
#include "core/utf8.h"

static const size_t MAX_BYTES = (size_t)256 << 20;

/* ---- Memory ---- */

enum { FEW = 64, NEAR = 16 };

struct list {
    void **mem, *few[FEW];
    size_t n, room;
};

/* What a parse has allocated. What jansson lets go is freed at once where it is found
 * among the last, else at the end: so the parse can be left from anywhere. */
struct parse {
    jmp_buf end;
    struct list made, dropped;
    bool no_memory;
};

static _Thread_local struct parse *current;
static _Thread_local bool lacked;

static bool has_room(struct list *list) {
    if (list->n < list->room) return true;
    size_t room = 2 * list->room;
    bool few = list->mem == list->few;
    void **mem = mal_realloc(few ? NULL : list->mem, room * sizeof *mem);
    if (!mem) return false;
    if (few) memcpy(mem, list->few, sizeof list->few);
    list->mem = mem;
    list->room = room;
    return true;
}

static void list_init(struct list *list) {
    list->mem = list->few;
    list->n = 0;
    list->room = FEW;
}

/* The list, and what is on it where that is asked for. */
static void list_finish(struct list *list, bool all) {
    for (size_t i = 0; all && i < list->n; i++)
        mal_free(list->mem[i]);
    if (list->mem != list->few) mal_free(list->mem);
}

/* jansson does not look whether the buffer it reads a token into could grow: it would
 * read, and write, past its end. So a parse without memory is left at once. */
static void leave(struct parse *p) {
    lacked = true;
    p->no_memory = true;
    longjmp(p->end, 1);
}

static void *guarded_malloc(size_t bytes) {
    struct parse *p = current;
    if (p && !has_room(&p->made)) leave(p);
    void *mem = mal_malloc(bytes);
    if (!mem) lacked = true;
    if (!mem && p) leave(p);
    if (p) p->made.mem[p->made.n++] = mem;
    return mem;
}

static void guarded_free(void *mem) {
    struct parse *p = current;
    if (!p || !mem) {
        mal_free(mem);
        return;
    }
    struct list *made = &p->made;
    for (size_t i = made->n; i > 0 && made->n - i < NEAR; i--) {
        if (made->mem[i - 1] != mem) continue;
        made->mem[i - 1] = made->mem[--made->n];
        mal_free(mem);
        return;
    }
    if (!has_room(&p->dropped)) leave(p);
    p->dropped.mem[p->dropped.n++] = mem;
}

static void install_guard(void) {
    json_set_alloc_funcs(guarded_malloc, guarded_free);
}

void mal_json_guard(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_guard);
}

bool mal_json_lacked(void) {
    bool was = lacked;
    lacked = false;
    return was;
}

void mal_json_set_lacked(bool was) {
    lacked = was;
}

/* ---- In and out ---- */

static json_t *parse_in(struct parse *p, const char *text, size_t bytes, size_t flags,
                        json_error_t *problem) {
    if (setjmp(p->end)) return NULL;
    return json_loadb(text, bytes, flags, problem);
}

json_t *mal_json_parse(const char *text, size_t bytes, size_t flags,
                       json_error_t *problem) {
    struct parse parse;
    mal_json_guard();
    list_init(&parse.made);
    list_init(&parse.dropped);
    parse.no_memory = false;
    *problem = (json_error_t){0}; /* jansson leaves it alone where an allocation fails */
    current = &parse;
    json_t *root = parse_in(&parse, text, bytes, flags, problem);
    current = NULL;
    if (parse.no_memory) *problem = (json_error_t){0};
    list_finish(&parse.made, parse.no_memory);
    list_finish(&parse.dropped, !parse.no_memory);
    return root;
}

char *mal_json_dump(const json_t *root, size_t flags) {
    size_t n = root ? json_dumpb(root, NULL, 0, flags) : 0;
    char *text = n ? mal_malloc(n + 1) : NULL;
    bool whole = text && json_dumpb(root, text, n, flags) == n;
    if (mal_json_lacked() || !whole) {
        mal_free(text);
        return NULL;
    }
    text[n] = '\0';
    return text;
}

bool mal_json_fail(const json_error_t *problem, enum mal_status status, const char *where,
                   struct mal_error *err) {
    if (problem->text[0] == '\0')
        return mal_fail(err, MAL_NO_MEMORY, "%s: out of memory", mal_file_shown(where));
    char shown[MAL_TEXT_SHOWN];
    enum json_error_code code = json_error_code(problem);
    bool zero = code == json_error_null_character || code == json_error_null_byte_in_key;
    return mal_fail(err, status, "%s: line %d column %d: %s", mal_file_shown(where),
                    problem->line, problem->column,
                    zero ? "texts cannot hold the character U+0000"
                         : mal_text_shown(shown, problem->text));
}

bool mal_json_read(json_t **out, const char *text, const char *where,
                   struct mal_error *err) {
    json_error_t problem;
    json_t *root = mal_json_parse(text, strlen(text), JSON_REJECT_DUPLICATES, &problem);
    if (!root) return mal_json_fail(&problem, MAL_CORRUPT, where, err);
    *out = root;
    return true;
}

bool mal_json_load(json_t **out, const char *path, struct mal_error *err) {
    char *text;
    size_t bytes;
    if (!mal_file_read(&text, &bytes, path, MAX_BYTES, err)) return false;
    json_error_t problem;
    json_t *root = mal_json_parse(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    mal_free(text);
    if (!root) return mal_json_fail(&problem, MAL_CORRUPT, path, err);
    *out = root;
    return true;
}

const char *mal_json_type(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

static bool fail_type(const json_t *value, const char *key, const char *expected,
                      const char *where, struct mal_error *err) {
    return mal_fail(err, MAL_CORRUPT, "%s: '%s' must be %s, it is %s",
                    mal_file_shown(where), key, expected, mal_json_type(value));
}

/* The member, NULL where it is missing or null. */
static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

static bool need(const json_t *object, const char *key, const char *where,
                 struct mal_error *err) {
    if (member(object, key)) return true;
    return mal_fail(err, MAL_CORRUPT, "%s: '%s' is missing", mal_file_shown(where), key);
}

bool mal_json_int_opt(const json_t *object, const char *key, int64_t min, int64_t max,
                      int64_t *out, const char *where, struct mal_error *err) {
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_integer(value)) return fail_type(value, key, "an integer", where, err);
    int64_t n = json_integer_value(value);
    if (n < min || n > max)
        return mal_fail(err, MAL_CORRUPT,
                        "%s: '%s' is %" PRId64 ", outside %" PRId64 " to %" PRId64,
                        mal_file_shown(where), key, n, min, max);
    *out = n;
    return true;
}

bool mal_json_int(const json_t *object, const char *key, int64_t min, int64_t max,
                  int64_t *out, const char *where, struct mal_error *err) {
    return need(object, key, where, err) &&
           mal_json_int_opt(object, key, min, max, out, where, err);
}

bool mal_json_real_opt(const json_t *object, const char *key, double *out,
                       const char *where, struct mal_error *err) {
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_number(value)) return fail_type(value, key, "a number", where, err);
    *out = json_number_value(value);
    return true;
}

bool mal_json_bool_opt(const json_t *object, const char *key, bool *out,
                       const char *where, struct mal_error *err) {
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_boolean(value)) return fail_type(value, key, "a boolean", where, err);
    *out = json_is_true(value);
    return true;
}

bool mal_json_string_opt(const json_t *object, const char *key, const char **out,
                         const char *where, struct mal_error *err) {
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_string(value)) return fail_type(value, key, "a string", where, err);
    *out = json_string_value(value);
    return true;
}

bool mal_json_string(const json_t *object, const char *key, const char **out,
                     const char *where, struct mal_error *err) {
    return need(object, key, where, err) &&
           mal_json_string_opt(object, key, out, where, err);
}

json_t *mal_json_fit(const char *text) {
    char *fit = mal_utf8_fit(text);
    json_t *value = fit ? json_string(fit) : NULL;
    mal_free(fit);
    return value;
}
