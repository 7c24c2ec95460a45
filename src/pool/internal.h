/*
 * What the files of the pool share. Not for other layers.
 *
 * Numbers: a chunk, block or page is named by its distance from pool_window.base in that unit.
 * "In hand" are pages that the ledger has counted and that no chunk owns yet: whoever acquires them gives them
 * to a chunk or uncommits them.
 */
#ifndef HF_POOL_INTERNAL_H
#define HF_POOL_INTERNAL_H

#include "base/assert.h"
#include "os/lock.h"
#include "os/os.h"
#include "pool/index.h"
#include "pool/pool.h"
#include "pool/word.h"

#include <stdatomic.h>

enum {
	BLOCK_PAGES = BLOCK_BYTES / OS_PAGE_BYTES,
	TABLE_BYTES = OS_PAGE_BYTES, /* the descriptors of one block */
};
#define MASK_FULL ((uint16_t)UINT16_MAX)

_Static_assert(sizeof(struct chunk) == 128, "two cache lines");
_Static_assert(BLOCK_CHUNKS * sizeof(struct chunk) == TABLE_BYTES, "one page describes one block");
_Static_assert(CHUNK_PAGES == 16, "committed_mask has a bit per page");

/* Metadata's address space, which grows from its start: mapped by pieces, opened and charged by pages. */
struct region {
	uintptr_t base;
	size_t bytes;	    /* immutable */
	size_t piece_bytes; /* immutable */
	size_t mapped_bytes, open_bytes;
};

struct pool {
	/* Immutable after pool_init(). */
	struct ledger *ledger;
	bool placed; /* our own choice of address, mapped piece by piece; else one mapping that the kernel placed */
	uintptr_t low, high;

	/* Under the lock. */
	struct region supers_region, groups_region, meta_region, canary_region;
	uint64_t committed_pages; /* all that this process owes the ledger or its family: used, idle, metadata, in hand
				   */
	uint64_t meta_pages;	  /* of these: metadata, spare included */
	uint64_t spare_pages;	  /* committed for metadata to come: an address change must not need the ledger */
	uint64_t used_chunks;	  /* in spans and slabs, lost and retired ones included */
	uint64_t lost_chunks;	  /* address space that somebody else got into */
	size_t meta_used_bytes;
	uint32_t retired_first; /* chunks and spans that the kernel would not take back yet: linked by heap_words[0] */
	uint64_t limit_pages;	/* as last seen: the tightest of the ledgers above us */
	uint32_t idle_max_chunks; /* follows it */
	uint32_t puts_since_look;
	uint32_t spare_pause;	   /* takes until the next attempt to refill */
	uint32_t changes;	   /* debug: when to check all */
	bool strict;		   /* nothing uncommitted is accessible */
	_Atomic bool canary_works; /* also read without the lock */
	bool huge;		   /* large spans may have huge pages: not strict, and never forked */
	uint64_t huge_from_pages;  /* once so much is committed */
	bool wipe_failed;	   /* during a fork: the child must discard idle chunks itself */
	struct lock lock;
};
extern struct pool pool;

/* What a raw clone's child finds wiped. */
#define CANARY_MAGIC UINT64_C(0x486f6c6466617374)

/* ---- names of things ---- */

static inline struct chunk *chunk_at(uint32_t chunk)
{
	return &pool_window.chunks[chunk];
}

static inline uint32_t chunk_index(const struct chunk *chunk)
{
	return (uint32_t)(chunk - pool_window.chunks);
}

static inline void *page_address(uint64_t page)
{
	return (void *)(pool_window.base + (page << OS_PAGE_SHIFT));
}

/* The mask of the first @pages pages of a chunk; all of it for more. */
static inline uint16_t mask_of_first(uint64_t pages)
{
	if (pages >= CHUNK_PAGES)
		return MASK_FULL;
	return (uint16_t)((1U << pages) - 1);
}

static inline uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* ---- region.c: metadata ---- */

/* At least the first @bytes are open and charged. 0, -ENOMEM. */
HF_MUST_USE int region_open(struct region *region, size_t bytes, uint64_t floor_pages);
/* The descriptors of @block are there. 0; -ENOMEM; -EEXIST: not possible, and marked so; look elsewhere. */
HF_MUST_USE int table_prepare(uint32_t block, uint64_t floor_pages);
/* Address space for the descriptors of a group of blocks. Errors as above. */
HF_MUST_USE int table_map_group(uint32_t group);
/* -EEXIST from these: use nothing more of that group. */
void table_give_up(uint32_t block);
/* Give the descriptors of wholly empty blocks back. The pages. */
uint64_t table_reclaim(void);
HF_MUST_USE int meta_acquire(uint64_t pages, uint64_t floor_pages);
void meta_release(uint64_t pages);
void spare_refill(uint64_t floor_pages);
HF_MUST_USE int canary_prepare(uint64_t floor_pages);
void canary_write(void);
bool canary_is_wiped(void);

/* ---- window.c: address space ---- */

HF_MUST_USE int window_place(void);
/* Map fresh inaccessible space exactly there, never with huge pages. 0, -ENOMEM, -EEXIST. */
HF_MUST_USE int space_map_plain(uintptr_t address, size_t bytes);
/* The lowest free run at an index that is @residue modulo @align; the index is extended for it. CHUNK_NONE: no. */
uint32_t space_find(uint32_t from, uint32_t chunks, uint32_t align, uint32_t residue, uint64_t floor_pages);
/*
 * Make [page, page + pages) accessible; @chunks from @first contain it and are marked as used.
 * 0; -ENOMEM; -EEXIST: part of it is somebody else's and now marked so, look elsewhere.
 */
HF_MUST_USE int space_prepare(uint32_t first, uint32_t chunks, uint64_t page, uint64_t pages);
/* The pages go back to the kernel. False: it would not take them; they are as before. */
HF_MUST_USE bool space_give_back(uint64_t page, uint64_t pages);
/* Strict: what space_prepare() opened and nobody is going to use. */
void space_abandon(uint64_t page, uint64_t pages);
/* Blocks among these that are empty now lose what is odd about their mapping. */
void space_tidy(uint32_t first, uint32_t chunks);
/* [page, page + pages) has been unmapped by a move: make it ours again. Chunks that cannot be are lost. */
void space_restore(uint64_t page, uint64_t pages);
/* These empty chunks are never used again: their address space, or what is in it, is not in our hands. */
void space_lose(uint32_t first, uint32_t chunks);
int space_map_blocks(uint32_t from, uint32_t to);
/* Give address space of empty blocks back. The number of blocks. */
uint32_t space_unmap_empty(void);

/* ---- pages.c: the number, and idle chunks ---- */

/* @pages in hand, from the ledger or from idle chunks, or none. 0, -ENOMEM. */
HF_MUST_USE int pages_acquire(uint64_t pages, uint64_t floor_pages);
/* Straight from the ledger. */
HF_MUST_USE int pages_commit(uint64_t pages, uint64_t floor_pages);
void pages_uncommit(uint64_t pages, uint32_t epoch);
/* Discard up to @chunks idle chunks that have been taken from the word; those that will not go stay idle, and in
 * the word again. How many went; their pages are in hand. */
uint32_t idle_discard(uint32_t chunks);
/* No chunk of this run is idle any more. 0; -EAGAIN: some are reserved, or will not go. */
HF_MUST_USE int idle_evict(uint32_t first, uint32_t chunks);
/* The limit may have changed. */
void limit_look(void);
/* Room for @wanted more idle chunks; makes some where that is cheap. */
uint32_t idle_room(uint32_t wanted);
uint64_t trim_locked(uint64_t keep_chunks);

/* ---- huge.c: huge pages for large spans; pages are counted from the span's start ---- */

void huge_init(void);
/* Is the span that begins here allowed to have huge pages? */
bool huge_is(uint32_t first);
/* Pages [from_pages, pages) of this span are new, and may be huge. */
void huge_allow(uint32_t first, uint64_t from_pages, uint64_t pages);
/* Where a span can be cut that should be cut at @pages. */
uint64_t huge_cut(uint32_t first, uint64_t old_pages, uint64_t pages);
/* space_give_back() for [from_pages, pages), the end of such a span. */
HF_MUST_USE bool huge_give_back(uint32_t first, uint64_t from_pages, uint64_t pages);
/* It has come here by a move; it is not there any more. */
void huge_mark(uint32_t first, uint64_t from_pages, uint64_t pages);
void huge_clear(uint32_t first, uint64_t pages);
/* Split what there is, and make no more. */
void huge_end(void);

/* ---- chunk.c, span.c ---- */

/* The kernel would not take the pages of this used chunk or span: keep it, charged, and try again later. */
void retire(struct chunk *chunk);
uint64_t retired_retry(void);
/* True: the pages of the span are back, and its chunks empty. */
bool span_release(struct chunk *first);
bool chunk_release(struct chunk *chunk);
static inline uint64_t span_pages(const struct chunk *first)
{
	return first->pool_word;
}
/* What a run of the pool needs before it can be labelled: descriptors for its ends, accessible pages. */
HF_MUST_USE int run_claim(uint32_t chunks, uint32_t align, uint32_t residue, uint64_t skip_pages, uint64_t pages,
	uint64_t floor_pages, uint32_t *first_out);
void run_unclaim(uint32_t first, uint32_t chunks, uint64_t skip_pages, uint64_t pages);
void span_label(uint32_t first, uint32_t chunks, uint64_t pages, uint32_t epoch);
void span_unlabel(uint32_t first, uint32_t chunks);

/* ---- check.c ---- */

/* The committed pages of each chunk of a block. */
void block_masks(uint32_t block, uint16_t masks_out[BLOCK_CHUNKS]);
void check_locked(void);
/* Debug builds: check everything now and then. */
void check_sampled(void);

#endif
