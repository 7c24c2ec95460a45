/*
 * The fast paths alone: with 100 live objects of 64 bytes, so many pairs of heap_alloc_fast() and heap_free(). To be
 * run under callgrind twice, with two numbers of pairs; the difference is what they cost:
 *
 *   for n in 100000 1100000; do valgrind --tool=callgrind build/bench/heap_pair $n; done
 *
 * With an argument "malloc" it calls malloc() and free(), for whatever allocator is preloaded.
 */
#include "heap/heap_fast.h"

#include <holdfast/init.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIVE = 100, BYTES = 64 };

/* Not inlined: one call each, as from a program. */
static HF_NOINLINE void *pair_alloc(void)
{
	void *const object = heap_alloc_inline(BYTES);

	return HF_LIKELY(object != NULL) ? object : heap_alloc(BYTES, 0, false, 0);
}

static HF_NOINLINE void pair_free(void *object)
{
	heap_free_inline(object);
}

static int run_heap(long pairs)
{
	const struct hf_config config = {
		.struct_bytes = sizeof config, .budget_bytes = SIZE_MAX, .ignore_environment = true};
	void *live[LIVE];

	if (hf_init(&config) != 0)
		return 1;
	for (int i = 0; i < LIVE; i++)
		live[i] = pair_alloc();
	for (long i = 0; i < pairs; i++)
		pair_free(pair_alloc());
	for (int i = 0; i < LIVE; i++)
		pair_free(live[i]);
	return 0;
}

static int run_malloc(long pairs)
{
	void *live[LIVE];

	for (int i = 0; i < LIVE; i++)
		live[i] = malloc(BYTES);
	for (long i = 0; i < pairs; i++) {
		void *volatile object = malloc(BYTES);

		free(object);
	}
	for (int i = 0; i < LIVE; i++)
		free(live[i]);
	return 0;
}

int main(int count, char **arguments)
{
	const long pairs = count > 1 ? atol(arguments[1]) : 1000000;

	if (count > 2 && strcmp(arguments[2], "malloc") == 0)
		return run_malloc(pairs);
	return run_heap(pairs);
}
