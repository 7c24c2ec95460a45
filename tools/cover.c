/*
 * Which of the processes below this one run without the drop-in? Looked at from outside, by sampling: a program that
 * runs for less than two samples is seen only if it is static or setuid, and one that is shorter than a sample not at
 * all.
 *
 * This process is a subreaper, so that all that it has started stays below it.
 */
#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	KINDS_MAX = 32,
	LEDGERS_MAX = 8, /* four inside one another are the most */
	COMMAND_BYTES = 64,
	INTERVAL_US = 250000,
	INTERVAL_MAX_US = 5000000,
	COST_FACTOR = 50,	/* 2% of one CPU */
	LOOK_AGAIN_SAMPLES = 8, /* an exec may keep the name */
};

struct process {
	pid_t pid, parent;
	unsigned long long started; /* with the pid: who it is */
	char command[COMMAND_BYTES];
	char state;
	bool is_below;
	/* From one sample to the next. */
	unsigned lacking;   /* samples in which it had no drop-in */
	unsigned countdown; /* samples until it is looked at again */
	bool is_counted;
};

struct processes {
	struct process *list;
	size_t count, room;
};

struct kind {
	char name[COMMAND_BYTES];
	const char *why;
	unsigned count;
};

static struct processes before;
static struct kind kinds[KINDS_MAX];
static size_t kind_count;
static bool noted; /* kinds[0] holds one that no sample has seen yet */

/* One more process of that name. */
static void count(const char *name, const char *why)
{
	for (size_t i = 0; i < kind_count; i++) {
		if (strcmp(kinds[i].name, name) == 0 && strcmp(kinds[i].why, why) == 0) {
			kinds[i].count++;
			return;
		}
	}
	if (kind_count == KINDS_MAX)
		return;
	(void)snprintf(kinds[kind_count].name, sizeof kinds[0].name, "%s", name);
	kinds[kind_count].why = why;
	kinds[kind_count++].count = 1;
}

void cover_note(const char *name, const char *why)
{
	count(name, why);
	noted = true;
}

bool cover_uncovered_at(size_t index, const char **name_out, const char **why_out, unsigned *count_out)
{
	if (index >= kind_count)
		return false;
	*name_out = kinds[index].name;
	*why_out = kinds[index].why;
	*count_out = kinds[index].count;
	return true;
}

static bool read_text(const char *path, char *text, size_t bytes)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return false;
	length = read(fd, text, bytes - 1);
	(void)close(fd);
	text[length > 0 ? length : 0] = '\0';
	return length > 0;
}

/* "PID (COMMAND) STATE PARENT ..."; the command may hold anything, also parentheses. */
static bool read_process(pid_t pid, struct process *process)
{
	char path[40], text[1024];
	char *open_at, *close_at, *rest, *word;

	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (!read_text(path, text, sizeof text))
		return false;
	open_at = strchr(text, '(');
	close_at = strrchr(text, ')');
	if (!open_at || !close_at || close_at < open_at)
		return false;
	*close_at = '\0';
	*process = (struct process){.pid = pid};
	make_printable(open_at + 1, process->command, sizeof process->command);
	if (close_at[1] != ' ')
		return false;
	rest = close_at + 2;
	for (int field = 3; (word = strsep(&rest, " ")); field++) {
		if (field == 3)
			process->state = *word;
		else if (field == 4 && !parse_number(word, &process->parent))
			return false;
		else if (field == 22) {
			process->started = strtoull(word, NULL, 10);
			return true;
		}
	}
	return false;
}

static void read_all(struct processes *now)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	while (proc && (entry = readdir(proc))) {
		struct process process;
		int pid;

		if (!parse_number(entry->d_name, &pid) || !read_process(pid, &process))
			continue;
		if (now->count == now->room) {
			const size_t room = now->room ? now->room * 2 : 64;
			struct process *more = reallocarray(now->list, room, sizeof *more);

			if (!more)
				break;
			now->list = more;
			now->room = room;
		}
		now->list[now->count++] = process;
	}
	if (proc)
		(void)closedir(proc);
}

static struct process *find(const struct processes *processes, pid_t pid)
{
	for (size_t i = 0; i < processes->count; i++) {
		if (processes->list[i].pid == pid)
			return &processes->list[i];
	}
	return NULL;
}

/* Marks until nothing changes; a tree is seldom deep, and parents usually come first. */
static void mark_below(struct processes *now)
{
	const pid_t self = getpid();
	bool changed = true;

	while (changed) {
		changed = false;
		for (size_t i = 0; i < now->count; i++) {
			struct process *process = &now->list[i];
			const struct process *parent;

			if (process->is_below)
				continue;
			parent = process->parent == self ? NULL : find(now, process->parent);
			if (process->parent == self || (parent && parent->is_below)) {
				process->is_below = true;
				changed = true;
			}
		}
	}
}

/* What a process has mapped, of what is ours. */
struct mapped {
	bool has_drop_in;
	unsigned long long ledgers[LEDGERS_MAX]; /* their inodes */
	size_t ledger_count;
};

/* "RANGE RIGHTS OFFSET DEVICE INODE PATH" */
static unsigned long long inode_of(char *line)
{
	for (int field = 0; field < 4; field++)
		(void)strsep(&line, " ");
	return line ? strtoull(line, NULL, 10) : 0;
}

static bool read_maps(const char *path, struct mapped *mapped)
{
	FILE *maps = fopen(path, "re");
	char line[4096];
	bool is_whole;

	*mapped = (struct mapped){.has_drop_in = false};
	if (!maps)
		return false;
	while (fgets(line, sizeof line, maps)) {
		if (strstr(line, "/libholdfast-malloc.so"))
			mapped->has_drop_in = true;
		else if (strstr(line, " /memfd:holdfast-ledger") && mapped->ledger_count < LEDGERS_MAX)
			mapped->ledgers[mapped->ledger_count++] = inode_of(line);
	}
	is_whole = !ferror(maps);
	(void)fclose(maps);
	return is_whole;
}

/* Is it in a ledger that this process has too? */
static bool shares_ledger(const struct mapped *mapped)
{
	static struct mapped own;

	if (own.ledger_count == 0)
		(void)read_maps("/proc/self/maps", &own);
	for (size_t i = 0; i < mapped->ledger_count; i++) {
		for (size_t k = 0; k < own.ledger_count; k++) {
			if (mapped->ledgers[i] == own.ledgers[k])
				return true;
		}
	}
	return false;
}

static const char *why_uncovered(struct process *process)
{
	struct mapped mapped;
	char path[40];
	const char *why;

	(void)snprintf(path, sizeof path, "/proc/%d/maps", (int)process->pid);
	if (!read_maps(path, &mapped))
		return ++process->lacking < 2 ? NULL : "it runs as somebody else";
	/* With the drop-in but without a ledger it has not yet asked for memory. */
	if (mapped.has_drop_in && (mapped.ledger_count == 0 || shares_ledger(&mapped))) {
		process->lacking = 0;
		return NULL;
	}
	if (mapped.has_drop_in)
		return "it could not reach the budget, and has one of its own";
	(void)snprintf(path, sizeof path, "/proc/%d/exe", (int)process->pid);
	why = cover_check_file(path);
	if (why)
		return why;
	/* Once may be the moment between exec and the loader, or between fork and exec. */
	return ++process->lacking < 2 ? NULL : "it was started without LD_PRELOAD";
}

static void look(struct process *process)
{
	const struct process *known = find(&before, process->pid);
	const char *why;

	if (known && known->started == process->started && strcmp(known->command, process->command) == 0) {
		process->lacking = known->lacking;
		process->countdown = known->countdown;
		process->is_counted = known->is_counted;
	}
	if (process->is_counted)
		return;
	if (process->countdown > 0 && process->lacking == 0) {
		process->countdown--;
		return;
	}
	process->countdown = LOOK_AGAIN_SAMPLES;
	why = why_uncovered(process);
	if (!why)
		return;
	process->is_counted = true;
	/* The one that was noted before it was started has been counted. */
	if (noted && strcmp(process->command, kinds[0].name) == 0 && strcmp(why, kinds[0].why) == 0)
		noted = false;
	else
		count(process->command, why);
}

static uint64_t us_of(clockid_t clock)
{
	struct timespec now;

	(void)clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void sample(void)
{
	struct processes now = {NULL, 0, 0};

	read_all(&now);
	mark_below(&now);
	for (size_t i = 0; i < now.count; i++) {
		if (now.list[i].is_below && now.list[i].state != 'Z' && now.list[i].state != 'X')
			look(&now.list[i]);
	}
	free(before.list);
	before = now;
}

unsigned cover_sample(void)
{
	static uint64_t due_us;
	const uint64_t start_us = us_of(CLOCK_MONOTONIC);

	if (start_us >= due_us) {
		/* What it costs is CPU time: waiting for a busy machine's is no reason to look less often. */
		const uint64_t used_us = us_of(CLOCK_THREAD_CPUTIME_ID);
		uint64_t interval_us;

		sample();
		interval_us = (us_of(CLOCK_THREAD_CPUTIME_ID) - used_us) * COST_FACTOR;
		if (interval_us < INTERVAL_US)
			interval_us = INTERVAL_US;
		if (interval_us > INTERVAL_MAX_US)
			interval_us = INTERVAL_MAX_US;
		due_us = start_us + interval_us;
	}
	return (unsigned)((due_us - start_us) / 1000) + 1;
}
