/* gate.c - reading limits, putting them together, and testing numbers against them. */
#include "daemon/engine/gate.h"

#include <math.h>
#include <string.h>

#include "core/json.h"

/* Sums of shares in another order may be off by that much. */
static const double ROUNDING = 1e-12;

static const struct test {
    const char *name, *measure; /* as in requests; NULL: of no measure */
    bool least;                 /* the limit is the least that passes, not the most */
} tests[MAL_GATE_N_TESTS] = {
    [MAL_GATE_DECODED_ES] = {"min_es", "decoded", true},
    [MAL_GATE_DECODED_GS] = {"min_gs", "decoded", true},
    [MAL_GATE_DECODED_LS] = {"min_ls", "decoded", true},
    [MAL_GATE_FORCED_ES] = {"min_es", "teacher_forced", true},
    [MAL_GATE_FORCED_GS] = {"min_gs", "teacher_forced", true},
    [MAL_GATE_FORCED_LS] = {"min_ls", "teacher_forced", true},
    [MAL_GATE_AGREEMENT] = {"min_agreement", NULL, true},
    [MAL_GATE_NORM_GROWTH] = {"max_norm_growth", NULL, false},
    [MAL_GATE_PERPLEXITY_GROWTH] = {"max_perplexity_growth", NULL, false},
};

/* ---- Limits ---- */

/* fmax() and fmin() pass over a NaN. */
static void tighten(struct mal_gate *gate, enum mal_gate_test test, double limit) {
    double *l = &gate->limit[test];
    *l = tests[test].least ? fmax(*l, limit) : fmin(*l, limit);
}

static void add_limits(struct mal_gate *gate, const struct mal_gate_limits *limits) {
    bool forced =
        limits->measure ? strcmp(limits->measure, "teacher_forced") == 0 : gate->forced;
    tighten(gate, forced ? MAL_GATE_FORCED_ES : MAL_GATE_DECODED_ES, limits->min_es);
    tighten(gate, forced ? MAL_GATE_FORCED_GS : MAL_GATE_DECODED_GS, limits->min_gs);
    tighten(gate, forced ? MAL_GATE_FORCED_LS : MAL_GATE_DECODED_LS, limits->min_ls);
    tighten(gate, MAL_GATE_AGREEMENT, limits->min_agreement);
    tighten(gate, MAL_GATE_NORM_GROWTH, limits->max_norm_growth);
    tighten(gate, MAL_GATE_PERPLEXITY_GROWTH, limits->max_perplexity_growth);
}

static void begin(struct mal_gate *gate, bool forced, bool bisect) {
    for (int t = 0; t < MAL_GATE_N_TESTS; t++)
        gate->limit[t] = (double)NAN;
    gate->forced = forced;
    gate->bisect = bisect;
}

void mal_gate_init(struct mal_gate *gate, const struct mal_gate_limits *limits) {
    begin(gate, limits->measure && strcmp(limits->measure, "teacher_forced") == 0,
          limits->bisect);
    add_limits(gate, limits);
}

void mal_gate_init_request(struct mal_gate *gate, const struct mal_gate *own) {
    begin(gate, own->forced, false);
}

void mal_gate_init_upkeep(struct mal_gate *gate, const struct mal_gate *own,
                          const struct mal_gate_numbers *before, bool no_worse) {
    static const bool kept[MAL_GATE_N_TESTS] = {[MAL_GATE_DECODED_ES] = true,
                                                [MAL_GATE_DECODED_GS] = true,
                                                [MAL_GATE_DECODED_LS] = true,
                                                [MAL_GATE_AGREEMENT] = true};
    begin(gate, own->forced, false);
    for (int t = 0; t < MAL_GATE_N_TESTS; t++) {
        double was = before->value[t], *limit = &gate->limit[t];
        if (mal_gate_asks(own, t))
            *limit = tests[t].least ? fmin(own->limit[t], was) : fmax(own->limit[t], was);
        /* fmax() passes over a NaN: what was not measured is not compared */
        if (kept[t] && (no_worse || t == MAL_GATE_DECODED_ES)) *limit = fmax(*limit, was);
    }
}

static bool read_limits(const json_t *request, struct mal_gate_limits *out,
                        struct mal_error *err) {
    static const char where[] = "gate";
    const double none = (double)NAN;
    *out = (struct mal_gate_limits){none, none, none, none, none, none, NULL, false};
    const json_t *gate = json_object_get(request, "gate");
    if (gate && !json_is_object(gate)) {
        return mal_fail(err, MAL_CORRUPT, "'gate' must be an object, it is %s",
                        mal_json_type(gate));
    }
    return !gate ||
           (mal_json_real_opt(gate, "min_es", &out->min_es, where, err) &&
            mal_json_real_opt(gate, "min_gs", &out->min_gs, where, err) &&
            mal_json_real_opt(gate, "min_ls", &out->min_ls, where, err) &&
            mal_json_real_opt(gate, "min_agreement", &out->min_agreement, where, err) &&
            mal_json_real_opt(gate, "max_norm_growth", &out->max_norm_growth, where,
                              err) &&
            mal_json_real_opt(gate, "max_perplexity_growth", &out->max_perplexity_growth,
                              where, err) &&
            mal_json_string_opt(gate, "measure", &out->measure, where, err) &&
            mal_json_bool_opt(gate, "bisect", &out->bisect, where, err));
}

bool mal_gate_add_request(struct mal_gate *gate, const char *request_json,
                          struct mal_error *err) {
    if (!request_json) return true;
    json_error_t problem;
    json_t *request = mal_json_parse(request_json, strlen(request_json),
                                     JSON_REJECT_DUPLICATES, &problem);
    if (!request) return mal_json_fail(&problem, MAL_CORRUPT, "stored request", err);
    struct mal_gate_limits limits;
    bool ok = read_limits(request, &limits, err);
    if (ok) add_limits(gate, &limits);
    gate->bisect = gate->bisect || (ok && limits.bisect);
    json_decref(request);
    return ok || mal_fail_wrap(err, "stored request");
}

/* ---- Numbers ---- */

void mal_gate_numbers_of(struct mal_gate_numbers *out, const struct mal_measures *m) {
    *out =
        (struct mal_gate_numbers){.value = {[MAL_GATE_DECODED_ES] = m->dec_es,
                                            [MAL_GATE_DECODED_GS] = m->dec_gs,
                                            [MAL_GATE_DECODED_LS] = m->dec_ls,
                                            [MAL_GATE_FORCED_ES] = m->tf_es,
                                            [MAL_GATE_FORCED_GS] = m->tf_gs,
                                            [MAL_GATE_FORCED_LS] = m->tf_ls,
                                            [MAL_GATE_AGREEMENT] = m->agreement,
                                            [MAL_GATE_NORM_GROWTH] = (double)NAN,
                                            [MAL_GATE_PERPLEXITY_GROWTH] = (double)NAN}};
}

static double growth_of(double now, double base) {
    if (base > 0) return now / base - 1;
    return now > 0 ? (double)INFINITY : 0;
}

void mal_gate_add_norms(struct mal_gate_numbers *numbers,
                        const struct mal_module_norms *now,
                        const struct mal_module_norms *base, size_t n_modules) {
    double *worst = &numbers->value[MAL_GATE_NORM_GROWTH];
    for (size_t m = 0; m < n_modules; m++) {
        double growth = growth_of(now[m].weight_norm, base[m].weight_norm);
        if (growth <= *worst) continue;
        *worst = growth;
        numbers->module = now[m].module;
    }
}

void mal_gate_add_perplexity(struct mal_gate_numbers *numbers, double base, double now) {
    numbers->value[MAL_GATE_PERPLEXITY_GROWTH] = expm1(now - base);
}

/* ---- The verdict ---- */

/* A comparison with a NaN on either side is false. */
static bool test_fails(const struct mal_gate *gate,
                       const struct mal_gate_numbers *numbers, int test) {
    double value = numbers->value[test], limit = gate->limit[test];
    return tests[test].least ? value < limit - ROUNDING : value > limit + ROUNDING;
}

bool mal_gate_passes(const struct mal_gate *gate,
                     const struct mal_gate_numbers *numbers) {
    for (int t = 0; t < MAL_GATE_N_TESTS; t++) {
        if (test_fails(gate, numbers, t)) return false;
    }
    return true;
}

/* 0, or -1 when memory is out, as jansson has it. */
static int add_failed(json_t *list, const struct mal_gate *gate,
                      const struct mal_gate_numbers *numbers, int test) {
    double value = numbers->value[test];
    const char *module = test == MAL_GATE_NORM_GROWTH ? numbers->module : NULL;
    return json_array_append_new(
        list, json_pack("{s:s,s:s*,s:f,s:o*,s:s*}", "test", tests[test].name, "measure",
                        tests[test].measure, "threshold", gate->limit[test], "value",
                        isfinite(value) ? json_real(value) : NULL, "module", module));
}

static int add_unmeasured(json_t *list, int test) {
    return json_array_append_new(list, json_pack("{s:s,s:s*}", "test", tests[test].name,
                                                 "measure", tests[test].measure));
}

json_t *mal_gate_json(const struct mal_gate *gate,
                      const struct mal_gate_numbers *numbers) {
    json_t *failed = json_array(), *unmeasured = json_array();
    int bad = failed && unmeasured ? 0 : -1;
    for (int t = 0; t < MAL_GATE_N_TESTS && !bad; t++) {
        if (test_fails(gate, numbers, t)) {
            bad = add_failed(failed, gate, numbers, t);
        } else if (mal_gate_asks(gate, t) && isnan(numbers->value[t])) {
            bad = add_unmeasured(unmeasured, t);
        }
    }
    json_t *verdict = NULL;
    if (!bad) {
        verdict = json_pack("{s:b,s:O,s:O*}", "passed", json_array_size(failed) == 0,
                            "failed", failed, "not_measured",
                            json_array_size(unmeasured) ? unmeasured : NULL);
    }
    json_decref(failed);
    json_decref(unmeasured);
    return verdict;
}

json_t *mal_gate_json_not_finite(const char *detail) {
    return json_pack("{s:b,s:[{s:s,s:s}]}", "passed", false, "failed", "test", "finite",
                     "detail", detail);
}
