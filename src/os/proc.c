#include "os/proc.h"

#include "os/linux_call.h"
#include "os/os.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>

ssize_t os_read_link(const char *path, char *text, size_t bytes)
{
	const long length = OS_CALL(SYS_readlinkat, AT_FDCWD, path, text, bytes);

	if (length < 0)
		return length;
	if ((size_t)length >= bytes)
		return -ENAMETOOLONG;
	text[length] = '\0';
	return length;
}

/* -1: not a number. */
static long number_of(const char *name)
{
	long number = 0;

	if (*name == '\0')
		return -1;
	for (; *name; name++) {
		if (*name < '0' || *name > '9' || number > INT32_MAX / 10)
			return -1;
		number = number * 10 + (*name - '0');
	}
	return number;
}

int os_each_number(const char *directory, int (*each)(long number, void *context), void *context)
{
	char buffer[4096] __attribute__((aligned(8)));
	int result = 0;
	long bytes = 1;
	int fd;

	result = os_open_read(directory, &fd);
	if (result)
		return result;
	while (result == 0 && bytes > 0) {
		bytes = OS_CALL(SYS_getdents64, fd, buffer, sizeof buffer);
		if (bytes < 0)
			result = (int)bytes;
		for (long at = 0; result == 0 && at < bytes;) {
			const struct dirent64 *entry = (const void *)(buffer + at);
			const long number = number_of(entry->d_name);

			if (number >= 0)
				result = each(number, context);
			at += entry->d_reclen;
		}
	}
	os_fd_close(fd);
	return result;
}

bool os_fd_is_readable(int fd)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	const struct timespec at_once = {0};

	return OS_CALL(SYS_ppoll, &ready, 1L, &at_once, NULL, 0L) == 1;
}
