/* cmd_token.c - malmend token: a bearer token, and its line for the file of --tokens. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include <jansson.h>

#include "core/hash.h"
#include "core/json.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/http/tokens.h"

/* "mal_" and 43 letters of base64url; with a closing zero. */
enum { SECRET_BYTES = 32, TOKEN_BYTES = 4 + 43 + 1 };

struct values {
    char *name, *role;
    bool json;
};

static bool check_name(const char *name, struct mal_error *err) {
    return mal_token_name_valid(name) ||
           mal_fail(err, MAL_INVALID,
                    "a name has 1 to 64 characters of A-Z, a-z, 0-9, '.', '_', '-', and "
                    "is not 'local'");
}

static const struct mal_option options[] = {
    {"name", MAL_OPTION_TEXT, offsetof(struct values, name), "NAME", NULL,
     "Whose it is, for the log and the audit: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'.",
     .required = true, .positional = true, .check = check_name},
    {"role", MAL_OPTION_CHOICE, offsetof(struct values, role), "read|infer|edit|admin",
     NULL,
     "What it allows: read what is there; infer also asks the model; edit also changes it; "
     "admin also reads the audit.",
     .required = true, .positional = true},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Machine-readable: an object of token, name, role and line."},
    {0},
};

static const struct mal_option_set set = {
    "token",
    "Makes a random token of 256 bits and prints it, and on a second line what goes into the "
    "file of 'malmend serve --tokens'. That file holds only the hash: the token is shown "
    "this once.",
    options, false};

static bool draw(uint8_t out[SECRET_BYTES], struct mal_error *err) {
    size_t n = 0;
    while (n < SECRET_BYTES) {
        ssize_t got = getrandom(out + n, SECRET_BYTES - n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return mal_fail(err, MAL_IO, "getrandom: %s", strerror(errno));
        n += (size_t)got;
    }
    return true;
}

/* base64url without padding. */
static void spell(const uint8_t secret[SECRET_BYTES], char out[TOKEN_BYTES]) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t held = 0, bits = 0;
    memcpy(out, "mal_", 4);
    char *at = out + 4;
    for (size_t i = 0; i < SECRET_BYTES; i++) {
        held = held << 8 | secret[i];
        for (bits += 8; bits >= 6;) {
            bits -= 6;
            *at++ = digits[held >> bits & 63];
        }
    }
    *at++ = digits[held << (6 - bits) & 63];
    *at = '\0';
}

static void print(const struct values *v, const char *token, const char *hex) {
    char line[MAL_TOKEN_NAME_BYTES + MAL_HASH_HEX + 16];
    (void)snprintf(line, sizeof line, "%s %s %s", v->name, v->role, hex);
    if (v->json) {
        json_t *json = json_pack("{s:s,s:s,s:s,s:s}", "token", token, "name", v->name,
                                 "role", v->role, "line", line);
        json_dumpf(json, stdout, MAL_JSON_TOLD);
        printf("\n");
        json_decref(json);
        return;
    }
    printf("%s\n%s\n", token, line);
}

static bool run(const struct values *v, struct mal_error *err) {
    uint8_t secret[SECRET_BYTES];
    char token[TOKEN_BYTES], hex[MAL_HASH_HEX];
    if (!draw(secret, err)) return false;
    spell(secret, token);
    struct mal_hash hash = mal_hash_of(token, strlen(token));
    mal_hash_hex(&hash, hex);
    print(v, token, hex);
    return true;
}

int mal_cmd_token(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
