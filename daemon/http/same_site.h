/* same_site.h - what a browser is made to send by a page from elsewhere.
 *
 * Such a page can reach whatever its visitor's browser reaches, this machine's loopback
 * addresses too, and the browser adds a password it knows. */
#ifndef MAL_SAME_SITE_H
#define MAL_SAME_SITE_H

#include <stdbool.h>
#include <stddef.h>

/* The host on, of an address of http or https; NULL: it is neither. */
const char *mal_after_scheme(const char *address);

/* Whether a request may have been made by a page from elsewhere: of a method that changes
 * something, with Sec-Fetch-Site or Origin saying so. Headers are NULL where not given.
 */
bool mal_is_cross_site(const char *method, const char *fetch_site, const char *origin,
                       const char *host);

/* Whether `host` ("localhost:8780") names this machine by a name that no page can have
 * pointed here: localhost, 127.0.0.1, [::1] or the host of `address`, "ADDRESS:PORT".
 * With any port, or none. */
bool mal_is_own_host(const char *host, const char *address);

#endif
