/*
 * Where an automatic limit comes from: the tightest among this process's memory cgroups (v1 and v2, the nearest
 * and all ancestors that can be seen) and RAM, less what is outside the heaps, less a margin.
 *
 * Not here: limits that somebody gave. The keeper calls limit_update() all the time; a process without keeper calls
 * limit_refresh() before it says no.
 */
#ifndef HF_LEDGER_LIMIT_H
#define HF_LEDGER_LIMIT_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

struct ledger;
struct limit; /* what is remembered from one measurement to the next; one thread at a time */

struct limit_reading {
	uint64_t budget_pages;	/* what the ledger may commit */
	uint64_t outside_pages; /* at the tightest level: in use there, not in our heaps, and not to be dropped by the
				   kernel */
	uint64_t margin_pages;
	uint64_t limit_bytes; /* of the tightest level */
	bool is_certain;      /* false: a tighter limit may have been overlooked, for want of a descriptor, say */
	char source[96];      /* "cgroup v2 /a/b, 64.0M" */
};

/* 0 or -ENOMEM. */
HF_MUST_USE int limit_create(struct limit **limit_out);
void limit_destroy(struct limit *limit);

/* Measure; @ledger's members are counted as heap (NULL: there are none yet). Takes 50 us to a few ms. */
void limit_measure(struct limit *limit, struct ledger *ledger, struct limit_reading *reading_out);
/* Measure, and set @ledger's limit, if it is an automatic one. Returns after how many ms it should be called again. */
unsigned limit_update(struct limit *limit, struct ledger *ledger);

/*
 * For a process that was about to hear no: measure again if the limit is automatic and nobody has for 100 ms (1 s with
 * a keeper). Any thread, any process; at most one at a time measures, the others go on at once. Allocates nothing,
 * takes no lock.
 */
void limit_refresh(struct ledger *ledger);

/* The tightest limit there is, of cgroups and RAM: what 100% means. Also after failures to read anything: RAM as the
 * kernel says it. */
uint64_t limit_tightest_bytes(void);

#endif
