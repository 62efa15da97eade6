/* notify.h - tells a service manager how the daemon is: sd_notify(3), over the datagram
 * socket that NOTIFY_SOCKET names.
 *
 * What is to be said is set at any time and sent by mal_notify_send(), which never waits:
 * what the socket does not take is sent the next time. The watchdog's interval is
 * WATCHDOG_USEC, where WATCHDOG_PID is this process or not given. One thread. */
#ifndef MAL_NOTIFY_H
#define MAL_NOTIFY_H

#include <stdint.h>

#include "core/error.h"

struct mal_notify;

/* *out NULL: nobody asked to be told; all functions take that. */
bool mal_notify_create(struct mal_notify **out, struct mal_error *err) MAL_CHECK;
void mal_notify_destroy(struct mal_notify *notify);

/* Milliseconds after which a silent daemon is taken for dead; 0: there is no watchdog. */
int64_t mal_notify_watchdog_ms(const struct mal_notify *notify);

void mal_notify_ready(struct mal_notify *notify);
void mal_notify_stopping(struct mal_notify *notify);
/* One line for people, cut at 255 bytes. */
void mal_notify_status(struct mal_notify *notify, const char *text);
/* Sends what is new and, if `alive` and due, that the daemon lives: at every half of the
 * watchdog's interval. */
void mal_notify_send(struct mal_notify *notify, bool alive);

#endif
