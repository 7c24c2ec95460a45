/*
 * Moving a span's pages to a longer run, by page tables where the kernel agrees.
 *
 * It moves only within one mapping (before Linux 6.17), and a span that was moved and then grew in place consists of
 * two. Then the pages are copied, a batch at a time, each given back as soon as it has been copied; the new run
 * is longer than the old one by pages that are committed and not touched yet, and a batch is no more than these: so no
 * page more is ever resident than is counted.
 *
 * A move, and a failed one too, leaves a hole, into which another thread's mmap could fall before we map it again: then
 * that range is lost to us, and nothing else.
 */
#include "pool/internal.h"

#include <errno.h>
#include <string.h>

struct move {
	uint32_t from, from_chunks, to, to_chunks;
	uint64_t from_pages, to_pages;
	bool huge;
};

static uint64_t first_page(uint32_t chunk)
{
	return (uint64_t)chunk * CHUNK_PAGES;
}

/* After a refused move: has the kernel unmapped the target already? It does so all or not at all. */
static bool target_is_hole(const struct move *move)
{
	size_t resident;

	return os_resident_pages(page_address(first_page(move->to)), OS_PAGE_BYTES, &resident) != 0;
}

static bool target_refill(const struct move *move)
{
	void *const address = page_address(first_page(move->to));
	const size_t bytes = move->from_pages << OS_PAGE_SHIFT;

	return space_map_plain((uintptr_t)address, bytes) == 0 && os_space_open(address, bytes) == 0;
}

/* False: some pages could not be given back; the old run must not be used again. */
static bool copy_pages(const struct move *move)
{
	enum { BATCH_PAGES = 512 };
	const uint64_t slack = move->to_pages - move->from_pages;
	uint64_t batch = slack < BATCH_PAGES ? slack : BATCH_PAGES;
	bool all = true;

	for (uint64_t done = 0; done < move->from_pages; done += batch) {
		const uint64_t from = first_page(move->from) + done;

		if (batch > move->from_pages - done)
			batch = move->from_pages - done;
		memcpy(page_address(first_page(move->to) + done), page_address(from), batch << OS_PAGE_SHIFT);
		all &= space_give_back(from, batch);
	}
	return all;
}

static void mark_odd(uint32_t first, uint64_t pages)
{
	const uint32_t end = (uint32_t)((first_page(first) + pages - 1) / BLOCK_PAGES) + 1;

	for (uint32_t block = first / BLOCK_CHUNKS; block < end; block++)
		block_set(block_at(block), BLOCK_ODD);
}

/* The old run has neither pages nor an owner. */
static void forget_old_run(const struct move *move)
{
	span_unlabel(move->from, move->from_chunks);
	index_mark(move->from, move->from_chunks, MARK_EMPTY);
}

/* A strict pool must not open (and so populate) what the move brings along. */
static uint64_t skip_pages(const struct move *move)
{
	return pool.strict ? move->from_pages : 0;
}

/* Huge pages go back by whole blocks only. */
static bool can_copy(const struct move *move)
{
	return !pool.strict && (!move->huge || move->to_pages - move->from_pages >= BLOCK_PAGES);
}

/* 0, or -ENOMEM: nothing has changed. */
static int move_pages(const struct move *move)
{
	void *const from = page_address(first_page(move->from));
	void *const to = page_address(first_page(move->to));

	if (os_move(from, move->from_pages << OS_PAGE_SHIFT, to) == 0) {
		mark_odd(move->to, move->from_pages);
		if (move->huge) {
			huge_clear(move->from, move->from_pages);
			huge_mark(move->to, 0, move->from_pages);
		}
		forget_old_run(move);
		space_restore(first_page(move->from), move->from_pages);
		space_tidy(move->from, move->from_chunks);
		return 0;
	}
	const bool hole = target_is_hole(move);
	if (!can_copy(move) || (hole && !target_refill(move))) {
		run_unclaim(move->to, move->to_chunks, skip_pages(move), move->to_pages);
		if (hole)
			space_restore(first_page(move->to), move->from_pages);
		return -ENOMEM;
	}
	bool all_back = copy_pages(move);
	if (move->huge) /* its mapping must not be left as it is */
		all_back = huge_give_back(move->from, 0, move->from_pages) && all_back;
	if (move->huge)
		huge_clear(move->from, move->from_pages);
	forget_old_run(move);
	if (all_back)
		space_tidy(move->from, move->from_chunks);
	else
		space_lose(move->from, move->from_chunks);
	return 0;
}

/*
 * A run that is like the old one within its block: then the kernel moves whole page tables. What was less than a block
 * and will be more begins with one from now on.
 */
static int claim_target(struct move *move, uint64_t floor_pages)
{
	const bool grows_up = move->from_pages < BLOCK_PAGES && move->to_pages >= BLOCK_PAGES;
	int error = run_claim(move->to_chunks, BLOCK_CHUNKS, grows_up ? 0 : move->from % BLOCK_CHUNKS, skip_pages(move),
		move->to_pages, floor_pages, &move->to);

	if (error != 0 && !move->huge) /* a huge page must lie as it lay */
		error = run_claim(move->to_chunks, 1, 0, skip_pages(move), move->to_pages, floor_pages, &move->to);
	return error;
}

static struct chunk *move_locked(struct chunk *old, uint64_t pages, uint64_t floor_pages)
{
	const uint32_t epoch = ledger_epoch(pool.ledger);
	uint64_t heap_words[CHUNK_HEAP_WORDS];
	const bool is_zero = old->is_zero;
	struct move move = {
		.from = chunk_index(old),
		.from_chunks = old->span_chunks,
		.from_pages = span_pages(old),
		.huge = huge_is(chunk_index(old)),
		.to_pages = pages,
		.to_chunks = (uint32_t)((pages + CHUNK_PAGES - 1) / CHUNK_PAGES),
	};

	if (pages <= move.from_pages || !ledger_epoch_is_open(pool.ledger, old->epoch))
		return NULL;
	if (pages_acquire(pages - move.from_pages, floor_pages) != 0)
		return NULL;
	memcpy(heap_words, old->heap_words, sizeof heap_words);
	if (claim_target(&move, floor_pages) != 0 || move_pages(&move) != 0) {
		pages_uncommit(pages - move.from_pages, epoch);
		return NULL;
	}
	struct chunk *first = chunk_at(move.to);
	span_label(move.to, move.to_chunks, pages, epoch);
	memcpy(first->heap_words, heap_words, sizeof heap_words);
	first->is_zero = is_zero;
	huge_allow(move.to, move.from_pages, pages);
	return first;
}

struct chunk *pool_span_move(struct chunk *first, size_t bytes, uint64_t floor_pages)
{
	const uint64_t pages = (bytes >> OS_PAGE_SHIFT) + (bytes % OS_PAGE_BYTES != 0);
	struct chunk *moved;

	if (pages > UINT32_MAX || pages > pool_window.chunk_count * CHUNK_PAGES)
		return NULL;
	lock_take(&pool.lock);
	HF_ASSERT_OP(first->state, ==, CHUNK_SPAN);
	moved = move_locked(first, pages, floor_pages);
	if (moved != NULL)
		spare_refill(floor_pages);
	check_sampled();
	lock_put(&pool.lock);
	return moved;
}
