/*
 * What must be true between any two operations: P1, P2, P3, the index's summaries, and the sums.
 */
#include "pool/internal.h"

#include <string.h>

static uint16_t span_chunk_mask(uint32_t head, uint32_t chunk)
{
	const uint64_t pages = span_pages(chunk_at(head));
	const uint64_t before = (uint64_t)(chunk - head) * CHUNK_PAGES;

	if (pages <= before)
		return 0;
	return mask_of_first(pages - before);
}

static uint16_t chunk_mask(uint32_t index)
{
	const struct chunk *chunk = chunk_at(index);

	switch ((enum chunk_state)chunk->state) {
	case CHUNK_EMPTY:
		return 0;
	case CHUNK_IDLE:
		return MASK_FULL;
	case CHUNK_SLAB:
		return chunk->committed_mask;
	case CHUNK_SPAN:
		return span_chunk_mask(index, index);
	case CHUNK_SPAN_BODY:
		return chunk->pool_word == CHUNK_NONE ? 0 : span_chunk_mask(chunk->pool_word, index);
	}
	base_die("chunk %u has an impossible state %u", index, chunk->state);
}

void block_masks(uint32_t block, uint16_t masks_out[BLOCK_CHUNKS])
{
	const struct block *at = block_at(block);

	for (uint32_t i = 0; i < BLOCK_CHUNKS; i++) {
		if (block_flags(at) & BLOCK_BODY)
			masks_out[i] = span_chunk_mask(at->span_head, block * BLOCK_CHUNKS + i);
		else
			masks_out[i] = block_flags(at) & BLOCK_TABLE ? chunk_mask(block * BLOCK_CHUNKS + i) : 0;
	}
}

/* ---- strict ---- */

/* Close what is not committed of an open block. False: the kernel would not. */
static bool close_rest(uint32_t block)
{
	uint16_t masks[BLOCK_CHUNKS];
	bool all = true;
	uint32_t page = 0;

	block_masks(block, masks);
	while (page < BLOCK_PAGES) {
		const bool committed = masks[page / CHUNK_PAGES] >> page % CHUNK_PAGES & 1;
		const uint32_t from = page;

		do
			page++;
		while (page < BLOCK_PAGES && (masks[page / CHUNK_PAGES] >> page % CHUNK_PAGES & 1) == committed);
		if (committed)
			continue;
		void *const address = page_address((uint64_t)block * BLOCK_PAGES + from);
		const size_t bytes = (size_t)(page - from) << OS_PAGE_SHIFT;
		if (os_space_close(address, bytes) == 0)
			(void)!os_advise(address, bytes, OS_NO_HUGE);
		else
			all = false;
	}
	return all;
}

void pool_set_strict(void)
{
	lock_take(&pool.lock);
	pool.strict = true;
	pool.huge = false;
	for (uint32_t i = 0; i < groups_known() * GROUP_BLOCKS; i++) {
		if (!(block_flags(block_at(i)) & BLOCK_OPEN))
			continue;
		/* Where the kernel has no room for more mappings the rest stays open, and discarded: as good as before.
		 */
		(void)close_rest(i);
		block_clear(block_at(i), BLOCK_OPEN);
	}
	/* mlockall() compares all that is mapped with RLIMIT_MEMLOCK, be it accessible or not. */
	(void)space_unmap_empty();
	check_sampled();
	lock_put(&pool.lock);
}

/* ---- checks ---- */

struct sums {
	uint64_t pages, idle, used, tables;
};

static void check_span(uint32_t head)
{
	const struct chunk *chunk = chunk_at(head);

	HF_VERIFY_OP(chunk->span_chunks, >=, 1);
	HF_VERIFY_OP(span_pages(chunk), >=, 1);
	HF_VERIFY_OP(span_pages(chunk), <=, (uint64_t)chunk->span_chunks * CHUNK_PAGES);
	HF_VERIFY_OP(head + chunk->span_chunks, <=, chunks_known());
}

static void check_body(uint32_t index, uint32_t head)
{
	HF_VERIFY_OP(chunk_at(head)->state, ==, CHUNK_SPAN);
	HF_VERIFY_OP(index, >, head);
	HF_VERIFY_OP(index, <, head + chunk_at(head)->span_chunks);
}

static void check_chunk(const struct block *block, uint32_t index, struct sums *sums)
{
	const struct chunk *chunk = chunk_at(index);
	const uint32_t bit = index % BLOCK_CHUNKS;
	const bool is_idle = block->idle >> bit & 1;
	const bool is_free = block->free >> bit & 1;

	/* P3 */
	HF_VERIFY_OP(is_idle, ==, chunk->state == CHUNK_IDLE);
	if (!(block_flags(block) & BLOCK_TAKEN))
		HF_VERIFY_OP(is_free, ==, chunk->state == CHUNK_EMPTY || chunk->state == CHUNK_IDLE);
	if (chunk->state == CHUNK_IDLE)
		HF_VERIFY_OP(chunk->committed_mask, ==, MASK_FULL);
	if (chunk->state == CHUNK_SPAN)
		check_span(index);
	if (chunk->state == CHUNK_SPAN_BODY && chunk->pool_word != CHUNK_NONE)
		check_body(index, chunk->pool_word);
	sums->used += chunk->state >= CHUNK_SLAB;
	sums->idle += chunk->state == CHUNK_IDLE;
	sums->pages += (uint64_t)__builtin_popcount(chunk_mask(index));
}

/* All of the block is one span's, which begins with a block. */
static void check_huge(uint32_t block)
{
	const uint32_t index = block * BLOCK_CHUNKS;
	const bool is_body = block_flags(block_at(block)) & BLOCK_BODY;
	const uint32_t head = is_body ? block_at(block)->span_head : index;

	HF_VERIFY(huge_is(head));
	HF_VERIFY_OP(chunk_at(head)->state, ==, CHUNK_SPAN);
	HF_VERIFY_OP(span_pages(chunk_at(head)), >=, (uint64_t)(index - head) * CHUNK_PAGES + BLOCK_PAGES);
}

static void check_block(uint32_t index, struct sums *sums)
{
	const struct block *block = block_at(index);
	const uint32_t flags = block_flags(block);

	HF_VERIFY_OP(block->idle & ~block->free, ==, 0);
	HF_VERIFY_OP(block->shape, ==, index_shape_of_mask(block->free));
	if (flags & BLOCK_TAKEN)
		HF_VERIFY_OP(block->free, ==, 0);
	if (flags & BLOCK_OPEN)
		HF_VERIFY_OP(flags & BLOCK_MAPPED, !=, 0);
	if (flags & BLOCK_TABLE) {
		sums->tables++;
		for (uint32_t i = 0; i < BLOCK_CHUNKS; i++)
			check_chunk(block, index * BLOCK_CHUNKS + i, sums);
	} else {
		HF_VERIFY_OP(block->idle, ==, 0);
		HF_VERIFY_OP(block->free, ==, (flags & (BLOCK_TAKEN | BLOCK_BODY)) ? 0 : UINT32_MAX);
	}
	if (flags & BLOCK_HUGE)
		check_huge(index);
	if (!(flags & BLOCK_BODY))
		return;
	HF_VERIFY_OP(block->free, ==, 0);
	check_body(index * BLOCK_CHUNKS, block->span_head);
	check_body(index * BLOCK_CHUNKS + BLOCK_CHUNKS - 1, block->span_head);
	if (flags & BLOCK_TABLE)
		return;
	sums->used += BLOCK_CHUNKS;
	for (uint32_t i = 0; i < BLOCK_CHUNKS; i++)
		sums->pages +=
			(uint64_t)__builtin_popcount(span_chunk_mask(block->span_head, index * BLOCK_CHUNKS + i));
}

static void check_node(struct node is, struct node should)
{
	HF_VERIFY_OP(is.prefix, ==, should.prefix);
	HF_VERIFY_OP(is.longest, ==, should.longest);
	HF_VERIFY_OP(is.suffix, ==, should.suffix);
	HF_VERIFY_OP(is.idle, ==, should.idle);
}

void check_locked(void)
{
	struct sums sums = {0, 0, 0, 0};
	const uint64_t word = word_now();

	for (uint32_t i = 0; i < groups_known() * GROUP_BLOCKS; i++)
		check_block(i, &sums);
	for (uint32_t i = 0; i < groups_known(); i++)
		check_node(pool_index.groups[i].node, index_node_of_group(i));
	for (uint32_t i = 0; i * SUPER_GROUPS < groups_known(); i++)
		check_node(pool_index.supers[i], index_node_of_super(i));

	const uint64_t regions = pool.supers_region.open_bytes + pool.groups_region.open_bytes +
				 pool.meta_region.open_bytes + pool.canary_region.open_bytes;
	HF_VERIFY_OP(word_reserved(word), <=, word_idle(word)); /* P1 */
	HF_VERIFY_OP(word_idle(word), ==, sums.idle);
	HF_VERIFY_OP(pool.used_chunks, ==, sums.used);
	HF_VERIFY_OP(pool.meta_pages, ==, (regions >> OS_PAGE_SHIFT) + sums.tables + pool.spare_pages);
	HF_VERIFY_OP(pool.committed_pages, ==, sums.pages + pool.meta_pages); /* P2, the counting half */
}

void pool_check(void)
{
	lock_take(&pool.lock);
	check_locked();
	lock_put(&pool.lock);
}

void check_sampled(void)
{
#ifdef HF_DEBUG
	enum { EVERY = 256 }; /* a check walks all that is known */

	if (++pool.changes % EVERY == 0)
		check_locked();
#endif
}

void pool_stats_get(struct pool_stats *stats_out)
{
	lock_take(&pool.lock);
	const uint64_t word = word_now();
	uint64_t mapped_blocks = 0;

	for (uint32_t i = 0; i < groups_known() * GROUP_BLOCKS; i++)
		mapped_blocks += (block_flags(block_at(i)) & BLOCK_MAPPED) != 0;
	*stats_out = (struct pool_stats){
		.idle_chunks = word_idle(word),
		.reserved_chunks = word_reserved(word),
		.used_chunks = pool.used_chunks,
		.committed_pages = pool.committed_pages,
		.meta_pages = pool.meta_pages,
		.window_bytes = mapped_blocks << BLOCK_SHIFT,
	};
	lock_put(&pool.lock);
}
