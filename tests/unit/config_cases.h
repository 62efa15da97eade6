/* config_cases.h - variants of a random model's config.json: such as say the same, such
 * as do not, and such as are refused. */
#ifndef MAL_TEST_CONFIG_CASES_H
#define MAL_TEST_CONFIG_CASES_H

#include "variants.h"

static inline struct mal_model *open_made(const struct random_model *m,
                                          const char *changes) {
    random_tensors_free(&tensors);
    random_tensors_of(&tensors, m);
    return open_dir(save_variant(m, changes));
}

static inline int make_directory(void **state) {
    return scratch_make(state);
}

static inline int remove_directory(void **state) {
    random_tensors_free(&tensors);
    return scratch_remove(state);
}

struct pair {
    enum random_family family;
    const char *one, *other;
};

static inline void check_same(const struct pair *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct random_model *m = &random_models[list[i].family];
        struct mal_model *one = open_made(m, list[i].one),
                         *other = open_made(m, list[i].other);
        double off = distance(one, other);
        if (off > 0) fail_msg("%s is not %s: %g", list[i].one, list[i].other, off);
        assert_int_equal(one->info.decoder_start, other->info.decoder_start);
        mal_model_close(one);
        mal_model_close(other);
    }
}

/* Each of these has its effect. */
static inline void check_different(const struct pair *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct random_model *m = &random_models[list[i].family];
        struct mal_model *one = open_made(m, list[i].one),
                         *other = open_made(m, list[i].other);
        if (!(distance(one, other) > 1e-4)) fail_msg("%s is nothing", list[i].other);
        mal_model_close(one);
        mal_model_close(other);
    }
}

/* What follows from other members where it is not said. */
struct sized_pair {
    struct random_model made;
    const char *one, *other;
};

static inline void check_sizes(const struct sized_pair *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct mal_model *one = open_made(&list[i].made, list[i].one),
                         *other = open_made(&list[i].made, list[i].other);
        double off = distance(one, other);
        if (off > 0) fail_msg("%s is not %s: %g", list[i].one, list[i].other, off);
        mal_model_close(one);
        mal_model_close(other);
    }
}

struct wrong_config {
    enum random_family family;
    const char *changes, *words[2];
};

static inline void check_wrong(const struct wrong_config *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const char *const words[] = {list[i].words[0], list[i].words[1]};
        random_tensors_free(&tensors);
        random_tensors_of(&tensors, &random_models[list[i].family]);
        expect_refused(save_variant(&random_models[list[i].family], list[i].changes),
                       words, 2);
    }
}

#endif
