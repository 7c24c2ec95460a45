/*
 * Fault injection, with the kernel's knobs and the kernel's order of filters (failslab): fail_nth of the
 * thread, probability 0, size and class filters, times 0, space, interval, probability, times.
 *
 * It only answers "should this one fail?"; request/ asks. Nothing asks while probe_is_armed() is false.
 * Also denies commits, for tests of pool and ledger callers.
 */
#ifndef HF_PROBE_PROBE_H
#define HF_PROBE_PROBE_H

#include "base/compiler.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nonzero while any thread or knob could make something fail. */
extern _Atomic uint32_t probe_armed;

static inline bool probe_is_armed(void)
{
	/* Relaxed: a request that is already under way may miss a knob being turned, as in the kernel. */
	return HF_UNLIKELY(atomic_load_explicit(&probe_armed, memory_order_relaxed) != 0);
}

struct probe_settings {
	uint32_t probability_percent; /* 0: off; 100: always */
	uint32_t interval;	      /* every n-th that passed the filters; >= 1 */
	int64_t times;		      /* at most so many failures; -1: no limit */
	uint64_t space_bytes;	      /* this many bytes succeed first */
	uint64_t size_min_bytes, size_max_bytes; /* only these sizes; 0 and UINT64_MAX: all */
	uint32_t classes;	      /* bit per accept class; ~0: all */
	uint64_t seed;		      /* of the random draw; 0: taken from the system */
	bool deny_commits;	      /* commits to the ledger fail instead of requests */
};

void probe_settings_default(struct probe_settings *settings_out);
void probe_configure(const struct probe_settings *settings);
void probe_get(struct probe_settings *settings_out);

/* Should this request (class number, bytes) fail? Counts. Never blocks. */
bool probe_should_fail(uint32_t accept_class, size_t bytes);
bool probe_should_deny_commit(uint64_t pages);

/* This thread's nth request from now fails (1: the next); ignores every other filter; one shot; not inherited by fork. */
void probe_fail_nth(unsigned n);
bool probe_fired(void); /* has this thread's fail_nth fired since it was set? */
void probe_off(void);	/* this thread's fail_nth */
/* While positive, this thread's failures are benign here: nothing is injected. */
void probe_benign_enter(void);
void probe_benign_leave(void);
void probe_fork_child(void);

uint64_t probe_injected(void); /* failures injected in this process */

#endif
