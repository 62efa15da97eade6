/* basis.h - what the system of all live facts is made of beside their keys: ridge,
 * preservation, tokenizer.
 *
 * The shift S of the live facts solves A S = V, and a change of some of them starts from
 * that (core/editor/joint_change.h). With another A, as after a restart with another
 * --preserve-weight, S solves nothing: what a fact gave would stay when it is taken back,
 * or all be lost. So each version says which basis it was solved with. */
#ifndef MAL_BASIS_H
#define MAL_BASIS_H

#include "daemon/engine/engine.h"

/* Of the engine as it is, with its editor: engine->basis; "" where facts are added up. */
bool mal_engine_find_basis(struct mal_engine *engine, struct mal_error *err) MAL_CHECK;
/* The row's: that of the version gone back to, else the engine's where it holds all live
 * facts in one system. */
bool mal_basis_of_row(const struct mal_engine *engine, struct mal_store *store,
                      struct mal_version_row *row, struct mal_error *err) MAL_CHECK;

#endif
