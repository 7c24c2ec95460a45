/* Spans: aligned, resized, moved, found; address space that is not ours; huge pages. */
#include "os/os.h"
#include "support/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* ---- spans ---- */

static int alignment(void *context)
{
	bool zero;

	(void)context;
	start(64 << 10);
	for (size_t align = CHUNK_BYTES; align <= (size_t)4 << 30; align *= 2) {
		struct chunk *crooked = pool_chunk_take(1, CHUNK_SLAB, 0);
		struct chunk *span = pool_span_take(5 * CHUNK_BYTES, align, 0, &zero);

		CHECK(crooked != NULL);
		CHECK(span != NULL);
		CHECK((uintptr_t)chunk_address(span) % align == 0);
		*(char *)chunk_address(span) = 1;
	}
	CHECK(stats().meta_pages < 100);
	return 0;
}

static void spans_are_aligned(void **state)
{
	(void)state;
	if (HF_TSAN || HF_ASAN)
		skip(); /* the window is 64 GiB there, wherever the kernel put it */
	assert_int_equal(child_check(alignment, NULL), 0);
}

static int in_place(void *context)
{
	bool zero;

	(void)context;
	start(64 << 10);
	struct chunk *span = pool_span_take(3 * BLOCK_BYTES, 0, 0, &zero);
	struct chunk *blocker = NULL;
	char *memory = chunk_address(span);

	memset(memory, 1, 3 * BLOCK_BYTES);
	CHECK(pool_span_resize(span, 6 * BLOCK_BYTES + PAGE, 0) == 0);
	CHECK(memory[3 * BLOCK_BYTES - 1] == 1);
	CHECK(memory[3 * BLOCK_BYTES] == 0);
	memset(memory, 1, 6 * BLOCK_BYTES + PAGE);
	CHECK(pool_span_resize(span, BLOCK_BYTES / 2 + 1, 0) == 0);
	CHECK(pool_span_bytes(span) == BLOCK_BYTES / 2 + PAGE);
	CHECK(pool_span_resize(span, BLOCK_BYTES, 0) == 0);
	CHECK(memory[BLOCK_BYTES / 2] == 1);
	CHECK(memory[BLOCK_BYTES / 2 + PAGE] == 0);
	/* Something right behind it. */
	blocker = pool_span_take(PAGE, 0, 0, &zero);
	CHECK((char *)chunk_address(blocker) == memory + BLOCK_BYTES);
	CHECK(pool_span_resize(span, BLOCK_BYTES + 1, 0) == -ENOSPC);
	pool_span_put(blocker);
	CHECK(pool_span_resize(span, BLOCK_BYTES + 1, 0) == 0);
	CHECK(pool_span_around(memory + BLOCK_BYTES) == span);
	ledger_set_limit(ledger, 1);
	CHECK(pool_span_resize(span, 20 * BLOCK_BYTES, 0) == -ENOMEM);
	CHECK(pool_span_bytes(span) == BLOCK_BYTES + PAGE);
	pool_span_put(span);
	CHECK(stats().used_chunks == 0);
	return 0;
}

static void spans_are_resized_where_they_stand(void **state)
{
	(void)state;
	assert_int_equal(child_check(in_place, NULL), 0);
}

static int grow_by_moving(void *context)
{
	size_t bytes = 3 * CHUNK_BYTES;
	bool zero;

	(void)context;
	start(32 << 10);
	struct chunk *span = pool_span_take(bytes, 0, 0, &zero);
	memset(chunk_address(span), 1, bytes);
	/* To more than half of the budget: there is no room for two copies. */
	while (bytes < (size_t)80 << 20) {
		const size_t more = bytes + bytes / 3 / PAGE * PAGE + PAGE;

		span->heap_words[3] = bytes;
		if (bytes % (3 * PAGE) != 0 || pool_span_resize(span, more, 0) != 0)
			span = pool_span_move(span, more, 0);
		CHECK(span != NULL);
		CHECK(span->heap_words[3] == bytes);
		for (size_t i = 0; i < more; i += PAGE)
			CHECK(((char *)chunk_address(span))[i] == (i < bytes));
		memset((char *)chunk_address(span) + bytes, 1, more - bytes);
		bytes = more;
		CHECK(resident() <= stats().committed_pages);
	}
	CHECK(stats().used_chunks == span->span_chunks);
	pool_span_put(span);
	(void)pool_trim(0);
	CHECK(resident() < 16);
	return 0;
}

static void spans_grow_by_moving_beyond_half_of_the_budget(void **state)
{
	(void)state;
	assert_int_equal(child_check(grow_by_moving, NULL), 0);
}

static int around(void *context)
{
	int here;
	bool zero;

	(void)context;
	start(64 << 10);
	struct chunk *span = pool_span_take(5 * BLOCK_BYTES, 0, 0, &zero);
	char *memory = chunk_address(span);
	CHECK(pool_span_around(memory) == span);
	CHECK(pool_span_around(memory + 3 * BLOCK_BYTES + 77) == span);
	CHECK(pool_span_around(memory + 5 * BLOCK_BYTES) == NULL);
	CHECK(pool_span_around(memory - 1) == NULL);
	CHECK(pool_span_around(&here) == NULL);
	CHECK(pool_span_around(NULL) == NULL);
	CHECK(!pool_index_is_mapped(pool_index_of(&here)));
	CHECK(!pool_index_is_mapped(pool_index_of(NULL)));
	CHECK(!pool_index_is_mapped(pool_index_of(memory + ((size_t)1 << 33))));
	CHECK(pool_index_is_mapped(pool_index_of(memory)));
	return 0;
}

static void an_address_inside_a_span_finds_it(void **state)
{
	(void)state;
	assert_int_equal(child_check(around, NULL), 0);
}

/* ---- address space that is not ours ---- */

static int intruder(void *context)
{
	const size_t bytes = 3 * PAGE;
	bool zero;

	(void)context;
	start(64 << 10);
	struct chunk *span = pool_span_take(60 << 20, 0, 0, &zero);
	char *foreign = (char *)chunk_address(span) + ((size_t)100 << 20);
	CHECK(mmap(foreign, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
		foreign);
	memset(foreign, 'f', bytes);
	for (unsigned i = 0; i < 6; i++) {
		struct chunk *other = pool_span_take(30 << 20, 0, 0, &zero);
		char *memory = chunk_address(other);

		CHECK(memory > foreign + bytes || memory + (30 << 20) <= foreign);
		memset(memory, 1, 30 << 20);
	}
	for (size_t i = 0; i < bytes; i++)
		CHECK(foreign[i] == 'f');
	CHECK(stats().used_chunks == (60 + 6 * 30) * 16);
	return 0;
}

static void memory_of_others_in_the_window_is_left_alone(void **state)
{
	(void)state;
	if (HF_TSAN || HF_ASAN)
		skip(); /* the window is one mapping there */
	assert_int_equal(child_check(intruder, NULL), 0);
}

static int little_is_mapped(void *context)
{
	struct rlimit before;

	(void)context;
	start(LEDGER_NO_LIMIT);
	CHECK(getrlimit(RLIMIT_AS, &before) == 0);
	CHECK(pool_chunk_take(1, CHUNK_SLAB, 0) != NULL);
	CHECK(stats().window_bytes <= 64 << 20);
	return 0;
}

static void little_address_space_is_mapped(void **state)
{
	(void)state;
	if (HF_TSAN || HF_ASAN)
		skip();
	assert_int_equal(child_check(little_is_mapped, NULL), 0);
}

/* ---- huge pages ---- */

static uint64_t huge_pages(void)
{
	uintptr_t low, high;

	pool_extent(&low, &high);
	return resident_figure("AnonHugePages:", low, high);
}

enum { NO_HUGE_PAGES = 77 };

static int huge(void *context)
{
	bool zero;

	(void)context;
	start(64 << 10);
	struct chunk *small = pool_span_take(3 * BLOCK_BYTES, 0, 0, &zero);
	memset(chunk_address(small), 1, 3 * BLOCK_BYTES);
	CHECK(huge_pages() == 0); /* a process that holds little stays exact to the page */
	struct chunk *span = pool_span_take(10 * BLOCK_BYTES + 7 * PAGE, 0, 0, &zero);
	for (size_t i = 0; i < 10 * BLOCK_BYTES + 7 * PAGE; i += BLOCK_BYTES / 2)
		((char *)chunk_address(span))[i] = 2;
	CHECK(resident() <= stats().committed_pages);
	if (huge_pages() == 0)
		return NO_HUGE_PAGES;
	CHECK(huge_pages() == 10 * BLOCK_BYTES / PAGE);
	/* Cut inside a block: that block stays, since of half of it the kernel would keep the whole charge. */
	CHECK(pool_span_resize(span, 4 * BLOCK_BYTES + 5 * PAGE, 0) == 0);
	CHECK(pool_span_bytes(span) == 5 * BLOCK_BYTES);
	CHECK(huge_pages() == 5 * BLOCK_BYTES / PAGE);
	CHECK(resident() <= stats().committed_pages);
	CHECK(pool_span_resize(span, 7 * BLOCK_BYTES + PAGE, 0) == 0);
	CHECK(((char *)chunk_address(span))[9 * (BLOCK_BYTES / 2)] == 2);
	CHECK(((char *)chunk_address(span))[5 * BLOCK_BYTES] == 0);
	CHECK(resident() <= stats().committed_pages);
	span = pool_span_move(span, 12 * BLOCK_BYTES, 0);
	CHECK(span != NULL);
	CHECK(huge_pages() >= 5 * BLOCK_BYTES / PAGE); /* they came along */
	CHECK(((char *)chunk_address(span))[9 * (BLOCK_BYTES / 2)] == 2);
	CHECK(resident() <= stats().committed_pages);
	pool_fork_prepare();
	pool_fork_parent(-1);
	CHECK(huge_pages() == 0); /* split: a child may share them now */
	CHECK(((char *)chunk_address(span))[9 * (BLOCK_BYTES / 2)] == 2);
	pool_span_put(span);
	CHECK(resident() <= stats().committed_pages);
	span = pool_span_take(10 * BLOCK_BYTES, 0, 0, &zero);
	memset(chunk_address(span), 1, 10 * BLOCK_BYTES);
	CHECK(huge_pages() == 0);
	pool_span_put(span);
	pool_span_put(small);
	CHECK(resident() <= stats().committed_pages);
	return 0;
}

static void large_spans_have_huge_pages_and_give_them_back_whole(void **state)
{
	int status;

	(void)state;
	if (os_thp_mode() == 0)
		skip(); /* the system has them switched off */
	status = child_check(huge, NULL);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_HUGE_PAGES)
		skip(); /* the system has none free */
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spans_are_aligned),
		cmocka_unit_test(spans_are_resized_where_they_stand),
		cmocka_unit_test(spans_grow_by_moving_beyond_half_of_the_budget),
		cmocka_unit_test(an_address_inside_a_span_finds_it),
		cmocka_unit_test(memory_of_others_in_the_window_is_left_alone),
		cmocka_unit_test(little_address_space_is_mapped),
		cmocka_unit_test(large_spans_have_huge_pages_and_give_them_back_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
