/* measures.c - measures as JSON and as columns. */
#include "daemon/engine/measures.h"

#include <math.h>
#include <stdio.h>

#include "core/editor/edit.h"

static void set_share(json_t *object, const char *key, double share) {
    if (!isnan(share)) json_object_set_new(object, key, json_real(share));
}

json_t *mal_shares_json(double es, double gs, double ls) {
    json_t *object = json_object();
    set_share(object, "es", es);
    set_share(object, "gs", gs);
    set_share(object, "ls", ls);
    return object;
}

json_t *mal_measures_json(const struct mal_measures *m) {
    json_t *object =
        json_pack("{s:I,s:o,s:o}", "facts", (json_int_t)m->n_facts, "teacher_forced",
                  mal_shares_json(m->tf_es, m->tf_gs, m->tf_ls), "decoded",
                  mal_shares_json(m->dec_es, m->dec_gs, m->dec_ls));
    set_share(object, "agreement", m->agreement);
    return object;
}

json_t *mal_seconds_json(const double *seconds, int n) {
    json_t *object = json_object();
    for (int s = 0; s < n; s++) {
        json_object_set_new(object, mal_stage_name((enum mal_stage)s),
                            json_real(seconds[s]));
    }
    return object;
}

void mal_print_shares(double es, double gs, double ls) {
    const double all[] = {es, gs, ls};
    for (int i = 0; i < 3; i++) {
        if (isnan(all[i])) {
            printf("%8s", "-");
        } else {
            printf("%8.1f", 100 * all[i]);
        }
    }
}
