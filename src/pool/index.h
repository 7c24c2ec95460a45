/*
 * The index: which chunks of the window are free, which of these are idle, and what state each block is in.
 *
 * Blocks are kept in groups of 32 and groups in supers of 32, whose summaries a search goes by. It knows neither the
 * ledger nor the kernel. Everything changes under the pool's lock; a block's flags and the number of groups are also
 * read without it.
 */
#ifndef HF_POOL_INDEX_H
#define HF_POOL_INDEX_H

#include "pool/pool.h"

#include <stdatomic.h>

enum {
	GROUP_BLOCKS = 32,
	GROUP_CHUNKS = GROUP_BLOCKS * BLOCK_CHUNKS,
	SUPER_GROUPS = 32,
	SUPER_CHUNKS = SUPER_GROUPS * GROUP_CHUNKS,
	GROUP_BYTES = GROUP_BLOCKS * BLOCK_BYTES,
};
#define CHUNK_NONE UINT32_MAX

enum block_flag {
	BLOCK_MAPPED = 1, /* the address space is ours */
	BLOCK_OPEN = 2,	  /* all of it is readable and writable; else exactly the committed pages are. Implies MAPPED */
	BLOCK_TABLE = 4,  /* the page of its descriptors is there, and charged. Also read without the lock */
	BLOCK_BODY = 8,	  /* all its chunks are inside the span at span_head, which begins in another block */
	BLOCK_TAKEN = 16, /* found occupied by somebody else: never ours */
	BLOCK_ODD = 32,	  /* holds a mapping that was moved here and merges with no other: replaced when it is empty */
	BLOCK_HUGE = 128, /* all of it is one span's and may be one huge page: given back only whole */
	BLOCK_TABLES_MAPPED = 64, /* on a group's first block: address space for the group's descriptors is mapped */
};

struct block {
	uint32_t free;	      /* bit per chunk that a run may use: EMPTY or IDLE; 0 if TAKEN */
	uint32_t idle;	      /* bit per IDLE chunk; a subset of free; only where BLOCK_TABLE */
	uint32_t span_head;   /* BLOCK_BODY: the span's first chunk */
	uint32_t table_epoch; /* BLOCK_TABLE: ledger_epoch() of the page of descriptors */
	uint32_t shape;	      /* the node of @free, packed: prefix, longest << 8, suffix << 16 */
	_Atomic uint32_t flags;
};

/* Of a block, group or super: free chunks at its start, in its longest run, at its end; which children have idle ones.
 */
struct node {
	uint32_t prefix, longest, suffix, idle;
};

struct group {
	struct node node;
	struct block blocks[GROUP_BLOCKS];
};

struct pool_index {
	/* Immutable after pool_init(). */
	struct node *supers;
	struct group *groups;
	uint32_t groups_max;
	/* Grows under the lock, read without it. */
	_Atomic uint32_t groups_known;
};
extern struct pool_index pool_index;

static inline struct block *block_at(uint32_t block)
{
	return &pool_index.groups[block / GROUP_BLOCKS].blocks[block % GROUP_BLOCKS];
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
	return atomic_load_explicit(&pool_index.groups_known, memory_order_relaxed);
}

static inline uint32_t chunks_known(void)
{
	return groups_known() * GROUP_CHUNKS;
}

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
/* What the summaries must be: for checks. */
uint32_t index_shape_of_mask(uint32_t free);
struct node index_node_of_group(uint32_t group);
struct node index_node_of_super(uint32_t super);

#endif
