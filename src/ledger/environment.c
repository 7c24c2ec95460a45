/*
 * HOLDFAST_LEDGER, and what a client says to a keeper: one packet, the cookie's 32 digits; the answer is one packet,
 * with a descriptor if the keeper lets the client in. See keeper.c for the other side.
 *
 * A socket's name may have been taken by somebody else after the keeper has gone. So the file must belong to root or to
 * this process's user, and the ledger in it must carry the cookie.
 */
#include "ledger/environment.h"

#include "ledger/internal.h"
#include "ledger/ledger.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct entry {
	int fd; /* -1: none */
	char cookie[LEDGER_COOKIE_CHARS + 1];
	char socket_name[LEDGER_SOCKET_BYTES];
};

/* Reads "FD,COOKIE,SOCKET". The text behind it ("" or what follows the semicolon), or NULL. */
static const char *parse_entry(const char *text, struct entry *entry)
{
	size_t length;
	int64_t fd = 0;

	if (*text < '0' || *text > '9')
		return NULL;
	for (; *text >= '0' && *text <= '9'; text++) {
		fd = fd * 10 + (*text - '0');
		if (fd > INT32_MAX)
			return NULL;
	}
	entry->fd = (int)fd;
	if (*text++ != ',')
		return NULL;
	length = strspn(text, "0123456789abcdef");
	if (length != LEDGER_COOKIE_CHARS || text[length] != ',')
		return NULL;
	memcpy(entry->cookie, text, length);
	entry->cookie[length] = '\0';
	text += length + 1;
	length = strcspn(text, ";");
	if (length >= sizeof entry->socket_name)
		return NULL;
	memcpy(entry->socket_name, text, length);
	entry->socket_name[length] = '\0';
	return text[length] == ';' ? text + length + 1 : text + length;
}

static bool carries(const struct ledger *ledger, const char *cookie)
{
	char own[LEDGER_COOKIE_CHARS + 1];

	ledger_cookie(ledger, own);
	return strcmp(own, cookie) == 0;
}

/* ---- by way of the keeper ---- */

static int check_descriptor(int fd)
{
	struct os_file_id id;
	const int error = os_fd_identify(fd, &id);

	if (error)
		return error;
	return id.owner == 0 || id.owner == os_user_id() ? 0 : -EACCES;
}

int ledger_descriptor_via_socket(const char *socket_name, const char *cookie, int *fd_out)
{
	char answer[16];
	int socket, fd = -1;
	ssize_t bytes;
	int error;

	if (*socket_name == '\0' || strlen(cookie) != LEDGER_COOKIE_CHARS)
		return -ECONNREFUSED;
	error = os_socket_connect(socket_name, &socket);
	if (error)
		return error;
	bytes = os_socket_send(socket, cookie, LEDGER_COOKIE_CHARS, -1);
	/* EPIPE: it has answered, and gone, already. */
	if (bytes >= 0 || bytes == -EPIPE)
		bytes = os_socket_receive(socket, answer, sizeof answer, &fd);
	/* It has closed without reading what we said; that is told first, and the answer then is still there. */
	if (bytes == -ECONNRESET)
		bytes = os_socket_receive(socket, answer, sizeof answer, &fd);
	os_fd_close(socket);
	if (bytes < 0)
		return bytes == -EAGAIN ? -ETIMEDOUT : (int)bytes;
	if (fd < 0)
		return -EACCES;
	error = check_descriptor(fd);
	if (error) {
		os_fd_close(fd);
		return error;
	}
	*fd_out = fd;
	return 0;
}

static const char *why_not(int error)
{
	switch (error) {
	case -EACCES:
		return "the keeper does not let it in";
	case -ETIMEDOUT:
		return "its descriptor is closed and the keeper does not answer in time";
	case -ECONNREFUSED:
		return "its descriptor is closed and there is no keeper";
	case -EMFILE:
	case -ENFILE:
		return "there are too many open files to ask the keeper";
	case -EPROTO:
	case -EMSGSIZE:
		return "who answers in the keeper's place speaks another language";
	default:
		return "its descriptor is closed and asking the keeper failed";
	}
}

int ledger_join_via_socket(
	const char *socket_name, const char *cookie, struct ledger **ledger_out, const char **why_out)
{
	int fd = -1;
	int error = ledger_descriptor_via_socket(socket_name, cookie, &fd);

	*why_out = why_not(error);
	if (error)
		return error;
	error = ledger_join_fresh(fd, ledger_out, why_out);
	os_fd_close(fd);
	if (error == 0 && !carries(*ledger_out, cookie)) {
		ledger_leave(*ledger_out);
		*why_out = "the keeper has given out another ledger";
		return -EPROTO;
	}
	return error;
}

/* ---- the variable ---- */

/* By the descriptor. -ENOENT: it is something else, or nothing. */
static int join_descriptor(const struct entry *entry, struct ledger **ledger_out, const char **why_out)
{
	struct os_file_id id;
	int error;

	if (os_fd_identify(entry->fd, &id) != 0 || !id.sealed)
		return -ENOENT;
	error = ledger_join(entry->fd, ledger_out, why_out);
	if (error == 0 && !carries(*ledger_out, entry->cookie)) {
		ledger_leave(*ledger_out);
		return -ENOENT;
	}
	return error;
}

static int join_entry(const struct entry *entry, struct ledger **ledger_out, const char **why_out)
{
	const char *why = NULL;
	const int first = join_descriptor(entry, ledger_out, &why);
	int error;

	if (first == 0)
		return 0;
	/* These are the ledger's own words; another descriptor would not change them. */
	if (first == -EUSERS || first == -EPROTONOSUPPORT || first == -ENOMEM) {
		*why_out = why;
		return first;
	}
	error = ledger_join_via_socket(entry->socket_name, entry->cookie, ledger_out, why_out);
	if (error && first == -EPROTO) {
		*why_out = why;
		return first;
	}
	return error;
}

int ledger_join_environment(const char *text, struct ledger **ledger_out, const char **why_out)
{
	struct ledger *innermost = NULL;
	int depth = 0;
	int error;

	*why_out = "HOLDFAST_LEDGER is not of the form FD,COOKIE,SOCKET";
	do {
		struct ledger *ledger;
		struct entry entry;

		text = parse_entry(text, &entry);
		error = !text ? -EINVAL : ++depth > LEDGER_DEPTH_MAX ? -ELOOP : 0;
		if (error == 0)
			error = join_entry(&entry, &ledger, why_out);
		if (error)
			goto leave;
		if (innermost)
			error = ledger_nest(innermost, ledger);
		else
			innermost = ledger;
		if (error) {
			ledger_leave(ledger);
			goto leave;
		}
	} while (*text);
	*ledger_out = innermost;
	return 0;
leave:
	if (error == -ELOOP)
		*why_out = "HOLDFAST_LEDGER names more than four ledgers inside one another";
	if (innermost)
		ledger_leave(innermost);
	return error;
}

int ledger_environment_descriptor(const char *text, int *fd_out)
{
	struct ledger *view;
	struct entry entry;
	const char *why;

	if (!parse_entry(text, &entry))
		return -EINVAL;
	if (ledger_open_view(entry.fd, false, &view, &why) == 0) {
		const bool right = carries(view, entry.cookie);

		ledger_leave(view);
		if (right)
			return os_fd_duplicate_high(entry.fd, true, fd_out);
	}
	return ledger_descriptor_via_socket(entry.socket_name, entry.cookie, fd_out) == 0 ? 0 : -ENOENT;
}

void ledger_socket_name_of(const char *name, char socket_name_out[LEDGER_SOCKET_BYTES])
{
	(void)snprintf(socket_name_out, LEDGER_SOCKET_BYTES, "holdfast.%u.%.31s", (unsigned)os_user_id(), name);
}

int ledger_environment_format(struct ledger *ledger, char *text, size_t bytes)
{
	size_t used = 0;
	int written = snprintf(text, bytes, "%s=", LEDGER_ENVIRONMENT);

	for (; ledger; ledger = ledger_outer(ledger)) {
		char cookie[LEDGER_COOKIE_CHARS + 1], socket_name[65];
		int fd, error;

		used += (size_t)written;
		if (used >= bytes)
			return -ENOBUFS;
		ledger_cookie(ledger, cookie);
		ledger_socket_name(ledger, socket_name);
		/* One that survives exec: it is what the children inherit. */
		error = os_fd_duplicate_high(ledger_descriptor(ledger), false, &fd);
		if (error)
			return error;
		written = snprintf(text + used, bytes - used, "%d,%s,%s%s", fd, cookie, socket_name,
			ledger_outer(ledger) ? ";" : "");
	}
	return used + (size_t)written < bytes ? 0 : -ENOBUFS;
}

void ledger_environment_close(const struct ledger *ledger, const char *text)
{
	struct entry entry;
	struct os_file_id id;

	text = strchr(text, '=');
	for (text = text ? text + 1 : NULL; ledger && text && *text; ledger = ledger->outer) {
		text = parse_entry(text, &entry);
		if (text && os_fd_identify(entry.fd, &id) == 0 && id.device == ledger->device &&
			id.inode == ledger->inode)
			os_fd_close(entry.fd);
	}
}
