#include "os/os_fake.h"

#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

enum { FILES = 64, FILE_BYTES = 4096, PATH_BYTES = 256, OPEN_FILES = 64, START_NS = 1000000000 };

/* Set up while no other thread calls; counted down by any thread. */
struct script {
	_Atomic unsigned count;
	_Atomic unsigned fails_in; /* 0: never; 1: the next */
	int error;
	bool from_then_on;
	_Atomic bool fired;
};

static struct script scripts[OS_FAKE_CALLS];
static _Atomic uint64_t clock_ns = START_NS;
static void (*wait_hook)(void *context);
static void *wait_context;

struct file {
	bool exists;
	char path[PATH_BYTES]; /* empty: the end of the table */
	char text[FILE_BYTES];
};
static struct file files[FILES];
/* What each descriptor of ours stands for: 0 nothing, else an index into files, plus 1. */
static struct {
	_Atomic int fd_plus_1;
	struct file *file;
} open_files[OPEN_FILES];

struct os_fake_machine os_fake_machine;
uid_t __real_os_user_id(void);

/* ---- the script ---- */

__attribute__((constructor(102))) void os_fake_reset(void)
{
	memset(scripts, 0, sizeof scripts);
	memset(files, 0, sizeof files);
	memset(open_files, 0, sizeof open_files);
	atomic_store(&clock_ns, START_NS);
	wait_hook = NULL;
	wait_context = NULL;
	os_fake_machine = (struct os_fake_machine){
		.cpus = 2,
		.thp_mode = 1,
		.ram_bytes = (uint64_t)1 << 30,
		.limit_address_space = UINT64_MAX,
		.limit_data = UINT64_MAX,
		.user_id = __real_os_user_id(),
		.random_state = 1,
	};
}

void os_fake_fail_nth(enum os_fake_call call, unsigned nth, int error, bool from_then_on)
{
	struct script *script = &scripts[call];

	HF_VERIFY(call < OS_FAKE_CAN_FAIL);
	HF_VERIFY(error < 0);
	script->error = error;
	script->from_then_on = from_then_on;
	atomic_store(&script->fired, false);
	atomic_store(&script->fails_in, nth);
}

void os_fake_fail_off(enum os_fake_call call)
{
	atomic_store(&scripts[call].fails_in, 0);
}

bool os_fake_fired(enum os_fake_call call)
{
	return atomic_load(&scripts[call].fired);
}

unsigned os_fake_count(enum os_fake_call call)
{
	return atomic_load(&scripts[call].count);
}

/* One call more of this kind: 0, or the error that the script wants. */
static int count_and_judge(struct script *script)
{
	unsigned fails_in = atomic_load(&script->fails_in);
	unsigned next;

	atomic_fetch_add(&script->count, 1);
	do {
		if (fails_in == 0)
			return 0;
		next = fails_in == 1 && script->from_then_on ? 1 : fails_in - 1;
	} while (!atomic_compare_exchange_weak(&script->fails_in, &fails_in, next));
	if (fails_in != 1)
		return 0;
	atomic_store(&script->fired, true);
	return script->error;
}

static int step(enum os_fake_call call)
{
	const int any = count_and_judge(&scripts[OS_FAKE_ANY]);
	const int own = count_and_judge(&scripts[call]);

	return own ? own : any;
}

/* ---- calls that are real unless the script says that they fail ---- */

#define WRAP(call, result, name, parameters, arguments)            \
	result __real_os_##name parameters;                        \
	result __wrap_os_##name parameters;                        \
	result __wrap_os_##name parameters                         \
	{                                                          \
		const int error = step(OS_FAKE_##call);            \
                                                                   \
		return error ? error : __real_os_##name arguments; \
	}

WRAP(SPACE_MAP, int, space_map, (uintptr_t hint, size_t bytes, size_t align_bytes, void **space_out),
	(hint, bytes, align_bytes, space_out))
WRAP(MEMORY_MAP, int, memory_map, (size_t bytes, void **memory_out), (bytes, memory_out))
WRAP(SPACE_OPEN, int, space_open, (void *address, size_t bytes), (address, bytes))
WRAP(SPACE_SHOW, int, space_show, (void *address, size_t bytes), (address, bytes))
WRAP(SPACE_CLOSE, int, space_close, (void *address, size_t bytes), (address, bytes))
WRAP(DISCARD, int, discard, (void *address, size_t bytes), (address, bytes))
WRAP(ADVISE, int, advise, (void *address, size_t bytes, enum os_advice advice), (address, bytes, advice))
int __real_os_move(void *from, size_t bytes, void *to);
int __wrap_os_move(void *from, size_t bytes, void *to);
int __wrap_os_move(void *from, size_t bytes, void *to)
{
	const int error = step(OS_FAKE_MOVE);

	/* Before Linux 6.17 a source that is two mappings is refused when the target has been unmapped already. */
	if (error == -EFAULT)
		(void)munmap(to, bytes);
	return error ? error : __real_os_move(from, bytes, to);
}
WRAP(RESIDENT_PAGES, int, resident_pages, (void *address, size_t bytes, size_t *pages_out), (address, bytes, pages_out))
WRAP(MEMFD, int, memfd, (const char *name, size_t bytes, int *fd_out), (name, bytes, fd_out))
WRAP(FD_REOPEN, int, fd_reopen, (int fd, int *fd_out), (fd, fd_out))
WRAP(FD_DUPLICATE, int, fd_duplicate_high, (int fd, bool close_on_exec, int *fd_out), (fd, close_on_exec, fd_out))
WRAP(FD_IDENTIFY, int, fd_identify, (int fd, struct os_file_id *id_out), (fd, id_out))
WRAP(MAP_SHARED, int, map_shared, (int fd, size_t bytes, bool writable, void **memory_out),
	(fd, bytes, writable, memory_out))
WRAP(LOCK_BYTE, int, lock_byte, (int fd, uint64_t offset), (fd, offset))
WRAP(LOCK_TEST, int, lock_test, (int fd, uint64_t offset), (fd, offset))
WRAP(SOCKET_LISTEN, int, socket_listen, (const char *name, int *fd_out), (name, fd_out))
WRAP(SOCKET_CONNECT, int, socket_connect, (const char *name, int *fd_out), (name, fd_out))
WRAP(SOCKET_ACCEPT, int, socket_accept, (int listener, int *fd_out, uid_t *uid_out, pid_t *pid_out),
	(listener, fd_out, uid_out, pid_out))
WRAP(SOCKET_SEND, ssize_t, socket_send, (int fd, const void *data, size_t bytes, int pass_fd),
	(fd, data, bytes, pass_fd))
WRAP(SOCKET_RECEIVE, ssize_t, socket_receive, (int fd, void *data, size_t bytes, int *fd_out),
	(fd, data, bytes, fd_out))

void __real_os_unmap(void *address, size_t bytes);
void __wrap_os_unmap(void *address, size_t bytes);
void __wrap_os_unmap(void *address, size_t bytes)
{
	atomic_fetch_add(&scripts[OS_FAKE_UNMAP].count, 1);
	__real_os_unmap(address, bytes);
}

/* ---- files ---- */

/* The file of this path, or NULL; with @make, a new one in the first free place. */
static struct file *find_file(const char *path, bool make)
{
	for (size_t i = 0; i < FILES; i++) {
		if (files[i].path[0] == '\0' && make) {
			HF_VERIFY_OP(strlen(path), <, sizeof files[i].path);
			strcpy(files[i].path, path);
			return &files[i];
		}
		if (strcmp(files[i].path, path) == 0)
			return &files[i];
	}
	if (make)
		base_die("os_fake: more than %d files", FILES);
	return NULL;
}

void os_fake_file(const char *path, const char *text)
{
	struct file *file = find_file(path, true);

	file->exists = text != NULL;
	if (!text)
		return;
	HF_VERIFY_OP(strlen(text), <, sizeof file->text);
	strcpy(file->text, text);
}

static ssize_t read_file(const struct file *file, void *data, size_t bytes, uint64_t offset)
{
	const size_t length = strlen(file->text);

	if (offset >= length)
		return 0;
	if (bytes > length - offset)
		bytes = length - offset;
	memcpy(data, file->text + offset, bytes);
	return (ssize_t)bytes;
}

ssize_t __wrap_os_read_small(const char *path, char *text, size_t bytes);
ssize_t __wrap_os_read_small(const char *path, char *text, size_t bytes)
{
	const int error = step(OS_FAKE_READ_SMALL);
	const struct file *file = find_file(path, false);
	ssize_t result;

	if (bytes == 0)
		return -EINVAL;
	text[0] = '\0';
	if (error)
		return error;
	if (!file || !file->exists)
		return -ENOENT;
	result = read_file(file, text, bytes - 1, 0);
	text[result] = '\0';
	return result;
}

int __wrap_os_open_read(const char *path, int *fd_out);
int __wrap_os_open_read(const char *path, int *fd_out)
{
	const int error = step(OS_FAKE_OPEN_READ);
	struct file *file = find_file(path, false);
	int fd, result;

	if (error)
		return error;
	if (!file || !file->exists)
		return -ENOENT;
	result = __real_os_memfd("os_fake", OS_PAGE_BYTES, &fd); /* so that the number is nobody else's */
	if (result)
		return result;
	for (size_t i = 0; i < OPEN_FILES; i++) {
		int none = 0;

		if (atomic_compare_exchange_strong(&open_files[i].fd_plus_1, &none, fd + 1)) {
			open_files[i].file = file;
			*fd_out = fd;
			return 0;
		}
	}
	base_die("os_fake: more than %d open files", OPEN_FILES);
}

ssize_t __real_os_read_at(int fd, void *data, size_t bytes, uint64_t offset);
ssize_t __wrap_os_read_at(int fd, void *data, size_t bytes, uint64_t offset);
ssize_t __wrap_os_read_at(int fd, void *data, size_t bytes, uint64_t offset)
{
	const int error = step(OS_FAKE_READ_AT);

	if (error)
		return error;
	for (size_t i = 0; i < OPEN_FILES; i++)
		if (fd >= 0 && atomic_load(&open_files[i].fd_plus_1) == fd + 1)
			/* ENODEV: what the files of a removed cgroup say. */
			return open_files[i].file->exists ? read_file(open_files[i].file, data, bytes, offset)
							  : -ENODEV;
	return __real_os_read_at(fd, data, bytes, offset);
}

void __real_os_fd_close(int fd);
void __wrap_os_fd_close(int fd);
void __wrap_os_fd_close(int fd)
{
	atomic_fetch_add(&scripts[OS_FAKE_FD_CLOSE].count, 1);
	for (size_t i = 0; i < OPEN_FILES; i++) {
		int ours = fd + 1;

		if (fd >= 0)
			(void)atomic_compare_exchange_strong(&open_files[i].fd_plus_1, &ours, 0);
	}
	__real_os_fd_close(fd);
}

/* ---- time ---- */

void os_fake_advance_ns(uint64_t ns)
{
	atomic_fetch_add(&clock_ns, ns);
}

void os_fake_on_wait(void (*hook)(void *context), void *context)
{
	wait_hook = hook;
	wait_context = context;
}

uint64_t __wrap_os_clock_ns(void);
uint64_t __wrap_os_clock_ns(void)
{
	return atomic_load(&clock_ns);
}

int __real_os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns, bool shared);
int __wrap_os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns, bool shared);
int __wrap_os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns, bool shared)
{
	const int error = step(OS_FAKE_FUTEX_WAIT);

	if (error)
		return error;
	if (wait_hook && atomic_load(word) == expected)
		wait_hook(wait_context);
	if (atomic_load(word) != expected)
		return 0;
	if (timeout_ns == UINT64_MAX)
		return __real_os_futex_wait(word, expected, timeout_ns, shared);
	os_fake_advance_ns(timeout_ns);
	return -ETIMEDOUT;
}

int __real_os_futex_wake(_Atomic uint32_t *word, uint32_t waiters, bool shared);
int __wrap_os_futex_wake(_Atomic uint32_t *word, uint32_t waiters, bool shared);
int __wrap_os_futex_wake(_Atomic uint32_t *word, uint32_t waiters, bool shared)
{
	atomic_fetch_add(&scripts[OS_FAKE_FUTEX_WAKE].count, 1);
	return __real_os_futex_wake(word, waiters, shared);
}

void __real_os_yield(void);
void __wrap_os_yield(void);
void __wrap_os_yield(void)
{
	atomic_fetch_add(&scripts[OS_FAKE_YIELD].count, 1);
	__real_os_yield();
}

/* ---- the machine ---- */

#define WRAP_PROPERTY(result, name, property)    \
	result __wrap_os_##name(void);           \
	result __wrap_os_##name(void)            \
	{                                        \
		return os_fake_machine.property; \
	}

WRAP_PROPERTY(unsigned, cpu_count, cpus)
WRAP_PROPERTY(unsigned, thp_mode, thp_mode)
WRAP_PROPERTY(int, overcommit_mode, overcommit_mode)
WRAP_PROPERTY(uint64_t, ram_bytes, ram_bytes)
WRAP_PROPERTY(uint64_t, limit_address_space, limit_address_space)
WRAP_PROPERTY(uint64_t, limit_data, limit_data)
WRAP_PROPERTY(bool, locks_new_memory, locks_new_memory)
WRAP_PROPERTY(bool, is_secure_execution, secure_execution)
WRAP_PROPERTY(uid_t, user_id, user_id)

void __wrap_os_random(void *data, size_t bytes);
void __wrap_os_random(void *data, size_t bytes)
{
	unsigned char *at = data;

	for (size_t i = 0; i < bytes; i++) { /* splitmix64, a step for each byte */
		uint64_t mixed =
			__atomic_add_fetch(&os_fake_machine.random_state, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);

		mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
		mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
		at[i] = (unsigned char)(mixed ^ mixed >> 31);
	}
}
