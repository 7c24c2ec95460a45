#include "os/linux_call.h"
#include "os/os.h"

#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <time.h>

#ifndef GRND_INSECURE
#define GRND_INSECURE 4
#endif

enum { NS_PER_S = 1000000000 };

int os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns, bool shared)
{
	const int operation = shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE;
	struct timespec timeout;
	long result;

	timeout.tv_sec = (time_t)(timeout_ns / NS_PER_S);
	timeout.tv_nsec = (long)(timeout_ns % NS_PER_S);
	result = OS_CALL_ONCE(
		SYS_futex, word, operation, expected, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL, 0L);
	return result == -EAGAIN ? 0 : (int)result;
}

int os_futex_wake(_Atomic uint32_t *word, uint32_t waiters, bool shared)
{
	const int count = waiters > INT32_MAX ? INT32_MAX : (int)waiters;

	return (int)OS_CALL(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0L);
}

uint64_t os_clock_ns(void)
{
	struct timespec now = {0};

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail: the clock exists and the address is good */
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

pid_t os_process_id(void)
{
	return (pid_t)OS_CALL(SYS_getpid);
}

pid_t os_thread_id(void)
{
	return (pid_t)OS_CALL(SYS_gettid);
}

uid_t os_user_id(void)
{
	return (uid_t)OS_CALL(SYS_geteuid);
}

bool os_process_exists(pid_t pid)
{
	long result;

	if (pid <= 0)
		return false;
	result = OS_CALL(SYS_kill, pid, 0);
	return result == 0 || result == -EPERM;
}

/* "0-3,8,10-11": how many. 0: not understood. */
static unsigned count_ranges(const char *text)
{
	unsigned count = 0;

	while (*text >= '0' && *text <= '9') {
		unsigned first = 0, last;

		for (; *text >= '0' && *text <= '9' && first < 1000000; text++)
			first = first * 10 + (unsigned)(*text - '0');
		last = first;
		if (*text == '-')
			for (last = 0, text++; *text >= '0' && *text <= '9' && last < 1000000; text++)
				last = last * 10 + (unsigned)(*text - '0');
		if (last < first)
			return 0;
		count += last - first + 1;
		if (*text == ',')
			text++;
	}
	return count;
}

unsigned os_cpu_count(void)
{
	char text[256];
	unsigned char mask[1024]; /* 8,192 CPUs, the most that Linux can be built for */
	unsigned count = 0;
	long bytes;

	if (os_read_small("/sys/devices/system/cpu/online", text, sizeof text) > 0)
		count = count_ranges(text);
	if (count)
		return count;
	/* No sysfs: at least those that this thread may run on. */
	bytes = OS_CALL(SYS_sched_getaffinity, 0, sizeof mask, mask);
	for (long i = 0; i < bytes; i++)
		count += (unsigned)__builtin_popcount(mask[i]);
	return count ? count : 1;
}

bool os_is_secure_execution(void)
{
	const int saved_errno = errno;
	const bool secure = getauxval(AT_SECURE) != 0;

	errno = saved_errno;
	return secure;
}

/* Without the kernel's help: the program's 16 random bytes from its start, stirred with time and address. */
static void random_fallback(unsigned char *data, size_t bytes)
{
	const int saved_errno = errno;
	const void *start = (const void *)getauxval(AT_RANDOM);
	uint64_t state = os_clock_ns() ^ (uint64_t)(uintptr_t)data << 20;
	uint64_t seed = 0;

	errno = saved_errno;
	if (start)
		memcpy(&seed, start, sizeof seed);
	state += seed;
	for (size_t i = 0; i < bytes; i++) { /* splitmix64 */
		uint64_t mixed = state += 0x9e3779b97f4a7c15u;

		mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
		mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
		data[i] = (unsigned char)(mixed ^ mixed >> 31);
	}
}

void os_random(void *data, size_t bytes)
{
	unsigned char *at = data;

	while (bytes > 0) {
		/* INSECURE: never blocks, even early at boot; what we need it for is not cryptography. */
		long part = OS_CALL(SYS_getrandom, at, bytes, GRND_INSECURE);

		if (part == -EINVAL)
			part = OS_CALL(SYS_getrandom, at, bytes, GRND_NONBLOCK);
		if (part <= 0) {
			random_fallback(at, bytes);
			return;
		}
		at += part;
		bytes -= (size_t)part;
	}
}

static uint64_t soft_limit(int resource)
{
	struct {
		uint64_t soft, hard;
	} limit = {UINT64_MAX, UINT64_MAX}; /* the kernel's "infinity", too */

	(void)OS_CALL(SYS_prlimit64, 0, resource, NULL, &limit);
	return limit.soft;
}

uint64_t os_limit_address_space(void)
{
	return soft_limit(RLIMIT_AS);
}

uint64_t os_limit_data(void)
{
	return soft_limit(RLIMIT_DATA);
}

uint64_t os_ram_bytes(void)
{
	struct sysinfo info;

	if (OS_CALL(SYS_sysinfo, &info) != 0)
		return 0;
	return (uint64_t)info.totalram * info.mem_unit;
}

void os_yield(void)
{
	(void)OS_CALL(SYS_sched_yield);
}
