/*
 * Random operations of several members against an obvious ledger: a table of pages that says who holds each.
 *
 * All members are attachments of this one process. One dies when its mapping goes without a word, as the kernel lets it
 * go; one forks by the real fork handlers, the child's being run on a second handle.
 * After every operation: L1, L2, what anybody holds is charged, and (the dead being collected) no more is charged than
 * the sum of what each member holds, which is the same thing where no two share a page.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/ledger_case.h"
#include "support/random.h"

#include <errno.h>
#include <unistd.h>

enum { MEMBERS = 9, PAGES = 400, STEPS = 30000, MOST_AT_ONCE = 12, FIRST_LIMIT = 200 };

struct page {
	uint32_t holders; /* one bit a member; 0: not there */
	uint32_t epoch;	  /* in which it was committed */
};

struct model {
	struct random random;
	struct ledger *members[MEMBERS]; /* NULL: not there. The first never goes */
	struct page pages[PAGES];
	uint64_t limit;
	uint64_t before; /* committed before the operation */
	bool collected;	 /* nobody has died since the last collection of all */
};

static uint64_t held_by(const struct model *model, int who)
{
	uint64_t pages = 0;

	for (int i = 0; i < PAGES; i++)
		pages += model->pages[i].holders >> who & 1;
	return pages;
}

static uint64_t held_at_all(const struct model *model)
{
	uint64_t pages = 0;

	for (int i = 0; i < PAGES; i++)
		pages += model->pages[i].holders != 0;
	return pages;
}

static void forget_member(struct model *model, int who)
{
	model->members[who] = NULL;
	for (int i = 0; i < PAGES; i++)
		model->pages[i].holders &= ~(1U << who);
}

/* A member that is there, or with @absent one that is not; -1: none. */
static int pick(struct model *model, bool absent, int first)
{
	const int start = (int)random_below(&model->random, MEMBERS);

	for (int i = 0; i < MEMBERS; i++) {
		const int who = (start + i) % MEMBERS;

		if (who >= first && (model->members[who] == NULL) == absent)
			return who;
	}
	return -1;
}

static void do_join(struct model *model)
{
	const int who = pick(model, true, 1);
	const char *why;
	struct ledger *joined;

	if (who < 0)
		return;
	const int error = ledger_join(ledger_descriptor(model->members[0]), &joined, &why);
	if (error == 0)
		model->members[who] = joined;
	else
		assert_int_equal(error, -ENOMEM); /* the page of its slot is over the limit */
}

static void do_end(struct model *model, bool dies)
{
	const int who = pick(model, false, 1);

	if (who < 0)
		return;
	if (dies) {
		case_die(model->members[who]);
		model->collected = false;
	} else {
		ledger_leave(model->members[who]);
	}
	forget_member(model, who);
}

static void do_commit(struct model *model)
{
	const int who = pick(model, false, 0);
	const uint64_t pages = 1 + random_below(&model->random, MOST_AT_ONCE);
	const uint64_t floor = random_below(&model->random, 3) == 0 ? random_below(&model->random, 40) : 0;
	const int error = ledger_commit(model->members[who], pages, floor);
	uint64_t left = pages;

	if (error != 0) {
		assert_int_equal(error, -ENOMEM);
		assert_true(case_look(model->members[0]).committed_pages + pages + floor > model->limit);
		return;
	}
	assert_true(case_look(model->members[0]).committed_pages + floor <= model->limit);
	for (int i = 0; i < PAGES && left > 0; i++)
		if (model->pages[i].holders == 0) {
			model->pages[i] = (struct page){1U << who, ledger_epoch(model->members[who])};
			left--;
		}
	assert_int_equal(left, 0); /* else the table is too small for the limit */
}

/* Some of the pages of one epoch. */
static void do_uncommit(struct model *model)
{
	const int who = pick(model, false, 0);
	const int start = (int)random_below(&model->random, PAGES);
	uint64_t most = 1 + random_below(&model->random, MOST_AT_ONCE);
	uint64_t pages = 0;
	uint32_t epoch = 0;

	for (int i = 0; i < PAGES && pages < most; i++) {
		struct page *page = &model->pages[(start + i) % PAGES];

		if (!(page->holders >> who & 1) || (pages > 0 && page->epoch != epoch))
			continue;
		epoch = page->epoch;
		page->holders &= ~(1U << who);
		pages++;
	}
	ledger_uncommit(model->members[who], pages, epoch);
}

static void do_fork(struct model *model)
{
	const int parent_index = pick(model, false, 0);
	const int child_index = pick(model, true, 1);
	struct ledger *parent, *child;
	const char *why;

	if (child_index < 0)
		return;
	parent = model->members[parent_index];
	assert_int_equal(ledger_open_view(ledger_descriptor(parent), true, &child, &why), 0);
	ledger_fork_prepare(parent, held_by(model, parent_index));
	if (parent->child_shared == NULL) { /* no slot: over the limit */
		ledger_leave(child);
		return;
	}
	/* The child's memory: the same, but that its first mapping (here the view's) is not its parent's. */
	struct ledger *const own = child;
	struct ledger copy = *parent;
	copy.shared = own->shared;
	copy.slots = own->slots;
	copy.fd = own->fd;
	*child = copy;
	parent->child_shared = NULL; /* dropped in the parent's address space, kept in the child's */
	ledger_fork_parent(parent, 1);
	ledger_fork_child(child);
	model->members[child_index] = child;
	for (int i = 0; i < PAGES; i++)
		model->pages[i].holders |= (model->pages[i].holders >> parent_index & 1) << child_index;
}

static void do_limit(struct model *model)
{
	model->limit = random_below(&model->random, 4) == 0 ? random_below(&model->random, FIRST_LIMIT)
							    : FIRST_LIMIT + random_below(&model->random, 100);
	ledger_set_limit(model->members[pick(model, false, 0)], model->limit);
}

static void do_collect(struct model *model)
{
	(void)ledger_collect_dead(model->members[pick(model, false, 0)], true);
	model->collected = true;
}

static void check(struct model *model)
{
	const struct ledger_view view = case_look(model->members[0]);
	const uint64_t charged = view.committed_pages - view.own_pages;
	uint64_t most = 0;

	assert_int_equal(ledger_check_books(model->members[0]), 0); /* L2 */
	/* L1; what was over a lowered limit before may still be */
	assert_true(view.committed_pages <= view.limit_pages || view.committed_pages <= model->before);
	model->before = view.committed_pages;
	assert_true(view.peak_pages >= view.committed_pages);
	assert_true(held_at_all(model) <= charged);
	if (model->collected) {
		for (int who = 0; who < MEMBERS; who++)
			most += held_by(model, who);
		assert_true(charged <= most);
	}
}

static void step(struct model *model)
{
	switch (random_below(&model->random, 16)) {
	case 0:
	case 1:
		do_join(model);
		break;
	case 2:
		do_end(model, false);
		break;
	case 3:
		do_end(model, true);
		break;
	case 4:
		do_collect(model);
		break;
	case 5:
	case 6:
		do_fork(model);
		break;
	case 7:
		do_limit(model);
		break;
	case 8:
	case 9:
	case 10:
	case 11:
		do_uncommit(model);
		break;
	default:
		do_commit(model);
		break;
	}
}

static void a_ledger_and_the_obvious_one_agree(void **state)
{
	static struct model model;

	(void)state;
	model.random.state = random_seed("a_ledger_and_the_obvious_one_agree");
	model.limit = FIRST_LIMIT;
	model.members[0] = case_create(model.limit);
	model.collected = true;
	for (int i = 0; i < STEPS; i++) {
		step(&model);
		check(&model);
	}
	for (int who = 1; who < MEMBERS; who++)
		if (model.members[who] != NULL) {
			ledger_leave(model.members[who]);
			forget_member(&model, who);
		}
	/* Alone: every figure is exact again. */
	(void)ledger_collect_dead(model.members[0], true);
	assert_int_equal(case_charged(model.members[0]), held_by(&model, 0));
	ledger_leave(model.members[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ledger_and_the_obvious_one_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
