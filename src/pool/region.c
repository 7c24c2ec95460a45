/*
 * The pool's own metadata: summaries and blocks of the index, pages of descriptors, the heap's, the canary. All of it
 * is charged by the page as it comes into use.
 *
 * A few pages are kept committed in advance (spare): large free memory in another shape needs descriptors elsewhere,
 * and when the budget is full, a request for all that is idle must not fail for want of one page of them.
 */
#include "pool/internal.h"

#include <errno.h>
#include <string.h>

enum {
	SPARE_PAGES = 4,	   /* descriptors of a run's two ends, a page of the index, one more */
	SPARE_GROUPS_PER_PAGE = 6, /* a page of the index describes six groups: room to double the address space */
	SPARE_PAUSE = 64,	   /* a full ledger is not asked for them at each take */
	SPARE_LIMIT_PART = 1024,   /* but never more than this part of the budget */
};

/* ---- charging ---- */

int meta_acquire(uint64_t pages, uint64_t floor_pages)
{
	if (pages_commit(pages, floor_pages) == 0) {
		pool.meta_pages += pages;
		return 0;
	}
	if (pool.spare_pages < pages)
		return -ENOMEM;
	pool.spare_pages -= pages;
	return 0;
}

void meta_release(uint64_t pages)
{
	pool.meta_pages -= pages;
	pages_uncommit(pages, ledger_epoch(pool.ledger));
}

void spare_refill(uint64_t floor_pages)
{
	uint64_t wanted = SPARE_PAGES + groups_known() / SPARE_GROUPS_PER_PAGE;

	if (HF_LIKELY(pool.spare_pages >= wanted))
		return;
	if (wanted > pool.limit_pages / SPARE_LIMIT_PART)
		wanted = pool.limit_pages / SPARE_LIMIT_PART;
	if (pool.spare_pages >= wanted)
		return;
	if (pool.spare_pause > 0) {
		pool.spare_pause--;
		return;
	}
	wanted -= pool.spare_pages;
	if (pages_commit(wanted, floor_pages) != 0) {
		pool.spare_pause = SPARE_PAUSE;
		return;
	}
	pool.spare_pages += wanted;
	pool.meta_pages += wanted;
}

/* ---- regions ---- */

static int region_map(struct region *region, size_t bytes)
{
	while (region->mapped_bytes < bytes) {
		size_t piece = region->piece_bytes;
		int error;

		if (piece > region->bytes - region->mapped_bytes)
			piece = region->bytes - region->mapped_bytes;
		error = space_map_plain(region->base + region->mapped_bytes, piece);
		if (error == -ENOMEM && piece > bytes - region->mapped_bytes) {
			piece = bytes - region->mapped_bytes;
			error = space_map_plain(region->base + region->mapped_bytes, piece);
		}
		if (error)
			return -ENOMEM; /* also where somebody else is in the way: there is no second place */
		region->mapped_bytes += piece;
	}
	return 0;
}

int region_open(struct region *region, size_t bytes, uint64_t floor_pages)
{
	const size_t upto = (bytes + OS_PAGE_BYTES - 1) & ~(size_t)(OS_PAGE_BYTES - 1);
	int error;

	if (HF_LIKELY(bytes <= region->open_bytes))
		return 0;
	if (upto > region->bytes)
		return -ENOMEM;
	error = region_map(region, upto);
	if (error)
		return error;
	const uint64_t pages = (upto - region->open_bytes) >> OS_PAGE_SHIFT;
	if (meta_acquire(pages, floor_pages) != 0)
		return -ENOMEM;
	if (os_space_open((void *)(region->base + region->open_bytes), upto - region->open_bytes) != 0) {
		meta_release(pages);
		return -ENOMEM;
	}
	region->open_bytes = upto;
	return 0;
}

/* ---- descriptors ---- */

static void *table_address(uint32_t block)
{
	return &pool_window.chunks[(size_t)block * BLOCK_CHUNKS];
}

/* Somebody else is where the group's descriptors would be: what is still empty of it is never used. */
static void give_up_group(uint32_t group)
{
	for (uint32_t i = 0; i < GROUP_BLOCKS; i++) {
		struct block *block = &pool_index.groups[group].blocks[i];

		if (block->free != UINT32_MAX || block->idle != 0)
			continue;
		block_set(block, BLOCK_TAKEN);
		index_mark((group * GROUP_BLOCKS + i) * BLOCK_CHUNKS, BLOCK_CHUNKS, MARK_USED);
	}
}

/* Readable from the start, as zeros, so that any address below known_chunks can be looked up without asking. */
int table_map_group(uint32_t group)
{
	void *const tables = table_address(group * GROUP_BLOCKS);
	struct block *first = &pool_index.groups[group].blocks[0];
	int error = 0;

	if (block_flags(first) & BLOCK_TABLES_MAPPED)
		return 0;
	if (pool.placed)
		error = space_map_plain((uintptr_t)tables, (size_t)GROUP_BLOCKS * TABLE_BYTES);
	if (error)
		return error;
	if (os_space_show(tables, (size_t)GROUP_BLOCKS * TABLE_BYTES) != 0) {
		if (pool.placed)
			os_unmap(tables, (size_t)GROUP_BLOCKS * TABLE_BYTES);
		return -ENOMEM;
	}
	block_set(first, BLOCK_TABLES_MAPPED);
	return 0;
}

static int table_open(uint32_t block)
{
	struct block *at = block_at(block);
	int error = table_map_group(block / GROUP_BLOCKS);

	if (error)
		return error;
	if (os_space_open(table_address(block), TABLE_BYTES) != 0)
		return -ENOMEM;
	at->table_epoch = ledger_epoch(pool.ledger);
	block_set(at, BLOCK_TABLE);
	return 0;
}

int table_prepare(uint32_t block, uint64_t floor_pages)
{
	int error;

	if (HF_LIKELY(block_flags(block_at(block)) & BLOCK_TABLE))
		return 0;
	if (meta_acquire(1, floor_pages) != 0)
		return -ENOMEM;
	error = table_open(block);
	if (error != 0)
		meta_release(1);
	return error;
}

void table_give_up(uint32_t block)
{
	give_up_group(block / GROUP_BLOCKS);
}

uint64_t table_reclaim(void)
{
	const uint32_t blocks = groups_known() * GROUP_BLOCKS;
	uint64_t pages = 0;

	for (uint32_t i = 0; i < blocks; i++) {
		struct block *block = block_at(i);

		if (!(block_flags(block) & BLOCK_TABLE) || block->free != UINT32_MAX || block->idle != 0)
			continue;
		/* A reader without the lock that still takes it for mapped finds zeros: an EMPTY chunk. */
		if (os_discard(table_address(i), TABLE_BYTES) != 0)
			continue;
		block_clear(block, BLOCK_TABLE);
		pool.meta_pages--;
		pages_uncommit(1, block->table_epoch);
		pages++;
	}
	return pages;
}

/* ---- the heap's metadata ---- */

void *pool_meta_alloc(size_t bytes)
{
	void *memory = NULL;

	if (bytes > pool.meta_region.bytes)
		return NULL;
	bytes = (bytes + 15) & ~(size_t)15;
	lock_take(&pool.lock);
	if (bytes <= pool.meta_region.bytes - pool.meta_used_bytes &&
		region_open(&pool.meta_region, pool.meta_used_bytes + bytes, 0) == 0) {
		memory = (void *)(pool.meta_region.base + pool.meta_used_bytes);
		pool.meta_used_bytes += bytes;
	}
	lock_put(&pool.lock);
	return memory;
}

/* ---- the canary: a page that only a fork wipes ---- */

static _Atomic uint64_t *canary(void)
{
	return (_Atomic uint64_t *)pool.canary_region.base;
}

int canary_prepare(uint64_t floor_pages)
{
	int error;

	if (HF_LIKELY(pool.canary_region.open_bytes != 0))
		return 0;
	error = region_open(&pool.canary_region, OS_PAGE_BYTES, floor_pages);
	if (error != 0)
		return error;
	canary_write();
	/*
	 * Without it (Linux before 4.14) raw clones are not told apart; nothing else depends on it.
	 * Release: whoever sees that it works sees what was written to it. Pairs with canary_is_wiped().
	 */
	atomic_store_explicit(
		&pool.canary_works, os_advise(canary(), OS_PAGE_BYTES, OS_WIPE_ON_FORK) == 0, memory_order_release);
	return 0;
}

void canary_write(void)
{
	if (pool.canary_region.open_bytes != 0)
		atomic_store_explicit(canary(), CANARY_MAGIC, memory_order_relaxed);
}

bool canary_is_wiped(void)
{
	/* Acquire: pairs with canary_prepare(). The page itself changes only by becoming another process. */
	return atomic_load_explicit(&pool.canary_works, memory_order_acquire) &&
	       atomic_load_explicit(canary(), memory_order_relaxed) != CANARY_MAGIC;
}
