/*
 * How a slab lies in its descriptor and its chunk: the struct, the remote word, where objects begin, how free ones are
 * linked.
 *
 * Not here: what is done with slabs (slab.h, which includes this, and says what holds: S1 to S4).
 */
#ifndef HF_HEAP_SLAB_LAYOUT_H
#define HF_HEAP_SLAB_LAYOUT_H

#include "base/assert.h"
#include "base/list.h"
#include "heap/class.h"
#include "pool/pool.h"

#include <stdatomic.h>

struct theap;

enum slab_state {
	SLAB_NONE,	/* not a slab's descriptor */
	SLAB_CURRENT,	/* its owner allocates from it */
	SLAB_AVAILABLE, /* on its owner's list of its class: has objects to give */
	SLAB_FULL,  /* on no list: too few free objects to be of use; when there are more they announce themselves */
	SLAB_SPARE, /* empty, and kept as its owner's next of its class: on the list, at its end */
};

/* Lies in chunk.heap_words, which the pool zeroes before it hands out the chunk. */
struct slab {
	/* Any thread reads the owner to know whether it is itself. Atomic; changes under the lock of theap.h only. */
	_Atomic(struct theap *) owner;
	void *free;	    /* the owner's alone. The local list: the first object, or &slab_nothing */
	uint64_t key;	    /* immutable. Of the links: another one for each slab and each life of a slab */
	uint64_t magic;	    /* immutable. 2^32 / object_bytes, rounded up: see slab_rank() */
	uint64_t limit;	    /* slab_rank() of the end of what is cut; written by the owner, see slab_is_start() */
	uint32_t countdown; /* the owner's alone. Frees until it must look at the slab: S3 */
	/* The second cache line: other threads write the first three, rarely the second. */
	_Atomic uint64_t remote __attribute__((aligned(16))); /* see REMOTE_* */
	struct slab *queue_next; /* while queued: written by the thread that queues, read by the owner */
	struct list in_theap;	 /* theap.slabs; under the lock of theap.h */
	/* The owner's alone. */
	struct list in_class;  /* AVAILABLE, SPARE: theap.classes[].available */
	uint32_t object_bytes; /* immutable */
	uint32_t rest;	       /* what will be used when countdown is 0: S3 */
	uint16_t cut_limit;    /* objects that the committed pages hold */
	uint8_t cls;	       /* immutable */
	uint8_t state;	       /* enum slab_state */
	bool fresh;	       /* what is not cut yet reads as zero */
	bool stuck;	       /* the pool will not let it grow (-EBUSY) */
} __attribute__((may_alias));
static_assert(sizeof(struct slab) <= CHUNK_HEAP_WORDS * sizeof(uint64_t), "a slab fits its descriptor");
static_assert(offsetof(struct chunk, heap_words) + offsetof(struct slab, remote) == 64, "remote frees have a line");

/*
 * The remote word: {head: 16, count: 16, notify_at: 15, full: 1, queued: 1, generation: 15}.
 * head: offset of the first object of the list, REMOTE_END if there is none. notify_at: when the count reaches it,
 * whoever pushes also queues the slab with its owner; 0: never.
 * queued: the slab is in its owner's queue, or is about to be put there by whoever set this. As long as it is set, in
 * this generation (of forks), the slab keeps its owner and is not given back.
 * full: the owner has put it aside as FULL and has not touched it since: it will not, before it finds it in its queue,
 * frees an object of it, or takes this bit away under theap_lock. So who has taken it out of the queue, under that
 * lock, and finds as many remote frees as objects, has it for himself (see theap_take_from_queues()).
 */
#define REMOTE_END UINT64_C(0xffff) /* no object begins there: it is odd */
#define REMOTE_FULL (UINT64_C(1) << 47)
#define REMOTE_QUEUED (UINT64_C(1) << 48)

static inline uint64_t remote_make(uint64_t head, uint64_t count, uint64_t notify_at)
{
	return head | count << 16 | notify_at << 32;
}

static inline uint32_t remote_count(uint64_t word)
{
	return (uint32_t)(word >> 16) & 0xffff;
}

static inline uint32_t remote_notify_at(uint64_t word)
{
	return (uint32_t)(word >> 32) & 0x7fff;
}

/* ---- where things are ---- */

static inline struct slab *slab_of(struct chunk *chunk)
{
	return (struct slab *)chunk->heap_words;
}

static inline struct chunk *slab_chunk(const struct slab *slab)
{
	return HF_CONTAINER_OF((uint64_t *)(void *)slab, struct chunk, heap_words[0]);
}

static inline char *slab_base(const struct slab *slab)
{
	return chunk_address(slab_chunk(slab));
}

static inline uint32_t slab_offset(const void *object)
{
	return (uint32_t)((uintptr_t)object & (CHUNK_BYTES - 1));
}

/*
 * A number for each offset, so that one comparison, slab_rank(offset) < limit, says: an object begins there, and it was
 * cut. With s the size of an object, magic = (2^32 + e) / s for some 0 <= e < s, and offset = q s + m, 0 <= m < s:
 * offset x magic = q 2^32 + (q e + m magic), where the part in brackets stays below 2^32 (since magic >= 2^17 and
 * (q + 1) e < 2^17), below 2^16 if m is 0, and is at least 2^17 else. The rank is that product with its halves
 * swapped: for beginnings it rises with q, and for other offsets it is above all of these. test_heap.c tries each.
 */
static inline uint64_t slab_rank(const struct slab *slab, uint32_t offset)
{
	const uint64_t product = offset * slab->magic;

	return product << 32 | product >> 32;
}

static inline uint64_t slab_magic(uint32_t object_bytes)
{
	return ((UINT64_C(1) << 32) + object_bytes - 1) / object_bytes;
}

/* Does an object that was cut begin at this offset? Any thread. */
static inline bool slab_is_start(const struct slab *slab, uint32_t offset)
{
	/* Relaxed: whoever was handed an object was handed it after the limit was raised. */
	return slab_rank(slab, offset) < __atomic_load_n(&slab->limit, __ATOMIC_RELAXED);
}

/* The same for the owner, who alone writes the limit: the comparison can read it by itself. */
static inline bool slab_is_start_mine(const struct slab *slab, uint32_t offset)
{
	return slab_rank(slab, offset) < slab->limit;
}

/* Objects that are not on the local list. Not of a CURRENT slab: S3. */
static inline uint32_t slab_used(const struct slab *slab)
{
	return slab->countdown + slab->rest;
}

/* Objects cut so far: the low half of the limit's rank is its q. */
static inline uint32_t slab_cut_count(const struct slab *slab)
{
	return (uint32_t)__atomic_load_n(&slab->limit, __ATOMIC_RELAXED);
}

/* ---- links ---- */

/* Ends every list. Its word is 0, which decodes under no key, so that an empty list and a last object both miss. */
extern const uint64_t slab_nothing[2];

static inline void *slab_end(void)
{
	return (void *)(uintptr_t)slab_nothing;
}

/*
 * The word of a free object: object ^ next, below 2^16 unless next is the end, under the slab's key. To follow it is
 * one xor and one comparison, and it proves itself: the next object's own word must decode as well before that
 * object is handed out, so a damaged link leads to no object, even where the damage hit the low bits.
 */
static inline uint64_t slab_link(const struct slab *slab, const void *object, const void *next)
{
	return (uint64_t)((uintptr_t)object ^ (uintptr_t)next) ^ slab->key;
}

/* May be a link of a free object: then look for the object on the lists. Addresses have 47 bits, and a key more. */
static inline bool slab_is_suspicious(const struct slab *slab, uint64_t word)
{
	return (word ^ slab->key) >> 47 == 0;
}

/* Keys are negative, and so are links: most of what programs store needs no more than this look at its sign. */
static inline bool word_is_negative(const void *object)
{
	typedef int64_t __attribute__((may_alias)) word;

	return *(const word *)object < 0;
}

/* The object's words belong to the program, which may write while we look (misuse); the compiler must not assume. */
static inline uint64_t word_load(const void *object)
{
	return __atomic_load_n((const uint64_t *)object, __ATOMIC_RELAXED);
}

static inline void word_store(void *object, uint64_t word)
{
	__atomic_store_n((uint64_t *)object, word, __ATOMIC_RELAXED);
}

/*
 * Pops an object, or NULL: the list is empty, or this is the last object, or a link is damaged; slab_pop() tells which.
 * The order matters to a child that fork makes in between: an object that is on the list still has its link.
 */
static inline void *slab_pop_fast(struct slab *slab)
{
	void *const object = slab->free;
	const uint64_t distance = word_load(object) ^ slab->key;

	if (HF_UNLIKELY(distance >= CHUNK_BYTES))
		return NULL;
	slab->free = (void *)((uintptr_t)object ^ distance);
	atomic_signal_fence(memory_order_seq_cst);
	word_store(object, 0); /* keeps S2 */
	return object;
}

static inline void slab_push_local(struct slab *slab, void *object)
{
	word_store(object, slab_link(slab, object, slab->free));
	atomic_signal_fence(memory_order_seq_cst); /* as above */
	slab->free = object;
}

/* For functions whose plain reads race on purpose. An atomic read would not do: it is checked in any function. */
#if defined(__clang__)
#define SLAB_READS_RACES __attribute__((no_sanitize("thread"), noinline))
#else
#define SLAB_READS_RACES __attribute__((no_sanitize_thread, noinline))
#endif

#endif
