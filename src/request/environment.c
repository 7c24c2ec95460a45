/*
 * A variable of the environment, also in the first moments of a process: the drop-in is asked for memory before the C
 * library's constructor has set environ. The kernel's copy, /proc/self/environ, says what the variable was at exec.
 */
#include "os/os.h"
#include "request/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int copy(const char *from, char *value, size_t bytes)
{
	const size_t length = strlen(from);

	if (length >= bytes)
		return -ENOBUFS;
	memcpy(value, from, length + 1);
	return 0;
}

/* Looks for "variable=" at the start of an entry, byte by byte, since an entry may be longer than any buffer of ours.
 */
struct scan {
	const char *variable;
	size_t matched; /* bytes of variable and '=' seen in this entry; SIZE_MAX: another entry */
	size_t used;	/* of value */
	bool found;
};

/* True: the entry looked for has ended. */
static bool scan_byte(struct scan *scan, char byte, char *value, size_t bytes)
{
	const size_t length = strlen(scan->variable);

	if (scan->found) {
		if (scan->used < bytes)
			value[scan->used++] = byte;
		return byte == '\0';
	}
	if (byte == '\0')
		scan->matched = 0;
	else if (scan->matched == length && byte == '=')
		scan->found = true;
	else if (scan->matched < length && byte == scan->variable[scan->matched])
		scan->matched++;
	else
		scan->matched = SIZE_MAX;
	return false;
}

static int get_from_kernel(const char *variable, char *value, size_t bytes)
{
	struct scan scan = {.variable = variable};
	char piece[512];
	uint64_t offset = 0;
	ssize_t got;
	int fd;
	int error = os_open_read("/proc/self/environ", &fd);

	if (error)
		return -ENOENT;
	error = -ENOENT;
	while (error == -ENOENT && (got = os_read_at(fd, piece, sizeof piece, offset)) > 0) {
		offset += (uint64_t)got;
		for (ssize_t i = 0; i < got && error == -ENOENT; i++) {
			if (scan_byte(&scan, piece[i], value, bytes))
				error = scan.used > 0 && value[scan.used - 1] == '\0' ? 0 : -ENOBUFS;
		}
	}
	os_fd_close(fd);
	return error;
}

int environment_get(const char *variable, char *value, size_t bytes)
{
	const char *found;

	if (!environ)
		return get_from_kernel(variable, value, bytes);
	found = getenv(variable);
	return found ? copy(found, value, bytes) : -ENOENT;
}
