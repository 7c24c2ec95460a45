/*
 * request/: the top layer. What its files share: start-up, the slow path, configuration, fork.
 *
 * Only this layer knows what a *no* from below means. The loop that decides is in slow.c.
 */
#ifndef HF_REQUEST_REQUEST_H
#define HF_REQUEST_REQUEST_H

#include "base/compiler.h"
#include "os/lock.h"

#include <holdfast/alloc.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger;

/* ---- alloc.c and slow.c ---- */

enum { REQUEST_CLASS_MASK = 0xff, REQUEST_FLAGS = HF_ZERO | HF_HIGH | HF_NOWARN };

static inline uint32_t request_class(hf_how how)
{
	return how & REQUEST_CLASS_MASK;
}

/* A request that is valid: its class and flags are known, its size is 1 to PTRDIFF_MAX. */
struct request {
	void *object; /* to be resized; NULL: a new one */
	size_t bytes;
	size_t align_bytes; /* a power of two, or 0 */
	hf_how how;
};

/*
 * The slow path: serve it, or decide that it fails.
 * Returns the object (another one than request->object: that one is gone), or NULL with errno ENOMEM. Blocks as the
 * class says.
 */
HF_MUST_USE void *request_serve(const struct request *request);
/* One pass of reclaim; the pages that came back to the ledger. */
uint64_t request_reclaim(void);
/* Refused requests of this process. */
uint64_t request_refusals(void);
void request_refusals_reset(void);

/* ---- init.c ---- */

enum init_stage { INIT_NOT_YET, INIT_READY };
extern _Atomic uint32_t init_stage;
extern struct lock init_lock; /* start-up, and the setting of fault injection; the first lock that fork takes */

/* Acquire: all of the library's set-up is visible. Pairs with the release in finish_start(). */
static inline bool init_is_ready(void)
{
	return HF_LIKELY(atomic_load_explicit(&init_stage, memory_order_acquire) == INIT_READY);
}

/*
 * Configure from the environment if nobody has yet. False: the library's own start-up is what asked.
 * Does not return when the environment is wrong: a message, and exit status 125.
 */
bool init_ensure(void);

/* ---- environment.c ---- */

/* Copies the value of @variable to @value. Works before the C library has set environ. 0, -ENOENT, -ENOBUFS. */
int environment_get(const char *variable, char *value, size_t bytes);

/* ---- knobs.c ---- */

enum { KNOBS_NAME_BYTES = 32 };

struct knobs {
	bool has_budget;
	size_t budget_bytes;	     /* 0: automatic; SIZE_MAX: none */
	char name[KNOBS_NAME_BYTES]; /* "": none */
};

/* "name=value,name=value". Fault injection's are set at once. 0, or -EINVAL after a message that says what is wrong. */
int knobs_parse(const char *text, struct knobs *knobs);

/* ---- fork.c ---- */

/* Registers the handlers, once. May allocate. */
void fork_register(void);
/* In a child that a raw clone made, which no handler saw: put the library in order. Asked before any lock is taken. */
void fork_raw_clone_check(void);

/* ---- fault.c ---- */

/* The heap is watched while anything may be made to fail. Under init_lock. */
void fault_watch_locked(void);

#endif
