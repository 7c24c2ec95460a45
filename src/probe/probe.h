/*
 * Fault injection, with the kernel's knobs and the kernel's order of filters (failslab): fail_nth of the
 * thread, probability 0, size and class filters, times 0, space, interval, probability, times.
 *
 * It only answers "should this one fail?"; request/ asks, and not about requests that cannot fail. Nothing asks
 * while probe_is_armed() is false. Also denies commits, for tests of pool and ledger callers.
 * All functions are thread-safe and never sleep, except those that set knobs: they take a lock (LOCK_RANK_PROBE).
 */
#ifndef HF_PROBE_PROBE_H
#define HF_PROBE_PROBE_H

#include "base/compiler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One for the knobs, while their probability is not 0, plus one for each thread that has set fail_nth. */
extern _Atomic uint32_t probe_armed;

static inline bool probe_is_armed(void)
{
	/* Relaxed: a request that is already under way may miss a knob being turned, as in the kernel. */
	return HF_UNLIKELY(atomic_load_explicit(&probe_armed, memory_order_relaxed) != 0);
}

/* The numbers of the accept classes, as in holdfast/alloc.h (test_probe.c checks that they agree). */
enum probe_class { PROBE_CLASS_ATOMIC = 1, PROBE_CLASS_NORETRY = 2, PROBE_CLASS_RETRY = 3 };

struct probe_settings {
	uint32_t probability_percent;		 /* 0: off; 100: always */
	uint32_t interval;			 /* every n-th that passed the filters; 0 is 1 */
	int64_t times;				 /* at most so many failures; -1: no limit */
	uint64_t space_bytes;			 /* this many bytes succeed first */
	uint64_t size_min_bytes, size_max_bytes; /* only these sizes; 0 and UINT64_MAX: all */
	uint32_t classes;			 /* bit per accept class, 1 << its number; ~0: all */
	uint64_t seed;				 /* of the random draw; 0: taken from the system */
	bool deny_commits; /* commits to the ledger fail instead of requests; they have a size, and no class */
};

/* As in the kernel: off, interval 1, times 1, space 0. */
void probe_settings_default(struct probe_settings *settings_out);
/* All knobs at once; the count of the interval and the random draws start again. */
void probe_configure(const struct probe_settings *settings);
/* As they are now: times and space are what is left, seed is the one that is drawn from. */
void probe_get(struct probe_settings *settings_out);

/*
 * One knob by name (fail.probability, ...), for HOLDFAST= and for steering from outside. The others keep what they
 * have. Sizes may end in K, M, G, T; fail.size is MIN-MAX or N (exactly); fail.class is names joined by '+', or "all".
 * Returns 0, -ENOENT (no such knob), -EINVAL (bad value: nothing changed).
 */
HF_MUST_USE int probe_set_knob(const char *name, const char *value);
const char *probe_knob_names(void); /* joined by ", ", for messages */

/* Should this request (class number, bytes) fail? Counts. */
bool probe_should_fail(uint32_t accept_class, size_t bytes);
/* The same question about a commit. Only one of the two ever says yes, or counts: see deny_commits. */
bool probe_should_deny_commit(uint64_t pages);

/* This thread's nth request from now fails (1: the next); ignores every other filter; one shot; not inherited by fork.
 */
void probe_fail_nth(unsigned n);
bool probe_fired(void); /* has this thread's fail_nth fired since it was last set? */
void probe_off(void);	/* this thread's fail_nth; also for a thread that ends with it set */
/* In between (they nest), this thread's failures would prove nothing: nothing is injected, or counted. */
void probe_benign_enter(void);
void probe_benign_leave(void);
/* The child's only thread has no fail_nth; knobs stay, and what is left of times and space is the child's own. */
void probe_fork_child(void);

uint64_t probe_injected(void); /* failures injected in this process */

#endif
