/* Sockets, futexes, time and what the process is: each call does what os.h says. */
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
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

enum { PAGE = OS_PAGE_BYTES };

static int count_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 1100; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static const char *socket_name(void)
{
	static char name[64];

	(void)snprintf(name, sizeof name, "holdfast-test-%d", (int)getpid());
	return name;
}

/* Both ends of a connection. */
struct connection {
	int listener, client, server;
};

static struct connection connect_both(void)
{
	struct connection c = {-1, -1, -1};
	uid_t uid = (uid_t)-1;
	pid_t pid = -1;

	assert_int_equal(os_socket_listen(socket_name(), &c.listener), 0);
	assert_int_equal(os_socket_connect(socket_name(), &c.client), 0);
	assert_int_equal(os_socket_accept(c.listener, &c.server, &uid, &pid), 0);
	assert_int_equal(uid, geteuid());
	assert_int_equal(pid, getpid());
	return c;
}

static void disconnect(struct connection c)
{
	os_fd_close(c.listener);
	os_fd_close(c.client);
	os_fd_close(c.server);
}

static void packets_go_both_ways_and_keep_their_bounds(void **state)
{
	const struct connection c = connect_both();
	char text[16];
	int passed = 77;

	(void)state;
	assert_int_equal(os_socket_send(c.client, "one", 3, -1), 3);
	assert_int_equal(os_socket_send(c.client, "three", 5, -1), 5);
	assert_int_equal(os_socket_receive(c.server, text, sizeof text, &passed), 3);
	assert_memory_equal(text, "one", 3);
	assert_int_equal(passed, -1);
	assert_int_equal(os_socket_receive(c.server, text, sizeof text, NULL), 5);
	assert_int_equal(os_socket_send(c.server, "back", 4, -1), 4);
	assert_int_equal(os_socket_receive(c.client, text, sizeof text, &passed), 4);
	assert_memory_equal(text, "back", 4);
	disconnect(c);
}

static void descriptors_are_close_on_exec_and_give_up_in_time(void **state)
{
	const struct connection c = connect_both();
	const int fds[] = {c.client, c.server};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(fds); i++) {
		static const int options[] = {SO_RCVTIMEO, SO_SNDTIMEO};

		assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
		for (size_t k = 0; k < HF_COUNT_OF(options); k++) {
			struct timeval wait = {0};
			socklen_t bytes = sizeof wait;

			assert_int_equal(getsockopt(fds[i], SOL_SOCKET, options[k], &wait, &bytes), 0);
			assert_int_equal(wait.tv_sec, 2);
		}
	}
	assert_int_equal(fcntl(c.listener, F_GETFD), FD_CLOEXEC);
	disconnect(c);
}

static void a_descriptor_is_passed_along(void **state)
{
	const struct connection c = connect_both();
	struct os_file_id sent, received;
	char text[4];
	int fd = -1, passed = -1;

	(void)state;
	assert_int_equal(os_memfd("test_os", PAGE, &fd), 0);
	assert_int_equal(os_socket_send(c.client, "fd", 2, fd), 2);
	assert_int_equal(os_fd_identify(fd, &sent), 0);
	os_fd_close(fd);
	assert_int_equal(os_socket_receive(c.server, text, sizeof text, &passed), 2);
	assert_true(passed >= 0);
	assert_int_equal(fcntl(passed, F_GETFD), FD_CLOEXEC);
	assert_int_equal(os_fd_identify(passed, &received), 0);
	assert_int_equal(received.inode, sent.inode);
	os_fd_close(passed);
	assert_int_equal(os_socket_send(c.client, "fd", 2, 12345), -EBADF);
	disconnect(c);
}

/* As a hostile client would: more than one at once. */
static void send_many(int fd, int pass_fd, size_t count)
{
	struct iovec part = {.iov_base = "x", .iov_len = 1};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};

	message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
	for (size_t i = 0; i < count; i++)
		memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &pass_fd, sizeof pass_fd);
	assert_int_equal(sendmsg(fd, &message, 0), 1);
}

static void descriptors_that_nobody_wants_are_closed(void **state)
{
	const struct connection c = connect_both();
	int before, passed = -1;
	char text[4];

	(void)state;
	before = count_descriptors();
	for (size_t count = 1; count <= 8; count++) {
		send_many(c.client, c.client, count);
		assert_int_equal(os_socket_receive(c.server, text, sizeof text, &passed), 1);
		assert_true(passed >= 0);
		assert_int_equal(count_descriptors(), before + 1);
		os_fd_close(passed);
		send_many(c.client, c.client, count);
		assert_int_equal(os_socket_receive(c.server, text, sizeof text, NULL), 1);
		assert_int_equal(count_descriptors(), before);
	}
	/* Too long a packet is an error, and what came with it is not left open. */
	assert_int_equal(os_socket_send(c.client, "too long", 8, c.client), 8);
	assert_int_equal(os_socket_receive(c.server, text, sizeof text, &passed), -EMSGSIZE);
	assert_int_equal(passed, -1);
	assert_int_equal(count_descriptors(), before);
	disconnect(c);
}

static void a_closed_peer_is_the_end_and_no_signal(void **state)
{
	const struct connection c = connect_both();
	char text[4];

	(void)state;
	os_fd_close(c.client);
	assert_int_equal(os_socket_receive(c.server, text, sizeof text, NULL), 0);
	assert_int_equal(os_socket_send(c.server, "x", 1, -1), -EPIPE); /* SIGPIPE would have ended us */
	os_fd_close(c.server);
	os_fd_close(c.listener);
}

static void names_are_taken_free_or_too_long(void **state)
{
	char longest[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	const int before = count_descriptors();
	int listener = -1, other = -1;
	uid_t uid;
	pid_t pid;

	(void)state;
	memset(longest, 'x', sizeof longest);
	longest[sizeof longest - 1] = '\0';
	assert_int_equal(os_socket_connect(socket_name(), &other), -ECONNREFUSED);
	assert_int_equal(os_socket_listen(socket_name(), &listener), 0);
	assert_int_equal(os_socket_listen(socket_name(), &other), -EADDRINUSE);
	assert_int_equal(os_socket_accept(listener, &other, &uid, &pid), -EAGAIN);
	os_fd_close(listener);
	assert_int_equal(os_socket_connect(socket_name(), &other), -ECONNREFUSED);
	assert_int_equal(os_socket_listen(longest, &other), -ENAMETOOLONG);
	assert_int_equal(os_socket_connect(longest, &other), -ENAMETOOLONG);
	longest[sizeof longest - 2] = '\0';
	assert_int_equal(os_socket_listen(longest, &listener), 0);
	assert_int_equal(os_socket_connect(longest, &other), 0);
	os_fd_close(other);
	os_fd_close(listener);
	assert_int_equal(count_descriptors(), before);
}

static void a_peer_s_process_is_known(void **state)
{
	int listener = -1, server = -1;
	char name[64], text[4];
	uid_t uid = (uid_t)-1;
	pid_t pid = -1, child;

	(void)state;
	(void)snprintf(name, sizeof name, "%s", socket_name());
	assert_int_equal(os_socket_listen(name, &listener), 0);
	child = fork();
	if (child == 0) {
		int fd = -1;

		_exit(os_socket_connect(name, &fd) == 0 && os_socket_send(fd, "x", 1, -1) == 1 ? 0 : 1);
	}
	assert_int_equal(child_wait(child), 0);
	assert_int_equal(os_socket_accept(listener, &server, &uid, &pid), 0);
	assert_int_equal(pid, child);
	assert_int_equal(uid, geteuid());
	assert_int_equal(os_socket_receive(server, text, sizeof text, NULL), 1);
	os_fd_close(server);
	os_fd_close(listener);
}

/* ---- futexes ---- */

static void a_wait_on_another_value_returns_at_once(void **state)
{
	_Atomic uint32_t word = 5;

	(void)state;
	assert_int_equal(os_futex_wait(&word, 4, UINT64_MAX, false), 0);
	assert_int_equal(os_futex_wait(&word, 4, UINT64_MAX, true), 0);
}

static void a_wait_times_out(void **state)
{
	_Atomic uint32_t word = 5;
	const uint64_t before_ns = os_clock_ns();

	(void)state;
	assert_int_equal(os_futex_wait(&word, 5, 1000000, false), -ETIMEDOUT);
	assert_true(os_clock_ns() - before_ns >= 1000000);
	assert_int_equal(os_futex_wait(&word, 5, 0, true), -ETIMEDOUT);
}

static void on_alarm(int signal_number)
{
	(void)signal_number;
}

static void a_signal_ends_a_wait(void **state)
{
	const struct sigaction action = {.sa_handler = on_alarm}; /* not SA_RESTART, which would go on waiting */
	/* Again and again, since the first may come before the wait. */
	const struct itimerval often = {.it_interval = {.tv_usec = 1000}, .it_value = {.tv_usec = 1000}};
	const struct itimerval never = {0};
	_Atomic uint32_t word = 5;

	(void)state;
	assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	assert_int_equal(os_futex_wait(&word, 5, UINT64_MAX, false), -EINTR);
	assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
}

struct sleepers {
	_Atomic uint32_t word;
	_Atomic uint32_t awake;
};

static void *sleep_until_changed(void *context)
{
	struct sleepers *sleepers = context;

	while (atomic_load(&sleepers->word) == 0)
		(void)os_futex_wait(&sleepers->word, 0, UINT64_MAX, false);
	atomic_fetch_add(&sleepers->awake, 1);
	return NULL;
}

static void wakes_reach_as_many_as_asked(void **state)
{
	struct sleepers sleepers = {0};
	pthread_t threads[3];
	int woken = 0;

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, sleep_until_changed, &sleepers), 0);
	/* One at a time, while the word says that they go back to sleep: each wake reaches one at most. */
	while (woken < 3) {
		const int result = os_futex_wake(&sleepers.word, 1, false);

		assert_true(result == 0 || result == 1);
		woken += result;
		os_yield();
	}
	atomic_store(&sleepers.word, 1);
	assert_true(os_futex_wake(&sleepers.word, UINT32_MAX, false) <= 3);
	for (size_t i = 0; i < HF_COUNT_OF(threads); i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(sleepers.awake, 3);
}

static void shared_words_wake_other_processes(void **state)
{
	_Atomic uint32_t *word;
	void *memory = NULL;
	int fd = -1;
	pid_t child;

	(void)state;
	assert_int_equal(os_memfd("test_os", PAGE, &fd), 0);
	assert_int_equal(os_map_shared(fd, PAGE, true, &memory), 0);
	word = memory;
	child = fork();
	if (child == 0) {
		while (atomic_load(word) == 0)
			(void)os_futex_wait(word, 0, UINT64_MAX, true);
		_exit(0);
	}
	while (os_futex_wake(word, 1, true) == 0) /* until it sleeps */
		os_yield();
	atomic_store(word, 1);
	(void)os_futex_wake(word, 1, true);
	assert_int_equal(child_wait(child), 0);
	os_unmap(memory, PAGE);
	os_fd_close(fd);
}

/* ---- time, ids, limits ---- */

static void the_clock_never_goes_back(void **state)
{
	uint64_t last_ns = os_clock_ns();

	(void)state;
	assert_true(last_ns > 0);
	for (int i = 0; i < 10000; i++) {
		const uint64_t now_ns = os_clock_ns();

		assert_true(now_ns >= last_ns);
		last_ns = now_ns;
	}
}

static int ids_of_child(void *parent)
{
	return os_process_id() == getpid() && os_process_id() != *(pid_t *)parent && os_thread_id() == getpid() ? 0 : 1;
}

static void *id_of_thread(void *id)
{
	*(pid_t *)id = os_thread_id();
	return NULL;
}

static void ids_are_the_kernel_s(void **state)
{
	pid_t pid = getpid(), thread_id = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(os_process_id(), pid);
	assert_int_equal(os_thread_id(), pid);
	assert_int_equal(os_user_id(), geteuid());
	assert_int_equal(child_check(ids_of_child, &pid), 0);
	assert_int_equal(pthread_create(&thread, NULL, id_of_thread, &thread_id), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_not_equal(thread_id, 0);
	assert_int_not_equal(thread_id, pid);
}

static int exists_without_permission(void *pid)
{
	if (setuid(65534) != 0)
		return 1;
	return os_process_exists(*(pid_t *)pid) ? 0 : 2;
}

static void processes_exist_until_they_are_reaped(void **state)
{
	pid_t self = getpid();
	const pid_t child = fork();

	(void)state;
	if (child == 0)
		_exit(0);
	assert_true(os_process_exists(self));
	assert_true(os_process_exists(child));
	assert_int_equal(child_wait(child), 0);
	assert_false(os_process_exists(child));
	assert_false(os_process_exists(0));
	assert_false(os_process_exists(-1));
	if (geteuid() == 0) /* EPERM means that it exists, too */
		assert_int_equal(child_check(exists_without_permission, &self), 0);
}

static int limits_of_child(void *context)
{
	const struct rlimit limit = {(rlim_t)1 << 46, (rlim_t)1 << 46};

	(void)context;
	if (setrlimit(RLIMIT_AS, &limit) != 0 || os_limit_address_space() != (uint64_t)1 << 46)
		return 1;
	return setrlimit(RLIMIT_DATA, &limit) == 0 && os_limit_data() == (uint64_t)1 << 46 ? 0 : 2;
}

static uint64_t limit_now(__rlimit_resource_t resource)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(resource, &limit), 0);
	return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
}

static void limits_and_sizes_are_the_kernel_s(void **state)
{
	(void)state;
	assert_int_equal(os_limit_address_space(), limit_now(RLIMIT_AS));
	assert_int_equal(os_limit_data(), limit_now(RLIMIT_DATA));
	if (!HF_ASAN && !HF_TSAN) /* their shadow memory is larger than any limit that one could set */
		assert_int_equal(child_check(limits_of_child, NULL), 0);
	assert_int_equal(os_ram_bytes(), (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
	assert_int_equal(os_cpu_count(), sysconf(_SC_NPROCESSORS_ONLN));
	assert_false(os_is_secure_execution());
}

static void random_bytes_fill_all_and_differ(void **state)
{
	unsigned char bytes[1000], sum[1000] = {0};
	uint64_t first, second;

	(void)state;
	os_random(&first, sizeof first);
	os_random(&second, sizeof second);
	assert_int_not_equal(first, second);
	for (int i = 0; i < 64; i++) { /* a byte that is never written stays 0: chance 2^-512 */
		memset(bytes, 0, sizeof bytes);
		os_random(bytes, sizeof bytes);
		for (size_t k = 0; k < sizeof bytes; k++)
			sum[k] |= bytes[k];
	}
	for (size_t k = 0; k < sizeof sum; k++)
		assert_int_not_equal(sum[k], 0);
}

static void process_calls_leave_errno_alone(void **state)
{
	_Atomic uint32_t word = 0;
	char text[4];
	int fd;
	uid_t uid;
	pid_t pid;

	(void)state;
	errno = 12345;
	(void)os_futex_wait(&word, 1, 0, false);
	(void)os_futex_wait(&word, 0, 0, false);
	(void)os_futex_wake((void *)1, 1, false);
	(void)os_process_exists(0x3fffffff);
	(void)os_is_secure_execution();
	(void)os_cpu_count();
	(void)os_ram_bytes();
	(void)!os_socket_connect("holdfast-test-nobody", &fd);
	(void)!os_socket_accept(-1, &fd, &uid, &pid);
	(void)!os_socket_send(-1, "", 0, -1);
	(void)!os_socket_receive(-1, text, sizeof text, &fd);
	os_yield();
	assert_int_equal(errno, 12345);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packets_go_both_ways_and_keep_their_bounds),
		cmocka_unit_test(descriptors_are_close_on_exec_and_give_up_in_time),
		cmocka_unit_test(a_descriptor_is_passed_along),
		cmocka_unit_test(descriptors_that_nobody_wants_are_closed),
		cmocka_unit_test(a_closed_peer_is_the_end_and_no_signal),
		cmocka_unit_test(names_are_taken_free_or_too_long),
		cmocka_unit_test(a_peer_s_process_is_known),
		cmocka_unit_test(a_wait_on_another_value_returns_at_once),
		cmocka_unit_test(a_wait_times_out),
		cmocka_unit_test(a_signal_ends_a_wait),
		cmocka_unit_test(wakes_reach_as_many_as_asked),
		cmocka_unit_test(shared_words_wake_other_processes),
		cmocka_unit_test(the_clock_never_goes_back),
		cmocka_unit_test(ids_are_the_kernel_s),
		cmocka_unit_test(processes_exist_until_they_are_reaped),
		cmocka_unit_test(limits_and_sizes_are_the_kernel_s),
		cmocka_unit_test(random_bytes_fill_all_and_differ),
		cmocka_unit_test(process_calls_leave_errno_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
