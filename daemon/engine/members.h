/* members.h - the joint system of the live facts, kept in step with the database.
 *
 * Members are the facts whose keys are in it: live ones, and retracted ones that are
 * pinned. What the system holds is compared with what the database says before it is
 * used, and only the difference is measured: so a start, a rollback and a change that was
 * given up need nothing of their own. */
#ifndef MAL_MEMBERS_H
#define MAL_MEMBERS_H

#include "core/editor/joint.h"
#include "sql/store.h"

struct mal_members {
    struct mal_joint *joint; /* NULL: not made yet */
    int64_t *keys;           /* (n) facts it holds, as 2 seq + pinned, ascending; owned */
    size_t n, capacity;
    int64_t version; /* whose members those are; 0: of none, or they are being changed */
};

struct mal_members_of {
    struct mal_model *model;
    const struct mal_tokenizer *tok;
    const struct mal_editor *editor;
    const struct mal_preserve *preserve;
    size_t max_bytes; /* of the joint system; 0: no bound */
};

/* Brings the system to the members of the database's live version. The model must read
 * its base weights, also after a tick. */
bool mal_members_sync(struct mal_members *members, const struct mal_members_of *of,
                      struct mal_store *store, const struct mal_progress *progress,
                      struct mal_error *err) MAL_CHECK;
/* Room for `n` members more, so that noting them cannot fail. */
bool mal_members_reserve(struct mal_members *members, size_t n,
                         struct mal_error *err) MAL_CHECK;
/* A change has put a fact in, or out. */
void mal_members_note(struct mal_members *members, int64_t seq, bool pinned, bool in);
void mal_members_drop(struct mal_members *members); /* forgets the system */

#endif
