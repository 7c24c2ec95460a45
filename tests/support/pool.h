/*
 * For tests of the pool: one pool of its own in a forked child for each test, its books, and checks that end the child.
 */
#ifndef HF_TESTS_SUPPORT_POOL_H
#define HF_TESTS_SUPPORT_POOL_H

#include "pool/pool.h"
#include "support/child.h"
#include "support/resident.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, MANY = 1 << 14 };

/* In a child: a failed check says where, and ends it. */
#define CHECK(condition)                                                                        \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			_exit(1);                                                               \
		}                                                                               \
	} while (0)

static struct ledger *ledger;

static inline void start(uint64_t limit_pages)
{
	const struct ledger_spec spec = {.limit_pages = limit_pages};

	CHECK(ledger_create(&spec, &ledger) == 0);
	CHECK(pool_init(ledger) == 0);
}

/* Everything is checked first. */
static inline struct pool_stats stats(void)
{
	struct pool_stats now;

	pool_check();
	pool_stats_get(&now);
	CHECK(now.committed_pages == ledger_committed_here(ledger));
	return now;
}

static inline uint64_t free_pages(void)
{
	struct ledger_view view;

	ledger_look(ledger, &view);
	return view.limit_pages - view.committed_pages;
}

static inline uint64_t resident(void)
{
	uintptr_t low, high;

	pool_extent(&low, &high);
	return resident_pages(low, high);
}

/* All chunks that the budget has, each written to. */
static inline unsigned take_all(struct chunk *chunks[MANY])
{
	unsigned count = 0;

	while (count < MANY && (chunks[count] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0)) != NULL)
		memset(chunk_address(chunks[count++]), 1, CHUNK_BYTES);
	return count;
}

#endif
