/* listen.c - binding. */
#include "daemon/http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 511 };

static bool start_listening(int fd, const char *address, struct mal_error *err) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || listen(fd, BACKLOG)) {
        return mal_fail(err, MAL_IO, "listen on '%s': %s", address, strerror(errno));
    }
    return true;
}

/* ---- Unix ---- */

/* A path that is no socket is never removed. */
static bool clear_stale(const struct sockaddr_un *sun, struct mal_error *err) {
    struct stat st;
    if (lstat(sun->sun_path, &st)) return true;
    if (!S_ISSOCK(st.st_mode)) {
        return mal_fail(err, MAL_CONFLICT, "'%s' exists and is not a socket",
                        sun->sun_path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return mal_fail(err, MAL_IO, "socket: %s", strerror(errno));
    bool live = connect(fd, (const struct sockaddr *)sun, sizeof *sun) == 0;
    int why = errno;
    close(fd);
    if (live) {
        return mal_fail(err, MAL_CONFLICT, "another process is listening on '%s'",
                        sun->sun_path);
    }
    if (why != ECONNREFUSED && why != ENOENT) {
        return mal_fail(err, MAL_CONFLICT, "'%s' is in the way: %s", sun->sun_path,
                        strerror(why));
    }
    if (unlink(sun->sun_path) && errno != ENOENT) {
        return mal_fail(err, MAL_IO, "remove stale '%s': %s", sun->sun_path,
                        strerror(errno));
    }
    return true;
}

static bool parse_unix(const char *address, struct sockaddr_un *out,
                       struct mal_error *err) {
    const char *path = address + strlen("unix:");
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof out->sun_path) {
        return mal_fail(err, MAL_INVALID,
                        "listen address '%s': the path must have 1 to %zu bytes", address,
                        sizeof out->sun_path - 1);
    }
    memcpy(out->sun_path, path, strlen(path));
    return true;
}

/* A socket that is there is found out about when it is bound. */
static bool check_unix(const char *address, struct mal_error *err) {
    struct sockaddr_un sun;
    struct stat st;
    if (!parse_unix(address, &sun, err)) return false;
    if (lstat(sun.sun_path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        return mal_fail(err, MAL_CONFLICT, "'%s' exists and is not a socket",
                        sun.sun_path);
    }
    const char *dir = dirname(sun.sun_path);
    return access(dir, W_OK | X_OK) == 0 ||
           mal_fail(err, MAL_IO, "listen address '%s': %s: %s", address, dir,
                    strerror(errno));
}

static bool listen_unix(const char *address, int *out_fd, struct mal_error *err) {
    struct sockaddr_un sun;
    if (!parse_unix(address, &sun, err)) return false;
    if (!clear_stale(&sun, err)) return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return mal_fail(err, MAL_IO, "socket: %s", strerror(errno));
    mode_t old = umask(0117); /* owner and group may connect */
    int rc = bind(fd, (struct sockaddr *)&sun, sizeof sun);
    int why = errno;
    umask(old);
    if (rc) {
        close(fd);
        return mal_fail(err, MAL_IO, "bind '%s': %s", address, strerror(why));
    }
    if (!start_listening(fd, address, err)) {
        close(fd);
        unlink(sun.sun_path);
        return false;
    }
    *out_fd = fd;
    return true;
}

/* ---- TCP ---- */

union inet_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool parse_port(const char *text, uint16_t *out) {
    char *end;
    if (*text < '0' || *text > '9') return false;
    long port = strtol(text, &end, 10);
    if (*end || port > 65535) return false;
    *out = (uint16_t)port;
    return true;
}

static bool is_loopback(const union inet_address *a) {
    if (a->any.sa_family == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
    return (ntohl(a->v4.sin_addr.s_addr) >> 24) == 127;
}

static bool check_open(const union inet_address *a, const char *address, bool has_tokens,
                       struct mal_error *err) {
    if (has_tokens || is_loopback(a)) return true;
    return mal_fail(
        err, MAL_INVALID,
        "listen address '%s': without --tokens nothing checks who connects, so "
        "only loopback addresses (127.0.0.1, [::1]) and unix:/path are allowed",
        address);
}

static bool parse_inet(const char *address, union inet_address *out,
                       struct mal_error *err) {
    char host[64];
    const char *colon = strrchr(address, ':');
    uint16_t port;
    if (!colon || (size_t)(colon - address) >= sizeof host ||
        !parse_port(colon + 1, &port)) {
        return mal_fail(err, MAL_INVALID,
                        "listen address '%s': expected ADDRESS:PORT or unix:/path",
                        address);
    }
    size_t n = (size_t)(colon - address);
    memcpy(host, address, n);
    host[n] = 0;
    memset(out, 0, sizeof *out);
    if (!strcmp(host, "localhost")) snprintf(host, sizeof host, "127.0.0.1");
    if (host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = 0;
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons(port);
        if (inet_pton(AF_INET6, host + 1, &out->v6.sin6_addr) != 1) goto bad;
    } else {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(port);
        if (inet_pton(AF_INET, host, &out->v4.sin_addr) != 1) goto bad;
    }
    return true;

bad:
    return mal_fail(err, MAL_INVALID, "listen address '%s': '%s' is no numeric address",
                    address, host);
}

static void format_inet(const union inet_address *a, char out[MAL_ADDRESS_BYTES]) {
    char host[INET6_ADDRSTRLEN] = "";
    if (a->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
        snprintf(out, MAL_ADDRESS_BYTES, "[%s]:%d", host, ntohs(a->v6.sin6_port));
    } else {
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
        snprintf(out, MAL_ADDRESS_BYTES, "%s:%d", host, ntohs(a->v4.sin_port));
    }
}

static bool listen_inet(const char *address, bool has_tokens, int *out_fd,
                        char out_address[MAL_ADDRESS_BYTES], struct mal_error *err) {
    union inet_address a;
    if (!parse_inet(address, &a, err)) return false;
    if (!check_open(&a, address, has_tokens, err)) return false;
    socklen_t size = a.any.sa_family == AF_INET6 ? sizeof a.v6 : sizeof a.v4;
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return mal_fail(err, MAL_IO, "socket: %s", strerror(errno));
    int one = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, &a.any, size) || getsockname(fd, &a.any, &size)) {
        mal_fail(err, MAL_IO, "bind '%s': %s", address, strerror(errno));
        goto fail;
    }
    if (!start_listening(fd, address, err)) goto fail;
    format_inet(&a, out_address);
    *out_fd = fd;
    return true;

fail:
    close(fd);
    return false;
}

bool mal_listen(const char *address, bool has_tokens, int *out_fd,
                char out_address[MAL_ADDRESS_BYTES], struct mal_error *err) {
    if (strncmp(address, "unix:", 5))
        return listen_inet(address, has_tokens, out_fd, out_address, err);
    if (!listen_unix(address, out_fd, err)) return false;
    snprintf(out_address, MAL_ADDRESS_BYTES, "%s", address);
    return true;
}

bool mal_listen_is_local(const char *out_address) {
    union inet_address a;
    struct mal_error none = {0};
    return !strncmp(out_address, "unix:", 5) ||
           (parse_inet(out_address, &a, &none) && is_loopback(&a));
}

bool mal_listen_name(int fd, bool has_tokens, char out_address[MAL_ADDRESS_BYTES],
                     struct mal_error *err) {
    union {
        union inet_address inet;
        struct sockaddr_un sun;
    } a = {0};

    socklen_t bytes = sizeof a;
    if (getsockname(fd, &a.inet.any, &bytes)) {
        return mal_fail(err, MAL_INVALID, "the inherited socket: %s", strerror(errno));
    }
    int family = a.inet.any.sa_family;
    if (family == AF_UNIX && a.sun.sun_path[0]) {
        snprintf(out_address, MAL_ADDRESS_BYTES, "unix:%.*s", (int)sizeof a.sun.sun_path,
                 a.sun.sun_path);
        return true;
    }
    if (family != AF_INET && family != AF_INET6) {
        return mal_fail(err, MAL_INVALID,
                        "the inherited socket is neither TCP nor on a Unix path");
    }
    format_inet(&a.inet, out_address);
    return check_open(&a.inet, out_address, has_tokens, err);
}

bool mal_listen_check_form(const char *address, struct mal_error *err) {
    struct sockaddr_un sun;
    union inet_address a;
    return strncmp(address, "unix:", 5) ? parse_inet(address, &a, err)
                                        : parse_unix(address, &sun, err);
}

bool mal_listen_check(const char *address, bool has_tokens, struct mal_error *err) {
    union inet_address a;
    if (!strncmp(address, "unix:", 5)) return check_unix(address, err);
    return parse_inet(address, &a, err) && check_open(&a, address, has_tokens, err);
}

void mal_listen_forget(const char *address) {
    if (!strncmp(address, "unix:", 5)) unlink(address + 5);
}
