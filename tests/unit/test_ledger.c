/*
 * The ledger's calls one by one, within one process. What happens among processes: test_ledger_fork.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/ledger_case.h"

#include <errno.h>

static uint64_t room(const struct ledger *ledger)
{
	const struct ledger_view view = case_look(ledger);

	return view.limit_pages - view.committed_pages;
}

static void a_new_ledger_has_one_member_and_its_own_pages(void **state)
{
	struct ledger *ledger = case_create(100);
	const struct ledger_view view = case_look(ledger);

	(void)state;
	assert_string_equal(view.name, "test");
	assert_int_equal(view.limit_pages, 100);
	assert_int_equal(view.members, 1);
	assert_int_equal(view.committed_pages, view.own_pages);
	assert_int_equal(view.keeper_pid, 0);
	assert_int_equal(ledger_check_books(ledger), 0);
	ledger_leave(ledger);
}

static void a_name_is_at_most_31_characters(void **state)
{
	const struct ledger_spec good = {.name = "0123456789012345678901234567890", .limit_pages = 100};
	const struct ledger_spec bad = {.name = "01234567890123456789012345678901", .limit_pages = 100};
	struct ledger *ledger;

	(void)state;
	assert_int_equal(ledger_create(&bad, &ledger), -EINVAL);
	assert_int_equal(ledger_create(&good, &ledger), 0);
	assert_string_equal(case_look(ledger).name, good.name);
	ledger_leave(ledger);
}

static void the_last_page_is_granted_and_the_one_after_it_is_not(void **state)
{
	struct ledger *ledger = case_create(100);

	(void)state;
	assert_int_equal(ledger_commit(ledger, room(ledger) + 1, 0), -ENOMEM);
	assert_int_equal(ledger_commit(ledger, room(ledger), 0), 0);
	assert_int_equal(case_look(ledger).committed_pages, 100);
	assert_int_equal(ledger_commit(ledger, 1, 0), -ENOMEM);
	assert_int_equal(ledger_commit(ledger, 0, 0), 0);
	ledger_uncommit(ledger, 1, ledger_epoch(ledger));
	assert_int_equal(ledger_commit(ledger, 1, 0), 0);
	ledger_leave(ledger);
}

static void a_floor_is_left_free(void **state)
{
	struct ledger *ledger = case_create(100);
	const uint64_t free_pages = room(ledger);

	(void)state;
	assert_int_equal(ledger_commit(ledger, free_pages - 9, 10), -ENOMEM);
	assert_int_equal(ledger_commit(ledger, free_pages - 10, 10), 0);
	assert_int_equal(ledger_commit(ledger, 1, 10), -ENOMEM);
	assert_int_equal(ledger_commit(ledger, 10, 0), 0);
	ledger_leave(ledger);
}

static void no_number_of_pages_wraps_round(void **state)
{
	struct ledger *ledger = case_create(LEDGER_NO_LIMIT);
	static const uint64_t large[] = {
		LEDGER_NO_LIMIT, LEDGER_NO_LIMIT + 1, UINT64_MAX / 2, UINT64_MAX - 2, UINT64_MAX};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(large); i++) {
		assert_int_equal(ledger_commit(ledger, large[i], 0), -ENOMEM);
		assert_int_equal(ledger_commit(ledger, 1, large[i]), -ENOMEM);
		assert_int_equal(ledger_commit(ledger, large[i], large[i]), -ENOMEM);
	}
	assert_int_equal(case_charged(ledger), 0);
	ledger_set_limit(ledger, UINT64_MAX);
	assert_int_equal(case_look(ledger).limit_pages, LEDGER_NO_LIMIT);
	ledger_leave(ledger);
}

static void a_lowered_limit_takes_nothing_away_but_grants_nothing(void **state)
{
	struct ledger *ledger = case_create(100);

	(void)state;
	assert_int_equal(ledger_commit(ledger, 50, 0), 0);
	ledger_set_limit(ledger, 20);
	assert_int_equal(case_charged(ledger), 50);
	assert_int_equal(ledger_commit(ledger, 1, 0), -ENOMEM);
	ledger_uncommit(ledger, 40, ledger_epoch(ledger));
	assert_int_equal(ledger_commit(ledger, 1, 0), 0);
	ledger_leave(ledger);
}

static void two_attachments_share_one_limit(void **state)
{
	struct ledger *one = case_create(100);
	struct ledger *other = case_join(one);

	(void)state;
	assert_int_equal(ledger_commit(one, 60, 0), 0);
	assert_int_equal(ledger_commit(other, 60, 0), -ENOMEM);
	assert_int_equal(ledger_commit(other, 30, 0), 0);
	assert_int_equal(ledger_committed_here(one), 60);
	assert_int_equal(ledger_committed_here(other), 30);
	ledger_leave(one);
	assert_int_equal(case_charged(other), 30);
	assert_int_equal(ledger_commit(other, 60, 0), 0);
	assert_int_equal(case_look(other).peak_pages, case_look(other).committed_pages);
	ledger_leave(other);
}

static void the_dead_are_collected_before_no_is_said(void **state)
{
	struct ledger *ledger = case_create(100);
	struct ledger *dead = case_join(ledger);

	(void)state;
	assert_int_equal(ledger_commit(dead, room(ledger), 0), 0);
	case_die(dead);
	assert_int_equal(ledger_commit(ledger, 90, 0), 0);
	assert_int_equal(case_look(ledger).deaths_collected, 1);
	assert_int_equal(case_look(ledger).members, 1);
	ledger_leave(ledger);
}

/* However many have died, and whatever each of them held. */
static void as_many_of_the_dead_are_collected_as_it_takes(void **state)
{
	enum { DEAD = 45, PAGES_EACH = 2 };
	struct ledger *ledger = case_create(300);
	struct ledger *dead[DEAD];

	(void)state;
	for (int i = 0; i < DEAD; i++)
		dead[i] = case_join(ledger);
	/* The first 20 hold nothing, the others two pages each. */
	for (int i = 20; i < DEAD; i++)
		assert_int_equal(ledger_commit(dead[i], PAGES_EACH, 0), 0);
	for (int i = 0; i < DEAD; i++)
		case_die(dead[i]);
	assert_int_equal(ledger_commit(ledger, room(ledger), 0), 0);
	assert_int_equal(ledger_commit(ledger, (DEAD - 20) * PAGES_EACH, 0), 0);
	assert_int_equal(room(ledger), 0);
	ledger_leave(ledger);
}

static void slots_are_used_again(void **state)
{
	struct ledger *ledger = case_create(100);
	uint32_t high = 0;

	(void)state;
	for (int i = 0; i < 300; i++) {
		struct ledger *guest = case_join(ledger);

		assert_int_equal(ledger_commit(guest, 3, 0), 0);
		if (i % 2 == 0)
			ledger_leave(guest);
		else
			case_die(guest);
		(void)ledger_collect_dead(ledger, true);
		assert_int_equal(case_charged(ledger), 0);
		if (i == 0)
			high = case_look(ledger).slots_high;
	}
	assert_int_equal(case_look(ledger).slots_high, high);
	ledger_leave(ledger);
}

static void the_ledgers_own_pages_are_charged_as_it_grows(void **state)
{
	enum { GUESTS = 60 };
	struct ledger *ledger = case_create(1000);
	struct ledger *guests[GUESTS];
	const uint64_t at_first = case_look(ledger).own_pages;

	(void)state;
	for (int i = 0; i < GUESTS; i++) {
		guests[i] = case_join(ledger);
		/* The header, and the pages in which slots have been used. */
		const uint64_t used = 1 + ((uint64_t)case_look(ledger).slots_high * LEDGER_SLOT_BYTES + 4095) / 4096;
		assert_true(case_look(ledger).own_pages >= used);
		assert_int_equal(case_charged(ledger), 0);
	}
	assert_true(case_look(ledger).own_pages > at_first);
	for (int i = 0; i < GUESTS; i++)
		ledger_leave(guests[i]);
	assert_int_equal(ledger_check_books(ledger), 0);
	ledger_leave(ledger);
}

static void without_room_for_its_slot_a_process_cannot_join(void **state)
{
	struct ledger *ledger = case_create(1000);
	struct ledger *guests[40], *late;
	const char *why = "";
	int joined = 0;

	(void)state;
	assert_int_equal(ledger_commit(ledger, room(ledger), 0), 0);
	while (joined < 40 && ledger_join(ledger_descriptor(ledger), &guests[joined], &why) == 0)
		joined++;
	assert_in_range(joined, 1, 39); /* what is paid ahead has room for some */
	assert_int_equal(ledger_join(ledger_descriptor(ledger), &late, &why), -ENOMEM);
	assert_string_equal(why, "its budget has no room for one more process");
	/* Trying often does not help: slots that were not paid for are not had. */
	for (int i = 0; i < 50; i++)
		assert_int_equal(ledger_join(ledger_descriptor(ledger), &late, &why), -ENOMEM);
	assert_true(case_look(ledger).committed_pages <= 1000);
	ledger_uncommit(ledger, 1, ledger_epoch(ledger));
	assert_int_equal(ledger_join(ledger_descriptor(ledger), &late, &why), 0);
	ledger_leave(late);
	while (joined > 0)
		ledger_leave(guests[--joined]);
	assert_int_equal(ledger_check_books(ledger), 0);
	ledger_leave(ledger);
}

static void an_inner_budget_counts_in_the_outer_one_too(void **state)
{
	struct ledger *outer_watch = case_create(100);
	struct ledger *outer = case_join(outer_watch);
	struct ledger *inner_watch = case_create(60);
	struct ledger *inner = case_join(inner_watch);

	(void)state;
	assert_int_equal(ledger_nest(inner, outer), 0);
	assert_int_equal(ledger_commit(inner, 20, 0), 0);
	assert_int_equal(case_charged(inner_watch), 20);
	assert_int_equal(case_charged(outer_watch), 20);
	/* The outer one says no: then nothing is charged inside either. */
	assert_int_equal(ledger_commit(outer_watch, room(outer_watch) - 5, 0), 0);
	assert_int_equal(ledger_commit(inner, 6, 0), -ENOMEM);
	assert_int_equal(case_charged(inner_watch), 20);
	assert_int_equal(ledger_commit(inner, 5, 0), 0);
	/* The inner one says no. */
	ledger_uncommit(outer_watch, 50, ledger_epoch(outer_watch));
	assert_int_equal(ledger_commit(inner, room(inner_watch) + 1, 0), -ENOMEM);
	ledger_uncommit(inner, 25, ledger_epoch(inner));
	assert_int_equal(case_charged(inner_watch), 0);
	assert_int_equal(ledger_commit(inner, 7, 0), 0);
	ledger_leave(inner);
	assert_int_equal(case_charged(inner_watch), 0);
	assert_int_equal(case_charged(outer_watch), ledger_committed_here(outer_watch));
	assert_int_equal(case_look(outer_watch).members, 1);
	ledger_leave(inner_watch);
	ledger_leave(outer_watch);
}

static void more_than_four_budgets_deep_is_refused(void **state)
{
	struct ledger *innermost = case_create(100);

	(void)state;
	for (int depth = 2; depth <= 4; depth++)
		assert_int_equal(ledger_nest(innermost, case_create(100)), 0);
	struct ledger *fifth = case_create(100);
	assert_int_equal(ledger_nest(innermost, fifth), -ELOOP);
	ledger_leave(fifth);
	assert_int_equal(ledger_commit(innermost, 5, 0), 0);
	for (struct ledger *at = innermost; at != NULL; at = ledger_outer(at))
		assert_int_equal(case_charged(at), 5);
	ledger_leave(innermost);
}

static void a_view_sees_and_takes_no_slot(void **state)
{
	struct ledger *ledger = case_create(100);
	struct ledger *view;
	const char *why;

	(void)state;
	assert_int_equal(ledger_commit(ledger, 7, 0), 0);
	assert_int_equal(ledger_open_view(ledger_descriptor(ledger), false, &view, &why), 0);
	assert_int_equal(case_charged(view), 7);
	assert_int_equal(case_look(view).members, 1);
	assert_int_equal(ledger_commit(view, 1, 0), -ENOMEM);
	ledger_set_limit(view, 5); /* it may only look */
	assert_int_equal(case_look(ledger).limit_pages, 100);
	ledger_leave(view);
	assert_int_equal(ledger_open_view(ledger_descriptor(ledger), true, &view, &why), 0);
	ledger_set_limit(view, 50);
	assert_int_equal(case_look(ledger).limit_pages, 50);
	ledger_leave(view);
	ledger_leave(ledger);
}

/* facts/kernel-mm: a zone of 64 MiB has 256, 320 and 384 pages. */
static void watermarks_are_the_kernels(void **state)
{
	const struct ledger_watermarks marks = ledger_watermarks_of((64 << 20) / 4096);

	(void)state;
	assert_int_equal(marks.min_pages, 256);
	assert_int_equal(marks.low_pages, 320);
	assert_int_equal(marks.high_pages, 384);
	for (uint64_t limit = 0; limit <= LEDGER_NO_LIMIT; limit = limit * 3 + 1) {
		const struct ledger_watermarks at = ledger_watermarks_of(limit);

		assert_true(at.min_pages <= at.low_pages);
		assert_true(at.low_pages <= at.high_pages);
		assert_true(at.min_pages <= limit / 8);
	}
}

static void a_refusal_is_counted_where_it_happened(void **state)
{
	struct ledger *ledger = case_create(100);
	struct ledger *other = case_join(ledger);
	struct ledger_member member;

	(void)state;
	ledger_note_refusal(other, 12345);
	ledger_note_refusal(other, 54321);
	assert_int_equal(case_look(ledger).refusals, 2);
	assert_true(ledger_look_member(ledger, other->slot, &member));
	assert_int_equal(member.refusals, 2);
	assert_int_equal(member.last_refused_bytes, 54321);
	assert_true(ledger_look_member(ledger, ledger->slot, &member));
	assert_int_equal(member.refusals, 0);
	ledger_leave(other);
	ledger_leave(ledger);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_ledger_has_one_member_and_its_own_pages),
		cmocka_unit_test(a_name_is_at_most_31_characters),
		cmocka_unit_test(the_last_page_is_granted_and_the_one_after_it_is_not),
		cmocka_unit_test(a_floor_is_left_free),
		cmocka_unit_test(no_number_of_pages_wraps_round),
		cmocka_unit_test(a_lowered_limit_takes_nothing_away_but_grants_nothing),
		cmocka_unit_test(two_attachments_share_one_limit),
		cmocka_unit_test(the_dead_are_collected_before_no_is_said),
		cmocka_unit_test(as_many_of_the_dead_are_collected_as_it_takes),
		cmocka_unit_test(slots_are_used_again),
		cmocka_unit_test(the_ledgers_own_pages_are_charged_as_it_grows),
		cmocka_unit_test(without_room_for_its_slot_a_process_cannot_join),
		cmocka_unit_test(an_inner_budget_counts_in_the_outer_one_too),
		cmocka_unit_test(more_than_four_budgets_deep_is_refused),
		cmocka_unit_test(a_view_sees_and_takes_no_slot),
		cmocka_unit_test(watermarks_are_the_kernels),
		cmocka_unit_test(a_refusal_is_counted_where_it_happened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
