/* The knobs of fault injection by name, as HOLDFAST= and the command set them. */
#include "base/compiler.h"
#include "probe/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int reset(void **state)
{
	struct probe_settings settings;

	(void)state;
	probe_settings_default(&settings);
	probe_configure(&settings);
	return 0;
}

static struct probe_settings now(void)
{
	struct probe_settings settings;

	probe_get(&settings);
	return settings;
}

/* Not by memcmp: there is padding. */
static void assert_same(const struct probe_settings *a, const struct probe_settings *b)
{
	assert_int_equal(a->probability_percent, b->probability_percent);
	assert_int_equal(a->interval, b->interval);
	assert_int_equal(a->times, b->times);
	assert_int_equal(a->space_bytes, b->space_bytes);
	assert_int_equal(a->size_min_bytes, b->size_min_bytes);
	assert_int_equal(a->size_max_bytes, b->size_max_bytes);
	assert_int_equal(a->classes, b->classes);
	assert_int_equal(a->seed, b->seed);
	assert_int_equal(a->deny_commits, b->deny_commits);
}

static void knobs_are_set_by_name(void **state)
{
	(void)state;
	assert_int_equal(probe_set_knob("fail.interval", "7"), 0);
	assert_int_equal(probe_set_knob("fail.times", "-1"), 0);
	assert_int_equal(probe_set_knob("fail.space", "64K"), 0);
	assert_int_equal(probe_set_knob("fail.size", "16-2M"), 0);
	assert_int_equal(probe_set_knob("fail.class", "atomic+retry"), 0);
	assert_int_equal(probe_set_knob("fail.commits", "1"), 0);
	assert_int_equal(probe_set_knob("fail.seed", "18446744073709551615"), 0);
	assert_false(probe_is_armed());
	assert_int_equal(probe_set_knob("fail.probability", "10"), 0);
	assert_true(probe_is_armed());
	assert_int_equal(now().probability_percent, 10);
	assert_int_equal(now().interval, 7);
	assert_int_equal(now().times, -1);
	assert_int_equal(now().space_bytes, 65536);
	assert_int_equal(now().size_min_bytes, 16);
	assert_int_equal(now().size_max_bytes, 2 << 20);
	assert_int_equal(now().classes, 1u << PROBE_CLASS_ATOMIC | 1u << PROBE_CLASS_RETRY);
	assert_true(now().deny_commits);
	assert_true(now().seed == UINT64_MAX);
	assert_int_equal(probe_set_knob("fail.size", "1T"), 0);
	assert_true(now().size_min_bytes == (uint64_t)1 << 40 && now().size_max_bytes == (uint64_t)1 << 40);
	assert_int_equal(probe_set_knob("fail.class", "noretry"), 0);
	assert_int_equal(now().classes, 1u << PROBE_CLASS_NORETRY);
	assert_int_equal(probe_set_knob("fail.class", "all"), 0);
	assert_int_equal(now().classes, UINT32_MAX);
	assert_int_equal(probe_set_knob("fail.times", "0"), 0);
	assert_int_equal(now().times, 0);
	assert_int_equal(probe_set_knob("fail.probability", "20"), 0);
	assert_int_equal(probe_set_knob("fail.probability", "0"), 0);
	assert_false(probe_is_armed());
}

static void a_knob_leaves_what_the_others_have_left(void **state)
{
	(void)state;
	assert_int_equal(probe_set_knob("fail.times", "5"), 0);
	assert_int_equal(probe_set_knob("fail.space", "100"), 0);
	assert_int_equal(probe_set_knob("fail.probability", "100"), 0);
	assert_false(probe_should_fail(PROBE_CLASS_RETRY, 60));
	assert_true(probe_should_fail(PROBE_CLASS_RETRY, 60));
	assert_int_equal(probe_set_knob("fail.size", "1-1000"), 0);
	assert_int_equal(now().times, 4);
	assert_int_equal(now().space_bytes, 40);
}

static void bad_knobs_are_refused_and_change_nothing(void **state)
{
	static const char *const bad[][2] = {{"fail.probability", "101"}, {"fail.probability", "-1"},
		{"fail.probability", ""}, {"fail.probability", "5%"}, {"fail.probability", " 5"},
		{"fail.interval", "0"}, {"fail.interval", "4294967296"}, {"fail.interval", "x"}, {"fail.times", "-2"},
		{"fail.times", "9223372036854775808"}, {"fail.times", "1K"}, {"fail.space", "K"},
		{"fail.space", "64KB"}, {"fail.space", "18446744073709551616"}, {"fail.space", "16777216T"},
		{"fail.space", "-1"}, {"fail.size", "-"}, {"fail.size", "5-"}, {"fail.size", "5-4"},
		{"fail.size", "5-6-7"}, {"fail.size", "5,6"}, {"fail.class", ""}, {"fail.class", "nofail"},
		{"fail.class", "atomic+"}, {"fail.class", "+atomic"}, {"fail.class", "atomi"},
		{"fail.class", "atomic,retry"}, {"fail.commits", "2"}, {"fail.commits", "yes"},
		{"fail.seed", "18446744073709551616"}, {"fail.seed", "0x1"}};
	struct probe_settings before, after;

	(void)state;
	before = now();
	for (size_t i = 0; i < HF_COUNT_OF(bad); i++) {
		if (probe_set_knob(bad[i][0], bad[i][1]) != -EINVAL)
			fail_msg("%s=%s was accepted", bad[i][0], bad[i][1]);
		after = now();
		assert_same(&before, &after);
	}
	assert_int_equal(probe_set_knob("fail.propability", "5"), -ENOENT);
	assert_int_equal(probe_set_knob("fail.", "5"), -ENOENT);
	assert_int_equal(probe_set_knob("", ""), -ENOENT);
}

static void every_knob_that_is_named_exists(void **state)
{
	char names[256], *rest = NULL;
	int count = 0;

	(void)state;
	(void)snprintf(names, sizeof names, "%s", probe_knob_names());
	for (char *name = strtok_r(names, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest), count++)
		assert_int_equal(probe_set_knob(name, "bad"), -EINVAL);
	assert_int_equal(count, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(knobs_are_set_by_name, reset),
		cmocka_unit_test_setup(a_knob_leaves_what_the_others_have_left, reset),
		cmocka_unit_test_setup(bad_knobs_are_refused_and_change_nothing, reset),
		cmocka_unit_test_setup(every_knob_that_is_named_exists, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
