/*
 * Protocol: drop of state to 0 is a release that pairs with the acquire of the next taker.
 * A sleeper sets 2 before it sleeps, and whoever takes the lock after a sleep keeps 2, since more
 * may sleep: a wake-up too many, never one too few.
 */
#include "os/lock.h"

#include "base/assert.h"
#include "os/os.h"

#include <stdatomic.h>

/* Spins before sleeping: about 2 us, the length of the pool's usual critical section. */
enum { SPINS = 64 };

#ifdef HF_DEBUG
static __thread uint64_t ranks_held __attribute__((tls_model("initial-exec"))); /* bit per rank */

/* Before waiting for it: a thread that takes a lock twice is to die with a message, not to hang. */
static void check_order(const struct lock *lock)
{
	HF_VERIFY_OP(lock->rank, >, LOCK_RANK_NONE);
	HF_VERIFY_OP(lock->rank, <, LOCK_RANK_COUNT);
	HF_VERIFY_OP(ranks_held >> lock->rank, ==, 0); /* rising rank only */
}

static void note_taken(const struct lock *lock)
{
	ranks_held |= (uint64_t)1 << lock->rank;
}

static void note_put(const struct lock *lock)
{
	HF_VERIFY_OP(ranks_held >> lock->rank & 1, ==, 1);
	ranks_held &= ~((uint64_t)1 << lock->rank);
}

bool lock_is_mine(const struct lock *lock)
{
	return ranks_held >> lock->rank & 1;
}

bool lock_any_held(void)
{
	return ranks_held != 0;
}
#else
static void check_order(const struct lock *lock)
{
	(void)lock;
}

static void note_taken(const struct lock *lock)
{
	(void)lock;
}

static void note_put(const struct lock *lock)
{
	(void)lock;
}

bool lock_is_mine(const struct lock *lock)
{
	(void)lock;
	return true;
}

bool lock_any_held(void)
{
	return false;
}
#endif

void lock_init(struct lock *lock, enum lock_rank rank)
{
	atomic_init(&lock->state, 0);
	lock->rank = rank;
}

bool lock_try_take(struct lock *lock)
{
	uint32_t free_state = 0;

	check_order(lock);
	/* Acquire: pairs with the release in lock_put(). */
	if (!atomic_compare_exchange_strong_explicit(
		    &lock->state, &free_state, 1, memory_order_acquire, memory_order_relaxed))
		return false;
	note_taken(lock);
	return true;
}

static HF_NOINLINE void take_slow(struct lock *lock)
{
	for (int i = 0; i < SPINS; i++) {
		uint32_t free_state = 0;

		/* Acquire: pairs with the release in lock_put(). The load only saves the cache line from being taken
		 * away. */
		if (atomic_load_explicit(&lock->state, memory_order_relaxed) == 0 &&
			atomic_compare_exchange_weak_explicit(
				&lock->state, &free_state, 1, memory_order_acquire, memory_order_relaxed))
			return;
		cpu_relax();
	}
	/* Acquire: pairs with the release in lock_put(). */
	while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
		(void)os_futex_wait(&lock->state, 2, UINT64_MAX, false);
}

void lock_take(struct lock *lock)
{
	uint32_t free_state = 0;

	check_order(lock);
	/* Acquire: pairs with the release in lock_put(). */
	if (HF_UNLIKELY(!atomic_compare_exchange_strong_explicit(
		    &lock->state, &free_state, 1, memory_order_acquire, memory_order_relaxed)))
		take_slow(lock);
	note_taken(lock);
}

void lock_put(struct lock *lock)
{
	note_put(lock);
	/* Release: what was written under the lock is visible to the next taker. Pairs with lock_take(). */
	if (HF_UNLIKELY(atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2))
		(void)os_futex_wake(&lock->state, 1, false);
}

void lock_reset_after_fork(struct lock *lock)
{
#ifdef HF_DEBUG
	ranks_held &= ~((uint64_t)1 << lock->rank);
#endif
	atomic_store_explicit(&lock->state, 0, memory_order_relaxed);
}
