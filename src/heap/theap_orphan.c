/*
 * Heaps without a thread: of threads that have ended, and, in a forked child, of the parent's other threads.
 * All of this happens under theap_lock; the remote words of the slabs go on as ever.
 *
 * An orphan's slab moves to another heap only when it is loose and disarmed: then no thread is about to queue it
 * with the old owner. Remote frees in flight do not look at the owner.
 */
#include "heap/theap.h"

_Atomic uint32_t theap_wrecks;

static void set_state(struct theap *theap, enum theap_state state)
{
	/* Sequentially consistent: see theap_queue(). */
	atomic_store(&theap->state, state);
}

static void hint_available(const struct theap *theap, bool more)
{
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
		const uint32_t count = theap->classes[cls].available_count;

		/* Relaxed: a hint. */
		if (more)
			atomic_fetch_add_explicit(&theap_orphan_available[cls], count, memory_order_relaxed);
		else
			atomic_fetch_sub_explicit(&theap_orphan_available[cls], count, memory_order_relaxed);
	}
}

static uint32_t slab_count(const struct theap *theap)
{
	return atomic_load_explicit(&((struct theap *)(uintptr_t)theap)->slab_count, memory_order_relaxed);
}

/* An orphan without slabs is free for any thread that begins. */
static void settle_locked(struct theap *theap)
{
	const bool is_free = slab_count(theap) == 0;

	list_remove(&theap->in_state);
	list_add_first(is_free ? &theap_free : &theap_orphans, &theap->in_state);
	set_state(theap, is_free ? THEAP_FREE : THEAP_ORPHAN);
}

void theap_abandon_locked(struct theap *theap)
{
	set_state(theap, THEAP_ORPHAN);
	hint_available(theap, true);
	(void)theap_trim(theap); /* empties the queue; spares and empty slabs go back */
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
		struct slab *const slab = theap->classes[cls].current;

		theap->classes[cls].warm = false;
		if (slab == &theap_no_slab)
			continue;
		theap_set_current(theap, cls, &theap_no_slab);
		theap_place(theap, slab, slab_cut_count(slab) - slab_count_local(slab));
	}
	settle_locked(theap);
}

/* ---- wrecks: see slab_look.c for what is certain ---- */

static void salvage_locked(struct theap *theap)
{
	struct list *next;

	/* Acquire: pairs with the push in theap_queue(). */
	struct slab *queued = atomic_exchange(&theap->queue, NULL);
	while (queued) {
		struct slab *const after = queued->queue_next;

		slab_unqueue(queued);
		queued = after;
	}
	theap_tables_clear(theap);
	set_state(theap, THEAP_ORPHAN);
	atomic_fetch_sub_explicit(&theap_wrecks, 1, memory_order_relaxed);
	for (struct list *at = theap->slabs.next; at != &theap->slabs; at = next) {
		struct slab *const slab = HF_CONTAINER_OF(at, struct slab, in_theap);

		next = at->next;
		list_init(&slab->in_class);
		theap_place(theap, slab, slab_cut_count(slab) - slab_rebuild(slab));
	}
	settle_locked(theap);
}

static void forget_others(void)
{
	list_init(&theap_all);
	list_init(&theap_orphans);
	list_init(&theap_free);
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++)
		atomic_store_explicit(&theap_orphan_available[cls], 0, memory_order_relaxed);
	if (theap_mine)
		list_add_last(&theap_all, &theap_mine->in_all);
}

void theap_fork_child(bool lists_whole)
{
	slab_generation++;
	if (!lists_whole)
		forget_others();
	for (struct list *at = theap_all.next; at != &theap_all; at = at->next) {
		struct theap *const theap = HF_CONTAINER_OF(at, struct theap, in_all);

		/* What is in a queue stays there. What was about to be put into one never will be: its mark is old now.
		 */
		for (struct slab *slab = atomic_load(&theap->queue); slab; slab = slab->queue_next)
			slab_requeue(slab);
		if (theap_is_live(theap) && theap != theap_mine) {
			set_state(theap, THEAP_WRECK);
			list_add_last(&theap_orphans, &theap->in_state);
			atomic_fetch_add_explicit(&theap_wrecks, 1, memory_order_relaxed);
		}
	}
}

/* ---- orphans ---- */

void theap_tend_locked(struct theap *theap)
{
	const uint32_t state = atomic_load(&theap->state);

	if (state == THEAP_WRECK) {
		salvage_locked(theap);
	} else if (state == THEAP_ORPHAN) {
		theap_empty_queue(theap);
		settle_locked(theap);
	}
}

uint32_t theap_tend_orphans(void)
{
	uint32_t slabs = 0;
	struct list *next;

	lock_take(&theap_lock);
	for (struct list *at = theap_orphans.next; at != &theap_orphans; at = next) {
		struct theap *const theap = HF_CONTAINER_OF(at, struct theap, in_state);
		const uint32_t before = slab_count(theap);

		next = at->next;
		theap_tend_locked(theap);
		(void)theap_trim(theap);
		settle_locked(theap);
		slabs += before - slab_count(theap);
	}
	lock_put(&theap_lock);
	return slabs;
}

struct theap *theap_adopt_locked(void)
{
	struct list *const from = list_is_empty(&theap_orphans) ? &theap_free : &theap_orphans;

	if (list_is_empty(from))
		return NULL;
	struct theap *const theap = HF_CONTAINER_OF(from->next, struct theap, in_state);
	theap_tend_locked(theap);
	list_remove(&theap->in_state);
	hint_available(theap, false);
	set_state(theap, THEAP_LIVE);
	return theap;
}

/* A slab of @cls that nobody is about to queue with the orphan. Its remote frees are collected. */
static struct slab *find_loose(struct theap *orphan, uint32_t cls)
{
	struct theap_class *const c = &orphan->classes[cls];

	for (struct list *at = c->available.next; at != &c->available; at = at->next) {
		struct slab *const slab = HF_CONTAINER_OF(at, struct slab, in_class);

		slab->countdown -= slab_collect(slab, false); /* keeps S3: it is AVAILABLE */
		if (slab_is_loose(slab))
			return slab;
	}
	return NULL;
}

bool theap_take_from_orphans(struct theap *theap, uint32_t cls)
{
	struct slab *slab = NULL;
	struct list *next;

	lock_take(&theap_lock);
	for (struct list *at = theap_orphans.next; at != &theap_orphans && !slab; at = next) {
		struct theap *const orphan = HF_CONTAINER_OF(at, struct theap, in_state);

		next = at->next;
		theap_tend_locked(orphan);
		slab = find_loose(orphan, cls);
		if (slab) {
			theap_remove_available(orphan, slab);
			theap_slab_move_locked(orphan, theap, slab);
			settle_locked(orphan);
		}
	}
	lock_put(&theap_lock);
	if (!slab)
		return false;
	theap_place_usable(theap, slab, slab_used(slab));
	return !list_is_empty(&theap->classes[cls].available);
}
