/*
 * The ledger across fork: the child's slot exists before the child does.
 *
 * prepare maps the ledger a second time, through a new description that holds the lock of the child's slot. fork copies
 * both mappings. The parent then drops the second, the child the first: so the child's slot is alive exactly while the
 * child's memory (or that of its own raw clones) is, and the parent's slot only by the parent. A child that gets no
 * slot keeps the first mapping: the parent's slot, and all that is charged there, then outlives the parent until that
 * child is gone too.
 */
#include "ledger/internal.h"

#include "base/assert.h"

#include <errno.h>

static uint64_t state_now(const struct ledger *ledger)
{
	return atomic_load_explicit(&ledger->slots[ledger->slot].state, memory_order_relaxed);
}

/* 0: the child has a slot. */
static int prepare_slot(struct ledger *ledger, uint64_t held_pages)
{
	int fd;
	int error = ledger_fresh_description(ledger, &fd);

	if (error != 0)
		return error;
	const uint64_t family = members_family(ledger, fd);
	if (family == 0) {
		error = -EUSERS;
		goto close_fd;
	}
	error = members_claim(ledger, fd, &ledger->child_slot);
	if (error != 0)
		goto close_fd;
	struct ledger_slot *child = &ledger->slots[ledger->child_slot];

	atomic_store_explicit(&child->holding_pages, held_pages, memory_order_relaxed);
	atomic_store_explicit(&child->lineage,
		lineage_make(ledger->slot, state_now(ledger), atomic_load(&ledger->epoch)), memory_order_relaxed);
	/* Release: who counts this member's holding sees it. Pairs with is_member(). */
	atomic_store_explicit(&child->family, family, memory_order_release);
	error = ledger_map(fd, true, &ledger->child_shared);
	if (error == 0)
		members_publish(ledger, ledger->child_slot);
close_fd:
	os_fd_close(fd);
	return error;
}

static void prepare_one(struct ledger *ledger, uint64_t held_pages)
{
	const uint32_t epoch = atomic_load_explicit(&ledger->epoch, memory_order_relaxed);

	lock_take(&ledger->lock);
	ledger->child_shared = NULL;
	ledger->orphan_holding = held_pages;
	if (ledger->slot != 0) {
		ledger->orphan_lineage = lineage_make(ledger->slot, state_now(ledger), epoch);
		if (prepare_slot(ledger, held_pages) != 0) {
			ledger->child_shared = NULL;
			atomic_fetch_add_explicit(
				&ledger->slots[ledger->slot].unattached_children, 1, memory_order_relaxed);
			atomic_fetch_add_explicit(&ledger->shared->unattached, 1, memory_order_relaxed);
		}
		ledger->orphan_family = atomic_load_explicit(&ledger->slots[ledger->slot].family, memory_order_relaxed);
	}
	atomic_store_explicit(&ledger->children_until, epoch + 1, memory_order_relaxed);
	atomic_store_explicit(&ledger->epoch, epoch + 1, memory_order_relaxed);
	lock_put(&ledger->lock);
}

void ledger_fork_prepare(struct ledger *ledger, uint64_t held_pages)
{
	for (; ledger != NULL; ledger = ledger->outer)
		if (!ledger->is_view)
			prepare_one(ledger, held_pages);
}

void ledger_fork_parent(struct ledger *ledger, pid_t child_or_error)
{
	for (; ledger != NULL; ledger = ledger->outer) {
		if (ledger->child_shared == NULL)
			continue;
		lock_take(&ledger->lock);
		os_unmap(ledger->child_shared, LEDGER_FILE_BYTES);
		ledger->child_shared = NULL;
		if (child_or_error < 0)
			members_abandon(ledger, ledger->child_slot);
		lock_put(&ledger->lock);
	}
}

static void child_one(struct ledger *ledger)
{
	lock_reset_after_fork(&ledger->lock);
	ledger->birth_epoch = atomic_load_explicit(&ledger->epoch, memory_order_relaxed);
	atomic_store_explicit(&ledger->children_until, 0, memory_order_relaxed);
	if (ledger->child_shared == NULL) {
		ledger->slot = 0; /* unattached: the parent's mapping stays */
		ledger->retry_ns = 0;
		/* Without a family there is nobody to whom the parent's slot could leave what this child holds: then
		 * that slot must last as long as the child, also when it has got its own. */
		ledger->keeps_first_mapping = ledger->orphan_family == 0;
		return;
	}
	os_unmap(ledger->shared, LEDGER_FILE_BYTES);
	ledger_use_mapping(ledger, ledger->child_shared);
	ledger->child_shared = NULL;
	ledger->slot = ledger->child_slot;
	members_introduce(ledger);
}

void ledger_fork_child(struct ledger *ledger)
{
	for (; ledger != NULL; ledger = ledger->outer)
		if (!ledger->is_view)
			child_one(ledger);
}

int ledger_raw_clone_child(struct ledger *ledger, uint64_t held_pages)
{
	int error = 0;

	for (; ledger != NULL; ledger = ledger->outer) {
		const uint32_t epoch = atomic_load_explicit(&ledger->epoch, memory_order_relaxed) + 1;

		if (ledger->is_view)
			continue;
		lock_reset_after_fork(&ledger->lock);
		/* The parent knows nothing of us: our hold on its slot (the first mapping, never unmapped) is what
		 * keeps the pages charged. */
		ledger->slot = 0;
		ledger->birth_epoch = epoch;
		ledger->orphan_holding = held_pages;
		ledger->orphan_lineage = 0;
		ledger->orphan_family = 0;
		ledger->keeps_first_mapping = true;
		atomic_store_explicit(&ledger->epoch, epoch, memory_order_relaxed);
		atomic_store_explicit(&ledger->children_until, 0, memory_order_relaxed);
		lock_take(&ledger->lock);
		const int here = ledger_attach_locked(ledger, 0, 0, 0);
		lock_put(&ledger->lock);
		if (here != 0)
			atomic_fetch_add_explicit(&ledger->shared->unattached, 1, memory_order_relaxed);
		if (here != 0 && error == 0)
			error = here;
	}
	return error;
}
