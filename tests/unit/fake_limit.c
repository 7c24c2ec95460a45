/* The arithmetic of the automatic limit, over scripted files. */
#include "ledger/ledger.h"
#include "ledger/limit.h"
#include "os/os.h"
#include "os/os_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define MOUNT_V2 "30 23 0:26 / /c rw,relatime - cgroup2 cgroup2 rw\n"

static struct limit *limit;
static struct limit_reading reading;

static void set_ram(uint64_t total, uint64_t available)
{
	char text[128];

	(void)snprintf(text, sizeof text, "MemTotal:  %llu kB\nMemFree: 1 kB\nMemAvailable:    %llu kB\n",
		(unsigned long long)total / 1024, (unsigned long long)available / 1024);
	os_fake_file("/proc/meminfo", text);
}

static void set_level(const char *directory, uint64_t max, uint64_t current, uint64_t clean)
{
	char path[128], text[128];

	(void)snprintf(path, sizeof path, "%s/memory.max", directory);
	(void)snprintf(text, sizeof text, "%llu\n", (unsigned long long)max);
	os_fake_file(path, max ? text : "max\n");
	(void)snprintf(path, sizeof path, "%s/memory.current", directory);
	(void)snprintf(text, sizeof text, "%llu\n", (unsigned long long)current);
	os_fake_file(path, text);
	(void)snprintf(path, sizeof path, "%s/memory.stat", directory);
	(void)snprintf(text, sizeof text, "anon 5\ninactive_file %llu\n", (unsigned long long)clean);
	os_fake_file(path, text);
}

static int start(void **state)
{
	(void)state;
	os_fake_reset();
	set_ram(1024 * MIB, 900 * MIB);
	os_fake_file("/proc/self/mountinfo", MOUNT_V2);
	os_fake_file("/proc/self/cgroup", "0::/a/b\n");
	return limit_create(&limit);
}

static int stop(void **state)
{
	(void)state;
	limit_destroy(limit);
	return 0;
}

static void measure(void)
{
	limit_measure(limit, NULL, &reading);
	os_fake_advance_ns(250 * (uint64_t)1000000);
}

/* What limit.c promises, written another way: B, its overdraft, its margin and outside fill the limit, to a page or
 * two. */
static void assert_fills(uint64_t limit_bytes, uint64_t outside_bytes, uint64_t growth_bytes)
{
	const double budget = (double)reading.budget_pages * 4096;
	const uint64_t fixed_bytes = 4 * MIB + 2 * MIB / 4 + growth_bytes;
	const double fixed = (double)fixed_bytes;
	const double all = budget + budget / 32 + budget * 4 / 1000 + fixed + (double)outside_bytes;

	assert_true(all <= (double)limit_bytes);
	assert_true(all > (double)limit_bytes - 3 * 4096);
	assert_int_equal(reading.outside_pages, outside_bytes / 4096);
	const uint64_t margin_pages = (uint64_t)(fixed + budget * 4 / 1000) >> 12;

	assert_in_range(reading.margin_pages, margin_pages - 1, margin_pages + 1);
}

static void a_small_cgroup_leaves_a_useful_budget(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	measure();
	assert_fills(64 * MIB, 3 * MIB, 0);
	assert_true(reading.budget_pages >= 48 * MIB / 4096);
	assert_string_equal(reading.source, "cgroup v2 /a/b, 64.0M");
	assert_int_equal(reading.limit_bytes, 64 * MIB);
}

static void the_tightest_level_decides(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 1 * MIB, 0);
	set_level("/c/a", 128 * MIB, 100 * MIB, 0); /* larger, but somebody else is in it */
	measure();
	assert_fills(128 * MIB, 100 * MIB, 0);
	assert_string_equal(reading.source, "cgroup v2 /a, 128.0M");
}

static void without_a_cgroup_limit_ram_decides(void **state)
{
	(void)state;
	set_level("/c/a/b", 0, 1 * MIB, 0);
	measure();
	assert_fills(1024 * MIB, 124 * MIB, 0);
	assert_string_equal(reading.source, "RAM, 1.0G");
}

static void without_proc_the_system_call_decides(void **state)
{
	(void)state;
	os_fake_file("/proc/meminfo", NULL);
	os_fake_file("/proc/self/cgroup", NULL);
	os_fake_file("/proc/self/mountinfo", NULL);
	measure();
	assert_fills(1024 * MIB, 0, 0);
	assert_int_equal(limit_tightest_bytes(), 1024 * MIB);
}

static void clean_page_cache_does_not_shrink_it(void **state)
{
	uint64_t before;

	(void)state;
	set_level("/c/a/b", 64 * MIB, 2 * MIB, 0);
	measure();
	before = reading.budget_pages;
	set_level("/c/a/b", 64 * MIB, 60 * MIB, 58 * MIB);
	measure();
	assert_int_equal(reading.budget_pages, before);
}

static void a_changed_limit_is_followed_at_the_next_look(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 1 * MIB, 0);
	measure();
	set_level("/c/a/b", 32 * MIB, 1 * MIB, 0);
	measure();
	assert_fills(32 * MIB, 1 * MIB, 0);
	set_level("/c/a/b", 0, 1 * MIB, 0);
	measure();
	assert_string_equal(reading.source, "RAM, 1.0G");
}

static void being_moved_is_followed(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 1 * MIB, 0);
	set_level("/c/x", 32 * MIB, 1 * MIB, 0);
	measure();
	os_fake_file("/proc/self/cgroup", "0::/x\n");
	measure();
	assert_fills(32 * MIB, 1 * MIB, 0);
}

static void a_controller_that_appears_later_is_found(void **state)
{
	(void)state;
	measure();
	assert_string_equal(reading.source, "RAM, 1.0G");
	set_level("/c/a", 64 * MIB, 1 * MIB, 0);
	os_fake_advance_ns(5 * (uint64_t)1000000000);
	measure();
	assert_string_equal(reading.source, "cgroup v2 /a, 64.0M");
}

static void what_outside_grew_by_is_left_free_for_a_while(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 1 * MIB, 0);
	measure();
	set_level("/c/a/b", 64 * MIB, 2 * MIB, 0);
	measure();
	assert_fills(64 * MIB, 2 * MIB, 0); /* the growth is known only after this look */
	measure();
	assert_fills(64 * MIB, 2 * MIB, 1 * MIB);
	set_level("/c/a/b", 64 * MIB, 40 * MIB, 0);
	measure();
	measure();
	assert_fills(64 * MIB, 40 * MIB, 2 * MIB); /* 1/32 of the limit at most */
	for (int i = 0; i < 8; i++)
		measure();
	assert_fills(64 * MIB, 40 * MIB, 0);
}

static void a_full_level_leaves_nothing(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 64 * MIB, 0);
	measure();
	assert_int_equal(reading.budget_pages, 0);
	set_level("/c/a/b", 1 * MIB, 0, 0);
	measure();
	assert_int_equal(reading.budget_pages, 0);
}

static void absurd_numbers_do_no_harm(void **state)
{
	(void)state;
	set_level("/c/a/b", ((uint64_t)1 << 62) - 4096, 1, ((uint64_t)1 << 62));
	set_ram(((uint64_t)1 << 60), ((uint64_t)1 << 61));
	measure();
	assert_true(reading.budget_pages <= LEDGER_NO_LIMIT);
	os_fake_file("/c/a/b/memory.max", "99999999999999999999999999\n");
	os_fake_file("/c/a/b/memory.current", "-1\n");
	measure();
	assert_true(reading.budget_pages <= LEDGER_NO_LIMIT);
}

static void memory_high_is_told(void **state)
{
	(void)state;
	set_level("/c/a/b", 64 * MIB, 1 * MIB, 0);
	os_fake_file("/c/a/b/memory.high", "50331648\n");
	measure();
	assert_string_equal(reading.source, "cgroup v2 /a/b, 64.0M, slowed from 48.0M");
	assert_fills(64 * MIB, 1 * MIB, 0);
}

static void a_percentage_is_of_the_tightest_limit(void **state)
{
	(void)state;
	set_level("/c/a/b", 0, 1 * MIB, 0);
	assert_int_equal(limit_tightest_bytes(), 1024 * MIB);
	set_level("/c/a", 100 * MIB, 99 * MIB, 0);
	assert_int_equal(limit_tightest_bytes(), 100 * MIB);
}

/* ---- with a ledger ---- */

static struct ledger *create(bool automatic)
{
	const struct ledger_spec spec = {.limit_pages = 1000, .automatic = automatic};
	struct ledger *ledger = NULL;

	assert_int_equal(ledger_create(&spec, &ledger), 0);
	return ledger;
}

static void an_update_sets_the_ledgers_limit_and_says_why(void **state)
{
	struct ledger *ledger = create(true);
	struct ledger_view view;

	(void)state;
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	assert_in_range(limit_update(limit, ledger), 1, 250);
	ledger_look(ledger, &view);
	assert_in_range(view.limit_pages, 48 * MIB / 4096, 64 * MIB / 4096);
	assert_int_equal(view.outside_pages, 3 * MIB / 4096);
	assert_string_equal(view.limit_source, "cgroup v2 /a/b, 64.0M");
	ledger_leave(ledger);
}

static void a_limit_that_was_given_stays(void **state)
{
	struct ledger *ledger = create(false);
	struct ledger_view view;

	(void)state;
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	(void)limit_update(limit, ledger);
	limit_refresh(ledger);
	ledger_look(ledger, &view);
	assert_int_equal(view.limit_pages, 1000);
	ledger_leave(ledger);
}

static void near_the_limit_one_looks_more_often(void **state)
{
	struct ledger *ledger = create(true);
	unsigned far, near;

	(void)state;
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	far = limit_update(limit, ledger);
	assert_int_equal(ledger_commit(ledger, 52 * MIB / 4096, 0), 0);
	near = limit_update(limit, ledger);
	assert_true(near < far);
	ledger_uncommit(ledger, 52 * MIB / 4096, ledger_epoch(ledger));
	ledger_leave(ledger);
}

static void a_refresh_looks_at_most_every_100_ms(void **state)
{
	struct ledger *ledger = create(true);
	struct ledger_view view;

	(void)state;
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	limit_refresh(ledger);
	ledger_look(ledger, &view);
	assert_int_equal(view.outside_pages, 3 * MIB / 4096);
	set_level("/c/a/b", 64 * MIB, 5 * MIB, 0);
	os_fake_advance_ns(99 * (uint64_t)1000000);
	limit_refresh(ledger);
	ledger_look(ledger, &view);
	assert_int_equal(view.outside_pages, 3 * MIB / 4096);
	os_fake_advance_ns(2 * (uint64_t)1000000);
	limit_refresh(ledger);
	ledger_look(ledger, &view);
	assert_int_equal(view.outside_pages, 5 * MIB / 4096);
	ledger_leave(ledger);
}

static void a_refresh_leaves_it_to_a_keeper_that_is_not_late(void **state)
{
	struct ledger *ledger = create(true);
	struct ledger_view view;

	(void)state;
	ledger_set_keeper(ledger, os_process_id(), "somewhere");
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	(void)limit_update(limit, ledger); /* the keeper's */
	set_level("/c/a/b", 64 * MIB, 5 * MIB, 0);
	os_fake_advance_ns(900 * (uint64_t)1000000);
	limit_refresh(ledger);
	ledger_look(ledger, &view);
	assert_int_equal(view.outside_pages, 3 * MIB / 4096);
	os_fake_advance_ns(200 * (uint64_t)1000000);
	limit_refresh(ledger);
	ledger_look(ledger, &view);
	assert_int_equal(view.outside_pages, 5 * MIB / 4096);
	ledger_leave(ledger);
}

/* Whatever call fails, once or from then on: a limit that cannot be read is not taken for none. */
static void a_failing_call_never_raises_the_limit(void **state)
{
	struct ledger *ledger = create(true);
	struct ledger_view view;
	uint64_t before;
	unsigned nth = 0;
	bool fired;

	(void)state;
	set_level("/c/a/b", 64 * MIB, 3 * MIB, 0);
	(void)limit_update(limit, ledger);
	ledger_look(ledger, &view);
	before = view.limit_pages;
	do {
		nth++;
		fired = false;
		for (int from_then_on = 0; from_then_on < 2; from_then_on++) {
			os_fake_advance_ns(6 * (uint64_t)1000000000); /* everything is looked for anew */
			os_fake_fail_nth(OS_FAKE_ANY, nth, -EMFILE, from_then_on);
			(void)limit_update(limit, ledger);
			fired = fired || os_fake_fired(OS_FAKE_ANY);
			os_fake_fail_off(OS_FAKE_ANY);
			ledger_look(ledger, &view);
			assert_true(view.limit_pages <= before);
			assert_int_equal(ledger_check_books(ledger), 0);
		}
		os_fake_advance_ns(250 * (uint64_t)1000000);
		(void)limit_update(limit, ledger);
		ledger_look(ledger, &view);
		/* At once as it was, but for what is left free since the failure looked like growth. */
		assert_in_range(view.limit_pages, before - 2 * MIB / 4096, before);
	} while (fired);
	assert_true(nth > 10);
	ledger_leave(ledger);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_small_cgroup_leaves_a_useful_budget, start, stop),
		cmocka_unit_test_setup_teardown(the_tightest_level_decides, start, stop),
		cmocka_unit_test_setup_teardown(without_a_cgroup_limit_ram_decides, start, stop),
		cmocka_unit_test_setup_teardown(without_proc_the_system_call_decides, start, stop),
		cmocka_unit_test_setup_teardown(clean_page_cache_does_not_shrink_it, start, stop),
		cmocka_unit_test_setup_teardown(a_changed_limit_is_followed_at_the_next_look, start, stop),
		cmocka_unit_test_setup_teardown(being_moved_is_followed, start, stop),
		cmocka_unit_test_setup_teardown(a_controller_that_appears_later_is_found, start, stop),
		cmocka_unit_test_setup_teardown(what_outside_grew_by_is_left_free_for_a_while, start, stop),
		cmocka_unit_test_setup_teardown(a_full_level_leaves_nothing, start, stop),
		cmocka_unit_test_setup_teardown(absurd_numbers_do_no_harm, start, stop),
		cmocka_unit_test_setup_teardown(memory_high_is_told, start, stop),
		cmocka_unit_test_setup_teardown(a_percentage_is_of_the_tightest_limit, start, stop),
		cmocka_unit_test_setup_teardown(an_update_sets_the_ledgers_limit_and_says_why, start, stop),
		cmocka_unit_test_setup_teardown(a_limit_that_was_given_stays, start, stop),
		cmocka_unit_test_setup_teardown(a_failing_call_never_raises_the_limit, start, stop),
		cmocka_unit_test_setup_teardown(near_the_limit_one_looks_more_often, start, stop),
		cmocka_unit_test_setup_teardown(a_refresh_looks_at_most_every_100_ms, start, stop),
		cmocka_unit_test_setup_teardown(a_refresh_leaves_it_to_a_keeper_that_is_not_late, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
