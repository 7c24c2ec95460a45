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

/* The rare part of heap_free(). */
void heap_free_slow(void *object);

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

static inline void heap_free_inline(void *object)
{
	const uintptr_t index = pool_index_of(object);

	if (HF_UNLIKELY(!pool_index_is_mapped(index)))
		goto slow; /* NULL too */

	struct slab *const slab = slab_of(&pool_window.chunks[index]);
	/* Relaxed: equal only if this thread itself made it so. */
	if (HF_UNLIKELY(atomic_load_explicit(&slab->owner, memory_order_relaxed) != theap_fast))
		goto slow;
	if (HF_UNLIKELY(!slab_is_start(slab, slab_offset(object))))
		goto slow;
	if (HF_UNLIKELY(slab_is_suspicious(slab, word_load(object))))
		goto slow;
	slab_push_local(slab, object);
	if (HF_UNLIKELY(--slab->countdown == 0))
		theap_event(slab);
	return;
slow:
	heap_free_slow(object);
}

#endif
