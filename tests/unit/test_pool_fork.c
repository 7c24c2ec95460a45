/* The pool in forked and cloned children. */
#include "support/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

static struct chunk *chunks[MANY];

/* ---- fork ---- */

static int forked(void *context)
{
	struct pool_stats before;
	pid_t child;

	(void)context;
	start(16 << 10);
	for (unsigned i = 0; i < 40; i++) {
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
		memset(chunk_address(chunks[i]), (int)i, CHUNK_BYTES);
	}
	for (unsigned i = 0; i < 40; i += 4)
		pool_chunk_put(chunks[i]);
	before = stats();
	CHECK(before.idle_chunks > 0);
	pool_fork_prepare();
	const uint64_t held = pool_held_pages();
	ledger_fork_prepare(ledger, held);
	child = _Fork();
	if (child == 0) {
		struct pool_stats now;

		ledger_fork_child(ledger);
		pool_fork_child();
		CHECK(!pool_raw_clone_check());
		pool_check();
		pool_stats_get(&now);
		CHECK(now.idle_chunks == 0);
		CHECK(now.committed_pages == held);
		CHECK(ledger_committed_here(ledger) == 0);
		CHECK(*(char *)chunk_address(chunks[1]) == 1);
		CHECK(pool_chunk_grow(chunks[1], CHUNK_PAGES, 0) == 0); /* has all */
		pool_chunk_shrink(chunks[1], 4, 4);
		CHECK(pool_chunk_grow(chunks[1], CHUNK_PAGES, 0) == -EBUSY);
		for (unsigned i = 1; i < 40; i++)
			if (i % 4 != 0)
				pool_chunk_put(chunks[i]);
		pool_stats_get(&now);
		CHECK(now.idle_chunks == 0); /* not its own: given back at once */
		struct chunk *own = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
		for (unsigned i = 0; i < CHUNK_BYTES; i++)
			CHECK(((char *)chunk_address(own))[i] == 0);
		CHECK(ledger_committed_here(ledger) >= CHUNK_PAGES);
		pool_check();
		_exit(0);
	}
	ledger_fork_parent(ledger, child);
	pool_fork_parent(child);
	CHECK(stats().idle_chunks == before.idle_chunks);
	CHECK(child_wait(child) == 0);
	for (unsigned i = 0; i < 40; i++)
		if (i % 4 != 0)
			pool_chunk_put(chunks[i]);
	(void)ledger_collect_dead(ledger, true);
	(void)pool_trim(0);
	CHECK(stats().used_chunks == 0);
	struct ledger_view view;
	ledger_look(ledger, &view);
	CHECK(view.committed_pages == stats().committed_pages + view.own_pages);
	return 0;
}

static void a_forked_child_starts_with_nothing_idle(void **state)
{
	(void)state;
	assert_int_equal(child_check(forked, NULL), 0);
}

/* _Fork: the handlers that the whole library has registered would take locks before these. */
static pid_t fork_with_handlers(void)
{
	pool_fork_prepare();
	ledger_fork_prepare(ledger, pool_held_pages());
	const pid_t child = _Fork();
	if (child == 0) {
		ledger_fork_child(ledger);
		pool_fork_child();
	} else {
		ledger_fork_parent(ledger, child);
		pool_fork_parent(child);
	}
	return child;
}

/* What was idle at one fork and is used at the next is inherited, by a grandchild too. */
static int forked_twice(void *context)
{
	(void)context;
	start(16 << 10);
	for (unsigned i = 0; i < 40; i++)
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
	for (unsigned i = 0; i < 10; i++)
		pool_chunk_put(chunks[i]);
	for (int generation = 0; generation < 3; generation++) {
		pid_t child = fork_with_handlers();

		if (child == 0)
			_exit(0);
		CHECK(child_wait(child) == 0);
		for (unsigned i = 0; i < 10; i++) {
			chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
			memset(chunk_address(chunks[i]), (int)i + 1, CHUNK_BYTES);
		}
		child = fork_with_handlers();
		for (unsigned i = 0; i < 10; i++)
			CHECK(*((char *)chunk_address(chunks[i]) + CHUNK_BYTES - 1) == (char)(i + 1));
		if (child != 0) { /* the next generation goes on; we only wait for it */
			CHECK(child_wait(child) == 0);
			pool_check();
			return 0;
		}
		pool_check();
		for (unsigned i = 0; i < 10; i++)
			pool_chunk_put(chunks[i]);
		for (unsigned i = 0; i < 10; i++) {
			chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
			CHECK(chunks[i] != NULL);
		}
		for (unsigned i = 0; i < 10; i++)
			pool_chunk_put(chunks[i]);
		struct pool_stats now;
		pool_stats_get(&now);
		CHECK(now.idle_chunks > 0); /* its own now */
	}
	return 0;
}

static void what_was_idle_at_one_fork_is_inherited_at_the_next(void **state)
{
	(void)state;
	assert_int_equal(child_check(forked_twice, NULL), 0);
}

static int raw_clone(void *context)
{
	(void)context;
	start(16 << 10);
	for (unsigned i = 0; i < 40; i++)
		chunks[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
	memset(chunk_address(chunks[39]), 39, CHUNK_BYTES);
	for (unsigned i = 0; i < 20; i++)
		pool_chunk_put(chunks[i]);
	CHECK(!pool_raw_clone_check());
	const pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0) {
		struct pool_stats now;

		CHECK(pool_raw_clone_check());
		CHECK(!pool_raw_clone_check());
		pool_check();
		pool_stats_get(&now);
		CHECK(now.idle_chunks == 0);
		CHECK(now.used_chunks == 20);
		CHECK(*(char *)chunk_address(chunks[39]) == 39);
		CHECK(pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0) != NULL);
		pool_check();
		_exit(0);
	}
	CHECK(child_wait(child) == 0);
	CHECK(!pool_raw_clone_check());
	(void)stats();
	return 0;
}

static void a_raw_clone_is_noticed_and_put_in_order(void **state)
{
	(void)state;
	assert_int_equal(child_check(raw_clone, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_forked_child_starts_with_nothing_idle),
		cmocka_unit_test(what_was_idle_at_one_fork_is_inherited_at_the_next),
		cmocka_unit_test(a_raw_clone_is_noticed_and_put_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
