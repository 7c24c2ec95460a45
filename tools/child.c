/*
 * The program that is run: started, sent the signals that we get, and waited for; and the orphans that are left to us,
 * since we are a subreaper, are reaped.
 *
 * A signal from the terminal goes to the whole foreground process group, the program included; only what somebody has
 * sent to us alone is passed on.
 */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static const int passed_on[] = {
	SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGWINCH};

static sigset_t mask_before;
static int signal_fd = -1;

void child_take_signals(void)
{
	sigset_t mask;

	sigemptyset(&mask);
	for (size_t i = 0; i < sizeof passed_on / sizeof passed_on[0]; i++)
		sigaddset(&mask, passed_on[i]);
	sigaddset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, &mask_before) != 0)
		fail("cannot block signals: %s", strerror(errno));
	/* An ignored SIGCHLD, as some callers leave it behind, would reap the program before we can. */
	(void)signal(SIGCHLD, SIG_DFL);
	signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signal_fd < 0)
		fail("cannot receive signals: %s", strerror(errno));
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* without it orphans go to init: no harm to the budget */
}

int child_signal_fd(void)
{
	return signal_fd;
}

static void run_child(char **argv, int error_fd)
{
	int error;

	(void)sigprocmask(SIG_SETMASK, &mask_before, NULL);
	(void)execvp(argv[0], argv);
	error = errno;
	if (write(error_fd, &error, sizeof error) != sizeof error)
		_exit(EXIT_OWN_FAILURE);
	_exit(EXIT_CANNOT_EXECUTE);
}

int child_start(char **argv, struct child *child)
{
	int error = 0, error_pipe[2];

	*child = (struct child){.pid = -1};
	if (pipe2(error_pipe, O_CLOEXEC) != 0) {
		complain("cannot make a pipe: %s", strerror(errno));
		return EXIT_OWN_FAILURE;
	}
	child->pid = fork();
	if (child->pid == 0)
		run_child(argv, error_pipe[1]);
	(void)close(error_pipe[1]);
	if (child->pid < 0) {
		complain("cannot fork: %s", strerror(errno));
		(void)close(error_pipe[0]);
		return EXIT_OWN_FAILURE;
	}
	if (read(error_pipe[0], &error, sizeof error) != sizeof error)
		error = 0; /* closed by a successful exec */
	(void)close(error_pipe[0]);
	if (error == 0)
		return 0;
	(void)waitpid(child->pid, NULL, 0);
	complain("cannot execute '%s': %s", argv[0], strerror(error));
	return error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
}

/* The shell that started us must see that the job has stopped. */
static void follow_stop(int signal_number)
{
	if (signal_number == SIGTSTP || signal_number == SIGTTIN || signal_number == SIGTTOU)
		(void)raise(SIGSTOP);
}

static void reap(struct child *child)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		if (pid != child->pid)
			continue;
		if (WIFSTOPPED(status)) {
			follow_stop(WSTOPSIG(status));
			continue;
		}
		child->ended = true;
		child->status = WIFSIGNALED(status) ? EXIT_SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
	}
}

static void pass_on(const struct child *child, const struct signalfd_siginfo *info)
{
	const int number = (int)info->ssi_signo;
	const bool from_kernel = info->ssi_code > 0; /* SI_USER, SI_QUEUE and SI_TKILL are not */

	if (child->ended)
		return;
	/* Our group is the program's, unless it made one of its own; then the terminal's signals are none of ours. */
	if (from_kernel && number != SIGCONT && number != SIGALRM)
		return;
	(void)kill(child->pid, number);
}

void child_handle_signals(struct child *child)
{
	struct signalfd_siginfo info;

	while (read(signal_fd, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo != SIGCHLD)
			pass_on(child, &info);
	}
	reap(child);
}

bool child_has_orphans(void)
{
	siginfo_t info;

	/* Anybody at all: waits for nobody, reaps nobody. */
	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}
