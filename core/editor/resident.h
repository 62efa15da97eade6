/* resident.h - the blocks of an editor's networks in a device's memory: those of GPT-J
 * 6B's take longer to get there than a fact's edit otherwise takes. */
#ifndef MAL_RESIDENT_H
#define MAL_RESIDENT_H

#include "core/editor/editor.h"

/* Keeps them there until the editor is closed, before the backend is: edits then take
 * over statistics only. Nothing where device memory is host memory. A trainer of the
 * editor (core/train/trainer.h), which changes them, ends it. */
bool mal_editor_make_resident(struct mal_editor *editor, struct mal_backend *be,
                              struct mal_error *err) MAL_CHECK;

/* ---- Of one shape ---- */

struct mal_resident_blocks; /* in one allocation */

bool mal_resident_blocks_create(struct mal_resident_blocks **out,
                                const struct mal_editor_shape *shape, int64_t rank,
                                int64_t n_blocks, struct mal_backend *be,
                                struct mal_error *err) MAL_CHECK;
void mal_resident_blocks_destroy(struct mal_resident_blocks *resident); /* takes NULL */
/* (n_blocks), of device memory */
const struct mal_block *
mal_resident_blocks_of(const struct mal_resident_blocks *resident);

#endif
