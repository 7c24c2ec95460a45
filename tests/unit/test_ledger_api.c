/* <holdfast/ledger.h>, as a launcher or a monitor uses it. */
#include <holdfast/ledger.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* A name that no other run of this test uses: they are one a user. */
static const char *own_name(const char *name)
{
	static char text[32];

	(void)snprintf(text, sizeof text, "%s-%d", name, (int)getpid());
	return text;
}

static hf_ledger *create(const char *name, size_t budget_bytes)
{
	const struct hf_ledger_spec spec = {.struct_bytes = sizeof spec, .name = name, .budget_bytes = budget_bytes};
	hf_ledger *ledger = NULL;

	assert_int_equal(hf_ledger_create(&spec, &ledger), 0);
	return ledger;
}

static struct hf_ledger_info info_of(const hf_ledger *ledger)
{
	struct hf_ledger_info info = {.struct_bytes = sizeof info};

	assert_int_equal(hf_ledger_info(ledger, &info), 0);
	return info;
}

static void a_new_ledger_says_what_it_is(void **state)
{
	hf_ledger *ledger = create(own_name("new"), 64 * MIB);
	const struct hf_ledger_info info = info_of(ledger);

	(void)state;
	assert_string_equal(info.name, own_name("new"));
	assert_string_equal(info.limit_source, "as given");
	assert_int_equal(info.limit_bytes, 64 * MIB);
	assert_int_equal(info.committed_bytes, info.own_bytes);
	assert_int_equal(info.processes, 0); /* the keeper is no process under the budget */
	assert_int_equal(info.keeper_pid, getpid());
	assert_false(info.automatic);
	assert_true(info.identity != 0);
	hf_ledger_close(ledger);
}

static void no_limit_and_an_automatic_one_are_told_apart(void **state)
{
	hf_ledger *unlimited = create(NULL, SIZE_MAX);
	hf_ledger *automatic = create(NULL, 0);

	(void)state;
	assert_int_equal(info_of(unlimited).limit_bytes, SIZE_MAX);
	assert_false(info_of(unlimited).automatic);
	assert_true(info_of(automatic).automatic);
	/* It is there from the first moment. */
	assert_true(info_of(automatic).limit_bytes < SIZE_MAX);
	assert_true(strlen(info_of(automatic).limit_source) > 0);
	hf_ledger_close(unlimited);
	hf_ledger_close(automatic);
}

static void bad_specs_are_refused(void **state)
{
	static const char *const names[] = {"", "a b", "a/b", "12345678901234567890123456789012", "\xc3\xa4"};
	struct hf_ledger_spec spec = {.struct_bytes = sizeof spec, .budget_bytes = MIB};
	hf_ledger *ledger;

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		spec.name = names[i];
		assert_int_equal(hf_ledger_create(&spec, &ledger), -EINVAL);
		assert_int_equal(hf_ledger_open_name(names[i], false, &ledger), -EINVAL);
	}
	spec.name = NULL;
	spec.struct_bytes = 0;
	assert_int_equal(hf_ledger_create(&spec, &ledger), -EINVAL);
}

static void a_name_is_taken_once(void **state)
{
	const struct hf_ledger_spec spec = {
		.struct_bytes = sizeof spec, .name = own_name("twice"), .budget_bytes = MIB};
	hf_ledger *ledger = create(own_name("twice"), MIB);
	hf_ledger *second;

	(void)state;
	assert_int_equal(hf_ledger_create(&spec, &second), -EEXIST);
	hf_ledger_close(ledger);
	hf_ledger_close(create(own_name("twice"), MIB));
}

static void an_older_program_s_structs_are_shorter(void **state)
{
	hf_ledger *ledger = create(own_name("short"), 64 * MIB);
	struct hf_ledger_info info;
	struct hf_ledger_process process;

	(void)state;
	memset(&info, 0x5a, sizeof info);
	info.struct_bytes = offsetof(struct hf_ledger_info, limit_source);
	assert_int_equal(hf_ledger_info(ledger, &info), 0);
	assert_string_equal(info.name, own_name("short"));
	assert_int_equal((unsigned char)info.limit_source[0], 0x5a);
	info.struct_bytes = 0;
	assert_int_equal(hf_ledger_info(ledger, &info), -EINVAL);
	process.struct_bytes = 4;
	assert_int_equal(hf_ledger_process_at(ledger, 0, &process), -EINVAL);
	process.struct_bytes = sizeof process;
	assert_int_equal(hf_ledger_process_at(ledger, 0, &process), -ENOENT);
	hf_ledger_close(ledger);
}

static void the_variable_is_written_once_and_stays(void **state)
{
	hf_ledger *ledger = create(NULL, MIB);
	char first[512], second[512], small[20];

	(void)state;
	assert_int_equal(hf_ledger_environment(ledger, small, sizeof small), -ENOBUFS);
	assert_int_equal(hf_ledger_environment(ledger, first, sizeof first), 0);
	assert_int_equal(hf_ledger_environment(ledger, second, sizeof second), 0);
	assert_string_equal(first, second);
	assert_int_equal(strncmp(first, "HOLDFAST_LEDGER=", 16), 0);
	hf_ledger_close(ledger);
}

static void a_view_sees_the_same_and_keeps_nothing(void **state)
{
	hf_ledger *ledger = create(own_name("viewed"), 64 * MIB);
	hf_ledger *view = NULL;
	unsigned next_ms;

	(void)state;
	assert_int_equal(hf_ledger_open_pid(getpid(), false, &view), 0);
	assert_int_equal(info_of(view).identity, info_of(ledger).identity);
	assert_int_equal(hf_ledger_serve(view, &next_ms), -EINVAL);
	assert_int_equal(hf_ledger_poll_fd(view), -EINVAL);
	assert_int_equal(hf_ledger_serve(ledger, &next_ms), 0);
	hf_ledger_close(view);
	hf_ledger_close(ledger);
	hf_ledger_close(NULL);
}

static void what_cannot_be_opened_says_why(void **state)
{
	hf_ledger *ledger;

	(void)state;
	assert_int_equal(hf_ledger_open_pid(getpid(), false, &ledger), -ENOENT);
	assert_int_equal(hf_ledger_open_pid(0x7ffffff0, false, &ledger), -ESRCH);
	assert_int_equal(hf_ledger_open_pid(-1, false, &ledger), -EINVAL);
	assert_int_equal(hf_ledger_open_name("no-such-ledger", false, &ledger), -ENOENT);
	assert_int_equal(unsetenv("HOLDFAST_LEDGER"), 0);
	assert_int_equal(hf_ledger_open_pid(0, false, &ledger), -ENOENT);
	assert_int_equal(setenv("HOLDFAST_LEDGER", "nonsense", 1), 0);
	assert_int_equal(hf_ledger_open_pid(0, false, &ledger), -EINVAL);
	assert_int_equal(unsetenv("HOLDFAST_LEDGER"), 0);
}

static void the_environment_s_ledger_is_found_and_can_be_around_another(void **state)
{
	struct hf_ledger_spec spec = {.struct_bytes = sizeof spec, .budget_bytes = 32 * MIB, .inner = true};
	hf_ledger *outer = create(own_name("outer"), 64 * MIB);
	hf_ledger *view, *inner;
	char text[512];

	(void)state;
	assert_int_equal(hf_ledger_environment(outer, text, sizeof text), 0);
	assert_int_equal(setenv("HOLDFAST_LEDGER", strchr(text, '=') + 1, 1), 0);
	assert_int_equal(hf_ledger_open_pid(0, false, &view), 0);
	assert_int_equal(info_of(view).identity, info_of(outer).identity);
	hf_ledger_close(view);
	assert_int_equal(hf_ledger_create(&spec, &inner), 0);
	assert_int_equal(hf_ledger_environment(inner, text, sizeof text), 0);
	assert_non_null(strchr(text, ';')); /* both */
	hf_ledger_close(inner);
	hf_ledger_close(outer);
	assert_int_equal(unsetenv("HOLDFAST_LEDGER"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_ledger_says_what_it_is),
		cmocka_unit_test(no_limit_and_an_automatic_one_are_told_apart),
		cmocka_unit_test(bad_specs_are_refused),
		cmocka_unit_test(a_name_is_taken_once),
		cmocka_unit_test(an_older_program_s_structs_are_shorter),
		cmocka_unit_test(the_variable_is_written_once_and_stays),
		cmocka_unit_test(a_view_sees_the_same_and_keeps_nothing),
		cmocka_unit_test(what_cannot_be_opened_says_why),
		cmocka_unit_test(the_environment_s_ledger_is_found_and_can_be_around_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
