/*
 * The screen of --stats, at the end of the program.
 */
#include "tool.h"

#include <stdlib.h>
#include <string.h>

enum { REFUSED_SHOWN = 10, UNCOVERED_SHOWN = 10 };

static void print_amount(FILE *file, const char *name, size_t bytes, const char *remark)
{
	char size[SIZE_TEXT_BYTES];

	(void)fprintf(file, "  %-10s %9s  %s\n", name, format_size(bytes, size), remark);
}

static int by_refusals(const void *left, const void *right)
{
	const struct hf_ledger_process *a = left, *b = right;

	return a->refusals < b->refusals ? 1 : a->refusals > b->refusals ? -1 : 0;
}

static void print_refused(FILE *file, const struct hf_ledger_info *info, hf_ledger *ledger)
{
	struct hf_ledger_process *processes;
	uint64_t shown = 0;
	size_t count;

	ledger_processes(ledger, &processes, &count);
	qsort(processes, count, sizeof *processes, by_refusals);
	(void)fprintf(file, "  %-10s %9llu  requests; %.1f s at the limit\n", "refused",
		(unsigned long long)info->refusals, (double)info->at_limit_ms / 1000);
	for (size_t i = 0; i < count && i < REFUSED_SHOWN && processes[i].refusals; i++) {
		char command[sizeof processes->command], last[SIZE_TEXT_BYTES];

		make_printable(processes[i].command, command, sizeof command);
		shown += processes[i].refusals;
		(void)fprintf(file, "  %-10s %9llu  %s[%d]%s, the last for %s\n", "",
			(unsigned long long)processes[i].refusals, command, (int)processes[i].pid,
			processes[i].alive ? "" : " (ended)", format_size(processes[i].last_refused_bytes, last));
	}
	if (info->refusals > shown)
		(void)fprintf(
			file, "  %-10s %9llu  other processes\n", "", (unsigned long long)(info->refusals - shown));
	free(processes);
}

static void print_uncovered(FILE *file)
{
	const char *name, *why;
	unsigned count;

	for (size_t i = 0; cover_uncovered_at(i, &name, &why, &count); i++) {
		if (i == UNCOVERED_SHOWN) {
			(void)fprintf(file, "  %-10s %9s  and others\n", "", "");
			break;
		}
		(void)fprintf(file, "  %-10s %9u  %s: %s\n", i ? "" : "uncovered", count, name, why);
	}
}

void course_note(struct course *course, const hf_ledger *ledger)
{
	struct hf_ledger_info info = {.struct_bytes = sizeof info};

	if (hf_ledger_info(ledger, &info) != 0)
		return;
	if (!course->has_begun || info.limit_bytes < course->limit_least_bytes)
		course->limit_least_bytes = info.limit_bytes;
	if (!course->has_begun || info.limit_bytes > course->limit_most_bytes)
		course->limit_most_bytes = info.limit_bytes;
	if (info.outside_bytes > course->outside_most_bytes)
		course->outside_most_bytes = info.outside_bytes;
	if (info.margin_bytes > course->margin_most_bytes)
		course->margin_most_bytes = info.margin_bytes;
	course->has_begun = true;
}

static void print_limit(FILE *file, const struct hf_ledger_info *info, const struct course *course)
{
	char source[100], least[SIZE_TEXT_BYTES], most[SIZE_TEXT_BYTES];

	make_printable(info->limit_source, source, sizeof source);
	print_amount(file, "limit", info->limit_bytes, source);
	(void)format_size(course->limit_least_bytes, least);
	(void)format_size(course->limit_most_bytes, most);
	if (strcmp(least, most) != 0)
		(void)fprintf(file, "  %-10s %9s  it was between %s and %s\n", "", "", least, most);
}

void report_print(FILE *file, hf_ledger *ledger, const struct course *course, bool is_keeper)
{
	struct hf_ledger_info info = {.struct_bytes = sizeof info};
	char label[40], remark[64] = "";

	if (hf_ledger_info(ledger, &info) != 0)
		return;
	ledger_label(&info, label, sizeof label);
	(void)fprintf(file, "holdfast: budget %s%s\n", label,
		is_keeper ? "" : " (joined: the figures are of all that are under it)");
	print_limit(file, &info, course);
	if (info.limit_bytes != SIZE_MAX && course->limit_most_bytes)
		(void)snprintf(remark, sizeof remark, "%.0f%% of the limit",
			100.0 * (double)info.peak_bytes / (double)course->limit_most_bytes);
	print_amount(file, "peak", info.peak_bytes, remark);
	(void)snprintf(remark, sizeof remark, "%u %s", info.processes,
		info.processes == 1 ? "process goes on" : "processes go on");
	print_amount(file, "at the end", info.committed_bytes, info.processes ? remark : "");
	if (info.automatic) {
		print_amount(file, "outside", course->outside_most_bytes,
			"at most: in use, in no heap of ours, and not to be dropped");
		print_amount(file, "margin", course->margin_most_bytes, "at most: left free for the kernel");
	} else {
		(void)fprintf(file, "  %-10s %9s  not counted, since the budget was given as a size\n", "outside", "-");
	}
	print_refused(file, &info, ledger);
	print_uncovered(file);
}
