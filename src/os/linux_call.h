/*
 * How os_linux_*.c makes a system call: straight, so that malloc is never a cancellation point and
 * a program's own function called `read` or `send` is never ours. Memory calls go through libc, which
 * has no cancellation point there either, since the sanitizers must see them.
 */
#ifndef HF_OS_LINUX_CALL_H
#define HF_OS_LINUX_CALL_H

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The call's result, or -errno; errno is as before. Interrupted calls are -EINTR. */
#define OS_CALL_ONCE(...)                            \
	({                                           \
		const int saved_errno_ = errno;      \
		long result_ = syscall(__VA_ARGS__); \
		if (result_ == -1)                   \
			result_ = -errno;            \
		errno = saved_errno_;                \
		result_;                             \
	})

/* The same; interrupted calls are made again. */
#define OS_CALL(...)                                        \
	({                                                  \
		long again_;                                \
		do                                          \
			again_ = OS_CALL_ONCE(__VA_ARGS__); \
		while (again_ == -EINTR);                   \
		again_;                                     \
	})

#endif
