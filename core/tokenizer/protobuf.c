/* protobuf.c - see protobuf.h. Groups are not read: nothing writes them. */
#include "core/tokenizer/protobuf.h"

#include <string.h>

#include "core/file.h"

static bool fail(const struct mal_proto *proto, const char *problem,
                 struct mal_error *err) {
    return mal_fail(err, MAL_CORRUPT, "%s: %s %s", mal_file_shown(proto->where),
                    proto->what, problem);
}

static bool read_varint(struct mal_proto *proto, uint64_t *out, struct mal_error *err) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (proto->at == proto->end) return fail(proto, "is cut short", err);
        unsigned char byte = (unsigned char)*proto->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return fail(proto, "has a number that is too long", err);
}

static bool read_fixed(struct mal_proto *proto, size_t bytes, uint64_t *out,
                       struct mal_error *err) {
    if ((size_t)(proto->end - proto->at) < bytes) return fail(proto, "is cut short", err);
    *out = 0;
    for (size_t i = 0; i < bytes; i++)
        *out |= (uint64_t)(unsigned char)*proto->at++ << 8 * i;
    return true;
}

static bool read_bytes(struct mal_proto *proto, struct mal_proto_field *out,
                       struct mal_error *err) {
    uint64_t n = 0;
    if (!read_varint(proto, &n, err)) return false;
    if (n > (size_t)(proto->end - proto->at)) {
        return mal_fail(
            err, MAL_CORRUPT, "%s: field %llu of %s is longer than what holds it",
            mal_file_shown(proto->where), (unsigned long long)out->number, proto->what);
    }
    out->bytes = proto->at;
    out->n_bytes = (size_t)n;
    proto->at += n;
    return true;
}

bool mal_proto_next(struct mal_proto *proto, struct mal_proto_field *out, bool *out_found,
                    struct mal_error *err) {
    uint64_t tag = 0;
    *out_found = proto->at < proto->end;
    if (!*out_found) return true;
    if (!read_varint(proto, &tag, err)) return false;
    *out = (struct mal_proto_field){.number = tag >> 3,
                                    .type = (enum mal_proto_type)(tag & 7)};
    switch (out->type) {
    case MAL_PROTO_INT: return read_varint(proto, &out->value, err);
    case MAL_PROTO_FIXED64: return read_fixed(proto, 8, &out->value, err);
    case MAL_PROTO_BYTES: return read_bytes(proto, out, err);
    case MAL_PROTO_FIXED32: return read_fixed(proto, 4, &out->value, err);
    }
    return fail(proto, "has a field of an unknown type", err);
}

static bool has_type(const struct mal_proto *proto, const struct mal_proto_field *field,
                     enum mal_proto_type type, const char *name, struct mal_error *err) {
    if (field->type == type) return true;
    return mal_fail(err, MAL_CORRUPT, "%s: %s of %s has a wrong type",
                    mal_file_shown(proto->where), name, proto->what);
}

bool mal_proto_int(const struct mal_proto *proto, const struct mal_proto_field *field,
                   const char *name, int64_t *out, struct mal_error *err) {
    if (!has_type(proto, field, MAL_PROTO_INT, name, err)) return false;
    *out = (int64_t)field->value;
    return true;
}

bool mal_proto_bool(const struct mal_proto *proto, const struct mal_proto_field *field,
                    const char *name, bool *out, struct mal_error *err) {
    if (!has_type(proto, field, MAL_PROTO_INT, name, err)) return false;
    *out = field->value != 0;
    return true;
}

bool mal_proto_float(const struct mal_proto *proto, const struct mal_proto_field *field,
                     const char *name, float *out, struct mal_error *err) {
    if (!has_type(proto, field, MAL_PROTO_FIXED32, name, err)) return false;
    uint32_t bits = (uint32_t)field->value;
    memcpy(out, &bits, sizeof bits);
    return true;
}

bool mal_proto_bytes(const struct mal_proto *proto, const struct mal_proto_field *field,
                     const char *name, const char **out, size_t *out_n,
                     struct mal_error *err) {
    if (!has_type(proto, field, MAL_PROTO_BYTES, name, err)) return false;
    *out = field->bytes;
    *out_n = field->n_bytes;
    return true;
}

bool mal_proto_message(const struct mal_proto *proto, const struct mal_proto_field *field,
                       const char *name, struct mal_proto *out, struct mal_error *err) {
    if (!has_type(proto, field, MAL_PROTO_BYTES, name, err)) return false;
    *out = (struct mal_proto){field->bytes, field->bytes + field->n_bytes, proto->where,
                              name};
    return true;
}
