/*
 * Address space: where the window is, which blocks of it are mapped and open.
 *
 * The window is a range that we choose and that is mapped piece by piece as memory is needed, so that neither VIRT nor
 * RLIMIT_AS sees more than is used. Blocks are opened whole and in rising order, so that all of it is a handful of
 * mappings; what is not committed in an open block has been discarded. A strict pool (mlockall, overcommit 2) and a
 * block for which RLIMIT_DATA has no room open exactly the pages that are committed.
 */
#include "pool/internal.h"

#include <errno.h>

#define GIB ((uint64_t)1 << 30)
/* Below: programs linked at fixed addresses. Above: position-independent programs, their heap, the kernel's mmap area.
 */
#define PLACE_LOW (UINT64_C(16) << 40)
#define PLACE_HIGH (UINT64_C(80) << 40)
/* Any machine's memory, several times over: address space is not compacted. */
#define PLACED_CHUNKS ((UINT64_C(16) << 40) >> CHUNK_SHIFT)
/* Where we cannot choose: sanitizers and emulators have their own idea of the address space. */
#define UNPLACED_MOST (64 * GIB)
#define UNPLACED_LEAST ((uint64_t)GROUP_BYTES)
#define META_BYTES (32 * GIB)

_Static_assert(PLACED_CHUNKS <= UINT32_MAX - 1, "an index fits 32 bits, and CHUNK_NONE is none");

struct pool_window pool_window;

/* ---- layout ---- */

struct layout {
	size_t canary_bytes, supers_bytes, groups_bytes, table_bytes, meta_bytes; /* below the window, in this order */
	size_t below_bytes;
};

static size_t round_up(size_t bytes, size_t to)
{
	return (bytes + to - 1) & ~(to - 1);
}

static struct layout layout_of(uint64_t chunks, size_t meta_bytes)
{
	const uint64_t groups = chunks / GROUP_CHUNKS;
	struct layout layout = {
		.canary_bytes = BLOCK_BYTES,
		.supers_bytes = round_up((groups / SUPER_GROUPS + 1) * sizeof(struct node), BLOCK_BYTES),
		.groups_bytes = round_up(groups * sizeof(struct group), BLOCK_BYTES),
		.table_bytes = round_up(chunks * sizeof(struct chunk), BLOCK_BYTES),
		.meta_bytes = meta_bytes,
	};

	layout.below_bytes = layout.canary_bytes + layout.supers_bytes + layout.groups_bytes + layout.table_bytes +
			     layout.meta_bytes;
	return layout;
}

static struct region region_at(uintptr_t base, size_t bytes, size_t piece_bytes)
{
	return (struct region){
		.base = base, .bytes = bytes, .piece_bytes = piece_bytes, .mapped_bytes = pool.placed ? 0 : bytes};
}

static void use_layout(uintptr_t low, uintptr_t window, uint64_t chunks, const struct layout *layout)
{
	uintptr_t at = low;

	pool.low = low;
	pool.high = window + (chunks << CHUNK_SHIFT);
	pool_index.groups_max = (uint32_t)(chunks / GROUP_CHUNKS);
	pool.canary_region = region_at(at, OS_PAGE_BYTES, OS_PAGE_BYTES);
	at += layout->canary_bytes;
	pool.supers_region = region_at(at, layout->supers_bytes, 64 << 10);
	pool_index.supers = (struct node *)at;
	at += layout->supers_bytes;
	pool.groups_region = region_at(at, layout->groups_bytes, 64 << 10);
	pool_index.groups = (struct group *)at;
	at += layout->groups_bytes;
	pool_window.chunks = (struct chunk *)at;
	at += layout->table_bytes;
	pool.meta_region = region_at(at, layout->meta_bytes, 256 << 10);
	pool_window.base = window;
	pool_window.chunk_count = chunks;
}

/* Is there room for the first piece of each part? */
static int try_place(uintptr_t low, uintptr_t window)
{
	void *space;
	int error = os_space_map(window, BLOCK_BYTES, BLOCK_BYTES, &space);

	if (error)
		return error;
	os_unmap(space, BLOCK_BYTES);
	error = os_space_map(low, OS_PAGE_BYTES, OS_PAGE_BYTES, &space);
	if (error == 0)
		os_unmap(space, OS_PAGE_BYTES);
	return error;
}

static int place(void)
{
	enum { TRIES = 16, GAP_GIB = 1024 };
	const struct layout layout = layout_of(PLACED_CHUNKS, META_BYTES);
	const uint64_t bytes = layout.below_bytes + GAP_GIB * GIB + (PLACED_CHUNKS << CHUNK_SHIFT);

	for (int i = 0; i < TRIES; i++) {
		uint64_t random[2];

		os_random(random, sizeof random);
		const uintptr_t low = PLACE_LOW + random[0] % ((PLACE_HIGH - PLACE_LOW - bytes) / GIB) * GIB;
		/* How far the window is from what describes it is nobody's business. */
		const uintptr_t window = round_up(low + layout.below_bytes, GIB) + random[1] % (GAP_GIB - 1) * GIB;

		if (try_place(low, window) == 0) {
			pool.placed = true;
			use_layout(low, window, PLACED_CHUNKS, &layout);
			return 0;
		}
	}
	return -ENOMEM;
}

static int let_kernel_place(void)
{
	for (uint64_t bytes = UNPLACED_MOST; bytes >= UNPLACED_LEAST; bytes /= 2) {
		const struct layout layout = layout_of(bytes >> CHUNK_SHIFT, round_up(bytes / 64, BLOCK_BYTES));
		void *space;

		if (os_space_map(0, layout.below_bytes + bytes, BLOCK_BYTES, &space) != 0)
			continue;
		(void)!os_advise(space, layout.below_bytes + bytes, OS_NO_HUGE);
		pool.placed = false;
		use_layout((uintptr_t)space, (uintptr_t)space + layout.below_bytes, bytes >> CHUNK_SHIFT, &layout);
		return 0;
	}
	return -ENOMEM;
}

int window_place(void)
{
	if (!HF_TSAN && !HF_ASAN && place() == 0)
		return 0;
	return let_kernel_place();
}

void pool_extent(uintptr_t *low_out, uintptr_t *high_out)
{
	*low_out = pool.low;
	*high_out = pool.high;
}

/* ---- mapping ---- */

int space_map_plain(uintptr_t address, size_t bytes)
{
	void *space;
	int error = os_space_map(address, bytes, OS_PAGE_BYTES, &space);

	if (error)
		return error == -EEXIST ? -EEXIST : -ENOMEM; /* -EAGAIN: locked, and over RLIMIT_MEMLOCK */
	error = os_advise(space, bytes, OS_NO_HUGE);
	if (error == 0 || error == -EINVAL) /* a kernel without huge pages does not know the word */
		return 0;
	/* One touch could make two megabytes resident: P2. */
	os_unmap(space, bytes);
	return -ENOMEM;
}

static uintptr_t block_address(uint32_t block)
{
	return pool_window.base + ((uintptr_t)block << BLOCK_SHIFT);
}

static void set_flags(uint32_t from, uint32_t to, uint32_t set, uint32_t clear)
{
	for (uint32_t i = from; i < to; i++) {
		block_clear(block_at(i), clear);
		block_set(block_at(i), set);
	}
}

/* Map unmapped blocks [from, to) exactly; what is somebody else's is found by halves. */
int space_map_blocks(uint32_t from, uint32_t to)
{
	int error = space_map_plain(block_address(from), (size_t)(to - from) << BLOCK_SHIFT);

	if (error == 0)
		set_flags(from, to, BLOCK_MAPPED, 0);
	if (error != -EEXIST)
		return error;
	if (to - from == 1) {
		block_set(block_at(from), BLOCK_TAKEN);
		index_mark(from * BLOCK_CHUNKS, BLOCK_CHUNKS, MARK_USED);
		return -EEXIST;
	}
	const uint32_t middle = from + (to - from) / 2;
	error = space_map_blocks(from, middle);
	if (error == -ENOMEM)
		return error;
	const int second = space_map_blocks(middle, to);
	return second != 0 ? second : error;
}

/* How far beyond @to to map in the same call: to the end of the group, less where RLIMIT_AS is near. */
static uint32_t further(uint32_t to)
{
	const uint64_t limit_bytes = os_limit_address_space();
	const uint32_t group_end = (to + GROUP_BLOCKS - 1) / GROUP_BLOCKS * GROUP_BLOCKS;
	uint32_t end = to;

	if (limit_bytes != UINT64_MAX || pool.strict)
		return to; /* locked or limited: only what is needed */
	while (end < group_end && !(block_flags(block_at(end)) & (BLOCK_MAPPED | BLOCK_TAKEN)))
		end++;
	return end;
}

static int map_missing(uint32_t from, uint32_t to)
{
	while (from < to) {
		if (block_flags(block_at(from)) & BLOCK_MAPPED) {
			from++;
			continue;
		}
		uint32_t end = from + 1;
		while (end < to && !(block_flags(block_at(end)) & BLOCK_MAPPED))
			end++;
		const uint32_t more = end == to ? further(to) : end;
		int error = space_map_plain(block_address(from), (size_t)(more - from) << BLOCK_SHIFT);
		if (error == 0)
			set_flags(from, more, BLOCK_MAPPED, 0);
		else
			error = space_map_blocks(from, end);
		if (error)
			return error;
		from = end;
	}
	return 0;
}

/* Address space and data limits are near: empty blocks need not count. The number of blocks. */
uint32_t space_unmap_empty(void)
{
	const uint32_t blocks = groups_known() * GROUP_BLOCKS;
	const uint32_t which = pool.placed ? BLOCK_MAPPED : BLOCK_OPEN;
	uint32_t count = 0;

	for (uint32_t from = 0; from < blocks;) {
		uint32_t to = from;

		while (to < blocks && (block_flags(block_at(to)) & which) && block_at(to)->free == UINT32_MAX &&
			block_at(to)->idle == 0)
			to++;
		if (to == from) {
			from++;
			continue;
		}
		void *const space = (void *)block_address(from);
		const size_t bytes = (size_t)(to - from) << BLOCK_SHIFT;
		if (pool.placed) {
			os_unmap(space, bytes);
			set_flags(from, to, 0, BLOCK_MAPPED | BLOCK_OPEN | BLOCK_ODD);
			count += to - from;
		} else if (os_space_close(space, bytes) == 0) {
			(void)!os_advise(space, bytes, OS_NO_HUGE);
			set_flags(from, to, 0, BLOCK_OPEN | BLOCK_ODD);
			count += to - from;
		}
		from = to;
	}
	return count;
}

/* ---- opening ---- */

static uint64_t block_first_page(uint32_t block)
{
	return (uint64_t)block * BLOCK_PAGES;
}

/* [page, page + pages) lies in blocks [from, to), none of which is open. */
static int open_blocks(uint32_t from, uint32_t to, uint64_t page, uint64_t pages)
{
	if (!pool.strict && os_space_open((void *)block_address(from), (size_t)(to - from) << BLOCK_SHIFT) == 0) {
		set_flags(from, to, BLOCK_OPEN, 0);
		return 0;
	}
	return os_space_open(page_address(page), pages << OS_PAGE_SHIFT) == 0 ? 0 : -ENOMEM;
}

static int open_pages(uint64_t page, uint64_t pages)
{
	const uint64_t end_page = page + pages;

	while (page < end_page) {
		const uint32_t from = (uint32_t)(page / BLOCK_PAGES);
		uint32_t to = from;
		const bool open = block_flags(block_at(from)) & BLOCK_OPEN;

		do
			to++;
		while (block_first_page(to) < end_page && !!(block_flags(block_at(to)) & BLOCK_OPEN) == open);
		const uint64_t stop = block_first_page(to) < end_page ? block_first_page(to) : end_page;
		const int error = open ? 0 : open_blocks(from, to, page, stop - page);
		if (error)
			return error;
		page = stop;
	}
	return 0;
}

int space_prepare(uint32_t first, uint32_t chunks, uint64_t page, uint64_t pages)
{
	const uint32_t from = first / BLOCK_CHUNKS;
	const uint32_t to = (first + chunks - 1) / BLOCK_CHUNKS + 1;

	for (int attempt = 0;; attempt++) {
		int error = map_missing(from, to);

		if (error == 0 && pages != 0)
			error = open_pages(page, pages);
		if (error != -ENOMEM || attempt > 0 || space_unmap_empty() == 0)
			return error;
	}
}

/* ---- giving back ---- */

static bool give_back_in_block_kind(uint64_t page, uint64_t pages, bool open)
{
	void *const address = page_address(page);
	const size_t bytes = pages << OS_PAGE_SHIFT;

	if (!open && os_space_close(address, bytes) == 0) {
		(void)!os_advise(address, bytes, OS_NO_HUGE); /* else opened again with whatever is the default */
		return true;
	}
	return os_discard(address, bytes) == 0;
}

bool space_give_back(uint64_t page, uint64_t pages)
{
	const uint64_t end_page = page + pages;
	bool all = true;

	while (page < end_page) {
		const uint32_t from = (uint32_t)(page / BLOCK_PAGES);
		uint32_t to = from;
		const bool open = block_flags(block_at(from)) & BLOCK_OPEN;

		do
			to++;
		while (block_first_page(to) < end_page && !!(block_flags(block_at(to)) & BLOCK_OPEN) == open);
		const uint64_t stop = block_first_page(to) < end_page ? block_first_page(to) : end_page;
		all &= give_back_in_block_kind(page, stop - page, open);
		page = stop;
	}
	return all;
}

void space_abandon(uint64_t page, uint64_t pages)
{
	if (pages != 0 && pool.strict)
		(void)!space_give_back(page, pages);
}

void space_tidy(uint32_t first, uint32_t chunks)
{
	const uint32_t end = (first + chunks - 1) / BLOCK_CHUNKS + 1;

	for (uint32_t from = first / BLOCK_CHUNKS; from < end;) {
		uint32_t to = from;

		while (to < end && (block_flags(block_at(to)) & BLOCK_ODD) && block_at(to)->free == UINT32_MAX &&
			block_at(to)->idle == 0)
			to++;
		if (to == from) {
			from++;
			continue;
		}
		if (os_space_close((void *)block_address(from), (size_t)(to - from) << BLOCK_SHIFT) == 0) {
			(void)!os_advise((void *)block_address(from), (size_t)(to - from) << BLOCK_SHIFT, OS_NO_HUGE);
			set_flags(from, to, 0, BLOCK_ODD | BLOCK_OPEN);
		}
		from = to;
	}
}

void space_lose(uint32_t first, uint32_t chunks)
{
	const uint32_t end = first + chunks;

	while (first < end) {
		const uint32_t block = first / BLOCK_CHUNKS;
		const uint32_t stop = least(end, (block + 1) * BLOCK_CHUNKS);

		/* Without descriptors nothing else is in the block either. */
		if (stop - first == BLOCK_CHUNKS || !(block_flags(block_at(block)) & BLOCK_TABLE)) {
			block_set(block_at(block), BLOCK_TAKEN);
			index_mark(block * BLOCK_CHUNKS, BLOCK_CHUNKS, MARK_USED);
			first = stop;
			continue;
		}
		index_mark(first, stop - first, MARK_USED);
		for (; first < stop; first++) {
			chunk_at(first)->state = CHUNK_SPAN_BODY;
			chunk_at(first)->pool_word = CHUNK_NONE; /* the body of nothing */
			pool.used_chunks++;
			pool.lost_chunks++;
		}
	}
}

/* A hole within one block. */
static void restore_part(uint32_t block, uint64_t page, uint64_t pages)
{
	struct block *at = block_at(block);

	if (space_map_plain((uintptr_t)page_address(page), pages << OS_PAGE_SHIFT) == 0) {
		if ((block_flags(at) & BLOCK_OPEN) && os_space_open(page_address(page), pages << OS_PAGE_SHIFT) != 0)
			block_clear(at, BLOCK_OPEN);
		return;
	}
	const uint32_t first = (uint32_t)(page / CHUNK_PAGES);
	space_lose(first, (uint32_t)((page + pages - 1) / CHUNK_PAGES) + 1 - first);
}

void space_restore(uint64_t page, uint64_t pages)
{
	const uint64_t end_page = page + pages;

	while (page < end_page) {
		const uint32_t from = (uint32_t)(page / BLOCK_PAGES);

		if (page == block_first_page(from) && end_page - page >= BLOCK_PAGES) {
			const uint32_t to = (uint32_t)(end_page / BLOCK_PAGES);

			set_flags(from, to, 0, BLOCK_MAPPED | BLOCK_OPEN | BLOCK_ODD);
			/* What fails here is still unmapped, and is tried again when it is needed. */
			(void)!space_map_blocks(from, to);
			page = block_first_page(to);
			continue;
		}
		const uint64_t stop = block_first_page(from + 1) < end_page ? block_first_page(from + 1) : end_page;
		restore_part(from, page, stop - page);
		page = stop;
	}
}

/* ---- finding ---- */

/* Chunks to add to an index so that the address is a multiple; @align in chunks. */
static uint32_t pad_to(uint32_t index, uint32_t align, uint32_t residue)
{
	return (residue - index) & (align - 1);
}

static uint32_t find_known(uint32_t from, uint32_t chunks, uint32_t align, uint32_t residue)
{
	enum { LOOKS = 64 };

	for (int i = 0; i < LOOKS; i++) {
		const uint32_t first = index_find(from, chunks);

		if (first == CHUNK_NONE || align <= 1)
			return first;
		const uint32_t pad = pad_to(first, align, residue);
		const uint32_t length = index_run(first, chunks + align - 1);
		if (pad + chunks <= length)
			return first + pad;
		from = first + length;
	}
	/* Any run that is so long contains an aligned one. */
	const uint32_t first = index_find(from, chunks + align - 1);
	return first == CHUNK_NONE ? CHUNK_NONE : first + pad_to(first, align, residue);
}

uint32_t space_find(uint32_t from, uint32_t chunks, uint32_t align, uint32_t residue, uint64_t floor_pages)
{
	const uint32_t found = find_known(from, chunks, align, residue);

	if (HF_LIKELY(found != CHUNK_NONE))
		return found;
	for (;;) {
		const uint32_t known = chunks_known();
		uint32_t first = known - index_tail();

		if (first < from)
			first = from;
		first += pad_to(first, align, residue);
		if (first <= known && known - first >= chunks)
			return first;
		/* What is added makes the tail longer: no need to look at it before it can be long enough. */
		do {
			if (index_extend(floor_pages) != 0)
				return CHUNK_NONE;
		} while (chunks_known() < (uint64_t)first + chunks);
	}
}
