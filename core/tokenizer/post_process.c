/* post_process.c - what post-processors put before and behind a text.
 *
 * Several in a sequence are put around one another, as Hugging Face's package does it. */
#include "core/json.h"
#include "core/tokenizer/parts.h"

static bool push_all(struct mal_ids *out, const struct mal_ids *ids,
                     struct mal_error *err) {
    for (size_t i = 0; i < ids->n; i++) {
        if (!mal_ids_push(out, ids->ids[i], err)) return false;
    }
    return true;
}

bool mal_put_around(struct mal_tokenizer *tok, struct mal_ids *before,
                    struct mal_ids *after, struct mal_error *err) {
    bool ok = push_all(before, &tok->before, err) && push_all(&tok->after, after, err);
    if (ok) {
        struct mal_ids inner = tok->before;
        tok->before = *before;
        *before = inner;
    }
    mal_ids_finish(before);
    mal_ids_finish(after);
    return ok;
}

static bool push_special(struct mal_tokenizer *tok, const json_t *part, const char *name,
                         struct mal_ids *out, const char *where, struct mal_error *err) {
    const json_t *special =
        json_object_get(json_object_get(part, "special_tokens"), name);
    const json_t *ids = json_object_get(special, "ids"), *id;
    size_t i;
    if (!json_is_array(ids))
        return mal_part_must_be("special_tokens", "{name: {\"ids\"}}", where, err);
    json_array_foreach (ids, i, id) {
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= tok->vocab.size) {
            return mal_part_must_be("ids of the post-processor", "ids of tokens", where,
                                    err);
        }
        if (!mal_ids_push(out, (int32_t)value, err)) return false;
    }
    return true;
}

static bool read_items(struct mal_tokenizer *tok, const json_t *part,
                       struct mal_ids *before, struct mal_ids *after, const char *where,
                       struct mal_error *err) {
    const json_t *items, *item;
    size_t i, n_texts = 0;
    if (!mal_part_array(part, "single", &items, where, err)) return false;
    json_array_foreach (items, i, item) {
        const json_t *token = json_object_get(item, "SpecialToken");
        if (json_is_object(json_object_get(item, "Sequence"))) {
            n_texts++;
            continue;
        }
        const char *name;
        if (!json_is_object(token)) {
            return mal_part_must_be("single", "a list of SpecialToken and Sequence",
                                    where, err);
        }
        if (!mal_json_string(token, "id", &name, where, err) ||
            !push_special(tok, part, name, n_texts ? after : before, where, err))
            return false;
    }
    return n_texts == 1 ||
           mal_part_must_be("single", "a template with one Sequence", where, err);
}

bool mal_read_template(struct mal_tokenizer *tok, const json_t *part, const char *where,
                       struct mal_error *err) {
    struct mal_ids before = {0}, after = {0};
    if (read_items(tok, part, &before, &after, where, err))
        return mal_put_around(tok, &before, &after, err);
    mal_ids_finish(&before);
    mal_ids_finish(&after);
    return false;
}
