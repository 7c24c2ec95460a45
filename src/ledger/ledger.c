/*
 * One process's side of the ledger: creating, joining, leaving; commit and uncommit.
 *
 * The lock of an attachment orders the changes of one process, since its slot has one record (L3). It is held for a few
 * hundred nanoseconds, or for a walk over the slots when memory is short; never while waiting for another process.
 */
#include "ledger/internal.h"

#include "base/assert.h"
#include "ledger/environment.h"
#include "probe/probe.h"

#include <errno.h>
#include <string.h>

enum {
	DEPTH_MAX = 4,
	ATTACHMENTS_AT_ONCE = 64, /* handles come from a fixed store: attaching must not need the heap that it is for */
};
/* An unattached child tries again to get a slot, at most so often. */
#define RETRY_NS UINT64_C(10000000)
/* A keeper that did not answer is left alone for so long. */
#define FETCH_AGAIN_NS UINT64_C(10000000000)

static struct ledger store[ATTACHMENTS_AT_ONCE];
static _Atomic uint64_t store_taken;

static struct ledger *handle_take(void)
{
	uint64_t taken = atomic_load_explicit(&store_taken, memory_order_relaxed);

	for (;;) {
		if (taken == UINT64_MAX)
			return NULL;
		const int index = __builtin_ctzll(~taken);

		/* Acquire: pairs with the release in handle_put(). */
		if (!atomic_compare_exchange_weak_explicit(&store_taken, &taken, taken | UINT64_C(1) << index,
			    memory_order_acquire, memory_order_relaxed))
			continue;
		store[index] = (struct ledger){.fd = -1};
		lock_init(&store[index].lock, LOCK_RANK_LEDGER);
		return &store[index];
	}
}

static void handle_put(struct ledger *ledger)
{
	/* Release: the next owner's clearing comes after our last access. */
	atomic_fetch_and_explicit(&store_taken, ~(UINT64_C(1) << (ledger - store)), memory_order_release);
}

/* ---- watermarks ---- */

static uint64_t square_root(uint64_t number)
{
	uint64_t root = 0;

	for (uint64_t bit = UINT64_C(1) << 31; bit != 0; bit >>= 1)
		if ((root | bit) * (root | bit) <= number)
			root |= bit;
	return root;
}

struct ledger_watermarks ledger_watermarks_of(uint64_t limit_pages)
{
	/* The kernel's: min_kB = clamp(isqrt(16 * zone_kB), 128, 262144); gap = max(min / 4, zone / 1000). */
	const uint64_t zone_kb = (limit_pages < LEDGER_NO_LIMIT ? limit_pages : LEDGER_NO_LIMIT) * 4;
	uint64_t min_kb = square_root(16 * zone_kb);

	if (min_kb < 128)
		min_kb = 128;
	if (min_kb > 262144)
		min_kb = 262144;
	uint64_t min_pages = min_kb / 4;
	if (min_pages > limit_pages / 8)
		min_pages = limit_pages / 8; /* ours: a budget of a few pages must not be all floor */
	uint64_t gap = min_pages / 4;
	if (gap < limit_pages / 1000)
		gap = limit_pages / 1000;
	return (struct ledger_watermarks){min_pages, min_pages + gap, min_pages + 2 * gap};
}

struct ledger_watermarks ledger_watermarks_now(const struct ledger *ledger)
{
	const struct ledger_shared *shared = ledger->shared;

	return (struct ledger_watermarks){
		.min_pages = atomic_load_explicit(&shared->min_pages, memory_order_relaxed),
		.low_pages = atomic_load_explicit(&shared->low_pages, memory_order_relaxed),
		.high_pages = atomic_load_explicit(&shared->high_pages, memory_order_relaxed),
	};
}

void ledger_set_limit(struct ledger *ledger, uint64_t limit_pages)
{
	const uint64_t limit = limit_pages < LEDGER_NO_LIMIT ? limit_pages : LEDGER_NO_LIMIT;
	const struct ledger_watermarks marks = ledger_watermarks_of(limit);
	struct ledger_shared *shared = ledger->shared;

	if (!ledger->writable)
		return;
	/* Relaxed: each number is used alone, and a moment's disagreement only shifts a floor by a few pages. */
	atomic_store_explicit(&shared->min_pages, marks.min_pages, memory_order_relaxed);
	atomic_store_explicit(&shared->low_pages, marks.low_pages, memory_order_relaxed);
	atomic_store_explicit(&shared->high_pages, marks.high_pages, memory_order_relaxed);
	atomic_store_explicit(&shared->limit_pages, limit, memory_order_relaxed);
}

/* ---- attaching ---- */

int ledger_map(int fd, bool writable, struct ledger_shared **shared_out)
{
	void *memory;
	const int error = os_map_shared(fd, LEDGER_FILE_BYTES, writable, &memory);

	if (error == 0)
		*shared_out = memory;
	return error;
}

void ledger_use_mapping(struct ledger *ledger, struct ledger_shared *shared)
{
	ledger->shared = shared;
	ledger->slots = (struct ledger_slot *)(void *)((char *)shared + LEDGER_HEADER_BYTES);
}

/* Is it a ledger that we can read without ever faulting? */
static int check_file(int fd, struct os_file_id *id_out, const char **why_out)
{
	const int error = os_fd_identify(fd, id_out);

	if (error != 0) {
		*why_out = "the descriptor is not open";
		return error;
	}
	if (id_out->bytes != LEDGER_FILE_BYTES) {
		*why_out = id_out->bytes < LEDGER_FILE_BYTES ? "it is truncated, or not a ledger"
							     : "it is longer than a ledger";
		return -EPROTO;
	}
	if (!id_out->sealed) {
		*why_out = "it is not sealed against shrinking";
		return -EPROTO;
	}
	return 0;
}

static int check_header(const struct ledger_shared *shared, const char **why_out)
{
	if (shared->magic != LEDGER_MAGIC) {
		*why_out = "its first bytes are not a ledger's";
		return -EPROTO;
	}
	if (shared->version != LEDGER_VERSION) {
		*why_out = "it was made by another version of Holdfast";
		return -EPROTONOSUPPORT;
	}
	if (shared->slot_count != LEDGER_SLOTS || shared->slot_bytes != LEDGER_SLOT_BYTES ||
		shared->header_bytes != LEDGER_HEADER_BYTES) {
		*why_out = "its sizes are not this version's";
		return -EPROTO;
	}
	return 0;
}

/* Is @ledger->fd still open, and still the ledger? */
static bool descriptor_is_good(const struct ledger *ledger)
{
	struct os_file_id id;

	return ledger->fd >= 0 && os_fd_identify(ledger->fd, &id) == 0 && id.device == ledger->device &&
	       id.inode == ledger->inode;
}

int ledger_fetch_descriptor(struct ledger *ledger, int *fd_out)
{
	char socket_name[sizeof ledger->shared->socket_name + 1];
	char cookie[LEDGER_COOKIE_CHARS + 1];
	struct os_file_id id;

	ledger_socket_name(ledger, socket_name);
	ledger_cookie(ledger, cookie);
	if (socket_name[0] == '\0')
		return -ECONNREFUSED;
	/* A keeper that is stopped costs two seconds, with our locks held: not at every fork and every refusal. */
	if (os_clock_ns() < ledger->fetch_after_ns)
		return -ETIMEDOUT;
	int error = ledger_descriptor_via_socket(socket_name, cookie, fd_out);
	if (error == -ETIMEDOUT)
		ledger->fetch_after_ns = os_clock_ns() + FETCH_AGAIN_NS;
	if (error != 0)
		return error;
	error = os_fd_identify(*fd_out, &id);
	if (error == 0 && id.device == ledger->device && id.inode == ledger->inode)
		return 0;
	os_fd_close(*fd_out);
	return -EPROTO;
}

int ledger_descriptor_locked(struct ledger *ledger)
{
	int fd;

	if (descriptor_is_good(ledger))
		return ledger->fd;
	/* The program closed it, or has made something else of its number: then it is not ours to close. */
	ledger->fd = -1;
	if (ledger_fetch_descriptor(ledger, &fd) != 0)
		return -EBADF;
	if (os_fd_duplicate_high(fd, true, &ledger->fd) != 0)
		ledger->fd = -1;
	os_fd_close(fd);
	return ledger->fd >= 0 ? ledger->fd : -EBADF;
}

int ledger_descriptor(struct ledger *ledger)
{
	lock_take(&ledger->lock);
	const int fd = ledger_descriptor_locked(ledger);
	lock_put(&ledger->lock);
	return fd;
}

int ledger_fresh_description(struct ledger *ledger, int *fd_out)
{
	if (ledger_descriptor_locked(ledger) >= 0 && os_fd_reopen(ledger->fd, fd_out) == 0)
		return 0;
	return ledger_fetch_descriptor(ledger, fd_out);
}

/* A slot on @fd, which must be a description of our own. The new mapping, which holds the slot's lock. */
static int claim_and_map(struct ledger *ledger, int fd, uint32_t *slot_out, struct ledger_shared **shared_out)
{
	int error = members_claim(ledger, fd, slot_out);

	if (error == 0)
		error = ledger_map(fd, true, shared_out);
	return error; /* a claimed slot whose lock goes with @fd is collected by the next who comes */
}

int ledger_attach_on_locked(struct ledger *ledger, int fd, uint64_t holding_pages, uint64_t lineage, uint64_t family)
{
	struct ledger_shared *const before = ledger->shared;
	struct ledger_shared *shared;
	uint32_t slot;
	const int error = claim_and_map(ledger, fd, &slot, &shared);

	if (error != 0)
		return error;
	ledger_use_mapping(ledger, shared);
	ledger->slot = slot;
	atomic_store_explicit(&ledger->slots[slot].holding_pages, holding_pages, memory_order_relaxed);
	atomic_store_explicit(&ledger->slots[slot].lineage, lineage, memory_order_relaxed);
	atomic_store_explicit(&ledger->slots[slot].family, family, memory_order_relaxed);
	members_introduce(ledger);
	members_publish(ledger, slot);
	/* What an attachment that has no slot yet was reading through; a raw clone's holds its parent's slot, and
	 * stays. */
	if (!ledger->keeps_first_mapping)
		os_unmap(before, LEDGER_FILE_BYTES);
	ledger->keeps_first_mapping = false;
	return 0;
}

int ledger_attach_locked(struct ledger *ledger, uint64_t holding_pages, uint64_t lineage, uint64_t family)
{
	int fd;
	int error = ledger_fresh_description(ledger, &fd);

	if (error != 0)
		return error;
	error = ledger_attach_on_locked(ledger, fd, holding_pages, lineage, family);
	os_fd_close(fd);
	return error;
}

/*
 * The descriptor that children inherit and dead slots are asked about. It must never be of the description that has our
 * slot's lock (@fd_locks): a child would keep our slot alive by it, and take us for dead through it.
 */
static int keep_descriptor(struct ledger *ledger, int fd, bool fd_locks, const struct os_file_id *id)
{
	int other;

	ledger->device = id->device;
	ledger->inode = id->inode;
	if (!fd_locks)
		return os_fd_duplicate_high(fd, true, &ledger->fd);
	if (os_fd_reopen(fd, &other) != 0)
		return 0; /* another user's: the keeper sends one when it is needed */
	const int error = os_fd_duplicate_high(other, true, &ledger->fd);
	os_fd_close(other);
	return error;
}

static void forget(struct ledger *ledger)
{
	if (ledger->shared != NULL)
		os_unmap(ledger->shared, LEDGER_FILE_BYTES);
	if (descriptor_is_good(ledger))
		os_fd_close(ledger->fd);
	handle_put(ledger);
}

/* Map and check. @fd_locks: @fd will hold the slot's lock. */
static int open_common(int fd, bool writable, bool fd_locks, struct ledger **ledger_out, const char **why_out)
{
	struct ledger *ledger = handle_take();
	struct os_file_id id;
	struct ledger_shared *shared;

	*why_out = "no memory or descriptors to attach it";
	if (ledger == NULL)
		return -EMFILE;
	int error = check_file(fd, &id, why_out);
	if (error != 0)
		goto put_handle;
	error = keep_descriptor(ledger, fd, fd_locks, &id);
	if (error != 0)
		goto put_handle;
	error = ledger_map(fd, writable, &shared);
	if (error != 0)
		goto close_descriptor;
	ledger_use_mapping(ledger, shared);
	ledger->writable = writable;
	error = check_header(shared, why_out);
	if (error != 0)
		goto close_descriptor;
	*ledger_out = ledger;
	return 0;

close_descriptor:
	forget(ledger);
	return error;
put_handle:
	handle_put(ledger);
	return error;
}

int ledger_open_view(int fd, bool writable, struct ledger **ledger_out, const char **why_out)
{
	const int error = open_common(fd, writable, false, ledger_out, why_out);

	if (error == 0)
		(*ledger_out)->is_view = true;
	return error;
}

static int join_on(int fd, int slot_fd, struct ledger **ledger_out, const char **why_out)
{
	struct ledger *ledger;
	int error = open_common(fd, true, fd == slot_fd, &ledger, why_out);

	if (error != 0)
		return error;
	error = ledger_attach_on_locked(ledger, slot_fd, 0, 0, 0);
	if (error != 0) {
		*why_out = error == -EUSERS   ? "all its slots are taken"
			   : error == -ENOMEM ? "its budget has no room for one more process"
					      : "no memory or descriptors to attach it";
		forget(ledger);
		return error;
	}
	*ledger_out = ledger;
	return 0;
}

int ledger_join(int fd, struct ledger **ledger_out, const char **why_out)
{
	struct os_file_id id;
	int slot_fd;
	int error = check_file(fd, &id, why_out);

	if (error != 0)
		return error;
	error = os_fd_reopen(fd, &slot_fd);
	if (error != 0) {
		*why_out = "it cannot be opened again (changed user? no /proc?)";
		return error;
	}
	error = join_on(fd, slot_fd, ledger_out, why_out);
	os_fd_close(slot_fd);
	return error;
}

int ledger_join_fresh(int fd, struct ledger **ledger_out, const char **why_out)
{
	return join_on(fd, fd, ledger_out, why_out);
}

int ledger_nest(struct ledger *inner, struct ledger *outer)
{
	int depth = 1;

	for (const struct ledger *at = outer; at != NULL; at = at->outer)
		depth++;
	for (const struct ledger *at = inner; at->outer != NULL; at = at->outer)
		depth++;
	if (depth > DEPTH_MAX)
		return -ELOOP;
	while (inner->outer != NULL)
		inner = inner->outer;
	inner->outer = outer;
	return 0;
}

void ledger_leave(struct ledger *ledger)
{
	struct ledger *const outer = ledger->outer;

	if (!ledger->is_view && ledger->slot != 0) {
		lock_take(&ledger->lock);
		(void)members_collect_self(ledger);
		lock_put(&ledger->lock);
	}
	forget(ledger);
	if (outer != NULL)
		ledger_leave(outer);
}

/* ---- commit and uncommit ---- */

/* A child that could not get a slot at the fork tries again. Lock held. True: it has one. */
static bool attached_locked(struct ledger *ledger)
{
	if (HF_LIKELY(ledger->slot != 0))
		return true;
	const uint64_t now_ns = os_clock_ns();
	if (ledger->is_view || now_ns < ledger->retry_ns)
		return false;
	ledger->retry_ns = now_ns + RETRY_NS;
	const int error =
		ledger_attach_locked(ledger, ledger->orphan_holding, ledger->orphan_lineage, ledger->orphan_family);
	struct ledger_shared *const before = ledger->shared; /* stays mapped where another takes its place */
	if (error == -ECONNREFUSED && ledger_secede_locked(ledger) != 0)
		return false;
	if (error != 0 && error != -ECONNREFUSED)
		return false;
	atomic_fetch_sub_explicit(
		error == 0 ? &ledger->shared->unattached : &before->unattached, 1, memory_order_relaxed);
	return true;
}

static int commit_here(struct ledger *ledger, uint64_t pages, uint64_t floor_pages)
{
	enum { COLLECT_ROUNDS = 300 }; /* more than it takes to free all slots, a few at a time */

	lock_take(&ledger->lock);
	int error = -ENOMEM;
	if (attached_locked(ledger)) {
		struct change change = {.kind = CHANGE_ADD,
			.initiator = ledger->slot,
			.a = ledger->slot,
			.pages = pages,
			.floor_pages = floor_pages};

		error = word_change(ledger, &change);
		/* Each round frees some slots; only a damaged ledger gives pages back without end. */
		for (int round = 0; error == -ENOMEM && round < COLLECT_ROUNDS && members_collect(ledger, false) != 0;
			round++)
			error = word_change(ledger, &change);
		if (error == 0)
			atomic_fetch_add_explicit(&ledger->slots[ledger->slot].commits, 1, memory_order_relaxed);
	}
	lock_put(&ledger->lock);
	return error == 0 ? 0 : -ENOMEM;
}

int ledger_commit(struct ledger *ledger, uint64_t pages, uint64_t floor_pages)
{
	if (pages == 0)
		return 0;
	if (pages > LEDGER_NO_LIMIT || floor_pages > LEDGER_NO_LIMIT || probe_should_deny_commit(pages))
		return -ENOMEM;
	int error = commit_here(ledger, pages, floor_pages);
	if (error == 0 && ledger->outer != NULL) {
		error = ledger_commit(ledger->outer, pages, floor_pages);
		if (error != 0)
			ledger_uncommit_here(ledger, pages, ledger_epoch(ledger));
	}
	return error;
}

static void drop_inherited(struct ledger *ledger, uint64_t pages)
{
	struct ledger_slot *slot = &ledger->slots[ledger->slot];
	const uint64_t held = atomic_load_explicit(&slot->holding_pages, memory_order_relaxed);
	const uint64_t family = atomic_load_explicit(&slot->family, memory_order_relaxed);

	/* Release: whoever trims by the smaller number does it after the kernel has the pages. Pairs with
	 * members_held_by_family(). */
	atomic_store_explicit(&slot->holding_pages, held > pages ? held - pages : 0, memory_order_release);
	members_trim(ledger, family);
}

void ledger_uncommit_here(struct ledger *ledger, uint64_t pages, uint32_t epoch)
{
	lock_take(&ledger->lock);
	if (HF_UNLIKELY(ledger->slot == 0)) {
		/* What it inherited stays its parent's; it could commit nothing itself. */
		ledger->orphan_holding -= pages < ledger->orphan_holding ? pages : ledger->orphan_holding;
	} else if (epoch < ledger->birth_epoch) {
		drop_inherited(ledger, pages);
	} else {
		struct change change = {
			.kind = CHANGE_SUBTRACT, .initiator = ledger->slot, .a = ledger->slot, .pages = pages};

		if (members_pin(ledger, epoch)) {
			const uint64_t family =
				atomic_load_explicit(&ledger->slots[ledger->slot].family, memory_order_relaxed);

			change.b = members_family_slot(ledger, family);
			if (change.b != LEDGER_SLOT_NONE)
				change.kind = CHANGE_MOVE;
		}
		(void)word_change(ledger, &change);
		if (change.kind == CHANGE_MOVE)
			members_trim(ledger,
				atomic_load_explicit(&ledger->slots[ledger->slot].family, memory_order_relaxed));
	}
	lock_put(&ledger->lock);
}

void ledger_uncommit(struct ledger *ledger, uint64_t pages, uint32_t epoch)
{
	if (pages == 0)
		return;
	for (; ledger != NULL; ledger = ledger->outer)
		ledger_uncommit_here(ledger, pages, epoch);
}

uint32_t ledger_epoch(const struct ledger *ledger)
{
	return atomic_load_explicit(&ledger->epoch, memory_order_relaxed);
}

bool ledger_epoch_is_open(struct ledger *ledger, uint32_t epoch)
{
	bool open = true;

	for (; ledger != NULL && open; ledger = ledger->outer) {
		if (epoch == ledger_epoch(ledger))
			continue;
		lock_take(&ledger->lock);
		open = epoch >= ledger->birth_epoch && !members_pin(ledger, epoch);
		lock_put(&ledger->lock);
	}
	return open;
}

uint64_t ledger_collect_dead(struct ledger *ledger, bool all)
{
	uint64_t pages = 0;

	for (; ledger != NULL; ledger = ledger->outer) {
		lock_take(&ledger->lock);
		pages += members_collect(ledger, all);
		lock_put(&ledger->lock);
	}
	return pages;
}

void ledger_note_refusal(struct ledger *ledger, uint64_t bytes)
{
	for (; ledger != NULL; ledger = ledger->outer) {
		if (!ledger->writable)
			continue;
		atomic_fetch_add_explicit(&ledger->shared->refusals, 1, memory_order_relaxed);
		if (ledger->slot == 0)
			continue;
		atomic_fetch_add_explicit(&ledger->slots[ledger->slot].refusals, 1, memory_order_relaxed);
		atomic_store_explicit(&ledger->slots[ledger->slot].last_refused_bytes, bytes, memory_order_relaxed);
	}
}
