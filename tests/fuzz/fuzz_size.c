/*
 * Sizes as people write them. What is understood is compared with floating point; what is not leaves the result alone.
 */
#include <holdfast/init.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static long double unit_of(const char *text)
{
	static const char units[] = "KMGTPE";
	const char *found = *text ? strchr(units, *text & ~0x20) : NULL;

	if (*text == '%')
		return (long double)hf_ram_limit_bytes() / 100;
	return found ? powl(1024, found - units + 1) : 1;
}

static void check(const char *text, size_t size)
{
	char *unit;
	const long double number = strtold(text, &unit);
	const long double expected = number * unit_of(unit);

	/* Bytes are cut off, not rounded, and the digits far behind the point too. RAM may change a little. */
	if (*unit != '%' && fabsl(expected - (long double)size) > 1 + expected * 1e-9L)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	enum { UNTOUCHED = 4711 };
	size_t size = UNTOUCHED;
	char *text = malloc(bytes + 1);

	memcpy(text, data, bytes);
	text[bytes] = '\0';
	if (hf_parse_size(text, &size) != 0) {
		if (size != UNTOUCHED)
			abort();
	} else if (strcmp(text, "auto") == 0) {
		if (size != 0)
			abort();
	} else if (strcmp(text, "unlimited") == 0) {
		if (size != SIZE_MAX)
			abort();
	} else {
		if (size == 0 || size == SIZE_MAX)
			abort();
		check(text, size);
	}
	free(text);
	return 0;
}
