/*
 * What tests of the ledger have in common: attaching to one, and asking whether its books are right.
 */
#ifndef HF_TESTS_SUPPORT_LEDGER_CASE_H
#define HF_TESTS_SUPPORT_LEDGER_CASE_H

#include "ledger/internal.h"
#include "ledger/ledger.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Also in children, where cmocka's assertions must not be used: says where, and ends the process. */
#define CASE_CHECK(condition)                                                                                          \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: pid %d: not so: %s\n", __FILE__, __LINE__, (int)getpid(), #condition); \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

static inline struct ledger *case_create(uint64_t limit_pages)
{
	const struct ledger_spec spec = {.name = "test", .limit_pages = limit_pages};
	struct ledger *ledger = NULL;
	const int error = ledger_create(&spec, &ledger);

	if (error != 0)
		fprintf(stderr, "ledger_create: %s\n", strerror(-error));
	CASE_CHECK(error == 0);
	return ledger;
}

/* One more attachment to the same ledger. */
static inline struct ledger *case_join(struct ledger *ledger)
{
	const char *why = "";
	struct ledger *other = NULL;
	const int error = ledger_join(ledger_descriptor(ledger), &other, &why);

	if (error != 0)
		fprintf(stderr, "ledger_join: %s: %s\n", strerror(-error), why);
	CASE_CHECK(error == 0);
	return other;
}

/*
 * What the kernel does at the attachment's death: its mapping goes, and with it the lock. Nothing is given back.
 */
static inline void case_die(struct ledger *ledger)
{
	ledger->is_view = true;
	ledger_leave(ledger);
}

static inline struct ledger_view case_look(const struct ledger *ledger)
{
	struct ledger_view view;

	ledger_look(ledger, &view);
	return view;
}

/* Committed by processes: without the pages of the ledger's own file. */
static inline uint64_t case_charged(const struct ledger *ledger)
{
	const struct ledger_view view = case_look(ledger);

	return view.committed_pages - view.own_pages;
}

/* Slots in use, but for the file's own: members, the dead that nobody has collected, families. */
static inline unsigned case_slots_taken(const struct ledger *ledger)
{
	const struct ledger_view view = case_look(ledger);
	struct ledger_member member;
	unsigned taken = 0;

	for (uint32_t i = 1; i < view.slots_high; i++)
		taken += ledger_look_member(ledger, i, &member);
	return taken;
}

/* For the message of a failed test. */
static inline void case_print(const struct ledger *ledger)
{
	static const char *const kinds[] = {"free", "claimed", "live", "family", "dead", "own"};
	const struct ledger_view view = case_look(ledger);
	struct ledger_member member;

	fprintf(stderr, "committed %llu, own %llu, limit %llu, members %u, books off by %lld\n",
		(unsigned long long)view.committed_pages, (unsigned long long)view.own_pages,
		(unsigned long long)view.limit_pages, view.members, (long long)ledger_check_books(ledger));
	for (uint32_t i = 0; i < view.slots_high; i++)
		if (ledger_look_member(ledger, i, &member))
			fprintf(stderr, "  slot %u: %s, pid %d, committed %llu, holds %llu inherited\n", i,
				kinds[member.kind], (int)member.pid, (unsigned long long)member.committed_pages,
				(unsigned long long)member.inherited_pages);
}

#endif
