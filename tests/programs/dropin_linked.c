/*
 * A program that links the library and is also run over the drop-in has one pool: what one gives the other takes back.
 * Run with LD_PRELOAD and HOLDFAST=budget=64M.
 */
#include <holdfast/holdfast.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*volatile call_malloc)(size_t) = malloc;
static void (*volatile call_free)(void *) = free;

int main(void)
{
	struct hf_stats before = {.struct_bytes = sizeof before}, after = {.struct_bytes = sizeof after};
	int failures = 0;

	if (hf_stats_get(&before) != 0)
		return 2;
	char *theirs = call_malloc(1 << 20);
	char *ours = hf_alloc(1 << 20, HF_RETRY);
	if (!theirs || !ours || hf_stats_get(&after) != 0)
		return 3;
	failures += after.live_bytes < before.live_bytes + (2 << 20);
	failures += after.limit_bytes != 64 << 20;
	failures += hf_usable_bytes(theirs) < 1 << 20;
	memset(theirs, 1, 1 << 20);
	memset(ours, 2, 1 << 20);
	hf_free(theirs);
	call_free(ours);
	if (hf_stats_get(&after) != 0)
		return 4;
	failures += after.live_bytes >= before.live_bytes + (1 << 20);
	/* Fault injection reaches malloc, too. */
	hf_fault_fail_nth(1);
	theirs = call_malloc(10);
	failures += theirs != NULL || !hf_fault_fired();
	hf_fault_off();
	printf("%d failures\n", failures);
	return failures != 0;
}
