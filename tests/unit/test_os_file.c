/* Files, locks and the error stream: each call does what os.h says. */
#include "base/compiler.h"
#include "os/os.h"
#include "support/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { PAGE = OS_PAGE_BYTES };
static const uint64_t FAR = (uint64_t)1 << 40; /* a byte beyond the end of any file */

static int make_file(size_t bytes)
{
	int fd = -1;

	assert_int_equal(os_memfd("test_os", bytes, &fd), 0);
	return fd;
}

static int reopen(int fd)
{
	int again = -1;

	assert_int_equal(os_fd_reopen(fd, &again), 0);
	return again;
}

static int count_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 1100; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* ---- descriptors ---- */

static void memfd_is_private_sealed_and_close_on_exec(void **state)
{
	const int fd = make_file(2 * PAGE);
	struct os_file_id id;
	struct stat status;

	(void)state;
	assert_int_equal(fstat(fd, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(status.st_size, 2 * PAGE);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(ftruncate(fd, PAGE), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 3 * PAGE), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(os_fd_identify(fd, &id), 0);
	assert_int_equal(id.bytes, 2 * PAGE);
	assert_int_equal(id.owner, os_user_id());
	assert_int_equal(id.inode, status.st_ino);
	assert_int_equal(id.device, status.st_dev);
	assert_true(id.sealed);
	os_fd_close(fd);
	assert_int_equal(os_fd_identify(fd, &id), -EBADF);
}

static void a_file_that_can_shrink_is_not_sealed(void **state)
{
	const int fd = memfd_create("test_os", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct os_file_id id;

	(void)state;
	assert_int_equal(os_fd_identify(fd, &id), 0);
	assert_false(id.sealed);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	assert_int_equal(os_fd_identify(fd, &id), 0);
	assert_false(id.sealed);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(os_fd_identify(fd, &id), 0);
	assert_true(id.sealed);
	os_fd_close(fd);
}

static void reopened_is_the_same_file_and_another_description(void **state)
{
	const int fd = make_file(PAGE), again = reopen(fd);
	struct os_file_id first, second;
	int none = -1;

	(void)state;
	assert_int_equal(os_fd_identify(fd, &first), 0);
	assert_int_equal(os_fd_identify(again, &second), 0);
	assert_int_equal(first.inode, second.inode);
	assert_int_equal(lseek(fd, 100, SEEK_SET), 100);
	assert_int_equal(lseek(again, 0, SEEK_CUR), 0);
	assert_int_equal(fcntl(again, F_GETFD), FD_CLOEXEC);
	os_fd_close(fd);
	os_fd_close(again);
	assert_int_equal(os_fd_reopen(fd, &none), -ENOENT);
	assert_int_equal(os_fd_reopen(-1, &none), -EBADF);
	assert_int_equal(none, -1);
}

/* /proc/self is the first thread; one that has exited has no descriptors. */
static void *reopen_without_first_thread(void *context)
{
	const int fd = *(int *)context;
	char path[64], text[256];
	int again = -1;

	(void)snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
	do
		if (os_read_small(path, text, sizeof text) < 0)
			_exit(2);
	while (!strstr(text, ") Z "));
	_exit(os_fd_reopen(fd, &again) == 0 ? 0 : 1);
}

static int end_first_thread(void *fd)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, reopen_without_first_thread, fd) != 0)
		return 3;
	(void)syscall(SYS_exit, 0);
	return 4;
}

static void reopening_works_after_the_first_thread_has_exited(void **state)
{
	int fd = make_file(PAGE);

	(void)state;
	assert_int_equal(child_check(end_first_thread, &fd), 0);
	os_fd_close(fd);
}

static void duplicates_are_out_of_the_way(void **state)
{
	const int fd = make_file(PAGE);
	int high = -1, higher = -1;

	(void)state;
	assert_int_equal(os_fd_duplicate_high(fd, false, &high), 0);
	assert_int_equal(os_fd_duplicate_high(fd, true, &higher), 0);
	assert_true(high >= 60);
	assert_true(higher > high);
	assert_int_equal(fcntl(high, F_GETFD), 0);
	assert_int_equal(fcntl(higher, F_GETFD), FD_CLOEXEC);
	assert_int_equal(lseek(fd, 100, SEEK_SET), 100);
	assert_int_equal(lseek(high, 0, SEEK_CUR), 100); /* the same description */
	os_fd_close(high);
	os_fd_close(higher);
	os_fd_close(fd);
	assert_int_equal(os_fd_duplicate_high(fd, true, &high), -EBADF);
}

static int duplicate_until_full(void *context)
{
	const struct rlimit few = {30, 30};
	const int fd = *(int *)context;
	int copy = -1, count = 0, result;

	if (setrlimit(RLIMIT_NOFILE, &few) != 0)
		return 1;
	while ((result = os_fd_duplicate_high(fd, true, &copy)) == 0)
		count++;
	return result == -EMFILE && count > 15 && copy < 30 ? 0 : 2;
}

static void duplicates_fit_under_a_low_limit(void **state)
{
	int fd = make_file(PAGE);

	(void)state;
	assert_int_equal(child_check(duplicate_until_full, &fd), 0);
	os_fd_close(fd);
}

static void a_shared_mapping_is_the_file(void **state)
{
	const int fd = make_file(PAGE);
	void *first = NULL, *second = NULL;
	char byte = 0;

	(void)state;
	assert_int_equal(os_map_shared(fd, PAGE, true, &first), 0);
	assert_int_equal(os_map_shared(fd, PAGE, false, &second), 0);
	((volatile char *)first)[10] = 7;
	assert_int_equal(((volatile char *)second)[10], 7);
	assert_int_equal(os_read_at(fd, &byte, 1, 10), 1);
	assert_int_equal(byte, 7);
	os_unmap(first, PAGE);
	os_unmap(second, PAGE);
	os_fd_close(fd);
	assert_int_equal(os_map_shared(fd, PAGE, true, &first), -EBADF);
}

/* ---- the lock that lives in a mapping ---- */

/* A description of its own, with the byte locked, that only a mapping holds. */
static void *lock_in_mapping(int fd, uint64_t offset)
{
	const int own = reopen(fd);
	void *memory = NULL;

	assert_int_equal(os_lock_byte(own, offset), 0);
	assert_int_equal(os_map_shared(own, PAGE, true, &memory), 0);
	os_fd_close(own);
	return memory;
}

static void a_byte_is_locked_by_one_description(void **state)
{
	const int fd = make_file(PAGE), first = reopen(fd), second = reopen(fd);

	(void)state;
	assert_int_equal(os_lock_test(fd, FAR), 0);
	assert_int_equal(os_lock_byte(first, FAR), 0);
	assert_int_equal(os_lock_byte(first, FAR), 0); /* it has it already */
	assert_int_equal(os_lock_byte(second, FAR), -EAGAIN);
	assert_int_equal(os_lock_test(second, FAR), 1);
	assert_int_equal(os_lock_test(first, FAR), 0);	    /* by another description, that is */
	assert_int_equal(os_lock_byte(second, FAR + 1), 0); /* one byte only */
	assert_int_equal(os_lock_test(fd, FAR + 1), 1);
	assert_int_equal(os_lock_test(fd, FAR - 1), 0);
	os_fd_close(first);
	assert_int_equal(os_lock_byte(second, FAR), 0);
	os_fd_close(second);
	assert_int_equal(os_lock_test(fd, FAR), 0);
	assert_int_equal(os_lock_byte(fd, UINT64_MAX), -EINVAL);
	assert_int_equal(os_lock_test(fd, (uint64_t)INT64_MAX), -EINVAL);
	os_fd_close(fd);
	assert_int_equal(os_lock_byte(fd, 0), -EBADF);
	assert_int_equal(os_lock_test(fd, 0), -EBADF);
}

static void an_unlocked_byte_is_free_and_its_neighbour_is_not(void **state)
{
	const int fd = make_file(PAGE), first = reopen(fd), second = reopen(fd);

	(void)state;
	assert_int_equal(os_lock_byte(first, FAR), 0);
	assert_int_equal(os_lock_byte(first, FAR + 1), 0);
	os_unlock_byte(second, FAR); /* not its own: nothing happens */
	assert_int_equal(os_lock_test(fd, FAR), 1);
	os_unlock_byte(first, FAR);
	assert_int_equal(os_lock_test(fd, FAR), 0);
	assert_int_equal(os_lock_test(fd, FAR + 1), 1);
	assert_int_equal(os_lock_byte(second, FAR), 0);
	os_fd_close(first);
	os_fd_close(second);
	os_fd_close(fd);
	errno = 12345;
	os_unlock_byte(fd, FAR);
	assert_int_equal(errno, 12345);
}

static void the_lock_lives_in_a_mapping_after_close(void **state)
{
	const int fd = make_file(PAGE);
	void *memory = lock_in_mapping(fd, FAR);

	(void)state;
	assert_int_equal(os_lock_test(fd, FAR), 1);
	close(reopen(fd)); /* unlike a POSIX record lock, no close of the file drops it */
	assert_int_equal(os_lock_test(fd, FAR), 1);
	os_unmap(memory, PAGE);
	assert_int_equal(os_lock_test(fd, FAR), 0);
	os_fd_close(fd);
}

/* A child that does what the byte says which it reads: 'u'nmap, 'e'xec, and otherwise exits. It answers with a byte. */
struct helper {
	pid_t pid;
	int order, answer; /* our ends */
};

static void helper_serve(int order, int answer, int fd, void *memory, bool locks)
{
	char byte;

	if (locks)
		memory = lock_in_mapping(fd, FAR);
	(void)!write(answer, "r", 1);
	while (read(order, &byte, 1) == 1) {
		if (byte == 'u')
			os_unmap(memory, PAGE);
		if (byte == 'e') {
			(void)dup2(order, STDIN_FILENO);
			(void)dup2(answer, STDOUT_FILENO);
			(void)execlp("cat", "cat", (char *)NULL);
			_exit(127);
		}
		(void)!write(answer, "r", 1);
	}
	_exit(0);
}

static struct helper helper_start(int fd, void *memory, bool locks)
{
	struct helper helper;
	int order[2], answer[2];
	char byte;

	assert_int_equal(pipe2(order, O_CLOEXEC), 0);
	assert_int_equal(pipe2(answer, O_CLOEXEC), 0);
	helper.pid = fork();
	assert_true(helper.pid >= 0);
	if (helper.pid == 0) {
		close(order[1]);
		close(answer[0]);
		helper_serve(order[0], answer[1], fd, memory, locks);
	}
	close(order[0]);
	close(answer[1]);
	helper.order = order[1];
	helper.answer = answer[0];
	assert_int_equal(read(helper.answer, &byte, 1), 1);
	return helper;
}

/* Returns when it has been done. After exec, this is a word with the new program: only then is the old mapping's file
 * closed. */
static void helper_do(struct helper helper, const char *order)
{
	const size_t bytes = strlen(order);
	char answer;

	assert_int_equal(write(helper.order, order, bytes), bytes);
	assert_int_equal(read(helper.answer, &answer, 1), 1);
}

static void helper_end(struct helper helper)
{
	close(helper.order);
	assert_int_equal(child_wait(helper.pid), 0);
	close(helper.answer);
}

static void the_lock_lives_as_long_as_any_of_a_fork_family_maps_it(void **state)
{
	const int fd = make_file(PAGE);
	void *memory = lock_in_mapping(fd, FAR);
	const struct helper first = helper_start(fd, memory, false), second = helper_start(fd, memory, false);

	(void)state;
	os_unmap(memory, PAGE);
	assert_int_equal(os_lock_test(fd, FAR), 1);
	helper_do(first, "u");
	assert_int_equal(os_lock_test(fd, FAR), 1);
	helper_end(second);
	assert_int_equal(os_lock_test(fd, FAR), 0);
	helper_end(first);
	os_fd_close(fd);
}

static void exec_drops_the_lock(void **state)
{
	const int fd = make_file(PAGE);
	const struct helper helper = helper_start(fd, NULL, true);

	(void)state;
	assert_int_equal(os_lock_test(fd, FAR), 1);
	helper_do(helper, "e\n"); /* the line is for cat */
	assert_int_equal(kill(helper.pid, 0), 0);
	assert_int_equal(os_lock_test(fd, FAR), 0);
	helper_end(helper);
	os_fd_close(fd);
}

static void a_killed_process_drops_the_lock(void **state)
{
	const int fd = make_file(PAGE);
	const struct helper helper = helper_start(fd, NULL, true);

	(void)state;
	assert_int_equal(os_lock_test(fd, FAR), 1);
	assert_int_equal(kill(helper.pid, SIGKILL), 0);
	assert_true(WIFSIGNALED(child_wait(helper.pid)));
	assert_int_equal(os_lock_test(fd, FAR), 0);
	close(helper.order);
	close(helper.answer);
	os_fd_close(fd);
}

static void a_vfork_child_that_execs_does_not_drop_the_lock(void **state)
{
	const int fd = make_file(PAGE);
	void *memory = lock_in_mapping(fd, FAR);
	pid_t pid;

	(void)state;
	pid = vfork(); /* NOLINT: it is what is tested */
	if (pid == 0) {
		(void)execlp("true", "true", (char *)NULL);
		_exit(127);
	}
	assert_int_equal(child_wait(pid), 0);
	assert_int_equal(os_lock_test(fd, FAR), 1);
	os_unmap(memory, PAGE);
	assert_int_equal(os_lock_test(fd, FAR), 0);
	os_fd_close(fd);
}

/* ---- reading ---- */

static void small_files_are_read_whole_or_cut(void **state)
{
	char name[] = "/tmp/holdfast-test-XXXXXX", text[8192], data[5000];
	const int fd = mkstemp(name);
	const int before = count_descriptors();
	int again = -1;

	(void)state;
	assert_true(fd >= 0);
	memset(data, 'x', sizeof data);
	assert_int_equal(write(fd, data, sizeof data), sizeof data);
	assert_int_equal(os_read_small(name, text, sizeof text), sizeof data);
	assert_int_equal(strlen(text), sizeof data);
	assert_int_equal(os_read_small(name, text, 10), 9);
	assert_string_equal(text, "xxxxxxxxx");
	assert_int_equal(os_read_small(name, text, 1), 0);
	assert_string_equal(text, "");
	assert_int_equal(os_read_small(name, text, 0), -EINVAL);
	assert_int_equal(os_open_read(name, &again), 0);
	assert_int_equal(fcntl(again, F_GETFD), FD_CLOEXEC);
	assert_int_equal(os_read_at(again, text, 100, 4990), 10);
	assert_int_equal(os_read_at(again, text, 100, 5000), 0);
	os_fd_close(again);
	assert_int_equal(unlink(name), 0);
	strcpy(text, "before");
	assert_int_equal(os_read_small(name, text, sizeof text), -ENOENT);
	assert_string_equal(text, "");
	assert_int_equal(os_open_read(name, &again), -ENOENT);
	assert_int_equal(os_read_small("/", text, sizeof text), -EISDIR);
	assert_int_equal(count_descriptors(), before); /* none is left open */
	os_fd_close(fd);
	assert_int_equal(os_read_at(fd, text, 1, 0), -EBADF);
}

static HF_NOINLINE void make_calls(void)
{
	char text[64];
	int fd = -1;

	(void)!os_read_small("/proc/self/stat", text, sizeof text);
	if (os_open_read("/proc/self/stat", &fd) == 0) {
		(void)!os_read_at(fd, text, sizeof text, 0);
		os_fd_close(fd);
	}
	os_write_error("", 0);
	if (os_socket_connect("holdfast-test-nobody", &fd) == 0)
		os_fd_close(fd);
}

/* A thread that is to be cancelled is not, in there: the library may hold locks. (No local arrays here: ASan
 * does not see that cancelling drops the frame.) */
static void *call_while_cancelled(void *survived)
{
	(void)pthread_cancel(pthread_self());
	make_calls();
	*(bool *)survived = true;
	pthread_testcancel();
	return NULL;
}

static void no_call_is_a_cancellation_point(void **state)
{
	bool survived = false;
	void *result = NULL;
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, call_while_cancelled, &survived), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_true(survived);
	assert_ptr_equal(result, PTHREAD_CANCELED);
}

/* ---- the error stream ---- */

static int warn(void *context)
{
	(void)context;
	errno = 12345;
	base_warn("%d pages", 12);
	os_write_error("more\n", 5);
	return errno == 12345 ? 0 : 1;
}

static void messages_go_to_standard_error(void **state)
{
	char text[256];

	(void)state;
	assert_int_equal(child_run(warn, NULL, text, sizeof text), 0);
	assert_string_equal(text, "holdfast: 12 pages\nmore\n");
}

static int write_to_nobody(void *blocked)
{
	sigset_t pipe_only, pending;
	int ends[2];

	(void)sigemptyset(&pipe_only);
	(void)sigaddset(&pipe_only, SIGPIPE);
	(void)signal(SIGPIPE, SIG_DFL);
	if (blocked) {
		(void)sigprocmask(SIG_BLOCK, &pipe_only, NULL);
		(void)raise(SIGPIPE); /* the program's own, which must not be eaten */
	}
	if (pipe(ends) != 0 || dup2(ends[1], STDERR_FILENO) < 0)
		return 1;
	close(ends[0]);
	close(ends[1]);
	os_write_error("lost\n", 5);
	(void)sigpending(&pending);
	return sigismember(&pending, SIGPIPE) == (blocked ? 1 : 0) ? 0 : 2;
}

static void a_reader_that_is_gone_does_not_kill(void **state)
{
	(void)state;
	assert_int_equal(child_check(write_to_nobody, NULL), 0);
	assert_int_equal(child_check(write_to_nobody, &state), 0);
}

static int write_to_the_full(void *nonblocking)
{
	static char data[1 << 16];
	int ends[2];

	if (pipe(ends) != 0 || dup2(ends[1], STDERR_FILENO) < 0)
		return 1;
	(void)fcntl(ends[1], F_SETFL, O_NONBLOCK);
	while (write(ends[1], data, sizeof data) > 0)
		;
	if (!nonblocking)
		(void)fcntl(ends[1], F_SETFL, 0);
	os_write_error("lost\n", 5);
	return 0;
}

/* That these come back at all is what is tested; each waits a second, by the real clock, which no script moves. */
static void a_full_pipe_does_not_block_for_ever(void **state)
{
	(void)state;
	assert_int_equal(child_check(write_to_the_full, NULL), 0);
	assert_int_equal(child_check(write_to_the_full, &state), 0);
}

static void file_calls_leave_errno_alone(void **state)
{
	struct os_file_id id;
	char text[8];
	int fd;

	(void)state;
	errno = 12345;
	(void)!os_memfd(
		"a name that is too long for the kernel, which allows no more than 249 characters after its own "
		"prefix; "
		"so here it goes on for a while, until it is certain that there are more than two hundred and fifty of "
		"them, and that even a kernel which allowed a few more would say no to it at last",
		PAGE, &fd);
	(void)!os_fd_reopen(-1, &fd);
	(void)!os_fd_reopen(123456, &fd);
	(void)!os_fd_duplicate_high(-1, true, &fd);
	os_fd_close(-1);
	(void)!os_fd_identify(-1, &id);
	(void)!os_lock_byte(-1, 0);
	(void)!os_lock_test(-1, 0);
	(void)!os_read_small("/nowhere", text, sizeof text);
	(void)!os_read_at(-1, text, sizeof text, 0);
	(void)!os_open_read("/nowhere", &fd);
	assert_int_equal(errno, 12345);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memfd_is_private_sealed_and_close_on_exec),
		cmocka_unit_test(a_file_that_can_shrink_is_not_sealed),
		cmocka_unit_test(reopened_is_the_same_file_and_another_description),
		cmocka_unit_test(reopening_works_after_the_first_thread_has_exited),
		cmocka_unit_test(duplicates_are_out_of_the_way),
		cmocka_unit_test(duplicates_fit_under_a_low_limit),
		cmocka_unit_test(a_shared_mapping_is_the_file),
		cmocka_unit_test(a_byte_is_locked_by_one_description),
		cmocka_unit_test(an_unlocked_byte_is_free_and_its_neighbour_is_not),
		cmocka_unit_test(the_lock_lives_in_a_mapping_after_close),
		cmocka_unit_test(the_lock_lives_as_long_as_any_of_a_fork_family_maps_it),
		cmocka_unit_test(exec_drops_the_lock),
		cmocka_unit_test(a_killed_process_drops_the_lock),
		cmocka_unit_test(a_vfork_child_that_execs_does_not_drop_the_lock),
		cmocka_unit_test(small_files_are_read_whole_or_cut),
		cmocka_unit_test(no_call_is_a_cancellation_point),
		cmocka_unit_test(messages_go_to_standard_error),
		cmocka_unit_test(a_reader_that_is_gone_does_not_kill),
		cmocka_unit_test(a_full_pipe_does_not_block_for_ever),
		cmocka_unit_test(file_calls_leave_errno_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
