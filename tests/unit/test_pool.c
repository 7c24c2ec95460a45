/* The pool with a budget of its own in each test's child: exact numbers, fragmentation, limits. */
#include "os/os.h"
#include "pool/pool.h"
#include "support/child.h"
#include "support/resident.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

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
static struct chunk *chunks[MANY];

static void start(uint64_t limit_pages)
{
	const struct ledger_spec spec = {.limit_pages = limit_pages};

	CHECK(ledger_create(&spec, &ledger) == 0);
	CHECK(pool_init(ledger) == 0);
}

static struct pool_stats stats(void)
{
	struct pool_stats now;

	pool_check();
	pool_stats_get(&now);
	CHECK(now.committed_pages == ledger_committed_here(ledger));
	return now;
}

static uint64_t free_pages(void)
{
	struct ledger_view view;

	ledger_look(ledger, &view);
	return view.limit_pages - view.committed_pages;
}

static uint64_t resident(void)
{
	uintptr_t low, high;

	pool_extent(&low, &high);
	return resident_pages(low, high);
}

static unsigned take_all(void)
{
	unsigned count = 0;

	while (count < MANY && (chunks[count] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0)) != NULL)
		memset(chunk_address(chunks[count++]), 1, CHUNK_BYTES);
	return count;
}

/* ---- fragmentation ---- */

static int every_other_chunk(void *context)
{
	unsigned count, scattered = 0;
	bool zero;

	(void)context;
	start(16 << 10);
	count = take_all();
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
	count = take_all();
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
	const unsigned count = take_all();
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
	CHECK(stats().committed_pages < 256 + 64);
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
	const unsigned count = take_all();
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
	CHECK(pool_span_resize(span, 9 * BLOCK_BYTES + PAGE, 0) == 0);
	CHECK(memory[3 * BLOCK_BYTES - 1] == 1);
	CHECK(memory[3 * BLOCK_BYTES] == 0);
	memset(memory, 1, 9 * BLOCK_BYTES + PAGE);
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
		const uint64_t old = pool_index_of(chunk_address(span));

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
		(void)old;
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

/* ---- fork ---- */

static int forked(void *context)
{
	struct pool_stats before;
	pid_t child;

	(void)context;
	start(16 << 10);
	for (unsigned i = 0; i < 40; i++) {
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
		memset(chunk_address(chunks[i]), (int)i, CHUNK_BYTES);
	}
	for (unsigned i = 0; i < 40; i += 4)
		pool_chunk_put(chunks[i]);
	before = stats();
	CHECK(before.idle_chunks > 0);
	pool_fork_prepare();
	const uint64_t held = pool_held_pages();
	ledger_fork_prepare(ledger, held);
	child = fork();
	if (child == 0) {
		struct pool_stats now;

		ledger_fork_child(ledger);
		pool_fork_child();
		CHECK(!pool_raw_clone_check());
		pool_check();
		pool_stats_get(&now);
		CHECK(now.idle_chunks == 0);
		CHECK(now.committed_pages == held);
		CHECK(ledger_committed_here(ledger) == 0);
		CHECK(*(char *)chunk_address(chunks[1]) == 1);
		CHECK(pool_chunk_grow(chunks[1], CHUNK_PAGES, 0) == 0); /* has all */
		pool_chunk_shrink(chunks[1], 4, 4);
		CHECK(pool_chunk_grow(chunks[1], CHUNK_PAGES, 0) == -EBUSY);
		for (unsigned i = 1; i < 40; i++)
			if (i % 4 != 0)
				pool_chunk_put(chunks[i]);
		pool_stats_get(&now);
		CHECK(now.idle_chunks == 0); /* not its own: given back at once */
		struct chunk *own = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
		for (unsigned i = 0; i < CHUNK_BYTES; i++)
			CHECK(((char *)chunk_address(own))[i] == 0);
		CHECK(ledger_committed_here(ledger) >= CHUNK_PAGES);
		pool_check();
		_exit(0);
	}
	ledger_fork_parent(ledger, child);
	pool_fork_parent(child);
	CHECK(stats().idle_chunks == before.idle_chunks);
	CHECK(child_wait(child) == 0);
	for (unsigned i = 0; i < 40; i++)
		if (i % 4 != 0)
			pool_chunk_put(chunks[i]);
	(void)ledger_collect_dead(ledger, true);
	(void)pool_trim(0);
	CHECK(stats().used_chunks == 0);
	struct ledger_view view;
	ledger_look(ledger, &view);
	CHECK(view.committed_pages == stats().committed_pages + view.own_pages);
	return 0;
}

static void a_forked_child_starts_with_nothing_idle(void **state)
{
	(void)state;
	assert_int_equal(child_check(forked, NULL), 0);
}

static int raw_clone(void *context)
{
	(void)context;
	start(16 << 10);
	for (unsigned i = 0; i < 40; i++)
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
	memset(chunk_address(chunks[39]), 39, CHUNK_BYTES);
	for (unsigned i = 0; i < 20; i++)
		pool_chunk_put(chunks[i]);
	CHECK(!pool_raw_clone_check());
	const pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0) {
		struct pool_stats now;

		CHECK(pool_raw_clone_check());
		CHECK(!pool_raw_clone_check());
		pool_check();
		pool_stats_get(&now);
		CHECK(now.idle_chunks == 0);
		CHECK(now.used_chunks == 20);
		CHECK(*(char *)chunk_address(chunks[39]) == 39);
		CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0) != NULL);
		pool_check();
		_exit(0);
	}
	CHECK(child_wait(child) == 0);
	CHECK(!pool_raw_clone_check());
	(void)stats();
	return 0;
}

static void a_raw_clone_is_noticed_and_put_in_order(void **state)
{
	(void)state;
	if (HF_TSAN)
		skip(); /* its runtime does not survive a clone that it did not see */
	assert_int_equal(child_check(raw_clone, NULL), 0);
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
		cmocka_unit_test(spans_are_aligned),
		cmocka_unit_test(spans_are_resized_where_they_stand),
		cmocka_unit_test(spans_grow_by_moving_beyond_half_of_the_budget),
		cmocka_unit_test(an_address_inside_a_span_finds_it),
		cmocka_unit_test(memory_of_others_in_the_window_is_left_alone),
		cmocka_unit_test(little_address_space_is_mapped),
		cmocka_unit_test(metadata_is_zero_and_charged),
		cmocka_unit_test(a_forked_child_starts_with_nothing_idle),
		cmocka_unit_test(a_raw_clone_is_noticed_and_put_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
