/* The lock under threads, across fork, and, in debug builds, its order. */
#include "base/compiler.h"
#include "os/lock.h"
#include "os/os.h"
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

enum { THREADS = 8, ROUNDS = 50000 };

static struct lock outer = LOCK_INIT(LOCK_RANK_HEAPS), inner = LOCK_INIT(LOCK_RANK_POOL);
static uint64_t counter; /* under inner; not atomic: TSan sees it if the lock does not order its changes */
static uint64_t tries_lost;

static void *count_up(void *context)
{
	const bool sleeps = context != NULL;

	for (int i = 0; i < ROUNDS; i++) {
		lock_take(&inner);
		counter++;
		if (sleeps && i % 64 == 0)
			os_yield(); /* so that the others spin in vain, and sleep */
		lock_put(&inner);
	}
	return NULL;
}

static void *try_to_count_up(void *context)
{
	uint64_t lost = 0;

	for (int i = 0; i < ROUNDS; i++) {
		if (!lock_try_take(&inner)) {
			lost++;
			continue;
		}
		counter++;
		lock_put(&inner);
	}
	lock_take(&inner);
	tries_lost += lost;
	lock_put(&inner);
	return context;
}

static void *count_up_nested(void *context)
{
	for (int i = 0; i < ROUNDS; i++) {
		lock_take(&outer);
		lock_take(&inner);
		counter++;
		lock_put(&outer); /* they may be put in any order */
		lock_put(&inner);
	}
	return context;
}

static void run_threads(void *(*body)(void *context), void *context)
{
	pthread_t threads[THREADS];

	counter = 0;
	tries_lost = 0;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, body, context), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(outer.state, 0);
	assert_int_equal(inner.state, 0);
}

static void one_thread_at_a_time_has_it(void **state)
{
	(void)state;
	run_threads(count_up, NULL);
	assert_int_equal(counter, THREADS * ROUNDS);
}

static void sleepers_are_woken(void **state)
{
	(void)state;
	run_threads(count_up, &counter);
	assert_int_equal(counter, THREADS * ROUNDS);
}

static void a_try_gets_it_or_not(void **state)
{
	(void)state;
	run_threads(try_to_count_up, NULL);
	assert_int_equal(counter + tries_lost, THREADS * ROUNDS);
}

static void two_locks_nest(void **state)
{
	(void)state;
	run_threads(count_up_nested, NULL);
	assert_int_equal(counter, THREADS * ROUNDS);
}

static void a_taken_lock_is_not_had_by_trying(void **state)
{
	struct lock lock;

	(void)state;
	lock_init(&lock, LOCK_RANK_LEDGER);
	lock_take(&lock);
	assert_int_equal(lock.state, 1);
	assert_true(lock_is_mine(&lock));
	lock_put(&lock);
	assert_true(lock_try_take(&lock));
	lock_put(&lock);
	assert_int_equal(lock.state, 0);
	assert_false(lock_any_held());
}

/* ---- fork ---- */

static _Atomic uint32_t stage; /* 1: the holder has it; 2: it may let go */

static void *hold(void *context)
{
	lock_take(&inner);
	atomic_store(&stage, 1);
	while (atomic_load(&stage) != 2)
		os_yield();
	lock_put(&inner);
	return context;
}

static int take_after_reset(void *context)
{
	(void)context;
	if (lock_try_take(&inner))
		return 1; /* the holder was copied with it */
	lock_reset_after_fork(&inner);
	lock_take(&inner);
	lock_put(&inner);
	return lock_any_held() ? 2 : 0;
}

static void a_child_frees_what_a_thread_of_the_parent_held(void **state)
{
	pthread_t holder;

	(void)state;
	assert_int_equal(pthread_create(&holder, NULL, hold, NULL), 0);
	while (atomic_load(&stage) != 1)
		os_yield();
	assert_int_equal(child_check(take_after_reset, NULL), 0);
	atomic_store(&stage, 2);
	assert_int_equal(pthread_join(holder, NULL), 0);
}

/* ---- the order, which debug builds check ---- */

#ifdef HF_DEBUG
static bool dies_saying(int (*body)(void *context), const char *expected)
{
	char text[1024];
	const int status = child_run(body, NULL, text, sizeof text);

	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, expected)) {
		print_message("status %d: %s\n", status, text);
		return false;
	}
	return true;
}

static int take_in_falling_rank(void *context)
{
	(void)context;
	lock_take(&inner);
	lock_take(&outer);
	return 0;
}

static int try_in_falling_rank(void *context)
{
	(void)context;
	lock_take(&inner);
	return lock_try_take(&outer) ? 0 : 1;
}

static int take_twice(void *context)
{
	(void)context;
	lock_take(&inner);
	lock_take(&inner);
	return 0;
}

static int take_another_of_its_rank(void *context)
{
	struct lock lock;

	(void)context;
	lock_init(&lock, inner.rank);
	lock_take(&inner);
	lock_take(&lock);
	return 0;
}

static int put_what_is_not_held(void *context)
{
	(void)context;
	lock_put(&inner);
	return 0;
}

static int take_without_rank(void *context)
{
	static struct lock lock; /* nobody has initialised it */

	(void)context;
	lock_take(&lock);
	return 0;
}

static void a_wrong_order_dies_with_a_message(void **state)
{
	(void)state;
	assert_true(dies_saying(take_in_falling_rank, "ranks_held >> lock->rank == 0 (left "));
	assert_true(dies_saying(try_in_falling_rank, "ranks_held >> lock->rank == 0 (left "));
	assert_true(dies_saying(take_twice, "ranks_held >> lock->rank == 0 (left 1, right 0)"));
	assert_true(dies_saying(take_another_of_its_rank, "ranks_held >> lock->rank == 0 (left 1, right 0)"));
	assert_true(dies_saying(put_what_is_not_held, "ranks_held >> lock->rank & 1 == 1 (left 0, right 1)"));
	assert_true(dies_saying(take_without_rank, "lock->rank > LOCK_RANK_NONE (left 0, right 0)"));
}

static void the_holder_is_known(void **state)
{
	(void)state;
	assert_false(lock_any_held());
	assert_false(lock_is_mine(&inner));
	lock_take(&outer);
	lock_take(&inner);
	assert_true(lock_is_mine(&inner));
	assert_true(lock_is_mine(&outer));
	lock_put(&outer);
	assert_false(lock_is_mine(&outer));
	assert_true(lock_any_held());
	lock_put(&inner);
	assert_false(lock_any_held());
	/* A failed try leaves nothing noted. */
	atomic_store(&inner.state, 1);
	assert_false(lock_try_take(&inner));
	assert_false(lock_any_held());
	atomic_store(&inner.state, 0);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_thread_at_a_time_has_it),
		cmocka_unit_test(sleepers_are_woken),
		cmocka_unit_test(a_try_gets_it_or_not),
		cmocka_unit_test(two_locks_nest),
		cmocka_unit_test(a_taken_lock_is_not_had_by_trying),
		cmocka_unit_test(a_child_frees_what_a_thread_of_the_parent_held),
#ifdef HF_DEBUG
		cmocka_unit_test(a_wrong_order_dies_with_a_message),
		cmocka_unit_test(the_holder_is_known),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
