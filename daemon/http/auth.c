/* auth.c - callers, their roles, and what they are told. */
#include "daemon/http/auth.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/json.h"
#include "daemon/base/log.h"
#include "daemon/base/loop.h"
#include "daemon/http/http.h"
#include "daemon/http/same_site.h"
#include "daemon/http/tokens.h"

enum { MAX_BASIC = 512 };

struct mal_auth {
    const char *path, *address;
    struct mal_tokens *tokens; /* NULL: without */
    uint64_t n_readings;
    struct mal_loop *loop;
    bool reading, again;
    struct mal_tokens *fresh; /* what was read; NULL: `why` */
    struct mal_error why;
};

/* ---- Who it is ---- */

static int base64_digit(char c) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* False: not base64, or more than fits. With a closing zero. */
static bool decode_base64(const char *text, size_t bytes, char *out, size_t room,
                          size_t *out_bytes) {
    size_t n = 0, i = 0;
    unsigned held = 0, bits = 0;
    for (; i < bytes && base64_digit(text[i]) >= 0; i++) {
        held = held << 6 | (unsigned)base64_digit(text[i]);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        if (n + 1 == room) return false;
        out[n++] = (char)(held >> bits & 0xff);
    }
    out[n] = '\0';
    *out_bytes = n;
    return i + strspn(text + i, "=") >= bytes;
}

/* What a browser asks its user for: the token is the password, and no name is needed. */
static const struct mal_token *find_basic(const struct mal_tokens *tokens,
                                          const char *text, size_t bytes) {
    char pair[MAX_BASIC];
    size_t n = 0;
    if (!decode_base64(text, bytes, pair, sizeof pair, &n)) return NULL;
    char *password = memchr(pair, ':', n);
    if (!password || password + 1 == pair + n) return NULL;
    *password++ = '\0';
    const struct mal_token *token =
        mal_tokens_find(tokens, password, (size_t)(pair + n - password));
    return token && (!*pair || !strcmp(pair, token->name)) ? token : NULL;
}

/* The rest of a header after its scheme, NULL where it is another's, or empty. */
static const char *after_scheme(const char *header, const char *scheme) {
    size_t n = strlen(scheme);
    if (strncasecmp(header, scheme, n) != 0 || header[n] != ' ') return NULL;
    const char *rest = header + n + strspn(header + n, " ");
    return *rest ? rest : NULL;
}

static const struct mal_token *find_token(const struct mal_tokens *tokens,
                                          const char *header) {
    const char *bearer = after_scheme(header, "Bearer");
    const char *basic = after_scheme(header, "Basic");
    const char *text = bearer ? bearer : basic;
    if (!text) return NULL;
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t", text[n - 1]))
        n--;
    return bearer ? mal_tokens_find(tokens, text, n) : find_basic(tokens, text, n);
}

/* What the socket alone says of a caller. */
static void trust_peer(const struct mal_auth *auth, struct mal_request *req) {
    const struct mal_peer *peer = req->peer;
    if (peer->uid >= 0) {
        bool own = peer->uid == 0 || peer->uid == (int64_t)geteuid();
        (void)snprintf(req->who, sizeof req->who, "uid:%lld", (long long)peer->uid);
        if (own) req->role = MAL_ROLE_ADMIN;
    } else if (peer->loopback && !auth->tokens) {
        (void)snprintf(req->who, sizeof req->who, "local");
        req->role = MAL_ROLE_ADMIN;
    }
}

/* A token that is shown counts, whoever shows it: a wrong one makes nobody of root. */
static void identify(const struct mal_auth *auth, struct mal_request *req) {
    const char *header = auth->tokens ? mal_request_header(req, "Authorization") : NULL;
    req->role = MAL_ROLE_NONE;
    req->known_by = auth->n_readings;
    if (!header) {
        trust_peer(auth, req);
        return;
    }
    const struct mal_token *token = find_token(auth->tokens, header);
    if (!token) return;
    (void)snprintf(req->who, sizeof req->who, "%s", token->name);
    req->role = token->role;
}

/* ---- What they are told ---- */

static bool refuse_unknown(const struct mal_auth *auth, struct mal_request *req) {
    if (!auth->tokens) {
        mal_http_refuse(req, 403,
                        "%s may do nothing here: without --tokens only the daemon's own "
                        "user and root may",
                        *req->who ? req->who : req->peer->origin);
        return false;
    }
    bool shown = mal_request_header(req, "Authorization") != NULL;
    mal_request_set(req, "WWW-Authenticate",
                    shown ? "Bearer realm=\"malmend\", error=\"invalid_token\""
                          : "Bearer realm=\"malmend\"");
    mal_request_set(req, "WWW-Authenticate",
                    "Basic realm=\"malmend\", charset=\"UTF-8\"");
    mal_http_refuse(req, 401,
                    shown ? "there is no such token"
                          : "a token is needed: Authorization: Bearer TOKEN");
    return false;
}

static bool check_site(const struct mal_auth *auth, struct mal_request *req) {
    const char *host = mal_request_header(req, "Host");
    const char *fetch_site = mal_request_header(req, "Sec-Fetch-Site");
    const char *origin = mal_request_header(req, "Origin");
    if (mal_is_cross_site(req->method, fetch_site, origin, host)) {
        mal_http_refuse(req, 403,
                        "a page from elsewhere must not send this: Sec-Fetch-Site or "
                        "Origin is not that of the Host '%.128s'",
                        host ? host : "");
        return false;
    }
    bool trusting = !auth->tokens && req->peer->uid < 0;
    if (!trusting || !host || mal_is_own_host(host, auth->address)) return true;
    mal_http_refuse(req, 403,
                    "the Host is '%.128s', which any page may have pointed here; without "
                    "--tokens it must be localhost, 127.0.0.1, [::1] or %.128s",
                    host, auth->address);
    return false;
}

bool mal_auth_check(const struct mal_auth *auth, struct mal_request *req,
                    enum mal_role needed) {
    if (!check_site(auth, req)) return false;
    req->needed = needed;
    if (needed == MAL_ROLE_NONE) return true;
    identify(auth, req);
    if (req->role == MAL_ROLE_NONE) return refuse_unknown(auth, req);
    if (mal_role_allows(req->role, needed)) return true;
    mal_http_refuse(req, 403, "this needs the role '%s', and '%s' has '%s'",
                    mal_role_name(needed), req->who, mal_role_name(req->role));
    return false;
}

bool mal_auth_lasts(const struct mal_auth *auth, struct mal_request *req) {
    if (req->needed == MAL_ROLE_NONE) return true;
    if (req->known_by != auth->n_readings) identify(auth, req);
    return mal_role_allows(req->role, req->needed);
}

bool mal_auth_holds(const struct mal_auth *auth, struct mal_request *req) {
    return mal_auth_lasts(auth, req) || mal_auth_check(auth, req, req->needed);
}

/* ---- Start, and again ---- */

static void warn_exposed(const struct mal_auth *auth) {
    if (!auth->tokens->exposed) return;
    mal_log("warning", "tokens exposed", "{s:o,s:s}", "file", mal_json_fit(auth->path),
            "detail", "everybody on this machine may read the hashes; try chmod o-r");
}

bool mal_auth_create(struct mal_auth **out, const char *path, struct mal_error *err) {
    struct mal_auth *auth = mal_calloc(1, sizeof *auth);
    if (!auth) return mal_fail(err, MAL_NO_MEMORY, "tokens");
    auth->path = path;
    auth->address = "";
    if (path && !mal_tokens_load(&auth->tokens, path, err)) {
        mal_auth_destroy(auth);
        return false;
    }
    if (path) warn_exposed(auth);
    *out = auth;
    return true;
}

void mal_auth_destroy(struct mal_auth *auth) {
    if (!auth) return;
    mal_tokens_free(auth->tokens);
    mal_tokens_free(auth->fresh);
    mal_free(auth);
}

void mal_auth_listens(struct mal_auth *auth, const char *address) {
    auth->address = address;
}

bool mal_auth_has_tokens(const struct mal_auth *auth) {
    return auth->tokens != NULL;
}

static void read_again(void *arg) {
    struct mal_auth *auth = arg;
    auth->why = (struct mal_error){0};
    if (!mal_tokens_load(&auth->fresh, auth->path, &auth->why)) auth->fresh = NULL;
}

static void have_read(void *arg) {
    struct mal_auth *auth = arg;
    auth->reading = false;
    if (auth->fresh) {
        mal_tokens_free(auth->tokens);
        auth->tokens = auth->fresh;
        auth->fresh = NULL;
        auth->n_readings++;
        mal_log("info", "tokens read", "{s:o,s:I}", "file", mal_json_fit(auth->path),
                "tokens", (json_int_t)auth->tokens->n);
        warn_exposed(auth);
    } else {
        mal_log("error", "tokens not read", "{s:s}", "detail", auth->why.text);
    }
    if (auth->again) mal_auth_reload(auth, auth->loop);
}

void mal_auth_reload(struct mal_auth *auth, struct mal_loop *loop) {
    struct mal_error err = {0};
    if (!auth->path) {
        mal_log("info", "no tokens to read", NULL);
        return;
    }
    auth->loop = loop;
    auth->again = auth->reading;
    if (auth->reading) return;
    auth->reading = mal_loop_work(loop, read_again, have_read, auth, &err);
    if (!auth->reading) {
        mal_log("error", "tokens not read", "{s:s}", "detail", err.text);
    }
}
