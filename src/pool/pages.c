/*
 * The number: pages from the ledger and back, and the idle chunks that can stand in for it.
 *
 * Contiguity is a matter of address space, so a request only needs a number of pages. When the ledger refuses, idle
 * chunks anywhere are given back to the kernel while their charge is kept, and is used for the pages that are
 * wanted elsewhere: no other process can come between.
 */
#include "pool/internal.h"

#include <errno.h>

enum {
	IDLE_LIMIT_PART = 64,			/* at most this part of the limit lies idle */
	IDLE_ONE_FROM_PAGES = 16 * CHUNK_PAGES, /* but one chunk, from a limit of 1 MiB on */
	SMALL_HELD_PAGES = 256,			/* below 1 MiB in use ... */
	SMALL_IDLE_CHUNKS = 2,			/* ... half of the 256 KiB that may be committed and not resident */
	LOOK_EVERY_PUTS = 64,
};

void limit_look(void)
{
	struct ledger_view view;
	uint64_t limit_pages = LEDGER_NO_LIMIT;

	for (const struct ledger *at = pool.ledger; at != NULL; at = ledger_outer(at)) {
		ledger_look(at, &view);
		if (view.limit_pages < limit_pages)
			limit_pages = view.limit_pages;
	}
	pool.limit_pages = limit_pages;
	const uint64_t part = limit_pages / IDLE_LIMIT_PART / CHUNK_PAGES;
	pool.idle_max_chunks = part < BLOCK_CHUNKS ? (uint32_t)part : BLOCK_CHUNKS;
	if (pool.idle_max_chunks == 0 && limit_pages >= IDLE_ONE_FROM_PAGES)
		pool.idle_max_chunks = 1;
	pool.puts_since_look = 0;
}

int pages_commit(uint64_t pages, uint64_t floor_pages)
{
	int error = ledger_commit(pool.ledger, pages, floor_pages);

	/* keeps P2 */
	if (error == 0)
		pool.committed_pages += pages;
	return error;
}

void pages_uncommit(uint64_t pages, uint32_t epoch)
{
	if (pages == 0)
		return;
	HF_VERIFY_OP(pool.committed_pages, >=, pages);
	pool.committed_pages -= pages;
	ledger_uncommit(pool.ledger, pages, epoch);
}

/* ---- idle chunks ---- */

/* The highest run of idle chunks, @most at most; its upper end. */
static uint32_t highest_idle_run(uint32_t most, uint32_t *first_out)
{
	const uint32_t last = index_highest_idle();
	uint32_t count = 1;

	HF_VERIFY_OP(last, !=, CHUNK_NONE);
	while (count < most && count <= last) {
		const uint32_t next = last - count;

		if (!(block_at(next / BLOCK_CHUNKS)->idle >> next % BLOCK_CHUNKS & 1))
			break;
		count++;
	}
	*first_out = last - (count - 1);
	return count;
}

static void idle_to_empty(uint32_t first, uint32_t chunks)
{
	for (uint32_t i = first; i < first + chunks; i++) {
		chunk_at(i)->state = CHUNK_EMPTY;
		chunk_at(i)->committed_mask = 0;
	}
	index_mark(first, chunks, MARK_EMPTY);
	space_tidy(first, chunks);
}

uint32_t idle_discard(uint32_t chunks)
{
	uint32_t done = 0;

	while (done < chunks) {
		uint32_t first;
		const uint32_t count = highest_idle_run(chunks - done, &first);

		if (!space_give_back((uint64_t)first * CHUNK_PAGES, (uint64_t)count * CHUNK_PAGES)) {
			word_put(chunks - done);
			break;
		}
		idle_to_empty(first, count);
		done += count;
	}
	return done;
}

int idle_evict(uint32_t first, uint32_t chunks)
{
	const uint32_t end = first + chunks;
	uint32_t run;
	uint32_t count;

	while (index_next_idle_run(first, &run, &count) && run < end) {
		count = least(count, end - run);
		if (!word_take(count))
			return -EAGAIN;
		if (!space_give_back((uint64_t)run * CHUNK_PAGES, (uint64_t)count * CHUNK_PAGES)) {
			word_put(count);
			return -EAGAIN;
		}
		idle_to_empty(run, count);
		pages_uncommit((uint64_t)count * CHUNK_PAGES, ledger_epoch(pool.ledger));
		first = run + count;
	}
	return 0;
}

static uint64_t held_pages(void)
{
	return pool.committed_pages - (uint64_t)word_idle(word_now()) * CHUNK_PAGES;
}

uint32_t idle_room(uint32_t wanted)
{
	if (++pool.puts_since_look >= LOOK_EVERY_PUTS)
		limit_look();
	const uint32_t idle = word_idle(word_now());
	uint32_t most = pool.idle_max_chunks;

	if (held_pages() < SMALL_HELD_PAGES && most > SMALL_IDLE_CHUNKS)
		most = SMALL_IDLE_CHUNKS;
	if (idle + wanted <= most)
		return wanted;
	/* Full: half of it goes at once, in long runs, so that a storm of frees is not a storm of system calls. */
	if (most > SMALL_IDLE_CHUNKS)
		(void)trim_locked(most / 2);
	const uint32_t now = word_idle(word_now());
	return now < most ? least(wanted, most - now) : 0;
}

uint64_t trim_locked(uint64_t keep_chunks)
{
	const uint32_t available = word_available();
	const uint32_t idle = word_idle(word_now());
	uint32_t surplus = idle > keep_chunks ? idle - (uint32_t)keep_chunks : 0;

	surplus = least(surplus, available);
	if (surplus == 0 || !word_take(surplus))
		return 0;
	const uint64_t pages = (uint64_t)idle_discard(surplus) * CHUNK_PAGES;
	pages_uncommit(pages, ledger_epoch(pool.ledger));
	return pages;
}

/* ---- acquiring ---- */

/* Part of @pages from idle chunks, the rest from the ledger. */
static int acquire_from_idle(uint64_t pages, uint64_t floor_pages)
{
	const uint64_t wanted = (pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
	const uint32_t available = word_available();
	const uint32_t chunks = wanted < available ? (uint32_t)wanted : available;
	const uint64_t from_idle = (uint64_t)chunks * CHUNK_PAGES;
	const uint64_t rest = pages > from_idle ? pages - from_idle : 0;

	if (chunks == 0 || !word_take(chunks))
		return -ENOMEM;
	if (rest != 0 && pages_commit(rest, floor_pages) != 0) {
		word_put(chunks);
		return -ENOMEM;
	}
	const uint64_t in_hand = (uint64_t)idle_discard(chunks) * CHUNK_PAGES + rest;
	if (in_hand < pages) { /* the kernel kept some */
		pages_uncommit(in_hand, ledger_epoch(pool.ledger));
		return -ENOMEM;
	}
	pages_uncommit(in_hand - pages, ledger_epoch(pool.ledger));
	return 0;
}

int pages_acquire(uint64_t pages, uint64_t floor_pages)
{
	if (HF_LIKELY(pages_commit(pages, floor_pages) == 0))
		return 0;
	limit_look();
	if (table_reclaim() + retired_retry() != 0 && pages_commit(pages, floor_pages) == 0)
		return 0;
	return acquire_from_idle(pages, floor_pages);
}
