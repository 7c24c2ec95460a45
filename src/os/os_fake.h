/*
 * The script of the fake os: what a test says before and between the calls of what it tests.
 *
 * It is the real os with a wrapper around each call (the linker's --wrap, see tests/CMakeLists.txt): memory,
 * descriptors and locks are real; the clock, the machine's properties, random numbers and files read by path are the
 * script's. Everything is thread-safe except the setting of machine, files and hook: do that while no other thread
 * runs.
 */
#ifndef HF_OS_OS_FAKE_H
#define HF_OS_OS_FAKE_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Calls that are counted; all but the last group can be made to fail. */
enum os_fake_call {
	OS_FAKE_ANY, /* all that can be made to fail, counted together: for sweeps */
	OS_FAKE_SPACE_MAP,
	OS_FAKE_MEMORY_MAP,
	OS_FAKE_SPACE_OPEN,
	OS_FAKE_SPACE_SHOW,
	OS_FAKE_SPACE_CLOSE,
	OS_FAKE_DISCARD,
	OS_FAKE_ADVISE,
	OS_FAKE_MOVE,
	OS_FAKE_RESIDENT_PAGES,
	OS_FAKE_MEMFD,
	OS_FAKE_FD_REOPEN,
	OS_FAKE_FD_DUPLICATE,
	OS_FAKE_FD_IDENTIFY,
	OS_FAKE_MAP_SHARED,
	OS_FAKE_LOCK_BYTE,
	OS_FAKE_LOCK_TEST,
	OS_FAKE_READ_SMALL,
	OS_FAKE_READ_AT,
	OS_FAKE_OPEN_READ,
	OS_FAKE_SOCKET_LISTEN,
	OS_FAKE_SOCKET_CONNECT,
	OS_FAKE_SOCKET_ACCEPT,
	OS_FAKE_SOCKET_SEND,
	OS_FAKE_SOCKET_RECEIVE,
	OS_FAKE_FUTEX_WAIT,
	OS_FAKE_CAN_FAIL, /* not a call: the end of those that can be made to fail */
	OS_FAKE_UNMAP = OS_FAKE_CAN_FAIL,
	OS_FAKE_FD_CLOSE,
	OS_FAKE_FUTEX_WAKE,
	OS_FAKE_YIELD,
	OS_FAKE_CALLS
};

/* As at the start of the program: nothing fails, counts 0, no files, the machine below. Descriptors stay open. */
void os_fake_reset(void);

/* The @nth call of this kind from now (1: the next) returns @error (-ENOMEM, ...) and does nothing; once, or all from
 * it on. */
void os_fake_fail_nth(enum os_fake_call call, unsigned nth, int error, bool from_then_on);
void os_fake_fail_off(enum os_fake_call call);
bool os_fake_fired(enum os_fake_call call); /* since its fail_nth was set */
unsigned os_fake_count(enum os_fake_call call);

/* ---- time: os_clock_ns() is 1 s at the start, and moves only here and by waits that time out ---- */

void os_fake_advance_ns(uint64_t ns);
/*
 * Called at each futex wait on a word that has the expected value: what other threads would do meanwhile. Then, if the
 * word has not changed, a wait with a time-out moves the clock and times out at once; one without really sleeps. NULL:
 * no hook.
 */
void os_fake_on_wait(void (*hook)(void *context), void *context);

/* ---- files, by path, for os_read_small() and os_open_read(); no others exist ---- */

/* Its text from now on, also for descriptors that are open (as a cgroup's files are); NULL: it is gone. At most 4095
 * bytes, 64 files. */
void os_fake_file(const char *path, const char *text);

/* ---- the machine ---- */

struct os_fake_machine {
	unsigned cpus;		      /* 2 */
	unsigned thp_mode;	      /* 1: madvise */
	int overcommit_mode;	      /* 0 */
	uint64_t ram_bytes;	      /* 1 GiB */
	uint64_t limit_address_space; /* UINT64_MAX: none; not enforced */
	uint64_t limit_data;	      /* the same */
	bool locks_new_memory;	      /* false */
	bool secure_execution;	      /* false */
	uid_t user_id;		      /* the real one */
	uint64_t random_state;	      /* 1: random numbers are the same in each run */
};
extern struct os_fake_machine os_fake_machine;

#endif
