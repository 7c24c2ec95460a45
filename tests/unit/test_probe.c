/* Fault injection: each filter, and their order. */
#include "base/compiler.h"
#include "probe/probe.h"
#include "support/child.h"

#include <holdfast/alloc.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <assert.h>

static_assert((uint32_t)PROBE_CLASS_ATOMIC == HF_ATOMIC, "the numbers of holdfast/alloc.h");
static_assert((uint32_t)PROBE_CLASS_NORETRY == HF_NORETRY, "the numbers of holdfast/alloc.h");
static_assert((uint32_t)PROBE_CLASS_RETRY == HF_RETRY, "the numbers of holdfast/alloc.h");

static int reset(void **state)
{
	struct probe_settings settings;

	(void)state;
	probe_off();
	probe_settings_default(&settings);
	probe_configure(&settings);
	return 0;
}

/* Everything fails, until a test says otherwise. */
static struct probe_settings all_fail(void)
{
	struct probe_settings settings;

	probe_settings_default(&settings);
	settings.probability_percent = 100;
	settings.times = -1;
	return settings;
}

static bool ask(size_t bytes)
{
	return probe_should_fail(PROBE_CLASS_RETRY, bytes);
}

static struct probe_settings now(void)
{
	struct probe_settings settings;

	probe_get(&settings);
	return settings;
}

/* ---- the knobs, one by one ---- */

static void by_default_nothing_fails_or_is_armed(void **state)
{
	(void)state;
	assert_false(probe_is_armed());
	for (int i = 0; i < 1000; i++)
		assert_false(ask(16));
	assert_int_equal(now().interval, 1);
	assert_int_equal(now().times, 1);
}

static void probability_100_fails_all(void **state)
{
	const struct probe_settings settings = all_fail();
	const uint64_t before = probe_injected();

	(void)state;
	probe_configure(&settings);
	assert_true(probe_is_armed());
	for (int i = 0; i < 1000; i++)
		assert_true(ask(16));
	assert_int_equal(probe_injected(), before + 1000);
}

static uint64_t draw_64(void)
{
	uint64_t pattern = 0;

	for (int i = 0; i < 64; i++)
		pattern = pattern << 1 | ask(16);
	return pattern;
}

static void the_same_seed_draws_the_same(void **state)
{
	struct probe_settings settings = all_fail();
	uint64_t first, other;

	(void)state;
	settings.probability_percent = 50;
	settings.seed = 12345;
	probe_configure(&settings);
	first = draw_64();
	assert_int_not_equal(first, 0);
	assert_int_not_equal(first, UINT64_MAX);
	assert_int_not_equal(draw_64(), first);
	probe_configure(&settings);
	assert_int_equal(draw_64(), first);
	settings.seed = 12346;
	probe_configure(&settings);
	other = draw_64();
	assert_int_not_equal(other, first);
}

static void a_seed_of_zero_is_drawn_and_can_be_read(void **state)
{
	struct probe_settings settings = all_fail();
	uint64_t first;

	(void)state;
	settings.probability_percent = 50;
	probe_configure(&settings);
	first = draw_64();
	settings.seed = now().seed;
	assert_int_not_equal(settings.seed, 0);
	probe_configure(&settings);
	assert_int_equal(draw_64(), first);
	settings.seed = 0;
	probe_configure(&settings);
	assert_int_not_equal(draw_64(), first);
}

/* Not a matter of chance: with this seed it is always the same number, and it lies where it must. */
static void probability_is_a_share_in_percent(void **state)
{
	static const uint32_t percents[] = {1, 10, 50, 99};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(percents); i++) {
		struct probe_settings settings = all_fail();
		uint32_t failed = 0;

		settings.probability_percent = percents[i];
		settings.seed = 1;
		probe_configure(&settings);
		for (int k = 0; k < 100000; k++)
			failed += ask(16);
		assert_in_range(failed, percents[i] * 1000 - 500, percents[i] * 1000 + 500);
	}
}

static void interval_fails_every_nth(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.interval = 3;
	probe_configure(&settings);
	for (int i = 1; i <= 30; i++)
		assert_int_equal(ask(16), i % 3 == 0);
	settings.interval = 0; /* is 1 */
	probe_configure(&settings);
	assert_true(ask(16));
}

static void times_is_the_most_that_fail(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.times = 3;
	probe_configure(&settings);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(now().times, i < 3 ? 3 - i : 0);
		assert_int_equal(ask(16), i < 3);
	}
}

static void space_succeeds_first(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.space_bytes = 100;
	probe_configure(&settings);
	assert_false(ask(60)); /* 40 left */
	assert_int_equal(now().space_bytes, 40);
	assert_true(ask(41));
	assert_true(ask(40)); /* space > size, as the kernel has it */
	assert_false(ask(39));
	assert_int_equal(now().space_bytes, 1);
	assert_true(ask(1));
	assert_false(ask(0));
}

static void size_selects(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.size_min_bytes = 100;
	settings.size_max_bytes = 200;
	probe_configure(&settings);
	assert_false(ask(99));
	assert_true(ask(100));
	assert_true(ask(200));
	assert_false(ask(201));
}

static void class_selects(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.classes = 1u << PROBE_CLASS_ATOMIC | 1u << PROBE_CLASS_RETRY;
	probe_configure(&settings);
	assert_true(probe_should_fail(PROBE_CLASS_ATOMIC, 16));
	assert_false(probe_should_fail(PROBE_CLASS_NORETRY, 16));
	assert_true(probe_should_fail(PROBE_CLASS_RETRY, 16));
}

/* ---- their order: what a filter lets pass, those behind it do not count ---- */

static void probability_0_comes_before_all_others(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.probability_percent = 0;
	settings.space_bytes = 100;
	settings.times = 5;
	probe_configure(&settings);
	assert_false(ask(60));
	assert_int_equal(now().space_bytes, 100);
	assert_int_equal(now().times, 5);
}

static void size_and_class_come_before_space(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.space_bytes = 100;
	settings.size_min_bytes = 50;
	settings.classes = 1u << PROBE_CLASS_RETRY;
	probe_configure(&settings);
	assert_false(ask(49));
	assert_false(probe_should_fail(PROBE_CLASS_ATOMIC, 60));
	assert_int_equal(now().space_bytes, 100);
	assert_false(ask(60));
	assert_int_equal(now().space_bytes, 40);
}

static void times_0_comes_before_space(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.space_bytes = 100;
	settings.times = 0;
	probe_configure(&settings);
	assert_false(ask(60));
	assert_int_equal(now().space_bytes, 100);
}

static void space_comes_before_interval(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.space_bytes = 100;
	settings.interval = 2;
	probe_configure(&settings);
	assert_false(ask(50)); /* space: not counted by the interval */
	assert_false(ask(60)); /* the first */
	assert_true(ask(60));  /* the second */
	assert_false(ask(10)); /* space */
	assert_false(ask(60));
	assert_true(ask(60));
}

static void interval_comes_before_probability(void **state)
{
	struct probe_settings settings = all_fail();
	uint64_t pattern;

	(void)state;
	settings.probability_percent = 50;
	settings.seed = 12345;
	probe_configure(&settings);
	pattern = draw_64();
	settings.interval = 3;
	probe_configure(&settings);
	for (int i = 63; i >= 0; i--) { /* every third ask is a draw, and the draws are the same */
		assert_false(ask(16));
		assert_false(ask(16));
		assert_int_equal(ask(16), pattern >> i & 1);
	}
}

static void probability_comes_before_times(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.probability_percent = 50;
	settings.seed = 12345;
	settings.times = 10;
	probe_configure(&settings);
	for (int64_t left = 10; left > 0;) {
		left -= ask(16);
		assert_int_equal(now().times, left); /* only what fails is taken off */
	}
	for (int i = 0; i < 100; i++)
		assert_false(ask(16));
}

/* ---- fail_nth ---- */

static void fail_nth_fails_the_nth_once(void **state)
{
	(void)state;
	for (unsigned n = 1; n <= 5; n++) {
		const uint64_t before = probe_injected();

		probe_fail_nth(n);
		assert_true(probe_is_armed());
		for (unsigned i = 1; i <= 10; i++) {
			assert_int_equal(ask(16), i == n);
			assert_int_equal(probe_fired(), i >= n);
		}
		assert_false(probe_is_armed());
		assert_int_equal(probe_injected(), before + 1);
	}
}

static void fail_nth_comes_before_all_others(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.probability_percent = 0;
	settings.classes = 0;
	settings.size_min_bytes = settings.size_max_bytes = 7;
	settings.times = 0;
	settings.space_bytes = 1 << 20;
	settings.interval = 100;
	probe_configure(&settings);
	probe_fail_nth(2);
	assert_false(ask(16));
	assert_true(ask(16));
	assert_int_equal(now().space_bytes, 1 << 20);
	/* While it counts down, the knobs do not fail anything, as in the kernel. */
	settings = all_fail();
	settings.times = 5;
	probe_configure(&settings);
	probe_fail_nth(3);
	assert_false(ask(16));
	assert_false(ask(16));
	assert_true(ask(16));
	assert_int_equal(now().times, 4); /* and it counts as one of theirs */
	assert_true(ask(16));
	assert_int_equal(now().times, 3);
}

static void fail_nth_can_be_set_again_and_off(void **state)
{
	(void)state;
	probe_fail_nth(5);
	probe_fail_nth(1);
	assert_true(ask(16));
	assert_true(probe_fired());
	probe_fail_nth(3);
	assert_false(probe_fired());
	probe_off();
	assert_false(probe_is_armed());
	for (int i = 0; i < 5; i++)
		assert_false(ask(16));
	probe_off();
	probe_fail_nth(3);
	probe_fail_nth(0);
	assert_false(probe_is_armed());
	probe_fail_nth(1);
	assert_true(ask(16));
	probe_off();
	assert_true(probe_fired()); /* for who asks after cleaning up */
}

static int ask_in_child(void *context)
{
	const bool knobs = context != NULL;

	if (probe_is_armed() != knobs || probe_fired() || probe_injected() != 0)
		return 1;
	for (int i = 0; i < 5; i++)
		if (ask(16) != (knobs && i < 2))
			return 2;
	probe_fail_nth(1);
	return ask(16) && probe_fired() && probe_is_armed() == knobs ? 0 : 3;
}

static int fork_child(void *context)
{
	probe_fork_child();
	return ask_in_child(context);
}

static void fail_nth_is_not_inherited_by_fork(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	probe_fail_nth(1);
	assert_int_equal(child_check(fork_child, NULL), 0);
	assert_true(ask(16)); /* the parent's is still there */
	settings.times = 2;
	probe_configure(&settings);
	probe_fail_nth(4);
	assert_int_equal(child_check(fork_child, &settings), 0);
	assert_int_equal(now().times, 2);
}

static void nothing_is_injected_or_counted_where_benign(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	probe_fail_nth(2);
	probe_benign_enter();
	probe_benign_enter();
	assert_false(ask(16));
	probe_benign_leave();
	assert_false(ask(16));
	assert_false(ask(16));
	probe_benign_leave();
	assert_false(ask(16));
	assert_true(ask(16));
	settings.times = 1;
	probe_configure(&settings);
	probe_benign_enter();
	assert_false(ask(16));
	probe_benign_leave();
	assert_true(ask(16));
}

/* ---- commits ---- */

static void commits_are_denied_instead_of_requests(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	probe_configure(&settings);
	assert_false(probe_should_deny_commit(16));
	settings.deny_commits = true;
	settings.classes = 1u << PROBE_CLASS_ATOMIC; /* a commit has none */
	settings.space_bytes = 10 << 12;
	settings.size_max_bytes = 100 << 12;
	settings.times = 2;
	probe_configure(&settings);
	assert_false(ask(16));
	assert_false(probe_should_fail(PROBE_CLASS_ATOMIC, 16));
	assert_false(probe_should_deny_commit(9)); /* space */
	assert_true(probe_should_deny_commit(16));
	assert_false(probe_should_deny_commit(101)); /* size */
	assert_false(probe_should_deny_commit(UINT64_MAX));
	assert_true(probe_should_deny_commit(100));
	assert_false(probe_should_deny_commit(16));
}

static void fail_nth_counts_commits_where_they_are_denied(void **state)
{
	struct probe_settings settings;

	(void)state;
	probe_settings_default(&settings);
	settings.deny_commits = true;
	probe_configure(&settings);
	assert_false(probe_is_armed());
	probe_fail_nth(2);
	assert_false(ask(16));
	assert_false(probe_should_deny_commit(1));
	assert_false(ask(16));
	assert_true(probe_should_deny_commit(1));
	assert_true(probe_fired());
	assert_false(probe_should_deny_commit(1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(by_default_nothing_fails_or_is_armed, reset),
		cmocka_unit_test_setup(probability_100_fails_all, reset),
		cmocka_unit_test_setup(the_same_seed_draws_the_same, reset),
		cmocka_unit_test_setup(a_seed_of_zero_is_drawn_and_can_be_read, reset),
		cmocka_unit_test_setup(probability_is_a_share_in_percent, reset),
		cmocka_unit_test_setup(interval_fails_every_nth, reset),
		cmocka_unit_test_setup(times_is_the_most_that_fail, reset),
		cmocka_unit_test_setup(space_succeeds_first, reset),
		cmocka_unit_test_setup(size_selects, reset),
		cmocka_unit_test_setup(class_selects, reset),
		cmocka_unit_test_setup(probability_0_comes_before_all_others, reset),
		cmocka_unit_test_setup(size_and_class_come_before_space, reset),
		cmocka_unit_test_setup(times_0_comes_before_space, reset),
		cmocka_unit_test_setup(space_comes_before_interval, reset),
		cmocka_unit_test_setup(interval_comes_before_probability, reset),
		cmocka_unit_test_setup(probability_comes_before_times, reset),
		cmocka_unit_test_setup(fail_nth_fails_the_nth_once, reset),
		cmocka_unit_test_setup(fail_nth_comes_before_all_others, reset),
		cmocka_unit_test_setup(fail_nth_can_be_set_again_and_off, reset),
		cmocka_unit_test_setup(fail_nth_is_not_inherited_by_fork, reset),
		cmocka_unit_test_setup(nothing_is_injected_or_counted_where_benign, reset),
		cmocka_unit_test_setup(commits_are_denied_instead_of_requests, reset),
		cmocka_unit_test_setup(fail_nth_counts_commits_where_they_are_denied, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
