/*
 * What tests of the heap have in common: start-up, figures, patterns.
 */
#ifndef HF_TESTS_SUPPORT_HEAP_CASE_H
#define HF_TESTS_SUPPORT_HEAP_CASE_H

#include "heap/heap.h"
#include "pool/pool.h"
#include "support/ledger_case.h"

#include <holdfast/init.h>

/* Once in a program. By the front door, so that fork is handled too. */
static inline void heap_case_start(uint64_t limit_pages)
{
	const struct hf_config config = {
		.struct_bytes = sizeof config,
		.budget_bytes = limit_pages * 4096,
		.ignore_environment = true,
	};

	CASE_CHECK(hf_init(&config) == 0);
}

/* Any size and alignment must do: NULL ends the test. */
static inline void *heap_case_alloc(size_t bytes)
{
	void *const object = heap_alloc(bytes, 0, false, 0);

	CASE_CHECK(object != NULL);
	return object;
}

static inline uint64_t heap_case_committed(void)
{
	struct pool_stats stats;

	pool_stats_get(&stats);
	return stats.committed_pages;
}

static inline struct heap_stats heap_case_stats(void)
{
	struct heap_stats stats;

	heap_stats_get(&stats);
	return stats;
}

/* Every word of an object tells whose it is; the bytes beyond the last whole word too. */
static inline uint64_t pattern_word(uint64_t seed, size_t index)
{
	return (seed + index) * UINT64_C(0x9e3779b97f4a7c15);
}

static inline void pattern_write(void *object, size_t bytes, uint64_t seed)
{
	unsigned char *const at = object;

	for (size_t i = 0; i < bytes; i += 8) {
		const uint64_t word = pattern_word(seed, i / 8);

		memcpy(at + i, &word, bytes - i < 8 ? bytes - i : 8);
	}
}

static inline bool pattern_holds(const void *object, size_t bytes, uint64_t seed)
{
	const unsigned char *const at = object;

	for (size_t i = 0; i < bytes; i += 8) {
		const uint64_t word = pattern_word(seed, i / 8);

		if (memcmp(at + i, &word, bytes - i < 8 ? bytes - i : 8) != 0)
			return false;
	}
	return true;
}

static inline bool is_zero(const void *object, size_t bytes)
{
	const unsigned char *const at = object;

	for (size_t i = 0; i < bytes; i++)
		if (at[i] != 0)
			return false;
	return true;
}

#endif
