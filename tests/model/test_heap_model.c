/*
 * Random requests against an obvious model: a table of what is live, with a pattern in each object that only its owner
 * wrote. Whatever is handed out must not overlap with anything live, must be aligned and large enough, and must
 * keep its contents. SEED=n replays one run.
 */
#include "os/os.h"
#include "support/heap_case.h"
#include "support/random.h"

#include <errno.h>
#include <string.h>

enum { SLOTS = 2000, STEPS = 20000, SEEDS = 3, LIMIT_PAGES = 1 << 14 };

struct slot {
	unsigned char *object;
	size_t bytes;
	uint64_t pattern;
};

struct model {
	struct slot slots[SLOTS];
	struct random random;
	uint64_t live_bytes; /* usable */
	uint64_t refused, served, moved;
};

static uint64_t below(struct model *model, uint64_t limit)
{
	return random_below(&model->random, limit);
}

/* Mostly small; all the way to half of the budget, so that refusals happen. */
static size_t random_bytes(struct model *model)
{
	switch (below(model, 20)) {
	case 0:
		return below(model, 40000);
	case 1:
		return below(model, 400000);
	case 2:
		return below(model, 20) == 0 ? below(model, (uint64_t)LIMIT_PAGES * 2048) : 0;
	case 3:
	case 4:
	case 5:
		return below(model, 4096);
	default:
		return below(model, 300);
	}
}

static void check_slot(const struct slot *slot)
{
	CASE_CHECK(pattern_holds(slot->object, slot->bytes, slot->pattern));
}

static void fill(struct model *model, struct slot *slot, void *object, size_t bytes)
{
	*slot = (struct slot){object, bytes, random_next(&model->random)};
	pattern_write(object, bytes, slot->pattern);
}

static void step_alloc(struct model *model, struct slot *slot)
{
	const size_t bytes = random_bytes(model);
	const size_t align = below(model, 8) == 0 ? (size_t)1 << below(model, 18) : 0;
	const bool zero = below(model, 4) == 0;
	void *object = NULL;

	if (align <= HEAP_ALIGN_BYTES && !zero)
		object = heap_alloc_fast(bytes);
	if (!object)
		object = heap_alloc(bytes, align, zero, 0);
	if (!object) {
		model->refused++;
		return;
	}
	model->served++;
	CASE_CHECK((uintptr_t)object % (align > HEAP_ALIGN_BYTES ? align : HEAP_ALIGN_BYTES) == 0);
	CASE_CHECK(heap_usable(object) >= bytes);
	CASE_CHECK(!zero || is_zero(object, heap_usable(object)));
	model->live_bytes += heap_usable(object);
	fill(model, slot, object, bytes);
}

static void step_free(struct model *model, struct slot *slot)
{
	check_slot(slot);
	model->live_bytes -= heap_usable(slot->object);
	heap_free(slot->object);
	slot->object = NULL;
}

static void step_resize(struct model *model, struct slot *slot)
{
	const size_t bytes = below(model, 2) ? random_bytes(model) : slot->bytes + below(model, slot->bytes + 1);
	const size_t kept = bytes < slot->bytes ? bytes : slot->bytes;
	const size_t before = heap_usable(slot->object);
	void *object = slot->object;
	int error;

	check_slot(slot);
	error = heap_resize(object, bytes, 0);
	if (error == -ENOSPC) {
		object = heap_move(slot->object, bytes, 0);
		if (!object && (object = heap_alloc(bytes, 0, false, 0)) != NULL) {
			memcpy(object, slot->object, kept);
			heap_free(slot->object);
		}
		model->moved++;
	} else if (error != 0) {
		CASE_CHECK(error == -ENOMEM);
		object = NULL;
	}
	if (!object) {
		model->refused++;
		check_slot(slot);
		return;
	}
	CASE_CHECK(pattern_holds(object, kept, slot->pattern));
	CASE_CHECK(heap_usable(object) >= bytes);
	model->live_bytes += heap_usable(object) - before;
	fill(model, slot, object, bytes);
}

static void check_all(struct model *model)
{
	heap_check();
	pool_check();
	CASE_CHECK(heap_case_stats().live_bytes == model->live_bytes);
	for (size_t i = 0; i < SLOTS; i++)
		if (model->slots[i].object)
			check_slot(&model->slots[i]);
}

static void run(uint64_t seed)
{
	static struct model model;

	memset(&model, 0, sizeof model);
	model.random.state = seed;
	for (unsigned step = 0; step < STEPS; step++) {
		struct slot *const slot = &model.slots[below(&model, SLOTS)];

		if (!slot->object)
			step_alloc(&model, slot);
		else if (below(&model, 6) == 0)
			step_resize(&model, slot);
		else
			step_free(&model, slot);
		/* A tide: now and then nearly all goes, so that slabs empty and come back in other classes. */
		if (below(&model, 8000) == 0)
			for (size_t i = 0; i < SLOTS; i++)
				if (model.slots[i].object && below(&model, 10) != 0)
					step_free(&model, &model.slots[i]);
		if (below(&model, 5000) == 0)
			(void)heap_trim();
		if (step % 4000 == 0)
			check_all(&model);
	}
	for (size_t i = 0; i < SLOTS; i++)
		if (model.slots[i].object)
			step_free(&model, &model.slots[i]);
	check_all(&model);
	printf("served %llu, refused %llu, moved %llu\n", (unsigned long long)model.served,
		(unsigned long long)model.refused, (unsigned long long)model.moved);
	CASE_CHECK(model.served > STEPS / 4 && model.refused > 0 && model.moved > 0);
}

int main(void)
{
	uint64_t seed = random_seed("test_heap_model");

	heap_case_start(LIMIT_PAGES);
	for (int i = 0; i < SEEDS; i++)
		run(seed + (uint64_t)i);
	return 0;
}
