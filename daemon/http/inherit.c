/* inherit.c - the descriptor a service manager leaves, checked before it is trusted. */
#include "daemon/http/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_FD = 3 };

static long number_of(const char *variable) {
    const char *text = getenv(variable);
    char *end;
    if (!text || *text < '0' || *text > '9') return -1;
    long value = strtol(text, &end, 10);
    return *end ? -1 : value;
}

static bool option_of(int fd, int option, int *out) {
    socklen_t bytes = sizeof *out;
    return getsockopt(fd, SOL_SOCKET, option, out, &bytes) == 0;
}

static bool prepare(int fd, struct mal_error *err) {
    int type = 0, listens = 0;
    if (!option_of(fd, SO_TYPE, &type) || !option_of(fd, SO_ACCEPTCONN, &listens)) {
        return mal_fail(err, MAL_INVALID, "the inherited descriptor %d: %s", fd,
                        strerror(errno));
    }
    if (type != SOCK_STREAM || !listens) {
        return mal_fail(err, MAL_INVALID,
                        "the inherited descriptor %d is not a stream socket that listens "
                        "(ListenStream= with Accept=no)",
                        fd);
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
        fcntl(fd, F_SETFD, FD_CLOEXEC)) {
        return mal_fail(err, MAL_IO, "the inherited descriptor %d: %s", fd,
                        strerror(errno));
    }
    return true;
}

bool mal_inherit(bool has_tokens, int *out_fd, char out_address[MAL_ADDRESS_BYTES],
                 struct mal_error *err) {
    *out_fd = -1;
    if (number_of("LISTEN_PID") != (long)getpid()) return true; /* another process's */
    long n = number_of("LISTEN_FDS");
    if (n == 0) return true;
    if (n != 1) {
        const char *text = getenv("LISTEN_FDS");
        return mal_fail(err, MAL_INVALID,
                        "LISTEN_FDS: '%.32s' sockets, the daemon listens on one",
                        text ? text : "");
    }
    if (!prepare(FIRST_FD, err)) return false;
    if (!mal_listen_name(FIRST_FD, has_tokens, out_address, err)) return false;
    *out_fd = FIRST_FD;
    return true;
}
