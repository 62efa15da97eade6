/* http_version.h - the version a path names. */
#ifndef MAL_HTTP_VERSION_H
#define MAL_HTTP_VERSION_H

#include "daemon/api/daemon.h"

/* `text` is what stands in the path; whatever is no version is MAL_NOT_FOUND. */
bool mal_read_version(struct mal_daemon *d, const char *text, struct mal_version_row *out,
                      struct mal_error *err) MAL_CHECK;

#endif
