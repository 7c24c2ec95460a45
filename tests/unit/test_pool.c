/* Numbers: what is free or idle in pieces, exact counts, limits, metadata. */
#include "support/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct chunk *chunks[MANY];

/* ---- fragmentation ---- */

static int every_other_chunk(void *context)
{
	unsigned count, scattered = 0;
	bool zero;

	(void)context;
	start(16 << 10);
	count = take_all(chunks);
	for (unsigned i = 0; i < count; i += 2, scattered++)
		pool_chunk_put(chunks[i]);
	struct chunk *span = pool_span_take((size_t)scattered * CHUNK_BYTES, 0, 0, &zero);
	CHECK(span != NULL);
	memset(chunk_address(span), 2, pool_span_bytes(span));
	for (unsigned i = 1; i < count; i += 2)
		CHECK(*((char *)chunk_address(chunks[i]) + CHUNK_BYTES - 1) == 1);
	CHECK(free_pages() < CHUNK_PAGES);
	CHECK(resident() <= stats().committed_pages);
	return 0;
}

static void what_is_free_in_pieces_can_be_had_in_one(void **state)
{
	(void)state;
	assert_int_equal(child_check(every_other_chunk, NULL), 0);
}

/* Nothing is free in the ledger: all that there is, is idle, and lies scattered. */
static int only_idle(void *context)
{
	struct pool_stats now;
	unsigned count;
	bool zero;

	(void)context;
	start(64 << 10);
	count = take_all(chunks);
	for (unsigned i = 0; i < 40; i++)
		pool_chunk_put(chunks[i * 7]);
	now = stats();
	CHECK(now.idle_chunks >= 16);
	ledger_set_limit(ledger, now.committed_pages + 3); /* the ledger's own three */
	struct chunk *span = pool_span_take(now.idle_chunks * CHUNK_BYTES, 0, 0, &zero);
	CHECK(span != NULL);
	CHECK(stats().idle_chunks == 0);
	CHECK(pool_chunk_take(1, CHUNK_SLAB, 0) == NULL);
	pool_span_put(span);
	for (unsigned i = 0; i < count; i++)
		if (i % 7 != 0 || i >= 40 * 7)
			pool_chunk_put(chunks[i]);
	CHECK(stats().used_chunks == 0);
	return 0;
}

static void all_that_is_idle_can_be_had_in_one_piece(void **state)
{
	(void)state;
	assert_int_equal(child_check(only_idle, NULL), 0);
}

static int idle_pages_for_growth(void *context)
{
	(void)context;
	start(16 << 10);
	struct chunk *grown = pool_chunk_take(4, CHUNK_SLAB, 0);
	for (unsigned i = 0; i < 20; i++)
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
	for (unsigned i = 0; i < 20; i++)
		pool_chunk_put(chunks[i]);
	const uint64_t idle = stats().idle_chunks;
	CHECK(idle > 0);
	ledger_set_limit(ledger, 1);
	CHECK(pool_chunk_grow(grown, CHUNK_PAGES, 0) == 0);
	CHECK(stats().idle_chunks == idle - 1);
	return 0;
}

static void a_chunk_grows_by_what_is_idle_elsewhere(void **state)
{
	(void)state;
	assert_int_equal(child_check(idle_pages_for_growth, NULL), 0);
}

/* ---- exact numbers ---- */

static int numbers(void *context)
{
	bool zero;

	(void)context;
	start(64 << 10);
	pool_chunk_put(pool_chunk_take(1, CHUNK_SLAB, 0)); /* metadata is there now */
	const uint64_t base = stats().committed_pages;
	struct chunk *chunk = pool_chunk_take(3, CHUNK_SLAB, 0);
	CHECK(stats().committed_pages == base + 3);
	CHECK(chunk->committed_mask == 7);
	CHECK(pool_chunk_grow(chunk, 7, 0) == 0);
	CHECK(pool_chunk_grow(chunk, 5, 0) == 0); /* has more already */
	CHECK(stats().committed_pages == base + 7);
	memset(chunk_address(chunk), 1, 7 * PAGE);
	pool_chunk_shrink(chunk, 1, 2);
	CHECK(stats().committed_pages == base + 5);
	CHECK(chunk->committed_mask == 0x79);
	pool_chunk_shrink(chunk, 0, 16);
	CHECK(stats().committed_pages == base);
	CHECK(pool_chunk_grow(chunk, 16, 0) == 0);
	for (unsigned i = 0; i < CHUNK_BYTES; i++)
		CHECK(((char *)chunk_address(chunk))[i] == 0);
	pool_chunk_put(chunk);

	(void)pool_trim(0);
	struct chunk *span = pool_span_take(17 * PAGE + 1, 0, 0, &zero);
	CHECK(zero);
	CHECK(pool_span_bytes(span) == 18 * PAGE);
	CHECK(stats().committed_pages == 18 + stats().meta_pages);
	pool_span_put(span);
	return 0;
}

static void pages_are_counted_one_by_one(void **state)
{
	(void)state;
	assert_int_equal(child_check(numbers, NULL), 0);
}

static int kernel_numbers(void *context)
{
	bool zero;

	(void)context;
	start(64 << 10);
	const unsigned count = take_all(chunks);
	CHECK(resident() <= stats().committed_pages);
	CHECK(resident() >= count * (uint64_t)CHUNK_PAGES);
	for (unsigned i = 0; i < count; i++)
		pool_chunk_put(chunks[i]);
	const struct pool_stats now = stats();
	CHECK(now.idle_chunks <= BLOCK_CHUNKS);
	CHECK(resident() <= now.committed_pages);
	CHECK(pool_trim(0) >= now.idle_chunks * CHUNK_PAGES);
	CHECK(resident() <= stats().committed_pages);
	CHECK(stats().committed_pages < 16);
	struct chunk *span = pool_span_take(100 << 20, 0, 0, &zero);
	memset(chunk_address(span), 1, 100 << 20);
	CHECK(resident() <= stats().committed_pages);
	CHECK(pool_span_resize(span, 1 << 20, 0) == 0);
	CHECK(resident() <= stats().committed_pages);
	CHECK(stats().committed_pages < 512 + 64); /* a whole block: it may have been a huge page */
	pool_span_put(span);
	return 0;
}

static void the_kernel_has_no_more_than_is_counted(void **state)
{
	(void)state;
	assert_int_equal(child_check(kernel_numbers, NULL), 0);
}

static int small_process(void *context)
{
	(void)context;
	start(1 << 20);
	for (unsigned i = 0; i < 8; i++) {
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
		memset(chunk_address(chunks[i]), 1, CHUNK_BYTES);
	}
	for (unsigned i = 0; i < 8; i++) {
		pool_chunk_put(chunks[i]);
		CHECK(stats().committed_pages <= resident() + 64);
	}
	CHECK(stats().idle_chunks <= 2);
	return 0;
}

static void a_small_process_keeps_little(void **state)
{
	(void)state;
	assert_int_equal(child_check(small_process, NULL), 0);
}

/* ---- limits ---- */

static int refuse_and_recover(void *context)
{
	bool zero;

	(void)context;
	start(4 << 10);
	const unsigned count = take_all(chunks);
	CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0) == NULL);
	CHECK(pool_span_take(2 * CHUNK_BYTES, 0, 0, &zero) == NULL);
	struct chunk *last = chunks[count - 1];
	pool_chunk_shrink(last, 8, 8);
	const uint64_t before = stats().committed_pages;
	CHECK(pool_chunk_grow(last, CHUNK_PAGES, 0) == 0); /* its own pages fit again */
	CHECK(stats().committed_pages == before + 8);
	ledger_set_limit(ledger, 1 << 10); /* below what is committed */
	CHECK(pool_chunk_take(1, CHUNK_SLAB, 0) == NULL);
	pool_chunk_put(chunks[0]);
	struct chunk *again = pool_chunk_take(1, CHUNK_SLAB, 0); /* idle ones need nobody */
	CHECK(again != NULL);
	pool_chunk_put(again);
	for (unsigned i = 1; i < count; i++)
		pool_chunk_put(chunks[i]);
	CHECK(pool_span_take(3 << 20, 0, 0, &zero) != NULL);
	return 0;
}

static void at_the_limit_it_says_no_and_recovers(void **state)
{
	(void)state;
	assert_int_equal(child_check(refuse_and_recover, NULL), 0);
}

static int floors(void *context)
{
	bool zero;

	(void)context;
	start(4 << 10);
	CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, (4 << 10)) == NULL);
	CHECK(pool_span_take((4 << 10) * (size_t)PAGE - (600 << 12), 0, 601, &zero) == NULL);
	CHECK(pool_span_take((4 << 10) * (size_t)PAGE - (600 << 12), 0, 500, &zero) != NULL);
	CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 590) == NULL);
	CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 500) != NULL);
	return 0;
}

static void a_floor_stays_free(void **state)
{
	(void)state;
	assert_int_equal(child_check(floors, NULL), 0);
}

static int absurd(void *context)
{
	bool zero;

	(void)context;
	start(LEDGER_NO_LIMIT);
	CHECK(pool_span_take(SIZE_MAX, 0, 0, &zero) == NULL);
	CHECK(pool_span_take(SIZE_MAX / 2, 0, 0, &zero) == NULL);
	CHECK(pool_span_take((size_t)1 << 46, 0, 0, &zero) == NULL);
	CHECK(pool_span_take(1, (size_t)1 << 62, 0, &zero) == NULL);
	CHECK(pool_meta_alloc(SIZE_MAX) == NULL);
	CHECK(pool_meta_alloc((size_t)1 << 50) == NULL);
	struct chunk *span = pool_span_take(0, 0, 0, &zero);
	CHECK(span != NULL);
	CHECK(pool_span_bytes(span) == PAGE);
	CHECK(pool_span_resize(span, SIZE_MAX, 0) == -ENOMEM);
	CHECK(pool_span_resize(span, SIZE_MAX - 5000, 0) == -ENOMEM);
	CHECK(pool_span_move(span, SIZE_MAX, 0) == NULL);
	CHECK(stats().used_chunks == 1);
	return 0;
}

static void absurd_sizes_are_refused(void **state)
{
	(void)state;
	assert_int_equal(child_check(absurd, NULL), 0);
}

/* ---- metadata ---- */

static int metadata(void *context)
{
	uintptr_t last_end = 0;
	uint64_t bytes = 0;

	(void)context;
	start(1 << 10);
	for (unsigned i = 1; i < 300; i++) {
		unsigned char *memory = pool_meta_alloc(i * 7);

		CHECK(memory != NULL);
		CHECK((uintptr_t)memory % 16 == 0);
		CHECK((uintptr_t)memory >= last_end);
		for (unsigned byte = 0; byte < i * 7; byte++)
			CHECK(memory[byte] == 0);
		memset(memory, 1, i * 7);
		last_end = (uintptr_t)memory + i * 7;
		bytes += i * 7 + 15;
		CHECK(stats().meta_pages <= bytes / PAGE + 8);
	}
	CHECK(resident() <= stats().committed_pages);
	while (pool_meta_alloc(PAGE) != NULL)
		;
	CHECK(free_pages() < 4);
	CHECK(pool_chunk_take(1, CHUNK_SLAB, 0) == NULL || free_pages() < 4);
	return 0;
}

static void metadata_is_zero_and_charged(void **state)
{
	(void)state;
	assert_int_equal(child_check(metadata, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_free_in_pieces_can_be_had_in_one),
		cmocka_unit_test(all_that_is_idle_can_be_had_in_one_piece),
		cmocka_unit_test(a_chunk_grows_by_what_is_idle_elsewhere),
		cmocka_unit_test(pages_are_counted_one_by_one),
		cmocka_unit_test(the_kernel_has_no_more_than_is_counted),
		cmocka_unit_test(a_small_process_keeps_little),
		cmocka_unit_test(at_the_limit_it_says_no_and_recovers),
		cmocka_unit_test(a_floor_stays_free),
		cmocka_unit_test(absurd_sizes_are_refused),
		cmocka_unit_test(metadata_is_zero_and_charged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
