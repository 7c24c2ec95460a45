/*
 * Every commit that the heap causes is denied in turn, and then the budget itself is made tight: the answer is NULL,
 * nothing is lost, and the books balance after each.
 */
#include "os/os.h"
#include "probe/probe.h"
#include "support/heap_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { LIMIT_PAGES = 1 << 18 };

struct held {
	void *object;
	size_t bytes;
};

static void hold(struct held *held, void *object, size_t bytes, size_t seed)
{
	*held = (struct held){object, bytes};
	if (object)
		pattern_write(object, bytes, seed);
}

/* Grows as a caller would: in place, else by moving, else by a copy; on failure it is as it was. */
static void grow(struct held *held, size_t bytes, size_t seed)
{
	const int error = heap_resize(held->object, bytes, 0);
	void *object = error == 0 ? held->object : NULL;

	assert_true(error == 0 || error == -ENOMEM || error == -ENOSPC);
	if (error == -ENOSPC) {
		object = heap_move(held->object, bytes, 0);
		if (!object && (object = heap_alloc(bytes, 0, false, 0)) != NULL) {
			memcpy(object, held->object, held->bytes);
			heap_free(held->object);
		}
	}
	if (!object)
		return;
	assert_true(pattern_holds(object, held->bytes, seed));
	hold(held, object, bytes, seed);
}

/* All kinds of requests. Failures are met where they come; what was got is intact. */
static void workload(void)
{
	enum { OBJECTS = 300 };
	struct held held[OBJECTS];

	for (size_t i = 0; i < OBJECTS; i++) {
		const size_t bytes = i * 13 % 5000 + (i % 40 == 7 ? 150000 : 0) + (i % 7 == 3 ? 20000 : 0);
		void *const object =
			i % 5 == 0 ? heap_alloc(bytes, 0, true, 0) : heap_alloc(bytes, i % 3 ? 0 : 256, false, 0);

		if (object && i % 5 == 0)
			assert_true(is_zero(object, bytes));
		hold(&held[i], object, bytes, i);
	}
	for (size_t i = 0; i < OBJECTS; i += 10)
		if (held[i].object)
			grow(&held[i], held[i].bytes * 3 + 1, i);
	heap_check();
	for (size_t i = 0; i < OBJECTS; i++) {
		assert_true(!held[i].object || pattern_holds(held[i].object, held[i].bytes, i));
		heap_free(held[i].object);
	}
}

static void *workload_thread(void *unused)
{
	workload();
	return unused;
}

static void check_books(void)
{
	(void)heap_trim();
	heap_check();
	pool_check();
	assert_int_equal(heap_case_stats().live_bytes, 0);
	assert_int_equal(ledger_check_books(pool_ledger()), 0);
}

static void every_denied_commit_is_a_null_and_no_more(void **state)
{
	struct probe_settings settings;
	bool fired = true;
	unsigned n;

	(void)state;
	probe_settings_default(&settings);
	settings.deny_commits = true;
	probe_configure(&settings);
	for (n = 1; fired; n++) {
		probe_fail_nth(n);
		workload();
		fired = probe_fired();
		probe_off();
		check_books();
	}
	print_message("%u commits\n", n - 2);
	assert_true(n > 20);
	probe_settings_default(&settings);
	probe_configure(&settings);
}

/* Also what a thread needs when it begins. fail_nth is a thread's own, so here the knobs count. */
static void every_denied_commit_of_a_new_thread_too(void **state)
{
	struct probe_settings settings;
	pthread_t thread;
	bool fired = true;

	(void)state;
	for (unsigned n = 1; fired; n++) {
		const uint64_t before = probe_injected();

		probe_settings_default(&settings);
		settings.deny_commits = true;
		settings.probability_percent = 100;
		settings.interval = n;
		settings.times = 1;
		probe_configure(&settings);
		assert_int_equal(pthread_create(&thread, NULL, workload_thread, NULL), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		fired = probe_injected() != before;
		probe_settings_default(&settings);
		probe_configure(&settings);
		check_books();
	}
}

/* From no room at all to enough, in steps of a page. */
static void every_budget_is_kept(void **state)
{
	(void)state;
	check_books();
	for (uint64_t room = 0; room < 300; room += room < 40 ? 1 : 23) {
		struct ledger_view view;

		(void)heap_trim();
		ledger_look(pool_ledger(), &view);
		const uint64_t limit_pages = view.committed_pages + room;
		ledger_set_limit(pool_ledger(), limit_pages);
		workload();
		ledger_look(pool_ledger(), &view);
		assert_true(view.committed_pages <= limit_pages);
		check_books();
	}
	ledger_set_limit(pool_ledger(), LIMIT_PAGES);
	workload();
	check_books();
}

/* What is freed can be had again while nothing more can be committed. */
static void a_full_budget_recycles_what_is_freed(void **state)
{
	enum { OBJECTS = 3000 };
	static void *objects[OBJECTS];
	struct ledger_view view;

	(void)state;
	for (size_t i = 0; i < OBJECTS; i++)
		objects[i] = heap_case_alloc(1000);
	ledger_look(pool_ledger(), &view);
	ledger_set_limit(pool_ledger(), view.committed_pages);
	for (size_t i = 0; i < OBJECTS; i++)
		heap_free(objects[i]);
	/* Another size, from the same chunks. */
	for (size_t i = 0; i < OBJECTS / 4; i++)
		objects[i] = heap_case_alloc(3000);
	for (size_t i = 0; i < OBJECTS / 4; i++)
		heap_free(objects[i]);
	/* And all of it in one piece. */
	void *const large = heap_alloc(OBJECTS * 900, 0, false, 0);
	assert_non_null(large);
	heap_free(large);
	ledger_set_limit(pool_ledger(), LIMIT_PAGES);
	check_books();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_denied_commit_is_a_null_and_no_more),
		cmocka_unit_test(every_denied_commit_of_a_new_thread_too),
		cmocka_unit_test(every_budget_is_kept),
		cmocka_unit_test(a_full_budget_recycles_what_is_freed),
	};

	heap_case_start(LIMIT_PAGES);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
