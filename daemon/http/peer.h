/* peer.h - who is at the other end of a connection, as the kernel says it. */
#ifndef MAL_PEER_H
#define MAL_PEER_H

#include <stdbool.h>
#include <stdint.h>

enum { MAL_ORIGIN_BYTES = 64 };

struct mal_peer {
    bool loopback; /* TCP from this machine */
    int64_t uid;   /* of a Unix socket's peer when it connected; -1: not known */
    char origin[MAL_ORIGIN_BYTES]; /* "192.0.2.7", "2001:db8::7", "unix:1000", "unknown"
                                    */
};

/* Of a connected socket. What cannot be found out is not known, and may nothing. */
void mal_peer_read(int fd, struct mal_peer *out);
/* How much of what it has sent was read; false: not known, as of a Unix socket. */
bool mal_peer_taken(int fd, uint64_t *out_bytes);

#endif
