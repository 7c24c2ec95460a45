/*
 * Each rule of ARCHITECTURE.md, "Fork", with real processes (support/actors.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/actors.h"

enum { PARENT, CHILD, SECOND_CHILD, GRANDCHILD };
enum { LIMIT = 1000 };

static struct ledger *watch; /* the test's own attachment: sees, collects, commits nothing */

static int begin(void **state)
{
	(void)state;
	actor_pipes();
	watch = case_create(LIMIT);
	return 0;
}

static int end(void **state)
{
	(void)state;
	actor_end_all();
	(void)ledger_collect_dead(watch, true);
	/* Whatever the story was: with everybody dead, nothing and nobody is left. */
	if (case_charged(watch) != 0 || ledger_check_books(watch) != 0 || case_slots_taken(watch) != 1) {
		case_print(watch);
		return -1;
	}
	ledger_leave(watch);
	return 0;
}

static void assert_charged(uint64_t pages)
{
	(void)ledger_collect_dead(watch, true);
	if (case_charged(watch) != pages)
		case_print(watch);
	assert_int_equal(case_charged(watch), pages);
	assert_int_equal(ledger_check_books(watch), 0);
}

/* What the slot of @index is charged with. */
static uint64_t slot_charge(int index)
{
	struct ledger_member member;

	for (uint32_t i = 1; i < case_look(watch).slots_high; i++)
		if (ledger_look_member(watch, i, &member) && member.pid == actors[index].pid)
			return member.committed_pages;
	fail_msg("actor %d has no slot", index);
	return 0;
}

static bool epoch_is_open(int index, uint32_t epoch)
{
	return actor_tell(index, (struct actor_order){.verb = ACTOR_EPOCH_IS_OPEN, .epoch = epoch}) != 0;
}

/* A parent that has committed ten pages in epoch 0. */
static void parent_with_ten(void)
{
	actor_start(PARENT, watch, case_join);
	assert_int_equal(actor_do(PARENT, ACTOR_COMMIT, 10), 0);
}

static void family_with_ten(void)
{
	parent_with_ten();
	actor_fork(PARENT, CHILD);
}

/* ---- tests ---- */

static void what_a_child_inherits_is_charged_once(void **state)
{
	(void)state;
	family_with_ten();
	assert_charged(10);
	actor_kill(CHILD);
	assert_charged(10);
	actor_kill(PARENT);
	assert_charged(0);
}

static void a_child_has_a_slot_of_its_own(void **state)
{
	(void)state;
	family_with_ten();
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 3), 0);
	assert_int_equal(slot_charge(PARENT), 10);
	assert_int_equal(slot_charge(CHILD), 3);
	assert_charged(13);
	actor_uncommit(CHILD, 1, (uint32_t)actor_do(CHILD, ACTOR_EPOCH, 0));
	assert_charged(12);
	actor_kill(CHILD);
	assert_charged(10);
}

static void what_the_parent_gives_back_stays_charged_until_the_child_dies(void **state)
{
	(void)state;
	family_with_ten();
	actor_uncommit(PARENT, 4, 0);
	assert_charged(10);
	assert_int_equal(slot_charge(PARENT), 6);
	actor_kill(CHILD);
	assert_charged(6);
}

static void what_the_parent_gives_back_stays_charged_until_the_child_execs(void **state)
{
	(void)state;
	family_with_ten();
	actor_uncommit(PARENT, 4, 0);
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 5), 0);
	assert_charged(15);
	actor_exec(CHILD);
	assert_charged(6);
}

static void what_was_committed_after_the_fork_is_the_parents_alone(void **state)
{
	(void)state;
	family_with_ten();
	assert_int_equal(actor_do(PARENT, ACTOR_EPOCH, 0), 1);
	assert_int_equal(actor_do(PARENT, ACTOR_COMMIT, 5), 0);
	assert_charged(15);
	actor_uncommit(PARENT, 5, 1);
	assert_charged(10);
}

static void the_childs_giving_back_trims_the_familys_share(void **state)
{
	(void)state;
	family_with_ten();
	actor_uncommit(PARENT, 4, 0);
	actor_uncommit(CHILD, 7, 0);
	/* The child holds 3 of the 10 and nobody knows which: so 3 of the 4 that the parent gave back may be there. */
	assert_charged(9);
	actor_uncommit(CHILD, 3, 0);
	assert_charged(6);
}

static void what_only_the_child_gives_back_stays_the_parents(void **state)
{
	(void)state;
	family_with_ten();
	actor_uncommit(CHILD, 10, 0);
	assert_charged(10);
	actor_uncommit(PARENT, 10, 0);
	assert_charged(0);
}

static void when_the_parent_dies_first_the_child_keeps_the_charge_and_trims_it(void **state)
{
	(void)state;
	family_with_ten();
	actor_kill(PARENT);
	assert_charged(10);
	actor_uncommit(CHILD, 3, 0);
	assert_charged(7);
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 2), 0);
	assert_charged(9);
	actor_uncommit(CHILD, 7, 0);
	assert_charged(2);
	actor_kill(CHILD);
	assert_charged(0);
}

static void when_the_parent_execs_the_child_keeps_the_charge(void **state)
{
	(void)state;
	family_with_ten();
	actor_exec(PARENT);
	assert_charged(10);
	actor_kill(CHILD);
	assert_charged(0);
}

static void a_parent_that_leaves_leaves_its_charge_to_the_child(void **state)
{
	(void)state;
	family_with_ten();
	(void)actor_do(PARENT, ACTOR_LEAVE, 0);
	assert_charged(10);
	actor_uncommit(CHILD, 4, 0);
	assert_charged(6);
}

static void a_daemon_made_by_two_forks_is_charged_exactly(void **state)
{
	(void)state;
	family_with_ten();
	actor_fork(CHILD, GRANDCHILD);
	actor_kill(PARENT);
	actor_kill(CHILD);
	assert_charged(10);
	actor_uncommit(GRANDCHILD, 4, 0);
	assert_charged(6);
	assert_int_equal(actor_do(GRANDCHILD, ACTOR_COMMIT, 1), 0);
	assert_charged(7);
	actor_kill(GRANDCHILD);
	assert_charged(0);
}

static void two_children_each_keep_what_they_share(void **state)
{
	(void)state;
	family_with_ten();
	actor_fork(PARENT, SECOND_CHILD);
	actor_uncommit(PARENT, 10, 0);
	assert_charged(10);
	actor_kill(CHILD);
	assert_charged(10);
	actor_uncommit(SECOND_CHILD, 1, 0);
	assert_charged(9);
	actor_kill(SECOND_CHILD);
	assert_charged(0);
}

static void a_grandchild_takes_its_dead_parents_place(void **state)
{
	(void)state;
	family_with_ten();
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 5), 0);
	actor_fork(CHILD, GRANDCHILD);
	assert_charged(15);
	actor_kill(CHILD);
	assert_charged(15);
	/* The grandchild holds all 15: what the first parent gives back is still there. */
	actor_uncommit(PARENT, 10, 0);
	assert_charged(15);
	actor_kill(GRANDCHILD);
	assert_charged(0);
}

static void a_grandchild_pins_what_its_parent_has_given_back(void **state)
{
	(void)state;
	family_with_ten();
	actor_fork(CHILD, GRANDCHILD);
	actor_uncommit(CHILD, 10, 0);
	actor_uncommit(PARENT, 10, 0);
	assert_charged(10);
	actor_kill(PARENT);
	assert_charged(10);
	actor_uncommit(GRANDCHILD, 10, 0);
	assert_charged(0);
}

static void a_dead_child_pins_nothing(void **state)
{
	(void)state;
	family_with_ten();
	assert_false(epoch_is_open(PARENT, 0));
	assert_true(epoch_is_open(PARENT, 1));
	assert_false(epoch_is_open(CHILD, 0));
	assert_true(epoch_is_open(CHILD, (uint32_t)actor_do(CHILD, ACTOR_EPOCH, 0)));
	actor_kill(CHILD);
	(void)ledger_collect_dead(watch, true);
	assert_true(epoch_is_open(PARENT, 0));
	actor_uncommit(PARENT, 10, 0);
	assert_int_equal(case_charged(watch), 0);
}

static void exec_gives_everything_back(void **state)
{
	(void)state;
	parent_with_ten();
	actor_exec(PARENT);
	assert_charged(0);
	assert_int_equal(case_look(watch).members, 1);
}

static void vfork_changes_nothing(void **state)
{
	(void)state;
	parent_with_ten();
	assert_int_equal(actor_do(PARENT, ACTOR_VFORK, 0), 0);
	assert_int_equal(actor_do(PARENT, ACTOR_EPOCH, 0), 0);
	assert_charged(10);
	assert_int_equal(case_slots_taken(watch), 2);
	actor_uncommit(PARENT, 10, 0);
	assert_charged(0);
}

static void a_fork_that_fails_changes_nothing_but_the_epoch(void **state)
{
	(void)state;
	parent_with_ten();
	(void)actor_do(PARENT, ACTOR_FORK_FAILS, 0);
	assert_charged(10);
	actor_uncommit(PARENT, 4, 0);
	assert_charged(6);
	assert_int_equal(case_look(watch).members, 2);
}

static void a_raw_clone_keeps_what_it_inherited_charged(void **state)
{
	(void)state;
	parent_with_ten();
	actor_clone(PARENT, CHILD);
	assert_charged(10);
	actor_kill(PARENT);
	assert_charged(10);
	actor_kill(CHILD);
	assert_charged(0);
}

static void a_raw_clone_can_take_a_slot_of_its_own(void **state)
{
	(void)state;
	parent_with_ten();
	actor_clone(PARENT, CHILD);
	assert_int_equal(actor_do(CHILD, ACTOR_RAW_CHILD, 0), 0);
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 5), 0);
	assert_charged(15);
	assert_int_equal(slot_charge(CHILD), 5);
	actor_kill(PARENT);
	assert_charged(15);
	actor_kill(CHILD);
	assert_charged(0);
}

static void a_raw_clone_that_has_died_leaves_its_parents_charge_alone(void **state)
{
	(void)state;
	parent_with_ten();
	actor_clone(PARENT, CHILD);
	assert_int_equal(actor_do(CHILD, ACTOR_RAW_CHILD, 0), 0);
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 5), 0);
	actor_kill(CHILD);
	assert_charged(10);
}

static void a_child_does_not_take_its_living_parent_for_dead(void **state)
{
	(void)state;
	family_with_ten();
	assert_int_equal(actor_do(CHILD, ACTOR_COLLECT, 0), 0);
	assert_int_equal(slot_charge(PARENT), 10);
	assert_int_equal(actor_do(PARENT, ACTOR_COLLECT, 0), 0);
	assert_int_equal(case_look(watch).members, 3);
	assert_charged(10);
}

/* As a process joins that got its descriptor from the keeper. */
static struct ledger *join_as_from_keeper(struct ledger *ledger)
{
	struct ledger *joined;
	const char *why;
	int fd;

	CASE_CHECK(os_fd_reopen(ledger_descriptor(ledger), &fd) == 0);
	CASE_CHECK(ledger_join_fresh(fd, &joined, &why) == 0);
	os_fd_close(fd);
	return joined;
}

static void a_child_of_one_who_joined_by_the_keeper_does_not_take_it_for_dead(void **state)
{
	(void)state;
	actor_start(PARENT, watch, join_as_from_keeper);
	assert_int_equal(actor_do(PARENT, ACTOR_COMMIT, 10), 0);
	actor_fork(PARENT, CHILD);
	assert_int_equal(actor_do(CHILD, ACTOR_COLLECT, 0), 0);
	assert_charged(10);
	assert_int_equal(slot_charge(PARENT), 10);
}

static void a_child_does_not_keep_the_slot_of_one_who_joined_by_the_keeper(void **state)
{
	(void)state;
	actor_start(PARENT, watch, join_as_from_keeper);
	assert_int_equal(actor_do(PARENT, ACTOR_COMMIT, 10), 0);
	actor_fork(PARENT, CHILD);
	actor_uncommit(CHILD, 10, 0);
	/* The child has a descriptor that came from the parent: it must not keep the parent's slot. */
	actor_kill(PARENT);
	assert_charged(0);
	assert_int_equal(case_look(watch).members, 2);
}

static void a_child_without_a_slot_keeps_the_charge_and_gets_a_slot_later(void **state)
{
	(void)state;
	parent_with_ten();
	assert_int_equal(actor_do(PARENT, ACTOR_FILES, 3), 0);
	actor_fork(PARENT, CHILD);
	assert_int_equal(actor_do(CHILD, ACTOR_SLOT, 0), 0);
	assert_int_equal(case_look(watch).unattached, 1);
	actor_kill(PARENT);
	assert_charged(10);
	assert_int_equal(actor_do(CHILD, ACTOR_FILES, 0), 0);
	assert_int_equal(actor_do(CHILD, ACTOR_COMMIT, 5), 0);
	assert_int_not_equal(actor_do(CHILD, ACTOR_SLOT, 0), 0);
	assert_int_equal(case_look(watch).unattached, 0);
	/* It still holds the ten. */
	assert_charged(15);
	actor_kill(CHILD);
	assert_charged(0);
}

static void a_long_line_of_descent_is_charged_once(void **state)
{
	(void)state;
	family_with_ten();
	/* Each forks the next, commits one more, and dies; the last holds everything that there ever was. */
	for (int round = 0; round < 40; round++) {
		const int elder = round % 2 == 0 ? CHILD : GRANDCHILD;
		const int younger = round % 2 == 0 ? GRANDCHILD : CHILD;

		assert_int_equal(actor_do(elder, ACTOR_COMMIT, 1), 0);
		actor_fork(elder, younger);
		actor_kill(elder);
		assert_charged(10 + (uint64_t)round + 1);
	}
	actor_kill(PARENT);
	assert_charged(50);
	actor_kill(CHILD);
	assert_charged(0);
}

#define STORY(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STORY(what_a_child_inherits_is_charged_once),
		STORY(a_child_has_a_slot_of_its_own),
		STORY(what_the_parent_gives_back_stays_charged_until_the_child_dies),
		STORY(what_the_parent_gives_back_stays_charged_until_the_child_execs),
		STORY(what_was_committed_after_the_fork_is_the_parents_alone),
		STORY(the_childs_giving_back_trims_the_familys_share),
		STORY(what_only_the_child_gives_back_stays_the_parents),
		STORY(when_the_parent_dies_first_the_child_keeps_the_charge_and_trims_it),
		STORY(when_the_parent_execs_the_child_keeps_the_charge),
		STORY(a_parent_that_leaves_leaves_its_charge_to_the_child),
		STORY(a_daemon_made_by_two_forks_is_charged_exactly),
		STORY(two_children_each_keep_what_they_share),
		STORY(a_grandchild_takes_its_dead_parents_place),
		STORY(a_grandchild_pins_what_its_parent_has_given_back),
		STORY(a_dead_child_pins_nothing),
		STORY(exec_gives_everything_back),
		STORY(vfork_changes_nothing),
		STORY(a_fork_that_fails_changes_nothing_but_the_epoch),
		STORY(a_raw_clone_keeps_what_it_inherited_charged),
		STORY(a_raw_clone_can_take_a_slot_of_its_own),
		STORY(a_raw_clone_that_has_died_leaves_its_parents_charge_alone),
		STORY(a_child_does_not_take_its_living_parent_for_dead),
		STORY(a_child_of_one_who_joined_by_the_keeper_does_not_take_it_for_dead),
		STORY(a_child_does_not_keep_the_slot_of_one_who_joined_by_the_keeper),
		STORY(a_child_without_a_slot_keeps_the_charge_and_gets_a_slot_later),
		STORY(a_long_line_of_descent_is_charged_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
