/*
 * A slab: one chunk cut into objects of one size. What is known of it lies in the chunk's descriptor, out of
 * the program's reach; only the links of free objects lie in the objects.
 *
 * Not here: which slabs a thread has, and which it uses next (theap.h).
 * Life: slab_create(), then CURRENT, AVAILABLE and FULL in turn, slab_destroy().
 *
 * S1: an object is in exactly one place: with the program, on the local list, on the remote list, or not cut yet.
 * S2: an object is on a list only if its first word is slab_link(key, object, next), and objects that are handed
 *     out begin with 0. So a word that decodes says "free already", and one that does not, in a free object, "damaged".
 * S3: AVAILABLE, FULL: countdown + rest == objects cut and not on the local list; AVAILABLE: rest == 0.
 *     CURRENT: countdown is large and means nothing, so that allocation need not count.
 * S4: every object that was ever handed out lies below @limit (raised before objects are cut: fork relies on it).
 * slab_check() verifies them.
 */
#ifndef HF_HEAP_SLAB_H
#define HF_HEAP_SLAB_H

#include "heap/slab_layout.h"

/* ---- slab.c: the owner's, unless it says otherwise ---- */

/* Pops any object that there is, and verifies its link. NULL: the local list is empty. */
void *slab_pop(struct slab *slab);
/* Cut a page's worth of objects more, or one. False: none left below cut_limit. */
bool slab_cut(struct slab *slab);
/* One object that has never been used, NULL: none. *zero_out: it reads as zero. */
void *slab_cut_one(struct slab *slab, bool *zero_out);
/* Commit more pages, twice as many as there are, or all if @whole. False: no. */
bool slab_grow(struct slab *slab, bool whole, uint64_t floor_pages);

/*
 * Take over what other threads have freed, and disarm: the slab announces itself no more.
 * @dequeue: the slab has just left its owner's queue. Returns how many objects.
 */
uint32_t slab_collect(struct slab *slab, bool dequeue);
/*
 * From @notify_at remote frees on the slab announces itself (0: never); @full: it is being put aside as FULL.
 * False: there are some already, collect them.
 */
bool slab_arm(struct slab *slab, uint32_t notify_at, bool full);
/* Of a slab that was taken out of another thread's queue, under theap_lock: it is empty, and nobody else's business. */
bool slab_is_left_empty(const struct slab *slab);
/* It has left a queue that a forked child does not go on with, or stays in one that it does. Nobody else runs. */
void slab_unqueue(struct slab *slab);
void slab_requeue(struct slab *slab);
/* Nobody else is about to touch the slab. */
bool slab_is_loose(const struct slab *slab);
/* Any thread: push an object on the remote list. True: this thread must now queue the slab with its owner. */
HF_MUST_USE bool slab_push_remote(struct slab *slab, void *object);

/* A chunk becomes a slab of nobody: the caller sets the owner, and puts it on a list. NULL: the pool said no. */
struct slab *slab_create(uint32_t cls, uint32_t pages, uint64_t floor_pages);
/* Empty, loose, and on no list any more: back to the pool. */
void slab_destroy(struct slab *slab);

/* Objects on the local list, by walking it; dies on damage. */
uint32_t slab_count_local(const struct slab *slab);
/* The same from any thread while the slab cannot go away: an estimate if its owner is busy. */
uint32_t slab_estimate_local(const struct slab *slab);
/* Is the object on one of the lists? Exact for the owner (@mine); else a true that can be trusted. */
bool slab_finds_free(const struct slab *slab, const void *object, bool mine);
/*
 * In a forked child, of a slab whose owner may have been stopped at any instruction: keep only what is certainly
 * free, count the rest as used. Returns the objects on the rebuilt local list. See slab_look.c.
 */
uint32_t slab_rebuild(struct slab *slab);
/* S1, S2, S3; dies with a message. Owner quiet. */
void slab_check(const struct slab *slab);

/* Dies: somebody wrote to @object after it was freed, or past the end of the one before it. */
HF_NORETURN HF_COLD void slab_die_damaged(const struct slab *slab, const void *object);

/* Raised by one in each forked child: what was queued before it, and is not in a queue, never will be. */
extern uint32_t slab_generation;
uint64_t slab_queued_mark(void);

#endif
