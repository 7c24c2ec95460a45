/*
 * The ledger's file: layout of what processes share, and the protocol of its word.
 *
 * Any process under the budget can write here, so nothing that is read is trusted: indices are checked
 * against compile-time constants, never against numbers in the file; amounts are only compared and subtracted with
 * clamping. No pointers, no padding that matters, the same on every process of one architecture.
 *
 * The protocol (ARCHITECTURE.md "The ledger's word"; model: tests/model/ledger.pml):
 *   word = {committed pages, initiator slot << 48 | sequence of the last change}.
 *   A change is written to the initiator's record, then enters by one compare-and-swap of the word, and is then
 * completed by swapping each target's entry from {old, older sequence} to {new, sequence}. Whoever wants to make the
 * next change completes the last one first. L1: committed <= limit, but for overdraft and a lowered limit. L2:
 * committed == sum of all entries, with the last change completed. L3: a slot's record is rewritten only after the
 * change that it last described is complete. L4: a slot is freed only with entry 0, and no other slot's lineage names
 * its generation. L5: a family slot's entry >= the pages that living members hold and no living owner is charged with.
 */
#ifndef HF_LEDGER_SHARED_H
#define HF_LEDGER_SHARED_H

#include "base/pair.h"
#include "ledger/ledger.h"

#include <assert.h>
#include <stdatomic.h>

#define LEDGER_MAGIC UINT64_C(0x31676c7473666448) /* "Hdfstlg1" in the file */
enum {
	LEDGER_VERSION = 1,
	LEDGER_SLOTS = 4096, /* processes at once; slot 0 is the file's own pages */
	LEDGER_HEADER_BYTES = 4096,
	LEDGER_SLOT_BYTES = 256,
	LEDGER_SLOT_OWN = 0,
	LEDGER_SLOT_NONE = 0, /* in lineage and records: no slot */
	LEDGER_MEMFD_NAME_BYTES = 48,
};
#define LEDGER_FILE_BYTES ((size_t)LEDGER_HEADER_BYTES + (size_t)LEDGER_SLOTS * LEDGER_SLOT_BYTES)
#define LEDGER_MEMFD_NAME "holdfast-ledger"  /* how commands find it under /proc/PID/fd */
#define LEDGER_LOCK_BASE ((uint64_t)1 << 40) /* slot i's byte; beyond any size that the file can have */

#define WORD_SLOT_SHIFT 48
#define WORD_SEQUENCE_MASK (((uint64_t)1 << WORD_SLOT_SHIFT) - 1)

struct ledger_record {
	_Atomic uint64_t sequence; /* of the change below; 0 while it is being written */
	_Atomic uint64_t slot[2];  /* LEDGER_SLOT_NONE + value 0 in the second: only one target; slot 0 as first is the
				      own slot */
	_Atomic uint64_t value[2]; /* the entries' new amounts */
};

struct ledger_slot {
	/* Changed only as the protocol says. {pages, sequence of the last change that touched it}. */
	union pair_atomic entry;
	/* Compare-and-swap by whoever claims or collects: generation << 8 | enum ledger_member_kind. */
	_Atomic uint64_t state;
	/* Set by the claimer before the state says LIVE; later swapped by collectors only. parent slot << 48 | parent
	 * generation (16 bits) << 32 | parent's epoch. */
	_Atomic uint64_t lineage;
	/* Set by the claimer, or by the owner at its first fork. Family slot << 32 | its generation (32 bits); 0: none.
	 */
	_Atomic uint64_t family;
	/* Written by the owner: inherited pages that it still holds. */
	_Atomic uint64_t holding_pages;
	/* One writer: the owner, under its ledger lock. */
	struct ledger_record record;
	/* Information only: written by the owner, or by the keeper (resident, cow). */
	_Atomic uint64_t pid_uid; /* pid << 32 | uid */
	_Atomic uint64_t command[2];
	_Atomic uint64_t refusals, last_refused_bytes, commits;
	_Atomic uint64_t heap_low, heap_high, resident_pages, cow_pages, unattached_children;
	uint64_t reserved[10]; /* earmarks and waiting come here */
};
static_assert(sizeof(struct ledger_slot) == LEDGER_SLOT_BYTES, "slots are two cache-line pairs");
static_assert(LEDGER_SLOTS <= 1 << 16, "a slot's index fits the word");

struct ledger_shared {
	/* Immutable after creation; checked at each join. */
	uint64_t magic;
	uint32_t version, slot_count, slot_bytes, header_bytes;
	uint64_t identity, created_ns;
	uint8_t cookie[16];
	char name[32];
	/* The protocol's. A cache line of its own. */
	union pair_atomic word __attribute__((aligned(128)));
	/* Counts the times that a dead member's children were given its lineage: each before that member's slot is
	 * free. */
	_Atomic uint64_t reparentings;
	/* Knobs and what is known of the limit: written by the keeper or `holdfast set`; racy reads take effect a
	 * moment later. */
	_Atomic uint64_t limit_pages __attribute__((aligned(128)));
	_Atomic uint64_t min_pages, low_pages, high_pages, overdraft_pages;
	_Atomic uint64_t outside_pages, margin_pages, automatic, keeper_pid, limit_checked_ns;
	_Atomic uint64_t limit_source[12];
	_Atomic uint64_t socket_name[8];
	/* Statistics; relaxed. */
	_Atomic uint64_t peak_pages __attribute__((aligned(128)));
	_Atomic uint64_t refusals, deaths_collected, at_limit_ms, unattached;
	_Atomic uint64_t slots_high; /* slots [0, slots_high) have been used: their pages are charged to slot 0 */
};
static_assert(sizeof(struct ledger_shared) <= LEDGER_HEADER_BYTES, "the header is one page");

#endif
