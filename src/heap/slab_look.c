/*
 * Looking through a slab's lists without changing them: for certainty about a double free, for statistics, for
 * checks; and the rebuilding of a slab whose owner is gone in the middle of something.
 *
 * Rebuilding. fork() makes a child with one thread; the others may have been at any instruction. What the child sees of
 * each is everything up to some point of its program order (a write that was not seen faulted, and with it all that
 * came later). So, whatever the owner was doing:
 * - An object that the program has been handed is on no list: it was taken off before heap_alloc() returned. So what
 *   is on the local list and has a link that decodes, or in the remote word's list, is free for certain.
 * - What is on no list is in use, or was on its way from or to one. The latter is lost: counted as used for good.
 * - @limit was raised before anything beyond it was cut (S4); so (objects cut - certainly free) is never less than what
 * is in use, and the slab does not go away too early.
 * - Other threads' pushes leave the remote word whole at every instant.
 */
#include "heap/slab.h"

#include <string.h>

enum { OBJECTS_MAX = CHUNK_BYTES / HEAP_ALIGN_BYTES };

/* Walks may be racy on purpose: what they read is checked, and a wrong answer is not trusted. */
struct walk {
	const struct slab *slab;
	uintptr_t base;
	const void *at; /* NULL: the end, or nothing that makes sense */
	uint32_t steps_left;
	bool broken; /* did not end where lists end */
};

SLAB_READS_RACES static void walk_to(struct walk *walk, const void *object)
{
	const uint32_t offset = slab_offset(object);

	walk->at = NULL;
	if (object == slab_end())
		return;
	if ((uintptr_t)object - offset == walk->base && slab_is_start(walk->slab, offset) && walk->steps_left > 0) {
		walk->steps_left--;
		walk->at = object;
	} else {
		walk->broken = true;
	}
}

SLAB_READS_RACES static struct walk walk_begin(const struct slab *slab, const void *object)
{
	struct walk walk = {slab, (uintptr_t)slab_base(slab), NULL, slab_cut_count(slab), false};

	walk_to(&walk, object);
	return walk;
}

SLAB_READS_RACES static void walk_next(struct walk *walk)
{
	const uint64_t distance = *(const volatile uint64_t *)walk->at ^ walk->slab->key;

	walk_to(walk, (const void *)((uintptr_t)walk->at ^ distance));
}

SLAB_READS_RACES static const void *local_head(const struct slab *slab)
{
	return *(void *const volatile *)&slab->free;
}

static const void *remote_head(const struct slab *slab)
{
	/* Acquire: the links of what is on the list. Pairs with slab_push_remote(). */
	const uint64_t head =
		atomic_load_explicit(&((struct slab *)(uintptr_t)slab)->remote, memory_order_acquire) & 0xffff;

	return head == REMOTE_END ? slab_end() : slab_base(slab) + head;
}

SLAB_READS_RACES uint32_t slab_estimate_local(const struct slab *slab)
{
	uint32_t count = 0;

	for (struct walk walk = walk_begin(slab, local_head(slab)); walk.at; walk_next(&walk))
		count++;
	return count;
}

/* 1 found, 0 not on the list, -1 the list changed under our feet. */
SLAB_READS_RACES static int list_finds(const struct slab *slab, const void *head, const void *object)
{
	struct walk walk = walk_begin(slab, head);

	for (; walk.at; walk_next(&walk))
		if (walk.at == object)
			return 1;
	return walk.broken ? -1 : 0;
}

bool slab_finds_free(const struct slab *slab, const void *object, bool mine)
{
	enum { TRIES = 100 };

	for (int i = 0; i < TRIES; i++) {
		const int local = list_finds(slab, local_head(slab), object);
		const int remote = list_finds(slab, remote_head(slab), object);

		if (local == 1 || remote == 1)
			return true;
		if (mine || (local == 0 && remote == 0))
			break;
	}
	return false;
}

/* ---- rebuilding ---- */

struct object_set {
	uint64_t words[OBJECTS_MAX / 64];
};

static bool set_has(const struct object_set *set, uint32_t index)
{
	return set->words[index / 64] >> index % 64 & 1;
}

static void set_add(struct object_set *set, uint32_t index)
{
	set->words[index / 64] |= UINT64_C(1) << index % 64;
}

/* An object is free for certain when its own link decodes too, not only the one that leads to it. */
static void gather(const struct slab *slab, const void *head, struct object_set *certain)
{
	for (struct walk walk = walk_begin(slab, head); walk.at; walk_next(&walk)) {
		const uint64_t distance = word_load(walk.at) ^ slab->key;
		const bool is_last = distance == ((uintptr_t)walk.at ^ (uintptr_t)slab_end());
		const uint32_t index = slab_offset(walk.at) / slab->object_bytes;

		if ((distance >= CHUNK_BYTES && !is_last) || set_has(certain, index))
			return;
		set_add(certain, index);
	}
}

uint32_t slab_rebuild(struct slab *slab)
{
	struct object_set certain;
	uint32_t count = 0;

	memset(&certain, 0, sizeof certain);
	gather(slab, slab->free, &certain);
	/* What is about to be queued by a thread of this process stays as it is, and comes with the queue. */
	if (slab_is_loose(slab)) {
		/* Acquire: pairs with slab_push_remote(), of threads of this process. */
		const uint64_t word =
			atomic_exchange_explicit(&slab->remote, remote_make(REMOTE_END, 0, 0), memory_order_acquire);
		if ((word & 0xffff) != REMOTE_END)
			gather(slab, slab_base(slab) + (word & 0xffff), &certain);
	}
	slab->free = slab_end();
	for (uint32_t i = slab_cut_count(slab); i-- > 0;) {
		if (set_has(&certain, i)) {
			slab_push_local(slab, slab_base(slab) + (size_t)i * slab->object_bytes);
			count++;
		}
	}
	/* Nothing more is cut from it: how far the owner had got with that is not certain. */
	slab->cut_limit = (uint16_t)slab_cut_count(slab);
	slab->stuck = true;
	slab->fresh = false;
	return count;
}

/* ---- checks ---- */

static uint32_t check_list(const struct slab *slab, const void *head, struct object_set *seen)
{
	struct walk walk = walk_begin(slab, head);
	uint32_t count = 0;

	for (; walk.at; walk_next(&walk)) {
		const uint32_t index = slab_offset(walk.at) / slab->object_bytes;

		HF_VERIFY_OP(index, <, slab_cut_count(slab)); /* S4 */
		HF_VERIFY(!set_has(seen, index));	      /* S1 */
		set_add(seen, index);
		count++;
	}
	HF_VERIFY(!walk.broken); /* S2 */
	return count;
}

void slab_check(const struct slab *slab)
{
	struct object_set seen;
	struct slab *const any = (struct slab *)(uintptr_t)slab;
	const uint64_t word = atomic_load_explicit(&any->remote, memory_order_acquire);

	memset(&seen, 0, sizeof seen);
	const uint32_t local = check_list(slab, slab->free, &seen);
	const uint32_t remote = check_list(slab, remote_head(slab), &seen);

	HF_VERIFY_OP(slab_chunk(slab)->state, ==, CHUNK_SLAB);
	HF_VERIFY_OP(slab->object_bytes, ==, class_bytes(slab->cls));
	HF_VERIFY_OP(slab_cut_count(slab), <=, slab->cut_limit);
	HF_VERIFY_OP(slab->cut_limit, <=, class_capacity(slab->cls));
	HF_VERIFY_OP(remote, ==, remote_count(word));
	HF_VERIFY_OP(local + remote, <=, slab_cut_count(slab));
	if (slab->state == SLAB_AVAILABLE || slab->state == SLAB_FULL)
		HF_VERIFY_OP(slab_used(slab), ==, slab_cut_count(slab) - local); /* S3 */
	if (slab->state == SLAB_AVAILABLE)
		HF_VERIFY_OP(slab->rest, ==, 0);
	if (slab->state == SLAB_SPARE)
		HF_VERIFY_OP(local, ==, slab_cut_count(slab));
}
