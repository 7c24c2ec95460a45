/*
 * Who is in the ledger: claiming slots, who is alive, families, and collecting the dead.
 *
 * A slot's state goes FREE -> CLAIMED -> LIVE -> (FREE or DEAD), always by compare-and-swap with a rising generation.
 * Its claimer holds the lock on the slot's byte before it swaps the state, so LIVE or CLAIMED with a free byte means
 * that every address space which had a part in it is gone. Collecting is idempotent, step by step, and may be done by
 * any number of processes at once, any of which may die at it:
 *  1. the entry is emptied (word.c; guarded by the state, which a new claim would have changed);
 *  2. the dead one's children get its lineage (each by a swap from exactly this slot and generation);
 *  3. the state is swapped to FREE, or to DEAD for the keeper to read what it was refused.
 * A family slot has no process of its own: it is alive while a member is, or while its byte is locked (set-up, first
 * child).
 */
#include "ledger/internal.h"

#include "base/assert.h"

#include <errno.h>
#include <string.h>

/* A collector that is not asked for all stops after so many who left something, to keep an allocation's worst case
 * short. */
enum { COLLECT_FEW = 16 };

/* Header, the page of the first slots, and one page ahead of what is in use, so that a page is charged before it is
 * first touched. */
static uint64_t own_pages_for(uint64_t slots_high)
{
	const uint64_t slots_a_page = OS_PAGE_BYTES / LEDGER_SLOT_BYTES;

	return 1 + (slots_high + slots_a_page - 1) / slots_a_page + 1;
}

uint32_t members_slots_high(const struct ledger *ledger)
{
	const uint64_t high = atomic_load_explicit(&ledger->shared->slots_high, memory_order_acquire);

	return high < LEDGER_SLOTS ? (uint32_t)high : LEDGER_SLOTS;
}

static uint64_t state_of(const struct ledger *ledger, uint32_t slot)
{
	/* Acquire: what the claimer set before it swapped the state is visible. Pairs with members_publish(). */
	return atomic_load_explicit(&ledger->slots[slot].state, memory_order_acquire);
}

static void slot_clear(struct ledger_slot *slot)
{
	_Atomic uint64_t *const words[] = {&slot->lineage, &slot->family, &slot->holding_pages, &slot->pid_uid,
		&slot->command[0], &slot->command[1], &slot->refusals, &slot->last_refused_bytes, &slot->commits,
		&slot->heap_low, &slot->heap_high, &slot->resident_pages, &slot->cow_pages, &slot->unattached_children};

	for (size_t i = 0; i < HF_COUNT_OF(words); i++)
		atomic_store_explicit(words[i], 0, memory_order_relaxed);
}

/* Lock the byte on @fd, then swap the state. 0, or -EAGAIN: not this one. */
static int claim_one(struct ledger *ledger, int fd, uint32_t index, enum ledger_member_kind from)
{
	struct ledger_slot *slot = &ledger->slots[index];
	uint64_t state = state_of(ledger, index);

	if (state_kind(state) != from || os_lock_byte(fd, LEDGER_LOCK_BASE + index) != 0)
		return -EAGAIN;
	if (!atomic_compare_exchange_strong(&slot->state, &state, state_make((state >> 8) + 1, LEDGER_CLAIMED))) {
		/* Somebody had it in between and has died: with our lock on it, it would be alive as long as we are. */
		os_unlock_byte(fd, LEDGER_LOCK_BASE + index);
		return -EAGAIN;
	}
	slot_clear(slot);
	return 0;
}

/* Make sure that slot 0 pays for the pages of [0, slots_high). */
static int pay_for_slots(struct ledger *ledger, uint32_t initiator, uint64_t slots_high)
{
	const uint64_t owed = own_pages_for(slots_high);
	const uint64_t paid = word_entry(ledger, LEDGER_SLOT_OWN);
	struct change change = {.kind = CHANGE_ADD, .initiator = initiator, .a = LEDGER_SLOT_OWN};

	if (paid >= owed)
		return 0;
	change.pages = owed - paid;
	return word_change(ledger, &change);
}

/* The first slot of kind @from that can be had. 0; -EAGAIN: none; -ENOMEM. */
static int claim_any(struct ledger *ledger, int fd, enum ledger_member_kind from, uint32_t *slot_out)
{
	const uint32_t high = members_slots_high(ledger);

	for (uint32_t i = 1; i < high; i++) {
		if (claim_one(ledger, fd, i, from) != 0)
			continue;
		/* Also for a slot that was there before: whoever added it may have been killed before it paid. */
		if (pay_for_slots(ledger, i, high) == 0) {
			*slot_out = i;
			return 0;
		}
		atomic_store(&ledger->slots[i].state, state_make(state_of(ledger, i) >> 8, LEDGER_FREE));
		os_unlock_byte(fd, LEDGER_LOCK_BASE + i);
		return -ENOMEM;
	}
	return -EAGAIN;
}

int members_claim(struct ledger *ledger, int fd, uint32_t *slot_out)
{
	/* A round fails only if another process took what this one added. */
	for (int round = 0; round < LEDGER_SLOTS; round++) {
		uint64_t high = members_slots_high(ledger);
		int error = claim_any(ledger, fd, LEDGER_FREE, slot_out);

		if (error == -EAGAIN && high == LEDGER_SLOTS)
			error = claim_any(ledger, fd, LEDGER_DEAD, slot_out);
		if (error != -EAGAIN)
			return error;
		if (high == LEDGER_SLOTS)
			break;
		(void)atomic_compare_exchange_strong(&ledger->shared->slots_high, &high, high + 1);
	}
	return -EUSERS;
}

void members_publish(struct ledger *ledger, uint32_t slot)
{
	const uint64_t state = atomic_load_explicit(&ledger->slots[slot].state, memory_order_relaxed);

	/* Release: lineage, family and holding are visible to whoever sees LIVE. Pairs with state_of(). */
	atomic_store_explicit(&ledger->slots[slot].state, state_make(state >> 8, LEDGER_LIVE), memory_order_release);
}

void members_introduce(struct ledger *ledger)
{
	struct ledger_slot *slot = &ledger->slots[ledger->slot];
	uint64_t words[2] = {0, 0};
	char command[17] = "";

	if (os_read_small("/proc/self/comm", command, sizeof command) > 0) {
		command[strcspn(command, "\n")] = '\0';
		memcpy(words, command, sizeof words);
	}
	for (int i = 0; i < 2; i++)
		atomic_store_explicit(&slot->command[i], words[i], memory_order_relaxed);
	atomic_store_explicit(
		&slot->pid_uid, (uint64_t)(uint32_t)os_process_id() << 32 | os_user_id(), memory_order_relaxed);
}

/* ---- families ---- */

static bool is_member(const struct ledger_slot *slot, uint64_t family)
{
	const enum ledger_member_kind kind = state_kind(atomic_load_explicit(&slot->state, memory_order_acquire));

	return (kind == LEDGER_LIVE || kind == LEDGER_CLAIMED) &&
	       atomic_load_explicit(&slot->family, memory_order_acquire) == family;
}

uint64_t members_held_by_family(const struct ledger *ledger, uint64_t family, uint32_t except)
{
	const uint32_t high = members_slots_high(ledger);
	uint64_t pages = 0;

	for (uint32_t i = 1; family != 0 && i < high; i++)
		if (i != except && is_member(&ledger->slots[i], family))
			pages += atomic_load_explicit(&ledger->slots[i].holding_pages, memory_order_acquire);
	return pages;
}

static bool family_has_members(const struct ledger *ledger, uint64_t family)
{
	const uint32_t high = members_slots_high(ledger);

	for (uint32_t i = 1; i < high; i++)
		if (is_member(&ledger->slots[i], family))
			return true;
	return false;
}

/* The family's slot, if it still is that generation's; else LEDGER_SLOT_NONE. */
uint32_t members_family_slot(const struct ledger *ledger, uint64_t family)
{
	const uint64_t index = family >> 32;

	if (family == 0 || index >= LEDGER_SLOTS || index == 0)
		return LEDGER_SLOT_NONE;
	const uint64_t state = state_of(ledger, (uint32_t)index);
	if (state_kind(state) != LEDGER_FAMILY || family_make((uint32_t)index, state) != family)
		return LEDGER_SLOT_NONE;
	return (uint32_t)index;
}

uint64_t members_family(struct ledger *ledger, int fd)
{
	struct ledger_slot *own = &ledger->slots[ledger->slot];
	uint64_t family = atomic_load_explicit(&own->family, memory_order_relaxed);
	uint32_t index;

	if (members_family_slot(ledger, family) != LEDGER_SLOT_NONE)
		return family;
	if (members_claim(ledger, fd, &index) != 0)
		return 0;
	const uint64_t state = atomic_load_explicit(&ledger->slots[index].state, memory_order_relaxed);
	family = family_make(index, state);
	/* Release: the family is a family before anybody can be a member. Its byte is locked by @fd until it has one.
	 */
	atomic_store_explicit(&ledger->slots[index].state, state_make(state >> 8, LEDGER_FAMILY), memory_order_release);
	atomic_store_explicit(&own->family, family, memory_order_release);
	return family;
}

void members_trim(struct ledger *ledger, uint64_t family)
{
	const uint32_t index = members_family_slot(ledger, family);
	struct change change = {.kind = CHANGE_TRIM,
		.initiator = ledger->slot,
		.a = ledger->slot,
		.b = index,
		.family = family}; /* the caller is a member: it stays a family */

	if (index != LEDGER_SLOT_NONE && word_entry(ledger, index) != 0)
		(void)word_change(ledger, &change);
}

/* One walk: is there such a child, and in which epochs (before *until_out) were children forked that live? */
static bool pin_walk(const struct ledger *ledger, uint32_t epoch, uint32_t *until_out)
{
	const uint64_t state = state_of(ledger, ledger->slot);
	const uint64_t mine = lineage_make(ledger->slot, state, 0);
	const uint32_t high = members_slots_high(ledger);
	uint32_t until = 0;
	bool pinned = false;

	for (uint32_t i = 1; i < high; i++) {
		const struct ledger_slot *slot = &ledger->slots[i];
		const uint64_t lineage = atomic_load_explicit(&slot->lineage, memory_order_acquire);
		const enum ledger_member_kind kind =
			state_kind(atomic_load_explicit(&slot->state, memory_order_acquire));

		if ((lineage ^ mine) >> 32 != 0 || (kind != LEDGER_LIVE && kind != LEDGER_CLAIMED))
			continue;
		const uint32_t forked = (uint32_t)lineage;

		if (forked >= until)
			until = forked + 1;
		if (forked >= epoch)
			pinned = true;
	}
	*until_out = until;
	return pinned;
}

bool members_pin(struct ledger *ledger, uint32_t epoch)
{
	enum { WALKS_MAX = 8 };
	const _Atomic uint64_t *reparentings = &ledger->shared->reparentings;

	if (epoch >= atomic_load_explicit(&ledger->children_until, memory_order_relaxed))
		return false;
	for (int i = 0; i < WALKS_MAX; i++) {
		const uint64_t before = atomic_load_explicit(reparentings, memory_order_acquire);
		uint32_t until;
		const bool pinned = pin_walk(ledger, epoch, &until);

		/* A grandchild may have become ours behind the walk, and its dead parent's slot free before it. The
		 * walk's acquires pair with the swap that frees a slot, before which the count is raised. */
		if (atomic_load_explicit(reparentings, memory_order_acquire) == before) {
			atomic_store_explicit(&ledger->children_until, until, memory_order_relaxed);
			return pinned;
		}
		if (pinned)
			return true;
	}
	return true; /* everybody is dying: the family keeps the charge until the next trim */
}

/* ---- the dead ---- */

static void reparent(struct ledger *ledger, uint32_t dead, uint64_t state)
{
	const uint64_t from = lineage_make(dead, state, 0);
	const uint64_t to = atomic_load_explicit(&ledger->slots[dead].lineage, memory_order_acquire);
	const uint32_t high = members_slots_high(ledger);

	for (uint32_t i = 1; i < high; i++) {
		_Atomic uint64_t *at = &ledger->slots[i].lineage;
		uint64_t lineage = atomic_load_explicit(at, memory_order_acquire);

		/* What the child holds of the grandparent's was there when the dead one was forked: so its epoch stays
		 * right. */
		if (lineage != 0 && (lineage ^ from) >> 32 == 0)
			(void)atomic_compare_exchange_strong(at, &lineage, to); /* keeps L4 */
	}
	/* Release: in members_pin(), who sees the slot free sees this. */
	atomic_fetch_add_explicit(&ledger->shared->reparentings, 1, memory_order_release);
}

static uint64_t collect_slot(struct ledger *ledger, uint32_t index, uint64_t state)
{
	struct ledger_slot *slot = &ledger->slots[index];
	const uint64_t family = atomic_load_explicit(&slot->family, memory_order_acquire);
	struct change change = {.kind = CHANGE_BEQUEATH,
		.initiator = ledger->slot,
		.a = index,
		.b = members_family_slot(ledger, family),
		.state_a = state,
		.family = family};

	if (word_change(ledger, &change) != 0)
		return 0;
	reparent(ledger, index, state);
	const bool refused = atomic_load_explicit(&slot->refusals, memory_order_relaxed) != 0;
	const bool kept = refused && atomic_load_explicit(&ledger->shared->keeper_pid, memory_order_relaxed) != 0;
	const enum ledger_member_kind kind = kept ? LEDGER_DEAD : LEDGER_FREE;
	uint64_t expected = state;

	if (atomic_compare_exchange_strong(&slot->state, &expected, state_make(state >> 8, kind)))
		atomic_fetch_add_explicit(&ledger->shared->deaths_collected, 1, memory_order_relaxed);
	return change.gone_out;
}

uint64_t members_collect_self(struct ledger *ledger)
{
	return collect_slot(ledger, ledger->slot, state_of(ledger, ledger->slot));
}

void members_abandon(struct ledger *ledger, uint32_t slot)
{
	const uint64_t state = state_of(ledger, slot);

	if (ledger_descriptor_locked(ledger) >= 0 && os_lock_test(ledger->fd, LEDGER_LOCK_BASE + slot) == 0)
		(void)collect_slot(ledger, slot, state);
}

static uint64_t collect_family(struct ledger *ledger, uint32_t index, uint64_t state)
{
	const uint64_t family = family_make(index, state);
	struct change change = {.kind = CHANGE_TRIM,
		.initiator = ledger->slot,
		.a = ledger->slot,
		.b = index,
		.state_b = state, /* another may have freed it, and a process may live there now */
		.family = family};

	if (word_entry(ledger, index) != 0 && word_change(ledger, &change) != 0)
		return 0;
	if (!family_has_members(ledger, family) && os_lock_test(ledger->fd, LEDGER_LOCK_BASE + index) == 0 &&
		word_entry(ledger, index) == 0)
		(void)atomic_compare_exchange_strong(
			&ledger->slots[index].state, &state, state_make(state >> 8, LEDGER_FREE));
	return change.gone_out;
}

uint64_t members_collect(struct ledger *ledger, bool all)
{
	const uint32_t high = members_slots_high(ledger);
	uint64_t pages = 0;
	int collected = 0;

	if (ledger->slot == 0 || ledger_descriptor_locked(ledger) < 0)
		return 0; /* without a descriptor the kernel cannot be asked; the keeper does it */
	for (uint32_t i = 1; i < high && (all || collected < COLLECT_FEW); i++) {
		const uint64_t state = state_of(ledger, i);
		const enum ledger_member_kind kind = state_kind(state);

		if (i == ledger->slot || (kind != LEDGER_LIVE && kind != LEDGER_CLAIMED))
			continue;
		if (os_lock_test(ledger->fd, LEDGER_LOCK_BASE + i) != 0)
			continue;
		const uint64_t freed = collect_slot(ledger, i, state);

		pages += freed;
		collected += freed != 0; /* those who left nothing must not hide one who did */
	}
	for (uint32_t i = 1; i < high; i++) {
		const uint64_t state = state_of(ledger, i);

		if (state_kind(state) == LEDGER_FAMILY)
			pages += collect_family(ledger, i, state);
	}
	return pages;
}
