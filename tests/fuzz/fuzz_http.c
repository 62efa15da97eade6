/* fuzz_http.c - hostile bytes on a connection of the whole daemon (over the fake engine):
 * request lines, query strings, headers, chunks, bodies, several requests in one.
 *
 * Every answer must be one: a status line, a length that is that of the body, JSON where
 * it says so, and never a 500. The disk is full once there are some versions, so that
 * what is asked for is decoded and checked, but the database does not grow. */
#include <assert.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/command/commands.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { PATIENCE_MS = 10, MOST = 1 << 20 };

static char dir[64], address[80];
static atomic_bool full;
static char answer[MOST + 1];

int statvfs(const char *path, struct statvfs *out) {
    *out = (struct statvfs){.f_frsize = 1 << 20, .f_bavail = full ? 0 : 1 << 20};
    return 0;
}

#define must(what)                                                             \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* ---- Talking ---- */

static int dial(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof to.sun_path, "%s", address);
    for (int tries = 0; tries < 5000; tries++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        must(fd >= 0);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
        close(fd);
        usleep(2000);
    }
    abort();
}

/* Sends, and reads what comes until nothing does for so long. */
static size_t talk(const uint8_t *data, size_t bytes, int patience_ms) {
    int fd = dial();
    size_t sent = 0, n = 0;
    while (true) {
        struct pollfd p = {.fd = fd, .events = POLLIN | (sent < bytes ? POLLOUT : 0)};
        if (poll(&p, 1, patience_ms) <= 0) break;
        if (p.revents & POLLOUT) {
            ssize_t m = send(fd, data + sent, bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (m <= 0) break;
            sent += (size_t)m;
            if (sent == bytes) shutdown(fd, SHUT_WR);
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t m = recv(fd, answer + n, MOST - n, MSG_DONTWAIT);
            if (m <= 0) break;
            n += (size_t)m;
        }
    }
    close(fd);
    answer[n] = 0;
    return n;
}

static bool asks(const char *request, const char *for_what) {
    talk((const uint8_t *)request, strlen(request), 1000);
    return strstr(answer, for_what) != NULL;
}

/* ---- The daemon ---- */

/* "secret" may read. Who shows no token is the daemon's own user, over a Unix socket. */
static void write_tokens(const char *path) {
    FILE *file = fopen(path, "w");
    must(file != NULL);
    fputs("a read 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n",
          file);
    must(fclose(file) == 0 && chmod(path, 0600) == 0);
}

static void *serve(void *arg) {
    char db[80], listen[90], tokens[80];
    snprintf(db, sizeof db, "%s/db", dir);
    snprintf(tokens, sizeof tokens, "%s/tokens", dir);
    write_tokens(tokens);
    snprintf(listen, sizeof listen, "unix:%s", address);
    char *argv[] = {arg,
                    (char[]){"--model"},
                    (char[]){"/"},
                    (char[]){"--editor"},
                    (char[]){"-"},
                    (char[]){"--db"},
                    db,
                    (char[]){"--listen"},
                    listen,
                    (char[]){"--max-queue"},
                    (char[]){"100"},
                    (char[]){"--max-body"},
                    (char[]){"65536"},
                    (char[]){"--tokens"},
                    tokens,
                    NULL};
    (void)mal_cmd_serve(15, argv);
    abort(); /* nothing that is asked for may end it */
}

static void clean(void) {
    static const char *const names[] = {"db",      "db-wal", "db-shm",
                                        "db.lock", "s",      "tokens"};
    char path[96];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void start(void) {
    static const char edit[] =
        "POST /v1/edits HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k%d\r\nContent-Type: "
        "application/json\r\nContent-Length: 55\r\n\r\n"
        "{\"facts\":[{\"prompt\":\"Oslo is in %d\",\"target\":\"Norway\"}]}";
    strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/malmend-fuzz-XXXXXX"
                                              : "/tmp/malmend-fuzz-XXXXXX");
    must(mkdtemp(dir));
    snprintf(address, sizeof address, "%s/s", dir);
    atexit(clean);
    static char name[] = "serve";
    pthread_t thread;
    must(pthread_create(&thread, NULL, serve, name) == 0);
    while (!asks("GET /readyz HTTP/1.0\r\nHost: a\r\n\r\n", "HTTP/1.1 200"))
        usleep(10000);
    for (int i = 0; i < 3; i++) {
        char request[512];
        snprintf(request, sizeof request, edit, i, i);
        while (!asks(request, "HTTP/1.1 202")) /* the key makes it one edit */
            usleep(10000);
    }
    while (!asks("GET /v1/status HTTP/1.0\r\nHost: a\r\n\r\n", "\"applied\":3"))
        usleep(10000);
    full = true;
}

/* ---- Answers ---- */

static const char *header(const char *from, const char *end, const char *name) {
    size_t n = strlen(name);
    for (const char *line = from; line && line < end; line = strstr(line, "\r\n")) {
        if (*line == '\r') line += 2;
        if (strncasecmp(line, name, n) == 0) return line + n;
    }
    return NULL;
}

/* The first of the answers; whether a second can follow is the request's matter. */
static void check(size_t n) {
    if (n == 0) return;
    int status = 0;
    must(sscanf(answer, "HTTP/1.1 %d ", &status) == 1 ||
         sscanf(answer, "HTTP/1.0 %d ", &status) == 1);
    must(status >= 100 && status < 600 && status != 500);
    const char *end = strstr(answer, "\r\n\r\n");
    must(end != NULL);
    const char *body = end + 4, *length = header(answer, end, "Content-Length: ");
    const char *type = header(answer, end, "Content-Type: ");
    if (!length || !type) return;
    size_t bytes = (size_t)strtoul(length, NULL, 10), there = n - (size_t)(body - answer);
    bool json = strncmp(type, "application/json", 16) == 0 ||
                strncmp(type, "application/problem+json", 24) == 0;
    if (!json || there < bytes || bytes == 0) return; /* of a HEAD, or cut off */
    if (strncmp(body, "HTTP/1.", 7) == 0) return;     /* of a HEAD, and the next */
    json_t *root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, NULL);
    must(root != NULL);
    if (status >= 400) {
        must(json_integer_value(json_object_get(root, "status")) == status);
        must(json_is_string(json_object_get(root, "detail")));
    }
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (!dir[0]) start();
    check(talk(data, bytes, PATIENCE_MS));
    return 0;
}
