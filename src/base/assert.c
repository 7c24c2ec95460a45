#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void (*_Atomic writer_now)(const char *text, size_t bytes);

void base_set_writer(void (*writer)(const char *text, size_t bytes))
{
	writer_now = writer;
}

/* A line longer than this is cut; 512 bytes stay under PIPE_BUF, so lines of several processes do not mix. */
enum { LINE_BYTES = 512 };

HF_PRINTF(1, 0) static void print_line(const char *format, va_list arguments)
{
	char line[LINE_BYTES];
	int used = snprintf(line, sizeof line, "holdfast: ");

	if (used < 0)
		used = 0;
	int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
	size_t bytes = (size_t)used + (more > 0 ? (size_t)more : 0);
	if (bytes > sizeof line - 1)
		bytes = sizeof line - 1;
	if (bytes == 0 || line[bytes - 1] != '\n')
		line[bytes < sizeof line - 1 ? bytes++ : bytes - 1] = '\n';
	if (writer_now)
		writer_now(line, bytes);
}

void base_warn(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
}

void base_die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_line(format, arguments);
	va_end(arguments);
	abort();
}

void base_check_failed(const char *file, int line, const char *left_text, const char *op_text, const char *right_text,
	uint64_t left, uint64_t right)
{
	base_die("internal check failed at %s:%d: %s %s %s (left %llu, right %llu)", file, line, left_text, op_text,
		right_text, (unsigned long long)left, (unsigned long long)right);
}
