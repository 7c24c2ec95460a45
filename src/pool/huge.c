/*
 * Huge pages, for large spans only.
 *
 * All of a span's pages are counted before it is handed out, so one touch that makes two megabytes resident breaks
 * nothing (P2), if those two megabytes are the span's alone. So exactly the span's own pages get the kernel's
 * permission, and only where the span begins with a block: then whole blocks of it are huge, and its last, partial
 * block cannot be.
 *
 * The kernel keeps the whole charge of a huge page that is given back in part. So blocks that were allowed to be huge
 * (BLOCK_HUGE) are given back whole, by a fresh mapping; a span that is cut inside one keeps it to its end.
 *
 * A fork ends it: a huge page of which a parent or child has copied a part is charged whole, beside the copy, for as
 * long as any of it is used. From the first fork on a process makes no more of them, and splits those that it has.
 */
#include "pool/internal.h"

#include <errno.h>

enum {
	/* Splitting takes about 260 us a block: a fork by a process with more than 1 GiB of them is not held up so
	   long. */
	SPLIT_BLOCKS_MOST = 512,
};

void huge_init(void)
{
	pool.huge = !pool.strict && os_thp_mode() != 0;
	pool.huge_from_pages = 4096; /* a process that holds less than 16 MiB stays exact to the page */
}

bool huge_is(uint32_t first)
{
	return first % BLOCK_CHUNKS == 0 && (block_flags(block_at(first / BLOCK_CHUNKS)) & BLOCK_HUGE);
}

static int advise_pages(uint32_t first, uint64_t from, uint64_t to, enum os_advice advice)
{
	return os_advise(page_address((uint64_t)first * CHUNK_PAGES + from), (to - from) << OS_PAGE_SHIFT, advice);
}

void huge_mark(uint32_t first, uint64_t from_pages, uint64_t pages)
{
	const uint32_t block = first / BLOCK_CHUNKS;

	for (uint64_t i = from_pages / BLOCK_PAGES; i < pages / BLOCK_PAGES; i++)
		block_set(block_at(block + (uint32_t)i), BLOCK_HUGE);
}

void huge_allow(uint32_t first, uint64_t from_pages, uint64_t pages)
{
	if (!pool.huge || first % BLOCK_CHUNKS != 0 || pages < BLOCK_PAGES ||
		pool.committed_pages < pool.huge_from_pages)
		return;
	if (!huge_is(first))
		from_pages = 0; /* it was small so far */
	/* If it was allowed for a part only, and that cannot be undone, all of it counts as huge. */
	if (advise_pages(first, from_pages, pages, OS_HUGE) == 0 ||
		advise_pages(first, from_pages, pages, OS_NO_HUGE) != 0)
		huge_mark(first, from_pages, pages);
}

uint64_t huge_cut(uint32_t first, uint64_t old_pages, uint64_t pages)
{
	const uint64_t whole = old_pages / BLOCK_PAGES * BLOCK_PAGES;

	if (!huge_is(first) || pages >= whole)
		return pages;
	return (pages + BLOCK_PAGES - 1) / BLOCK_PAGES * BLOCK_PAGES;
}

/* The partial last block: small pages, in a mapping that would let them become huge together with what follows. */
static bool give_back_tail(uint32_t first, uint64_t from, uint64_t to)
{
	const uint64_t page = (uint64_t)first * CHUNK_PAGES + from;
	struct block *block = block_at((uint32_t)(page / BLOCK_PAGES));

	if (from == to)
		return true;
	if (advise_pages(first, from, to, OS_NO_HUGE) == 0)
		return space_give_back(page, to - from);
	if (os_space_close(page_address(page), (to - from) << OS_PAGE_SHIFT) != 0)
		return false;
	block_clear(block, BLOCK_OPEN);
	return true;
}

static bool give_back_blocks(uint32_t first, uint64_t from, uint64_t to)
{
	const uint32_t block = first / BLOCK_CHUNKS + (uint32_t)(from / BLOCK_PAGES);
	const uint32_t count = (uint32_t)((to - from) / BLOCK_PAGES);
	void *const address = page_address((uint64_t)first * CHUNK_PAGES + from);
	const size_t bytes = (to - from) << OS_PAGE_SHIFT;

	if (count == 0)
		return true;
	if (os_space_close(address, bytes) != 0)
		return false;
	(void)!os_advise(address, bytes, OS_NO_HUGE); /* else opened again with whatever is the default */
	for (uint32_t i = block; i < block + count; i++)
		block_clear(block_at(i), BLOCK_HUGE | BLOCK_OPEN | BLOCK_ODD);
	return true;
}

bool huge_give_back(uint32_t first, uint64_t from_pages, uint64_t pages)
{
	const uint64_t whole = pages / BLOCK_PAGES * BLOCK_PAGES;
	const uint64_t tail = from_pages > whole ? from_pages : whole;

	HF_ASSERT(from_pages >= whole || from_pages % BLOCK_PAGES == 0);
	return give_back_tail(first, tail, pages) &&
	       (from_pages >= whole || give_back_blocks(first, from_pages, whole));
}

void huge_clear(uint32_t first, uint64_t pages)
{
	for (uint64_t i = 0; i < pages / BLOCK_PAGES; i++)
		block_clear(block_at(first / BLOCK_CHUNKS + (uint32_t)i), BLOCK_HUGE);
}

/* One page of a block said to be cold splits the huge page that it is in. */
static void split_span(uint32_t first)
{
	const uint64_t pages = span_pages(chunk_at(first));

	for (uint64_t at = 0; at + BLOCK_PAGES <= pages; at += BLOCK_PAGES)
		(void)!advise_pages(first, at, at + 1, OS_COLD);
	/* They keep the mark: what could not be split is still given back whole. */
	(void)!advise_pages(first, 0, pages, OS_NO_HUGE);
}

void huge_end(void)
{
	const uint32_t blocks = groups_known() * GROUP_BLOCKS;
	uint32_t count = 0;

	if (!pool.huge)
		return;
	pool.huge = false;
	for (uint32_t i = 0; i < blocks; i++)
		count += (block_flags(block_at(i)) & BLOCK_HUGE) != 0;
	if (count > SPLIT_BLOCKS_MOST)
		return;
	for (uint32_t i = 0; i < blocks; i++)
		if ((block_flags(block_at(i)) & (BLOCK_HUGE | BLOCK_BODY)) == BLOCK_HUGE)
			split_span(i * BLOCK_CHUNKS);
}
