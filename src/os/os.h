/*
 * Every system call that Holdfast's library makes, and nothing else.
 *
 * For every call: results are 0 or a value >= 0, or -errno; errno itself is left alone; sizes and
 * addresses are multiples of the page where memory is meant; nothing here allocates, takes a lock
 * of ours, or retries for ever. EINTR is retried unless a call says otherwise.
 *
 * os_linux_*.c are the real one; os_fake.c stands before it in tests: real memory underneath, but
 * each call can be scripted to fail, and the clock stands still until the test moves it (os_fake.h).
 */
#ifndef HF_OS_OS_H
#define HF_OS_OS_H

#include "base/assert.h"
#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Messages of base go to standard error from now on. A constructor does it; who runs earlier calls it. Idempotent. */
void os_start(void);

enum { OS_PAGE_SHIFT = 12, OS_PAGE_BYTES = 1 << OS_PAGE_SHIFT };

/* ---- address space and memory ---- */

/* Inaccessible private anonymous address space, not counted against overcommit or RLIMIT_DATA.
 * @hint 0: anywhere, aligned to @align_bytes. Else exactly there, or -EEXIST. */
HF_MUST_USE int os_space_map(uintptr_t hint, size_t bytes, size_t align_bytes, void **space_out);
/* Fresh readable and writable zero memory anywhere (for a few private pages of our own). */
HF_MUST_USE int os_memory_map(size_t bytes, void **memory_out);
void os_unmap(void *address, size_t bytes);
/* PROT_NONE to read-write; -ENOMEM: RLIMIT_DATA, overcommit, VMAs. */
HF_MUST_USE int os_space_open(void *address, size_t bytes);
HF_MUST_USE int os_space_show(void *address, size_t bytes); /* PROT_NONE to read-only: zeros, which cost nothing */
/* Fresh PROT_NONE over it: pages and kernel accounting go back. */
HF_MUST_USE int os_space_close(void *address, size_t bytes);
/* Give the pages back to the kernel now, locked or not; they read as zero afterwards. */
HF_MUST_USE int os_discard(void *address, size_t bytes);
enum os_advice {
	OS_HUGE,
	OS_NO_HUGE,
	OS_WIPE_ON_FORK,
	OS_KEEP_ON_FORK,
	OS_DONT_FORK,
	OS_POPULATE,
	OS_COLD,
	OS_COLLAPSE
};
HF_MUST_USE int os_advise(void *address, size_t bytes, enum os_advice advice);
/* Move @bytes at @from to @to, which must be mapped and is replaced; @from is unmapped. */
HF_MUST_USE int os_move(void *from, size_t bytes, void *to);
/* How many pages of the range are there (mincore). */
HF_MUST_USE int os_resident_pages(void *address, size_t bytes, size_t *pages_out);
/* Was this process's future memory locked by mlockall(MCL_FUTURE)? Tries it on one page. */
bool os_locks_new_memory(void);
int os_overcommit_mode(void); /* vm.overcommit_memory: 0, 1, 2; 0 when unreadable */
unsigned os_thp_mode(void);   /* 0 never, 1 madvise, 2 always */

/* ---- files: only what the ledger and limits need ---- */

/* 0600, sealed against resizing, close-on-exec. */
HF_MUST_USE int os_memfd(const char *name, size_t bytes, int *fd_out);
/* A new open file description of the same file, close-on-exec. */
HF_MUST_USE int os_fd_reopen(int fd, int *fd_out);
/* The same description under a number out of the program's way. */
HF_MUST_USE int os_fd_duplicate_high(int fd, bool close_on_exec, int *fd_out);
void os_fd_close(int fd);
struct os_file_id {
	uint64_t device, inode, bytes;
	uid_t owner;
	bool sealed;
};
HF_MUST_USE int os_fd_identify(int fd, struct os_file_id *id_out); /* -EBADF: not open */
HF_MUST_USE int os_map_shared(int fd, size_t bytes, bool writable, void **memory_out);
/* An open-file-description lock on one byte: it lives as long as any file descriptor or *mapping*
 * of that description does, in any process. -EAGAIN: somebody else has it. */
HF_MUST_USE int os_lock_byte(int fd, uint64_t offset);
void os_unlock_byte(int fd, uint64_t offset);	       /* lets go of what os_lock_byte() on this description got */
HF_MUST_USE int os_lock_test(int fd, uint64_t offset); /* 1 held by another description, 0 free, -errno */
/* At most @bytes - 1 of a small file, ended by NUL. The number read. */
HF_MUST_USE ssize_t os_read_small(const char *path, char *text, size_t bytes);
HF_MUST_USE ssize_t os_read_at(int fd, void *data, size_t bytes, uint64_t offset);
HF_MUST_USE int os_open_read(const char *path, int *fd_out);
void os_write_error(const char *text, size_t bytes); /* standard error; never blocks for ever on EAGAIN */

/* ---- the keeper's socket: abstract unix sequenced packets, descriptors passed along ---- */

/* The listener never blocks (-EAGAIN); connected sockets give up after 2 s (-EAGAIN). */
HF_MUST_USE int os_socket_listen(const char *abstract_name, int *fd_out);  /* -EADDRINUSE */
HF_MUST_USE int os_socket_connect(const char *abstract_name, int *fd_out); /* -ECONNREFUSED, -ETIMEDOUT */
HF_MUST_USE int os_socket_accept(int listener, int *fd_out, uid_t *peer_uid_out, pid_t *peer_pid_out);
HF_MUST_USE ssize_t os_socket_send(int fd, const void *data, size_t bytes, int pass_fd); /* pass_fd -1: none */
/* 0: the other side has closed. -EMSGSIZE: longer than @bytes (it is lost). *passed_fd_out: -1 if none came. */
HF_MUST_USE ssize_t os_socket_receive(int fd, void *data, size_t bytes, int *passed_fd_out);

/* ---- threads, processes, time ---- */

/* Sleep while *word == expected, at most timeout_ns (UINT64_MAX: no limit). 0 woken or changed, -ETIMEDOUT, -EINTR. */
int os_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns, bool shared);
int os_futex_wake(_Atomic uint32_t *word, uint32_t waiters, bool shared);
uint64_t os_clock_ns(void); /* monotonic */
pid_t os_process_id(void);
pid_t os_thread_id(void);
uid_t os_user_id(void); /* effective */
bool os_process_exists(pid_t pid);
unsigned os_cpu_count(void);	   /* online */
bool os_is_secure_execution(void); /* AT_SECURE: setuid and the like */
void os_random(void *data, size_t bytes);
uint64_t os_limit_address_space(void); /* RLIMIT_AS, RLIMIT_DATA in bytes; UINT64_MAX: none */
uint64_t os_limit_data(void);
uint64_t os_ram_bytes(void);
void os_yield(void);

#endif
