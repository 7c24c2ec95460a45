/*
 * The order of all locks. A thread takes them in rising rank only; debug builds check it.
 * Fork takes them in this order too (see request/fork.c).
 */
#ifndef HF_BASE_LOCK_RANK_H
#define HF_BASE_LOCK_RANK_H

enum lock_rank {
	LOCK_RANK_NONE,
	LOCK_RANK_INIT,	  /* start-up and configuration */
	LOCK_RANK_HEAPS,  /* the list of thread heaps and orphans */
	LOCK_RANK_POOL,	  /* this process's pool */
	LOCK_RANK_LEDGER, /* this process's side of the ledger */
	LOCK_RANK_PROBE,  /* fault-injection settings */
	LOCK_RANK_COUNT
};

#endif
