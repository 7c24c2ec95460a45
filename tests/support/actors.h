/*
 * Processes that do what a test tells them, one order at a time, so that a test of several processes reads like a
 * story and never sleeps: each order is answered when it is done.
 *
 * The test makes the pipes of all actors first. An actor that is told to fork becomes two, and the child takes orders
 * through the pipes of the index that was named.
 */
#ifndef HF_TESTS_SUPPORT_ACTORS_H
#define HF_TESTS_SUPPORT_ACTORS_H

#include "support/actor_life.h"

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
