/* sample.h - the next token from a row of logits. */
#ifndef MAL_SAMPLE_H
#define MAL_SAMPLE_H

#include <stdint.h>

struct mal_candidate {
    int32_t id;
    float p;
};

/* Draws from softmax(logits / temperature) cut to the smallest set of most probable
 * tokens whose probabilities reach top_p. `scratch` (v). temperature > 0. */
int32_t mal_sample(const float *logits, int64_t v, float temperature, float top_p,
                   uint64_t *state, struct mal_candidate *scratch);

#endif
