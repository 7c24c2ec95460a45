/*
 * Single chunks: taken for slabs, grown and shrunk by pages, put back. And what all runs share: claiming address space.
 *
 * An idle chunk is whole and needs nobody. Otherwise the lowest free chunk is taken, so that the heap stays low and
 * dense, and its pages are committed one by one as the heap grows into it.
 */
#include "pool/internal.h"

#include <errno.h>
#include <string.h>

_Atomic uint64_t pool_word;
struct pool pool = {.lock = LOCK_INIT(LOCK_RANK_POOL), .retired_first = CHUNK_NONE};

int pool_init(struct ledger *ledger)
{
	int error;

	pool.ledger = ledger;
	pool.strict = os_overcommit_mode() == 2 || os_locks_new_memory();
	limit_look();
	huge_init();
	error = window_place();
	if (error == 0)
		ledger_publish_heap(ledger, pool.low, pool.high);
	return error;
}

struct ledger *pool_ledger(void)
{
	return pool.ledger;
}

bool pool_index_is_mapped(uintptr_t index)
{
	const uintptr_t block = index / BLOCK_CHUNKS;

	/* Acquire: pairs with the release in index_extend(), and in block_set() for the flag. */
	if (index >= pool_window.chunk_count ||
		block / GROUP_BLOCKS >= atomic_load_explicit(&pool_index.groups_known, memory_order_acquire))
		return false;
	return atomic_load_explicit(&block_at((uint32_t)block)->flags, memory_order_acquire) & BLOCK_TABLE;
}

/* ---- claiming a run of address space ---- */

static int tables_for(uint32_t first, uint32_t chunks, uint64_t floor_pages)
{
	const uint32_t head_block = first / BLOCK_CHUNKS;
	const uint32_t last_block = (first + chunks - 1) / BLOCK_CHUNKS;
	int error = table_prepare(head_block, floor_pages);
	uint32_t failed_block = head_block;

	if (error == 0 && last_block != head_block && (first + chunks) % BLOCK_CHUNKS != 0) {
		failed_block = last_block;
		error = table_prepare(last_block, floor_pages);
	}
	if (error == -EEXIST)
		table_give_up(failed_block);
	return error;
}

/* 0; -EEXIST: look elsewhere; -EAGAIN: look above the idle chunks; -ENOMEM. */
static int try_claim(uint32_t first, uint32_t chunks, uint64_t skip_pages, uint64_t pages, uint64_t floor_pages)
{
	const uint64_t page = (uint64_t)first * CHUNK_PAGES + skip_pages;
	int error = idle_evict(first, chunks);

	if (error != 0)
		return error;
	error = tables_for(first, chunks, floor_pages);
	if (error != 0)
		return error;
	index_mark(first, chunks, MARK_USED);
	error = space_prepare(first, chunks, page, pages - skip_pages);
	if (error != 0) {
		space_abandon(page, pages - skip_pages);
		index_mark(first, chunks, MARK_EMPTY);
	}
	return error;
}

int run_claim(uint32_t chunks, uint32_t align, uint32_t residue, uint64_t skip_pages, uint64_t pages,
	uint64_t floor_pages, uint32_t *first_out)
{
	enum { TRIES = 64 }; /* each but the last found address space that is somebody else's */
	uint32_t from = 0;

	for (int i = 0; i < TRIES; i++) {
		const uint32_t first = space_find(from, chunks, align, residue, floor_pages);

		if (first == CHUNK_NONE)
			return -ENOMEM;
		const int error = try_claim(first, chunks, skip_pages, pages, floor_pages);
		if (error == 0)
			*first_out = first;
		if (error == 0 || error == -ENOMEM)
			return error;
		if (error == -EAGAIN) {
			const uint32_t highest = index_highest_idle();

			from = highest == CHUNK_NONE ? 0 : highest + 1;
		}
	}
	return -ENOMEM;
}

void run_unclaim(uint32_t first, uint32_t chunks, uint64_t skip_pages, uint64_t pages)
{
	space_abandon((uint64_t)first * CHUNK_PAGES + skip_pages, pages - skip_pages);
	index_mark(first, chunks, MARK_EMPTY);
}

/* ---- take ---- */

static uint16_t mask_of(uint32_t first, uint32_t pages)
{
	return (uint16_t)(((1U << pages) - 1) << first);
}

static struct chunk *hand_out(uint32_t index, enum chunk_state state)
{
	struct chunk *chunk = chunk_at(index);

	memset(chunk->heap_words, 0, sizeof chunk->heap_words);
	chunk->state = (uint8_t)state;
	chunk->epoch = ledger_epoch(pool.ledger);
	chunk->span_chunks = 1;
	chunk->pool_word = 0;
	pool.used_chunks++;
	return chunk;
}

static struct chunk *take_idle(enum chunk_state state)
{
	if (!word_take(1))
		return NULL;
	const uint32_t index = index_lowest_idle();
	HF_VERIFY_OP(index, !=, CHUNK_NONE);
	index_mark(index, 1, MARK_USED);
	return hand_out(index, state); /* its mask is full, is_zero as it was */
}

static struct chunk *take_empty(uint32_t pages, enum chunk_state state, uint64_t floor_pages)
{
	uint32_t index;

	if (pages_acquire(pages, floor_pages) != 0)
		return NULL;
	if (run_claim(1, 1, 0, 0, pages, floor_pages, &index) != 0) {
		pages_uncommit(pages, ledger_epoch(pool.ledger));
		return NULL;
	}
	struct chunk *chunk = hand_out(index, state);
	chunk->committed_mask = mask_of_first(pages);
	chunk->is_zero = true;
	return chunk;
}

struct chunk *pool_chunk_take(uint32_t pages, enum chunk_state state, uint64_t floor_pages)
{
	struct chunk *chunk;

	HF_ASSERT_OP(pages, >=, 1);
	HF_ASSERT_OP(pages, <=, CHUNK_PAGES);
	lock_take(&pool.lock);
	chunk = take_idle(state);
	if (chunk == NULL)
		chunk = take_empty(pages, state, floor_pages);
	if (chunk != NULL)
		spare_refill(floor_pages);
	check_sampled();
	lock_put(&pool.lock);
	return chunk;
}

/* ---- grow, shrink ---- */

static int grow_locked(struct chunk *chunk, uint32_t pages_in_all, uint64_t floor_pages)
{
	const uint16_t missing = (uint16_t)(mask_of_first(pages_in_all) & ~chunk->committed_mask);
	const uint32_t index = chunk_index(chunk);

	if (missing == 0)
		return 0;
	if (!ledger_epoch_is_open(pool.ledger, chunk->epoch))
		return -EBUSY;
	const uint32_t pages = (uint32_t)__builtin_popcount(missing);
	if (pages_acquire(pages, floor_pages) != 0)
		return -ENOMEM;
	const uint32_t first = (uint32_t)__builtin_ctz(missing);
	const uint64_t page = (uint64_t)index * CHUNK_PAGES + first;
	if (space_prepare(index, 1, page, pages_in_all - first) != 0) {
		pages_uncommit(pages, ledger_epoch(pool.ledger));
		return -ENOMEM;
	}
	chunk->committed_mask |= missing;
	chunk->epoch = ledger_epoch(pool.ledger); /* open: nobody else holds the older pages */
	return 0;
}

int pool_chunk_grow(struct chunk *chunk, uint32_t pages_in_all, uint64_t floor_pages)
{
	int error;

	HF_ASSERT_OP(pages_in_all, <=, CHUNK_PAGES);
	lock_take(&pool.lock);
	error = grow_locked(chunk, pages_in_all, floor_pages);
	check_sampled();
	lock_put(&pool.lock);
	return error;
}

void pool_chunk_shrink(struct chunk *chunk, uint32_t first, uint32_t count)
{
	HF_ASSERT_OP(first, <=, CHUNK_PAGES);
	HF_ASSERT_OP(count, <=, CHUNK_PAGES - first);
	lock_take(&pool.lock);
	const uint16_t mask = mask_of(first, count) & chunk->committed_mask;
	if (mask != 0 && space_give_back((uint64_t)chunk_index(chunk) * CHUNK_PAGES + first, count)) {
		chunk->committed_mask &= (uint16_t)~mask;
		pages_uncommit((uint64_t)__builtin_popcount(mask), chunk->epoch);
	}
	check_sampled();
	lock_put(&pool.lock);
}

/* ---- put ---- */

bool chunk_release(struct chunk *chunk)
{
	const uint32_t index = chunk_index(chunk);

	if (chunk->committed_mask != 0 && !space_give_back((uint64_t)index * CHUNK_PAGES, CHUNK_PAGES))
		return false;
	pages_uncommit((uint64_t)__builtin_popcount(chunk->committed_mask), chunk->epoch);
	chunk->committed_mask = 0;
	chunk->state = CHUNK_EMPTY;
	pool.used_chunks--;
	index_mark(index, 1, MARK_EMPTY);
	space_tidy(index, 1);
	return true;
}

static void put_locked(struct chunk *chunk)
{
	/* Pages that a living child also holds must not be idle: they would be given out, and given back, as only ours.
	 */
	if (chunk->committed_mask == MASK_FULL && ledger_epoch_is_open(pool.ledger, chunk->epoch) &&
		idle_room(1) == 1) {
		chunk->state = CHUNK_IDLE;
		chunk->is_zero = false;
		pool.used_chunks--;
		index_mark(chunk_index(chunk), 1, MARK_IDLE);
		word_put(1);
	} else if (!chunk_release(chunk)) {
		retire(chunk);
	}
}

void pool_chunk_put(struct chunk *chunk)
{
	lock_take(&pool.lock);
	put_locked(chunk);
	check_sampled();
	lock_put(&pool.lock);
}

/* ---- what the kernel would not take ---- */

void retire(struct chunk *chunk)
{
	chunk->heap_words[0] = pool.retired_first;
	pool.retired_first = chunk_index(chunk);
}

uint64_t retired_retry(void)
{
	const uint64_t before = pool.committed_pages;
	uint32_t index = pool.retired_first;

	pool.retired_first = CHUNK_NONE;
	while (index != CHUNK_NONE) {
		struct chunk *chunk = chunk_at(index);

		index = (uint32_t)chunk->heap_words[0];
		if (chunk->state == CHUNK_SPAN ? !span_release(chunk) : !chunk_release(chunk))
			retire(chunk);
	}
	return before - pool.committed_pages;
}

uint64_t pool_trim(uint64_t keep_chunks)
{
	uint64_t pages;

	lock_take(&pool.lock);
	pages = trim_locked(keep_chunks) + retired_retry() + table_reclaim();
	if (keep_chunks == 0 && pool.spare_pages != 0) {
		pages += pool.spare_pages;
		meta_release(pool.spare_pages);
		pool.spare_pages = 0;
	}
	check_sampled();
	lock_put(&pool.lock);
	return pages;
}
