/* The scripted os: it does what the script says, and nothing by itself. */
#include "os/lock.h"
#include "os/os.h"
#include "os/os_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = OS_PAGE_BYTES };

static int reset(void **state)
{
	(void)state;
	os_fake_reset();
	return 0;
}

static int map_one(void)
{
	void *memory = NULL;
	const int result = os_memory_map(PAGE, &memory);

	if (result == 0)
		os_unmap(memory, PAGE);
	return result;
}

static void without_a_script_calls_are_real(void **state)
{
	void *memory = NULL;
	int fd = -1;

	(void)state;
	assert_int_equal(os_memory_map(PAGE, &memory), 0);
	memset(memory, 7, PAGE);
	os_unmap(memory, PAGE);
	assert_int_equal(os_memfd("fake", PAGE, &fd), 0);
	assert_int_equal(os_map_shared(fd, PAGE, true, &memory), 0);
	memset(memory, 7, PAGE);
	os_unmap(memory, PAGE);
	os_fd_close(fd);
	assert_int_equal(os_fake_count(OS_FAKE_MEMORY_MAP), 1);
	assert_int_equal(os_fake_count(OS_FAKE_MEMFD), 1);
	assert_int_equal(os_fake_count(OS_FAKE_MAP_SHARED), 1);
	assert_int_equal(os_fake_count(OS_FAKE_UNMAP), 2);
	assert_int_equal(os_fake_count(OS_FAKE_FD_CLOSE), 1);
	assert_int_equal(os_fake_count(OS_FAKE_ANY), 3);
}

static void the_nth_call_fails_once(void **state)
{
	(void)state;
	os_fake_fail_nth(OS_FAKE_MEMORY_MAP, 3, -ENOMEM, false);
	assert_int_equal(map_one(), 0);
	assert_int_equal(map_one(), 0);
	assert_false(os_fake_fired(OS_FAKE_MEMORY_MAP));
	assert_int_equal(map_one(), -ENOMEM);
	assert_true(os_fake_fired(OS_FAKE_MEMORY_MAP));
	assert_int_equal(map_one(), 0);
	assert_int_equal(os_fake_count(OS_FAKE_MEMORY_MAP), 4);
}

static void all_calls_from_the_nth_on_fail(void **state)
{
	(void)state;
	os_fake_fail_nth(OS_FAKE_MEMORY_MAP, 2, -EAGAIN, true);
	assert_int_equal(map_one(), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(map_one(), -EAGAIN);
	os_fake_fail_off(OS_FAKE_MEMORY_MAP);
	assert_int_equal(map_one(), 0);
}

static void a_failing_call_does_nothing(void **state)
{
	void *memory = NULL;
	char *bytes;

	(void)state;
	assert_int_equal(os_memory_map(PAGE, &memory), 0);
	bytes = memory;
	bytes[0] = 7;
	os_fake_fail_nth(OS_FAKE_DISCARD, 1, -EINVAL, false);
	assert_int_equal(os_discard(memory, PAGE), -EINVAL);
	assert_int_equal(bytes[0], 7);
	assert_int_equal(os_discard(memory, PAGE), 0);
	assert_int_equal(bytes[0], 0);
	os_unmap(memory, PAGE);
}

/* What sweeps do: the nth call of whatever kind. */
static void any_call_can_be_the_nth(void **state)
{
	unsigned fired = 0;

	(void)state;
	for (unsigned n = 1; n <= 4; n++) {
		void *memory = NULL;
		int fd = -1;

		os_fake_fail_nth(OS_FAKE_ANY, n, -EIO, false);
		if (os_memory_map(PAGE, &memory) == 0) {
			assert_int_not_equal(n, 1);
			if (os_discard(memory, PAGE))
				assert_int_equal(n, 2);
			os_unmap(memory, PAGE);
		}
		if (os_memfd("fake", PAGE, &fd) == 0)
			os_fd_close(fd);
		else
			assert_int_equal(n, 3);
		fired += os_fake_fired(OS_FAKE_ANY);
	}
	assert_int_equal(fired, 3); /* there is no fourth call */
}

/* Each kind once: all of them can be made to fail, with the error of the script. */
static void every_kind_can_fail(void **state)
{
	void *out = NULL;
	char text[16];
	_Atomic uint32_t word = 0;
	struct os_file_id id;
	size_t pages;
	uid_t uid;
	pid_t pid;
	int fd;

	(void)state;
	for (enum os_fake_call call = OS_FAKE_ANY + 1; call < OS_FAKE_CAN_FAIL; call++)
		os_fake_fail_nth(call, 1, -(int)call - 1000, false);
#define FAILS(kind, call) assert_int_equal(call, -OS_FAKE_##kind - 1000)
	FAILS(SPACE_MAP, os_space_map(0, PAGE, 0, &out));
	FAILS(MEMORY_MAP, os_memory_map(PAGE, &out));
	FAILS(SPACE_OPEN, os_space_open(NULL, PAGE));
	FAILS(SPACE_SHOW, os_space_show(NULL, PAGE));
	FAILS(SPACE_CLOSE, os_space_close(NULL, PAGE));
	FAILS(DISCARD, os_discard(NULL, PAGE));
	FAILS(ADVISE, os_advise(NULL, PAGE, OS_HUGE));
	FAILS(MOVE, os_move(NULL, PAGE, NULL));
	FAILS(RESIDENT_PAGES, os_resident_pages(NULL, PAGE, &pages));
	FAILS(MEMFD, os_memfd("fake", PAGE, &fd));
	FAILS(FD_REOPEN, os_fd_reopen(0, &fd));
	FAILS(FD_DUPLICATE, os_fd_duplicate_high(0, true, &fd));
	FAILS(FD_IDENTIFY, os_fd_identify(0, &id));
	FAILS(MAP_SHARED, os_map_shared(0, PAGE, true, &out));
	FAILS(LOCK_BYTE, os_lock_byte(0, 0));
	FAILS(LOCK_TEST, os_lock_test(0, 0));
	FAILS(READ_SMALL, (int)os_read_small("/", text, sizeof text));
	FAILS(READ_AT, (int)os_read_at(0, text, sizeof text, 0));
	FAILS(OPEN_READ, os_open_read("/", &fd));
	FAILS(SOCKET_LISTEN, os_socket_listen("fake", &fd));
	FAILS(SOCKET_CONNECT, os_socket_connect("fake", &fd));
	FAILS(SOCKET_ACCEPT, os_socket_accept(0, &fd, &uid, &pid));
	FAILS(SOCKET_SEND, (int)os_socket_send(0, text, 1, -1));
	FAILS(SOCKET_RECEIVE, (int)os_socket_receive(0, text, 1, &fd));
	FAILS(FUTEX_WAIT, os_futex_wait(&word, 0, UINT64_MAX, false));
#undef FAILS
	for (enum os_fake_call call = OS_FAKE_ANY + 1; call < OS_FAKE_CAN_FAIL; call++)
		assert_true(os_fake_fired(call));
}

/* ---- time ---- */

static void the_clock_stands_still(void **state)
{
	const uint64_t start_ns = os_clock_ns();

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(os_clock_ns(), start_ns);
	os_fake_advance_ns(12345);
	assert_int_equal(os_clock_ns(), start_ns + 12345);
}

static void a_wait_times_out_at_once_and_moves_the_clock(void **state)
{
	const uint64_t start_ns = os_clock_ns(), hour_ns = (uint64_t)3600 * 1000000000;
	_Atomic uint32_t word = 5;

	(void)state;
	assert_int_equal(os_futex_wait(&word, 4, hour_ns, false), 0);
	assert_int_equal(os_clock_ns(), start_ns);
	assert_int_equal(os_futex_wait(&word, 5, hour_ns, false), -ETIMEDOUT);
	assert_int_equal(os_clock_ns(), start_ns + hour_ns);
	assert_int_equal(os_fake_count(OS_FAKE_FUTEX_WAIT), 2);
}

static void add_one(void *word)
{
	atomic_fetch_add((_Atomic uint32_t *)word, 1);
}

static void the_hook_is_what_others_do_during_a_wait(void **state)
{
	const uint64_t start_ns = os_clock_ns();
	_Atomic uint32_t word = 5, other = 5;

	(void)state;
	os_fake_on_wait(add_one, &word);
	assert_int_equal(os_futex_wait(&word, 5, UINT64_MAX, false), 0);
	assert_int_equal(word, 6);
	assert_int_equal(os_futex_wait(&word, 5, UINT64_MAX, false), 0); /* has changed already: no hook */
	assert_int_equal(word, 6);
	assert_int_equal(os_clock_ns(), start_ns);
	assert_int_equal(os_futex_wait(&other, 5, 10, false), -ETIMEDOUT);
	assert_int_equal(word, 7);
}

static struct lock counter_lock = LOCK_INIT(LOCK_RANK_POOL);
static unsigned counter;

static void *count_up(void *context)
{
	for (int i = 0; i < 20000; i++) {
		lock_take(&counter_lock);
		counter++;
		lock_put(&counter_lock);
	}
	return context;
}

/* Locks wait without a time-out: for them sleeping and waking are real. */
static void threads_still_wait_for_locks(void **state)
{
	pthread_t threads[4];

	(void)state;
	counter = 0;
	for (size_t i = 0; i < HF_COUNT_OF(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_up, NULL), 0);
	for (size_t i = 0; i < HF_COUNT_OF(threads); i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(counter, 20000 * HF_COUNT_OF(threads));
}

/* ---- files ---- */

static void only_scripted_files_exist(void **state)
{
	char text[16] = "before";
	int fd = -1;

	(void)state;
	assert_int_equal(os_read_small("/proc/self/stat", text, sizeof text), -ENOENT);
	assert_string_equal(text, "");
	assert_int_equal(os_open_read("/proc/self/stat", &fd), -ENOENT);
	os_fake_file("/a/b", "hello\n");
	assert_int_equal(os_read_small("/a/b", text, sizeof text), 6);
	assert_string_equal(text, "hello\n");
	assert_int_equal(os_read_small("/a/b", text, 4), 3);
	assert_string_equal(text, "hel");
	os_fake_file("/a/b", NULL);
	assert_int_equal(os_read_small("/a/b", text, sizeof text), -ENOENT);
	os_fake_file("/a/b", "");
	assert_int_equal(os_read_small("/a/b", text, sizeof text), 0);
}

static void an_open_file_follows_the_script(void **state)
{
	char text[16] = "";
	int fd = -1, other = -1;

	(void)state;
	os_fake_file("/sys/fs/cgroup/memory.current", "4096\n");
	assert_int_equal(os_open_read("/sys/fs/cgroup/memory.current", &fd), 0);
	assert_int_equal(os_read_at(fd, text, sizeof text, 0), 5);
	assert_memory_equal(text, "4096\n", 5);
	os_fake_file("/sys/fs/cgroup/memory.current", "65536\n");
	assert_int_equal(os_read_at(fd, text, sizeof text, 0), 6);
	assert_memory_equal(text, "65536\n", 6);
	assert_int_equal(os_read_at(fd, text, 2, 3), 2);
	assert_memory_equal(text, "36", 2);
	assert_int_equal(os_read_at(fd, text, sizeof text, 6), 0);
	os_fake_file("/sys/fs/cgroup/memory.current", NULL);
	assert_int_equal(os_read_at(fd, text, sizeof text, 0), -ENODEV);
	os_fd_close(fd);
	/* The number is free for a real file again. */
	assert_int_equal(os_memfd("fake", PAGE, &other), 0);
	assert_int_equal(other, fd);
	assert_int_equal(os_read_at(other, text, sizeof text, 0), sizeof text);
	os_fd_close(other);
}

/* ---- the machine ---- */

static void the_machine_is_the_script_s(void **state)
{
	(void)state;
	assert_int_equal(os_cpu_count(), 2);
	os_fake_machine.cpus = 64;
	os_fake_machine.thp_mode = 2;
	os_fake_machine.overcommit_mode = 2;
	os_fake_machine.ram_bytes = 123 << 20;
	os_fake_machine.limit_address_space = 1 << 30;
	os_fake_machine.limit_data = 1 << 20;
	os_fake_machine.locks_new_memory = true;
	os_fake_machine.secure_execution = true;
	os_fake_machine.user_id = 77;
	assert_int_equal(os_cpu_count(), 64);
	assert_int_equal(os_thp_mode(), 2);
	assert_int_equal(os_overcommit_mode(), 2);
	assert_int_equal(os_ram_bytes(), 123 << 20);
	assert_int_equal(os_limit_address_space(), 1 << 30);
	assert_int_equal(os_limit_data(), 1 << 20);
	assert_true(os_locks_new_memory());
	assert_true(os_is_secure_execution());
	assert_int_equal(os_user_id(), 77);
	os_fake_reset();
	assert_int_equal(os_cpu_count(), 2);
	assert_int_equal(os_user_id(), geteuid());
}

static void random_numbers_are_the_same_in_each_run(void **state)
{
	uint64_t first[4], again[4];

	(void)state;
	os_random(first, sizeof first);
	os_fake_reset();
	os_random(again, sizeof again);
	assert_memory_equal(first, again, sizeof first);
	os_random(again, sizeof again);
	assert_memory_not_equal(first, again, sizeof first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(without_a_script_calls_are_real, reset),
		cmocka_unit_test_setup(the_nth_call_fails_once, reset),
		cmocka_unit_test_setup(all_calls_from_the_nth_on_fail, reset),
		cmocka_unit_test_setup(a_failing_call_does_nothing, reset),
		cmocka_unit_test_setup(any_call_can_be_the_nth, reset),
		cmocka_unit_test_setup(every_kind_can_fail, reset),
		cmocka_unit_test_setup(the_clock_stands_still, reset),
		cmocka_unit_test_setup(a_wait_times_out_at_once_and_moves_the_clock, reset),
		cmocka_unit_test_setup(the_hook_is_what_others_do_during_a_wait, reset),
		cmocka_unit_test_setup(threads_still_wait_for_locks, reset),
		cmocka_unit_test_setup(only_scripted_files_exist, reset),
		cmocka_unit_test_setup(an_open_file_follows_the_script, reset),
		cmocka_unit_test_setup(the_machine_is_the_script_s, reset),
		cmocka_unit_test_setup(random_numbers_are_the_same_in_each_run, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
