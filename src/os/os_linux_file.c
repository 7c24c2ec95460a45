#include "os/linux_call.h"
#include "os/os.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; without it such a kernel warns, or refuses */
#endif

static int open_file(const char *path, int flags, int *fd_out)
{
	const long fd = OS_CALL(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);

	if (fd < 0)
		return (int)fd;
	*fd_out = (int)fd;
	return 0;
}

static int make_memfd(const char *name, int *fd_out)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	long fd = OS_CALL(SYS_memfd_create, name, flags | MFD_NOEXEC_SEAL);

	if (fd == -EINVAL)
		fd = OS_CALL(SYS_memfd_create, name, flags);
	if (fd < 0)
		return (int)fd;
	*fd_out = (int)fd;
	return 0;
}

int os_memfd(const char *name, size_t bytes, int *fd_out)
{
	int fd = -1;
	long result = make_memfd(name, &fd);

	if (result)
		return (int)result;
	result = OS_CALL(SYS_fchmod, fd, 0600);
	if (result == 0)
		result = OS_CALL(SYS_ftruncate, fd, bytes);
	if (result == 0)
		result = OS_CALL(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (result < 0)
		goto undo_create;
	*fd_out = fd;
	return 0;
undo_create:
	os_fd_close(fd);
	return (int)result;
}

int os_fd_reopen(int fd, int *fd_out)
{
	char path[40];

	if (fd < 0)
		return -EBADF;
	/* Not /proc/self: that is the first thread, which may have exited, and then has no descriptors. */
	(void)snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
	return open_file(path, O_RDWR, fd_out);
}

int os_fd_duplicate_high(int fd, bool close_on_exec, int *fd_out)
{
	/* Not at the very top: the kernel's table of descriptors is as long as the highest one. */
	static const int lowest[] = {1000, 500, 200, 60, 10, 3};
	const int command = close_on_exec ? F_DUPFD_CLOEXEC : F_DUPFD;
	long result = -EMFILE;

	for (size_t i = 0; i < HF_COUNT_OF(lowest); i++) {
		result = OS_CALL(SYS_fcntl, fd, command, lowest[i]);
		if (result >= 0) {
			*fd_out = (int)result;
			return 0;
		}
		if (result != -EINVAL && result != -EMFILE) /* EINVAL: above RLIMIT_NOFILE */
			break;
	}
	return result == -EINVAL ? -EMFILE : (int)result;
}

void os_fd_close(int fd)
{
	(void)OS_CALL_ONCE(SYS_close, fd); /* never again on EINTR: it is closed, and may be somebody else's */
}

int os_fd_identify(int fd, struct os_file_id *id_out)
{
	const int saved_errno = errno;
	struct stat status;
	long seals;

	if (fstat(fd, &status) != 0) {
		const int result = -errno;

		errno = saved_errno;
		return result;
	}
	seals = OS_CALL(SYS_fcntl, fd, F_GET_SEALS, 0);
	*id_out = (struct os_file_id){
		.device = status.st_dev,
		.inode = status.st_ino,
		.bytes = (uint64_t)status.st_size,
		.owner = status.st_uid,
		.sealed = seals >= 0 && (seals & F_SEAL_SHRINK) && (seals & F_SEAL_GROW),
	};
	return 0;
}

static int lock_call(int fd, uint64_t offset, int command, short type, short *type_out)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};
	long result;

	if (offset > INT64_MAX - 1)
		return -EINVAL;
	result = OS_CALL(SYS_fcntl, fd, command, &lock);
	*type_out = lock.l_type;
	return (int)result;
}

int os_lock_byte(int fd, uint64_t offset)
{
	short ignored;
	const int result = lock_call(fd, offset, F_OFD_SETLK, F_WRLCK, &ignored);

	return result == -EACCES ? -EAGAIN : result;
}

void os_unlock_byte(int fd, uint64_t offset)
{
	short ignored;

	(void)lock_call(fd, offset, F_OFD_SETLK, F_UNLCK, &ignored); /* unlocking what is ours needs nothing */
}

int os_lock_test(int fd, uint64_t offset)
{
	short type = F_UNLCK;
	const int result = lock_call(fd, offset, F_OFD_GETLK, F_WRLCK, &type);

	return result < 0 ? result : type != F_UNLCK;
}

ssize_t os_read_small(const char *path, char *text, size_t bytes)
{
	size_t used = 0;
	long part;
	int fd = -1;
	int result;

	if (bytes == 0)
		return -EINVAL;
	text[0] = '\0';
	result = open_file(path, O_RDONLY, &fd);
	if (result)
		return result;
	do {
		part = OS_CALL(SYS_read, fd, text + used, bytes - 1 - used);
		if (part > 0)
			used += (size_t)part;
	} while (part > 0 && used < bytes - 1);
	os_fd_close(fd);
	text[used] = '\0';
	return part < 0 ? part : (ssize_t)used;
}

ssize_t os_read_at(int fd, void *data, size_t bytes, uint64_t offset)
{
	return OS_CALL(SYS_pread64, fd, data, bytes, offset);
}

int os_open_read(const char *path, int *fd_out)
{
	return open_file(path, O_RDONLY, fd_out);
}

/* The longest time that a message waits for its reader: a program must not hang for a warning. */
enum { WRITE_WAIT_MS = 1000 };

static void write_all(const char *text, size_t bytes)
{
	while (bytes > 0) {
		struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
		const struct timespec wait = {.tv_sec = WRITE_WAIT_MS / 1000};
		long part;

		/* Ready means room for PIPE_BUF bytes, so that even a blocking descriptor does not block. */
		if (OS_CALL(SYS_ppoll, &ready, 1L, &wait, NULL, 0L) != 1)
			return;
		part = OS_CALL(SYS_write, STDERR_FILENO, text, bytes);
		if (part == -EAGAIN)
			continue; /* somebody else filled it in between: poll again, which waits or ends */
		if (part <= 0)
			return;
		text += part;
		bytes -= (size_t)part;
	}
}

void os_write_error(const char *text, size_t bytes)
{
	/* A reader that is gone must not kill the program: SIGPIPE is held back, and eaten if it was not pending
	 * before. */
	const uint64_t pipe_only = (uint64_t)1 << (SIGPIPE - 1);
	const struct timespec at_once = {0};
	uint64_t mask_before = 0, pending_before = 0, pending = 0;

	if (OS_CALL(SYS_rt_sigprocmask, SIG_BLOCK, &pipe_only, &mask_before, sizeof pipe_only) != 0)
		return;
	(void)OS_CALL(SYS_rt_sigpending, &pending_before, sizeof pending_before);
	write_all(text, bytes);
	(void)OS_CALL(SYS_rt_sigpending, &pending, sizeof pending);
	if (pending & ~pending_before & pipe_only)
		(void)OS_CALL(SYS_rt_sigtimedwait, &pipe_only, NULL, &at_once, sizeof pipe_only);
	(void)OS_CALL(SYS_rt_sigprocmask, SIG_SETMASK, &mask_before, NULL, sizeof mask_before);
}

void os_start(void)
{
	base_set_writer(os_write_error);
}

/* Before the constructors of the program; who allocates even earlier calls os_start() itself. */
__attribute__((constructor(101))) static void start_early(void)
{
	os_start();
}
