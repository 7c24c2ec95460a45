/*
 * The ledger's word: how a number and its parts change together, whatever instruction a SIGKILL hits.
 *
 * Read the word; complete the change that it names; write the wanted change into our own record; swap the word;
 * complete our own. Everything that a change is computed from (entries, holdings, the limit) is read after the word,
 * and the swap fails if any change came in between: so entries are as they were when the swap succeeds. What is not
 * guarded by the word (holdings, the limit, who is alive) only makes the result more careful, or takes effect with the
 * next change.
 *
 * A record is a seqlock with one writer: sequence 0 while it is written. Readers who find another sequence than the
 * word's know that the change is complete, since its initiator completes it before it writes the next (keeps L3).
 *
 * Why 48 bits of sequence are enough: at 10^7 changes a second they come round after 325 days; a process would have to
 * sleep between its read and its swap for an exact multiple of that.
 */
#include "ledger/internal.h"

#include "base/assert.h"

#include <errno.h>

/*
 * A swap fails only if another process succeeded, so an honest crowd of 4,096 gets through long before this. A family's
 * members are counted between read and swap, which takes a hundred times as long: those changes can wait for the next
 * collector, rather than hold this process up for seconds.
 */
enum { ATTEMPTS_MAX = 1 << 20, FAMILY_ATTEMPTS_MAX = 1 << 12, ENTRY_ATTEMPTS_MAX = 1 << 12 };

struct planned {
	uint32_t slot[2];
	uint64_t value[2];
	uint64_t committed;
};

static void entry_swing(union pair_atomic *entry, uint64_t value, uint64_t sequence)
{
	struct pair old = pair_read(entry);

	for (int i = 0; i < ENTRY_ATTEMPTS_MAX; i++) {
		if (old.high >= sequence)
			return; /* somebody completed it for us */
		if (pair_cas(entry, &old, (struct pair){.low = value, .high = sequence}))
			return;
	}
}

/* Reads a record that is about @sequence. False: it is not, so that change is complete. */
static bool record_read(const struct ledger_record *record, uint64_t sequence, struct planned *planned_out)
{
	/* Acquire: pairs with the last release in record_write(); the values below are this sequence's. */
	if (atomic_load_explicit(&record->sequence, memory_order_acquire) != sequence)
		return false;
	for (int i = 0; i < 2; i++) {
		/* Acquire: keeps the second look at the sequence behind these. */
		planned_out->slot[i] = (uint32_t)atomic_load_explicit(&record->slot[i], memory_order_acquire);
		planned_out->value[i] = atomic_load_explicit(&record->value[i], memory_order_acquire);
	}
	return atomic_load_explicit(&record->sequence, memory_order_relaxed) == sequence;
}

static void record_write(struct ledger_record *record, uint64_t sequence, const struct planned *planned)
{
	atomic_store_explicit(&record->sequence, 0, memory_order_relaxed);
	for (int i = 0; i < 2; i++) {
		/* Release: nobody sees these beside the old sequence. */
		atomic_store_explicit(&record->slot[i], planned->slot[i], memory_order_release);
		atomic_store_explicit(&record->value[i], planned->value[i], memory_order_release);
	}
	/* Release: pairs with the acquire in record_read(). */
	atomic_store_explicit(&record->sequence, sequence, memory_order_release);
}

static bool word_pending(const struct ledger *ledger, struct pair word, struct planned *planned_out)
{
	const uint64_t sequence = word.high & WORD_SEQUENCE_MASK;
	const uint64_t initiator = word.high >> WORD_SLOT_SHIFT;

	if (sequence == 0 || initiator >= LEDGER_SLOTS)
		return false;
	return record_read(&ledger->slots[initiator].record, sequence, planned_out);
}

static bool target_is_real(const struct planned *planned, int i)
{
	return planned->slot[i] < LEDGER_SLOTS && !(i == 1 && planned->slot[i] == LEDGER_SLOT_NONE);
}

static void word_complete(struct ledger *ledger, struct pair word)
{
	struct planned planned;

	if (!word_pending(ledger, word, &planned))
		return;
	for (int i = 0; i < 2; i++)
		if (target_is_real(&planned, i))
			entry_swing(&ledger->slots[planned.slot[i]].entry, planned.value[i],
				word.high & WORD_SEQUENCE_MASK);
}

uint64_t word_entry(const struct ledger *ledger, uint32_t slot)
{
	const struct pair word = pair_read(&ledger->shared->word);
	const struct pair entry = pair_read(&ledger->slots[slot].entry);
	struct planned planned;

	if (entry.high < (word.high & WORD_SEQUENCE_MASK) && word_pending(ledger, word, &planned))
		for (int i = 0; i < 2; i++)
			if (target_is_real(&planned, i) && planned.slot[i] == slot)
				return planned.value[i];
	return entry.low;
}

static uint64_t entry_pages(const struct ledger *ledger, uint32_t slot)
{
	return slot < LEDGER_SLOTS ? pair_read(&ledger->slots[slot].entry).low : 0;
}

static uint64_t less(uint64_t from, uint64_t pages)
{
	return from > pages ? from - pages : 0; /* never below nothing, whatever the file says */
}

static uint64_t least(uint64_t one, uint64_t other)
{
	return one < other ? one : other;
}

/* What @change means, if the word is @word. 0, 1: nothing to do, -ENOMEM. */
static int plan(struct ledger *ledger, struct change *change, struct pair word, struct planned *planned)
{
	const uint64_t a = entry_pages(ledger, change->a);
	const uint64_t b = change->b == LEDGER_SLOT_NONE ? 0 : entry_pages(ledger, change->b);
	const uint64_t limit = atomic_load_explicit(&ledger->shared->limit_pages, memory_order_relaxed);

	*planned = (struct planned){.slot = {change->a, change->b}, .value = {a, b}, .committed = word.low};
	change->gone_out = 0;
	switch (change->kind) {
	case CHANGE_ADD: /* keeps L1 */
		if (word.low > limit || change->floor_pages > limit - word.low ||
			change->pages > limit - word.low - change->floor_pages)
			return -ENOMEM;
		planned->value[0] = a + change->pages;
		planned->committed = word.low + change->pages;
		return 0;
	case CHANGE_SUBTRACT:
		change->gone_out = least(a, change->pages);
		planned->value[0] = a - change->gone_out;
		break;
	case CHANGE_MOVE:
		planned->value[0] = less(a, change->pages);
		planned->value[1] = b + (a - planned->value[0]);
		return a == planned->value[0];
	case CHANGE_BEQUEATH: /* keeps L5 */
		planned->value[0] = 0;
		if (change->b != LEDGER_SLOT_NONE)
			planned->value[1] = least(a + b, members_held_by_family(ledger, change->family, change->a));
		change->gone_out = a + b - planned->value[1];
		/* With a family the word changes even if no page moves: who was just adding up what members hold
		 * must do so again, since this one will not be counted any more. */
		if (a == 0 && change->gone_out == 0 && change->b == LEDGER_SLOT_NONE)
			return 1;
		break;
	case CHANGE_TRIM: /* keeps L5 */
		planned->value[1] = least(b, members_held_by_family(ledger, change->family, LEDGER_SLOT_NONE));
		change->gone_out = b - planned->value[1];
		break;
	}
	planned->committed = less(word.low, change->gone_out);
	return change->gone_out == 0 && change->kind != CHANGE_BEQUEATH;
}

static void note_peak(struct ledger_shared *shared, uint64_t committed)
{
	uint64_t peak = atomic_load_explicit(&shared->peak_pages, memory_order_relaxed);

	while (committed > peak && !atomic_compare_exchange_weak_explicit(&shared->peak_pages, &peak, committed,
					   memory_order_relaxed, memory_order_relaxed))
		;
}

static bool state_is(const struct ledger *ledger, uint32_t slot, uint64_t wanted)
{
	return wanted == 0 || atomic_load_explicit(&ledger->slots[slot].state, memory_order_acquire) == wanted;
}

int word_change(struct ledger *ledger, struct change *change)
{
	struct ledger_record *record = &ledger->slots[change->initiator].record;

	const int attempts = change->family != 0 ? FAMILY_ATTEMPTS_MAX : ATTEMPTS_MAX;

	for (int i = 0; i < attempts; i++) {
		struct pair word = pair_read(&ledger->shared->word);
		struct planned planned;

		word_complete(ledger, word);
		/* After the word: if the slot is collected and claimed again from here on, the word changes, or there
		 * was nothing in it. */
		if (!state_is(ledger, change->a, change->state_a) || !state_is(ledger, change->b, change->state_b))
			return -ESTALE;
		const int verdict = plan(ledger, change, word, &planned);
		if (verdict == -ENOMEM) {
			const struct pair again = pair_read(&ledger->shared->word);

			if (again.low == word.low && again.high == word.high)
				return -ENOMEM; /* not a torn or stale look */
			continue;
		}
		if (verdict == 1)
			return 0;
		const uint64_t sequence = (word.high + 1) & WORD_SEQUENCE_MASK;
		const struct pair next = {
			.low = planned.committed, .high = (uint64_t)change->initiator << WORD_SLOT_SHIFT | sequence};

		record_write(record, sequence, &planned);
		if (!pair_cas(&ledger->shared->word, &word, next))
			continue;
		word_complete(ledger, next);
		if (change->kind == CHANGE_ADD)
			note_peak(ledger->shared, planned.committed);
		return 0;
	}
	base_warn("the ledger changes without end: damaged by another process? (slot %u)", change->initiator);
	return -EIO;
}
