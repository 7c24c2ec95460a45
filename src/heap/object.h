/*
 * From a pointer that the program hands us to the chunk it belongs to; or the end of the program, with a
 * message that names the pointer and says what is known of it.
 */
#ifndef HF_HEAP_OBJECT_H
#define HF_HEAP_OBJECT_H

#include "heap/theap.h"

/* @object must be the beginning of an object in use. @who: the public function it was handed to. */
struct chunk *object_chunk(const char *who, const void *object);

/* The slab of such a chunk, or NULL: a span. */
static inline struct slab *object_slab(struct chunk *chunk)
{
	return chunk->state == CHUNK_SLAB ? slab_of(chunk) : NULL;
}

/* Does this slab belong to the calling thread? */
static inline bool object_is_mine(const struct slab *slab)
{
	struct theap *const mine = theap_mine;

	/* Relaxed: equal only if this thread itself made it so. */
	return mine && atomic_load_explicit(&((struct slab *)(uintptr_t)slab)->owner, memory_order_relaxed) == mine;
}

#endif
