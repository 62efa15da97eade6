/* process.h - what the system says of this process. */
#ifndef MAL_PROCESS_H
#define MAL_PROCESS_H

#include <stdint.h>

struct mal_process {
    double cpu_seconds; /* of all threads, in user and system mode */
    double started;     /* seconds since 1970 UTC */
    int64_t resident_bytes, virtual_bytes;
    int64_t open_files, max_files; /* descriptors */
};

/* What the system does not say is 0. Loop thread only: what is slow to find out is
 * remembered for some seconds. */
void mal_process_look(struct mal_process *out);
/* Memory alone. */
int64_t mal_process_resident_bytes(void);

#endif
