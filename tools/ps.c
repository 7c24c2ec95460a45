#include "tool.h"

#include <argp.h>
#include <errno.h>

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	(void)argument;
	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	argp_error(state, "unexpected argument '%s' (to see one process's budget: holdfast stat PID)", argument);
	return EINVAL;
}

static const struct argp argp = {
	.parser = parse_option,
	.doc = "List every budget that you may see, and the processes under it.",
};

static void print_process(const struct hf_ledger_process *process)
{
	char committed[SIZE_TEXT_BYTES], resident[SIZE_TEXT_BYTES], inherited[SIZE_TEXT_BYTES];
	char command[sizeof process->command];

	make_printable(process->command, command, sizeof command);
	if (process->is_family_share)
		printf("  %8s  %-15s %9s %9s %9s %8s\n", "-", "(forked family)",
			format_size(process->committed_bytes, committed), "", "", "");
	else
		printf("  %8d  %-15s %9s %9s %9s %8llu\n", (int)process->pid, command,
			format_size(process->committed_bytes, committed),
			format_size(process->resident_bytes, resident),
			format_size(process->inherited_bytes, inherited), (unsigned long long)process->refusals);
}

static void print_ledger(const struct seen_ledger *seen)
{
	const struct hf_ledger_info *info = &seen->info;
	char label[40], limit[SIZE_TEXT_BYTES], committed[SIZE_TEXT_BYTES], peak[SIZE_TEXT_BYTES], source[100];

	ledger_label(info, label, sizeof label);
	make_printable(info->limit_source, source, sizeof source);
	printf("%s: %s committed of %s (%s), peak %s, %u %s, %llu refused", label,
		format_size(info->committed_bytes, committed), format_size(info->limit_bytes, limit),
		*source ? source : "no source", format_size(info->peak_bytes, peak), info->processes,
		info->processes == 1 ? "process" : "processes", (unsigned long long)info->refusals);
	if (info->keeper_pid)
		printf(", keeper %d\n", (int)info->keeper_pid);
	else
		printf(", no keeper\n");
	if (seen->process_count)
		printf("  %8s  %-15s %9s %9s %9s %8s\n", "PID", "COMMAND", "COMMITTED", "RESIDENT", "INHERITED",
			"REFUSED");
	for (size_t i = 0; i < seen->process_count; i++)
		print_process(&seen->processes[i]);
}

int ps_main(int argc, char **argv)
{
	struct seen_ledgers seen;

	if (argp_parse(&argp, argc, argv, 0, NULL, NULL) != 0)
		return EXIT_OWN_FAILURE;
	ledgers_find_all(&seen);
	if (seen.count == 0)
		printf("No process that you may see is under a budget (start one: holdfast run -- CMD).\n");
	for (size_t i = 0; i < seen.count; i++) {
		if (i > 0)
			putchar('\n');
		print_ledger(&seen.ledgers[i]);
	}
	ledgers_free(&seen);
	return 0;
}
