/* protobuf.h - the fields of a protocol buffers message, in their order; hostile input.
 */
#ifndef MAL_PROTOBUF_H
#define MAL_PROTOBUF_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_proto {
    const char *at, *end; /* borrowed */
    const char *where;    /* the file, in errors */
    const char *what;     /* the message, in errors */
};

enum mal_proto_type {
    MAL_PROTO_INT = 0,
    MAL_PROTO_FIXED64,
    MAL_PROTO_BYTES,
    MAL_PROTO_FIXED32 = 5
};

struct mal_proto_field {
    uint64_t number;
    enum mal_proto_type type;
    uint64_t value;    /* of all types but bytes */
    const char *bytes; /* borrowed: a string, bytes or a message */
    size_t n_bytes;
};

/* *out_found: there is one more. */
bool mal_proto_next(struct mal_proto *proto, struct mal_proto_field *out, bool *out_found,
                    struct mal_error *err) MAL_CHECK;

/* The field's value, if it has the type; else an error that names `name`. */
bool mal_proto_int(const struct mal_proto *proto, const struct mal_proto_field *field,
                   const char *name, int64_t *out, struct mal_error *err) MAL_CHECK;
bool mal_proto_bool(const struct mal_proto *proto, const struct mal_proto_field *field,
                    const char *name, bool *out, struct mal_error *err) MAL_CHECK;
bool mal_proto_float(const struct mal_proto *proto, const struct mal_proto_field *field,
                     const char *name, float *out, struct mal_error *err) MAL_CHECK;
bool mal_proto_bytes(const struct mal_proto *proto, const struct mal_proto_field *field,
                     const char *name, const char **out, size_t *out_n,
                     struct mal_error *err) MAL_CHECK;
/* A message within: it is read by a walk of its own. */
bool mal_proto_message(const struct mal_proto *proto, const struct mal_proto_field *field,
                       const char *name, struct mal_proto *out,
                       struct mal_error *err) MAL_CHECK;

#endif
