/*
 * fork, vfork and raw clone: the child can allocate and free, whatever the parent's threads were doing; what it
 * inherits is charged once; and when all children are gone, the books are as before.
 */
#include "heap/heap.h"
#include "ledger/ledger.h"
#include "pool/pool.h"

#include <holdfast/holdfast.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BUDGET_BYTES = 256 << 20, CHILD_SECONDS = 60, OBJECTS = 200 };

static struct hf_stats stats_now(void)
{
	struct hf_stats stats = {.struct_bytes = sizeof stats};

	if (hf_stats_get(&stats) != 0)
		abort();
	return stats;
}

static size_t committed_now(void)
{
	(void)ledger_collect_dead(pool_ledger(), true);
	return stats_now().committed_bytes;
}

static void check_books(void)
{
	assert_int_equal(ledger_check_books(pool_ledger()), 0);
}

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* Mostly small, some in slabs of their own, some spans. */
static size_t random_bytes(uint32_t *seed)
{
	const uint32_t kind = next_random(seed) % 100;

	return kind < 80   ? next_random(seed) % 1000
	       : kind < 97 ? next_random(seed) % 30000
			   : next_random(seed) % 400000;
}

/* Objects that come and go, each marked with its own slot; true: all were whole. */
struct churn {
	unsigned char *objects[OBJECTS];
	size_t bytes[OBJECTS];
	uint32_t seed;
};

static bool churn_step(struct churn *churn)
{
	const size_t i = next_random(&churn->seed) % OBJECTS;

	if (churn->objects[i]) {
		if (churn->objects[i][0] != (unsigned char)i ||
			churn->objects[i][churn->bytes[i] - 1] != (unsigned char)i)
			return false;
		hf_free(churn->objects[i]);
		churn->objects[i] = NULL;
		return true;
	}
	churn->bytes[i] = random_bytes(&churn->seed) + 1;
	churn->objects[i] = hf_alloc(churn->bytes[i], HF_RETRY);
	if (!churn->objects[i])
		return false;
	churn->objects[i][0] = churn->objects[i][churn->bytes[i] - 1] = (unsigned char)i;
	return true;
}

static bool churn_run(struct churn *churn, unsigned steps)
{
	while (steps--) {
		if (!churn_step(churn))
			return false;
	}
	return true;
}

static bool churn_end(struct churn *churn)
{
	bool whole = true;

	for (size_t i = 0; i < OBJECTS; i++) {
		if (churn->objects[i] && churn->objects[i][churn->bytes[i] - 1] != (unsigned char)i)
			whole = false;
		hf_free(churn->objects[i]);
		churn->objects[i] = NULL;
	}
	return whole;
}

static void assert_child_succeeds(pid_t pid)
{
	int status;

	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("child: wait status 0x%x (a hang ends by SIGALRM, %d)", (unsigned)status, SIGALRM);
}

static _Atomic bool stop_threads;

static void *churn_until_stopped(void *seed)
{
	struct churn churn = {.seed = (uint32_t)(uintptr_t)seed};
	bool whole = true;

	while (whole && !atomic_load(&stop_threads))
		whole = churn_run(&churn, 50);
	whole = churn_end(&churn) && whole;
	return whole ? NULL : (void *)1;
}

/* In the child: what was inherited is whole and can be freed, and new objects can be made. */
static int child_work(struct churn *inherited, unsigned steps)
{
	alarm(CHILD_SECONDS);
	if (!churn_run(inherited, steps) || !churn_end(inherited))
		return 1;
	struct churn own = {.seed = (uint32_t)getpid()};
	if (!churn_run(&own, steps) || !churn_end(&own))
		return 2;
	pool_check();
	return 0;
}

static void a_child_of_a_busy_threaded_program_can_allocate(void **state)
{
	enum { THREADS = 3, FORKS = 1500 };
	pthread_t threads[THREADS];
	struct churn churn = {.seed = 1};
	void *result;

	(void)state;
	atomic_store(&stop_threads, false);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn_until_stopped, (void *)(uintptr_t)(i + 2)), 0);
	for (int i = 0; i < FORKS; i++) {
		assert_true(churn_run(&churn, 20));
		const pid_t pid = fork();
		if (pid == 0)
			_exit(child_work(&churn, 60));
		assert_child_succeeds(pid);
	}
	atomic_store(&stop_threads, true);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_null(result);
	}
	assert_true(churn_end(&churn));
	(void)hf_trim();
	(void)committed_now();
	check_books();
	pool_check();
	heap_check();
	assert_int_equal(stats_now().processes, 1);
	/* Nobody holds anything: what is left is this process's, and little. */
	assert_true(stats_now().committed_bytes < 8 << 20);
}

static void *fork_until_stopped(void *failures)
{
	for (int i = 0; i < 200; i++) {
		struct churn churn = {.seed = (uint32_t)i + 77};
		int status = 0;
		const pid_t pid = fork();

		if (pid == 0)
			_exit(child_work(&churn, 40));
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
			atomic_fetch_add((_Atomic int *)failures, 1);
	}
	return NULL;
}

static void several_threads_can_fork_at_once(void **state)
{
	enum { THREADS = 4 };
	pthread_t threads[THREADS];
	_Atomic int failures = 0;

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fork_until_stopped, &failures), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(failures, 0);
	(void)committed_now();
	check_books();
	assert_int_equal(stats_now().processes, 1);
}

/* Each generation frees some of what it inherited, makes its own, and forks the next before and after. */
static int generations(struct churn *churn, int depth)
{
	int status;

	alarm(CHILD_SECONDS);
	if (!churn_run(churn, 100))
		return 1;
	if (depth == 0)
		return churn_end(churn) ? 0 : 2;
	for (int i = 0; i < 2; i++) {
		const pid_t pid = fork();

		if (pid == 0)
			_exit(generations(churn, depth - 1));
		if (pid < 0 || !churn_run(churn, 50))
			return 3;
		if (i == 1 && (waitpid(pid, &status, 0) != pid || status != 0))
			return 4; /* the first one is left to itself */
	}
	return churn_end(churn) ? 0 : 5;
}

static void generations_of_children_leave_balanced_books(void **state)
{
	struct churn churn = {.seed = 5};

	(void)state;
	assert_true(churn_run(&churn, 300));
	for (int i = 0; i < 20; i++) {
		const pid_t pid = fork();

		if (pid == 0)
			_exit(generations(&churn, 4));
		assert_true(churn_run(&churn, 50));
		assert_child_succeeds(pid);
		check_books();
	}
	while (waitpid(-1, NULL, 0) > 0)
		; /* those left to themselves have become ours */
	assert_true(churn_end(&churn));
	(void)committed_now();
	check_books();
	assert_int_equal(stats_now().processes, 1);
}

static void what_a_child_inherits_is_charged_once_until_the_last_holder_lets_go(void **state)
{
	enum { BYTES = 20 << 20 };
	int to_child[2], to_parent[2];
	char byte = 0;

	(void)state;
	assert_int_equal(pipe(to_child), 0);
	assert_int_equal(pipe(to_parent), 0);
	(void)hf_trim();
	const size_t before = committed_now();
	void *object = hf_alloc(BYTES, HF_RETRY);
	assert_non_null(object);
	memset(object, 1, BYTES);
	const pid_t pid = fork();
	if (pid == 0) {
		alarm(CHILD_SECONDS);
		if (read(to_child[0], &byte, 1) != 1)
			_exit(1);
		hf_free(object);
		if (write(to_parent[1], &byte, 1) != 1 || read(to_child[0], &byte, 1) != 1)
			_exit(2);
		_exit(0);
	}
	assert_true(committed_now() >= before + BYTES);
	assert_true(committed_now() < before + BYTES + (1 << 20)); /* once, and a few pages for the child's slot */
	hf_free(object);
	(void)hf_trim();
	assert_true(committed_now() >= before + BYTES); /* the child has it */
	assert_int_equal(write(to_child[1], &byte, 1), 1);
	assert_int_equal(read(to_parent[0], &byte, 1), 1);
	assert_true(committed_now() < before + (1 << 20)); /* it let go, and still lives */
	assert_int_equal(write(to_child[1], &byte, 1), 1);
	assert_child_succeeds(pid);
	assert_true(committed_now() < before + (1 << 20));
	check_books();
	for (int i = 0; i < 2; i++) {
		close(to_child[i]);
		close(to_parent[i]);
	}
}

static void a_child_at_the_limit_is_refused_and_goes_on(void **state)
{
	struct churn churn = {.seed = 9};
	void *chain = NULL, *object;

	(void)state;
	assert_true(churn_run(&churn, 200));
	while ((object = hf_alloc(1 << 20, HF_RETRY | HF_NOWARN))) {
		*(void **)object = chain;
		chain = object;
	}
	const pid_t pid = fork();
	if (pid == 0) {
		alarm(CHILD_SECONDS);
		errno = 0;
		if (hf_alloc(8 << 20, HF_RETRY | HF_NOWARN) != NULL || errno != ENOMEM)
			_exit(1);
		_exit(churn_end(&churn) ? 0 : 2);
	}
	assert_child_succeeds(pid);
	while (chain) {
		object = *(void **)chain;
		hf_free(chain);
		chain = object;
	}
	assert_true(churn_end(&churn));
	(void)committed_now();
	check_books();
}

static HF_NOINLINE pid_t vfork_one_that_allocates(void)
{
	const pid_t pid = vfork();

	if (pid == 0) {
		void *object = hf_alloc(3000, HF_RETRY);
		void *large = hf_alloc(300000, HF_RETRY);

		hf_free(object);
		hf_free(large);
		_exit(object && large ? 0 : 1);
	}
	return pid;
}

static void a_vforked_child_uses_its_parents_heap(void **state)
{
	struct churn churn = {.seed = 11};

	(void)state;
	for (int i = 0; i < 300; i++) {
		assert_true(churn_run(&churn, 20));
		assert_child_succeeds(vfork_one_that_allocates());
	}
	assert_true(churn_end(&churn));
	(void)committed_now(); /* ThreadSanitizer's vfork is a fork */
	assert_int_equal(stats_now().processes, 1);
	check_books();
	pool_check();
	heap_check();
}

static void a_raw_clone_gets_books_of_its_own(void **state)
{
	struct churn churn = {.seed = 13};

	(void)state;
	assert_true(churn_run(&churn, 500));
	(void)hf_trim();
	for (int i = 0; i < 300; i++) {
		const size_t before = committed_now();
		const pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (pid == 0)
			_exit(child_work(&churn, 100));
		assert_child_succeeds(pid);
		(void)hf_trim();
		assert_true(committed_now() <= before + 65536);
		check_books();
		assert_true(churn_run(&churn, 20));
	}
	assert_true(churn_end(&churn));
	assert_int_equal(stats_now().processes, 1);
	pool_check();
	heap_check();
}

/* A free may be all that such a child ever does; its parent holds the memory still, and is charged for it. */
static void a_raw_clone_that_only_frees_leaves_its_parents_charge_alone(void **state)
{
	enum { SMALL = 20000, SMALL_BYTES = 400, LARGE_BYTES = 20 << 20 };
	static void *small[SMALL];

	(void)state;
	for (int large_too = 0; large_too < 2; large_too++) {
		void *large = large_too ? hf_alloc(LARGE_BYTES, HF_RETRY) : NULL;

		for (int i = 0; i < SMALL; i++)
			small[i] = hf_alloc(SMALL_BYTES, HF_RETRY);
		const size_t held = committed_now();
		const pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (pid == 0) {
			hf_free(large);
			for (int i = 0; i < SMALL; i++)
				hf_free(small[i]);
			_exit(0);
		}
		assert_child_succeeds(pid);
		assert_int_equal(committed_now(), held);
		check_books();
		hf_free(large);
		for (int i = 0; i < SMALL; i++)
			hf_free(small[i]);
	}
	pool_check();
	heap_check();
}

static void a_raw_clones_child_can_fork(void **state)
{
	struct churn churn = {.seed = 17};

	(void)state;
	assert_true(churn_run(&churn, 500));
	for (int i = 0; i < 50; i++) {
		const pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (pid == 0)
			_exit(generations(&churn, 2));
		assert_child_succeeds(pid);
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
	assert_true(churn_end(&churn));
	(void)committed_now();
	check_books();
}

/* Frees what it inherited, takes most of the budget, forks again, and is still refused what is too much. */
static int cut_off_work(struct churn *churn, int depth)
{
	int status = 0;

	alarm(CHILD_SECONDS);
	if (!churn_end(churn) || !churn_run(churn, 200))
		return 1;
	unsigned char *large = hf_alloc(BUDGET_BYTES / 2, HF_RETRY | HF_NOWARN);
	if (!large || hf_alloc(BUDGET_BYTES / 2, HF_RETRY | HF_NOWARN))
		return 2;
	hf_free(large);
	if (depth > 0) {
		const pid_t pid = fork();

		if (pid == 0)
			_exit(cut_off_work(churn, depth - 1));
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
			return 3;
	}
	if (ledger_check_books(pool_ledger()) != 0)
		return 4;
	pool_check();
	return churn_end(churn) ? 0 : 5;
}

/* As daemons do. Without a keeper to ask, a child of such a program goes on with a ledger of its own. */
static void a_child_of_a_program_that_closed_every_descriptor_can_allocate(void **state)
{
	struct churn churn = {.seed = 23};

	(void)state;
	assert_true(churn_run(&churn, 300));
	const pid_t pid = fork();
	if (pid == 0) {
		closefrom(3);
		const pid_t child = fork();
		int status = 0;

		if (child == 0)
			_exit(cut_off_work(&churn, 2));
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
			_exit(WIFEXITED(status) ? 10 + WEXITSTATUS(status) : 9);
		_exit(churn_end(&churn) ? 0 : 8);
	}
	assert_child_succeeds(pid);
	assert_true(churn_end(&churn));
	(void)committed_now();
	check_books();
}

static void a_child_of_a_program_that_changed_its_user_can_allocate(void **state)
{
	struct churn churn = {.seed = 29};

	(void)state;
	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	assert_true(churn_run(&churn, 300));
	const pid_t pid = fork();
	if (pid == 0) {
		if (setresuid(65534, 65534, 65534) != 0)
			_exit(7);
		const pid_t child = fork();
		int status = 0;

		if (child == 0)
			_exit(cut_off_work(&churn, 2));
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
			_exit(WIFEXITED(status) ? 10 + WEXITSTATUS(status) : 9);
		_exit(churn_end(&churn) ? 0 : 8);
	}
	assert_child_succeeds(pid);
	assert_true(churn_end(&churn));
	(void)committed_now();
	check_books();
}

int main(void)
{
	const struct hf_config config = {
		.struct_bytes = sizeof config, .budget_bytes = BUDGET_BYTES, .ignore_environment = true};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_of_a_busy_threaded_program_can_allocate),
		cmocka_unit_test(several_threads_can_fork_at_once),
		cmocka_unit_test(generations_of_children_leave_balanced_books),
		cmocka_unit_test(what_a_child_inherits_is_charged_once_until_the_last_holder_lets_go),
		cmocka_unit_test(a_child_at_the_limit_is_refused_and_goes_on),
		cmocka_unit_test(a_vforked_child_uses_its_parents_heap),
		cmocka_unit_test(a_raw_clone_gets_books_of_its_own),
		cmocka_unit_test(a_raw_clone_that_only_frees_leaves_its_parents_charge_alone),
		cmocka_unit_test(a_raw_clones_child_can_fork),
		cmocka_unit_test(a_child_of_a_program_that_closed_every_descriptor_can_allocate),
		cmocka_unit_test(a_child_of_a_program_that_changed_its_user_can_allocate),
	};

	if (hf_init(&config) != 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
