/*
 * What the ledger's own files share. Not for other layers.
 */
#ifndef HF_LEDGER_INTERNAL_H
#define HF_LEDGER_INTERNAL_H

#include "ledger/ledger.h"
#include "ledger/shared.h"
#include "os/lock.h"
#include "os/os.h"

struct ledger {
	/* Immutable after attach; fork's child handler replaces them while it is alone. */
	struct ledger_shared *shared;
	struct ledger_slot *slots;
	struct ledger *outer;
	bool is_view; /* no slot */
	bool writable;
	uint32_t slot;		/* 0 while unattached */
	uint64_t device, inode; /* the file, to tell whether a descriptor still is it */

	struct lock lock; /* orders this process's changes: one writer of the slot's record (L3) */
	/* Under the lock. */
	int fd;			 /* may have been closed, or replaced, by the program: check before use */
	uint64_t fetch_after_ns; /* the keeper is not asked before then */
	uint64_t retry_ns;	 /* unattached: not before then */
	uint64_t orphan_holding, orphan_lineage, orphan_family; /* unattached: what its slot will say */
	struct ledger_shared *child_shared;			/* between fork's prepare and parent/child */
	uint32_t child_slot;

	/* Changed only by the fork handlers. */
	bool keeps_first_mapping; /* in a raw clone's child: the parent's mapping holds what was inherited */
	_Atomic uint32_t epoch;
	uint32_t birth_epoch;		 /* memory labelled earlier was inherited */
	_Atomic uint32_t children_until; /* no living child was forked in this epoch or later; written under the lock */
};

/* ---- word.c: the protocol ---- */

enum change_kind {
	CHANGE_ADD,	 /* a += pages, if the limit allows it with floor */
	CHANGE_SUBTRACT, /* a -= pages */
	CHANGE_MOVE,	 /* a -= pages, b += pages */
	CHANGE_BEQUEATH, /* a = 0, b = min(b + a, what living members hold) */
	CHANGE_TRIM,	 /* b = min(b, what living members hold) */
};
struct change {
	enum change_kind kind;
	uint32_t initiator; /* whose record is used: this process's slot, or one that it is just claiming */
	uint32_t a, b;	    /* slots; b == LEDGER_SLOT_NONE: none */
	uint64_t state_a;   /* not 0: only while a's state is this */
	uint64_t state_b;   /* the same of b */
	uint64_t family;    /* BEQUEATH, TRIM: whose members' holdings count */
	uint64_t pages, floor_pages;
	uint64_t gone_out; /* BEQUEATH, TRIM: pages that came back */
};
/* 0; -ENOMEM over the limit; -ESTALE a's or b's state is another; -EIO the file is being damaged under our feet. The
 * lock is held; the slot is attached. */
int word_change(struct ledger *ledger, struct change *change);
/* A slot's amount with the last change applied, without writing. */
uint64_t word_entry(const struct ledger *ledger, uint32_t slot);

/* ---- members.c: slots, who is alive, families ---- */

static inline enum ledger_member_kind state_kind(uint64_t state)
{
	return (enum ledger_member_kind)(state & 0xff);
}

static inline uint64_t state_make(uint64_t generation, enum ledger_member_kind kind)
{
	return generation << 8 | (uint64_t)kind;
}

static inline uint64_t lineage_make(uint32_t slot, uint64_t state, uint32_t epoch)
{
	return (uint64_t)slot << 48 | (state >> 8 & 0xffff) << 32 | epoch;
}

static inline uint64_t family_make(uint32_t slot, uint64_t state)
{
	return (uint64_t)slot << 32 | (state >> 8 & 0xffffffff);
}

uint32_t members_slots_high(const struct ledger *ledger);
/* Claim a slot: locks its byte on @fd (fresh description). -EUSERS, -ENOMEM (its page is over the limit), -errno. The
 * state is CLAIMED then. */
int members_claim(struct ledger *ledger, int fd, uint32_t *slot_out);
void members_publish(struct ledger *ledger, uint32_t slot); /* CLAIMED to LIVE */
void members_introduce(struct ledger *ledger);		    /* pid, uid and command of this process */
uint64_t members_held_by_family(const struct ledger *ledger, uint64_t family, uint32_t except);
/* Is a living child of this process's slot forked in @epoch or later? */
bool members_pin(struct ledger *ledger, uint32_t epoch);
/* This process's family, made on @fd if there is none. 0: could not. */
uint64_t members_family(struct ledger *ledger, int fd);
uint32_t members_family_slot(const struct ledger *ledger, uint64_t family); /* LEDGER_SLOT_NONE: no more */
/* Cut the family's share down to what living members hold. */
void members_trim(struct ledger *ledger, uint64_t family);
uint64_t members_collect(struct ledger *ledger, bool all);
uint64_t members_collect_self(struct ledger *ledger); /* this attachment's own slot, alive, is given back */
/* Give a claimed or published slot of which no mapping is left back, or leave it for the next collector. */
void members_abandon(struct ledger *ledger, uint32_t slot);

/* ---- ledger.c ---- */

/* The file's descriptor, valid now, the ledger's; reopened through the keeper if the program closed it. -errno. Lock
 * held. */
int ledger_descriptor_locked(struct ledger *ledger);
/* Attach a view or a raw child to a slot of its own. Lock held. */
int ledger_attach_locked(struct ledger *ledger, uint64_t holding_pages, uint64_t lineage, uint64_t family);
/* The same on @fd, a description that nobody else has. */
int ledger_attach_on_locked(struct ledger *ledger, int fd, uint64_t holding_pages, uint64_t lineage, uint64_t family);
/* A description of its own for a slot's lock: from our descriptor, else from the keeper. Lock held. */
int ledger_fresh_description(struct ledger *ledger, int *fd_out);
/* A new description from the keeper. */
int ledger_fetch_descriptor(struct ledger *ledger, int *fd_out);
/* One ledger of a nest. */
void ledger_uncommit_here(struct ledger *ledger, uint64_t pages, uint32_t epoch);
void ledger_use_mapping(struct ledger *ledger, struct ledger_shared *shared);
/* Map @fd, which holds the slot's lock, and let the mapping keep it. */
int ledger_map(int fd, bool writable, struct ledger_shared **shared_out);

/* ---- create.c ---- */

/*
 * For a child without a slot, whose ledger's descriptor is lost (or cannot be opened again by another user) and never
 * had a keeper to ask for another: a ledger of its own, as an exec'd program gets. 0; -EBADF: there is or was a
 * keeper; -errno. Lock held.
 */
int ledger_secede_locked(struct ledger *ledger);

#endif
