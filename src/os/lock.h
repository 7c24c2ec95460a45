/*
 * The one lock of the library: a futex mutex of four bytes with a rank.
 *
 * Taken in rising rank only, checked in debug builds (base/lock_rank.h). Not recursive. Not shared
 * between processes: the ledger's protocol needs none. Zero-initialised by LOCK_INIT(rank).
 */
#ifndef HF_OS_LOCK_H
#define HF_OS_LOCK_H

#include "base/compiler.h"
#include "base/lock_rank.h"

#include <stdbool.h>
#include <stdint.h>

struct lock {
	_Atomic uint32_t state; /* 0 free, 1 taken, 2 taken and somebody sleeps */
	uint32_t rank;		/* enum lock_rank; immutable */
};

#define LOCK_INIT(rank_)   \
	{                  \
		0, (rank_) \
	}

void lock_init(struct lock *lock, enum lock_rank rank);
void lock_take(struct lock *lock);
bool lock_try_take(struct lock *lock);
void lock_put(struct lock *lock);
/* In a fork's child, where the thread that held it in the parent does not exist: free again. */
void lock_reset_after_fork(struct lock *lock);

/* Debug builds: does this thread hold it, or any? (Release builds: true and false.) */
bool lock_is_mine(const struct lock *lock);
bool lock_any_held(void);

#endif
