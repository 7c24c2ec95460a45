/*
 * Threads on one pool: each takes, writes, grows, resizes, moves and puts, near the limit; some trim, allocate
 * metadata, look at foreign addresses. What one thread has, nobody else writes to. In the end everything is back.
 */
#include "support/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>

enum { THREADS = 6, STEPS = HF_TSAN ? 6000 : 40000, HELD = 24, LIMIT_PAGES = 6 << 8 };

struct held {
	struct chunk *chunk;
	uint32_t pages;
	bool is_span;
};

struct worker {
	uint64_t random_state;
	uint64_t tag;
	struct held held[HELD];
	uint64_t refusals, moves;
};

static uint32_t below(struct worker *worker, uint32_t bound)
{
	worker->random_state ^= worker->random_state << 13;
	worker->random_state ^= worker->random_state >> 7;
	worker->random_state ^= worker->random_state << 17;
	return (uint32_t)((worker->random_state * UINT64_C(0x2545F4914F6CDD1D) >> 33) % bound);
}

static uint64_t *word_of(const struct held *held, uint32_t page)
{
	return (uint64_t *)(void *)((char *)chunk_address(held->chunk) + (size_t)page * PAGE);
}

static void sign(const struct worker *worker, const struct held *held)
{
	for (uint32_t i = 0; i < held->pages; i++)
		*word_of(held, i) = worker->tag + i;
}

static void verify(const struct worker *worker, const struct held *held, uint32_t pages)
{
	for (uint32_t i = 0; i < pages; i++)
		CHECK(*word_of(held, i) == worker->tag + i);
}

static void take(struct worker *worker, struct held *held)
{
	bool zero;

	held->is_span = below(worker, 2);
	held->pages = 1 + below(worker, held->is_span ? 100 : CHUNK_PAGES);
	held->chunk = held->is_span ? pool_span_take((size_t)held->pages * PAGE, 0, 0, &zero)
				    : pool_chunk_take(held->pages, CHUNK_SLAB, 0);
	if (held->chunk == NULL) {
		worker->refusals++;
		return;
	}
	CHECK(pool_index_is_mapped(pool_index_of(chunk_address(held->chunk))));
	sign(worker, held);
}

static void change(struct worker *worker, struct held *held)
{
	const uint32_t pages = 1 + below(worker, held->is_span ? 100 : CHUNK_PAGES);
	const uint32_t before = held->pages;

	if (!held->is_span) {
		if (pool_chunk_grow(held->chunk, pages, 0) == 0 && pages > before)
			held->pages = pages;
	} else if (pool_span_resize(held->chunk, (size_t)pages * PAGE, 0) == 0) {
		held->pages = pages;
	} else if (pages > before) {
		struct chunk *moved = pool_span_move(held->chunk, (size_t)pages * PAGE, 0);

		if (moved != NULL) {
			held->chunk = moved;
			held->pages = pages;
			worker->moves++;
		}
	}
	verify(worker, held, held->pages < before ? held->pages : before);
	sign(worker, held);
}

static void put(struct worker *worker, struct held *held)
{
	verify(worker, held, held->pages);
	if (held->is_span)
		pool_span_put(held->chunk);
	else
		pool_chunk_put(held->chunk);
	held->chunk = NULL;
}

static void other(struct worker *worker)
{
	struct pool_stats now;

	switch (below(worker, 64)) {
	case 0:
		(void)pool_trim(below(worker, 4));
		break;
	case 1:
		pool_check();
		break;
	case 2:
		pool_stats_get(&now);
		CHECK(now.reserved_chunks <= now.idle_chunks);
		break;
	case 3:
		(void)!pool_meta_alloc(64);
		break;
	default:
		(void)pool_index_is_mapped(below(worker, 1 << 14));
		CHECK(pool_span_around(worker) == NULL);
	}
}

static void *work(void *context)
{
	struct worker *worker = context;

	for (unsigned i = 0; i < STEPS; i++) {
		struct held *held = &worker->held[below(worker, HELD)];

		if (below(worker, 16) == 0)
			other(worker);
		else if (held->chunk == NULL)
			take(worker, held);
		else if (below(worker, 3) == 0)
			change(worker, held);
		else
			put(worker, held);
	}
	for (unsigned i = 0; i < HELD; i++)
		if (worker->held[i].chunk != NULL)
			put(worker, &worker->held[i]);
	return NULL;
}

static void threads_share_a_pool(void **state)
{
	static struct worker workers[THREADS];
	const char *text = getenv("SEED");
	const uint64_t seed = (uint64_t)(text != NULL ? strtoll(text, NULL, 0) : getpid());
	pthread_t threads[THREADS];
	uint64_t refusals = 0;
	uint64_t moves = 0;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	start(LIMIT_PAGES);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].random_state = (seed + i) * UINT64_C(0x9E3779B97F4A7C15) + 1;
		workers[i].tag = (uint64_t)(i + 1) << 40;
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		refusals += workers[i].refusals;
		moves += workers[i].moves;
	}
	assert_int_equal(stats().used_chunks, 0);
	assert_true(resident() <= stats().committed_pages);
	assert_true(refusals > 0);
	assert_true(moves > 0);
	(void)pool_trim(0);
	assert_int_equal(stats().idle_chunks, 0);
	assert_int_equal(stats().committed_pages, stats().meta_pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(threads_share_a_pool)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
