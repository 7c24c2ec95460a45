/* Every request of a workload is made to fail in turn; after each the object lists are whole and the books balance. */
#include "heap/heap.h"
#include "ledger/ledger.h"
#include "pool/pool.h"
#include "probe/probe.h"

#include <holdfast/holdfast.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { OBJECTS = 40 };

struct node {
	struct node *next;
	unsigned char *payload;
	size_t bytes;
};

static void node_free(struct node *node)
{
	if (node)
		hf_free(node->payload);
	hf_free(node);
}

/* Builds a list with every kind of request. 0, or -1 with nothing left behind. */
static int workload(void)
{
	struct node *list = NULL;
	int result = -1;

	for (size_t i = 0; i < OBJECTS; i++) {
		struct node *node = i % 2 ? hf_zalloc(sizeof *node, HF_RETRY)
					  : hf_alloc_array(1, sizeof *node, HF_NORETRY | HF_ZERO);

		if (!node)
			goto out;
		node->next = list;
		list = node;
		node->bytes = (i * 37 + 100) * (i * 11 + 1);
		node->payload = i % 3 ? hf_alloc(node->bytes, HF_ATOMIC) : hf_alloc_aligned(256, node->bytes, HF_RETRY);
		if (!node->payload)
			goto out;
		memset(node->payload, (int)i, node->bytes);
		unsigned char *larger = hf_realloc(node->payload, node->bytes * 3 + 16, HF_RETRY);
		if (!larger)
			goto out; /* the old one is still the list's */
		node->payload = larger;
		assert_int_equal(larger[0], (unsigned char)i);
		assert_int_equal(larger[node->bytes - 1], (unsigned char)i);
	}
	result = 0;
out:
	while (list) {
		struct node *next = list->next;

		node_free(list);
		list = next;
	}
	return result;
}

static size_t live_bytes(void)
{
	struct hf_stats stats = {.struct_bytes = sizeof stats};

	assert_int_equal(hf_stats_get(&stats), 0);
	return stats.live_bytes;
}

static void check_books(size_t live_before)
{
	assert_int_equal(live_bytes(), live_before);
	pool_check();
	heap_check();
	assert_int_equal(ledger_check_books(pool_ledger()), 0);
}

static void every_request_can_fail_and_the_books_balance(void **state)
{
	unsigned n;

	(void)state;
	assert_int_equal(workload(), 0);
	const size_t live_before = live_bytes();
	for (n = 1;; n++) {
		hf_fault_fail_nth(n);
		const int result = workload();
		const bool fired = hf_fault_fired();
		hf_fault_off();
		assert_int_equal(result, fired ? -1 : 0);
		check_books(live_before);
		if (!fired)
			break;
	}
	/* Each of the objects asks three times: none may have been missed by the sweep. */
	assert_int_equal(n, 3 * OBJECTS + 1);
}

/* One commit is denied: the next attempt, somewhere on the way, succeeds. */
static void every_commit_can_be_denied_and_the_books_balance(void **state)
{
	struct probe_settings settings;
	unsigned n;

	(void)state;
	probe_settings_default(&settings);
	settings.deny_commits = true;
	assert_int_equal(workload(), 0);
	const size_t live_before = live_bytes();
	probe_configure(&settings);
	for (n = 1;; n++) {
		(void)hf_trim(); /* so that there is something to commit */
		hf_fault_fail_nth(n);
		const int result = workload();
		const bool fired = hf_fault_fired();
		hf_fault_off();
		(void)result; /* either is right */
		check_books(live_before);
		if (!fired)
			break;
	}
	probe_settings_default(&settings);
	probe_configure(&settings);
	assert_true(n > OBJECTS); /* the larger ones commit something each */
}

/* From a certain commit on all are denied, as at the limit. */
static void all_commits_from_any_one_on_can_be_denied(void **state)
{
	enum { STEP_BYTES = 100 * 1024 };
	struct probe_settings settings;
	unsigned failed = 0, rounds = 0;
	uint64_t injected_before;

	(void)state;
	assert_int_equal(workload(), 0);
	const size_t live_before = live_bytes();
	do {
		injected_before = probe_injected();
		(void)hf_trim();
		probe_settings_default(&settings);
		settings.deny_commits = true;
		settings.probability_percent = 100;
		settings.times = -1;
		settings.space_bytes = 1 + (uint64_t)rounds * STEP_BYTES;
		probe_configure(&settings);
		failed += workload() != 0;
		probe_settings_default(&settings);
		probe_configure(&settings);
		check_books(live_before);
		rounds++;
	} while (probe_injected() != injected_before);
	assert_true(failed > 10);
	assert_true(failed < rounds);
}

static void a_failed_request_says_enomem_and_is_not_counted_as_refused(void **state)
{
	struct hf_stats before = {.struct_bytes = sizeof before}, after = {.struct_bytes = sizeof after};

	(void)state;
	assert_int_equal(hf_stats_get(&before), 0);
	hf_fault_fail_nth(1);
	assert_false(hf_fault_fired());
	errno = 0;
	assert_null(hf_alloc(16, HF_RETRY));
	assert_int_equal(errno, ENOMEM);
	assert_true(hf_fault_fired());
	void *object = hf_alloc(16, HF_RETRY); /* one shot */
	assert_non_null(object);
	hf_free(object);
	hf_fault_off();
	assert_int_equal(hf_stats_get(&after), 0);
	assert_int_equal(after.faults_injected, before.faults_injected + 1);
	assert_int_equal(after.process_refusals, before.process_refusals);
}

static void *allocate_a_hundred(void *failures)
{
	for (int i = 0; i < 100; i++) {
		void *object = hf_alloc(100, HF_RETRY);

		*(int *)failures += object == NULL;
		hf_free(object);
	}
	return NULL;
}

static void another_thread_is_not_made_to_fail(void **state)
{
	pthread_t thread;
	int failures = 0;

	(void)state;
	hf_fault_fail_nth(1);
	assert_int_equal(pthread_create(&thread, NULL, allocate_a_hundred, &failures), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(failures, 0);
	assert_false(hf_fault_fired());
	assert_null(hf_alloc(10, HF_RETRY));
	assert_true(hf_fault_fired());
	hf_fault_off();
}

static void *arm_and_end(void *unused)
{
	hf_fault_fail_nth(1000);
	return unused;
}

static void a_thread_that_ends_armed_leaves_nothing_armed(void **state)
{
	pthread_t thread;

	(void)state;
	assert_false(probe_is_armed());
	assert_int_equal(pthread_create(&thread, NULL, arm_and_end, NULL), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_false(probe_is_armed());
}

int main(void)
{
	const struct hf_config config = {
		.struct_bytes = sizeof config, .budget_bytes = 64 << 20, .ignore_environment = true};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_can_fail_and_the_books_balance),
		cmocka_unit_test(every_commit_can_be_denied_and_the_books_balance),
		cmocka_unit_test(all_commits_from_any_one_on_can_be_denied),
		cmocka_unit_test(a_failed_request_says_enomem_and_is_not_counted_as_refused),
		cmocka_unit_test(another_thread_is_not_made_to_fail),
		cmocka_unit_test(a_thread_that_ends_armed_leaves_nothing_armed),
	};

	if (hf_init(&config) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
