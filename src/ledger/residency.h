/*
 * How much of the members' heaps is physically there, for the automatic limit: what is in use in a cgroup and is not
 * our heaps is outside. Reads /proc; writes only what it remembers, and what it found into the members' slots.
 *
 * Every figure is a lower bound, as far as that can be had: what is not surely heap counts as outside, which makes the
 * budget smaller. The other way round the kernel would be asked for more than there is, and kills.
 */
#ifndef HF_LEDGER_RESIDENCY_H
#define HF_LEDGER_RESIDENCY_H

#include "base/compiler.h"
#include "ledger/cgroup.h"

#include <stdint.h>

struct ledger;
struct residency;

/* 0 or -ENOMEM. */
HF_MUST_USE int residency_create(struct residency **residency_out);
void residency_destroy(struct residency *residency);

/* Look at all members of @ledger. @set: the cgroups whose levels residency_in_level() will be asked about. */
void residency_update(struct residency *residency, struct ledger *ledger, struct cgroup_set *set);

/* Pages of the members that surely are in level @level of the set; RESIDENCY_ANYWHERE: of all members. */
enum { RESIDENCY_ANYWHERE = CGROUP_LEVELS };
uint64_t residency_pages(const struct residency *residency, unsigned level);

/* The set was filled anew: its levels may mean something else. */
void residency_forget_levels(struct residency *residency);

#endif
