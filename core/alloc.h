/* alloc.h - host memory, with a tap for the tests that let the n-th allocation fail. */
#ifndef MAL_ALLOC_H
#define MAL_ALLOC_H

#include <stddef.h>

/* All return NULL when memory is out; the caller reports it. mal_free takes NULL. */
void *mal_malloc(size_t bytes);
void *mal_calloc(size_t n, size_t size); /* zeroed; NULL if n * size overflows */
void *mal_realloc(void *mem, size_t bytes);
char *mal_strdup(const char *text);
void mal_free(void *mem);

/* Bytes of host memory that could still be allocated, as far as the system says and this
 * process' control group allows; 0: not known. */
size_t mal_available_memory(void);

/* Tests: lets the n-th allocation from now fail (1 = the next); 0 = none fails. */
void mal_alloc_fail_at(long n);

#endif
