/*
 * Large objects: one to a run of chunks, from its first byte, with the pages that it needs.
 */
#ifndef HF_HEAP_SPAN_H
#define HF_HEAP_SPAN_H

#include "heap/heap.h"
#include "pool/pool.h"

/* NULL: the pool said no. *zero_out: it reads as zero. */
void *span_alloc(size_t bytes, size_t align_bytes, uint64_t floor_pages, bool *zero_out);
/* Dies if another thread has just freed it. */
void span_free(struct chunk *chunk);
/* As heap_resize() and heap_move(). */
HF_MUST_USE int span_resize(struct chunk *chunk, size_t bytes, uint64_t floor_pages);
void *span_move(struct chunk *chunk, size_t bytes, uint64_t floor_pages);
bool span_is_live(const struct chunk *chunk);
/* How many there are, and their bytes. */
void span_count(uint64_t *spans_out, uint64_t *bytes_out);

#endif
