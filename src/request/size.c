/*
 * Sizes as people write them. Integers all the way: 0.1G must be the same everywhere.
 */
#include <holdfast/init.h>

#include "base/compiler.h"
#include "ledger/limit.h"

#include <errno.h>
#include <string.h>

typedef unsigned __int128 wide;

struct decimal {
	uint64_t whole;
	const char *fraction, *fraction_end; /* its digits */
};

/* "12", "1.5". The text behind it, or NULL. */
static const char *parse_decimal(const char *text, struct decimal *decimal, int *error_out)
{
	const char *start = text;

	*decimal = (struct decimal){.whole = 0};
	for (; *text >= '0' && *text <= '9'; text++) {
		if (__builtin_mul_overflow(decimal->whole, 10, &decimal->whole) ||
			__builtin_add_overflow(decimal->whole, (uint64_t)(*text - '0'), &decimal->whole)) {
			*error_out = -ERANGE;
			return NULL;
		}
	}
	if (text == start)
		return NULL;
	decimal->fraction = decimal->fraction_end = text;
	if (*text != '.')
		return text;
	decimal->fraction = ++text;
	text += strspn(text, "0123456789");
	decimal->fraction_end = text;
	return text > decimal->fraction ? text : NULL;
}

/* The number times @unit, cut off. Exact: to cut off at each digit, from the last to the first, is to cut off once. */
static wide decimal_times(const struct decimal *decimal, uint64_t unit)
{
	uint64_t part = 0;

	for (const char *at = decimal->fraction_end; at > decimal->fraction; at--)
		part = (uint64_t)(((wide)unit * (wide)(at[-1] - '0') + part) / 10);
	return (wide)unit * decimal->whole + part;
}

/* How many bytes one of it is; 0: no such unit. */
static uint64_t unit_of(const char *text)
{
	static const char units[] = "KMGTPE";
	const char upper = *text >= 'a' && *text <= 'z' ? (char)(*text - 'a' + 'A') : *text;
	const char *found = upper ? strchr(units, upper) : NULL;

	if (strcmp(text, "") == 0 || strcmp(text, "B") == 0)
		return 1;
	if (!found || (strcmp(text + 1, "") != 0 && strcmp(text + 1, "iB") != 0))
		return 0;
	return UINT64_C(1) << 10 * (found - units + 1);
}

HF_EXPORT int hf_parse_size(const char *text, size_t *bytes_out)
{
	struct decimal decimal;
	int error = -EINVAL;
	uint64_t unit;
	wide bytes;

	if (strcmp(text, "auto") == 0) {
		*bytes_out = 0;
		return 0;
	}
	if (strcmp(text, "unlimited") == 0) {
		*bytes_out = SIZE_MAX;
		return 0;
	}
	text = parse_decimal(text, &decimal, &error);
	if (!text)
		return error;
	if (strcmp(text, "%") == 0) {
		const size_t zeros = strspn(decimal.fraction, "0");

		if (decimal.whole > 100 || (decimal.whole == 100 && decimal.fraction + zeros < decimal.fraction_end))
			return -ERANGE;
		bytes = decimal_times(&decimal, hf_ram_limit_bytes()) / 100;
	} else {
		unit = unit_of(text);
		if (unit == 0)
			return -EINVAL;
		bytes = decimal_times(&decimal, unit);
	}
	if (bytes == 0)
		return -EINVAL; /* would say "auto" */
	if (bytes >= SIZE_MAX)
		return -ERANGE;
	*bytes_out = (size_t)bytes;
	return 0;
}

HF_EXPORT size_t hf_ram_limit_bytes(void)
{
	return limit_tightest_bytes();
}
