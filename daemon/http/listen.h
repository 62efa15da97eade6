/* listen.h - the socket the daemon accepts on: ADDRESS:PORT or unix:/path.
 *
 * Without tokens whoever connects over TCP may edit the model, so then any address but
 * the loopback ones is refused. A Unix socket left behind by a kill is replaced, one that
 * answers is not. */
#ifndef MAL_LISTEN_H
#define MAL_LISTEN_H

#include "core/error.h"

enum { MAL_ADDRESS_BYTES = 160 };

/* *out_fd is non-blocking and listening, owned by the caller. `out_address` is what was
 * bound (port 0 becomes the chosen one), in the form the option takes. */
bool mal_listen(const char *address, bool has_tokens, int *out_fd,
                char out_address[MAL_ADDRESS_BYTES], struct mal_error *err) MAL_CHECK;
/* Whether what was bound is for this machine alone: loopback, or a Unix socket. */
bool mal_listen_is_local(const char *out_address);
/* Whether it is an address at all. */
bool mal_listen_check_form(const char *address, struct mal_error *err) MAL_CHECK;
/* What it would refuse, without binding. */
bool mal_listen_check(const char *address, bool has_tokens,
                      struct mal_error *err) MAL_CHECK;
/* The address of a socket that somebody else bound, in the option's form; refused as if
 * it had been the option's. */
bool mal_listen_name(int fd, bool has_tokens, char out_address[MAL_ADDRESS_BYTES],
                     struct mal_error *err) MAL_CHECK;
/* Removes a Unix socket's file; nothing for TCP. */
void mal_listen_forget(const char *address);

#endif
