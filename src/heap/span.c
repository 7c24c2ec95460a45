#include "heap/span.h"

#include "base/assert.h"
#include "heap/class.h"

#include <errno.h>
#include <stdatomic.h>

/* Lies in chunk.heap_words of a run's first chunk. */
struct span {
	void *owner;	       /* NULL: where a slab has its owner, so that no thread takes this for one of its slabs */
	_Atomic uint64_t live; /* 1: an object in use. Whoever swaps it to 0 frees it, and nobody else */
} __attribute__((may_alias));
static_assert(sizeof(struct span) <= CHUNK_HEAP_WORDS * sizeof(uint64_t), "a span fits its descriptor");

static _Atomic uint64_t spans, spans_bytes;

static struct span *span_of(const struct chunk *chunk)
{
	return (struct span *)(uintptr_t)chunk->heap_words;
}

static void count(uint64_t more_spans, uint64_t more_bytes)
{
	/* Relaxed: statistics. */
	atomic_fetch_add_explicit(&spans, more_spans, memory_order_relaxed);
	atomic_fetch_add_explicit(&spans_bytes, more_bytes, memory_order_relaxed);
}

void span_count(uint64_t *spans_out, uint64_t *bytes_out)
{
	*spans_out = atomic_load_explicit(&spans, memory_order_relaxed);
	*bytes_out = atomic_load_explicit(&spans_bytes, memory_order_relaxed);
}

bool span_is_live(const struct chunk *chunk)
{
	/* Relaxed: for a pointer that the caller owns. For others it is a guess, which can only spoil the message. */
	return atomic_load_explicit(&span_of(chunk)->live, memory_order_relaxed) == 1;
}

void *span_alloc(size_t bytes, size_t align_bytes, uint64_t floor_pages, bool *zero_out)
{
	struct chunk *const chunk = pool_span_take(bytes, align_bytes, floor_pages, zero_out);

	if (!chunk)
		return NULL;
	/* Relaxed: published with the object, by the program. */
	atomic_store_explicit(&span_of(chunk)->live, 1, memory_order_relaxed);
	count(1, pool_span_bytes(chunk));
	return chunk_address(chunk);
}

void span_free(struct chunk *chunk)
{
	/* Relaxed: it decides between two frees at once; the program itself must have ordered its last use. */
	if (atomic_exchange_explicit(&span_of(chunk)->live, 0, memory_order_relaxed) != 1)
		base_die("hf_free(%p): freed already", chunk_address(chunk));
	count((uint64_t)-1, -(uint64_t)pool_span_bytes(chunk));
	pool_span_put(chunk);
}

int span_resize(struct chunk *chunk, size_t bytes, uint64_t floor_pages)
{
	const uint64_t before_bytes = pool_span_bytes(chunk);

	if (bytes <= HEAP_SLAB_MAX_BYTES)
		return -ENOSPC;
	const int error = pool_span_resize(chunk, bytes, floor_pages);
	if (error != 0)
		return error == -EBUSY ? -ENOSPC : error;

	const uint64_t after_bytes = pool_span_bytes(chunk);
	count(0, after_bytes - before_bytes);
	/* Huge pages go back whole only: what is left may be so much more than is needed that a copy is worth it. */
	return after_bytes > bytes && after_bytes / 2 > bytes ? -ENOSPC : 0;
}

void *span_move(struct chunk *chunk, size_t bytes, uint64_t floor_pages)
{
	const uint64_t before_bytes = pool_span_bytes(chunk);
	struct chunk *const moved = bytes > HEAP_SLAB_MAX_BYTES ? pool_span_move(chunk, bytes, floor_pages) : NULL;

	if (!moved)
		return NULL;
	atomic_store_explicit(&span_of(moved)->live, 1, memory_order_relaxed);
	count(0, pool_span_bytes(moved) - before_bytes);
	return chunk_address(moved);
}
