/* workbench.h - what the one-shot commands work on: a model on a device, with its
 * tokenizer, and optionally an editor and a weight difference applied. */
#ifndef MAL_WORKBENCH_H
#define MAL_WORKBENCH_H

#include "core/editor/instant.h"
#include "core/editor/preserve.h"
#include "core/export/export.h"
#include "core/model/generate.h"
#include "core/weights_state.h"

#define MAL_HELP_PRESERVE                                                              \
    "Texts whose answers must not move, in place of those the editor carries: facts, " \
    "prompts (JSON or NDJSON) or lines of plain text."
#define MAL_HELP_PRESERVE_WEIGHT                                                      \
    "What the preserved tokens count for altogether, in edit tokens per input of an " \
    "edited layer. Without it the editor's own weights, or 0.5."

#define MAL_HELP_REPAIR_ROUNDS                                                            \
    "Rounds in which facts that are still wrong are measured again and solved for; 0 is " \
    "the paper's single pass. MEND and what fine-tunes have none."
#define MAL_HELP_REPAIR_TAU                                                          \
    "A fact is wrong while one of its target's tokens is not the model's first, or " \
    "less probable than this."

struct mal_store;

struct mal_workbench {
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_weights_state *ws;  /* where weights change */
    struct mal_preserve *preserve; /* NULL: nothing is preserved */
    char base_model[MAL_HASH_HEX];
};

/* editor_path and delta_path may be NULL, not both given. The editor is bound; the delta
 * (a file of mal_workbench_write_delta) is applied. Zero-initialise;
 * mal_workbench_close() also after a failure. */
bool mal_workbench_open(struct mal_workbench *wb, const char *model_dir,
                        const char *device, const char *editor_path,
                        const char *delta_path, struct mal_error *err) MAL_CHECK;
/* The base model of a database (its path is for messages), with the modules edited there,
 * at version 0; MAL_CONFLICT: it was made with another one. `keep` as in
 * mal_weights_create(). */
bool mal_workbench_open_database(struct mal_workbench *wb, struct mal_store *store,
                                 const char *db, const char *model_dir,
                                 const char *device, int keep,
                                 struct mal_error *err) MAL_CHECK;
/* Measures what edits are to preserve, on the base weights: the texts of the file if a
 * path is given, else those the editor carries; share as in mal_preserve_create().
 * `json`: no progress bar. */
bool mal_workbench_preserve(struct mal_workbench *wb, const char *path, double share,
                            bool json, struct mal_error *err) MAL_CHECK;
void mal_workbench_close(struct mal_workbench *wb);

/* Where none was given, makes an editor (core/editor/instant.h) for the modules the
 * architecture is edited at, on the facts of the file `data` or, where that is NULL, on
 * those given; says so on stderr. `json`: no progress bar. */
bool mal_workbench_make_editor(struct mal_workbench *wb, const char *data,
                               const struct mal_fact *facts, size_t n, bool json,
                               struct mal_instant_report *report,
                               struct mal_error *err) MAL_CHECK;
/* What the API would say of facts of a file, posted `batch` at a time (0: they are taught
 * in draws, which may hold anything): what it refuses is refused, and of those that
 * contradict each other otherwise stderr tells how many. */
bool mal_workbench_check_facts(const char *path, const struct mal_fact *facts, size_t n,
                               size_t batch, struct mal_error *err) MAL_CHECK;
/* On stderr, if `n` facts are more than the editor is made for. */
void mal_workbench_warn(const struct mal_workbench *wb, size_t n);

/* The model's fingerprint, computed once. */
bool mal_workbench_fingerprint(struct mal_workbench *wb, struct mal_error *err) MAL_CHECK;

/* What there is to export of the live weights: borrows from the workbench, of no version
 * and no model's name unless the caller says so; mal_export_finish(). */
bool mal_workbench_export(struct mal_workbench *wb, struct mal_export *out,
                          struct mal_error *err) MAL_CHECK;
/* The live weights' difference from the base: one fp32 tensor per edit module, with the
 * name, shape and orientation of its weight in the checkpoint (core/README.md section 7).
 */
bool mal_workbench_write_delta(struct mal_workbench *wb, const char *path,
                               struct mal_error *err) MAL_CHECK;
/* A complete model directory (mal_export_model). */
bool mal_workbench_save_model(struct mal_workbench *wb, const char *dir,
                              struct mal_error *err) MAL_CHECK;
/* Whether a file, or a model, could be written there, before the work whose result it
 * will hold. What exists and is no file (/dev/null) is refused: writing is a rename into
 * place. */
bool mal_workbench_check_out(const char *path, struct mal_error *err) MAL_CHECK;
bool mal_workbench_check_dir(const char *dir, struct mal_error *err) MAL_CHECK;

#endif
