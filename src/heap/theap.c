/*
 * A thread's heap: which slab serves next, and what happens to slabs that fill and empty.
 */
#include "heap/theap.h"

#include "heap/heap.h"
#include "os/os.h"

#include <pthread.h>
#include <string.h>

enum {
	COUNTDOWN_FOREVER = 1 << 30, /* of a CURRENT slab: set again when it runs out */
	SPARES_SHARE = 8,	     /* at most one spare slab for so many slabs; so none in a small process */
	NOTIFY_SHARE = 8,	     /* a full slab announces itself when others have freed one object in so many */
	USE_SHARE = 32,		     /* and its owner uses it again when it itself has; what waits is 3% at most */
};

struct lock theap_lock = LOCK_INIT(LOCK_RANK_HEAPS);
struct list theap_all = {&theap_all, &theap_all};
struct list theap_orphans = {&theap_orphans, &theap_orphans};
struct list theap_free = {&theap_free, &theap_free};
_Atomic uint32_t theap_orphan_available[CLASS_COUNT];

/* Its key decodes nothing: high bits as in a real one, and slab_nothing reads as 0. */
struct slab theap_no_slab = {
	.free = (void *)(uintptr_t)slab_nothing,
	.key = UINT64_C(1) << 63,
	.object_bytes = HEAP_ALIGN_BYTES,
};

/* clang-format off */
#define NO_SLAB_4 &theap_no_slab, &theap_no_slab, &theap_no_slab, &theap_no_slab
#define NO_SLAB_16 NO_SLAB_4, NO_SLAB_4, NO_SLAB_4, NO_SLAB_4
#define NO_CLASS_4 {.current = &theap_no_slab}, {.current = &theap_no_slab}, {.current = &theap_no_slab}, {.current = &theap_no_slab}
struct theap theap_nothing = {
	.direct = {NO_SLAB_16, NO_SLAB_16, NO_SLAB_16, NO_SLAB_16, &theap_no_slab},
	.classes = {NO_CLASS_4, NO_CLASS_4, NO_CLASS_4, NO_CLASS_4, NO_CLASS_4,
		    NO_CLASS_4, NO_CLASS_4, NO_CLASS_4, NO_CLASS_4, NO_CLASS_4},
};
/* clang-format on */
static_assert(CLASS_DIRECT_COUNT == 4 * 16 + 1, "theap_nothing has an entry for each size");
static_assert(CLASS_COUNT == 10 * 4, "and for each class");

__thread struct theap *theap_fast = &theap_nothing;
__thread struct theap *theap_mine;
static __thread bool thread_is_ending;
_Atomic bool theap_watched;

/* ---- tables ---- */

void theap_tables_clear(struct theap *theap)
{
	memcpy(theap->direct, theap_nothing.direct, sizeof theap->direct);
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
		struct theap_class *const c = &theap->classes[cls];

		c->current = &theap_no_slab;
		list_init(&c->available);
		c->available_count = 0;
		c->has_spare = false;
		c->warm = false;
	}
	theap->spares = 0;
}

void theap_set_current(struct theap *theap, uint32_t cls, struct slab *slab)
{
	theap->classes[cls].current = slab;
	if (slab != &theap_no_slab) {
		slab->state = SLAB_CURRENT;
		slab->countdown = COUNTDOWN_FOREVER;
	}
	if (class_bytes(cls) > CLASS_DIRECT_BYTES)
		return;

	const uint32_t first = cls == 0 ? 0 : class_bytes(cls - 1) / HEAP_ALIGN_BYTES + 1;
	for (uint32_t i = first; i <= class_bytes(cls) / HEAP_ALIGN_BYTES; i++)
		theap->direct[i] = slab;
}

static void count_available(struct theap *theap, uint32_t cls, uint32_t change)
{
	theap->classes[cls].available_count += change;
	/* Relaxed: a hint, whether taking the lock could be of use. */
	if (!theap_is_live(theap))
		atomic_fetch_add_explicit(&theap_orphan_available[cls], change, memory_order_relaxed);
}

void theap_add_available(struct theap *theap, struct slab *slab)
{
	list_add_last(&theap->classes[slab->cls].available, &slab->in_class);
	count_available(theap, slab->cls, 1);
}

void theap_remove_available(struct theap *theap, struct slab *slab)
{
	list_remove(&slab->in_class);
	count_available(theap, slab->cls, (uint32_t)-1);
	if (slab->state == SLAB_SPARE) {
		theap->classes[slab->cls].has_spare = false;
		theap->spares--;
	}
}

/* A heap without thread is changed under the lock only; so there it is held already. */
static bool lock_if_live(const struct theap *theap)
{
	const bool live = theap_is_live(theap);

	if (live)
		lock_take(&theap_lock);
	else
		HF_ASSERT(lock_is_mine(&theap_lock));
	return live;
}

static void slab_count_add(struct theap *theap, uint32_t change)
{
	/* Relaxed: changes under the lock; the owner's unlocked reads are of a number that only it changes. */
	atomic_store_explicit(&theap->slab_count,
		atomic_load_explicit(&theap->slab_count, memory_order_relaxed) + change, memory_order_relaxed);
}

static void add_slab(struct theap *theap, struct slab *slab)
{
	const bool locked = lock_if_live(theap);

	list_add_last(&theap->slabs, &slab->in_theap);
	slab_count_add(theap, 1);
	/* Relaxed: other threads compare it with their own heap only, until they are given an object of it. */
	atomic_store_explicit(&slab->owner, theap, memory_order_relaxed);
	if (locked)
		lock_put(&theap_lock);
}

void theap_destroy_slab(struct theap *theap, struct slab *slab)
{
	const bool locked = lock_if_live(theap);

	list_remove(&slab->in_theap);
	slab_count_add(theap, (uint32_t)-1);
	if (locked)
		lock_put(&theap_lock);
	slab_destroy(slab);
}

void theap_slab_move_locked(struct theap *from, struct theap *to, struct slab *slab)
{
	list_remove(&slab->in_theap);
	slab_count_add(from, (uint32_t)-1);
	list_add_last(&to->slabs, &slab->in_theap);
	slab_count_add(to, 1);
	/* Relaxed: as in add_slab(). */
	atomic_store_explicit(&slab->owner, to, memory_order_relaxed);
}

/* ---- places ---- */

static bool may_keep_spare(const struct theap *theap, uint32_t cls)
{
	return theap_is_live(theap) && !theap->classes[cls].has_spare &&
	       theap->spares < atomic_load_explicit(&theap->slab_count, memory_order_relaxed) / SPARES_SHARE;
}

static void retire(struct theap *theap, struct slab *slab)
{
	if (!may_keep_spare(theap, slab->cls)) {
		theap_destroy_slab(theap, slab);
		return;
	}
	slab->state = SLAB_SPARE;
	theap->classes[slab->cls].has_spare = true;
	theap->spares++;
	theap_add_available(theap, slab);
}

static uint32_t share_of(const struct slab *slab, uint32_t share)
{
	const uint32_t objects = slab_cut_count(slab) / share;

	return objects > 0 ? objects : 1;
}

/*
 * With @least free objects it is of use. One that is armed as FULL may be gone at once: others free its objects, and
 * theap_take_from_queues() gives it back.
 */
static void place(struct theap *theap, struct slab *slab, uint32_t used, uint32_t least)
{
	bool is_of_use;

	for (;;) {
		const uint32_t local = slab_cut_count(slab) - used;

		if (used == 0 && slab_is_loose(slab)) {
			retire(theap, slab);
			return;
		}
		is_of_use = local >= least || slab_cut_count(slab) < slab->cut_limit;
		slab->state = is_of_use ? SLAB_AVAILABLE : SLAB_FULL;
		slab->countdown = is_of_use ? used : least - local;
		slab->rest = used - slab->countdown; /* keeps S3 */
		/* An available one announces itself when others have freed the last object. */
		if (slab_arm(slab, is_of_use ? used : share_of(slab, NOTIFY_SHARE), !is_of_use))
			break;
		used -= slab_collect(slab, false);
	}
	if (is_of_use)
		theap_add_available(theap, slab);
}

void theap_place(struct theap *theap, struct slab *slab, uint32_t used)
{
	/* An orphan's owner frees nothing any more: a slab of it would not announce itself. */
	place(theap, slab, used, theap_is_live(theap) ? share_of(slab, USE_SHARE) : 1);
}

void theap_place_usable(struct theap *theap, struct slab *slab, uint32_t used)
{
	place(theap, slab, used, 1);
}

void theap_event(struct slab *slab)
{
	struct theap *const theap = theap_mine;

	(void)heap_raw_clone_check();
	switch (slab->state) {
	case SLAB_CURRENT:
		slab->countdown = COUNTDOWN_FOREVER;
		break;
	case SLAB_FULL:
		theap_place(theap, slab, slab->rest);
		break;
	case SLAB_AVAILABLE:
		theap_remove_available(theap, slab);
		theap_place(theap, slab, slab->rest);
		break;
	default:
		base_die("a slab of %u bytes at %p counts frees in state %u", slab->object_bytes,
			(void *)slab_base(slab), slab->state);
	}
}

/* ---- the queue ---- */

/*
 * Any thread pushes, the owner takes all: no ABA. The push and the look at the state are sequentially consistent, and
 * so are theap_abandon_locked()'s change of state and its emptying of the queue: either it sees the slab or we see it
 * end.
 */
static void push_on_queue(struct theap *owner, struct slab *slab)
{
	struct slab *first = atomic_load_explicit(&owner->queue, memory_order_relaxed);

	do {
		slab->queue_next = first;
		/* Release (and more): queue_next. Pairs with the exchange in theap_empty_queue(). */
	} while (!atomic_compare_exchange_weak_explicit(
		&owner->queue, &first, slab, memory_order_seq_cst, memory_order_relaxed));
}

void theap_queue(struct slab *slab)
{
	/* Relaxed: QUEUED pins the owner. It was read by whoever gave us the object, or under the lock. */
	struct theap *const owner = atomic_load_explicit(&slab->owner, memory_order_relaxed);

	push_on_queue(owner, slab);
	/* From here on the slab is not ours to look at. */
	if (theap_is_live(owner))
		return;
	lock_take(&theap_lock);
	theap_tend_locked(owner);
	lock_put(&theap_lock);
}

static void dequeue(struct theap *theap, struct slab *slab)
{
	const uint32_t count = slab_collect(slab, true);

	switch (slab->state) {
	case SLAB_FULL:
		theap_place(theap, slab, slab_used(slab) - count);
		break;
	case SLAB_AVAILABLE:
		theap_remove_available(theap, slab);
		theap_place(theap, slab, slab_used(slab) - count);
		break;
	default: /* CURRENT: its list is longer now */
		break;
	}
}

void theap_empty_queue(struct theap *theap)
{
	/* One that comes now is found the next time; sequentially consistent for the last time: see theap_queue(). */
	if (atomic_load(&theap->queue) == NULL)
		return;

	/* Acquire (and more): pairs with the push in theap_queue(). */
	struct slab *slab = atomic_exchange_explicit(&theap->queue, NULL, memory_order_seq_cst);
	while (slab) {
		struct slab *const next = slab->queue_next;

		dequeue(theap, slab);
		slab = next;
	}
}

/* ---- allocation ---- */

static void switch_to(struct theap *theap, struct slab *slab)
{
	struct slab *const before = theap->classes[slab->cls].current;

	theap_set_current(theap, slab->cls, slab);
	(void)slab_collect(slab, false);
	if (before != &theap_no_slab)
		theap_place(theap, before, slab_cut_count(before)); /* it was used up */
}

static bool use_available(struct theap *theap, uint32_t cls)
{
	struct theap_class *const c = &theap->classes[cls];

	if (list_is_empty(&c->available))
		return false;
	struct slab *const slab = HF_CONTAINER_OF(c->available.next, struct slab, in_class);
	theap_remove_available(theap, slab);
	switch_to(theap, slab);
	return true;
}

/* A class begins with a page, or one object; what has been whole once is whole from the start. */
static uint32_t first_pages(const struct theap_class *c, uint32_t cls)
{
	return c->warm ? CHUNK_PAGES : (class_bytes(cls) + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES;
}

/*
 * A FULL slab of the class that has a free object after all, taken back from whoever may find it empty in the queue:
 * its full bit is gone. NULL: none. Under theap_lock, which those hold, too.
 */
static struct slab *find_in_full_locked(struct theap *theap, uint32_t cls, uint32_t *used_out)
{
	for (struct list *at = theap->slabs.next; at != &theap->slabs; at = at->next) {
		struct slab *const slab = HF_CONTAINER_OF(at, struct slab, in_theap);

		if (slab->cls != cls || slab->state != SLAB_FULL)
			continue;
		*used_out = slab_used(slab) - slab_collect(slab, false);
		if (*used_out < slab_cut_count(slab) || !slab_arm(slab, share_of(slab, NOTIFY_SHARE), true))
			return slab; /* not armed again: somebody has just freed one */
	}
	return NULL;
}

/* Where no more can be had, the few free objects of full slabs count too. */
static bool gather_full(struct theap *theap, uint32_t cls)
{
	uint32_t used = 0;

	lock_take(&theap_lock);
	struct slab *const slab = find_in_full_locked(theap, cls, &used);
	lock_put(&theap_lock);
	if (slab)
		theap_place_usable(theap, slab, used - slab_collect(slab, false));
	return slab != NULL;
}

/* The current slab of the class is used up: find another, or make it larger. False: the pool said no. */
static bool next_slab(struct theap *theap, uint32_t cls, uint64_t floor_pages)
{
	struct theap_class *const c = &theap->classes[cls];
	struct slab *slab = c->current;

	theap_empty_queue(theap);
	if (slab->free != slab_end())
		return true;
	if (use_available(theap, cls))
		return true;
	/* Relaxed: hints, both. */
	if (atomic_load_explicit(&theap_wrecks, memory_order_relaxed) != 0)
		(void)theap_tend_orphans();
	if (atomic_load_explicit(&theap_orphan_available[cls], memory_order_relaxed) != 0 &&
		theap_take_from_orphans(theap, cls) && use_available(theap, cls))
		return true;
	if (slab != &theap_no_slab) {
		if (slab_grow(slab, c->warm, floor_pages))
			return true;
		if (slab->cut_limit == class_capacity(cls))
			c->warm = true;
	}
	slab = slab_create(cls, first_pages(c, cls), floor_pages);
	if (!slab)
		return gather_full(theap, cls) && use_available(theap, cls);
	add_slab(theap, slab);
	switch_to(theap, slab);
	return true;
}

void *theap_alloc(struct theap *theap, uint32_t cls, bool want_zero, uint64_t floor_pages, bool *zero_out)
{
	for (;;) {
		struct slab *const slab = theap->classes[cls].current;
		void *object = slab_pop(slab);

		if (object)
			return object;
		if (slab != &theap_no_slab) {
			if (slab_collect(slab, false) > 0)
				continue;
			if (want_zero && (object = slab_cut_one(slab, zero_out)) != NULL)
				return object;
			if (slab_cut(slab))
				continue;
		}
		if (!next_slab(theap, cls, floor_pages))
			return NULL;
	}
}

static bool trim_current(struct theap *theap, uint32_t cls)
{
	struct slab *const slab = theap->classes[cls].current;

	if (slab == &theap_no_slab)
		return false;
	(void)slab_collect(slab, false);
	if (slab_count_local(slab) < slab_cut_count(slab) || !slab_is_loose(slab))
		return false;
	theap_set_current(theap, cls, &theap_no_slab);
	theap_destroy_slab(theap, slab);
	return true;
}

static uint32_t trim_available(struct theap *theap, uint32_t cls)
{
	struct theap_class *const c = &theap->classes[cls];
	uint32_t slabs = 0;

	/* Each once: what stays goes to the end of the list. */
	for (uint32_t left = c->available_count; left > 0; left--) {
		struct slab *const slab = HF_CONTAINER_OF(c->available.next, struct slab, in_class);
		const bool is_spare = slab->state == SLAB_SPARE;

		theap_remove_available(theap, slab);
		const uint32_t used = is_spare ? 0 : slab_used(slab) - slab_collect(slab, false);
		if (used == 0 && slab_is_loose(slab)) {
			theap_destroy_slab(theap, slab);
			slabs++;
		} else {
			theap_place(theap, slab, used);
		}
	}
	return slabs;
}

/* The slabs in @theap's queue that are empty go back to the pool; the others are queued again. */
static uint32_t take_from_queue_locked(struct theap *theap)
{
	/* Acquire (and more): as in theap_empty_queue(). Whoever gets the chain has what is in it. */
	struct slab *slab = atomic_exchange_explicit(&theap->queue, NULL, memory_order_seq_cst);
	uint32_t slabs = 0;

	while (slab) {
		struct slab *const next = slab->queue_next;

		if (slab_is_left_empty(slab)) {
			list_remove(&slab->in_theap);
			slab_count_add(theap, (uint32_t)-1);
			slab_destroy(slab);
			slabs++;
		} else {
			push_on_queue(theap, slab);
		}
		slab = next;
	}
	return slabs;
}

uint32_t theap_take_from_queues(void)
{
	uint32_t slabs = 0;

	lock_take(&theap_lock);
	for (struct list *at = theap_all.next; at != &theap_all; at = at->next) {
		struct theap *const theap = HF_CONTAINER_OF(at, struct theap, in_all);

		/* A heap does not end while we have the lock. This thread's own is empty_queue()'s. */
		if (theap != theap_mine && theap_is_live(theap))
			slabs += take_from_queue_locked(theap);
	}
	lock_put(&theap_lock);
	return slabs;
}

uint32_t theap_trim(struct theap *theap)
{
	uint32_t slabs = 0;

	theap_empty_queue(theap);
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
		slabs += trim_available(theap, cls);
		slabs += trim_current(theap, cls);
	}
	return slabs;
}

/* ---- threads ---- */

enum { KEY_NONE, KEY_MADE, KEY_REFUSED };
static pthread_key_t end_key;
static uint32_t end_key_state; /* under theap_lock */

static void thread_ends(void *pointer)
{
	struct theap *const theap = pointer;

	(void)heap_raw_clone_check(); /* while the heap is known to be this thread's */
	thread_is_ending = true;
	theap_fast = &theap_nothing;
	theap_mine = NULL;
	theap_return(theap);
}

void theap_return(struct theap *theap)
{
	lock_take(&theap_lock);
	theap_abandon_locked(theap);
	lock_put(&theap_lock);
}

static struct theap *create_locked(void)
{
	/* The allocator of metadata aligns to 16 only. */
	const size_t align_bytes = _Alignof(struct theap);
	char *const memory = pool_meta_alloc(sizeof(struct theap) + align_bytes - 16);

	if (!memory)
		return NULL;
	struct theap *const theap = (struct theap *)(void *)(memory + (-(uintptr_t)memory & (align_bytes - 1)));
	theap_tables_clear(theap);
	list_init(&theap->in_state);
	list_init(&theap->slabs);
	list_add_last(&theap_all, &theap->in_all);
	atomic_store_explicit(&theap->state, THEAP_LIVE, memory_order_relaxed);
	return theap;
}

/* The C library allocates nothing for this; the key's destructor is how a thread's end is noticed. */
static bool end_key_ready_locked(void)
{
	if (end_key_state == KEY_NONE)
		end_key_state = pthread_key_create(&end_key, thread_ends) == 0 ? KEY_MADE : KEY_REFUSED;
	return end_key_state == KEY_MADE;
}

static HF_NOINLINE struct theap *get_slow(bool *borrowed_out)
{
	lock_take(&theap_lock);
	struct theap *theap = theap_adopt_locked();
	if (!theap)
		theap = create_locked();
	const bool can_tell = end_key_ready_locked();
	lock_put(&theap_lock);

	*borrowed_out = true;
	if (!theap || thread_is_ending || !can_tell)
		return theap;
	/* This may call malloc, which finds the heap in place. */
	theap_mine = theap;
	if (pthread_setspecific(end_key, theap) != 0) {
		theap_mine = NULL;
		return theap;
	}
	*borrowed_out = false;
	return theap;
}

struct theap *theap_get(bool *borrowed_out)
{
	struct theap *theap = theap_mine;

	*borrowed_out = false;
	if (HF_UNLIKELY(!theap))
		theap = get_slow(borrowed_out);
	/* Relaxed: whoever turns watching on is told that threads notice it on their slow path. */
	const bool watched = atomic_load_explicit(&theap_watched, memory_order_relaxed);
	theap_fast = theap_mine && !watched ? theap_mine : &theap_nothing;
	return theap;
}
