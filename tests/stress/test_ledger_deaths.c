/*
 * The storm: thousands of processes that join, commit, give back, fork, clone, exec and become daemons, and die at
 * random instants. Each is killed (SIGKILL) by a timer of its own, at whatever instruction it then is; some are stopped
 * first, and killed while stopped. Afterwards nothing is charged, nobody is left in the ledger, and nobody has hung.
 *
 * With HOLDFAST_SOAK in the environment it goes on for 200,000 deaths. SEED=n replays the choices, not the instants.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/ledger_case.h"
#include "support/random.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#if HF_TSAN || HF_ASAN
enum { DEATHS = 2000, LIFE_MAX_US = 24000 }; /* a fork costs several times as much there */
#else
enum { DEATHS = 12000, LIFE_MAX_US = 6000 };
#endif
enum {
	SOAK_DEATHS = 200000,
	AT_ONCE = 8, /* children of the test; their descendants come on top */
	LIMIT = 700,
	MOST_HELD = 400,
	GENERATIONS = 3,     /* below a child */
	HANG_S = 60,	     /* nobody works for so long unless it hangs */
	STOPPED_BIRTHS = 40, /* how many are born while one is stopped */
};

/* Shared by all processes of the storm. */
struct storm {
	_Atomic uint64_t births, deaths_by_exec, operations, refusals, over_limit, stop;
};
static struct storm *storm;
static struct ledger *watch; /* the test's own */

/* ---- one process of the storm ---- */

struct life {
	struct ledger *ledger;
	struct random random;
	uint64_t held;	   /* in this address space */
	uint64_t held_new; /* of it, committed in the present epoch */
	int generation;
};

/* SIGKILL at a random instant. A process has its own timers; exec takes them away. */
static void arm(struct random *random)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	const uint64_t most_us = (uint64_t)LIFE_MAX_US >> 2 * random_below(random, 3); /* many die while they join */
	struct itimerspec when = {.it_value = {.tv_nsec = 1 + (long)random_below(random, most_us * 1000)}};
	timer_t timer;

	CASE_CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	CASE_CHECK(timer_settime(timer, 0, &when, NULL) == 0);
}

static void exec_something(void)
{
	atomic_fetch_add(&storm->deaths_by_exec, 1);
	execl("/bin/true", "true", (char *)NULL);
	abort();
}

static void live(struct life *life);

static void be_child(struct life *life)
{
	atomic_fetch_add(&storm->births, 1);
	arm(&life->random);
	life->generation++;
	life->held_new = 0;
	live(life);
}

static void do_fork(struct life *life)
{
	const uint64_t seed = random_next(&life->random);

	ledger_fork_prepare(life->ledger, life->held);
	const pid_t pid = fork();
	if (pid == 0) {
		life->random.state = seed;
		ledger_fork_child(life->ledger);
		if (random_below(&life->random, 4) == 0)
			(void)setsid(); /* a daemon: its parent may well be dead by now */
		be_child(life);
	}
	ledger_fork_parent(life->ledger, pid);
	life->held_new = 0;
	if (pid > 0 && random_below(&life->random, 3) == 0)
		_exit(0);
}

static void do_clone(struct life *life)
{
	const uint64_t seed = random_next(&life->random);
	const long pid = syscall(SYS_clone, (long)SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid == 0) {
		life->random.state = seed;
		if (random_below(&life->random, 2) == 0 && ledger_raw_clone_child(life->ledger, life->held) == 0)
			be_child(life);
		/* One that never asks for memory. */
		atomic_fetch_add(&storm->births, 1);
		arm(&life->random);
		(void)pause();
		_exit(0);
	}
}

static void do_vfork(void)
{
	const pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
}

static void do_commit(struct life *life)
{
	const uint64_t pages = 1 + random_below(&life->random, 40);

	if (life->held + pages > MOST_HELD)
		return;
	if (ledger_commit(life->ledger, pages, 0) != 0) {
		atomic_fetch_add(&storm->refusals, 1);
		return;
	}
	life->held += pages;
	life->held_new += pages;
}

static void do_uncommit(struct life *life)
{
	const uint32_t epoch = ledger_epoch(life->ledger);
	const uint64_t old = life->held - life->held_new;
	/* Inherited, or committed before a fork: either way of an older epoch. */
	const bool older = epoch > 0 && old > 0 && (life->held_new == 0 || random_below(&life->random, 2) == 0);
	const uint64_t most = older ? old : life->held_new;

	if (most == 0)
		return;
	const uint64_t pages = 1 + random_below(&life->random, most);
	life->held -= pages;
	life->held_new -= older ? 0 : pages;
	ledger_uncommit(life->ledger, pages, older ? epoch - 1 : epoch);
}

static void live(struct life *life)
{
	while (atomic_load(&storm->stop) == 0) {
		const uint64_t what = random_below(&life->random, 400);

		if (what < 180)
			do_commit(life);
		else if (what < 380)
			do_uncommit(life);
		else if (what < 390)
			(void)ledger_collect_dead(life->ledger, true);
		else if (what < 394 && life->generation < GENERATIONS)
			do_fork(life);
		else if (what < 396 && life->generation < GENERATIONS)
			do_clone(life);
		else if (what == 396)
			do_vfork();
		else if (what == 397)
			exec_something();
		else if (what == 398 && random_below(&life->random, 8) == 0)
			_exit(0);
		atomic_fetch_add_explicit(&storm->operations, 1, memory_order_relaxed);
	}
	_exit(0);
}

static pid_t give_birth(struct random *random)
{
	struct life life = {.random = {random_next(random)}};
	const pid_t pid = fork();
	const char *why;

	CASE_CHECK(pid >= 0);
	if (pid != 0)
		return pid;
	atomic_fetch_add(&storm->births, 1);
	(void)signal(SIGCHLD, SIG_IGN); /* nobody waits for grandchildren */
	arm(&life.random);
	const int error = ledger_join(ledger_descriptor(watch), &life.ledger, &why);
	if (error == 0)
		live(&life);
	CASE_CHECK(error == -ENOMEM || error == -EUSERS);
	_exit(0);
}

/* ---- the test ---- */

/* The test's own part: works in the ledger, and looks whether the limit holds. */
static void take_part(struct random *random)
{
	const uint64_t pages = 1 + random_below(random, 20);

	if (ledger_commit(watch, pages, 0) == 0)
		ledger_uncommit(watch, pages, ledger_epoch(watch));
	if (case_look(watch).committed_pages > LIMIT)
		atomic_fetch_add(&storm->over_limit, 1);
}

struct stopped {
	pid_t pid; /* 0: nobody is */
	uint64_t until_births;
};

/* Of the test's children, one at a time is stopped for a while wherever it is; the others must go on. */
static void stop_somebody(struct stopped *stopped, struct random *random, const pid_t *children)
{
	const uint64_t births = atomic_load(&storm->births);

	if (stopped->pid != 0 && births >= stopped->until_births) {
		CASE_CHECK(kill(stopped->pid, SIGKILL) == 0);
		stopped->pid = 0;
	} else if (stopped->pid == 0 && random_below(random, 20) == 0) {
		stopped->pid = children[random_below(random, AT_ONCE)];
		stopped->until_births = births + STOPPED_BIRTHS;
		CASE_CHECK(kill(stopped->pid, SIGSTOP) == 0);
	}
}

static void reap(pid_t *children, struct random *random, struct stopped *stopped, bool replace)
{
	int status;
	const pid_t pid = waitpid(-1, &status, 0); /* also orphans: the test is their reaper */

	CASE_CHECK(pid > 0);
	/* Nobody may end in another way than this: an assertion of the ledger's is SIGABRT. */
	CASE_CHECK(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
	if (stopped->pid == pid)
		stopped->pid = 0;
	for (int i = 0; i < AT_ONCE; i++)
		if (children[i] == pid)
			children[i] = replace ? give_birth(random) : 0;
}

static void nobody_who_dies_leaves_anything_behind(void **state)
{
	const uint64_t deaths = getenv("HOLDFAST_SOAK") != NULL ? SOAK_DEATHS : DEATHS;
	struct random random = {random_seed("nobody_who_dies_leaves_anything_behind")};
	struct stopped stopped = {0, 0};
	pid_t children[AT_ONCE];
	bool anybody = true;

	(void)state;
	CASE_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	storm = mmap(NULL, sizeof *storm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CASE_CHECK(storm != MAP_FAILED);
	watch = case_create(LIMIT);
	for (int i = 0; i < AT_ONCE; i++)
		children[i] = give_birth(&random);
	while (atomic_load(&storm->births) < deaths) {
		(void)alarm(HANG_S);
		take_part(&random);
		stop_somebody(&stopped, &random, children);
		reap(children, &random, &stopped, true);
	}
	atomic_store(&storm->stop, 1);
	if (stopped.pid != 0)
		CASE_CHECK(kill(stopped.pid, SIGKILL) == 0);
	while (anybody) {
		const pid_t pid = waitpid(-1, NULL, 0);

		anybody = pid > 0 || errno != ECHILD;
	}
	(void)alarm(0);

	(void)ledger_collect_dead(watch, true);
	if (case_charged(watch) != 0 || case_slots_taken(watch) != 1)
		case_print(watch);
	assert_int_equal(ledger_check_books(watch), 0);
	assert_int_equal(case_charged(watch), 0);
	assert_int_equal(case_look(watch).members, 1);
	assert_int_equal(case_slots_taken(watch), 1);
	assert_int_equal(atomic_load(&storm->over_limit), 0);
	printf("%llu deaths (%llu by exec), %llu operations, %llu refusals, at most %llu pages and %u slots\n",
		(unsigned long long)atomic_load(&storm->births),
		(unsigned long long)atomic_load(&storm->deaths_by_exec),
		(unsigned long long)atomic_load(&storm->operations), (unsigned long long)atomic_load(&storm->refusals),
		(unsigned long long)case_look(watch).peak_pages, case_look(watch).slots_high);
	ledger_leave(watch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_who_dies_leaves_anything_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
