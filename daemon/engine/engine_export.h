/* engine_export.h - what exports must know of an engine's model. */
#ifndef MAL_ENGINE_EXPORT_H
#define MAL_ENGINE_EXPORT_H

#include "core/export/export.h"

struct mal_engine;

/* The modules edited, in name order, and what the model is; texts other than the modules'
 * names are borrowed from the engine. Read-only after opening, safe from any thread;
 * mal_export_finish(). */
bool mal_engine_export(const struct mal_engine *engine, struct mal_export *out,
                       struct mal_error *err) MAL_CHECK;

#endif
