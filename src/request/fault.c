/*
 * Fault injection as the program sees it. While anything is armed the heap is watched: its fast paths miss, so that the
 * slow path can ask about every request. When nothing is, the fast path does not know that there is such a thing.
 */
#include <holdfast/fault.h>

#include "heap/heap.h"
#include "probe/probe.h"
#include "request/request.h"

void fault_watch_locked(void)
{
	heap_set_watched(probe_is_armed());
}

HF_EXPORT void hf_fault_fail_nth(unsigned n)
{
	if (!init_ensure())
		return;
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
