/* beside.c - what tokenizer_config.json says beside the original files of a tokenizer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

bool mal_path_beside(char **out, const char *path, size_t stem, const char *name,
                     struct mal_error *err) {
    size_t n = strlen(name) + 1;
    char *beside = mal_malloc(stem + n);
    if (!beside) return mal_fail(err, MAL_NO_MEMORY, "tokenizer");
    memcpy(beside, path, stem);
    memcpy(beside + stem, name, n);
    *out = beside;
    return true;
}

bool mal_beside_open(struct mal_beside *out, const char *path, const char *name,
                     struct mal_error *err) {
    const char *slash = strrchr(path, '/');
    *out = (struct mal_beside){0};
    if (!mal_path_beside(&out->path, path, slash ? (size_t)(slash - path) + 1 : 0, name,
                         err))
        return false;
    if (access(out->path, F_OK) != 0) return true;
    if (!mal_json_load(&out->object, out->path, err)) return false;
    return json_is_object(out->object) ||
           mal_part_must_be("the file", "an object", out->path, err);
}

void mal_beside_close(struct mal_beside *beside) {
    json_decref(beside->object);
    mal_free(beside->path);
    *beside = (struct mal_beside){0};
}

bool mal_add_listed_tokens(struct mal_tokenizer *tok, const struct mal_beside *config,
                           struct mal_error *err) {
    const char *where = config->path;
    const json_t *list = json_object_get(config->object, "added_tokens_decoder");
    const char *key;
    json_t *token;
    if (!list || json_is_null(list)) return true;
    if (!json_is_object(list))
        return mal_part_must_be("added_tokens_decoder", "an object", where, err);
    json_object_foreach ((json_t *)list, key, token) {
        char *end;
        errno = 0;
        long long id = strtoll(key, &end, 10);
        if (errno != 0 || end == key || *end || id < 0 || id >= MAL_MAX_TOKEN_ID) {
            return mal_part_must_be("the names in added_tokens_decoder", "ids of tokens",
                                    where, err);
        }
        if (!mal_read_added_token(tok, token, id, where, err)) return false;
    }
    return true;
}

bool mal_special_name(const struct mal_beside *config, const char *key, const char **out,
                      struct mal_error *err) {
    const json_t *value = json_object_get(config->object, key);
    if (json_is_object(value))
        return mal_json_string(value, "content", out, config->path, err);
    return mal_json_string_opt(config->object, key, out, config->path, err);
}

bool mal_add_special_token(struct mal_tokenizer *tok, const char *name, const char *where,
                           struct mal_error *err) {
    int32_t id = name ? mal_vocab_find(&tok->vocab, name, strlen(name)) : -1;
    if (id < 0 || tok->vocab.tokens[id].is_added) return true;
    struct mal_added_token token = {
        .id = id, .content = (char *)name, .bytes = strlen(name), .special = true};
    return mal_added_add(&tok->added, &tok->vocab, &token, where, err);
}
