/*
 * A process under two ledgers has descriptors of both. The inner one was created later, and the process is a member, or
 * the keeper, of it: a launcher that has made an inner ledger for somebody else still lives in the outer one only.
 */
#include "ledger/find.h"

#include "ledger/environment.h"
#include "ledger/internal.h"
#include "os/os.h"
#include "os/proc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LINK_START "/memfd:" LEDGER_MEMFD_NAME

/* A view of the ledger behind @fd, which is closed. */
static int open_view(int fd, bool writable, struct ledger **ledger_out)
{
	const char *why;
	int error, fd_writable;

	if (!writable) {
		error = ledger_open_view(fd, false, ledger_out, &why);
	} else {
		error = os_fd_reopen(fd, &fd_writable);
		if (error == 0) {
			error = ledger_open_view(fd_writable, true, ledger_out, &why);
			os_fd_close(fd_writable);
		}
	}
	os_fd_close(fd);
	return error;
}

static bool has_part_in(const struct ledger *ledger, pid_t pid)
{
	struct ledger_view view;

	ledger_look(ledger, &view);
	if (view.keeper_pid == pid)
		return true;
	for (uint32_t i = 0; i < view.slots_high; i++) {
		struct ledger_member member;

		if (ledger_look_member(ledger, i, &member) && member.pid == pid && member.kind == LEDGER_LIVE)
			return true;
	}
	return false;
}

struct search {
	pid_t pid;
	bool writable;
	struct ledger *best; /* NULL: none yet */
	int error;	     /* why one could not be opened */
};

static bool is_inside(const struct ledger *ledger, const struct ledger *other, pid_t pid)
{
	const bool has_part = has_part_in(ledger, pid);

	if (has_part != has_part_in(other, pid))
		return has_part;
	return ledger->shared->created_ns > other->shared->created_ns;
}

static int consider_descriptor(long number, void *context)
{
	struct search *search = context;
	char path[48], target[sizeof LINK_START + 16];
	struct ledger *ledger;
	struct os_file_id id;
	int error, fd;

	(void)snprintf(path, sizeof path, "/proc/%d/fd/%ld", (int)search->pid, number);
	if (os_read_link(path, target, sizeof target) < 0 || strncmp(target, LINK_START, sizeof LINK_START - 1) != 0)
		return 0;
	error = os_open_read(path, &fd);
	if (error) {
		search->error = error;
		return 0;
	}
	/* Most have two of one ledger: their own, and what their children inherit. */
	if (search->best && os_fd_identify(fd, &id) == 0 && id.device == search->best->device &&
		id.inode == search->best->inode) {
		os_fd_close(fd);
		return 0;
	}
	error = open_view(fd, search->writable, &ledger);
	if (error) {
		search->error = error;
		return 0;
	}
	if (search->best && !is_inside(ledger, search->best, search->pid)) {
		ledger_leave(ledger);
		return 0;
	}
	if (search->best)
		ledger_leave(search->best);
	search->best = ledger;
	return 0;
}

int ledger_find_process(pid_t pid, bool writable, struct ledger **ledger_out)
{
	struct search search = {.pid = pid, .writable = writable, .error = -ENOENT};
	char path[32];
	int error;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	error = os_each_number(path, consider_descriptor, &search);
	if (search.best) {
		*ledger_out = search.best;
		return 0;
	}
	if (error == -ENOENT || error == -ESRCH)
		return -ESRCH; /* no such process */
	return error ? error : search.error;
}

int ledger_find_name(const char *name, bool writable, struct ledger **ledger_out)
{
	char socket_name[LEDGER_SOCKET_BYTES], no_cookie[LEDGER_COOKIE_CHARS + 1];
	struct ledger_view view;
	int error, fd;

	if (strlen(name) >= sizeof view.name)
		return -EINVAL;
	ledger_socket_name_of(name, socket_name);
	/* The keeper lets its own user in whatever is said. */
	memset(no_cookie, '0', LEDGER_COOKIE_CHARS);
	no_cookie[LEDGER_COOKIE_CHARS] = '\0';
	error = ledger_descriptor_via_socket(socket_name, no_cookie, &fd);
	if (error)
		return error == -ECONNREFUSED ? -ENOENT : error;
	error = open_view(fd, writable, ledger_out);
	if (error)
		return error;
	ledger_look(*ledger_out, &view);
	if (strcmp(view.name, name) == 0)
		return 0;
	ledger_leave(*ledger_out);
	return -EPROTO;
}

int ledger_find_environment(const char *text, bool writable, struct ledger **ledger_out)
{
	int fd;
	const int error = ledger_environment_descriptor(text, &fd);

	return error ? error : open_view(fd, writable, ledger_out);
}
