/*
 * A pair of 64-bit words that changes as one (cmpxchg16b and its like), for the ledger's
 * protocol, where a number and the name of its last change must move together.
 *
 * Reading is two 64-bit loads and may be torn: pair_read() is for a value that a later
 * pair_cas() verifies; pair_read_whole() is atomic and writes to the cache line.
 */
#ifndef HF_BASE_PAIR_H
#define HF_BASE_PAIR_H

#include "base/compiler.h"

#include <stdbool.h>

struct pair {
	uint64_t low, high;
};

typedef unsigned __int128 pair_bits;

/* The memory of a pair. Lives in shared memory too: no pointers, no padding. */
union pair_atomic {
	pair_bits bits __attribute__((aligned(16)));
	struct pair words;
};

static inline pair_bits pair_to_bits(struct pair value)
{
	return (pair_bits)value.high << 64 | value.low;
}

static inline struct pair pair_from_bits(pair_bits bits)
{
	return (struct pair){.low = (uint64_t)bits, .high = (uint64_t)(bits >> 64)};
}

/* May be torn. Acquire on both halves; high first, so that a change between the two fails the later CAS. */
static inline struct pair pair_read(const union pair_atomic *at)
{
	struct pair value;

	value.high = __atomic_load_n(&at->words.high, __ATOMIC_ACQUIRE);
	value.low = __atomic_load_n(&at->words.low, __ATOMIC_ACQUIRE);
	return value;
}

#if HF_TSAN
/*
 * ThreadSanitizer's own 16-byte compare-and-swap takes a lock inside the process: not atomic in memory that processes
 * share. So it must not see ours; it is told what it orders instead, for both halves, since they are read one by one.
 */
void __tsan_acquire(void *at);
void __tsan_release(void *at);

__attribute__((no_sanitize("thread"), noinline, unused)) static pair_bits pair_swap(
	union pair_atomic *at, pair_bits before, pair_bits after)
{
	__tsan_release(&at->words.low);
	__tsan_release(&at->words.high);
	const pair_bits found = __sync_val_compare_and_swap(&at->bits, before, after);
	__tsan_acquire(&at->words.low);
	__tsan_acquire(&at->words.high);
	return found;
}
#else
static inline pair_bits pair_swap(union pair_atomic *at, pair_bits before, pair_bits after)
{
	return __sync_val_compare_and_swap(&at->bits, before, after);
}
#endif

/* Sequentially consistent. True: *at was *expected and is now desired. False: *expected is what was found. */
static inline bool pair_cas(union pair_atomic *at, struct pair *expected, struct pair desired)
{
	const pair_bits before = pair_to_bits(*expected);
	const pair_bits found = pair_swap(at, before, pair_to_bits(desired));

	*expected = pair_from_bits(found);
	return found == before;
}

static inline struct pair pair_read_whole(union pair_atomic *at)
{
	struct pair value = {0, 0};

	(void)pair_cas(at, &value, value);
	return value;
}

#endif
