/* A strict pool, and limits of the process: nothing uncommitted is accessible, refusals are clean. Each in a child. */
#include "os/os.h"
#include "support/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

static struct chunk *chunks[MANY];

/* Writable pages in the pool's range, by the kernel's list of mappings. */
static uint64_t writable_pages(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	uintptr_t low, high;
	char line[512];
	uint64_t pages = 0;

	CHECK(maps != NULL);
	pool_extent(&low, &high);
	while (fgets(line, sizeof line, maps) != NULL) {
		unsigned long from, to;
		char mode[5];

		if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) == 3 && from >= low && from < high && mode[1] == 'w')
			pages += (to - from) / PAGE;
	}
	fclose(maps);
	return pages;
}

/* All kinds of operations; after each, exactly what is committed is accessible. */
static void exercise(void)
{
	unsigned count = 0;
	bool zero;

	for (; count < 40; count++) {
		chunks[count] = pool_chunk_take(1 + count % CHUNK_PAGES, CHUNK_SLAB, 0);
		CHECK(chunks[count] != NULL);
		memset(chunk_address(chunks[count]), 1, PAGE);
		CHECK(writable_pages() <= stats().committed_pages);
	}
	for (unsigned i = 0; i < count; i += 3) {
		CHECK(pool_chunk_grow(chunks[i], CHUNK_PAGES, 0) == 0);
		memset(chunk_address(chunks[i]), 1, CHUNK_BYTES);
		pool_chunk_shrink(chunks[i], 3, 5);
		CHECK(writable_pages() <= stats().committed_pages);
	}
	for (unsigned i = 0; i < count; i += 2)
		pool_chunk_put(chunks[i]);
	CHECK(writable_pages() <= stats().committed_pages);
	struct chunk *span = pool_span_take(BLOCK_BYTES + 5 * PAGE, 0, 0, &zero);
	CHECK(span != NULL);
	memset(chunk_address(span), 1, BLOCK_BYTES + 5 * PAGE);
	CHECK(writable_pages() <= stats().committed_pages);
	struct chunk *moved = pool_span_move(span, 2 * BLOCK_BYTES, 0);
	span = moved != NULL ? moved : span;
	CHECK(*((char *)chunk_address(span) + BLOCK_BYTES + 4 * PAGE) == 1);
	CHECK(writable_pages() <= stats().committed_pages);
	CHECK(pool_span_resize(span, 3 * PAGE, 0) == 0);
	CHECK(writable_pages() <= stats().committed_pages);
	pool_span_put(span);
	for (unsigned i = 1; i < count; i += 2)
		pool_chunk_put(chunks[i]);
	CHECK(writable_pages() <= stats().committed_pages);
	(void)pool_trim(0);
	/* Descriptors that were given back stay readable, since anybody may look at them; they hold nothing. */
	CHECK(writable_pages() <= stats().committed_pages + 16);
	CHECK(resident() <= stats().committed_pages);
}

static int strict_from_now_on(void *context)
{
	(void)context;
	start(64 << 10);
	for (unsigned i = 100; i < 160; i++) {
		chunks[i] = pool_chunk_take(i % CHUNK_PAGES + 1, CHUNK_SLAB, 0);
		memset(chunk_address(chunks[i]), (int)i, PAGE);
	}
	for (unsigned i = 100; i < 160; i += 4)
		pool_chunk_put(chunks[i]);
	CHECK(writable_pages() > stats().committed_pages);
	pool_set_strict();
	CHECK(writable_pages() <= stats().committed_pages);
	exercise();
	for (unsigned i = 100; i < 160; i++)
		CHECK(i % 4 == 0 || *((char *)chunk_address(chunks[i]) + PAGE - 1) == (char)i);
	return 0;
}

static void strict_closes_what_is_not_committed(void **state)
{
	(void)state;
	assert_int_equal(child_check(strict_from_now_on, NULL), 0);
}

/* ---- mlockall ---- */

static int locked(void *context)
{
	const bool before = *(bool *)context;

	if (before) {
		CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
		start(16 << 10);
	} else {
		start(16 << 10);
		chunks[0] = pool_chunk_take(3, CHUNK_SLAB, 0);
		memset(chunk_address(chunks[0]), 1, 3 * PAGE);
		pool_set_strict();
		CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
	}
	CHECK(resident() <= stats().committed_pages);
	exercise();
	CHECK(resident() <= stats().committed_pages);
	const unsigned count = take_all(chunks);
	CHECK(count > 900);
	CHECK(resident() <= stats().committed_pages);
	for (unsigned i = 0; i < count; i++)
		pool_chunk_put(chunks[i]);
	CHECK(resident() <= stats().committed_pages);
	return 0;
}

static bool may_lock(void)
{
	struct rlimit limit;

	return geteuid() == 0 || (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY);
}

static void locked_memory_is_resident_only_as_far_as_it_is_counted(void **state)
{
	bool before = true;

	(void)state;
	if (!may_lock() || HF_TSAN || HF_ASAN)
		skip(); /* RLIMIT_MEMLOCK is small; or shadow memory would be locked too */
	assert_int_equal(child_check(locked, &before), 0);
	before = false;
	assert_int_equal(child_check(locked, &before), 0);
}

#define LOCK_MOST_BYTES ((size_t)24 << 20)

/* As an ordinary user: what the limit on locked memory refuses is refused cleanly. */
static int locked_and_limited(void *context)
{
	struct rlimit limit;
	unsigned count = 0;

	(void)context;
	CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	if (limit.rlim_max > LOCK_MOST_BYTES)
		limit.rlim_cur = limit.rlim_max = LOCK_MOST_BYTES;
	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	CHECK(geteuid() != 0 || seteuid(65534) == 0);
	CHECK(mlockall(MCL_FUTURE) == 0);
	start(64 << 10);
	while ((chunks[count] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0)) != NULL) {
		memset(chunk_address(chunks[count++]), 1, CHUNK_BYTES);
		CHECK(resident() <= stats().committed_pages);
	}
	CHECK(count > 0);
	CHECK(count < LOCK_MOST_BYTES / CHUNK_BYTES);
	for (unsigned i = 0; i < count; i++)
		pool_chunk_put(chunks[i]);
	CHECK(stats().used_chunks == 0);
	CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0) != NULL);
	return 0;
}

static void the_limit_on_locked_memory_refuses_cleanly(void **state)
{
	(void)state;
	if (HF_TSAN || HF_ASAN)
		skip(); /* shadow memory would be locked too */
	assert_int_equal(child_check(locked_and_limited, NULL), 0);
}

/* ---- limits of the process ---- */

static uint64_t status_figure(const char *name)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	unsigned long kib = 0;

	CHECK(status != NULL);
	while (fgets(line, sizeof line, status) != NULL)
		if (strncmp(line, name, strlen(name)) == 0)
			CHECK(sscanf(line + strlen(name), " %lu", &kib) == 1);
	fclose(status);
	return (uint64_t)kib << 10;
}

struct limited {
	int which;
	const char *figure;
	bool before; /* set before the pool starts, or while it runs */
};

static void limit_to(const struct limited *limited, uint64_t more_bytes)
{
	const uint64_t bytes = status_figure(limited->figure) + more_bytes;
	const struct rlimit limit = {bytes, bytes};

	CHECK(setrlimit((__rlimit_resource_t)limited->which, &limit) == 0);
}

static int limited_process(void *context)
{
	const struct limited *limited = context;
	const size_t room = 24 << 20;
	unsigned count;
	bool zero;

	if (limited->before)
		limit_to(limited, room);
	start(1 << 20);
	chunks[0] = pool_chunk_take(1, CHUNK_SLAB, 0);
	CHECK(chunks[0] != NULL);
	pool_chunk_put(chunks[0]);
	if (!limited->before)
		limit_to(limited, room);
	CHECK(pool_span_take(5 * room, 0, 0, &zero) == NULL);
	count = take_all(chunks);
	/* Most of what there is can be had (while it runs, what was mapped before comes on top). */
	CHECK(count >= room / CHUNK_BYTES * 8 / 10);
	CHECK(count <= (room + (64 << 20)) / CHUNK_BYTES);
	CHECK(pool_span_take(room / 2, 0, 0, &zero) == NULL);
	for (unsigned i = 0; i < count; i += 2)
		pool_chunk_put(chunks[i]);
	for (unsigned i = 1; i < count; i += 2)
		CHECK(*((char *)chunk_address(chunks[i]) + CHUNK_BYTES - 1) == 1);
	for (unsigned i = 1; i < count; i += 2)
		pool_chunk_put(chunks[i]);
	/* All of it in one piece, where small pieces were. */
	struct chunk *span = pool_span_take(room * 3 / 4, 0, 0, &zero);
	CHECK(span != NULL);
	memset(chunk_address(span), 1, room * 3 / 4);
	CHECK(stats().used_chunks == span->span_chunks);
	return 0;
}

static void check_limited(int which, const char *figure)
{
	struct limited limited = {which, figure, true};

	assert_int_equal(child_check(limited_process, &limited), 0);
	limited.before = false;
	assert_int_equal(child_check(limited_process, &limited), 0);
}

static void limited_address_space_is_used_and_refused_cleanly(void **state)
{
	(void)state;
	if (HF_TSAN || HF_ASAN)
		skip(); /* their shadow needs terabytes of it */
	check_limited(RLIMIT_AS, "VmSize:");
}

static void limited_data_is_used_and_refused_cleanly(void **state)
{
	(void)state;
	if (HF_TSAN || HF_ASAN)
		skip(); /* the same */
	check_limited(RLIMIT_DATA, "VmData:");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strict_closes_what_is_not_committed),
		cmocka_unit_test(locked_memory_is_resident_only_as_far_as_it_is_counted),
		cmocka_unit_test(the_limit_on_locked_memory_refuses_cleanly),
		cmocka_unit_test(limited_address_space_is_used_and_refused_cleanly),
		cmocka_unit_test(limited_data_is_used_and_refused_cleanly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
