/* notify.c - the protocol of sd_notify(3): lines VARIABLE=VALUE in one datagram. */
#include "daemon/base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/alloc.h"
#include "daemon/base/loop.h"

struct mal_notify {
    int fd;
    struct sockaddr_un to;
    socklen_t to_bytes;
    int64_t watchdog_ms, last_alive_ms;
    bool ready, stopping, ready_sent, stopping_sent, status_sent;
    char status[256];
};

/* A path, or a name in the abstract namespace after '@'. */
static bool set_address(struct mal_notify *notify, const char *name,
                        struct mal_error *err) {
    size_t n = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || n < 2 || n > sizeof notify->to.sun_path) {
        return mal_fail(err, MAL_INVALID,
                        "NOTIFY_SOCKET: '%.128s' is neither an absolute path nor a name "
                        "after '@', of up to %zu bytes",
                        name, sizeof notify->to.sun_path);
    }
    notify->to.sun_family = AF_UNIX;
    memcpy(notify->to.sun_path, name, n);
    if (name[0] == '@') notify->to.sun_path[0] = 0;
    notify->to_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    return true;
}

static bool read_watchdog(struct mal_notify *notify, struct mal_error *err) {
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    char *end;
    if (!usec || !*usec) return true;
    if (pid && *pid && strtol(pid, NULL, 10) != (long)getpid()) return true;
    errno = 0;
    long long value = strtoll(usec, &end, 10);
    if (*end || errno || value <= 0)
        return mal_fail(err, MAL_INVALID, "WATCHDOG_USEC: '%.32s' is no time", usec);
    notify->watchdog_ms = value < 2000 ? 2 : value / 1000;
    return true;
}

bool mal_notify_create(struct mal_notify **out, struct mal_error *err) {
    const char *name = getenv("NOTIFY_SOCKET");
    *out = NULL;
    if (!name || !*name) return true;
    struct mal_notify *notify = mal_calloc(1, sizeof *notify);
    if (!notify) return mal_fail(err, MAL_NO_MEMORY, "notification");
    notify->fd = -1;
    if (!set_address(notify, name, err)) goto fail;
    if (!read_watchdog(notify, err)) goto fail;
    notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify->fd < 0) {
        mal_fail(err, MAL_IO, "NOTIFY_SOCKET: %s", strerror(errno));
        goto fail;
    }
    *out = notify;
    return true;

fail:
    mal_notify_destroy(notify);
    return false;
}

void mal_notify_destroy(struct mal_notify *notify) {
    if (!notify) return;
    if (notify->fd >= 0) close(notify->fd);
    mal_free(notify);
}

int64_t mal_notify_watchdog_ms(const struct mal_notify *notify) {
    return notify ? notify->watchdog_ms : 0;
}

void mal_notify_ready(struct mal_notify *notify) {
    if (notify) notify->ready = true;
}

void mal_notify_stopping(struct mal_notify *notify) {
    if (notify) notify->stopping = true;
}

void mal_notify_status(struct mal_notify *notify, const char *text) {
    if (!notify || !strcmp(notify->status, text)) return;
    snprintf(notify->status, sizeof notify->status, "%s", text);
    notify->status_sent = false;
}

static bool send_text(const struct mal_notify *notify, const char *text) {
    return sendto(notify->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
                  (const struct sockaddr *)&notify->to, notify->to_bytes) >= 0;
}

void mal_notify_send(struct mal_notify *notify, bool alive) {
    if (!notify) return;
    int64_t now = mal_monotonic_ms();
    bool ready = notify->ready && !notify->ready_sent;
    bool stopping = notify->stopping && !notify->stopping_sent;
    bool status = *notify->status && !notify->status_sent;
    bool due = notify->watchdog_ms && notify->ready &&
               now - notify->last_alive_ms >= notify->watchdog_ms / 2;
    alive = alive && due;
    if (!ready && !stopping && !status && !alive) return;
    char text[sizeof notify->status + 64];
    snprintf(text, sizeof text, "%s%s%s%s%s%s", ready ? "READY=1\n" : "",
             stopping ? "STOPPING=1\n" : "", alive ? "WATCHDOG=1\n" : "",
             status ? "STATUS=" : "", status ? notify->status : "", status ? "\n" : "");
    if (!send_text(notify, text)) return;
    notify->ready_sent = notify->ready_sent || ready;
    notify->stopping_sent = notify->stopping_sent || stopping;
    notify->status_sent = notify->status_sent || status;
    if (alive) notify->last_alive_ms = now;
}
