/*
 * What the files of the pool share. Not for other layers.
 *
 * Numbers: a chunk, block or page is named by its distance from pool_window.base in that unit. Blocks are kept in
 * groups of 32 and groups in supers of 32, so that a free run is found by looking at summaries (index.c).
 * "In hand" are pages that the ledger has counted and that no chunk owns yet: whoever acquires them gives them
 * to a chunk or uncommits them.
 */
#ifndef HF_POOL_INTERNAL_H
#define HF_POOL_INTERNAL_H

#include "base/assert.h"
#include "os/lock.h"
#include "os/os.h"
#include "pool/pool.h"

#include <stdatomic.h>

enum {
	GROUP_BLOCKS = 32,
	GROUP_CHUNKS = GROUP_BLOCKS * BLOCK_CHUNKS,
	SUPER_GROUPS = 32,
	SUPER_CHUNKS = SUPER_GROUPS * GROUP_CHUNKS,
	BLOCK_PAGES = BLOCK_BYTES / OS_PAGE_BYTES,
	GROUP_BYTES = GROUP_BLOCKS * BLOCK_BYTES,
	TABLE_BYTES = OS_PAGE_BYTES, /* the descriptors of one block */
};
#define CHUNK_NONE UINT32_MAX
#define MASK_FULL ((uint16_t)UINT16_MAX)

_Static_assert(sizeof(struct chunk) == 128, "two cache lines");
_Static_assert(BLOCK_CHUNKS * sizeof(struct chunk) == TABLE_BYTES, "one page describes one block");
_Static_assert(CHUNK_PAGES == 16, "committed_mask has a bit per page");

enum block_flag {
	BLOCK_MAPPED = 1, /* the address space is ours */
	BLOCK_OPEN = 2,	  /* all of it is readable and writable; else exactly the committed pages are. Implies MAPPED */
	BLOCK_TABLE = 4,  /* the page of its descriptors is there, and charged. Also read without the lock */
	BLOCK_BODY = 8,	  /* all its chunks are inside the span at span_head, which begins in another block */
	BLOCK_TAKEN = 16, /* found occupied by somebody else: never ours */
	BLOCK_ODD =
		32, /* holds a mapping that was moved here and cannot merge with others: replaced when it is empty */
	BLOCK_TABLES_MAPPED = 64, /* on a group's first block: address space for the group's descriptors is mapped */
};

struct block {
	uint32_t free;	      /* bit per chunk that a run may use: EMPTY or IDLE; 0 if TAKEN */
	uint32_t idle;	      /* bit per IDLE chunk; a subset of free; only where BLOCK_TABLE */
	uint32_t span_head;   /* BLOCK_BODY: the span's first chunk */
	uint32_t table_epoch; /* BLOCK_TABLE: ledger_epoch() of the page of descriptors */
	_Atomic uint32_t flags;
};

/* Of a block, a group or a super: free chunks at its start, in its longest free run, at its end; and which children
 * have idle chunks. */
struct node {
	uint32_t prefix, longest, suffix, idle;
};

struct group {
	struct node node;
	struct block blocks[GROUP_BLOCKS];
};

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
	struct node *supers;
	struct group *groups;
	uint32_t groups_max;

	/* P1's word: idle in the low half, which changes only under the lock; reserved in the high half. */
	_Atomic uint64_t word;
	/* Groups that the index knows; grows under the lock, read without it. */
	_Atomic uint32_t groups_known;

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
	bool wipe_failed;	   /* during a fork: the child must discard idle chunks itself */
	struct lock lock;
};
extern struct pool pool;

/* What a raw clone's child finds wiped. */
#define CANARY_MAGIC UINT64_C(0x486f6c6466617374)

/* ---- the word {idle, reserved}: P1 ---- */

static inline uint32_t word_idle(uint64_t word)
{
	return (uint32_t)word;
}

static inline uint32_t word_reserved(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static inline uint64_t word_now(void)
{
	return atomic_load_explicit(&pool.word, memory_order_relaxed);
}

/* Idle chunks that are nobody's reservation. */
static inline uint32_t word_available(void)
{
	const uint64_t word = word_now();

	return word_idle(word) - word_reserved(word);
}

static inline bool word_take(uint32_t chunks)
{
	uint64_t word = word_now();

	do {
		if (word_idle(word) - word_reserved(word) < chunks)
			return false; /* keeps P1 */
		/* Relaxed: which chunks these are is found under the lock, and that orders their contents. */
	} while (!atomic_compare_exchange_weak_explicit(
		&pool.word, &word, word - chunks, memory_order_relaxed, memory_order_relaxed));
	return true;
}

static inline void word_put(uint32_t chunks)
{
	atomic_fetch_add_explicit(&pool.word, chunks, memory_order_relaxed);
}

/* ---- names of things ---- */

static inline struct block *block_at(uint32_t block)
{
	return &pool.groups[block / GROUP_BLOCKS].blocks[block % GROUP_BLOCKS];
}

/* Flags change under the lock only; so a load and a store suffice. */
static inline uint32_t block_flags(const struct block *block)
{
	return atomic_load_explicit(&block->flags, memory_order_relaxed);
}

static inline void block_set(struct block *block, uint32_t flags)
{
	/* Release: a TABLE is readable before it is said to be. Pairs with the acquire in pool_index_is_mapped(). */
	atomic_store_explicit(&block->flags, block_flags(block) | flags, memory_order_release);
}

static inline void block_clear(struct block *block, uint32_t flags)
{
	atomic_store_explicit(&block->flags, block_flags(block) & ~flags, memory_order_relaxed);
}

static inline uint32_t groups_known(void)
{
	return atomic_load_explicit(&pool.groups_known, memory_order_relaxed);
}

static inline uint32_t chunks_known(void)
{
	return groups_known() * GROUP_CHUNKS;
}

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
	return pages < CHUNK_PAGES ? (uint16_t)((1U << pages) - 1) : (uint16_t)MASK_FULL;
}

static inline uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* ---- index.c: which chunks are free or idle ---- */

enum mark { MARK_USED, MARK_EMPTY, MARK_IDLE };
void index_mark(uint32_t first, uint32_t chunks, enum mark mark);
/* Know one group more. 0, -ENOMEM. */
HF_MUST_USE int index_extend(uint64_t floor_pages);
/* The lowest free run of @chunks that begins at @from or later; CHUNK_NONE. */
uint32_t index_find(uint32_t from, uint32_t chunks);
/* How many chunks from @first on are free, @most at most. */
uint32_t index_run(uint32_t first, uint32_t most);
/* Free chunks at the end of what is known. */
uint32_t index_tail(void);
uint32_t index_lowest_idle(void);
uint32_t index_highest_idle(void);
/* The first idle run of at least @chunks among the first few; CHUNK_NONE. */
uint32_t index_find_idle(uint32_t chunks);
/* The next maximal idle run at @from or later. False: none. */
bool index_next_idle_run(uint32_t from, uint32_t *first_out, uint32_t *chunks_out);
struct node index_node_of_group(uint32_t group);
struct node index_node_of_super(uint32_t super);

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
