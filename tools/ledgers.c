/*
 * Finding ledgers: every process is asked for the one that it holds a descriptor of.
 */
#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* More than a ledger has slots, with the ended ones that a keeper remembers. */
enum { PROCESSES_MAX = 5000 };

static int by_committed(const void *left, const void *right)
{
	const struct hf_ledger_process *a = left, *b = right;

	if (a->committed_bytes != b->committed_bytes)
		return a->committed_bytes > b->committed_bytes ? -1 : 1;
	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

void ledger_processes(hf_ledger *ledger, struct hf_ledger_process **processes_out, size_t *count_out)
{
	struct hf_ledger_process *processes = allocate(PROCESSES_MAX, sizeof *processes);
	size_t count = 0;

	while (count < PROCESSES_MAX) {
		processes[count].struct_bytes = sizeof *processes;
		if (hf_ledger_process_at(ledger, (uint32_t)count, &processes[count]) != 0)
			break;
		count++;
	}
	qsort(processes, count, sizeof *processes, by_committed);
	*processes_out = processes;
	*count_out = count;
}

static bool is_known(const struct seen_ledgers *seen, uint64_t identity)
{
	for (size_t i = 0; i < seen->count; i++) {
		if (seen->ledgers[i].info.identity == identity)
			return true;
	}
	return false;
}

static void take(struct seen_ledgers *seen, hf_ledger *ledger)
{
	struct hf_ledger_info info = {.struct_bytes = sizeof info};
	struct seen_ledger *more;

	if (hf_ledger_info(ledger, &info) != 0 || is_known(seen, info.identity)) {
		hf_ledger_close(ledger);
		return;
	}
	more = reallocarray(seen->ledgers, seen->count + 1, sizeof *more);
	if (!more)
		fail("out of memory");
	seen->ledgers = more;
	more += seen->count++;
	*more = (struct seen_ledger){.ledger = ledger, .info = info};
	ledger_processes(ledger, &more->processes, &more->process_count);
}

void ledgers_find_all(struct seen_ledgers *seen)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	*seen = (struct seen_ledgers){NULL, 0};
	if (!proc)
		fail("/proc cannot be read: %s", strerror(errno));
	while ((entry = readdir(proc))) {
		hf_ledger *ledger;
		int pid;

		if (parse_number(entry->d_name, &pid) && pid > 0 && hf_ledger_open_pid(pid, false, &ledger) == 0)
			take(seen, ledger);
	}
	(void)closedir(proc);
}

int ledgers_find_of(pid_t pid, struct seen_ledgers *seen)
{
	hf_ledger *ledger;
	const int error = hf_ledger_open_pid(pid, false, &ledger);

	*seen = (struct seen_ledgers){NULL, 0};
	if (error == 0)
		take(seen, ledger);
	return error;
}

void ledgers_free(struct seen_ledgers *seen)
{
	for (size_t i = 0; i < seen->count; i++) {
		hf_ledger_close(seen->ledgers[i].ledger);
		free(seen->ledgers[i].processes);
	}
	free(seen->ledgers);
}

void ledger_label(const struct hf_ledger_info *info, char *text, size_t bytes)
{
	if (info->name[0])
		make_printable(info->name, text, bytes);
	else
		(void)snprintf(text, bytes, "#%08x", (unsigned)(info->identity >> 32));
}
