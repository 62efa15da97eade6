/* ready.c - what the next change of the live facts needs, before it is asked for. */
#include "daemon/engine/engine_impl.h"

static bool in_step(const struct mal_engine *engine) {
    const struct mal_members *members = &engine->members;
    return members->joint && members->version == mal_weights_live(engine->ws);
}

bool mal_engine_is_ready(const struct mal_engine *engine) {
    return in_step(engine) && mal_joint_is_ready(engine->members.joint);
}

static bool sync_members(struct mal_engine *engine, struct mal_store *store,
                         const struct mal_progress *progress, struct mal_error *err) {
    struct mal_members_of of = mal_engine_members_of(engine);
    mal_weights_use(engine->ws, 0);
    engine->members.version = 0;
    bool ok = mal_members_sync(&engine->members, &of, store, progress, err);
    if (ok) engine->members.version = mal_weights_live(engine->ws);
    mal_weights_use(engine->ws, mal_weights_live(engine->ws));
    return ok;
}

bool mal_engine_make_ready(struct mal_engine *engine, struct mal_store *store,
                           const struct mal_progress *progress, struct mal_error *err) {
    if (!in_step(engine)) return sync_members(engine, store, progress, err);
    return mal_joint_make_ready(engine->members.joint, progress, err);
}
