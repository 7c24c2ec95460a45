/* What the keeper does by the clock. */
#include "ledger/keeper.h"
#include "ledger/ledger.h"
#include "os/os.h"
#include "os/os_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

enum { LIMIT_PAGES = 10000 };

static struct ledger *ledger;
static struct keeper *keeper;
static struct ledger_view view;

static int start(void **state)
{
	const struct ledger_spec spec = {.limit_pages = LIMIT_PAGES};

	(void)state;
	os_fake_reset();
	if (ledger_create(&spec, &ledger) != 0)
		return -1;
	return keeper_create(ledger, NULL, &keeper);
}

static int stop(void **state)
{
	(void)state;
	keeper_destroy(keeper);
	ledger_leave(ledger);
	return 0;
}

static unsigned serve_after_us(uint64_t us)
{
	unsigned next_ms;

	os_fake_advance_ns(us * 1000);
	keeper_serve(keeper, &next_ms);
	ledger_look(ledger, &view);
	return next_ms;
}

static void commit_all(void)
{
	ledger_look(ledger, &view);
	assert_int_equal(ledger_commit(ledger, LIMIT_PAGES - view.committed_pages, 0), 0);
}

static void time_at_the_limit_is_counted(void **state)
{
	(void)state;
	serve_after_us(0);
	serve_after_us(100000);
	assert_int_equal(view.at_limit_ms, 0);
	commit_all();
	serve_after_us(100000);
	assert_int_equal(view.at_limit_ms, 100);
	for (int i = 0; i < 100; i++)
		serve_after_us(100); /* steps of less than a millisecond are not lost */
	assert_int_equal(view.at_limit_ms, 110);
	serve_after_us(3600 * (uint64_t)1000000); /* it was stopped: it does not know what happened */
	assert_int_equal(view.at_limit_ms, 1110);
	ledger_uncommit(ledger, 5000, ledger_epoch(ledger));
	serve_after_us(100000);
	assert_int_equal(view.at_limit_ms, 1110);
}

static void a_refusal_means_that_it_was_at_the_limit(void **state)
{
	(void)state;
	serve_after_us(0);
	ledger_note_refusal(ledger, 1);
	serve_after_us(40000);
	assert_int_equal(view.at_limit_ms, 40);
	serve_after_us(40000);
	assert_int_equal(view.at_limit_ms, 40);
}

static void it_says_when_it_wants_to_be_called_again(void **state)
{
	unsigned next_ms = 0;

	(void)state;
	for (int i = 0; i < 10; i++) {
		next_ms = serve_after_us(next_ms * 1000);
		assert_in_range(next_ms, 1, 500);
	}
}

static void a_lack_of_anything_at_the_start_is_told_and_leaves_nothing(void **state)
{
	static const enum os_fake_call calls[] = {OS_FAKE_MEMORY_MAP, OS_FAKE_SOCKET_LISTEN};
	struct keeper *second;

	(void)state;
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		for (unsigned nth = 1;; nth++) {
			const unsigned unmapped = os_fake_count(OS_FAKE_UNMAP);
			const unsigned mapped = os_fake_count(OS_FAKE_MEMORY_MAP);

			os_fake_fail_nth(calls[i], nth, -ENOMEM, false);
			const int error = keeper_create(ledger, NULL, &second);
			const bool fired = os_fake_fired(calls[i]);

			os_fake_fail_off(calls[i]);
			assert_int_equal(error, fired ? -ENOMEM : 0);
			if (!fired)
				keeper_destroy(second);
			/* The one that failed mapped nothing. */
			assert_int_equal(
				os_fake_count(OS_FAKE_MEMORY_MAP) - mapped - (fired && calls[i] == OS_FAKE_MEMORY_MAP),
				os_fake_count(OS_FAKE_UNMAP) - unmapped);
			if (!fired)
				break;
		}
	}
	ledger_set_keeper(ledger, os_process_id(), "test");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(time_at_the_limit_is_counted, start, stop),
		cmocka_unit_test_setup_teardown(a_refusal_means_that_it_was_at_the_limit, start, stop),
		cmocka_unit_test_setup_teardown(it_says_when_it_wants_to_be_called_again, start, stop),
		cmocka_unit_test_setup_teardown(
			a_lack_of_anything_at_the_start_is_told_and_leaves_nothing, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
