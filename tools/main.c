/*
 * holdfast: the command. Each subcommand has a file of its own.
 */
#include "tool.h"

#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* argp looks for it by name: it must be visible to the C library. */
__attribute__((visibility("default"))) const char *argp_program_version = "holdfast " HF_VERSION;

static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
} commands[] = {{"run", run_main}, {"ps", ps_main}, {"stat", stat_main}};

static char program_name[32] = "holdfast";

/* One write, so that the lines of several processes do not mix. */
__attribute__((format(printf, 1, 0))) static void print_line(const char *format, va_list arguments)
{
	char text[1024];
	const int named = snprintf(text, sizeof text, "%s: ", program_name);
	size_t length = named > 0 ? (size_t)named : 0;
	const int more = vsnprintf(text + length, sizeof text - length - 1, format, arguments);

	length += more > 0 ? (size_t)more : 0;
	if (length > sizeof text - 2)
		length = sizeof text - 2;
	text[length] = '\n';
	(void)fwrite(text, 1, length + 1, stderr);
}

void complain(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
}

void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
	exit(EXIT_OWN_FAILURE);
}

void *allocate(size_t count, size_t bytes_each)
{
	void *memory = calloc(count ? count : 1, bytes_each);

	if (!memory)
		fail("out of memory");
	return memory;
}

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	int *first = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		(void)argument;
		*first = state->next - 1;
		state->next = state->argc; /* the rest is the subcommand's */
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_usage(state);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.parser = parse_option,
	.args_doc = "COMMAND [ARGUMENT...]",
	.doc = "Memory for programs that must not die when it runs out.\v"
	       "Commands:\n"
	       "  run [OPTION...] -- CMD [ARG...]   run CMD under a budget\n"
	       "  ps                                list budgets and the processes under them\n"
	       "  stat [PID]                        show them in detail, or as JSON, or for Prometheus\n"
	       "\n"
	       "`holdfast COMMAND --help' says more. Exit status 125: holdfast itself failed.",
};

int main(int argc, char **argv)
{
	int first = 0;

	argp_err_exit_status = EXIT_OWN_FAILURE;
	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &first) != 0)
		return EXIT_OWN_FAILURE;
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		if (strcmp(argv[first], commands[i].name) != 0)
			continue;
		(void)snprintf(program_name, sizeof program_name, "holdfast %s", commands[i].name);
		argv[first] = program_name;
		return commands[i].main(argc - first, argv + first);
	}
	fail("there is no command '%s' (run, ps, stat; see holdfast --help)", argv[first]);
}
