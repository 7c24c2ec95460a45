/*
 * Looking at all heaps: statistics and checks.
 */
#include "heap/theap.h"

/*
 * Other threads may be busy: then their slabs' numbers are a moment old. They cannot be wrong by more than what those
 * threads are doing right now, and a slab that is looked at cannot go away, since that takes theap_lock.
 */
SLAB_READS_RACES static uint64_t live_bytes_of(struct slab *slab)
{
	const uint64_t word = atomic_load_explicit(&slab->remote, memory_order_relaxed);
	const uint32_t cut = slab_cut_count(slab);
	uint32_t used = cut;

	if (slab->state == SLAB_AVAILABLE || slab->state == SLAB_FULL)
		used = slab->countdown + slab->rest; /* slab_used(), whose reads would be checked */
	else
		used -= slab_estimate_local(slab);
	if (used > cut)
		used = cut; /* it has just changed its state */
	return used > remote_count(word) ? (uint64_t)(used - remote_count(word)) * slab->object_bytes : 0;
}

void theap_stats_add(struct heap_stats *stats)
{
	lock_take(&theap_lock);
	for (struct list *at = theap_all.next; at != &theap_all; at = at->next) {
		struct theap *const theap = HF_CONTAINER_OF(at, struct theap, in_all);
		const uint32_t state = atomic_load(&theap->state);

		stats->threads += state == THEAP_LIVE;
		stats->orphan_heaps += state == THEAP_ORPHAN || state == THEAP_WRECK;
		for (struct list *in = theap->slabs.next; in != &theap->slabs; in = in->next) {
			stats->slabs++;
			stats->live_bytes += live_bytes_of(HF_CONTAINER_OF(in, struct slab, in_theap));
		}
	}
	lock_put(&theap_lock);
}

/* ---- checks ---- */

static void check_class(const struct theap *theap, uint32_t cls)
{
	const struct theap_class *const c = &theap->classes[cls];
	uint32_t available = 0;
	uint32_t spares = 0;

	for (const struct list *at = c->available.next; at != &c->available; at = at->next) {
		const struct slab *const slab = HF_CONTAINER_OF(at, struct slab, in_class);

		HF_VERIFY(slab->state == SLAB_AVAILABLE || slab->state == SLAB_SPARE);
		HF_VERIFY_OP(slab->cls, ==, cls);
		available++;
		spares += slab->state == SLAB_SPARE;
	}
	HF_VERIFY_OP(available, ==, c->available_count);
	HF_VERIFY_OP(spares, ==, c->has_spare);
	if (c->current != &theap_no_slab) {
		HF_VERIFY_OP(c->current->state, ==, SLAB_CURRENT);
		HF_VERIFY_OP(c->current->cls, ==, cls);
	}
	for (uint32_t i = 0; i < CLASS_DIRECT_COUNT; i++)
		if (class_of((size_t)i * HEAP_ALIGN_BYTES) == cls)
			HF_VERIFY(theap->direct[i] == c->current);
}

static void check_theap(struct theap *theap)
{
	uint32_t slabs = 0;
	uint32_t listed = 0;

	for (struct list *at = theap->slabs.next; at != &theap->slabs; at = at->next) {
		struct slab *const slab = HF_CONTAINER_OF(at, struct slab, in_theap);

		HF_VERIFY(atomic_load(&slab->owner) == theap); /* T1 */
		slab_check(slab);
		slabs++;
		listed += slab->state == SLAB_AVAILABLE || slab->state == SLAB_SPARE;
		if (slab->state == SLAB_CURRENT)
			HF_VERIFY(theap->classes[slab->cls].current == slab);
	}
	HF_VERIFY_OP(slabs, ==, atomic_load(&theap->slab_count));
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
		check_class(theap, cls);
		listed -= theap->classes[cls].available_count;
	}
	HF_VERIFY_OP(listed, ==, 0);
}

void theap_check_all(void)
{
	lock_take(&theap_lock);
	for (struct list *at = theap_all.next; at != &theap_all; at = at->next) {
		struct theap *const theap = HF_CONTAINER_OF(at, struct theap, in_all);

		if (atomic_load(&theap->state) != THEAP_WRECK)
			check_theap(theap);
	}
	lock_put(&theap_lock);
}
