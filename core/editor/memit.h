/* memit.h - MEMIT (Meng et al., ICLR 2023), as its authors' code computes it.
 *
 * For each fact the state v* that the last edited layer's block should give at the
 * subject's last token is found by descent on the base weights: its difference delta from
 * the state z0 that is there minimises
 *
 *     mean over contexts, mean over target tokens of -log p
 *     + kl_factor KL(now || before) of what follows "<subject> is a"'s subject
 *     + v_weight_decay |delta| / |z0|^2
 *
 * by Adam from 0, cut to the norm clamp |z0| after each step. Then the modules are solved
 * in the order of their layers, each on weights with those before it edited: with keys k,
 * the module's inputs at the subject's last token averaged over contexts, and residuals r
 * = (v* - the last block's output now) / (modules left),
 *
 *     S = (mom2_weight C + K'K)^-1 K' R,  C = mean of k k' over tokens of ordinary text
 *
 * (equation 14 of the paper), in fp64. A fact with further prompts has all contexts of
 * each, in both phases. */
#ifndef MAL_MEMIT_H
#define MAL_MEMIT_H

#include "core/editor/method.h"
#include "core/facts.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

/* The numbers of the editor file's `hyper`, in the order of the method's. */
enum {
    MAL_MEMIT_V_LR,
    MAL_MEMIT_V_STEPS,
    MAL_MEMIT_V_WEIGHT_DECAY,
    MAL_MEMIT_CLAMP,
    MAL_MEMIT_KL_FACTOR,
    MAL_MEMIT_MOM2_WEIGHT,
    MAL_MEMIT_LOSS_LAYER, /* where the losses are read: always the last block */
    MAL_MEMIT_N_HYPER
};

/* What else an editor has; host memory, owned. */
struct mal_memit {
    char **contexts; /* (n_contexts) templates: "{}" is the prompt; the first is "{}" */
    size_t n_contexts;
    size_t *groups; /* (n_groups) how many contexts, in order, form each; the first 1 */
    size_t n_groups;
    size_t n_modules;
    int64_t *d_in;                     /* (n_modules) */
    float **mom2;                      /* (n_modules) C of each module, (d_in, d_in) */
    struct mal_memit_factors *factors; /* made when first needed */
};

struct mal_memit *mal_memit_create(size_t n_modules, struct mal_error *err); /* or NULL */
void mal_memit_destroy(struct mal_memit *memit); /* takes NULL */

#endif
