/*
 * Looking at a ledger, and the words that the keeper writes into it. Nothing here takes part in the protocol;
 * every number may be a moment old, and every text is cut to its field.
 */
#include "ledger/internal.h"

#include <stdio.h>
#include <string.h>

static uint64_t read_word(const _Atomic uint64_t *at)
{
	return atomic_load_explicit(at, memory_order_relaxed);
}

/* Shared text lives in atomic words, so that a reader beside a writer gets a mixture at worst. */
static void text_read(const _Atomic uint64_t *words, size_t count, char *text_out)
{
	for (size_t i = 0; i < count; i++) {
		const uint64_t word = read_word(&words[i]);

		memcpy(text_out + 8 * i, &word, sizeof word);
	}
	text_out[8 * count] = '\0';
	for (char *at = text_out; *at != '\0'; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?'; /* somebody else wrote it: no escape sequences for our terminal */
}

static void text_write(_Atomic uint64_t *words, size_t count, const char *text)
{
	const size_t length = strnlen(text, 8 * count);

	for (size_t i = 0; i < count; i++) {
		uint64_t word = 0;

		if (8 * i < length)
			memcpy(&word, text + 8 * i, length - 8 * i < 8 ? length - 8 * i : 8);
		atomic_store_explicit(&words[i], word, memory_order_relaxed);
	}
}

void ledger_look(const struct ledger *ledger, struct ledger_view *view_out)
{
	const struct ledger_shared *shared = ledger->shared;
	const uint32_t high = members_slots_high(ledger);

	*view_out = (struct ledger_view){
		.limit_pages = read_word(&shared->limit_pages),
		.committed_pages = pair_read(&shared->word).low,
		.peak_pages = read_word(&shared->peak_pages),
		.own_pages = word_entry(ledger, LEDGER_SLOT_OWN),
		.outside_pages = read_word(&shared->outside_pages),
		.margin_pages = read_word(&shared->margin_pages),
		.overdraft_pages = read_word(&shared->overdraft_pages),
		.refusals = read_word(&shared->refusals),
		.deaths_collected = read_word(&shared->deaths_collected),
		.at_limit_ms = read_word(&shared->at_limit_ms),
		.unattached = read_word(&shared->unattached),
		.identity = shared->identity,
		.limit_checked_ns = read_word(&shared->limit_checked_ns),
		.slots_high = high,
		.keeper_pid = (pid_t)(read_word(&shared->keeper_pid) & 0x7fffffff),
		.automatic = read_word(&shared->automatic) != 0,
	};
	memcpy(view_out->name, shared->name, sizeof view_out->name - 1);
	for (char *at = view_out->name; *at != '\0'; at++)
		if ((unsigned char)*at <= ' ' || *at == 0x7f)
			*at = '?';
	text_read(shared->limit_source, HF_COUNT_OF(shared->limit_source), view_out->limit_source);
	view_out->keeper_alive = view_out->keeper_pid != 0 && os_process_exists(view_out->keeper_pid);
	for (uint32_t i = 1; i < high; i++)
		if (state_kind(read_word(&ledger->slots[i].state)) == LEDGER_LIVE)
			view_out->members++;
}

bool ledger_look_member(const struct ledger *ledger, uint32_t index, struct ledger_member *member_out)
{
	if (index >= members_slots_high(ledger))
		return false;
	const struct ledger_slot *slot = &ledger->slots[index];
	const enum ledger_member_kind kind = state_kind(read_word(&slot->state));
	const uint64_t pid_uid = read_word(&slot->pid_uid);

	if (kind == LEDGER_FREE || kind > LEDGER_OWN)
		return false;
	*member_out = (struct ledger_member){
		.kind = kind,
		.pid = (pid_t)(pid_uid >> 32 & 0x7fffffff),
		.uid = (uid_t)pid_uid,
		.committed_pages = word_entry(ledger, index),
		.inherited_pages = read_word(&slot->holding_pages),
		.resident_pages = read_word(&slot->resident_pages),
		.cow_pages = read_word(&slot->cow_pages),
		.refusals = read_word(&slot->refusals),
		.last_refused_bytes = read_word(&slot->last_refused_bytes),
		.commits = read_word(&slot->commits),
		.heap_low = read_word(&slot->heap_low),
		.heap_high = read_word(&slot->heap_high),
		.unattached_children = read_word(&slot->unattached_children),
	};
	member_out->is_keeper =
		member_out->pid != 0 && (uint64_t)member_out->pid == read_word(&ledger->shared->keeper_pid);
	text_read(slot->command, HF_COUNT_OF(slot->command), member_out->command);
	return true;
}

int64_t ledger_check_books(const struct ledger *ledger)
{
	enum { ATTEMPTS = 10000 };
	int64_t difference = 0;

	for (int i = 0; i < ATTEMPTS; i++) {
		const struct pair before = pair_read(&ledger->shared->word);
		const uint32_t high = members_slots_high(ledger);
		uint64_t sum = 0;

		for (uint32_t slot = 0; slot < high; slot++)
			sum += word_entry(ledger, slot);
		const struct pair after = pair_read(&ledger->shared->word);
		difference = (int64_t)(before.low - sum);
		if (before.low == after.low && before.high == after.high)
			return difference;
	}
	return difference; /* never still: the caller's question makes no sense while others commit */
}

uint64_t ledger_committed_here(const struct ledger *ledger)
{
	return ledger->slot == 0 ? 0 : word_entry(ledger, ledger->slot);
}

struct ledger *ledger_outer(const struct ledger *ledger)
{
	return ledger->outer;
}

void ledger_cookie(const struct ledger *ledger, char cookie_out[33])
{
	for (size_t i = 0; i < sizeof ledger->shared->cookie; i++)
		(void)snprintf(cookie_out + 2 * i, 3, "%02x", ledger->shared->cookie[i]);
}

/* ---- what is published ---- */

static struct ledger_slot *own_slot(const struct ledger *ledger)
{
	return ledger->slot == 0 ? NULL : &ledger->slots[ledger->slot];
}

void ledger_publish_heap(struct ledger *ledger, uintptr_t low, uintptr_t high)
{
	for (; ledger != NULL; ledger = ledger->outer) {
		struct ledger_slot *slot = own_slot(ledger);

		if (slot == NULL)
			continue;
		atomic_store_explicit(&slot->heap_low, low, memory_order_relaxed);
		atomic_store_explicit(&slot->heap_high, high, memory_order_relaxed);
	}
}

void ledger_publish_resident(struct ledger *ledger, uint64_t resident_pages)
{
	for (; ledger != NULL; ledger = ledger->outer)
		if (own_slot(ledger) != NULL)
			atomic_store_explicit(&own_slot(ledger)->resident_pages, resident_pages, memory_order_relaxed);
}

void ledger_publish_member(struct ledger *ledger, uint32_t index, uint64_t resident_pages, uint64_t cow_pages)
{
	if (index == 0 || index >= members_slots_high(ledger))
		return;
	atomic_store_explicit(&ledger->slots[index].resident_pages, resident_pages, memory_order_relaxed);
	atomic_store_explicit(&ledger->slots[index].cow_pages, cow_pages, memory_order_relaxed);
}

void ledger_set_keeper(struct ledger *ledger, pid_t pid, const char *socket_name)
{
	struct ledger_shared *shared = ledger->shared;

	text_write(shared->socket_name, HF_COUNT_OF(shared->socket_name), socket_name == NULL ? "" : socket_name);
	atomic_store_explicit(&shared->keeper_pid, (uint64_t)pid, memory_order_release);
}

void ledger_socket_name(const struct ledger *ledger, char name_out[65])
{
	text_read(ledger->shared->socket_name, HF_COUNT_OF(ledger->shared->socket_name), name_out);
}

void ledger_publish_outside(struct ledger *ledger, uint64_t outside_pages, uint64_t margin_pages, const char *source)
{
	struct ledger_shared *shared = ledger->shared;

	atomic_store_explicit(&shared->outside_pages, outside_pages, memory_order_relaxed);
	atomic_store_explicit(&shared->margin_pages, margin_pages, memory_order_relaxed);
	text_write(shared->limit_source, HF_COUNT_OF(shared->limit_source), source);
}

bool ledger_take_turn_to_check(struct ledger *ledger, uint64_t now_ns, uint64_t older_than_ns)
{
	uint64_t checked = read_word(&ledger->shared->limit_checked_ns);

	/* A time in the future is somebody's nonsense: it must not keep us from checking. */
	if (checked <= now_ns && now_ns - checked < older_than_ns)
		return false;
	return atomic_compare_exchange_strong(&ledger->shared->limit_checked_ns, &checked, now_ns);
}

void ledger_add_at_limit(struct ledger *ledger, uint64_t ms)
{
	atomic_fetch_add_explicit(&ledger->shared->at_limit_ms, ms, memory_order_relaxed);
}

void ledger_forget_dead(struct ledger *ledger, uint32_t index)
{
	if (index == 0 || index >= members_slots_high(ledger))
		return;
	uint64_t state = read_word(&ledger->slots[index].state);
	if (state_kind(state) == LEDGER_DEAD)
		(void)atomic_compare_exchange_strong(
			&ledger->slots[index].state, &state, state_make(state >> 8, LEDGER_FREE));
}
