/*
 * From any address to what is there, without the lock.
 *
 * For an address inside an object that the caller owns the answer is exact: what describes it does not change. For any
 * other it is true of some moment, or NULL, which will do: it goes into a message.
 */
#include "pool/internal.h"

struct chunk *pool_chunk_at(const void *address)
{
	const uintptr_t index = pool_index_of(address);
	uint32_t head = (uint32_t)index;

	if (index >= pool_window.chunk_count ||
		/* Acquire: pairs with the release in index_extend(). */
		index / GROUP_CHUNKS >= atomic_load_explicit(&pool_index.groups_known, memory_order_acquire))
		return NULL;

	const struct block *const block = block_at((uint32_t)(index / BLOCK_CHUNKS));
	const uint32_t flags = block_flags(block);
	if (flags & BLOCK_BODY)
		head = __atomic_load_n(&block->span_head, __ATOMIC_RELAXED);
	else if (!(flags & BLOCK_TABLE))
		return NULL;
	else if (__atomic_load_n(&chunk_at(head)->state, __ATOMIC_RELAXED) == CHUNK_SPAN_BODY)
		head = __atomic_load_n(&chunk_at(head)->pool_word, __ATOMIC_RELAXED);
	/* A head that is out of date may be anything. */
	if (!pool_index_is_mapped(head))
		return NULL;

	struct chunk *const chunk = chunk_at(head);
	const uint8_t state = __atomic_load_n(&chunk->state, __ATOMIC_RELAXED);
	return state == CHUNK_SLAB || state == CHUNK_SPAN ? chunk : NULL;
}
