/*
 * Several attachments, several threads in each, all at one limit that is too small for them: the limit holds at every
 * instant that anybody looks, no page is lost or made, and ThreadSanitizer sees no race.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/ledger_case.h"
#include "support/random.h"

#include <pthread.h>

#if HF_TSAN || HF_ASAN
enum { ROUNDS = 8000 };
#else
enum { ROUNDS = 60000 };
#endif
enum { ATTACHMENTS = 4, THREADS_EACH = 2, LIMIT = 500, MOST_AT_ONCE = 60, GUEST_ROUNDS = ROUNDS / 50, GUESTS = 2 };

static struct ledger *attachments[ATTACHMENTS];
static struct ledger *watch;
static _Atomic uint64_t granted_pages, given_back_pages, refusals;
static _Atomic bool finished;

struct worker {
	pthread_t thread;
	struct ledger *ledger;
	struct random random;
};

static void *work(void *context)
{
	struct worker *worker = context;
	uint64_t held = 0;

	for (int i = 0; i < ROUNDS; i++) {
		const uint64_t pages = 1 + random_below(&worker->random, MOST_AT_ONCE);

		if (random_below(&worker->random, 2) == 0) {
			if (ledger_commit(worker->ledger, pages, random_below(&worker->random, 20)) == 0) {
				held += pages;
				atomic_fetch_add(&granted_pages, pages);
			} else {
				atomic_fetch_add(&refusals, 1);
				ledger_note_refusal(worker->ledger, pages);
			}
		} else if (held >= pages) {
			held -= pages;
			atomic_fetch_add(&given_back_pages, pages);
			ledger_uncommit(worker->ledger, pages, ledger_epoch(worker->ledger));
		}
		if (i % 1000 == 0)
			(void)ledger_collect_dead(worker->ledger, true);
	}
	atomic_fetch_add(&given_back_pages, held);
	ledger_uncommit(worker->ledger, held, ledger_epoch(worker->ledger));
	return NULL;
}

/* Comes, takes something, and goes again or dies: slots are claimed, collected and used again all the time. */
static void *visit(void *context)
{
	struct worker *worker = context;

	for (int i = 0; i < GUEST_ROUNDS; i++) {
		struct ledger *guest;
		const char *why;

		if (ledger_join(ledger_descriptor(watch), &guest, &why) != 0)
			continue; /* no room for the page of its slot */
		(void)!ledger_commit(guest, 1 + random_below(&worker->random, MOST_AT_ONCE), 0);
		if (random_below(&worker->random, 2) == 0)
			case_die(guest);
		else
			ledger_leave(guest);
	}
	return NULL;
}

static void *look(void *context)
{
	uint64_t looks = 0;

	while (!atomic_load(&finished)) {
		const struct ledger_view view = case_look(watch);
		struct ledger_member member;

		CASE_CHECK(view.committed_pages <= LIMIT); /* L1 */
		CASE_CHECK(view.peak_pages <= LIMIT);
		for (uint32_t i = 0; i < view.slots_high; i++)
			if (ledger_look_member(watch, i, &member))
				CASE_CHECK(member.committed_pages <= LIMIT);
		looks++;
	}
	*(uint64_t *)context = looks;
	return NULL;
}

static void the_limit_holds_whoever_commits(void **state)
{
	struct worker workers[ATTACHMENTS * THREADS_EACH], visitors[GUESTS];
	struct random random = {random_seed("the_limit_holds_whoever_commits")};
	uint64_t looks = 0;
	pthread_t looker;

	(void)state;
	watch = case_create(LIMIT);
	for (int i = 0; i < ATTACHMENTS; i++)
		attachments[i] = case_join(watch);
	CASE_CHECK(pthread_create(&looker, NULL, look, &looks) == 0);
	for (int i = 0; i < ATTACHMENTS * THREADS_EACH; i++) {
		workers[i].ledger = attachments[i % ATTACHMENTS];
		workers[i].random.state = random_next(&random);
		CASE_CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
	}
	for (int i = 0; i < GUESTS; i++) {
		visitors[i].random.state = random_next(&random);
		CASE_CHECK(pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]) == 0);
	}
	for (int i = 0; i < ATTACHMENTS * THREADS_EACH; i++)
		CASE_CHECK(pthread_join(workers[i].thread, NULL) == 0);
	for (int i = 0; i < GUESTS; i++)
		CASE_CHECK(pthread_join(visitors[i].thread, NULL) == 0);
	atomic_store(&finished, true);
	CASE_CHECK(pthread_join(looker, NULL) == 0);

	(void)ledger_collect_dead(watch, true);
	printf("%llu pages granted, %llu refusals, %llu looks\n", (unsigned long long)granted_pages,
		(unsigned long long)refusals, (unsigned long long)looks);
	assert_int_equal(granted_pages, given_back_pages);
	assert_int_equal(ledger_check_books(watch), 0);
	assert_int_equal(case_charged(watch), 0);
	assert_int_equal(case_look(watch).refusals, refusals);
	assert_int_equal(case_slots_taken(watch), 1 + ATTACHMENTS);
	/* The test has tested nothing if the limit was never felt. */
	assert_true(refusals > 0);
	assert_true(looks > 0);
	for (int i = 0; i < ATTACHMENTS; i++)
		ledger_leave(attachments[i]);
	ledger_leave(watch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_limit_holds_whoever_commits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
