/* instant.h - an editor made on the spot: MALMEN as the identity network, its statistics
 * and its step found on the facts at hand.
 *
 * Few facts say little: of one with a single token there is no variance at all, and a
 * step that nothing holds back wrecks the model. So facts that the model makes up
 * (core/made_up.h) join them. */
#ifndef MAL_INSTANT_H
#define MAL_INSTANT_H

#include "core/editor/search.h"

struct mal_instant_report {
    size_t n_facts; /* of the given ones: those that were used */
    size_t n_made;  /* made up beside them */
    double lr;
    struct mal_search_report search;
};

/* For the edit modules that `model` has set; it must read its base weights, also after a
 * tick. The editor's n_edits counts the facts made up, too: the step was found among
 * them, so a batch of as many is nothing to warn of. Given facts that the model has right
 * already teach nothing about a step and are left out; so are rephrases and unrelated
 * prompts, which are there to measure with. An editor with which no step teaches anything
 * is MAL_NUMERIC. */
bool mal_editor_make(struct mal_editor **out, struct mal_model *model,
                     const struct mal_tokenizer *tok, const struct mal_fact *facts,
                     size_t n_facts, const struct mal_progress *progress,
                     struct mal_instant_report *report, struct mal_error *err) MAL_CHECK;

#endif
