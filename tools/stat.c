/*
 * holdfast stat: for people, as JSON, and in the text format of Prometheus.
 */
#include "tool.h"

#include <argp.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

enum output { OUTPUT_HUMAN, OUTPUT_JSON, OUTPUT_PROMETHEUS };

struct options {
	enum output output;
	pid_t pid; /* 0: all ledgers */
};

enum { KEY_JSON = 256, KEY_PROMETHEUS };

static const struct argp_option option_list[] = {
	{.name = "json", .key = KEY_JSON, .doc = "one JSON object"},
	{.name = "prometheus", .key = KEY_PROMETHEUS, .doc = "the text format of Prometheus"},
	{0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	struct options *options = state->input;
	int pid = 0;

	switch (key) {
	case KEY_JSON:
		options->output = OUTPUT_JSON;
		return 0;
	case KEY_PROMETHEUS:
		options->output = OUTPUT_PROMETHEUS;
		return 0;
	case ARGP_KEY_ARG:
		if (!parse_number(argument, &pid) || pid == 0)
			argp_error(state, "'%s' is not a process id (holdfast ps lists them)", argument);
		if (options->pid)
			argp_error(state, "one process id, please");
		options->pid = pid;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_list,
	.parser = parse_option,
	.args_doc = "[PID]",
	.doc = "Show the budget that process PID is under, or every budget that you may see.",
};

/* ---- for people ---- */

static void print_amount(const char *name, size_t bytes, const char *remark)
{
	char size[SIZE_TEXT_BYTES];

	printf("  %-12s %9s  %s\n", name, format_size(bytes, size), remark);
}

static void print_process(const struct hf_ledger_process *process)
{
	char committed[SIZE_TEXT_BYTES], resident[SIZE_TEXT_BYTES], inherited[SIZE_TEXT_BYTES], cow[SIZE_TEXT_BYTES];
	char last[SIZE_TEXT_BYTES], command[sizeof process->command];

	make_printable(process->command, command, sizeof command);
	if (process->is_family_share) {
		printf("  %8s %-15s %9s  what forked processes still share of one that has ended\n", "-", "(family)",
			format_size(process->committed_bytes, committed));
		return;
	}
	printf("  %8d %-15s %9s %9s %9s %9s %8llu", (int)process->pid, command,
		format_size(process->committed_bytes, committed), format_size(process->resident_bytes, resident),
		format_size(process->inherited_bytes, inherited), format_size(process->cow_bytes, cow),
		(unsigned long long)process->refusals);
	if (process->refusals)
		printf("  last %s", format_size(process->last_refused_bytes, last));
	printf("%s\n", process->shares_a_slot ? "  (with children that could not attach)" : "");
}

static void print_human(const struct seen_ledger *seen)
{
	const struct hf_ledger_info *info = &seen->info;
	char label[40], source[100];

	ledger_label(info, label, sizeof label);
	make_printable(info->limit_source, source, sizeof source);
	printf("ledger %s\n", label);
	print_amount("limit", info->limit_bytes, source);
	print_amount("committed", info->committed_bytes, "");
	print_amount("peak", info->peak_bytes, "");
	if (info->automatic) {
		print_amount("outside", info->outside_bytes, "in use, not in any heap of ours, and not to be dropped");
		print_amount("margin", info->margin_bytes, "left free for the kernel");
	}
	print_amount("own", info->own_bytes, "the ledger itself");
	printf("  %-12s %9llu  requests; %.1f s at the limit\n", "refused", (unsigned long long)info->refusals,
		(double)info->at_limit_ms / 1000);
	printf("  %-12s %9u  and %llu ended\n", "processes", info->processes,
		(unsigned long long)info->deaths_collected);
	if (info->keeper_pid)
		printf("  %-12s %9d\n", "keeper", (int)info->keeper_pid);
	else
		printf("  %-12s %9s\n", "keeper", "none");
	if (seen->process_count)
		printf("  %8s %-15s %9s %9s %9s %9s %8s\n", "PID", "COMMAND", "COMMITTED", "RESIDENT", "INHERITED",
			"COPIED", "REFUSED");
	for (size_t i = 0; i < seen->process_count; i++)
		print_process(&seen->processes[i]);
}

/* ---- JSON ---- */

static void add(struct json_object *object, const char *key, struct json_object *value)
{
	if (json_object_object_add(object, key, value) != 0)
		fail("out of memory");
}

static void add_number(struct json_object *object, const char *key, uint64_t number)
{
	add(object, key, json_object_new_uint64(number));
}

/* No limit is null. */
static void add_bytes(struct json_object *object, const char *key, size_t bytes)
{
	add(object, key, bytes == SIZE_MAX ? NULL : json_object_new_uint64(bytes));
}

static void add_text(struct json_object *object, const char *key, const char *text)
{
	char printable[128];

	make_printable(text, printable, sizeof printable);
	add(object, key, json_object_new_string(printable));
}

static struct json_object *json_of_process(const struct hf_ledger_process *process)
{
	struct json_object *object = json_object_new_object();

	add_number(object, "pid", (uint64_t)process->pid);
	add_number(object, "uid", process->uid);
	add_text(object, "command", process->command);
	add_bytes(object, "committed_bytes", process->committed_bytes);
	add_bytes(object, "resident_bytes", process->resident_bytes);
	add_bytes(object, "inherited_bytes", process->inherited_bytes);
	add_bytes(object, "copied_on_write_bytes", process->cow_bytes);
	add_number(object, "refusals", process->refusals);
	add_bytes(object, "last_refused_bytes", process->last_refused_bytes);
	add(object, "is_family_share", json_object_new_boolean(process->is_family_share));
	add(object, "shares_a_slot", json_object_new_boolean(process->shares_a_slot));
	return object;
}

static struct json_object *json_of_ledger(const struct seen_ledger *seen)
{
	const struct hf_ledger_info *info = &seen->info;
	struct json_object *object = json_object_new_object();
	struct json_object *processes = json_object_new_array();
	char identity[20];

	(void)snprintf(identity, sizeof identity, "%016llx", (unsigned long long)info->identity);
	add_text(object, "identity", identity);
	add_text(object, "name", info->name);
	add_bytes(object, "limit_bytes", info->limit_bytes);
	add_text(object, "limit_source", info->limit_source);
	add(object, "automatic", json_object_new_boolean(info->automatic));
	add_bytes(object, "committed_bytes", info->committed_bytes);
	add_bytes(object, "peak_bytes", info->peak_bytes);
	add_bytes(object, "own_bytes", info->own_bytes);
	add_bytes(object, "outside_bytes", info->outside_bytes);
	add_bytes(object, "margin_bytes", info->margin_bytes);
	add_number(object, "refusals", info->refusals);
	add_number(object, "deaths_collected", info->deaths_collected);
	add_number(object, "at_limit_ms", info->at_limit_ms);
	add(object, "keeper_pid", info->keeper_pid ? json_object_new_int(info->keeper_pid) : NULL);
	for (size_t i = 0; i < seen->process_count; i++) {
		if (json_object_array_add(processes, json_of_process(&seen->processes[i])) != 0)
			fail("out of memory");
	}
	add(object, "processes", processes);
	return object;
}

static void print_json(const struct seen_ledgers *seen)
{
	struct json_object *object = json_object_new_object();
	struct json_object *ledgers = json_object_new_array();

	for (size_t i = 0; i < seen->count; i++) {
		if (json_object_array_add(ledgers, json_of_ledger(&seen->ledgers[i])) != 0)
			fail("out of memory");
	}
	add(object, "ledgers", ledgers);
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(object);
}

/* ---- Prometheus ---- */

/* A label's value: \ " and newline are escaped; make_printable() has left no newline. */
static void print_label(const char *key, const char *value, const char *after)
{
	char printable[128];

	make_printable(value, printable, sizeof printable);
	printf("%s=\"", key);
	for (const char *at = printable; *at; at++) {
		if (*at == '\\' || *at == '"')
			putchar('\\');
		putchar(*at);
	}
	printf("\"%s", after);
}

static void print_ledger_labels(const struct hf_ledger_info *info, const char *after)
{
	char identity[20];

	(void)snprintf(identity, sizeof identity, "%016llx", (unsigned long long)info->identity);
	print_label("ledger", identity, ",");
	print_label("name", info->name, after);
}

static double limit_value(const struct hf_ledger_info *info)
{
	return info->limit_bytes == SIZE_MAX ? __builtin_inf() : (double)info->limit_bytes;
}
static double committed_value(const struct hf_ledger_info *info)
{
	return (double)info->committed_bytes;
}
static double peak_value(const struct hf_ledger_info *info)
{
	return (double)info->peak_bytes;
}
static double outside_value(const struct hf_ledger_info *info)
{
	return (double)info->outside_bytes;
}
static double margin_value(const struct hf_ledger_info *info)
{
	return (double)info->margin_bytes;
}
static double refusals_value(const struct hf_ledger_info *info)
{
	return (double)info->refusals;
}
static double deaths_value(const struct hf_ledger_info *info)
{
	return (double)info->deaths_collected;
}
static double at_limit_value(const struct hf_ledger_info *info)
{
	return (double)info->at_limit_ms / 1000;
}
static double processes_value(const struct hf_ledger_info *info)
{
	return info->processes;
}
static double keeper_value(const struct hf_ledger_info *info)
{
	return info->keeper_pid != 0;
}

static const struct {
	const char *name, *type, *help;
	double (*value)(const struct hf_ledger_info *info);
} ledger_metrics[] = {
	{"holdfast_limit_bytes", "gauge", "The budget; +Inf: none.", limit_value},
	{"holdfast_committed_bytes", "gauge", "Memory counted against the budget.", committed_value},
	{"holdfast_peak_bytes", "gauge", "The most that was ever committed.", peak_value},
	{"holdfast_outside_bytes", "gauge", "Memory in use beside the heaps (automatic budgets only).", outside_value},
	{"holdfast_margin_bytes", "gauge", "Memory left free for the kernel (automatic budgets only).", margin_value},
	{"holdfast_refusals_total", "counter", "Requests that were refused.", refusals_value},
	{"holdfast_deaths_collected_total", "counter", "Ended processes whose memory was collected.", deaths_value},
	{"holdfast_at_limit_seconds_total", "counter", "Time during which next to nothing was left.", at_limit_value},
	{"holdfast_processes", "gauge", "Processes under the budget.", processes_value},
	{"holdfast_keeper_up", "gauge", "Does a keeper look after the budget?", keeper_value},
};

static uint64_t process_committed(const struct hf_ledger_process *process)
{
	return process->committed_bytes;
}
static uint64_t process_resident(const struct hf_ledger_process *process)
{
	return process->resident_bytes;
}
static uint64_t process_inherited(const struct hf_ledger_process *process)
{
	return process->inherited_bytes;
}
static uint64_t process_copied(const struct hf_ledger_process *process)
{
	return process->cow_bytes;
}
static uint64_t process_refusals(const struct hf_ledger_process *process)
{
	return process->refusals;
}

static const struct {
	const char *name, *type, *help;
	uint64_t (*value)(const struct hf_ledger_process *process);
} process_metrics[] = {
	{"holdfast_process_committed_bytes", "gauge", "Memory that the process has committed.", process_committed},
	{"holdfast_process_resident_bytes", "gauge", "Heap memory of the process that is physically there.",
		process_resident},
	{"holdfast_process_inherited_bytes", "gauge", "Memory that it holds from before it was forked.",
		process_inherited},
	{"holdfast_process_copied_bytes", "gauge", "Inherited memory that copy-on-write has duplicated.",
		process_copied},
	{"holdfast_process_refusals_total", "counter", "Requests of the process that were refused.", process_refusals},
};

static void print_process_metric(size_t metric, const struct seen_ledger *seen)
{
	for (size_t i = 0; i < seen->process_count; i++) {
		const struct hf_ledger_process *process = &seen->processes[i];

		if (process->is_family_share)
			continue; /* has no pid: it is in the ledger's sum */
		printf("%s{", process_metrics[metric].name);
		print_ledger_labels(&seen->info, ",");
		printf("pid=\"%d\",uid=\"%u\",", (int)process->pid, (unsigned)process->uid);
		print_label("command", process->command, "");
		printf("} %llu\n", (unsigned long long)process_metrics[metric].value(process));
	}
}

static void print_value(double value)
{
	if (__builtin_isinf(value))
		printf("+Inf\n");
	else
		printf("%.17g\n", value);
}

static void print_prometheus(const struct seen_ledgers *seen)
{
	for (size_t m = 0; m < sizeof ledger_metrics / sizeof ledger_metrics[0]; m++) {
		printf("# HELP %s %s\n# TYPE %s %s\n", ledger_metrics[m].name, ledger_metrics[m].help,
			ledger_metrics[m].name, ledger_metrics[m].type);
		for (size_t i = 0; i < seen->count; i++) {
			printf("%s{", ledger_metrics[m].name);
			print_ledger_labels(&seen->ledgers[i].info, "");
			printf("} ");
			print_value(ledger_metrics[m].value(&seen->ledgers[i].info));
		}
	}
	for (size_t m = 0; m < sizeof process_metrics / sizeof process_metrics[0]; m++) {
		printf("# HELP %s %s\n# TYPE %s %s\n", process_metrics[m].name, process_metrics[m].help,
			process_metrics[m].name, process_metrics[m].type);
		for (size_t i = 0; i < seen->count; i++)
			print_process_metric(m, &seen->ledgers[i]);
	}
}

/* ---- */

static void fail_for_process(pid_t pid, int error)
{
	const char *why = error == -ENOENT	      ? "is not under a budget (start it with: holdfast run -- CMD)"
			  : error == -ESRCH	      ? "does not exist (holdfast ps lists those under a budget)"
			  : error == -EACCES	      ? "belongs to somebody else (try as root)"
			  : error == -EPROTO	      ? "has a ledger that is damaged"
			  : error == -EPROTONOSUPPORT ? "has a ledger of another version of holdfast"
						      : strerror(-error);

	fail("process %d %s", (int)pid, why);
}

int stat_main(int argc, char **argv)
{
	struct options options = {0};
	struct seen_ledgers seen;
	int error = 0;

	if (argp_parse(&argp, argc, argv, 0, NULL, &options) != 0)
		return EXIT_OWN_FAILURE;
	if (options.pid)
		error = ledgers_find_of(options.pid, &seen);
	else
		ledgers_find_all(&seen);
	if (error)
		fail_for_process(options.pid, error);
	if (options.output == OUTPUT_JSON)
		print_json(&seen);
	else if (options.output == OUTPUT_PROMETHEUS)
		print_prometheus(&seen);
	else if (seen.count == 0)
		printf("No process that you may see is under a budget (start one: holdfast run -- CMD).\n");
	else
		for (size_t i = 0; i < seen.count; i++) {
			if (i > 0)
				putchar('\n');
			print_human(&seen.ledgers[i]);
		}
	ledgers_free(&seen);
	return ferror(stdout) || fflush(stdout) ? EXIT_OWN_FAILURE : 0;
}
