/*
 * The word {idle, reserved}: P1, and the only place where it is kept.
 *
 * Idle in the low half, reserved in the high half, both in whole chunks. Idle changes only under the pool's lock,
 * together with the chunks that it counts; reserved may change anywhere, by one compare-and-swap.
 */
#ifndef HF_POOL_WORD_H
#define HF_POOL_WORD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

extern _Atomic uint64_t pool_word;

static inline uint32_t word_idle(uint64_t word)
{
	return (uint32_t)word;
}

static inline uint32_t word_reserved(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static inline uint64_t word_now(void)
{
	return atomic_load_explicit(&pool_word, memory_order_relaxed);
}

/* Idle chunks that are nobody's reservation. */
static inline uint32_t word_available(void)
{
	const uint64_t word = word_now();

	return word_idle(word) - word_reserved(word);
}

static inline bool word_take(uint32_t chunks)
{
	uint64_t word = word_now();

	do {
		if (word_idle(word) - word_reserved(word) < chunks)
			return false; /* keeps P1 */
		/* Relaxed: which chunks these are is found under the lock, and that orders their contents. */
	} while (!atomic_compare_exchange_weak_explicit(
		&pool_word, &word, word - chunks, memory_order_relaxed, memory_order_relaxed));
	return true;
}

static inline void word_put(uint32_t chunks)
{
	atomic_fetch_add_explicit(&pool_word, chunks, memory_order_relaxed);
}

#endif
