/*
 * The pool: this process's committed memory, in chunks. The one user is heap/ (and, later, reserve/).
 *
 * It answers at once, with memory or with *no*; it never waits for anything but its own short lock.
 * It does not know objects, classes or scopes.
 *
 * P1: reserved <= idle, in the word {idle, reserved}, counted in whole resident chunks.
 * P2: every page of a chunk that is in use and committed is counted in the ledger exactly once, before
 *     it is first touched; and a page is taken off the ledger only after the kernel has it back.
 * P3: a chunk is in exactly one state: EMPTY (address space only), IDLE (all pages committed), USED.
 * pool_check() verifies all three, in debug builds after each change of structure.
 *
 * Address space: one window, a placed range or one that the kernel chose, mapped piece by piece as it is
 * needed; so that from an address, one subtraction and a shift find the chunk's descriptor.
 */
#ifndef HF_POOL_POOL_H
#define HF_POOL_POOL_H

#include "base/compiler.h"
#include "ledger/ledger.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CHUNK_SHIFT = 16,
	CHUNK_BYTES = 1 << CHUNK_SHIFT,
	CHUNK_PAGES = CHUNK_BYTES / 4096,
	BLOCK_SHIFT = 21,
	BLOCK_BYTES = 1 << BLOCK_SHIFT,
	BLOCK_CHUNKS = BLOCK_BYTES / CHUNK_BYTES,
};

enum chunk_state { CHUNK_EMPTY, CHUNK_IDLE, CHUNK_SLAB, CHUNK_SPAN, CHUNK_SPAN_BODY };

/* What heap/ keeps about a chunk it uses; pool/ does not look inside. */
enum { CHUNK_HEAP_WORDS = 14 };

/* A chunk's descriptor: 128 bytes, two cache lines, outside the memory that it describes. */
struct chunk {
	/* Under the pool's lock. */
	uint8_t state;		 /* enum chunk_state; written under the lock, read by anybody for a pointer it owns */
	bool is_zero;		 /* committed pages have never been written since the kernel gave them */
	uint16_t committed_mask; /* bit per page that is committed, hence may be touched; a span's body: 0 */
	uint32_t epoch;		 /* ledger_epoch() of its pages */
	uint32_t span_chunks;	 /* CHUNK_SPAN: length of the run */
	uint32_t pool_word;	 /* the pool's own: a span's pages; its body's first chunk */
	uint64_t heap_words[CHUNK_HEAP_WORDS]; /* the heap's own, zero when the chunk is handed out */
};

/* Placed together so that a free touches one line of globals. All but the last: immutable after pool_init(). */
struct pool_window {
	uintptr_t base;
	uintptr_t chunk_count; /* chunks that the window can have; addresses beyond are foreign */
	struct chunk *chunks;
	/* Grows: descriptors below this can be read at any time; where nothing is they read as zero. */
	uintptr_t known_chunks;
};
extern struct pool_window pool_window;

/* The descriptor's index of an address; >= pool_window.chunk_count: not ours. */
static inline uintptr_t pool_index_of(const void *address)
{
	return ((uintptr_t)address - pool_window.base) >> CHUNK_SHIFT;
}

/* May the descriptor of this index be read? True for every address of an object, and for many others. */
static inline bool pool_index_is_known(uintptr_t index)
{
#if HF_TSAN
	return index < __atomic_load_n(&pool_window.known_chunks, __ATOMIC_RELAXED);
#else
	/* A plain read, which a comparison can do by itself: a stale value is too small only for what is not ours yet.
	 */
	return index < pool_window.known_chunks;
#endif
}

static inline void *chunk_address(const struct chunk *chunk)
{
	return (void *)(pool_window.base + ((uintptr_t)(chunk - pool_window.chunks) << CHUNK_SHIFT));
}

/* All addresses that the pool may use, its own metadata included: fixed by pool_init(). */
void pool_extent(uintptr_t *low_out, uintptr_t *high_out);
/* Is the descriptor of this index mapped? Descriptors are mapped piece by piece: ask before the first look at a foreign
 * pointer. */
bool pool_index_is_mapped(uintptr_t index);
/*
 * The chunk in use (CHUNK_SLAB, CHUNK_SPAN) that @address lies in; of a span always the first. NULL: none.
 * For any address. Exact if the caller owns an object there, else true of some moment. Takes no lock.
 */
struct chunk *pool_chunk_at(const void *address);

/* Once, before anything else, with the ledger that pays. 0 or -ENOMEM. Not thread-safe. */
HF_MUST_USE int pool_init(struct ledger *ledger);
struct ledger *pool_ledger(void);

/*
 * A chunk with at least @pages (1 to 16) committed at its start; the rest can follow by pool_chunk_grow().
 * Idle ones are preferred: they are whole. NULL: the ledger said no (above @floor_pages) and nothing was idle.
 */
HF_MUST_USE struct chunk *pool_chunk_take(uint32_t pages, enum chunk_state state, uint64_t floor_pages);
/* Commit the next pages up to @pages_in_all. 0; -ENOMEM; -EBUSY: the chunk is inherited or shared with a forked child,
 * take another. */
HF_MUST_USE int pool_chunk_grow(struct chunk *chunk, uint32_t pages_in_all, uint64_t floor_pages);
/* Give pages [first, first+count) of a used chunk back to the kernel and the ledger. They read as zero if grown again.
 */
void pool_chunk_shrink(struct chunk *chunk, uint32_t first, uint32_t count);
void pool_chunk_put(struct chunk *chunk);

/*
 * A run that holds @bytes from its first byte, aligned to @align_bytes (a power of two up to 16 GiB, else NULL), with
 * exactly the pages that @bytes needs committed. Never fails for fragmentation while enough pages are idle:
 * scattered idle chunks are given back and as many pages committed in one piece.
 * *zero_out: all of it is known to read as zero.
 */
HF_MUST_USE struct chunk *pool_span_take(size_t bytes, size_t align_bytes, uint64_t floor_pages, bool *zero_out);
void pool_span_put(struct chunk *first);
/* The span that @address lies in, or NULL: for messages and heap_owns(). Blocks inside a large span have no
 * descriptors. */
struct chunk *pool_span_around(const void *address);
/* Make it @bytes long where it stands. 0, -ENOMEM (no pages), -ENOSPC (something is behind it), -EBUSY (epoch).
 * Shrinking always works. */
HF_MUST_USE int pool_span_resize(struct chunk *first, size_t bytes, uint64_t floor_pages);
/* A new longer run with the old one's pages moved into it, not copied; the old run is gone. NULL: nothing changed. */
HF_MUST_USE struct chunk *pool_span_move(struct chunk *first, size_t bytes, uint64_t floor_pages);
size_t pool_span_bytes(const struct chunk *first); /* committed bytes from its first byte */

/* Zeroed memory for metadata, never given back, charged like everything else. 16-byte aligned. NULL: no. */
HF_MUST_USE void *pool_meta_alloc(size_t bytes);

/* Give idle memory back until at most @keep_chunks are idle. Returns the pages given back. */
uint64_t pool_trim(uint64_t keep_chunks);

struct pool_stats {
	uint64_t idle_chunks, reserved_chunks, used_chunks;
	uint64_t committed_pages, meta_pages, window_bytes;
};
void pool_stats_get(struct pool_stats *stats_out);

/* mlockall() is coming, or overcommit is strict: from now on nothing uncommitted is accessible. */
void pool_set_strict(void);

/* Around fork(), called by request/fork.c. prepare takes the pool's locks; parent and child drop them. */
void pool_fork_prepare(void);
void pool_fork_parent(pid_t child_or_error);
void pool_fork_child(void);
/* What a child of a fork at this instant inherits: committed, less idle and spare. With the pool's lock held. */
uint64_t pool_held_pages(void);
/* True once in a process that a raw clone made without fork's handlers; it has then been put in order. */
bool pool_raw_clone_check(void);

/* P1, P2, P3 and the sums; dies with a message. Takes the lock. */
void pool_check(void);

#endif
