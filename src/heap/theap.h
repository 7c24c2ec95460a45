/*
 * A thread's heap: the slabs that one thread owns, by class, and which of them it uses.
 *
 * Life: LIVE with a thread; when that ends an ORPHAN, until a new thread adopts the whole or other threads have taken
 * its slabs one by one; FREE when it has none. A child of fork finds other threads' heaps as WRECKS: their owners are
 * gone in the middle of whatever they did. The structs themselves are never given back.
 *
 * Remote frees: the thread that frees pushes the object on the slab's remote word. If that makes the count reach
 * notify_at it also puts the slab into the owner's queue, and, if that is an orphan, tends it on the spot; so that the
 * memory of threads that have ended goes back with the last free.
 *
 * T1: a slab is in theap.slabs of its owner; exactly one of {current of its class, on available of its class,
 *     FULL, queued while it changed}, and a LIVE theap is changed by its own thread only; slabs and all that orphans
 *     and wrecks have, under theap_lock.
 * theap_check_all() verifies it.
 */
#ifndef HF_HEAP_THEAP_H
#define HF_HEAP_THEAP_H

#include "heap/slab.h"
#include "os/lock.h"

enum theap_state { THEAP_FREE, THEAP_LIVE, THEAP_ORPHAN, THEAP_WRECK };

struct theap_class {
	struct slab *current;  /* or &theap_no_slab */
	struct list available; /* slab.in_class, the longest waiting first */
	uint32_t available_count;
	bool has_spare;
	bool warm; /* has had a slab that was whole: the next one is whole from the start */
};

struct theap {
	/* The owner's alone. First, so that the fast path needs no displacement: the current slab by (bytes + 15) / 16.
	 */
	struct slab *direct[CLASS_DIRECT_COUNT];
	struct theap_class classes[CLASS_COUNT];
	uint32_t spares;
	/* Under theap_lock. */
	struct list in_all, in_state; /* every theap; theaps of one state that is not LIVE */
	struct list slabs;	      /* slab.in_theap */
	_Atomic uint32_t slab_count;  /* changes under theap_lock; the owner reads it without */
	/* Atomic: other threads. */
	_Atomic uint32_t state; /* enum theap_state; written under theap_lock */
	_Atomic(struct slab *) queue __attribute__((aligned(64)));
};

extern struct lock theap_lock;	   /* LOCK_RANK_HEAPS */
extern struct slab theap_no_slab;  /* an empty one: every allocation from it misses */
extern struct theap theap_nothing; /* no slabs: every allocation misses, and it owns nothing */

/*
 * Where the fast paths look: this thread's heap, or theap_nothing if it has none, or is watched. And the truth.
 * Initial-exec by the build's flags.
 */
extern __thread struct theap *theap_fast;
extern __thread struct theap *theap_mine;

/* True while the fast paths shall miss. Threads notice on their slow path. */
extern _Atomic bool theap_watched;

/*
 * This thread's heap, made or adopted if it has none. NULL: the pool said no. *borrowed_out: this thread is ending,
 * or cannot be told of its end; give the heap back with theap_return().
 */
struct theap *theap_get(bool *borrowed_out);
void theap_return(struct theap *theap);

/* An object of @cls from a heap that is this thread's. NULL: the pool said no. *zero_out: reads as zero. */
void *theap_alloc(struct theap *theap, uint32_t cls, bool want_zero, uint64_t floor_pages, bool *zero_out);
/* The countdown of a slab of this thread's has come to 0. */
void theap_event(struct slab *slab);
/* This thread has pushed the object that makes the slab announce itself. */
void theap_queue(struct slab *slab);

/* Give back this thread's empty slabs, spare and current ones too. How many. */
uint32_t theap_trim(struct theap *theap);
/*
 * Give back the empty slabs that wait in the queues of other threads, which may not come by for long. How many.
 * What an idle thread has half used stays its own.
 */
uint32_t theap_take_from_queues(void);

/* ---- theap_orphan.c ---- */

/* Under theap_lock: the heap has lost its thread. */
void theap_abandon_locked(struct theap *theap);
/* A heap for a thread, LIVE: an orphan, a free one; NULL: none. */
struct theap *theap_adopt_locked(void);
/* Move a usable slab of @cls from an orphan to @theap's available ones. False: there is none. */
bool theap_take_from_orphans(struct theap *theap, uint32_t cls);
/* Empty every orphan's queue, and give back its empty slabs. How many. */
uint32_t theap_tend_orphans(void);
void theap_tend_locked(struct theap *orphan);
/* In a forked child: other threads' heaps are wrecks. Not @lists_whole: what is not this thread's is forgotten. */
void theap_fork_child(bool lists_whole);

/* ---- shared by theap.c and theap_orphan.c ---- */

extern struct list theap_all, theap_orphans, theap_free;
/* How many available slabs orphans have, by class: where it is 0 nobody takes the lock. */
extern _Atomic uint32_t theap_orphan_available[CLASS_COUNT];
/* Heaps of a parent's threads that nobody has looked at yet. */
extern _Atomic uint32_t theap_wrecks;

void theap_tables_clear(struct theap *theap);
void theap_set_current(struct theap *theap, uint32_t cls, struct slab *slab);
void theap_add_available(struct theap *theap, struct slab *slab);
void theap_remove_available(struct theap *theap, struct slab *slab);
/* A slab that is on no list and not current, with @used objects not on its local list: put it where it belongs. */
void theap_place(struct theap *theap, struct slab *slab, uint32_t used);
/* The same, however few free objects it has. */
void theap_place_usable(struct theap *theap, struct slab *slab, uint32_t used);
void theap_destroy_slab(struct theap *theap, struct slab *slab);
/* Under theap_lock. The slab is on no list of its class. */
void theap_slab_move_locked(struct theap *from, struct theap *to, struct slab *slab);
void theap_empty_queue(struct theap *theap);

/* S1 to S3, T1, of every heap. Threads quiet. Takes the lock. */
void theap_check_all(void);
/* Threads, slabs and what lives in them. Takes the lock. */
void theap_stats_add(struct heap_stats *stats);

static inline bool theap_is_live(const struct theap *theap)
{
	/* Acquire, sequentially consistent: see theap_queue(). */
	return atomic_load(&theap->state) == THEAP_LIVE;
}

#endif
