/* The keeper and its socket; joining by the environment. */
#include "ledger/keeper.h"

#include "ledger/environment.h"
#include "ledger/find.h"
#include "ledger/internal.h"
#include "os/os.h"
#include "support/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OTHER_USER = 65534, TEXT_BYTES = 512 };

static struct ledger *ledger;
static struct keeper *keeper;
static char text[TEXT_BYTES]; /* the variable's value */
static int inherited_fd;

static const char *value_of(struct ledger *of, char *whole)
{
	assert_int_equal(ledger_environment_format(of, whole, TEXT_BYTES), 0);
	return strchr(whole, '=') + 1;
}

static int start_named(const char *name)
{
	const struct ledger_spec spec = {.name = name, .limit_pages = 10000};
	char whole[TEXT_BYTES];

	if (ledger_create(&spec, &ledger) != 0)
		return -1;
	if (keeper_create(ledger, name, &keeper) != 0)
		return -1;
	strcpy(text, value_of(ledger, whole));
	inherited_fd = atoi(text);
	return 0;
}

static int start(void **state)
{
	(void)state;
	return start_named(NULL);
}

static int stop(void **state)
{
	(void)state;
	keeper_destroy(keeper);
	ledger_leave(ledger);
	close(inherited_fd);
	return 0;
}

/* Run @body in a child and keep the ledger meanwhile. The child's exit status. */
static int serve_while(int (*body)(void))
{
	const pid_t child = fork();
	int status;

	if (child == 0)
		_exit(body());
	while (waitpid(child, &status, WNOHANG) == 0) {
		struct pollfd polled = {.fd = keeper_poll_fd(keeper), .events = POLLIN};
		unsigned next_ms;

		keeper_serve(keeper, &next_ms);
		assert_in_range(next_ms, 1, 1000);
		(void)poll(&polled, 1, next_ms < 5 ? (int)next_ms : 5); /* 5: the child's end wakes nobody here */
	}
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* 0: joined, and the same ledger. */
static int join_as(const char *value)
{
	struct ledger *joined;
	const char *why = "";
	char cookie[33], expected[33];
	const int error = ledger_join_environment(value, &joined, &why);

	if (error) {
		fprintf(stderr, "%s: %s\n", strerror(-error), why);
		return -error;
	}
	ledger_cookie(joined, cookie);
	ledger_cookie(ledger, expected);
	return strcmp(cookie, expected) == 0 ? 0 : 255;
}

static int join_by_text(void)
{
	return join_as(text);
}

static int join_without_descriptor(void)
{
	close(inherited_fd);
	return join_by_text();
}

static int join_with_descriptor_reused(void)
{
	int fd;

	close(inherited_fd);
	fd = dup2(STDERR_FILENO, inherited_fd);
	return fd == inherited_fd ? join_by_text() : 255;
}

/* Another ledger stands where ours was. */
static int join_with_another_ledger_there(void)
{
	const struct ledger_spec spec = {.limit_pages = 100};
	struct ledger *other;

	if (ledger_create(&spec, &other) != 0 || dup2(ledger_descriptor(other), inherited_fd) < 0)
		return 255;
	return join_by_text();
}

static int join_as_another_user(void)
{
	if (setgid(OTHER_USER) != 0 || setuid(OTHER_USER) != 0)
		return 254;
	return join_by_text();
}

static int join_as_another_user_with_a_wrong_cookie(void)
{
	char *cookie = strchr(text, ',') + 1;

	if (setgid(OTHER_USER) != 0 || setuid(OTHER_USER) != 0)
		return 254;
	cookie[0] = cookie[0] == '0' ? '1' : '0';
	return join_without_descriptor();
}

/* Somebody else holds sixteen connections and more, and says nothing; then one comes that has the cookie. */
static int join_behind_silent_callers(void)
{
	const char *name = strrchr(text, ',') + 1;
	int fd;

	if (setgid(OTHER_USER) != 0 || setuid(OTHER_USER) != 0)
		return 254;
	for (int i = 0; i < 40; i++) {
		if (os_socket_connect(name, &fd) != 0)
			return 255;
	}
	return join_without_descriptor();
}

static void the_inherited_descriptor_is_enough(void **state)
{
	(void)state;
	assert_int_equal(serve_while(join_by_text), 0);
}

static void a_closed_descriptor_is_replaced_by_the_keeper(void **state)
{
	(void)state;
	assert_int_equal(serve_while(join_without_descriptor), 0);
}

static void a_reused_descriptor_is_not_mistaken(void **state)
{
	(void)state;
	assert_int_equal(serve_while(join_with_descriptor_reused), 0);
	assert_int_equal(serve_while(join_with_another_ledger_there), 0);
}

static void another_user_gets_in_by_the_cookie(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip(); /* needs root, to become somebody else */
	assert_int_equal(serve_while(join_as_another_user), 0);
	assert_int_equal(serve_while(join_behind_silent_callers), 0);
}

static void another_user_without_it_does_not(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip();
	assert_int_equal(serve_while(join_as_another_user_with_a_wrong_cookie), EACCES);
}

static void without_descriptor_and_keeper_it_says_so(void **state)
{
	struct ledger *joined;
	const char *why = "";
	char gone[TEXT_BYTES];

	(void)state;
	(void)snprintf(gone, sizeof gone, "1000000,0123456789abcdef0123456789abcdef,holdfast-no-such-socket");
	assert_int_equal(ledger_join_environment(gone, &joined, &why), -ECONNREFUSED);
	assert_non_null(strstr(why, "there is no keeper"));
	(void)snprintf(gone, sizeof gone, "1000000,0123456789abcdef0123456789abcdef,");
	assert_int_equal(ledger_join_environment(gone, &joined, &why), -ECONNREFUSED);
}

static void damaged_text_is_refused(void **state)
{
	static const char *const bad[] = {"", "x", "3", "3,", "3,0123", "3,0123456789abcdef0123456789abcdef",
		"-1,0123456789abcdef0123456789abcdef,s", "3,0123456789ABCDEF0123456789abcdef,s",
		"3,0123456789abcdef0123456789abcdef0,s", "99999999999999999999,0123456789abcdef0123456789abcdef,s",
		"3,0123456789abcdef0123456789abcdef,a-name-that-is-longer-than-any-socket-name-of-ours-could-ever-be"};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct ledger *joined;
		const char *why = NULL;

		assert_int_equal(ledger_join_environment(bad[i], &joined, &why), -EINVAL);
		assert_non_null(why);
	}
}

static void ledgers_inside_one_another_are_all_joined(void **state)
{
	const struct ledger_spec spec = {.limit_pages = 500};
	struct ledger *inner, *joined;
	char whole[TEXT_BYTES];
	const char *value, *why;
	struct ledger_view before, after;

	(void)state;
	assert_int_equal(ledger_create(&spec, &inner), 0);
	{
		struct ledger *outer;

		assert_int_equal(ledger_join(ledger_descriptor(ledger), &outer, &why), 0);
		assert_int_equal(ledger_nest(inner, outer), 0);
	}
	value = value_of(inner, whole);
	assert_non_null(strchr(value, ';'));
	assert_int_equal(ledger_join_environment(value, &joined, &why), 0);
	assert_non_null(ledger_outer(joined));
	ledger_look(ledger, &before);
	assert_int_equal(ledger_commit(joined, 100, 0), 0);
	ledger_look(ledger, &after);
	assert_int_equal(after.committed_pages - before.committed_pages, 100);
	assert_int_equal(ledger_commit(joined, 450, 0), -ENOMEM); /* the inner one says no */
	ledger_look(ledger, &after);
	assert_int_equal(after.committed_pages - before.committed_pages, 100);
	ledger_uncommit(joined, 100, ledger_epoch(joined));
	ledger_leave(joined);
	close(atoi(value));
	close(atoi(strchr(value, ';') + 1));
	ledger_leave(inner);
}

static void too_many_inside_one_another_are_refused(void **state)
{
	char five[2 * TEXT_BYTES] = "";
	struct ledger *joined;
	const char *why;

	(void)state;
	for (int i = 0; i < 5; i++)
		(void)snprintf(five + strlen(five), sizeof five - strlen(five), "%s%s", i ? ";" : "", text);
	assert_int_equal(ledger_join_environment(five, &joined, &why), -ELOOP);
	assert_non_null(strstr(why, "four"));
}

static void a_name_is_taken_once(void **state)
{
	const struct ledger_spec spec = {.limit_pages = 100};
	struct ledger *other;
	struct keeper *second;
	char name[32];

	(void)state;
	(void)snprintf(name, sizeof name, "test-%d", (int)getpid());
	assert_int_equal(start_named(name), 0);
	assert_int_equal(ledger_create(&spec, &other), 0);
	assert_int_equal(keeper_create(other, name, &second), -EEXIST);
	ledger_leave(other);
	(void)stop(state);
	/* And is free again. */
	assert_int_equal(start_named(name), 0);
	(void)stop(state);
}

static char wanted_name[32];

static int find_by_name(void)
{
	struct ledger *found;
	const int error = ledger_find_name(wanted_name, false, &found);

	return error ? -error : found->shared->identity == ledger->shared->identity ? 0 : 255;
}

static void a_ledger_is_found_by_its_name(void **state)
{
	struct ledger *found;

	(void)state;
	(void)snprintf(wanted_name, sizeof wanted_name, "find-%d", (int)getpid());
	assert_int_equal(start_named(wanted_name), 0);
	assert_int_equal(serve_while(find_by_name), 0);
	(void)stop(state);
	assert_int_equal(ledger_find_name(wanted_name, false, &found), -ENOENT);
}

static void a_process_s_ledger_is_found_by_its_descriptors(void **state)
{
	struct ledger *found;

	(void)state;
	assert_int_equal(ledger_find_process(getpid(), false, &found), 0);
	assert_int_equal(found->shared->identity, ledger->shared->identity);
	ledger_leave(found);
	assert_int_equal(ledger_find_process(0x7ffffff0, false, &found), -ESRCH);
}

static int be_refused_and_end(void *context)
{
	struct ledger *joined;
	const char *why;

	(void)context;
	if (ledger_join_environment(text, &joined, &why) != 0)
		return 1;
	if (ledger_commit(joined, 100, 0) != 0)
		return 2;
	ledger_note_refusal(joined, 12345);
	return 0;
}

static void who_was_refused_is_remembered_when_it_has_ended(void **state)
{
	struct ledger_member member;
	struct ledger_view view;
	unsigned next_ms;

	(void)state;
	assert_false(keeper_ended_at(keeper, 0, &member));
	for (int i = 0; i < 70; i++) {
		assert_int_equal(child_check(be_refused_and_end, NULL), 0);
		keeper_serve(keeper, &next_ms);
	}
	assert_true(keeper_ended_at(keeper, 0, &member));
	assert_int_equal(member.refusals, 1);
	assert_int_equal(member.last_refused_bytes, 12345);
	assert_true(keeper_ended_at(keeper, 63, &member));
	assert_false(keeper_ended_at(keeper, 64, &member));
	ledger_look(ledger, &view);
	assert_int_equal(view.refusals, 70);
	assert_int_equal(view.members, 1);
	assert_int_equal(view.committed_pages, view.own_pages);
	assert_true(view.slots_high < 10); /* their slots were given back */
}

static void a_forked_child_can_go_on_as_the_keeper(void **state)
{
	struct ledger_view view;
	int status;
	pid_t child;

	(void)state;
	child = _Fork();
	if (child == 0) {
		unsigned next_ms;

		keeper_serve(keeper, &next_ms);
		ledger_look(ledger, &view);
		_exit(view.keeper_pid == getpid() ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_inherited_descriptor_is_enough, start, stop),
		cmocka_unit_test_setup_teardown(a_closed_descriptor_is_replaced_by_the_keeper, start, stop),
		cmocka_unit_test_setup_teardown(a_reused_descriptor_is_not_mistaken, start, stop),
		cmocka_unit_test_setup_teardown(another_user_gets_in_by_the_cookie, start, stop),
		cmocka_unit_test_setup_teardown(another_user_without_it_does_not, start, stop),
		cmocka_unit_test(without_descriptor_and_keeper_it_says_so),
		cmocka_unit_test(damaged_text_is_refused),
		cmocka_unit_test_setup_teardown(ledgers_inside_one_another_are_all_joined, start, stop),
		cmocka_unit_test_setup_teardown(too_many_inside_one_another_are_refused, start, stop),
		cmocka_unit_test(a_name_is_taken_once),
		cmocka_unit_test(a_ledger_is_found_by_its_name),
		cmocka_unit_test_setup_teardown(a_process_s_ledger_is_found_by_its_descriptors, start, stop),
		cmocka_unit_test_setup_teardown(who_was_refused_is_remembered_when_it_has_ended, start, stop),
		cmocka_unit_test_setup_teardown(a_forked_child_can_go_on_as_the_keeper, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
