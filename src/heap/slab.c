/*
 * Slabs: cutting, growing, and the remote list.
 *
 * The remote list's protocol. Any thread pushes: it writes the object's link, then swaps the remote word (release). The
 * owner takes the whole list with one swap (acquire), so a push never meets a pop, and a head that comes back is
 * still the right next (no ABA). An object that is being pushed is in use until the swap, so the slab cannot be empty,
 * and cannot go away, before it; after it the pusher leaves the slab alone, unless its swap also set QUEUED: that pins
 * the slab until the owner finds it in its queue and takes QUEUED away.
 */
#include "heap/slab.h"

#include "os/os.h"

#include <errno.h>

const uint64_t slab_nothing[2] = {0, 0};
uint32_t slab_generation;

enum { CUT_BYTES = OS_PAGE_BYTES }; /* so many at a time: what is never handed out is not touched */

/* ---- keys ---- */

static uint64_t mix(uint64_t x)
{
	/* The finaliser of splitmix64: every bit of x reaches every bit of the result. */
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t secret_get(void)
{
	static _Atomic uint64_t secret;
	uint64_t now = atomic_load_explicit(&secret, memory_order_relaxed);

	if (now == 0) {
		uint64_t fresh;

		os_random(&fresh, sizeof fresh);
		fresh |= 1;
		/* Relaxed: the number itself is all there is to see. Whoever came first has set it. */
		if (atomic_compare_exchange_strong_explicit(
			    &secret, &now, fresh, memory_order_relaxed, memory_order_relaxed))
			now = fresh;
	}
	return now;
}

/*
 * A key for a slab's life, so that what lies about from an earlier life of the chunk does not decode. It is negative
 * (see word_is_negative()), and its next bits are not all 1, so that no small negative integer looks suspicious
 * either.
 */
static uint64_t key_make(const struct chunk *chunk)
{
	static _Atomic uint64_t lives;
	const uint64_t life = atomic_fetch_add_explicit(&lives, 1, memory_order_relaxed);
	const uint64_t key = mix(secret_get() + mix((uint64_t)(uintptr_t)chunk + life));

	return (key | UINT64_C(1) << 63) & ~(UINT64_C(1) << 61);
}

/* ---- local list ---- */

void slab_die_damaged(const struct slab *slab, const void *object)
{
	const uint32_t offset = slab_offset(object);

	if (!slab_is_start(slab, offset))
		base_die("a free list of objects of %u bytes leads to %p, where none begins: the link of a free object "
			 "near "
			 "there was damaged",
			slab->object_bytes, object);
	base_die("damaged link in the free object of %u bytes at %p (it reads %#llx): it was written to after it was "
		 "freed, "
		 "or the object before it was written past its end",
		slab->object_bytes, object, (unsigned long long)word_load(object));
}

/* An object of this slab that was cut: its offset says so. */
static bool is_cut_object(const struct slab *slab, const void *object)
{
	const uint32_t offset = slab_offset(object);

	return (uintptr_t)object - offset == (uintptr_t)slab_base(slab) && slab_is_start(slab, offset);
}

/* The next of a free object, which is one of this slab's. Dies if the link is damaged. */
static void *next_of(const struct slab *slab, const void *object)
{
	const uint64_t distance = word_load(object) ^ slab->key;
	void *const next = (void *)((uintptr_t)object ^ distance);

	if (next != slab_end() && (distance == 0 || distance >= CHUNK_BYTES || !is_cut_object(slab, next)))
		slab_die_damaged(slab, object);
	return next;
}

void *slab_pop(struct slab *slab)
{
	void *const object = slab->free;

	if (object == slab_end())
		return NULL;
	if (!is_cut_object(slab, object))
		slab_die_damaged(slab, object);
	slab->free = next_of(slab, object);
	atomic_signal_fence(memory_order_seq_cst); /* as in slab_pop_fast() */
	word_store(object, 0);
	return object;
}

uint32_t slab_count_local(const struct slab *slab)
{
	uint32_t count = 0;

	for (const void *object = slab->free; object != slab_end(); object = next_of(slab, object)) {
		if (!is_cut_object(slab, object) || ++count > slab_cut_count(slab))
			slab_die_damaged(slab, object);
	}
	return count;
}

/* ---- cutting and growing ---- */

static void *object_at(const struct slab *slab, uint32_t index)
{
	return slab_base(slab) + (size_t)index * slab->object_bytes;
}

/* Keeps S4: the limit first. */
static uint32_t raise_cut(struct slab *slab, uint32_t count)
{
	const uint32_t first = slab_cut_count(slab);

	__atomic_store_n(&slab->limit, slab_rank(slab, (first + count) * slab->object_bytes), __ATOMIC_RELAXED);
	atomic_signal_fence(memory_order_seq_cst);
	return first;
}

bool slab_cut(struct slab *slab)
{
	const uint32_t left = slab->cut_limit - slab_cut_count(slab);
	uint32_t count = slab->object_bytes < CUT_BYTES ? CUT_BYTES / slab->object_bytes : 1;

	if (left == 0)
		return false;
	if (count > left)
		count = left;
	const uint32_t first = raise_cut(slab, count);
	for (uint32_t i = count; i-- > 0;)
		slab_push_local(slab, object_at(slab, first + i));
	return true;
}

void *slab_cut_one(struct slab *slab, bool *zero_out)
{
	if (slab->cut_limit == slab_cut_count(slab))
		return NULL;

	void *const object = object_at(slab, raise_cut(slab, 1));
	word_store(object, 0); /* keeps S2 */
	*zero_out = slab->fresh;
	return object;
}

static uint32_t pages_committed(const struct slab *slab)
{
	/* The committed pages of a slab are the first ones. */
	return (uint32_t)__builtin_ctz(~(uint32_t)slab_chunk(slab)->committed_mask);
}

static void set_cut_limit(struct slab *slab)
{
	slab->cut_limit = (uint16_t)(pages_committed(slab) * OS_PAGE_BYTES / slab->object_bytes);
}

static uint32_t pages_whole(uint32_t cls)
{
	return (class_capacity(cls) * class_bytes(cls) + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES;
}

bool slab_grow(struct slab *slab, bool whole, uint64_t floor_pages)
{
	const uint32_t most = pages_whole(slab->cls);
	const uint32_t now = pages_committed(slab);
	const uint32_t one = (slab->object_bytes + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES;
	uint32_t pages = whole || 2 * now > most ? most : 2 * now;

	if (slab->stuck || now >= most)
		return false;
	int error = pool_chunk_grow(slab_chunk(slab), pages, floor_pages);
	if (error == -ENOMEM && pages > now + one) {
		pages = now + one < most ? now + one : most;
		error = pool_chunk_grow(slab_chunk(slab), pages, floor_pages);
	}
	if (error == -EBUSY)
		slab->stuck = true;
	if (error != 0)
		return false;
	const uint32_t before = slab->cut_limit;
	set_cut_limit(slab);
	return slab->cut_limit > before;
}

struct slab *slab_create(uint32_t cls, uint32_t pages, uint64_t floor_pages)
{
	const uint32_t most = pages_whole(cls);
	struct chunk *const chunk = pool_chunk_take(pages < most ? pages : most, CHUNK_SLAB, floor_pages);

	if (!chunk)
		return NULL;

	struct slab *const slab = slab_of(chunk);
	slab->free = slab_end();
	slab->key = key_make(chunk);
	slab->object_bytes = class_bytes(cls);
	slab->magic = slab_magic(slab->object_bytes);
	slab->cls = (uint8_t)cls;
	slab->fresh = chunk->is_zero;
	set_cut_limit(slab);
	atomic_store_explicit(&slab->remote, remote_make(REMOTE_END, 0, 0), memory_order_relaxed);
	return slab;
}

void slab_destroy(struct slab *slab)
{
	/* Nobody's, so that a pointer that is freed twice does not pass for this thread's own. */
	atomic_store_explicit(&slab->owner, NULL, memory_order_relaxed);
	slab->state = SLAB_NONE;
	pool_chunk_put(slab_chunk(slab));
}

/* ---- the remote list ---- */

uint64_t slab_queued_mark(void)
{
	return REMOTE_QUEUED | (uint64_t)slab_generation << 49;
}

/* The part of the word that says who is about to queue it; 0 if that was in another life of the process. */
static uint64_t queued_part(uint64_t word)
{
	const uint64_t mark = slab_queued_mark();

	return word >> 48 == mark >> 48 ? mark : 0;
}

bool slab_is_loose(const struct slab *slab)
{
	struct slab *const any = (struct slab *)(uintptr_t)slab;

	/* Relaxed: QUEUED is set only while remote frees are to come or waiting, and only the owner takes it away. */
	return queued_part(atomic_load_explicit(&any->remote, memory_order_relaxed)) == 0;
}

bool slab_push_remote(struct slab *slab, void *object)
{
	uint64_t word = atomic_load_explicit(&slab->remote, memory_order_relaxed);
	char *const base = (char *)object - slab_offset(object);
	uint64_t next_word;
	bool announce;

	do {
		const uint64_t head = word & 0xffff;
		const uint32_t count = remote_count(word) + 1;
		const uint32_t notify_at = remote_notify_at(word); /* 0 where it is queued already */

		announce = notify_at != 0 && count >= notify_at;
		word_store(object, slab_link(slab, object, head == REMOTE_END ? slab_end() : base + head));
		next_word = slab_offset(object) | (uint64_t)count << 16;
		next_word |= announce ? slab_queued_mark() | (word & REMOTE_FULL) : word >> 32 << 32;
		/*
		 * Release: the object's link, and what the program did with it, before the object. Pairs with
		 * slab_collect(). Acquire: if we are to queue the slab, the owner has done with queue_next. Pairs with
		 * slab_arm().
		 */
	} while (!atomic_compare_exchange_weak_explicit(
		&slab->remote, &word, next_word, memory_order_acq_rel, memory_order_relaxed));
	return announce;
}

/* Puts @count objects from @head on before the local list. */
static void splice(struct slab *slab, void *head, uint32_t count)
{
	void *last = head;

	if (slab->free == slab_end()) {
		slab->free = head; /* linked alike: nothing to do but to trust the count */
		return;
	}
	for (uint32_t i = 1; i < count; i++) {
		last = next_of(slab, last);
		if (last == slab_end())
			slab_die_damaged(slab, head);
	}
	if (next_of(slab, last) != slab_end())
		slab_die_damaged(slab, last);
	word_store(last, slab_link(slab, last, slab->free));
	slab->free = head;
}

uint32_t slab_collect(struct slab *slab, bool dequeue)
{
	uint64_t word = atomic_load_explicit(&slab->remote, memory_order_relaxed);
	uint64_t next_word;

	do {
		const uint64_t queued = dequeue ? 0 : queued_part(word);

		next_word = remote_make(REMOTE_END, 0, 0) | queued;
		if (next_word == word)
			return 0;
		/* Acquire: pairs with the release in slab_push_remote(). */
	} while (!atomic_compare_exchange_weak_explicit(
		&slab->remote, &word, next_word, memory_order_acquire, memory_order_relaxed));
	if (remote_count(word) > 0)
		splice(slab, slab_base(slab) + (word & 0xffff), remote_count(word));
	return remote_count(word);
}

bool slab_is_left_empty(const struct slab *slab)
{
	struct slab *const any = (struct slab *)(uintptr_t)slab;
	/* Acquire: all that the owner and the freeing threads did with it. Pairs with slab_push_remote(), slab_arm().
	 */
	const uint64_t word = atomic_load_explicit(&any->remote, memory_order_acquire);

	return word & REMOTE_FULL && queued_part(word) && remote_count(word) == slab_cut_count(slab);
}

bool slab_arm(struct slab *slab, uint32_t notify_at, bool full)
{
	uint64_t word = atomic_load_explicit(&slab->remote, memory_order_relaxed);
	uint64_t next_word;

	do {
		const uint64_t queued = queued_part(word);

		if (remote_count(word) > 0)
			return false;
		next_word = remote_make(REMOTE_END, 0, queued ? 0 : notify_at) | queued | (full ? REMOTE_FULL : 0);
		/* Release: queue_next has been read, if the slab was queued before. Pairs with slab_push_remote(). */
	} while (!atomic_compare_exchange_weak_explicit(
		&slab->remote, &word, next_word, memory_order_release, memory_order_relaxed));
	return true;
}

void slab_unqueue(struct slab *slab)
{
	/* Relaxed: the list is still there, and whoever takes it acquires. */
	atomic_fetch_and_explicit(&slab->remote, REMOTE_QUEUED - 1, memory_order_relaxed);
}

void slab_requeue(struct slab *slab)
{
	slab_unqueue(slab);
	atomic_fetch_or_explicit(&slab->remote, slab_queued_mark(), memory_order_relaxed);
}
