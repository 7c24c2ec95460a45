/*
 * fork(): the library's locks are taken in the order of their ranks, the ledger makes the child's slot, and in the
 * child everything that belonged to the parent's other threads is put in order.
 *
 * Our handlers are registered before anybody else's, so that prepare runs last and the child's handler first: other
 * libraries' handlers may allocate.
 *
 * After our prepare the C library takes its lock of all streams. A thread that has a stream's lock may be waiting for a
 * lock of ours, and one that flushes all streams has the first and waits for the second. The C library's own malloc is
 * locked after that lock; so that ours are too, we take it ourselves, before them. It is recursive.
 */
#include "heap/heap.h"
#include "ledger/ledger.h"
#include "pool/pool.h"
#include "probe/probe.h"
#include "request/request.h"

#include <pthread.h>

/* The C library's; weak, since it does not promise them. */
extern void _IO_list_lock(void) __attribute__((weak));
extern void _IO_list_unlock(void) __attribute__((weak));
extern void _IO_list_resetlock(void) __attribute__((weak));

static bool library_was_ready; /* under init_lock, from prepare to parent or child */

static void prepare(void)
{
	if (_IO_list_lock && _IO_list_unlock && _IO_list_resetlock)
		_IO_list_lock();
	lock_take(&init_lock);
	library_was_ready = init_is_ready();
	if (!library_was_ready)
		return;
	/* A raw clone's child that forks: it must have a slot of its own before it can give one to a child. */
	fork_raw_clone_check();
	heap_fork_prepare();
	pool_fork_prepare();
	ledger_fork_prepare(pool_ledger(), pool_held_pages());
}

/* The C library does not tell its handlers the child's pid, nor whether there is one. */
enum { CHILD_UNKNOWN = 0 };

static void parent(void)
{
	if (library_was_ready) {
		ledger_fork_parent(pool_ledger(), CHILD_UNKNOWN);
		pool_fork_parent(CHILD_UNKNOWN);
		heap_fork_parent();
	}
	lock_put(&init_lock);
	if (_IO_list_lock && _IO_list_unlock && _IO_list_resetlock)
		_IO_list_unlock();
}

static void child(void)
{
	if (library_was_ready) {
		ledger_fork_child(pool_ledger());
		pool_fork_child();
		heap_fork_child();
		probe_fork_child();
		request_refusals_reset();
	}
	lock_reset_after_fork(&init_lock);
	if (_IO_list_lock && _IO_list_unlock && _IO_list_resetlock)
		_IO_list_resetlock();
}

void fork_register(void)
{
	static atomic_flag registered = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&registered))
		(void)pthread_atfork(prepare, parent, child);
}

void fork_raw_clone_check(void)
{
	if (HF_UNLIKELY(heap_raw_clone_check())) {
		probe_fork_child();
		request_refusals_reset();
	}
}
