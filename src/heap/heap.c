/*
 * The public face of the heap, and the rare parts of its fast paths.
 */
#include "heap/heap.h"

#include "heap/heap_fast.h"
#include "heap/object.h"
#include "heap/span.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>

/* ---- allocation ---- */

void *heap_alloc_fast(size_t bytes)
{
	return heap_alloc_inline(bytes);
}

static void *alloc_once(
	size_t bytes, size_t align_bytes, uint32_t cls, bool want_zero, uint64_t floor_pages, bool *zero_out)
{
	bool borrowed;

	if (cls == CLASS_COUNT)
		return span_alloc(bytes, align_bytes, floor_pages, zero_out);

	struct theap *const theap = theap_get(&borrowed);
	if (!theap)
		return NULL;
	void *const object = theap_alloc(theap, cls, want_zero, floor_pages, zero_out);
	if (HF_UNLIKELY(borrowed))
		theap_return(theap);
	return object;
}

/* What this thread and those that have ended hold without using goes back to the pool. */
static uint32_t give_back_empty(void)
{
	uint32_t slabs = theap_mine ? theap_trim(theap_mine) : 0;

	return slabs + theap_tend_orphans();
}

void *heap_alloc(size_t bytes, size_t align_bytes, bool zero, uint64_t floor_pages)
{
	const size_t align = align_bytes > HEAP_ALIGN_BYTES ? align_bytes : HEAP_ALIGN_BYTES;
	const size_t wanted = bytes > 0 ? bytes : 1;
	const uint32_t cls = class_of_aligned(wanted, align);
	const size_t span_align = align > CHUNK_BYTES ? align : 0;
	bool is_zero = false;

	void *object = alloc_once(wanted, span_align, cls, zero, floor_pages, &is_zero);
	if (HF_UNLIKELY(!object) && give_back_empty() > 0)
		object = alloc_once(wanted, span_align, cls, zero, floor_pages, &is_zero);
	if (object && zero && !is_zero)
		memset(object, 0, cls == CLASS_COUNT ? heap_usable(object) : class_bytes(cls));
	return object;
}

/* ---- free ---- */

void heap_free(void *object)
{
	heap_free_inline(object);
}

HF_NOINLINE void heap_free_event(void *object)
{
	theap_event(slab_of(&pool_window.chunks[pool_index_of(object)]));
}

HF_NOINLINE void heap_free_negative(void *object)
{
	struct slab *const slab = slab_of(&pool_window.chunks[pool_index_of(object)]);

	if (HF_UNLIKELY(slab_is_suspicious(slab, word_load(object)))) {
		heap_free_slow(object);
		return;
	}
	slab_push_local(slab, object);
	if (HF_UNLIKELY(--slab->countdown == 0))
		theap_event(slab);
}

HF_NOINLINE void heap_free_slow(void *object)
{
	if (!object)
		return;
	(void)heap_raw_clone_check();

	struct chunk *const chunk = object_chunk("hf_free", object);
	struct slab *const slab = object_slab(chunk);
	if (!slab) {
		span_free(chunk);
	} else if (object_is_mine(slab)) {
		slab_push_local(slab, object);
		if (--slab->countdown == 0)
			theap_event(slab);
	} else if (slab_push_remote(slab, object)) {
		theap_queue(slab);
	}
}

/* ---- existing objects ---- */

size_t heap_usable(const void *object)
{
	struct chunk *const chunk = object_chunk("hf_usable_bytes", object);
	const struct slab *const slab = object_slab(chunk);

	return slab ? slab->object_bytes : pool_span_bytes(chunk);
}

int heap_resize(void *object, size_t bytes, uint64_t floor_pages)
{
	struct chunk *const chunk = object_chunk("hf_realloc", object);
	const struct slab *const slab = object_slab(chunk);

	if (!slab)
		return span_resize(chunk, bytes, floor_pages);
	/* To where a class of half the size would do, a move gives memory back. */
	return bytes <= slab->object_bytes && bytes > slab->object_bytes / 2 ? 0 : -ENOSPC;
}

void *heap_move(void *object, size_t bytes, uint64_t floor_pages)
{
	struct chunk *const chunk = object_chunk("hf_realloc", object);

	return object_slab(chunk) ? NULL : span_move(chunk, bytes, floor_pages);
}

bool heap_owns(const void *address)
{
	return pool_chunk_at(address) != NULL;
}

/* ---- the whole ---- */

uint64_t heap_trim(void)
{
	(void)give_back_empty();
	(void)theap_take_from_queues();
	return pool_trim(0);
}

/*
 * A thread that is allocating or freeing right now finishes that; one that stays on its fast paths goes on unseen until
 * it misses once by itself. So threads that begin later are seen from their first request, and others soon.
 */
void heap_set_watched(bool watched)
{
	bool borrowed;

	/* Relaxed: see above. */
	atomic_store_explicit(&theap_watched, watched, memory_order_relaxed);
	if (theap_mine)
		(void)theap_get(&borrowed); /* at once in this thread */
}

void heap_stats_get(struct heap_stats *stats_out)
{
	struct heap_stats stats = {0};

	span_count(&stats.spans, &stats.large_bytes);
	stats.live_bytes = stats.large_bytes;
	theap_stats_add(&stats);
	*stats_out = stats;
}

void heap_check(void)
{
	theap_check_all();
}

/* ---- fork ---- */

static bool fork_prepared; /* under theap_lock */

void heap_fork_prepare(void)
{
	lock_take(&theap_lock);
	fork_prepared = true;
}

void heap_fork_parent(void)
{
	fork_prepared = false;
	lock_put(&theap_lock);
}

/* A raw clone's child comes here unprepared: somebody may have been inside the lists. Then only its own heap remains.
 */
void heap_fork_child(void)
{
	const bool lists_whole = fork_prepared || lock_try_take(&theap_lock);

	fork_prepared = false;
	theap_fork_child(lists_whole);
	lock_reset_after_fork(&theap_lock);
}

bool heap_raw_clone_check(void)
{
	if (HF_LIKELY(!pool_raw_clone_check()))
		return false;
	heap_fork_child();
	return true;
}
