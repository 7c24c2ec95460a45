/*
 * 200 shells at once, over the drop-in and under one budget of 64 MiB: none is refused anything, and each is committed
 * at most 256 KiB more than the kernel says is resident in its heap.
 *
 * small_processes DROPIN SHELL [count]; exit status 77: skipped.
 */
#include "ledger/environment.h"
#include "ledger/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_PAGES = 64 << 8, ALLOWED_PAGES = 64, PAGE = 4096, READY_FD = 7, GATE_FD = 8 };

static void die(const char *what)
{
	fprintf(stderr, "small_processes: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Says that it is there, and waits until the gate is closed. */
static const char script[] =
	"x=$(echo started); for i in 1 2 3 4 5 6 7 8 9; do y=$y$x$i; done; echo ready >&7; read line <&8; "
	"[ ${#y} = 72 ]";

/* One digit is all that a shell can redirect; so out of the way of those first. The pipes' own are close-on-exec. */
static void give(int fd, int as)
{
	const int high = fcntl(fd, F_DUPFD_CLOEXEC, 100);

	if (high < 0 || dup2(high, as) < 0)
		_exit(126);
}

static pid_t start_shell(const char *dropin, const char *shell, int ready_fd, int gate_fd)
{
	const pid_t pid = fork();

	if (pid != 0)
		return pid;
	const int ready_high = fcntl(ready_fd, F_DUPFD_CLOEXEC, 100);
	give(gate_fd, GATE_FD);
	give(ready_high, READY_FD);
	(void)setenv("LD_PRELOAD", dropin, 1);
	execlp(shell, shell, "-c", script, NULL);
	_exit(127);
}

static uint64_t resident_pages(pid_t pid, uint64_t heap_low, uint64_t heap_high)
{
	char path[64], line[512];
	uint64_t low, high, kib, total = 0;
	bool in_heap = false;

	snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		die(path);
	while (fgets(line, sizeof line, file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &low, &high) == 2)
			in_heap = low >= heap_low && high <= heap_high;
		else if (in_heap && sscanf(line, "Rss: %" SCNu64, &kib) == 1)
			total += kib;
	}
	fclose(file);
	return total * 1024 / PAGE;
}

static bool check_members(struct ledger *ledger, unsigned shells)
{
	struct ledger_view view;
	struct ledger_member member;
	uint64_t most_excess = 0, most_committed = 0;
	unsigned found = 0;

	(void)ledger_collect_dead(ledger, true); /* the shells' own children */
	ledger_look(ledger, &view);
	for (uint32_t i = 0; i < view.slots_high; i++) {
		if (!ledger_look_member(ledger, i, &member) || member.kind != LEDGER_LIVE || member.pid == getpid())
			continue;
		const uint64_t resident = resident_pages(member.pid, member.heap_low, member.heap_high);
		const uint64_t excess = member.committed_pages > resident ? member.committed_pages - resident : 0;

		found++;
		if (excess > most_excess)
			most_excess = excess;
		if (member.committed_pages > most_committed)
			most_committed = member.committed_pages;
	}
	printf("%u shells: %" PRIu64 " KiB committed in all; at most %" PRIu64 " KiB each, at most %" PRIu64
	       " KiB more than resident; %" PRIu64 " refused\n",
		found, view.committed_pages * 4, most_committed * 4, most_excess * 4, view.refusals);
	return found == shells && most_excess <= ALLOWED_PAGES && view.refusals == 0;
}

static void wait_until_ready(int fd, unsigned shells)
{
	unsigned lines = 0;
	char text[4096];

	while (lines < shells) {
		const ssize_t got = read(fd, text, sizeof text);

		if (got <= 0)
			break; /* all have ended: the check will say so */
		for (ssize_t i = 0; i < got; i++)
			lines += text[i] == '\n';
	}
}

int main(int argc, char **argv)
{
	const struct ledger_spec spec = {.name = "shells", .limit_pages = LIMIT_PAGES};
	const unsigned shells = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 200;
	struct ledger *ledger;
	static char text[600];
	int ready[2], gate[2], status;
	unsigned failed = 0;

	if (argc < 3)
		return 2;
	if (ledger_create(&spec, &ledger) != 0 || ledger_environment_format(ledger, text, sizeof text) != 0)
		die("ledger");
	(void)unsetenv("HOLDFAST");
	(void)putenv(text);
	if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(gate, O_CLOEXEC) != 0)
		die("pipe");
	for (unsigned i = 0; i < shells; i++)
		if (start_shell(argv[1], argv[2], ready[1], gate[0]) < 0)
			die("fork");
	close(ready[1]);
	close(gate[0]);
	wait_until_ready(ready[0], shells);
	const bool fine = check_members(ledger, shells);
	close(gate[1]);
	while (wait(&status) > 0)
		failed += status != 0;
	if (failed)
		printf("%u shells failed (last status 0x%x)\n", failed, (unsigned)status);
	return fine && failed == 0 ? 0 : 1;
}
