/*
 * Processes that do what a test tells them, one order at a time, so that a test of several processes reads like a
 * story and never sleeps: each order is answered when it is done.
 *
 * The test makes the pipes of all actors first. An actor that is told to fork becomes two, and the child takes orders
 * through the pipes of the index that was named.
 */
#ifndef HF_TESTS_SUPPORT_ACTORS_H
#define HF_TESTS_SUPPORT_ACTORS_H

#include "support/ledger_case.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { ACTORS = 6 };

enum actor_verb {
	ACTOR_COMMIT,	 /* number pages; answers the error */
	ACTOR_UNCOMMIT,	 /* number pages of epoch */
	ACTOR_COLLECT,	 /* answers the pages that came back */
	ACTOR_FORK,	 /* the child is actor number; answers its pid */
	ACTOR_CLONE,	 /* the same by a raw clone, which no handler sees */
	ACTOR_RAW_CHILD, /* in such a child: take a slot */
	ACTOR_VFORK,	 /* a child by vfork that execs /bin/true; answers its exit status */
	ACTOR_FORK_FAILS,
	ACTOR_EXEC, /* be /bin/cat from now on: it ends when it is killed */
	ACTOR_EPOCH,
	ACTOR_EPOCH_IS_OPEN,
	ACTOR_FILES, /* at most number descriptors; 0: as many as at first */
	ACTOR_LEAVE, /* ledger_leave(), and go on without */
	ACTOR_SLOT,  /* which slot it has; 0: none */
};

struct actor_order {
	enum actor_verb verb;
	uint32_t epoch;
	uint64_t number;
};

struct actor {
	int orders[2], answers[2];
	pid_t pid;
};

static struct actor actors[ACTORS];

static inline void actor_pipes(void)
{
	for (int i = 0; i < ACTORS; i++) {
		CASE_CHECK(pipe(actors[i].orders) == 0);
		CASE_CHECK(pipe(actors[i].answers) == 0);
		actors[i].pid = 0;
	}
	/* Orphans come to the test, which then can wait for them. */
	CASE_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
}

/* ---- in the actor ---- */

struct actor_life {
	int index;
	struct ledger *ledger;
	uint64_t holds; /* pages in this address space */
	struct rlimit files;
};

static inline void actor_answer(const struct actor_life *life, int64_t answer)
{
	CASE_CHECK(write(actors[life->index].answers[1], &answer, sizeof answer) == sizeof answer);
}

/* Both processes return; the parent with the child's pid. */
static inline int64_t actor_split(struct actor_life *life, const struct actor_order *order)
{
	const bool raw = order->verb == ACTOR_CLONE;
	pid_t pid;

	if (!raw)
		ledger_fork_prepare(life->ledger, life->holds);
	pid = raw ? (pid_t)syscall(SYS_clone, (long)SIGCHLD, NULL, NULL, NULL, NULL) : fork();
	if (pid == 0) {
		life->index = (int)order->number;
		if (!raw)
			ledger_fork_child(life->ledger);
		return 0;
	}
	CASE_CHECK(pid > 0);
	if (!raw)
		ledger_fork_parent(life->ledger, pid);
	return pid;
}

static inline int64_t actor_vfork(void)
{
	int status = -1;
	const pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
	CASE_CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

static inline int64_t actor_files(struct actor_life *life, uint64_t most)
{
	struct rlimit files = life->files;

	if (most != 0)
		files.rlim_cur = most;
	return setrlimit(RLIMIT_NOFILE, &files);
}

static inline int64_t actor_obey(struct actor_life *life, const struct actor_order *order)
{
	int64_t result = 0;

	switch (order->verb) {
	case ACTOR_COMMIT:
		result = ledger_commit(life->ledger, order->number, 0);
		life->holds += result == 0 ? order->number : 0;
		return result;
	case ACTOR_UNCOMMIT:
		CASE_CHECK(life->holds >= order->number);
		life->holds -= order->number;
		ledger_uncommit(life->ledger, order->number, order->epoch);
		return 0;
	case ACTOR_COLLECT:
		return (int64_t)ledger_collect_dead(life->ledger, true);
	case ACTOR_FORK:
	case ACTOR_CLONE:
		return actor_split(life, order);
	case ACTOR_RAW_CHILD:
		return ledger_raw_clone_child(life->ledger, life->holds);
	case ACTOR_VFORK:
		return actor_vfork();
	case ACTOR_FORK_FAILS:
		ledger_fork_prepare(life->ledger, life->holds);
		ledger_fork_parent(life->ledger, -1);
		return 0;
	case ACTOR_EXEC:
		CASE_CHECK(dup2(actors[life->index].orders[0], STDIN_FILENO) == STDIN_FILENO);
		/* The answer comes from the new program: cat sends the next order back. */
		CASE_CHECK(dup2(actors[life->index].answers[1], STDOUT_FILENO) == STDOUT_FILENO);
		execl("/bin/cat", "cat", (char *)NULL);
		abort();
	case ACTOR_EPOCH:
		return ledger_epoch(life->ledger);
	case ACTOR_EPOCH_IS_OPEN:
		return ledger_epoch_is_open(life->ledger, order->epoch);
	case ACTOR_FILES:
		return actor_files(life, order->number);
	case ACTOR_LEAVE:
		ledger_leave(life->ledger);
		return 0;
	case ACTOR_SLOT:
		return life->ledger->slot;
	}
	abort();
}

static inline void actor_live(struct actor_life *life)
{
	struct actor_order order;

	for (;;) {
		/* The end of the test is the end of its actors. */
		if (read(actors[life->index].orders[0], &order, sizeof order) != sizeof order)
			_exit(1);
		actor_answer(life, actor_obey(life, &order));
	}
}

/* ---- in the test ---- */

static inline int64_t actor_hear(int index)
{
	struct pollfd ready = {.fd = actors[index].answers[0], .events = POLLIN};
	int64_t answer;

	/* Not a wait for time to pass: nobody takes a minute unless it hangs. */
	CASE_CHECK(poll(&ready, 1, 60000) == 1);
	CASE_CHECK(read(actors[index].answers[0], &answer, sizeof answer) == sizeof answer);
	return answer;
}

static inline int64_t actor_tell(int index, struct actor_order order)
{
	CASE_CHECK(write(actors[index].orders[1], &order, sizeof order) == sizeof order);
	return order.verb == ACTOR_EXEC ? 0 : actor_hear(index);
}

static inline int64_t actor_do(int index, enum actor_verb verb, uint64_t number)
{
	return actor_tell(index, (struct actor_order){.verb = verb, .number = number});
}

static inline void actor_uncommit(int index, uint64_t pages, uint32_t epoch)
{
	(void)actor_tell(index, (struct actor_order){.verb = ACTOR_UNCOMMIT, .number = pages, .epoch = epoch});
}

/* Actor @index begins, joined to the ledger by @join (it is no child as far as the ledger knows). */
static inline void actor_start(int index, struct ledger *watch, struct ledger *(*join)(struct ledger *watch))
{
	struct actor_life life = {.index = index};
	const pid_t pid = fork();

	CASE_CHECK(pid >= 0);
	if (pid == 0) {
		CASE_CHECK(getrlimit(RLIMIT_NOFILE, &life.files) == 0);
		/* Alone with the pipes: an actor whose test has died reads the end of file. */
		for (int i = 0; i < ACTORS; i++)
			close(actors[i].orders[1]);
		life.ledger = join(watch);
		actor_answer(&life, 0);
		actor_live(&life);
	}
	actors[index].pid = pid;
	(void)actor_hear(index);
}

static inline void actor_fork(int index, int child)
{
	actors[child].pid = (pid_t)actor_do(index, ACTOR_FORK, (uint64_t)child);
	CASE_CHECK(actor_hear(child) == 0);
}

static inline void actor_clone(int index, int child)
{
	actors[child].pid = (pid_t)actor_do(index, ACTOR_CLONE, (uint64_t)child);
	CASE_CHECK(actor_hear(child) == 0);
}

/* Another program runs there, and the old address space is gone. */
static inline void actor_exec(int index)
{
	const int64_t echo = 4711;
	int64_t answer = 0;

	(void)actor_do(index, ACTOR_EXEC, 0);
	CASE_CHECK(write(actors[index].orders[1], &echo, sizeof echo) == sizeof echo);
	answer = actor_hear(index);
	CASE_CHECK(answer == echo);
}

/* Killed, and gone: a process that the kernel reports dead has no memory and no locks. */
static inline void actor_kill(int index)
{
	const int pidfd = (int)syscall(SYS_pidfd_open, actors[index].pid, 0);
	struct pollfd dead = {.fd = pidfd, .events = POLLIN};

	CASE_CHECK(pidfd >= 0);
	CASE_CHECK(kill(actors[index].pid, SIGKILL) == 0);
	CASE_CHECK(poll(&dead, 1, 60000) == 1);
	close(pidfd);
	actors[index].pid = 0;
}

/* The end of a test: nobody and nothing is left. */
static inline void actor_end_all(void)
{
	for (int i = 0; i < ACTORS; i++) {
		if (actors[i].pid != 0)
			actor_kill(i);
		close(actors[i].orders[0]);
		close(actors[i].orders[1]);
		close(actors[i].answers[0]);
		close(actors[i].answers[1]);
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
}

#endif
