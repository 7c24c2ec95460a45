/*
 * Fault injection as the program sees it. While anything is armed the heap is watched: its fast paths miss, so that the
 * slow path can ask about every request. When nothing is, the fast path does not know that there is such a thing.
 */
#include <holdfast/fault.h>

#include "heap/heap.h"
#include "probe/probe.h"
#include "request/request.h"

#include <pthread.h>

void fault_watch_locked(void)
{
	heap_set_watched(probe_is_armed());
}

/* A thread may end with a failure still to come: the others' fast paths must not miss for ever because of it. */
static pthread_key_t end_key;
static pthread_once_t end_key_once = PTHREAD_ONCE_INIT;
static bool end_key_works;

static void thread_ends(void *unused)
{
	(void)unused;
	hf_fault_off();
}

static void make_end_key(void)
{
	end_key_works = pthread_key_create(&end_key, thread_ends) == 0;
}

HF_EXPORT void hf_fault_fail_nth(unsigned n)
{
	if (!init_ensure())
		return;
	if (n != 0 && pthread_once(&end_key_once, make_end_key) == 0 && end_key_works)
		(void)pthread_setspecific(end_key, &end_key); /* may ask for memory: before it counts */
	/* The lock: of two threads, one arming and one disarming, the later one's look at probe_armed decides. */
	lock_take(&init_lock);
	if (n == 0)
		probe_off();
	else
		probe_fail_nth(n);
	fault_watch_locked();
	lock_put(&init_lock);
}

HF_EXPORT bool hf_fault_fired(void)
{
	return probe_fired();
}

HF_EXPORT void hf_fault_off(void)
{
	hf_fault_fail_nth(0);
}
