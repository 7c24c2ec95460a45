/* What everything stands on: messages, checks, lists, the pair that changes as one. */
#include "base/assert.h"
#include "base/compiler.h"
#include "base/list.h"
#include "base/pair.h"
#include "support/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* ---- messages and checks ---- */

static char text[2048];

/* Did it die by abort, as a failed check does? Its message is in text. */
static bool aborts(int (*body)(void *context), void *context)
{
	const int status = child_run(body, context, text, sizeof text);

	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static int die(void *context)
{
	base_die("%s is %d", (const char *)context, 12);
}

static void dying_says_why_and_aborts(void **state)
{
	(void)state;
	assert_true(aborts(die, "the number"));
	assert_string_equal(text, "holdfast: the number is 12\n");
}

static int verify_idle(void *context)
{
	const uint64_t idle_chunks = *(uint64_t *)context, reserved_chunks = 7;

	HF_VERIFY_OP(idle_chunks, >=, reserved_chunks);
	return 0;
}

static void a_failed_check_prints_both_operands(void **state)
{
	uint64_t idle_chunks = 7;

	(void)state;
	assert_int_equal(child_run(verify_idle, &idle_chunks, text, sizeof text), 0);
	assert_string_equal(text, "");
	idle_chunks = 6;
	assert_true(aborts(verify_idle, &idle_chunks));
	assert_non_null(strstr(text, "holdfast: internal check failed at "));
	assert_non_null(strstr(text, "test_base.c:"));
	assert_non_null(strstr(text, "idle_chunks >= reserved_chunks (left 6, right 7)\n"));
}

static int verify_true(void *context)
{
	HF_VERIFY(*(bool *)context);
	return 0;
}

static void a_failed_condition_is_named(void **state)
{
	bool yes = true, no = false;

	(void)state;
	assert_int_equal(child_run(verify_true, &yes, text, sizeof text), 0);
	assert_true(aborts(verify_true, &no));
	assert_non_null(strstr(text, "*(bool *)context"));
}

static int assert_zero(void *context)
{
	int looked = 0;

	HF_ASSERT(*(int *)context + looked++ == 0);
	HF_ASSERT_OP(*(int *)context + looked++, ==, 0);
	return looked;
}

static void asserts_are_for_debug_builds(void **state)
{
	int one = 1;

	(void)state;
#ifdef HF_DEBUG
	assert_true(aborts(assert_zero, &one));
#else
	assert_int_equal(child_run(assert_zero, &one, text, sizeof text), 0); /* 0: not even evaluated */
#endif
}

static int twice(void *context)
{
	int looked = 0;

	(void)context;
	HF_VERIFY_OP(looked++, ==, 0);
	HF_VERIFY(looked++ == 1);
	return looked == 2 ? 0 : 1;
}

static void operands_are_evaluated_once(void **state)
{
	(void)state;
	assert_int_equal(child_run(twice, NULL, text, sizeof text), 0);
}

static int warn(void *message)
{
	base_warn("%s %d", (const char *)message, 5);
	return 0;
}

static int warn_with_end(void *context)
{
	(void)context;
	base_warn("with its own end\n");
	return 0;
}

static int warn_nobody(void *context)
{
	(void)context;
	base_set_writer(NULL);
	base_warn("nobody hears this");
	return 0;
}

static int warn_long(void *message)
{
	base_warn("%s", (const char *)message);
	return 0;
}

static void a_message_is_one_line(void **state)
{
	(void)state;
	assert_int_equal(child_run(warn, "with", text, sizeof text), 0);
	assert_string_equal(text, "holdfast: with 5\n");
	assert_int_equal(child_run(warn_with_end, NULL, text, sizeof text), 0);
	assert_string_equal(text, "holdfast: with its own end\n");
	assert_int_equal(child_run(warn_nobody, NULL, text, sizeof text), 0);
	assert_string_equal(text, "");
}

static void a_long_message_is_cut_to_a_line(void **state)
{
	char message[1024];

	(void)state;
	for (size_t length = 495; length <= 510; length++) { /* around the 511 bytes that fit */
		const size_t whole = strlen("holdfast: ") + length + 1;

		memset(message, 'x', length);
		message[length] = '\0';
		assert_int_equal(child_run(warn_long, message, text, sizeof text), 0);
		assert_int_equal(strlen(text), whole < 511 ? whole : 511);
		assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	}
}

/* ---- lists ---- */

struct node {
	int number;
	struct list link;
};

/* The numbers of a list, forwards, as one decimal number; -1 if its links do not agree. */
static int numbers(const struct list *head)
{
	int sum = 0;

	for (const struct list *at = head->next; at != head; at = at->next) {
		if (at->next->prev != at || at->prev->next != at)
			return -1;
		sum = sum * 10 + HF_CONTAINER_OF(at, struct node, link)->number;
	}
	return sum;
}

static void a_list_keeps_its_order(void **state)
{
	struct node nodes[5];
	struct list head;

	(void)state;
	for (int i = 0; i < 5; i++)
		nodes[i].number = i + 1;
	list_init(&head);
	assert_true(list_is_empty(&head));
	list_add_last(&head, &nodes[0].link);
	assert_false(list_is_empty(&head));
	list_add_last(&head, &nodes[1].link);
	list_add_first(&head, &nodes[2].link);
	list_add_after(&nodes[0].link, &nodes[3].link);
	assert_int_equal(numbers(&head), 3142);
	list_remove(&nodes[0].link);
	assert_int_equal(numbers(&head), 342);
	list_remove(&nodes[0].link); /* again: no harm */
	assert_int_equal(numbers(&head), 342);
	list_remove(&nodes[2].link);
	list_remove(&nodes[1].link);
	assert_int_equal(numbers(&head), 4);
	list_remove(&nodes[3].link);
	assert_true(list_is_empty(&head));
}

/* ---- the pair ---- */

static void a_pair_changes_only_from_what_was_expected(void **state)
{
	union pair_atomic at = {.words = {.low = 1, .high = 2}};
	struct pair expected = {.low = 1, .high = 3};

	(void)state;
	assert_false(pair_cas(&at, &expected, (struct pair){9, 9}));
	assert_int_equal(expected.low, 1);
	assert_int_equal(expected.high, 2); /* what was found */
	expected.low = 0;
	assert_false(pair_cas(&at, &expected, (struct pair){9, 9}));
	assert_true(pair_cas(&at, &expected, (struct pair){.low = 3, .high = UINT64_MAX}));
	assert_int_equal(pair_read(&at).low, 3);
	assert_true(pair_read(&at).high == UINT64_MAX);
	assert_int_equal(pair_read_whole(&at).low, 3);
	assert_true(pair_read_whole(&at).high == UINT64_MAX);
	assert_int_equal(at.words.low, 3);
}

static void bits_and_halves_are_the_same_pair(void **state)
{
	const struct pair pair = {.low = 0x0123456789abcdef, .high = 0xfedcba9876543210};
	union pair_atomic at = {.words = pair};

	(void)state;
	assert_true(at.bits == pair_to_bits(pair));
	assert_true(pair_from_bits(at.bits).low == pair.low);
	assert_true(pair_from_bits(at.bits).high == pair.high);
	assert_int_equal(sizeof at, 16);
	assert_int_equal(_Alignof(union pair_atomic), 16);
}

enum { ROUNDS = 20000, WRITERS = 3 };
static union pair_atomic shared_pair;
static _Atomic bool writers_done;

static void *add_to_both(void *context)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct pair before = pair_read(&shared_pair);

		while (!pair_cas(&shared_pair, &before, (struct pair){before.low + 1, before.high + 3}))
			;
	}
	return context;
}

static void *read_whole(void *torn)
{
	while (!atomic_load(&writers_done)) {
		const struct pair pair = pair_read_whole(&shared_pair);

		if (pair.high != pair.low * 3)
			*(bool *)torn = true;
	}
	return NULL;
}

static void both_halves_move_together_under_threads(void **state)
{
	pthread_t writers[WRITERS], reader;
	bool torn = false;

	(void)state;
	assert_int_equal(pthread_create(&reader, NULL, read_whole, &torn), 0);
	for (int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&writers[i], NULL, add_to_both, NULL), 0);
	for (int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_join(writers[i], NULL), 0);
	atomic_store(&writers_done, true);
	assert_int_equal(pthread_join(reader, NULL), 0);
	assert_false(torn);
	assert_int_equal(pair_read(&shared_pair).low, WRITERS * ROUNDS);
	assert_int_equal(pair_read(&shared_pair).high, 3 * WRITERS * ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dying_says_why_and_aborts),
		cmocka_unit_test(a_failed_check_prints_both_operands),
		cmocka_unit_test(a_failed_condition_is_named),
		cmocka_unit_test(asserts_are_for_debug_builds),
		cmocka_unit_test(operands_are_evaluated_once),
		cmocka_unit_test(a_message_is_one_line),
		cmocka_unit_test(a_long_message_is_cut_to_a_line),
		cmocka_unit_test(a_list_keeps_its_order),
		cmocka_unit_test(a_pair_changes_only_from_what_was_expected),
		cmocka_unit_test(bits_and_halves_are_the_same_pair),
		cmocka_unit_test(both_halves_move_together_under_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
