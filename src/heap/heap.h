/*
 * The heap: objects of any size for any thread, on the pool's chunks.
 *
 * It knows sizes, threads and free lists; it knows nothing of classes, waiting, scopes or statistics.
 * NULL means that the pool said no; only request/ knows what that means.
 *
 * Fast paths (heap_alloc_fast, heap_free of this thread's own object) take no lock and do no atomic read-modify-write.
 * Whoever must see every request calls heap_set_watched(true): then every fast path misses.
 */
#ifndef HF_HEAP_HEAP_H
#define HF_HEAP_HEAP_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { HEAP_ALIGN_BYTES = 16, HEAP_SLAB_MAX_BYTES = 32 * 1024 };

/* Ready at once from this thread's heap, or NULL: a miss, nothing has failed yet. */
void *heap_alloc_fast(size_t bytes);
/*
 * The whole way: collect remote frees, other slabs, exited threads' slabs, then the pool above @floor_pages.
 * @bytes 0 is 1. @align_bytes: a power of two, or 0. @zero: the object is cleared (if it is not known to be zero).
 * NULL: the pool said no. Sizes above PTRDIFF_MAX must not come here.
 */
HF_MUST_USE void *heap_alloc(size_t bytes, size_t align_bytes, bool zero, uint64_t floor_pages);
/* NULL is nothing. Foreign, interior and doubly freed pointers end the program with a message. errno is left alone. */
void heap_free(void *object);
/* In place if possible (0), else -ENOSPC: move it, or, if it is to be smaller, leave it. -ENOMEM: the pool said no. */
HF_MUST_USE int heap_resize(void *object, size_t bytes, uint64_t floor_pages);
/* Moves a large object's pages to a larger run; NULL: not possible, copy. */
HF_MUST_USE void *heap_move(void *object, size_t bytes, uint64_t floor_pages);
/* Usable bytes; dies like heap_free() on a pointer that is not an object's. */
size_t heap_usable(const void *object);
bool heap_owns(const void *address); /* is it inside any memory of ours? */

/*
 * Give back what this thread's heap, and exited threads' heaps, hold without using; then the pool's idle memory.
 * The pages given back.
 */
uint64_t heap_trim(void);

/*
 * While set, every fast path of every thread misses: of this thread and of those that begin later at once, of others
 * from their next miss on.
 */
void heap_set_watched(bool watched);

struct heap_stats {
	uint64_t threads, orphan_heaps, slabs, spans;
	uint64_t live_bytes;  /* in use by the program, rounded up to size classes; exact when threads are quiet */
	uint64_t large_bytes; /* of these, in spans */
};
void heap_stats_get(struct heap_stats *stats_out);

/* Around fork(): see request/fork.c. In the child the other threads' heaps become orphans. */
void heap_fork_prepare(void);
void heap_fork_parent(void);
void heap_fork_child(void);
/*
 * A child that a raw clone made went through none of these: true once in it, and pool and heap are then in order. Asked
 * before anything is given back, too: its first call may be a free. No lock of ours is held.
 */
bool heap_raw_clone_check(void);

/* Every slab's lists and counts; dies with a message. Only when other threads are quiet. */
void heap_check(void);

#endif
