/*
 * The keeper's side of the socket: whoever connects is let in at once if it is root or the keeper's own user. Anybody
 * else must show the cookie, in one packet, within two seconds; a process gets it by its environment. The answer
 * carries a new open file description of the ledger, since the lock that says that a process lives must be its own.
 */
#include "ledger/keeper.h"

#include "base/assert.h"
#include "ledger/environment.h"
#include "ledger/internal.h"
#include "ledger/limit.h"
#include "os/os.h"
#include "os/proc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	CALLERS_AT_ONCE = 16,
	ANSWERS_AT_ONCE = 64, /* then the other work has its turn */
	ENDED_REMEMBERED = 64,
	CALLER_INTERVAL_MS = 10,
};
#define CALLER_PATIENCE_NS UINT64_C(2000000000)
#define AT_LIMIT_STEP_MAX_MS 1000 /* a keeper that was stopped does not know what happened meanwhile */

/* Somebody of whom nothing has been heard yet. */
struct caller {
	int fd; /* -1: none */
	uint64_t since_ns;
};

struct keeper {
	/* Immutable after create. */
	struct ledger *ledger;
	struct limit *limit;
	char socket_name[LEDGER_SOCKET_BYTES];
	int listener;
	/* Of the one thread that serves. */
	pid_t pid;
	struct caller callers[CALLERS_AT_ONCE];
	uint64_t served_ns, refusals_before;
	uint64_t limit_due_ns;
	struct ledger_member ended[ENDED_REMEMBERED]; /* a ring */
	uint32_t ended_count;			      /* ever */
};

static size_t keeper_bytes(void)
{
	return (sizeof(struct keeper) + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES * OS_PAGE_BYTES;
}

/* A named ledger's socket is found by its name, and is one a user; any other is nobody's guess. */
static void make_socket_name(struct keeper *keeper, const char *name)
{
	uint64_t number;

	if (name) {
		ledger_socket_name_of(name, keeper->socket_name);
		return;
	}
	os_random(&number, sizeof number);
	(void)snprintf(keeper->socket_name, sizeof keeper->socket_name, "holdfast-%016llx", (unsigned long long)number);
}

int keeper_create(struct ledger *ledger, const char *name, struct keeper **keeper_out)
{
	struct keeper *keeper;
	void *memory;
	int error = os_memory_map(keeper_bytes(), &memory);

	if (error)
		return error;
	keeper = memory;
	keeper->ledger = ledger;
	for (int i = 0; i < CALLERS_AT_ONCE; i++)
		keeper->callers[i].fd = -1;
	error = limit_create(&keeper->limit);
	if (error)
		goto unmap;
	make_socket_name(keeper, name);
	error = os_socket_listen(keeper->socket_name, &keeper->listener);
	if (error) {
		error = error == -EADDRINUSE ? -EEXIST : error;
		goto destroy_limit;
	}
	keeper->pid = os_process_id();
	ledger_set_keeper(ledger, keeper->pid, keeper->socket_name);
	*keeper_out = keeper;
	return 0;
destroy_limit:
	limit_destroy(keeper->limit);
unmap:
	os_unmap(memory, keeper_bytes());
	return error;
}

void keeper_destroy(struct keeper *keeper)
{
	ledger_set_keeper(keeper->ledger, 0, NULL);
	os_fd_close(keeper->listener);
	for (int i = 0; i < CALLERS_AT_ONCE; i++) {
		if (keeper->callers[i].fd >= 0)
			os_fd_close(keeper->callers[i].fd);
	}
	limit_destroy(keeper->limit);
	os_unmap(keeper, keeper_bytes());
}

int keeper_poll_fd(const struct keeper *keeper)
{
	return keeper->listener;
}

/* ---- the socket ---- */

/* Whether it is still there to hear it is its own business. */
static void answer(int caller, const char word[2], int pass_fd)
{
	const ssize_t ignored = os_socket_send(caller, word, 2, pass_fd);

	(void)ignored;
}

static void let_in(struct keeper *keeper, int caller)
{
	const int own = ledger_descriptor(keeper->ledger);
	int fd;

	if (own < 0 || os_fd_reopen(own, &fd) != 0) {
		answer(caller, "no", -1);
		return;
	}
	answer(caller, "ok", fd);
	os_fd_close(fd);
}

/* One who is neither root nor our user, and has said something or gone. */
static void hear(struct keeper *keeper, int caller)
{
	char said[LEDGER_COOKIE_CHARS + 1] = "", cookie[LEDGER_COOKIE_CHARS + 1];
	const ssize_t bytes = os_socket_receive(caller, said, LEDGER_COOKIE_CHARS, NULL);
	unsigned char difference = 0;

	ledger_cookie(keeper->ledger, cookie);
	/* In constant time, as with every secret. */
	for (int i = 0; i < LEDGER_COOKIE_CHARS; i++)
		difference |= (unsigned char)(said[i] ^ cookie[i]);
	if (bytes == LEDGER_COOKIE_CHARS && difference == 0)
		let_in(keeper, caller);
	else if (bytes > 0)
		answer(caller, "no", -1);
}

static void remember_caller(struct keeper *keeper, int fd, uint64_t now_ns)
{
	struct caller *oldest = &keeper->callers[0];

	for (int i = 0; i < CALLERS_AT_ONCE; i++) {
		struct caller *caller = &keeper->callers[i];

		if (caller->fd < 0) {
			*caller = (struct caller){fd, now_ns};
			return;
		}
		if (caller->since_ns < oldest->since_ns)
			oldest = caller;
	}
	os_fd_close(oldest->fd); /* somebody connects and says nothing: the silent make room */
	*oldest = (struct caller){fd, now_ns};
}

static void accept_callers(struct keeper *keeper, uint64_t now_ns)
{
	for (int i = 0; i < ANSWERS_AT_ONCE; i++) {
		uid_t uid;
		pid_t pid;
		int fd;

		if (os_socket_accept(keeper->listener, &fd, &uid, &pid) != 0)
			return;
		if (uid == 0 || uid == os_user_id()) {
			let_in(keeper, fd);
			os_fd_close(fd);
		} else {
			remember_caller(keeper, fd, now_ns);
		}
	}
}

/* True: somebody may still say something. */
static bool hear_callers(struct keeper *keeper, uint64_t now_ns)
{
	bool waiting = false;

	for (int i = 0; i < CALLERS_AT_ONCE; i++) {
		struct caller *caller = &keeper->callers[i];

		if (caller->fd < 0)
			continue;
		if (os_fd_is_readable(caller->fd))
			hear(keeper, caller->fd);
		else if (now_ns - caller->since_ns < CALLER_PATIENCE_NS) {
			waiting = true;
			continue;
		}
		os_fd_close(caller->fd);
		caller->fd = -1;
	}
	return waiting;
}

/* ---- the dead, and time at the limit ---- */

static void remember_ended(struct keeper *keeper)
{
	struct ledger_view view;

	ledger_look(keeper->ledger, &view);
	for (uint32_t i = 0; i < view.slots_high; i++) {
		struct ledger_member member;

		if (!ledger_look_member(keeper->ledger, i, &member) || member.kind != LEDGER_DEAD)
			continue;
		keeper->ended[keeper->ended_count++ % ENDED_REMEMBERED] = member;
		ledger_forget_dead(keeper->ledger, i);
	}
}

bool keeper_ended_at(const struct keeper *keeper, uint32_t index, struct ledger_member *member_out)
{
	const uint32_t kept = keeper->ended_count < ENDED_REMEMBERED ? keeper->ended_count : ENDED_REMEMBERED;

	if (index >= kept)
		return false;
	*member_out = keeper->ended[(keeper->ended_count - 1 - index) % ENDED_REMEMBERED];
	return true;
}

/* Samples: the time since the last one counts if little was left now, or something was refused meanwhile. */
static void count_time_at_limit(struct keeper *keeper, uint64_t now_ns)
{
	const struct ledger_watermarks marks = ledger_watermarks_now(keeper->ledger);
	struct ledger_view view;
	uint64_t ms = keeper->served_ns ? (now_ns - keeper->served_ns) / 1000000 : 0;

	ledger_look(keeper->ledger, &view);
	if (ms > AT_LIMIT_STEP_MAX_MS)
		ms = AT_LIMIT_STEP_MAX_MS;
	if (view.limit_pages < LEDGER_NO_LIMIT && (view.committed_pages + marks.low_pages >= view.limit_pages ||
							  view.refusals != keeper->refusals_before))
		ledger_add_at_limit(keeper->ledger, ms);
	keeper->refusals_before = view.refusals;
	/* What is less than a millisecond counts with the next step: a busy keeper is woken more often than that. */
	keeper->served_ns = keeper->served_ns && ms < AT_LIMIT_STEP_MAX_MS ? keeper->served_ns + ms * 1000000 : now_ns;
}

void keeper_serve(struct keeper *keeper, unsigned *next_ms_out)
{
	const uint64_t now_ns = os_clock_ns();
	uint64_t next_ms;

	if (keeper->pid != os_process_id()) {
		keeper->pid = os_process_id();
		members_introduce(keeper->ledger);
		ledger_set_keeper(keeper->ledger, keeper->pid, keeper->socket_name);
	}
	accept_callers(keeper, now_ns);
	const bool somebody_waits = hear_callers(keeper, now_ns);
	(void)ledger_collect_dead(keeper->ledger, true);
	remember_ended(keeper);
	count_time_at_limit(keeper, now_ns);
	/* Whoever calls more often, since a socket or a child woke it, does not have everything measured each time. */
	if (now_ns >= keeper->limit_due_ns)
		keeper->limit_due_ns = now_ns + UINT64_C(1000000) * limit_update(keeper->limit, keeper->ledger);
	next_ms = (keeper->limit_due_ns - now_ns) / 1000000 + 1;
	if (somebody_waits && next_ms > CALLER_INTERVAL_MS)
		next_ms = CALLER_INTERVAL_MS;
	*next_ms_out = (unsigned)next_ms;
}
