/*
 * The pool across fork.
 *
 * A child inherits what is in use (and keeps it charged through the ledger) but nothing that is idle: idle runs are
 * wiped on fork, become empty in the child and were never counted for it. The same for pages that are only a number
 * (spare). A child that a raw clone made went through none of this; a page that every fork wipes tells it so.
 */
#include "pool/internal.h"

#include <errno.h>
#include <string.h>

uint64_t pool_held_pages(void)
{
	return pool.committed_pages - (uint64_t)word_idle(word_now()) * CHUNK_PAGES - pool.spare_pages;
}

static int advise_run(uint32_t first, uint32_t chunks, enum os_advice advice)
{
	return os_advise(chunk_address(chunk_at(first)), (size_t)chunks << CHUNK_SHIFT, advice);
}

void pool_fork_prepare(void)
{
	uint32_t first = 0;
	uint32_t chunks = 0;

	lock_take(&pool.lock);
	pool.wipe_failed = false;
	huge_end();
	while (index_next_idle_run(first + chunks, &first, &chunks))
		if (advise_run(first, chunks, OS_WIPE_ON_FORK) != 0)
			pool.wipe_failed = true;
}

/*
 * An idle run that is wiped on fork must be so no more, or the next fork would wipe what lives there by then. If
 * the kernel will not say so, a fresh mapping does.
 */
static bool unwipe(uint32_t first, uint32_t chunks)
{
	const uint32_t to = (first + chunks - 1) / BLOCK_CHUNKS + 1;

	if (advise_run(first, chunks, OS_KEEP_ON_FORK) == 0)
		return true;
	if (os_space_close(chunk_address(chunk_at(first)), (size_t)chunks << CHUNK_SHIFT) != 0)
		base_die("cannot undo a mapping's wipe-on-fork: it would lose memory at the next fork");
	(void)!advise_run(first, chunks, OS_NO_HUGE);
	for (uint32_t block = first / BLOCK_CHUNKS; block < to; block++)
		block_clear(block_at(block), BLOCK_OPEN);
	return false;
}

static void run_to_empty(uint32_t first, uint32_t chunks)
{
	for (uint32_t i = first; i < first + chunks; i++) {
		chunk_at(i)->state = CHUNK_EMPTY;
		chunk_at(i)->committed_mask = 0;
	}
	index_mark(first, chunks, MARK_EMPTY);
}

void pool_fork_parent(pid_t child_or_error)
{
	uint32_t first = 0;
	uint32_t chunks = 0;

	(void)child_or_error;
	while (index_next_idle_run(first + chunks, &first, &chunks)) {
		if (unwipe(first, chunks))
			continue;
		/* The mapping is fresh: its pages are gone. */
		run_to_empty(first, chunks);
		(void)word_take(chunks);
		pages_uncommit((uint64_t)chunks * CHUNK_PAGES, ledger_epoch(pool.ledger));
	}
	lock_put(&pool.lock);
}

/* In a child: an idle run is not ours; its range is empty. */
static void forget_run(uint32_t first, uint32_t chunks, bool wiped)
{
	const uint64_t page = (uint64_t)first * CHUNK_PAGES;
	const uint64_t pages = (uint64_t)chunks * CHUNK_PAGES;

	if (wiped)
		(void)unwipe(first, chunks);
	const bool gone = (wiped && !pool.strict) || space_give_back(page, pages);
	run_to_empty(first, chunks);
	if (!gone) /* copies of the parent's idle pages that the kernel will not drop: never used, never written */
		space_lose(first, chunks);
}

static void forget_all_idle(bool wiped)
{
	uint32_t first = 0;
	uint32_t chunks = 0;
	uint64_t forgotten = 0;

	while (index_next_idle_run(first + chunks, &first, &chunks)) {
		forget_run(first, chunks, wiped);
		forgotten += chunks;
	}
	pool.committed_pages -= forgotten * CHUNK_PAGES + pool.spare_pages;
	pool.meta_pages -= pool.spare_pages;
	pool.spare_pages = 0;
	/* Relaxed: a new process has one thread. Nobody's reservation is inherited. */
	atomic_store_explicit(&pool_word, 0, memory_order_relaxed);
}

void pool_fork_child(void)
{
	lock_reset_after_fork(&pool.lock);
	lock_take(&pool.lock);
	forget_all_idle(!pool.wipe_failed);
	canary_write();
	ledger_publish_heap(pool.ledger, pool.low, pool.high);
	lock_put(&pool.lock);
}

bool pool_raw_clone_check(void)
{
	if (HF_LIKELY(!canary_is_wiped()))
		return false;
	lock_reset_after_fork(&pool.lock);
	lock_take(&pool.lock);
	forget_all_idle(false);
	canary_write();
	/* If there is no slot for us, what we hold stays our parent's charge, and commits are refused until there is.
	 */
	(void)!ledger_raw_clone_child(pool.ledger, pool_held_pages());
	ledger_publish_heap(pool.ledger, pool.low, pool.high);
	lock_put(&pool.lock);
	return true;
}
