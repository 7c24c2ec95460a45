/* Sizes as people write them. */
#include <holdfast/init.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

static void sizes_are_understood(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"4096", 4096},
		{"1B", 1},
		{"64K", 64 << 10},
		{"64M", 64 << 20},
		{"64m", 64 << 20},
		{"64MiB", 64 << 20},
		{"1.5G", (uint64_t)3 << 29},
		{"0.5K", 512},
		{"0.1G", 107374182},
		{"2T", (uint64_t)2 << 40},
		{"1.000000000000000000001M", 1 << 20},
		{"auto", 0},
		{"unlimited", SIZE_MAX},
		{"0.000000000000000000867361737988403547205962240695953369140625E", 1}, /* 2^-60, to the last digit */
		{"0.00000000021592512T", 237},
		{"15.99E", 18435214858663483146ULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		size_t bytes = 7;

		assert_int_equal(hf_parse_size(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const bad[] = {"", "M", "64X", "64MM", "64 M", " 64M", "64M ", "-1", "+1", "1.", ".5", "1.M",
		"1..5M", "0x10", "1e3", "0", "0M", "0.0",
		"0.000000000000000000867361737988403547205962240695953369140624E", "0%", "%", "5%%", "automatic",
		"Auto", "64Mi", "1,5G", "0.1B"};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		size_t bytes = 7;

		assert_int_equal(hf_parse_size(bad[i], &bytes), -EINVAL);
		assert_int_equal(bytes, 7);
	}
}

static void what_is_too_large_is_another_error(void **state)
{
	static const char *const large[] = {"16E", "99999999999999999999", "20000000T", "101%", "100.1%"};

	(void)state;
	for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
		size_t bytes = 7;

		assert_int_equal(hf_parse_size(large[i], &bytes), -ERANGE);
		assert_int_equal(bytes, 7);
	}
}

static void a_percentage_is_of_what_there_is(void **state)
{
	const size_t all = hf_ram_limit_bytes();
	size_t bytes;

	(void)state;
	assert_true(all > 0);
	assert_int_equal(hf_parse_size("100%", &bytes), 0);
	assert_int_equal(bytes, all);
	assert_int_equal(hf_parse_size("50%", &bytes), 0);
	assert_int_equal(bytes, all / 2);
	assert_int_equal(hf_parse_size("12.5%", &bytes), 0);
	assert_in_range(bytes, all / 8 - 1, all / 8 + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_understood),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(what_is_too_large_is_another_error),
		cmocka_unit_test(a_percentage_is_of_what_there_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
