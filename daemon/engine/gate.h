/* gate.h - the quality gate: limits that a change must keep to be published.
 *
 * A gate is a set of tests. Shares are tested as decoded and as teacher-forced ones
 * apart, so that limits of several origins (the daemon's, each request's) count side by
 * side, each about its own measure; of two limits of one test the stricter counts. */
#ifndef MAL_GATE_H
#define MAL_GATE_H

#include <jansson.h>

#include "core/eval.h"
#include "core/weights_state.h"

enum mal_gate_test {
    MAL_GATE_DECODED_ES,
    MAL_GATE_DECODED_GS,
    MAL_GATE_DECODED_LS,
    MAL_GATE_FORCED_ES,
    MAL_GATE_FORCED_GS,
    MAL_GATE_FORCED_LS,
    MAL_GATE_AGREEMENT,
    MAL_GATE_NORM_GROWTH,
    MAL_GATE_PERPLEXITY_GROWTH,
    MAL_GATE_N_TESTS
};

/* Limits as they are written: options of `serve`, members of a request. NaN: not set. */
struct mal_gate_limits {
    double min_es, min_gs, min_ls, min_agreement, max_norm_growth, max_perplexity_growth;
    const char *measure; /* "decoded", "teacher_forced"; of the first three */
    bool bisect;
};

struct mal_gate {
    double limit[MAL_GATE_N_TESTS]; /* NaN: no such test */
    bool forced; /* requests that name no measure mean teacher-forced shares */
    bool bisect; /* of a refused batch the facts that pass are to be kept */
};

/* The daemon's own; a measure of NULL is "decoded". */
void mal_gate_init(struct mal_gate *gate, const struct mal_gate_limits *limits);
/* Without limits, for a request to a daemon with the gate `own`. */
void mal_gate_init_request(struct mal_gate *gate, const struct mal_gate *own);
/* Adds the limits that a job's stored request carries: {"gate":{...}}; NULL, or one
 * without: none. MAL_CORRUPT: not what the API lets in. */
bool mal_gate_add_request(struct mal_gate *gate, const char *request_json,
                          struct mal_error *err) MAL_CHECK;

struct mal_gate_numbers;
/* What a change must keep that teaches nothing, a repair or a consolidation: `own`, the
 * daemon's limits, or where the live version does not keep one, what that measures
 * (`before`); and it loses no fact. With `no_worse` rephrases, unrelated prompts and
 * agreement must each be no worse than before, too. */
void mal_gate_init_upkeep(struct mal_gate *gate, const struct mal_gate *own,
                          const struct mal_gate_numbers *before, bool no_worse);

static inline bool mal_gate_asks(const struct mal_gate *gate, enum mal_gate_test test) {
    return gate->limit[test] == gate->limit[test];
}

/* What a change measured. NaN: nothing was there to measure, which fails no test. */
struct mal_gate_numbers {
    double value[MAL_GATE_N_TESTS];
    const char *module; /* whose norm grew the most, borrowed; NULL */
};

/* Shares and agreement; the growths are NaN. */
void mal_gate_numbers_of(struct mal_gate_numbers *out, const struct mal_measures *m);
/* max over modules of ||W|| / ||W0|| - 1. */
void mal_gate_add_norms(struct mal_gate_numbers *numbers,
                        const struct mal_module_norms *now,
                        const struct mal_module_norms *base, size_t n_modules);
/* exp(now - base) - 1 of two means of -log p (core/editor/perplexity.h). */
void mal_gate_add_perplexity(struct mal_gate_numbers *numbers, double base, double now);

bool mal_gate_passes(const struct mal_gate *gate, const struct mal_gate_numbers *numbers);
/* {"passed","failed":[{"test","measure"?,"threshold","value","module"?}],"not_measured"?:
 * [{"test","measure"?}]}, names as in requests; a value that is infinite is left out.
 * NULL: out of memory. */
json_t *mal_gate_json(const struct mal_gate *gate,
                      const struct mal_gate_numbers *numbers);
/* The same of a change whose weights or outputs are not finite: {"passed":false,
 * "failed":[{"test":"finite","detail"}]}. */
json_t *mal_gate_json_not_finite(const char *detail);

#endif
