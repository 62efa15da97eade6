/* peer.c - addresses and user ids of peers. */
#define _GNU_SOURCE /* struct ucred */
#include "daemon/http/peer.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void read_unix(int fd, struct mal_peer *out) {
    struct ucred credentials = {0};
    socklen_t bytes = sizeof credentials;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes)) return;
    out->uid = credentials.uid;
    (void)snprintf(out->origin, sizeof out->origin, "unix:%lld", (long long)out->uid);
}

static void read_v4(const struct in_addr *address, struct mal_peer *out) {
    out->loopback = (ntohl(address->s_addr) >> 24) == 127;
    (void)inet_ntop(AF_INET, address, out->origin, sizeof out->origin);
}

/* A socket of both families gives IPv4 peers as ::ffff:192.0.2.7. */
static void read_v6(const struct in6_addr *address, struct mal_peer *out) {
    if (IN6_IS_ADDR_V4MAPPED(address)) {
        struct in_addr v4 = {.s_addr = htonl((uint32_t)address->s6_addr[12] << 24 |
                                             (uint32_t)address->s6_addr[13] << 16 |
                                             (uint32_t)address->s6_addr[14] << 8 |
                                             address->s6_addr[15])};
        read_v4(&v4, out);
        return;
    }
    out->loopback = IN6_IS_ADDR_LOOPBACK(address);
    (void)inet_ntop(AF_INET6, address, out->origin, sizeof out->origin);
}

void mal_peer_read(int fd, struct mal_peer *out) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } a = {0};

    socklen_t bytes = sizeof a;
    *out = (struct mal_peer){.uid = -1, .origin = "unknown"};
    if (fd < 0 || getpeername(fd, &a.any, &bytes)) return;
    switch (a.any.sa_family) {
    case AF_UNIX: read_unix(fd, out); break;
    case AF_INET: read_v4(&a.v4.sin_addr, out); break;
    case AF_INET6: read_v6(&a.v6.sin6_addr, out); break;
    default: break;
    }
}

bool mal_peer_taken(int fd, uint64_t *out_bytes) {
    struct tcp_info info;
    socklen_t bytes = sizeof info;
    int unread;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) ||
        bytes < offsetof(struct tcp_info, tcpi_bytes_received) + 8 ||
        ioctl(fd, SIOCINQ, &unread))
        return false;
    *out_bytes = info.tcpi_bytes_received - (uint64_t)unread;
    return true;
}
