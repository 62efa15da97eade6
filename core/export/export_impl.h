/* export_impl.h - what the formats share. */
#ifndef MAL_EXPORT_IMPL_H
#define MAL_EXPORT_IMPL_H

#include "core/export/export.h"

enum { MAL_EXPORT_META = 6 }; /* members of a file's metadata, at most */

struct mal_export_text {
    char version[24];
};

/* The module's tensor in the checkpoint. */
void mal_export_tensor(const struct mal_export_module *module, char *out, size_t size);
/* What a safetensors file says about itself; `text` holds what `meta` borrows. Returns
 * how many there are. */
size_t mal_export_about(const struct mal_export *ex, const char *format,
                        struct mal_export_text *text,
                        struct mal_st_meta meta[MAL_EXPORT_META]);
void mal_export_tick(const struct mal_export *ex, size_t done);

#endif
