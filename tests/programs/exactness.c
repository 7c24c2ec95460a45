/*
 * Is what the kernel charges for the heaps never more than what the ledger says is committed?
 *
 * Eight processes under one ledger allocate, free, resize, trim and, with "forks", fork, exit and are killed at random,
 * at the limit. The monitor stops all of them wherever they are, and then counts, by the kernel's own account:
 *   heap     distinct physical pages in the heaps' address ranges (pagemap): what the sum of Pss would be, in whole
 * pages charged  the cgroup's charge, less kernel memory, files, and the anonymous pages that are not heap Neither may
 * exceed committed + what copy-on-write may have duplicated: at most the inherited pages that members hold, and at most
 * the addresses at which two processes have different pages. Without forks that is nothing. committed <= limit. The
 * charge is known up to what each CPU keeps in stock: 64 pages.
 *
 * exactness [forks|alone] [seconds]; SEED=n replays the workers' choices (not their timing). Needs root and a memory
 * cgroup (v1 or v2); exit status 77: skipped.
 */
#include "ledger/environment.h"
#include "ledger/ledger.h"

#include <holdfast/holdfast.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	WORKERS = 8,
	LIMIT_PAGES = 64 << 8,
	OBJECTS = 120,
	STOCK_PAGES = 64,
	PROCESSES_MAX = 256,
	PAGE = 4096,
	SKIPPED = 77
};

static void die(const char *what)
{
	fprintf(stderr, "exactness: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- the workers ---- */

static uint32_t seed;

static uint32_t draw(uint32_t below)
{
	seed = seed * 1664525u + 1013904223u;
	return (seed >> 8) % below;
}

static unsigned char *objects[OBJECTS];
static size_t sizes[OBJECTS];

static size_t draw_bytes(void)
{
	const uint32_t kind = draw(100);

	return 1 + (kind < 60 ? draw(600) : kind < 85 ? draw(40000) : kind < 97 ? draw(600000) : draw(5 << 20));
}

/* Writes every page, so that all that is committed also becomes resident; one page in four stays untouched for some. */
static void touch(size_t i, size_t from)
{
	for (size_t at = from; at < sizes[i]; at += PAGE)
		if (i % 4 || (at / PAGE) % 4)
			objects[i][at] = (unsigned char)i;
	objects[i][sizes[i] - 1] = (unsigned char)i;
}

static void drop(size_t i)
{
	if (objects[i] && objects[i][sizes[i] - 1] != (unsigned char)i)
		abort();
	hf_free(objects[i]);
	objects[i] = NULL;
}

static void churn_step(void)
{
	const size_t i = draw(OBJECTS);
	const size_t bytes = draw_bytes();

	if (!objects[i]) {
		objects[i] = draw(3) ? hf_alloc(bytes, HF_RETRY | HF_NOWARN) : hf_zalloc(bytes, HF_NORETRY | HF_NOWARN);
		sizes[i] = bytes;
		if (objects[i])
			touch(i, 0);
	} else if (draw(4) == 0) {
		unsigned char *moved = hf_realloc(objects[i], bytes, HF_RETRY | HF_NOWARN);

		if (!moved)
			return;
		const size_t from = sizes[i] < bytes ? sizes[i] : 0;
		objects[i] = moved;
		sizes[i] = bytes;
		touch(i, from);
	} else {
		drop(i);
	}
}

static void fork_one(unsigned depth);

static void churn(unsigned steps, bool forks, unsigned depth)
{
	while (steps--) {
		churn_step();
		if (draw(500) == 0)
			(void)hf_trim();
		if (draw(300) == 0)
			for (size_t i = 0; i < OBJECTS; i++)
				if (i % 3)
					drop(i);
		if (forks && depth < 2 && draw(400) == 0)
			fork_one(depth);
		if (forks)
			while (waitpid(-1, NULL, WNOHANG) > 0)
				;
	}
}

static void fork_one(unsigned depth)
{
	const pid_t pid = fork();

	if (pid != 0)
		return;
	seed ^= (uint32_t)getpid() * 2654435761u;
	churn(draw(1500), true, depth + 1);
	if (draw(2))
		(void)raise(SIGKILL);
	_exit(0);
}

static int worker(const char *number, bool forks)
{
	seed = (uint32_t)strtoul(number, NULL, 10);
	for (;;) {
		churn(1000, forks, 0);
		if (getppid() == 1)
			return 0; /* the monitor is gone */
	}
}

/* ---- the cgroup ---- */

static char group[1024];
static bool is_v2;

static void write_text(const char *path, const char *text)
{
	const int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

static bool make_group_under(const char *parent, bool v2)
{
	snprintf(group, sizeof group, "%s/holdfast-exactness-%d", parent, (int)getpid());
	is_v2 = v2;
	if (mkdir(group, 0755) != 0)
		return false;
	char path[1100];
	snprintf(path, sizeof path, v2 ? "%s/memory.current" : "%s/memory.usage_in_bytes", group);
	if (access(path, R_OK) == 0)
		return true;
	rmdir(group);
	return false;
}

/* A child of the group that /proc/self/cgroup names, or of the root where that path cannot be seen. */
static bool make_group(void)
{
	static const char v1[] = "/sys/fs/cgroup/memory", v2[] = "/sys/fs/cgroup";
	char line[512], parent[800];
	FILE *file = fopen("/proc/self/cgroup", "re");
	bool made = false;

	while (file && !made && fgets(line, sizeof line, file)) {
		char *path = strchr(line, ':');
		char *end = strchr(line, '\n');

		path = path ? strchr(path + 1, ':') : NULL;
		if (!path || !end)
			continue;
		*end = '\0';
		const bool unified = strncmp(line, "0::", 3) == 0;
		if (!unified && !strstr(line, ":memory:"))
			continue;
		snprintf(parent, sizeof parent, "%s%s", unified ? v2 : v1, path + 1);
		made = make_group_under(parent, unified);
	}
	if (file)
		fclose(file);
	return made || make_group_under(v1, false) || make_group_under(v2, true);
}

static uint64_t group_number(const char *name)
{
	char path[1100];
	uint64_t number = 0;

	snprintf(path, sizeof path, "%s/%s", group, name);
	FILE *file = fopen(path, "re");
	if (!file || fscanf(file, "%" SCNu64, &number) != 1)
		die(path);
	fclose(file);
	return number;
}

static uint64_t group_stat(const char *field)
{
	char path[1100], name[64];
	uint64_t number, found = 0;

	snprintf(path, sizeof path, "%s/memory.stat", group);
	FILE *file = fopen(path, "re");
	if (!file)
		die(path);
	while (fscanf(file, "%63s %" SCNu64, name, &number) == 2)
		if (strcmp(name, field) == 0)
			found = number;
	fclose(file);
	return found;
}

/* Anonymous memory that the group is charged with, up to what the CPUs have in stock. */
static uint64_t charged_pages(void)
{
	const uint64_t usage = group_number(is_v2 ? "memory.current" : "memory.usage_in_bytes");
	const uint64_t kernel = is_v2 ? group_stat("kernel") : group_number("memory.kmem.usage_in_bytes");
	const uint64_t files = group_stat(is_v2 ? "file" : "cache");

	return usage > kernel + files ? (usage - kernel - files) / PAGE : 0;
}

/* ---- physical pages ---- */

struct page {
	uint64_t frame;
	uint64_t address; /* of a heap, in pages; 0: not heap */
};

static struct page *pages;
static size_t page_count, page_room;

static void add_page(uint64_t frame, uint64_t address)
{
	if (page_count == page_room) {
		page_room = page_room ? 2 * page_room : 1 << 16;
		pages = realloc(pages, page_room * sizeof *pages);
		if (!pages)
			die("memory for the monitor");
	}
	pages[page_count++] = (struct page){frame, address};
}

/* The anonymous pages of one mapping. */
static void add_mapping(int pagemap, uint64_t low, uint64_t high, uint64_t heap_low, uint64_t heap_high)
{
	static uint64_t entries[4096];

	for (uint64_t at = low / PAGE; at < high / PAGE;) {
		const uint64_t left = high / PAGE - at;
		const size_t wanted = (left < 4096 ? left : 4096) * sizeof entries[0];
		const ssize_t got = pread(pagemap, entries, wanted, (off_t)(at * sizeof entries[0]));

		if (got <= 0)
			return; /* vsyscall, or it has just ended */
		for (size_t i = 0; i < (size_t)got / sizeof entries[0]; i++, at++) {
			const uint64_t frame = entries[i] & ((UINT64_C(1) << 55) - 1);

			if (entries[i] >> 63 && !(entries[i] >> 61 & 1) && frame != 0)
				add_page(frame, at * PAGE >= heap_low && at * PAGE < heap_high ? at : 0);
		}
	}
}

static void add_process(pid_t pid, uint64_t heap_low, uint64_t heap_high)
{
	char path[64], line[512];
	uint64_t low, high;

	snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
	const int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
	FILE *maps = fopen(path, "re");
	while (pagemap >= 0 && maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &low, &high) == 2)
			add_mapping(pagemap, low, high, heap_low, heap_high);
	if (maps)
		fclose(maps);
	if (pagemap >= 0)
		close(pagemap);
}

static int by_frame(const void *a, const void *b)
{
	const struct page *x = a, *y = b;

	if (x->frame != y->frame)
		return x->frame < y->frame ? -1 : 1;
	/* Heap first: a page that is anybody's heap counts as heap. */
	return x->address > y->address ? -1 : x->address < y->address;
}

static int by_address(const void *a, const void *b)
{
	const struct page *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

struct count {
	uint64_t heap, other, duplicates;
};

static struct count count_pages(void)
{
	struct count count = {0, 0, 0};
	size_t distinct = 0;

	if (page_count == 0)
		return count;
	qsort(pages, page_count, sizeof *pages, by_frame);
	for (size_t i = 0; i < page_count; i++) {
		if (distinct > 0 && pages[distinct - 1].frame == pages[i].frame)
			continue;
		pages[distinct++] = pages[i];
		if (pages[distinct - 1].address)
			count.heap++;
		else
			count.other++;
	}
	qsort(pages, distinct, sizeof *pages, by_address);
	for (size_t i = 1; i < distinct; i++)
		count.duplicates += pages[i].address != 0 && pages[i].address == pages[i - 1].address;
	return count;
}

/* ---- the monitor ---- */

static pid_t processes[PROCESSES_MAX];
static size_t process_count;

static void list_processes(void)
{
	char path[1100];
	int pid;

	snprintf(path, sizeof path, "%s/cgroup.procs", group);
	FILE *file = fopen(path, "re");
	if (!file)
		die(path);
	process_count = 0;
	while (process_count < PROCESSES_MAX && fscanf(file, "%d", &pid) == 1)
		processes[process_count++] = pid;
	fclose(file);
}

static bool is_standing(pid_t pid)
{
	char path[64], text[512];

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return true;
	const bool got = fgets(text, sizeof text, file) != NULL;
	fclose(file);
	const char *state = got ? strrchr(text, ')') : NULL;
	return !state || strchr("TtZX", state[2]) != NULL;
}

static void nap(long microseconds)
{
	const struct timespec time = {.tv_nsec = microseconds * 1000};

	(void)nanosleep(&time, NULL);
}

static void stop_all(pid_t process_group)
{
	bool standing = false;

	(void)killpg(process_group, SIGSTOP);
	while (!standing) {
		nap(200);
		list_processes();
		standing = true;
		for (size_t i = 0; i < process_count; i++)
			standing = standing && is_standing(processes[i]);
	}
}

static void find_heap(const struct ledger *ledger, pid_t pid, uint64_t *low_out, uint64_t *high_out)
{
	struct ledger_view view;
	struct ledger_member member;

	*low_out = *high_out = 0;
	ledger_look(ledger, &view);
	for (uint32_t i = 0; i < view.slots_high; i++)
		if (ledger_look_member(ledger, i, &member) && member.kind == LEDGER_LIVE && member.pid == pid) {
			*low_out = member.heap_low;
			*high_out = member.heap_high;
		}
}

static uint64_t inherited_pages(const struct ledger *ledger)
{
	struct ledger_view view;
	struct ledger_member member;
	uint64_t inherited = 0;

	ledger_look(ledger, &view);
	for (uint32_t i = 0; i < view.slots_high; i++)
		if (ledger_look_member(ledger, i, &member) && member.kind == LEDGER_LIVE)
			inherited += member.inherited_pages;
	return inherited;
}

struct result {
	unsigned samples, failures;
	int64_t least_spare; /* committed + duplicates - what is there, at its closest */
	uint64_t most_heap, most_committed, most_processes;
};

static void sample(const struct ledger *ledger, struct result *result)
{
	struct ledger_view view;
	uint64_t low, high;

	page_count = 0;
	for (size_t i = 0; i < process_count; i++) {
		find_heap(ledger, processes[i], &low, &high);
		add_process(processes[i], low, high);
	}
	const struct count count = count_pages();
	const uint64_t charged = charged_pages();
	const uint64_t charged_heap = charged > count.other ? charged - count.other : 0;
	const uint64_t inherited = inherited_pages(ledger);
	const uint64_t duplicates = inherited < count.duplicates ? inherited : count.duplicates;
	const uint64_t stock = (uint64_t)get_nprocs() * STOCK_PAGES;

	ledger_look(ledger, &view);
	const uint64_t allowed = view.committed_pages + duplicates;
	if (count.heap > allowed || charged_heap > allowed + stock || view.committed_pages > LIMIT_PAGES) {
		result->failures++;
		printf("sample %u: heap %" PRIu64 " charged %" PRIu64 " (stock %" PRIu64 ") committed %" PRIu64
		       " duplicated %" PRIu64 " limit %d processes %zu\n",
			result->samples, count.heap, charged_heap, stock, view.committed_pages, duplicates, LIMIT_PAGES,
			process_count);
	}
	const int64_t spare = (int64_t)allowed - (int64_t)count.heap;
	if (result->samples == 0 || spare < result->least_spare)
		result->least_spare = spare;
	if (count.heap > result->most_heap)
		result->most_heap = count.heap;
	if (view.committed_pages > result->most_committed)
		result->most_committed = view.committed_pages;
	if (process_count > result->most_processes)
		result->most_processes = process_count;
	result->samples++;
}

static pid_t start_worker(const char *mode, uint32_t number, pid_t process_group)
{
	const pid_t pid = fork();

	if (pid != 0)
		return pid;
	char path[1100], text[16];
	(void)setpgid(0, process_group);
	snprintf(path, sizeof path, "%s/cgroup.procs", group);
	write_text(path, "0");
	snprintf(text, sizeof text, "%u", number);
	execl("/proc/self/exe", "exactness", mode, "worker", text, NULL);
	_exit(127);
}

static struct ledger *make_ledger(void)
{
	const struct ledger_spec spec = {.name = "exactness", .limit_pages = LIMIT_PAGES};
	static char text[600];
	struct ledger *ledger;

	if (ledger_create(&spec, &ledger) != 0 || ledger_environment_format(ledger, text, sizeof text) != 0)
		die("ledger");
	(void)unsetenv("HOLDFAST");
	(void)putenv(text);
	return ledger;
}

/* After all are dead: nothing may be left but the ledger's own pages. */
static bool is_balanced(struct ledger *ledger)
{
	struct ledger_view view;

	(void)ledger_collect_dead(ledger, true);
	ledger_look(ledger, &view);
	if (view.committed_pages == view.own_pages && ledger_check_books(ledger) == 0)
		return true;
	printf("at the end: committed %" PRIu64 ", the ledger's own %" PRIu64 "\n", view.committed_pages,
		view.own_pages);
	return false;
}

static int monitor(const char *mode, unsigned seconds)
{
	const char *given = getenv("SEED");
	const uint32_t first_seed = given ? (uint32_t)strtoul(given, NULL, 10) : (uint32_t)time(NULL);
	struct ledger *ledger = make_ledger();
	struct result result = {0};
	const time_t end = time(NULL) + (time_t)seconds;
	struct ledger_view view;
	pid_t process_group = 0;

	for (uint32_t i = 0; i < WORKERS; i++) {
		const pid_t pid = start_worker(mode, first_seed + i * 7919, process_group);

		if (process_group == 0)
			process_group = pid;
		(void)setpgid(pid, process_group);
	}
	while (time(NULL) < end) {
		nap(5000 + (long)(result.samples * 7919 % 20000));
		stop_all(process_group);
		sample(ledger, &result);
		(void)killpg(process_group, SIGCONT);
	}
	ledger_look(ledger, &view);
	const bool all_lived = process_count >= WORKERS;
	do {
		(void)killpg(process_group, SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		nap(1000);
		list_processes();
	} while (process_count > 0);
	while (waitpid(-1, NULL, 0) > 0)
		;
	const bool balanced = is_balanced(ledger);
	(void)rmdir(group);
	printf("SEED=%u %s: %u samples, at most %" PRIu64 " processes, %" PRIu64 " heap pages, %" PRIu64
	       " committed of %d; closest: %" PRId64 " pages to spare; %" PRIu64 " refused\n",
		first_seed, mode, result.samples, result.most_processes, result.most_heap, result.most_committed,
		LIMIT_PAGES, result.least_spare, view.refusals);
	if (!all_lived)
		printf("a worker died\n");
	if (view.refusals == 0)
		printf("nothing was refused: the limit was never reached\n");
	return result.failures == 0 && balanced && all_lived && view.refusals > 0 && result.samples >= 10 ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "forks";

	if (argc == 4 && strcmp(argv[2], "worker") == 0)
		return worker(argv[3], strcmp(mode, "forks") == 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (geteuid() != 0 || !make_group()) {
		printf("skipped: needs root and a memory cgroup\n");
		return SKIPPED;
	}
	return monitor(mode, argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 6);
}
