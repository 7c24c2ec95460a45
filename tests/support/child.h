/*
 * Runs a piece of a test in a forked child, whose death and messages are the result.
 */
#ifndef HF_TESTS_SUPPORT_CHILD_H
#define HF_TESTS_SUPPORT_CHILD_H

#include <errno.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* The status of waitpid. */
static inline int child_wait(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/*
 * Calls @body in a child, which then exits with what @body returns; its standard error is put into @text, ended by NUL.
 * Returns the status of waitpid. No core file is left behind.
 */
static inline int child_run(int (*body)(void *context), void *context, char *text, size_t bytes)
{
	const struct rlimit no_core = {0, 0};
	size_t used = 0;
	int ends[2];
	pid_t pid;

	text[0] = '\0';
	if (pipe(ends) != 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		(void)setrlimit(RLIMIT_CORE, &no_core);
		(void)dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		_exit(body(context));
	}
	close(ends[1]);
	for (;;) {
		char rest[256];
		/* What does not fit is read too, so that the child does not wait for us. */
		const ssize_t part = used < bytes - 1 ? read(ends[0], text + used, bytes - 1 - used)
						      : read(ends[0], rest, sizeof rest);

		if (part < 0 && errno == EINTR)
			continue;
		if (part <= 0)
			break;
		if (used < bytes - 1)
			used += (size_t)part;
	}
	text[used] = '\0';
	close(ends[0]);
	return pid < 0 ? -1 : child_wait(pid);
}

/* The same for a child of which only the exit status matters: 0 if it ended with 0. */
static inline int child_check(int (*body)(void *context), void *context)
{
	const pid_t pid = fork();

	if (pid == 0)
		_exit(body(context));
	return pid < 0 ? -1 : child_wait(pid);
}

#endif
