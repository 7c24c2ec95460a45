#include "tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *format_size(size_t bytes, char text[SIZE_TEXT_BYTES])
{
	static const char units[] = "KMGTPE";
	uint64_t tenths = (uint64_t)bytes * 10 / 1024;
	unsigned unit = 0;

	if (bytes == SIZE_MAX) {
		strcpy(text, "none");
		return text;
	}
	if (bytes > UINT64_MAX / 10)
		tenths = (uint64_t)bytes / 1024 * 10;
	for (; tenths >= 10240 && units[unit + 1]; unit++)
		tenths = (tenths + 512) / 1024;
	if (bytes == 0)
		strcpy(text, "0");
	else if (bytes < 1024)
		(void)snprintf(text, SIZE_TEXT_BYTES, "%uB", (unsigned)bytes);
	else if (unit == 0)
		(void)snprintf(text, SIZE_TEXT_BYTES, "%uK", (unsigned)(tenths / 10));
	else
		(void)snprintf(text, SIZE_TEXT_BYTES, "%u.%u%c", (unsigned)(tenths / 10), (unsigned)(tenths % 10),
			units[unit]);
	return text;
}

bool parse_number(const char *text, int *number_out)
{
	char *end;
	long number;

	errno = 0;
	number = strtol(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || number > INT32_MAX)
		return false;
	*number_out = (int)number;
	return true;
}

/* The length of the valid UTF-8 sequence at @text; 0: it is none. Overlong ones and surrogates are none. */
static size_t sequence_length(const unsigned char *text)
{
	const size_t length = text[0] < 0x80   ? 1
			      : text[0] < 0xc2 ? 0
			      : text[0] < 0xe0 ? 2
			      : text[0] < 0xf0 ? 3
			      : text[0] < 0xf5 ? 4
					       : 0;

	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
		(text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return length;
}

void make_printable(const char *from, char *text, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)from;
	size_t used = 0;

	while (*at) {
		size_t length = sequence_length(at);
		const bool is_good = length > 0 && *at >= ' ' && *at != 0x7f && !(*at == 0xc2 && at[1] < 0xa0);

		length = length ? length : 1;
		if (used + length >= bytes)
			break;
		if (is_good)
			memcpy(text + used, at, length);
		else
			text[used] = '?';
		used += is_good ? length : 1;
		at += length;
	}
	text[used] = '\0';
}
