/*
 * The fast paths, for those who inline them: request/ does. Everyone else calls heap.h.
 *
 * No lock, no atomic read-modify-write, nothing but this thread's own slabs. What is not plain sailing (no object
 * ready, another thread's object, a large one, NULL, any misuse) is one call away, and is found out there from the
 * start.
 */
#ifndef HF_HEAP_HEAP_FAST_H
#define HF_HEAP_HEAP_FAST_H

#include "heap/theap.h"

/* The rare parts of heap_free(): all that is not this thread's small object; and a countdown that has come to 0. */
void heap_free_slow(void *object);
void heap_free_event(void *object);
/* This thread's small object, which begins with a negative number, or is free already. */
void heap_free_negative(void *object);

/* heap_alloc_fast() for sizes up to CLASS_DIRECT_BYTES. */
static inline void *heap_alloc_small_inline(size_t bytes)
{
	if (HF_UNLIKELY(bytes > CLASS_DIRECT_BYTES))
		return NULL;
	return slab_pop_fast(theap_fast->direct[(bytes + HEAP_ALIGN_BYTES - 1) / HEAP_ALIGN_BYTES]);
}

static inline void *heap_alloc_inline(size_t bytes)
{
	if (HF_LIKELY(bytes <= CLASS_DIRECT_BYTES))
		return heap_alloc_small_inline(bytes);
	if (bytes > HEAP_SLAB_MAX_BYTES)
		return NULL;
	return slab_pop_fast(theap_fast->classes[class_of(bytes)].current);
}

/* The cold calls are given the object and find the rest again: so nothing is kept for them on the way. */
static inline void heap_free_inline(void *object)
{
	const uintptr_t index = pool_index_of(object);

	if (HF_UNLIKELY(!pool_index_is_known(index)))
		goto slow; /* NULL too */

	struct slab *const slab = slab_of(&pool_window.chunks[index]);
	/* Relaxed: equal only if this thread itself made it so. */
	if (HF_UNLIKELY(atomic_load_explicit(&slab->owner, memory_order_relaxed) != theap_fast))
		goto slow;
	if (HF_UNLIKELY(!slab_is_start_mine(slab, slab_offset(object))))
		goto slow;
	if (HF_UNLIKELY(word_is_negative(object))) {
		heap_free_negative(object);
		return;
	}
	slab_push_local(slab, object);
	if (HF_UNLIKELY(--slab->countdown == 0))
		heap_free_event(object);
	return;
slow:
	heap_free_slow(object);
}

#endif
