/*
 * holdfast run: makes a budget, or joins the one that it is under; starts the program with the drop-in; keeps the
 * ledger until the last process under it has ended, in the background if that is later than the program.
 */
#include "tool.h"

#include <holdfast/init.h>

#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef HF_TOOL_LIBDIR
#define HF_TOOL_LIBDIR "../lib" /* from the command's directory, when installed */
#endif
#define DROP_IN "libholdfast-malloc.so"
#define LEDGER_VARIABLE "HOLDFAST_LEDGER"

/* Less than that, and no program gets as far as its main(). */
enum { BUDGET_LEAST_BYTES = 1 << 20, ENVIRONMENT_BYTES = 512, IDLE_CHECK_MS = 250 };

struct options {
	const char *budget_text; /* NULL: not given */
	size_t budget_bytes;	 /* 0: automatic */
	const char *name;
	bool stats;
	const char *stats_file;
	char **argv;
};

/* What the program is run under. */
struct budget {
	hf_ledger *ledger;
	bool is_keeper;
	struct course course;
};

enum { KEY_BUDGET = 256, KEY_EXHAUSTED, KEY_COMMIT, KEY_LEDGER, KEY_STATS, KEY_STATS_FILE };

static const struct argp_option option_list[] = {
	{.name = "budget",
		.key = KEY_BUDGET,
		.arg = "SIZE",
		.doc = "64M, 1.5G, 50% of what there is, unlimited, or auto (the default): what cgroup and RAM allow"},
	{.name = "on-exhausted",
		.key = KEY_EXHAUSTED,
		.arg = "WHAT",
		.doc = "when the budget is used up: fail (the default) makes malloc return NULL"},
	{.name = "commit",
		.key = KEY_COMMIT,
		.arg = "LEVEL",
		.doc = "how real memory is made: accounted (the default)"},
	{.name = "ledger",
		.key = KEY_LEDGER,
		.arg = "NAME",
		.doc = "give the budget a name, or join the one of that name"},
	{.name = "stats", .key = KEY_STATS, .doc = "at the end, say on standard error how it went"},
	{.name = "stats-file", .key = KEY_STATS_FILE, .arg = "FILE", .doc = "the same, but to FILE"},
	{0},
};

static void parse_budget(struct options *options, const char *text, struct argp_state *state)
{
	const int error = hf_parse_size(text, &options->budget_bytes);

	if (error == -ERANGE)
		argp_error(state,
			"--budget %s is too large (a percentage is of what cgroup and RAM allow: 100%% at most)", text);
	if (error)
		argp_error(state, "--budget %s is not a size (say 64M, 1.5G, 50%%, auto or unlimited)", text);
	if (options->budget_bytes != 0 && options->budget_bytes < BUDGET_LEAST_BYTES)
		argp_error(state, "--budget %s is too small for any program (at least 1M)", text);
	options->budget_text = text;
}

static void check_exhausted(const char *text, struct argp_state *state)
{
	if (strcmp(text, "wait") == 0 || strcmp(text, "kill") == 0)
		argp_error(state, "--on-exhausted %s does not exist in this release (leave it out, or say fail)", text);
	if (strcmp(text, "fail") != 0)
		argp_error(state, "--on-exhausted %s: unknown (say fail)", text);
}

static void check_commit(const char *text, struct argp_state *state)
{
	if (strcmp(text, "resident") == 0 || strcmp(text, "locked") == 0)
		argp_error(state, "--commit %s does not exist in this release (leave it out, or say accounted)", text);
	if (strcmp(text, "accounted") != 0)
		argp_error(state, "--commit %s: unknown (say accounted)", text);
}

static void check_name(const char *name, struct argp_state *state)
{
	const size_t length = strlen(name);

	if (length == 0 || length > 31 ||
		strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != length)
		argp_error(state, "--ledger %s: a name is 1 to 31 of letters, digits, '.', '_' and '-'", name);
}

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case KEY_BUDGET:
		parse_budget(options, argument, state);
		return 0;
	case KEY_EXHAUSTED:
		check_exhausted(argument, state);
		return 0;
	case KEY_COMMIT:
		check_commit(argument, state);
		return 0;
	case KEY_LEDGER:
		check_name(argument, state);
		options->name = argument;
		return 0;
	case KEY_STATS_FILE:
		options->stats_file = argument;
		options->stats = true;
		return 0;
	case KEY_STATS:
		options->stats = true;
		return 0;
	case ARGP_KEY_ARG:
		options->argv = state->argv + state->next - 1;
		state->next = state->argc; /* the program's options are its own */
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no program to run (holdfast run [OPTION...] -- CMD [ARG...])");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_list,
	.parser = parse_option,
	.args_doc = "CMD [ARG...]",
	.doc = "Run CMD, and all that it starts, under a memory budget that is never exceeded: when it is used up, "
	       "allocations "
	       "fail, and nobody is killed.\v"
	       "Exit status: CMD's; 128 and the signal's number if a signal ended it; 125 if holdfast itself failed; "
	       "126 if "
	       "CMD cannot be executed; 127 if there is no CMD.",
};

/* ---- the drop-in ---- */

static bool find_beside(const char *directory, const char *below, char *path, size_t bytes)
{
	const int length = snprintf(path, bytes, "%s/%s/%s", directory, below, DROP_IN);
	char *real;

	if (length < 0 || (size_t)length >= bytes || access(path, R_OK) != 0)
		return false;
	real = realpath(path, NULL);
	if (!real)
		return false;
	(void)snprintf(path, bytes, "%s", real);
	free(real);
	return true;
}

/* Beside the command (a build tree), or where `install` puts libraries. */
static void find_drop_in(char *path, size_t bytes)
{
	static const char *const places[] = {".", HF_TOOL_LIBDIR, "../lib", "../lib64"};
	char self[PATH_MAX];
	const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash;

	if (length <= 0)
		fail("/proc/self/exe cannot be read, so that %s cannot be found: %s", DROP_IN, strerror(errno));
	self[length] = '\0';
	slash = strrchr(self, '/');
	*slash = '\0';
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		if (!find_beside(self, places[i], path, bytes))
			continue;
		/* The loader takes both for separators, and knows no way of quoting them. */
		if (strpbrk(path, " :"))
			fail("the path %s holds a space or a colon, which LD_PRELOAD cannot have: install holdfast "
			     "elsewhere",
				path);
		return;
	}
	fail("%s is neither in %s nor in %s/%s: build it (make) or install it again", DROP_IN, self, self,
		HF_TOOL_LIBDIR);
}

/* In front of what is there; once, also when runs are nested. */
static void set_preload(void)
{
	const char *existing = getenv("LD_PRELOAD");
	char path[PATH_MAX];
	char *value;

	find_drop_in(path, sizeof path);
	if (existing && strncmp(existing, path, strlen(path)) == 0 && strchr(" :", existing[strlen(path)]))
		return; /* strchr() also finds the end */
	if (asprintf(&value, "%s%s%s", path, existing && *existing ? ":" : "", existing ? existing : "") < 0 ||
		setenv("LD_PRELOAD", value, 1) != 0)
		fail("out of memory");
	free(value);
}

/* ---- the budget ---- */

static void set_environment(hf_ledger *ledger)
{
	char text[ENVIRONMENT_BYTES];
	const int error = hf_ledger_environment(ledger, text, sizeof text);
	char *equals;

	if (error)
		fail("cannot pass the budget on: %s", strerror(-error));
	equals = strchr(text, '=');
	*equals = '\0';
	if (setenv(text, equals + 1, 1) != 0)
		fail("out of memory");
}

static void warn_if_larger(const struct options *options, hf_ledger *outer)
{
	struct hf_ledger_info info = {.struct_bytes = sizeof info};
	char inner_size[SIZE_TEXT_BYTES], outer_size[SIZE_TEXT_BYTES];

	if (options->budget_bytes == 0 || hf_ledger_info(outer, &info) != 0 ||
		info.limit_bytes >= options->budget_bytes)
		return;
	complain("--budget %s is more than the %s of the budget around it, which stays the limit",
		options->budget_bytes == SIZE_MAX ? options->budget_text
						  : format_size(options->budget_bytes, inner_size),
		format_size(info.limit_bytes, outer_size));
}

/* Join the ledger of that name if there is one. */
static bool join_by_name(const struct options *options, struct budget *budget)
{
	const int error = hf_ledger_open_name(options->name, true, &budget->ledger);

	if (error == -ENOENT)
		return false;
	if (error)
		fail("the ledger %s cannot be joined: %s", options->name, strerror(-error));
	if (options->budget_text)
		fail("the ledger %s exists already: leave --budget out to join it, or choose another name",
			options->name);
	set_environment(budget->ledger);
	return true;
}

static void create(const struct options *options, bool inner, struct budget *budget)
{
	const struct hf_ledger_spec spec = {.struct_bytes = sizeof spec,
		.name = options->name,
		.budget_bytes = options->budget_bytes,
		.inner = inner};
	int error = hf_ledger_create(&spec, &budget->ledger);

	/* Somebody else was faster. */
	if (error == -EEXIST && join_by_name(options, budget))
		return;
	if (error)
		fail("cannot make a budget: %s",
			error == -ELOOP ? "four inside one another are the most" : strerror(-error));
	budget->is_keeper = true;
	set_environment(budget->ledger);
}

static void find_budget(const struct options *options, struct budget *budget)
{
	const char *variable = getenv(LEDGER_VARIABLE);
	hf_ledger *outer = NULL;
	int error = -ENOENT;

	*budget = (struct budget){.ledger = NULL};
	if (options->name && join_by_name(options, budget))
		return;
	if (variable && *variable) {
		error = hf_ledger_open_pid(0, false, &outer);
		if (error)
			complain("warning: the budget around this one cannot be reached (its descriptor is closed and "
				 "its keeper "
				 "does not answer): it does not count here");
	}
	if (error == 0 && !options->budget_text && !options->name) {
		budget->ledger = outer; /* joined: the environment says it already */
		return;
	}
	if (outer) {
		warn_if_larger(options, outer);
		hf_ledger_close(outer);
	}
	create(options, outer != NULL, budget);
}

/* ---- keeping ---- */

static unsigned smaller(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Until the program has ended. */
static void keep(const struct options *options, struct budget *budget, struct child *child)
{
	struct pollfd polled[2] = {{.fd = child_signal_fd(), .events = POLLIN}, {.fd = -1, .events = POLLIN}};
	unsigned next_ms = UINT_MAX;

	if (budget->is_keeper)
		polled[1].fd = hf_ledger_poll_fd(budget->ledger);
	while (!child->ended) {
		if (budget->is_keeper)
			(void)hf_ledger_serve(budget->ledger, &next_ms);
		if (options->stats) {
			next_ms = smaller(next_ms, cover_sample());
			course_note(&budget->course, budget->ledger);
		}
		(void)poll(polled, 2, next_ms == UINT_MAX ? -1 : (int)next_ms);
		child_handle_signals(child);
	}
	if (budget->is_keeper)
		(void)hf_ledger_serve(budget->ledger, &next_ms);
}

static bool is_ledger(int fd)
{
	char path[32], target[64];
	ssize_t length;

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	length = readlink(path, target, sizeof target - 1);
	target[length > 0 ? length : 0] = '\0';
	return strncmp(target, "/memfd:holdfast-ledger", 22) == 0;
}

/* Nobody is to wait for the end of a pipe because a keeper has inherited it. */
static void close_what_is_not_ours(int keep_fd)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	DIR *fds = opendir("/proc/self/fd");
	struct dirent *entry;

	for (int fd = 0; fd <= 2; fd++)
		(void)dup2(null, fd);
	while (fds && (entry = readdir(fds))) {
		int fd;

		if (parse_number(entry->d_name, &fd) && fd > 2 && fd != keep_fd && fd != dirfd(fds) && !is_ledger(fd))
			(void)close(fd);
	}
	if (fds)
		(void)closedir(fds);
}

static uint32_t members(hf_ledger *ledger)
{
	struct hf_ledger_info info = {.struct_bytes = sizeof info};

	return hf_ledger_info(ledger, &info) == 0 ? info.processes : 0;
}

/* The program has ended and others live: their keeper goes on, as nobody's job. */
static void keep_in_background(hf_ledger *ledger)
{
	struct pollfd polled = {.fd = hf_ledger_poll_fd(ledger), .events = POLLIN};
	unsigned next_ms = IDLE_CHECK_MS;

	if (_Fork() != 0)
		return; /* also when it fails: then they go on without a keeper, as the library can */
	(void)setsid();
	if (chdir("/") != 0)
		complain("cannot change to /: %s", strerror(errno));
	close_what_is_not_ours(polled.fd);
	/* Two looks in a row, since a process that forks or execs is nobody for a moment. */
	for (int empty = 0; empty < 2;) {
		(void)hf_ledger_serve(ledger, &next_ms);
		(void)poll(&polled, 1, (int)smaller(next_ms, IDLE_CHECK_MS));
		empty = members(ledger) == 0 ? empty + 1 : 0;
	}
	_exit(0);
}

/* ---- */

static void write_report(const struct options *options, const struct budget *budget)
{
	FILE *file = stderr;

	if (!options->stats)
		return;
	if (options->stats_file) {
		file = fopen(options->stats_file, "we");
		if (!file) {
			complain("--stats-file %s cannot be written: %s", options->stats_file, strerror(errno));
			return;
		}
	}
	report_print(file, budget->ledger, &budget->course, budget->is_keeper);
	if (file != stderr && fclose(file) != 0)
		complain("--stats-file %s cannot be written: %s", options->stats_file, strerror(errno));
}

static void warn_if_uncovered(const char *name)
{
	char path[PATH_MAX];
	const char *why = cover_find_program(name, path, sizeof path) ? cover_check_file(path) : NULL;

	if (!why)
		return;
	complain("warning: '%s' will not be covered by the budget: %s", name, why);
	/* A sample would come too late for a short one. */
	cover_note(strrchr(name, '/') ? strrchr(name, '/') + 1 : name, why);
}

int run_main(int argc, char **argv)
{
	struct options options = {0};
	struct budget budget;
	struct child child;
	int status;

	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &options) != 0)
		return EXIT_OWN_FAILURE;
	child_take_signals();
	find_budget(&options, &budget);
	set_preload();
	warn_if_uncovered(options.argv[0]);
	status = child_start(options.argv, &child);
	if (status)
		return status;
	keep(&options, &budget, &child);
	write_report(&options, &budget);
	if (budget.is_keeper && (members(budget.ledger) != 0 || child_has_orphans()))
		keep_in_background(budget.ledger);
	return child.status;
}
