/*
 * Start-up: the knobs of HOLDFAST=, what happens when they are wrong, hf_init(), secure execution, inherited ledgers.
 *
 * Each case needs a fresh process: the program runs itself with "child ACTION" and looks at its status and standard
 * error.
 */
#include "ledger/environment.h"
#include "ledger/ledger.h"
#include "os/os.h"
#include "pool/pool.h"

#include <holdfast/holdfast.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#if HF_ASAN
/* The leak checker may not look at a setuid process, and then makes it fail; options do not reach it there. */
HF_EXPORT const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

struct outcome {
	int status; /* exit status, or 128 + signal */
	char text[4096];
};

static char self[256];

static void read_all(int fd, char *text, size_t bytes)
{
	size_t used = 0;
	ssize_t got;

	while (used < bytes - 1 && (got = read(fd, text + used, bytes - 1 - used)) > 0)
		used += (size_t)got;
	text[used] = '\0';
}

/* Runs "@program child @action" with the two variables (NULL: unset), as user @uid. */
static struct outcome run_program(
	const char *program, uid_t uid, const char *action, const char *knobs, const char *ledgers)
{
	struct outcome outcome;
	int ends[2], status;

	assert_int_equal(pipe(ends), 0);
	const pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		unsetenv("HOLDFAST");
		unsetenv(LEDGER_ENVIRONMENT);
		if (knobs)
			setenv("HOLDFAST", knobs, 1);
		if (ledgers)
			setenv(LEDGER_ENVIRONMENT, ledgers, 1);
		if (uid != 0 && setresuid(uid, uid, uid) != 0)
			_exit(99);
		execl(program, program, "child", action, NULL);
		_exit(98);
	}
	close(ends[1]);
	read_all(ends[0], outcome.text, sizeof outcome.text);
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return outcome;
}

static struct outcome run(const char *action, const char *knobs)
{
	return run_program(self, 0, action, knobs, NULL);
}

static void assert_contains(const struct outcome *outcome, const char *part)
{
	if (!strstr(outcome->text, part))
		fail_msg("\"%s\" is not in: %s", part, outcome->text);
}

/* ---- what the children do ---- */

enum { CHILD_OK = 0, CHILD_NO_MEMORY = 10, CHILD_WRONG = 11 };

/* One allocation, then the budget on standard error. */
static int child_allocate(void)
{
	struct hf_stats stats = {.struct_bytes = sizeof stats};
	void *object = hf_alloc(100, HF_RETRY | HF_NOWARN);

	if (!object)
		return errno == ENOMEM ? CHILD_NO_MEMORY : CHILD_WRONG;
	hf_free(object);
	if (hf_stats_get(&stats) != 0)
		return CHILD_WRONG;
	fprintf(stderr, "limit %zu processes %u\n", stats.limit_bytes, stats.processes);
	return CHILD_OK;
}

static int child_init_twice(void)
{
	const struct hf_config config = {.struct_bytes = sizeof config, .budget_bytes = 32 << 20};

	if (hf_init(&config) != 0 || hf_init(&config) != -EALREADY || hf_init(NULL) != -EALREADY)
		return CHILD_WRONG;
	return child_allocate();
}

static int child_init_after_allocation(void)
{
	const struct hf_config config = {.struct_bytes = sizeof config, .budget_bytes = 32 << 20};

	hf_free(hf_alloc(1, HF_RETRY));
	return hf_init(&config) == -EALREADY ? CHILD_OK : CHILD_WRONG;
}

static int child_init_alone(void)
{
	const struct hf_config config = {
		.struct_bytes = sizeof config, .budget_bytes = 32 << 20, .ignore_environment = true};

	return hf_init(&config) == 0 ? child_allocate() : CHILD_WRONG;
}

static int child_init_badly(void)
{
	struct hf_config config = {.struct_bytes = sizeof config,
		.knobs = "fail.probability=100,fail.times=-1,fail.nonsense=1",
		.ignore_environment = true};

	if (hf_init(&config) != -EINVAL)
		return CHILD_WRONG;
	config.knobs = NULL;
	config.name = "a-name-that-is-longer-than-31-characters";
	if (hf_init(&config) != -EINVAL)
		return CHILD_WRONG;
	config.name = NULL;
	config.struct_bytes = 1;
	if (hf_init(&config) != -EINVAL)
		return CHILD_WRONG;
	config.struct_bytes = sizeof config;
	config.budget_bytes = 16 << 20;
	return hf_init(&config) == 0 ? child_allocate() : CHILD_WRONG; /* a failed one leaves nothing behind */
}

static int child_init_with_an_old_struct(void)
{
	/* A program compiled when the struct ended after the budget. */
	const struct hf_config config = {
		.struct_bytes = offsetof(struct hf_config, knobs), .budget_bytes = 48 << 20, .knobs = "garbage"};

	return hf_init(&config) == 0 ? child_allocate() : CHILD_WRONG;
}

static pthread_barrier_t together;

static void *allocate_first(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&together);
	void *object = hf_alloc(1000, HF_RETRY);
	if (!object)
		return NULL;
	hf_free(object);
	return &together;
}

static int child_many_threads_first(void)
{
	enum { THREADS = 8 };
	pthread_t threads[THREADS];
	void *result;
	int status = CHILD_OK;

	pthread_barrier_init(&together, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, allocate_first, NULL) != 0)
			return CHILD_WRONG;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &result);
		if (!result)
			status = CHILD_WRONG;
	}
	return status == CHILD_OK ? child_allocate() : status;
}

static int child_without_environ(void)
{
	environ = NULL; /* as before the C library's constructor: /proc/self/environ says what it was */
	return child_allocate();
}

static const struct {
	const char *name;
	int (*run)(void);
} actions[] = {{"allocate", child_allocate}, {"init-twice", child_init_twice},
	{"init-late", child_init_after_allocation}, {"init-alone", child_init_alone}, {"init-badly", child_init_badly},
	{"init-old", child_init_with_an_old_struct}, {"threads", child_many_threads_first},
	{"no-environ", child_without_environ}};

static int run_child(const char *name)
{
	for (size_t i = 0; i < HF_COUNT_OF(actions); i++) {
		if (strcmp(name, actions[i].name) == 0)
			return actions[i].run();
	}
	return 97;
}

/* ---- the tests ---- */

static void the_budget_is_taken_from_the_environment(void **state)
{
	static const struct {
		const char *knobs, *expected;
	} cases[] = {{"budget=64M", "limit 67108864 "}, {"name=web,budget=1.5G", "limit 1610612736 "},
		{"budget=8388608,name=x", "limit 8388608 "}, {"budget=unlimited", "limit 18446744073709551615 "},
		{",budget=64M,,commit=accounted,", "limit 67108864 "}};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(cases); i++) {
		const struct outcome outcome = run("allocate", cases[i].knobs);

		assert_int_equal(outcome.status, CHILD_OK);
		assert_contains(&outcome, cases[i].expected);
		assert_contains(&outcome, "processes 1");
	}
}

static void without_a_budget_it_is_automatic_and_less_than_ram(void **state)
{
	static const char *const knobs[] = {NULL, "", "budget=auto"};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(knobs); i++) {
		const struct outcome outcome = run("allocate", knobs[i]);
		unsigned long long limit_bytes = 0;

		assert_int_equal(outcome.status, CHILD_OK);
		assert_int_equal(sscanf(outcome.text, "limit %llu", &limit_bytes), 1);
		assert_true(limit_bytes > 0);
		assert_true(limit_bytes < os_ram_bytes());
	}
}

static void a_wrong_knob_is_named_and_ends_the_program_with_125(void **state)
{
	static const struct {
		const char *knobs, *part, *other_part;
	} cases[] = {{"buget=64M", "unknown knob in HOLDFAST: buget", "known: budget, name"},
		{"budget=64M,nonsense=1", "unknown knob in HOLDFAST: nonsense", "fail.probability"},
		{"fail.everything=1", "unknown knob in HOLDFAST: fail.everything", "fail.times"},
		{"budget=lots", "budget=lots", "64M"}, {"budget=", "budget=", "64M"},
		{"budget=99999999999999T", "too large", "budget"}, {"budget", "budget", "name=value"},
		{"name=", "name=", "1 to 31"}, {"name=a b", "name=a b", "1 to 31"},
		{"name=0123456789012345678901234567890123", "name=0123456789", "1 to 31"},
		{"commit=locked", "commit=locked", "accounted"},
		{"fail.probability=often", "fail.probability=often", "bad value"},
		{"budget=64M,fail.times=", "fail.times=", "bad value"}};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(cases); i++) {
		const struct outcome outcome = run("allocate", cases[i].knobs);

		assert_int_equal(outcome.status, 125);
		assert_contains(&outcome, "holdfast: ");
		assert_contains(&outcome, cases[i].part);
		assert_contains(&outcome, cases[i].other_part);
	}
}

static void a_variable_that_is_too_long_is_refused(void **state)
{
	char knobs[3000];

	(void)state;
	memset(knobs, ',', sizeof knobs - 1);
	knobs[sizeof knobs - 1] = '\0';
	const struct outcome outcome = run("allocate", knobs);
	assert_int_equal(outcome.status, 125);
	assert_contains(&outcome, "HOLDFAST is longer than");
	memset(knobs, 'x', 200);
	knobs[200] = '\0';
	const struct outcome one = run("allocate", knobs);
	assert_int_equal(one.status, 125);
	assert_contains(&one, "too long");
}

static void fault_injection_can_be_set_from_the_environment(void **state)
{
	(void)state;
	assert_int_equal(run("allocate", "budget=64M,fail.probability=100,fail.times=-1").status, CHILD_NO_MEMORY);
	assert_int_equal(run("allocate", "budget=64M,fail.probability=100,fail.times=0").status, CHILD_OK);
	assert_int_equal(run("allocate", "budget=64M,fail.probability=100,fail.size=5000-6000").status, CHILD_OK);
	assert_int_equal(run("allocate", "budget=64M,fail.probability=100,fail.size=100").status, CHILD_NO_MEMORY);
	assert_int_equal(run("allocate", "budget=64M,fail.probability=100,fail.class=atomic").status, CHILD_OK);
	/* Start-up itself commits too, and is not what is to be tested. */
	assert_int_equal(run("allocate", "budget=64M,fail.probability=100,fail.times=-1,fail.commits=1").status,
		CHILD_NO_MEMORY);
}

static void hf_init_works_once_and_only_before_the_first_allocation(void **state)
{
	(void)state;
	const struct outcome twice = run("init-twice", NULL);
	assert_int_equal(twice.status, CHILD_OK);
	assert_contains(&twice, "limit 33554432 ");
	assert_int_equal(run("init-late", NULL).status, CHILD_OK);
	const struct outcome old = run("init-old", NULL);
	assert_int_equal(old.status, CHILD_OK);
	assert_contains(&old, "limit 50331648 ");
}

static void the_environment_overrides_the_program_unless_it_is_ignored(void **state)
{
	(void)state;
	const struct outcome overridden = run("init-twice", "budget=24M");
	assert_int_equal(overridden.status, CHILD_OK);
	assert_contains(&overridden, "limit 25165824 ");
	const struct outcome ignored = run("init-alone", "budget=24M,nonsense=1");
	assert_int_equal(ignored.status, CHILD_OK);
	assert_contains(&ignored, "limit 33554432 ");
}

static void hf_init_with_nonsense_says_so_and_can_be_repeated(void **state)
{
	(void)state;
	const struct outcome outcome = run("init-badly", NULL);
	assert_int_equal(outcome.status, CHILD_OK);
	assert_contains(&outcome, "fail.nonsense");
	assert_contains(&outcome, "limit 16777216 ");
}

static void first_requests_of_many_threads_start_it_once(void **state)
{
	(void)state;
	for (int i = 0; i < 50; i++) {
		const struct outcome outcome = run("threads", "budget=64M");

		assert_int_equal(outcome.status, CHILD_OK);
		assert_contains(&outcome, "limit 67108864 processes 1");
	}
}

static void before_environ_is_set_the_kernels_copy_counts(void **state)
{
	(void)state;
	const struct outcome outcome = run("no-environ", "budget=20M");
	assert_int_equal(outcome.status, CHILD_OK);
	assert_contains(&outcome, "limit 20971520 ");
	assert_int_equal(run("no-environ", "nonsense=1").status, 125);
}

/* A setuid copy of this program, run by another user, takes no orders from that user's environment. */
static void secure_execution_ignores_the_environment(void **state)
{
	char directory[] = "/tmp/holdfast-test-XXXXXX", copy[300], command[700];
	struct statvfs file_system;

	(void)state;
	if (geteuid() != 0 || !mkdtemp(directory) || statvfs(directory, &file_system) != 0 ||
		file_system.f_flag & ST_NOSUID) {
		print_message("needs root, and a /tmp without nosuid\n");
		skip();
	}
	snprintf(copy, sizeof copy, "%s/copy", directory);
	snprintf(command, sizeof command, "cp '%s' '%s'", self, copy);
	assert_int_equal(system(command), 0);
	assert_int_equal(chmod(directory, 0755), 0);
	assert_int_equal(chown(copy, 1, 1), 0);
	assert_int_equal(chmod(copy, 04755), 0);
	const struct outcome secure = run_program(copy, 65534, "allocate", "nonsense=1,budget=8M", "nonsense");
	assert_int_equal(chmod(copy, 0755), 0);
	const struct outcome plain = run_program(copy, 65534, "allocate", "nonsense=1,budget=8M", NULL);
	unlink(copy);
	rmdir(directory);
	assert_int_equal(plain.status, 125);
	assert_int_equal(secure.status, CHILD_OK);
	assert_null(strstr(secure.text, "nonsense"));
	assert_null(strstr(secure.text, "limit 8388608 "));
}

static void a_ledger_in_the_environment_is_joined(void **state)
{
	const struct ledger_spec spec = {.name = "shared", .limit_pages = 5000};
	struct ledger *ledger;
	char text[512];

	(void)state;
	assert_int_equal(ledger_create(&spec, &ledger), 0);
	assert_int_equal(ledger_environment_format(ledger, text, sizeof text), 0);
	const char *value = text + sizeof LEDGER_ENVIRONMENT;
	struct outcome outcome = run_program(self, 0, "allocate", NULL, value);
	assert_int_equal(outcome.status, CHILD_OK);
	assert_contains(&outcome, "limit 20480000 processes 2");
	/* A budget of its own goes inside. */
	outcome = run_program(self, 0, "allocate", "budget=8M", value);
	assert_int_equal(outcome.status, CHILD_OK);
	assert_contains(&outcome, "limit 8388608 processes 1");
	assert_int_equal(ledger_check_books(ledger), 0);
	ledger_leave(ledger);
}

static void a_ledger_that_cannot_be_reached_leaves_the_program_uncovered_with_a_word(void **state)
{
	/* A well-formed text; no such descriptor, no keeper. */
	static const char text[] = "987,0123456789abcdef0123456789abcdef,";

	(void)state;
	const struct outcome outcome = run_program(self, 0, "allocate", NULL, text);
	assert_int_equal(outcome.status, CHILD_OK);
	assert_contains(&outcome, "is not covered by the ledger");
	assert_contains(&outcome, "limit 18446744073709551615 ");
}

static void nonsense_in_the_ledgers_variable_is_refused(void **state)
{
	static const char *const texts[] = {"nonsense", "1", "-1,zz,", ";;;;"};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(texts); i++) {
		const struct outcome outcome = run_program(self, 0, "allocate", NULL, texts[i]);

		assert_int_equal(outcome.status, 125);
		assert_contains(&outcome, LEDGER_ENVIRONMENT);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_budget_is_taken_from_the_environment),
		cmocka_unit_test(without_a_budget_it_is_automatic_and_less_than_ram),
		cmocka_unit_test(a_wrong_knob_is_named_and_ends_the_program_with_125),
		cmocka_unit_test(a_variable_that_is_too_long_is_refused),
		cmocka_unit_test(fault_injection_can_be_set_from_the_environment),
		cmocka_unit_test(hf_init_works_once_and_only_before_the_first_allocation),
		cmocka_unit_test(the_environment_overrides_the_program_unless_it_is_ignored),
		cmocka_unit_test(hf_init_with_nonsense_says_so_and_can_be_repeated),
		cmocka_unit_test(first_requests_of_many_threads_start_it_once),
		cmocka_unit_test(before_environ_is_set_the_kernels_copy_counts),
		cmocka_unit_test(secure_execution_ignores_the_environment),
		cmocka_unit_test(a_ledger_in_the_environment_is_joined),
		cmocka_unit_test(a_ledger_that_cannot_be_reached_leaves_the_program_uncovered_with_a_word),
		cmocka_unit_test(nonsense_in_the_ledgers_variable_is_refused),
	};

	if (argc == 3 && strcmp(argv[1], "child") == 0)
		return run_child(argv[2]);
	const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	if (length <= 0)
		return 1;
	self[length] = '\0';
	return cmocka_run_group_tests(tests, NULL, NULL);
}
