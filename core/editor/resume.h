/* resume.h - where an edit that takes long keeps how far it is, so that the same edit,
 * begun again after a kill, goes on from there to the same bits. */
#ifndef MAL_RESUME_H
#define MAL_RESUME_H

#include <stdint.h>

#include "core/state_file.h"

enum mal_resume_event {
    MAL_RESUMED,        /* the edit goes on after `done` of `total` mini-batches */
    MAL_RESUME_SAVED,   /* it would from here */
    MAL_RESUME_UNREAD,  /* `why` the file is of no use: the edit begins anew */
    MAL_RESUME_UNSAVED, /* `why` it could not be written: the edit goes on */
};

struct mal_resume {
    /* One safetensors file, written whole or not at all; replaced where it is another
     * edit's. Whoever names it removes it when what the edit came to is kept. */
    const char *path;
    /* What the edit depends on beside its facts and numbers: the weights in use. Stored
     * as it is. */
    const char *run;
    double seconds; /* of work between two savings, which also take a 20th at most */
    void (*tell)(void *arg, enum mal_resume_event what, int64_t done, int64_t total,
                 const struct mal_error *why); /* NULL: nobody listens */
    void *arg;
};

/* The file's, which has as "work" what the method knows its edit by. */
extern const struct mal_state_kind mal_resume_kind;
/* Its "run"; owned: mal_free(). */
bool mal_resume_run(const char *path, char **out, struct mal_error *err) MAL_CHECK;

#endif
