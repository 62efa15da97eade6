/* inherit.h - a listening socket that a service manager opened for the daemon: socket
 * activation, LISTEN_PID and LISTEN_FDS of sd_listen_fds(3). */
#ifndef MAL_INHERIT_H
#define MAL_INHERIT_H

#include "daemon/http/listen.h"

/* *out_fd -1: there is none for this process. Otherwise one stream socket that listens,
 * on a Unix path or an address that mal_listen() would take, non-blocking and owned by
 * the caller; anything else, and more than one, is refused. The file of a Unix socket is
 * the service manager's: no mal_listen_forget() for it. */
bool mal_inherit(bool has_tokens, int *out_fd, char out_address[MAL_ADDRESS_BYTES],
                 struct mal_error *err) MAL_CHECK;

#endif
