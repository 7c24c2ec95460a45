/*
 * Death at every instruction: a process does one thing to the ledger, single-stepped by ptrace, and is killed at its
 * nth instruction, for every n until the thing is done. Each time the books must balance at once, and after the dead
 * one is collected exactly what the living hold must be charged.
 *
 * Stepping to the nth instruction for every n is quadratic. Where an operation is too long for that (without
 * optimisation, or when it makes many system calls), it is killed at every instruction before and after which the
 * shared file differs, at the instructions beside those, and at as many others as there is time for; the output says
 * how many. With HOLDFAST_SOAK in the environment it is killed at every one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/ledger_case.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#if HF_TSAN || HF_ASAN || !defined(__OPTIMIZE__)
enum { STEPS_BUDGET = 60000 }; /* for one operation */
#else
enum { STEPS_BUDGET = 700000 };
#endif
enum {
	LIMIT = 1000,
	INSTRUCTIONS_MAX = 200000,
	WATCHED_BYTES = LEDGER_HEADER_BYTES + 32 * LEDGER_SLOT_BYTES, /* more slots are never in use here */
};

/* What the processes of one run tell the test. */
struct stage {
	_Atomic int actor; /* the process that is stepped */
	_Atomic int heir;  /* one that lives on, 0: none */
	_Atomic int go;
};
static struct stage *stage;
static struct ledger *watch, *outer_watch;
static unsigned char changes[INSTRUCTIONS_MAX]; /* the shared file is another after the nth instruction */

/* One operation, and how the world looks before and after it. */
struct story {
	const char *name;
	void (*set_up)(void);		 /* in the test's process: what others have left */
	struct ledger *(*prepare)(void); /* in the actor */
	void (*operate)(struct ledger *ledger);
	uint64_t before, after; /* charged, whether it was killed or not */
	uint64_t kept;		/* charged when the actor has been collected, for the heir */
	bool is_long;		/* mostly system calls: gets a part of the time */
};

/* ---- actors ---- */

static struct ledger *join(void)
{
	return case_join(watch);
}

static struct ledger *join_with_seven(void)
{
	struct ledger *ledger = case_join(watch);

	CASE_CHECK(ledger_commit(ledger, 7, 0) == 0);
	return ledger;
}

/* The heir: a forked child that inherits all seven and lives on. Returns in the parent. */
static void fork_heir(struct ledger *ledger)
{
	ledger_fork_prepare(ledger, 7);
	const pid_t pid = fork();
	if (pid == 0) {
		ledger_fork_child(ledger);
		atomic_store(&stage->heir, getpid());
		for (;;)
			(void)pause();
	}
	ledger_fork_parent(ledger, pid);
	while (atomic_load(&stage->heir) == 0)
		(void)sched_yield();
}

static struct ledger *join_with_an_heir(void)
{
	struct ledger *ledger = join_with_seven();

	fork_heir(ledger);
	return ledger;
}

/* The actor is the child; its parent, who has given back three of the seven, goes on as heir. */
static struct ledger *be_a_child_of_the_living(void)
{
	struct ledger *ledger = join_with_seven();

	ledger_fork_prepare(ledger, 7);
	const pid_t pid = fork();
	if (pid == 0) {
		ledger_fork_child(ledger);
		while (atomic_load(&stage->heir) == 0)
			(void)sched_yield();
		return ledger;
	}
	ledger_fork_parent(ledger, pid);
	ledger_uncommit(ledger, 3, 0);
	atomic_store(&stage->heir, getpid());
	for (;;)
		(void)pause();
}

static struct ledger *be_a_nested_member(void)
{
	struct ledger *ledger = join_with_seven();

	CASE_CHECK(ledger_nest(ledger, case_join(outer_watch)) == 0);
	return ledger;
}

static struct ledger *stay_outside(void)
{
	return NULL;
}

static void leave_a_dead_member(void)
{
	struct ledger *dead = case_join(watch);

	CASE_CHECK(ledger_commit(dead, 5, 0) == 0);
	case_die(dead);
}

static void leave_a_dead_parent(void)
{
	const pid_t pid = fork();

	if (pid == 0) {
		(void)join_with_an_heir();
		_exit(0);
	}
	CASE_CHECK(waitpid(pid, NULL, 0) == pid);
}

/* ---- operations ---- */

static void commit_seven(struct ledger *ledger)
{
	(void)!ledger_commit(ledger, 7, 0);
}

static void commit_too_much(struct ledger *ledger)
{
	(void)!ledger_commit(ledger, LIMIT, 0);
}

static void uncommit_three(struct ledger *ledger)
{
	ledger_uncommit(ledger, 3, 0);
}

/* So that fewer are left than the parent has given back. */
static void uncommit_five(struct ledger *ledger)
{
	ledger_uncommit(ledger, 5, 0);
}

static void collect(struct ledger *ledger)
{
	(void)ledger_collect_dead(ledger, true);
}

static void fork_and_go_on(struct ledger *ledger)
{
	ledger_fork_prepare(ledger, 7);
	const pid_t pid = fork();
	if (pid == 0) {
		ledger_fork_child(ledger);
		_exit(0);
	}
	ledger_fork_parent(ledger, pid);
}

static void join_now(struct ledger *ledger)
{
	(void)ledger;
	(void)case_join(watch);
}

/* ---- stepping ---- */

static void act(const struct story *story)
{
	struct ledger *ledger = story->prepare();

	atomic_store(&stage->actor, getpid());
	while (atomic_load(&stage->go) == 0)
		(void)sched_yield();
	(void)raise(SIGSTOP);
	story->operate(ledger);
	(void)raise(SIGUSR1); /* the end: the tracer sees it first */
	_exit(0);
}

static int wait_for(pid_t pid)
{
	int status = 0;

	CASE_CHECK(waitpid(pid, &status, __WALL) == pid);
	return status;
}

/* The actor, attached to and stopped just before the operation. */
static pid_t actor_begin(const struct story *story)
{
	atomic_store(&stage->actor, 0);
	atomic_store(&stage->heir, 0);
	atomic_store(&stage->go, 0);
	if (story->set_up != NULL)
		story->set_up();
	const pid_t first = fork();
	if (first == 0)
		act(story);
	CASE_CHECK(first > 0);
	while (atomic_load(&stage->actor) == 0)
		(void)sched_yield();
	const pid_t pid = atomic_load(&stage->actor);
	CASE_CHECK(ptrace(PTRACE_ATTACH, pid, 0, 0) == 0);
	CASE_CHECK(WIFSTOPPED(wait_for(pid)));
	atomic_store(&stage->go, 1);
	CASE_CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
	CASE_CHECK(WSTOPSIG(wait_for(pid)) == SIGSTOP);
	return pid;
}

/* One instruction. False: the operation is done. */
static bool step(pid_t pid)
{
	CASE_CHECK(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0);
	const int status = wait_for(pid);
	CASE_CHECK(WIFSTOPPED(status));
	if (WSTOPSIG(status) == SIGUSR1)
		return false;
	CASE_CHECK(WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGCHLD);
	return true;
}

static void expect(const struct story *story, uint64_t instruction, const char *when, bool good)
{
	if (good)
		return;
	case_print(watch);
	fail_msg("%s, killed at instruction %llu: wrong %s", story->name, (unsigned long long)instruction, when);
}

/* The actor is killed where it stands. */
static void kill_and_check(const struct story *story, pid_t pid, uint64_t instruction)
{
	const pid_t heir = atomic_load(&stage->heir);

	CASE_CHECK(kill(pid, SIGKILL) == 0);
	while (!WIFSIGNALED(wait_for(pid)))
		;
	const uint64_t charged = case_charged(watch);
	expect(story, instruction, "books", ledger_check_books(watch) == 0);
	expect(story, instruction, "charge before it is collected",
		charged == story->before || charged == story->after);
	/* Children of the operation's own, and parents of the actor, end by themselves. */
	while (heir == 0 && waitpid(-1, NULL, 0) > 0)
		;
	(void)ledger_collect_dead(watch, true);
	(void)ledger_collect_dead(outer_watch, true);
	expect(story, instruction, "charge for the living", case_charged(watch) == story->kept);
	if (heir != 0) {
		CASE_CHECK(kill(heir, SIGKILL) == 0);
		while (waitpid(-1, NULL, 0) > 0)
			;
		(void)ledger_collect_dead(watch, true);
	}
	expect(story, instruction, "books", ledger_check_books(watch) == 0 && ledger_check_books(outer_watch) == 0);
	expect(story, instruction, "charge for nobody", case_charged(watch) == 0 && case_charged(outer_watch) == 0);
	expect(story, instruction, "number of slots",
		case_slots_taken(watch) == 1 && case_slots_taken(outer_watch) == 1);
}

/* How many instructions it takes; which of them change the shared file. */
static uint64_t measure(const struct story *story)
{
	static unsigned char before[WATCHED_BYTES];
	const unsigned char *const file = (const unsigned char *)watch->shared;
	const pid_t pid = actor_begin(story);
	uint64_t instructions = 0;

	memset(changes, 0, sizeof changes);
	memcpy(before, file, WATCHED_BYTES);
	while (step(pid)) {
		CASE_CHECK(instructions < INSTRUCTIONS_MAX);
		if (memcmp(before, file, WATCHED_BYTES) != 0) {
			changes[instructions] = 1;
			memcpy(before, file, WATCHED_BYTES);
		}
		instructions++;
	}
	kill_and_check(story, pid, instructions);
	return instructions;
}

static bool is_near_a_change(uint64_t instruction)
{
	const uint64_t from = instruction < 2 ? 0 : instruction - 2;

	for (uint64_t i = from; i <= instruction + 1 && i < INSTRUCTIONS_MAX; i++)
		if (changes[i])
			return true;
	return false;
}

static void die_everywhere(const struct story *story)
{
	const uint64_t instructions = measure(story);
	const uint64_t all = instructions * (instructions + 1) / 2;
	const uint64_t budget = getenv("HOLDFAST_SOAK") != NULL ? all + 1
				: story->is_long		? STEPS_BUDGET / 4
								: STEPS_BUDGET;
	const uint64_t stride = all / budget + 1;
	uint64_t deaths = 0, changed = 0;

	for (uint64_t n = 0; n < instructions; n++) {
		changed += changes[n];
		if (n % stride != 0 && !is_near_a_change(n))
			continue;
		const pid_t pid = actor_begin(story);
		uint64_t i = 0;
		while (i < n && step(pid))
			i++;
		kill_and_check(story, pid, i);
		deaths++;
	}
	printf("%s: %llu instructions, of which %llu change the ledger; killed at %llu\n", story->name,
		(unsigned long long)instructions, (unsigned long long)changed, (unsigned long long)deaths);
	(void)fflush(stdout);
	assert_true(deaths > 0);
}

/* ---- the stories ---- */

static const struct story stories[] = {
	{"commit", NULL, join_with_seven, commit_seven, 7, 14, 0, false},
	{"a_commit_that_is_refused", NULL, join_with_seven, commit_too_much, 7, 7, 0, false},
	{"a_commit_in_two_budgets", NULL, be_a_nested_member, commit_seven, 7, 14, 0, false},
	{"uncommit", NULL, join_with_seven, uncommit_three, 7, 4, 0, false},
	{"uncommit_of_what_a_child_holds", NULL, join_with_an_heir, uncommit_three, 7, 7, 7, false},
	{"uncommit_of_what_was_inherited", NULL, be_a_child_of_the_living, uncommit_five, 7, 6, 4, false},
	{"collecting_a_dead_member", leave_a_dead_member, join, collect, 5, 0, 0, false},
	{"collecting_a_dead_parent", leave_a_dead_parent, join, collect, 7, 7, 7, false},
	{"leaving", NULL, join_with_seven, ledger_leave, 7, 0, 0, false},
	{"leaving_a_child_behind", NULL, join_with_an_heir, ledger_leave, 7, 7, 7, false},
	{"joining", NULL, stay_outside, join_now, 0, 0, 0, true},
	{"forking", NULL, join_with_seven, fork_and_go_on, 7, 7, 0, true},
};

/* Empty, or why processes cannot be stepped here. */
static const char *why_not(void)
{
	int status = 0;
	const pid_t pid = fork();

	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
			_exit(errno);
		(void)raise(SIGSTOP);
		_exit(0);
	}
	CASE_CHECK(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status))
		return strerror(WEXITSTATUS(status));
	if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) != 0)
		return strerror(errno);
	CASE_CHECK(waitpid(pid, &status, 0) == pid);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP ? "" : "a step does not end in a trap";
}

static void run(void **state)
{
	const char *why = HF_TSAN ? "ThreadSanitizer makes a hundred instructions of one" : why_not();

	if (*why != '\0') {
		printf("skipped, since processes cannot be stepped here: %s\n", why);
		skip();
	}
	die_everywhere(*state);
}

static int attach(void **state)
{
	cpu_set_t one;

	(void)state;
	/* All on one processor: a step is two changes of process, which cost several times as much across two. */
	CPU_ZERO(&one);
	CPU_SET((size_t)sched_getcpu(), &one);
	(void)sched_setaffinity(0, sizeof one, &one);
	CASE_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CASE_CHECK(stage != MAP_FAILED);
	watch = case_create(LIMIT);
	outer_watch = case_create(LIMIT);
	return 0;
}

int main(void)
{
	struct CMUnitTest tests[HF_COUNT_OF(stories)];

	for (size_t i = 0; i < HF_COUNT_OF(stories); i++)
		tests[i] = (struct CMUnitTest){
			.name = stories[i].name, .test_func = run, .initial_state = (void *)(uintptr_t)&stories[i]};
	return cmocka_run_group_tests(tests, attach, NULL);
}
