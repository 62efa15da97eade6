/* serve.h - the daemon's life: from an opened database to the exit code. */
#ifndef MAL_SERVE_H
#define MAL_SERVE_H

#include <stdint.h>

#include "core/error.h"
#include "daemon/engine/engine.h"

struct mal_serve_options {
    const char *model, *editor, *data, *device, *db, *listen, *update;
    const char *tokens;      /* NULL: none */
    const char *read_stream; /* as in struct mal_engine_options */
    int64_t max_queue, max_batch_facts, batch_window_ms, max_body, max_bulk,
        keep_versions;
    int64_t max_connections, max_event_streams;
    int64_t max_per_address; /* -1: 64, and no limit for addresses of this machine */
    int64_t keyframe_every, retain_bytes,
        min_free_disk;                              /* 0: never, no limit, no least */
    double request_timeout, retain_age, save_every; /* seconds; age 0: any */
    const char *probes;                             /* NULL: none */
    const char *preserve;                           /* NULL: what the editor carries */
    const char *suites;                             /* directory; NULL: none */
    double preserve_weight, repair_tau;
    int64_t repair_rounds, verify_limit, joint_memory, consolidate_after;
    bool no_scrub;
    struct mal_gate gate;
};

/* Where an editor made on the spot is, or will be kept: owned; NULL with an error. */
char *mal_serve_editor_path(const char *db, struct mal_error *err);
/* `cache` is that path; all is borrowed. */
struct mal_engine_options
mal_serve_engine_options(const struct mal_serve_options *options, const char *cache);

/* Runs until a signal (*out_exit 0) or until something has failed for good (1, logged).
 * An error is one of starting. There is one way to start: whatever the last run left is
 * recovered. */
bool mal_serve(const struct mal_serve_options *options, int *out_exit,
               struct mal_error *err) MAL_CHECK;

#endif
