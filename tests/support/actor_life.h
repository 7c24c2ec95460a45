/*
 * The actor's side of support/actors.h: obeying orders.
 */
#ifndef HF_TESTS_SUPPORT_ACTOR_LIFE_H
#define HF_TESTS_SUPPORT_ACTOR_LIFE_H

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

#endif
