/* Fault injection asked by several threads at once: what is counted is exact whatever their number. */
#include "base/compiler.h"
#include "probe/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

enum { THREADS = 4, ASKS = 20000 };

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

static void *ask_often(void *failed)
{
	for (int i = 0; i < ASKS; i++)
		*(int *)failed += ask(1);
	return NULL;
}

/* How many fail in all, when @THREADS ask @ASKS times each. */
static int ask_by_threads(void)
{
	int failed[THREADS] = {0}, sum = 0;
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, ask_often, &failed[i]), 0);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		sum += failed[i];
	}
	return sum;
}

static void times_are_exact_under_threads(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.times = THREADS * ASKS / 2 + 1;
	probe_configure(&settings);
	assert_int_equal(ask_by_threads(), THREADS * ASKS / 2 + 1);
	assert_int_equal(now().times, 0);
}

static void space_is_exact_under_threads(void **state)
{
	struct probe_settings settings = all_fail();

	(void)state;
	settings.space_bytes = THREADS * ASKS / 2 + 1; /* the last byte of it stays: space > size */
	probe_configure(&settings);
	assert_int_equal(ask_by_threads(), THREADS * ASKS / 2);
	assert_int_equal(now().space_bytes, 1);
}

static void intervals_and_draws_are_exact_under_threads(void **state)
{
	struct probe_settings settings = all_fail();
	int alone = 0;

	(void)state;
	settings.interval = 7;
	probe_configure(&settings);
	assert_int_equal(ask_by_threads(), THREADS * ASKS / 7);
	settings.interval = 1;
	settings.probability_percent = 30;
	settings.seed = 5;
	probe_configure(&settings);
	for (int i = 0; i < THREADS * ASKS; i++)
		alone += ask(1);
	probe_configure(&settings);
	assert_int_equal(ask_by_threads(), alone); /* the same draws, whoever has which */
}

static void *fail_mine(void *context)
{
	const unsigned nth = *(unsigned *)context;

	for (int round = 0; round < 500; round++) {
		probe_fail_nth(nth);
		for (unsigned i = 1; i <= nth; i++)
			if (ask(16) != (i == nth))
				return context;
		if (!probe_fired())
			return context;
		probe_fail_nth(nth);
		probe_off();
	}
	return NULL;
}

static void fail_nth_is_each_thread_s_own(void **state)
{
	unsigned nth[THREADS];
	pthread_t threads[THREADS];

	(void)state;
	for (unsigned i = 0; i < THREADS; i++) {
		nth[i] = i + 1;
		assert_int_equal(pthread_create(&threads[i], NULL, fail_mine, &nth[i]), 0);
	}
	for (int i = 0; i < 1000; i++)
		assert_false(ask(16)); /* this thread has none */
	for (int i = 0; i < THREADS; i++) {
		void *wrong = NULL;

		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
	assert_false(probe_is_armed());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(times_are_exact_under_threads, reset),
		cmocka_unit_test_setup(space_is_exact_under_threads, reset),
		cmocka_unit_test_setup(intervals_and_draws_are_exact_under_threads, reset),
		cmocka_unit_test_setup(fail_nth_is_each_thread_s_own, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
