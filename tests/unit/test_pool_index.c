/* The index of free and idle chunks against an array of bytes, over several supers; no memory is touched. */
#include "pool/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GROUPS = 2 * SUPER_GROUPS + 3, CHUNKS = GROUPS * GROUP_CHUNKS };

static uint8_t marks[CHUNKS]; /* enum mark */
static uint64_t random_state;

static uint32_t below(uint32_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state * UINT64_C(0x2545F4914F6CDD1D) >> 33) % bound);
}

static void mark(uint32_t first, uint32_t chunks, enum mark as)
{
	memset(&marks[first], (int)as, chunks);
	index_mark(first, chunks, as);
}

static bool is_free(uint32_t chunk)
{
	return marks[chunk] != MARK_USED;
}

static uint32_t find(uint32_t from, uint32_t chunks)
{
	uint32_t length = 0;

	for (uint32_t i = from; i < CHUNKS; i++) {
		length = is_free(i) ? length + 1 : 0;
		if (length == chunks)
			return i + 1 - chunks;
	}
	return CHUNK_NONE;
}

static uint32_t run(uint32_t first, uint32_t most)
{
	uint32_t length = 0;

	while (length < most && first + length < CHUNKS && is_free(first + length))
		length++;
	return length;
}

static void compare_runs(void)
{
	static const uint32_t bounds[] = {2, 40, 1200, 40000};
	const uint32_t chunks = 1 + below(bounds[below(4)]);
	const uint32_t from = below(3) == 0 ? below(CHUNKS) : 0;
	uint32_t tail = 0;

	assert_int_equal(index_find(from, chunks), find(from, chunks));
	assert_int_equal(index_run(from, chunks), run(from, chunks));
	while (tail < CHUNKS && is_free(CHUNKS - 1 - tail))
		tail++;
	assert_int_equal(index_tail(), tail);
}

static void compare_idle(void)
{
	uint32_t lowest = 0;
	uint32_t highest = CHUNKS;
	uint32_t first = 0;
	uint32_t length = 0;
	uint32_t at = 0;

	while (lowest < CHUNKS && marks[lowest] != MARK_IDLE)
		lowest++;
	while (highest > 0 && marks[highest - 1] != MARK_IDLE)
		highest--;
	assert_int_equal(index_lowest_idle(), lowest == CHUNKS ? CHUNK_NONE : lowest);
	assert_int_equal(index_highest_idle(), highest == 0 ? CHUNK_NONE : highest - 1);
	while (index_next_idle_run(first + length, &first, &length)) {
		while (at < first)
			assert_int_not_equal(marks[at++], MARK_IDLE);
		while (at < first + length)
			assert_int_equal(marks[at++], MARK_IDLE);
	}
	while (at < CHUNKS)
		assert_int_not_equal(marks[at++], MARK_IDLE);
}

static void change(void)
{
	static const uint32_t bounds[] = {3, 70, 3000, 50000};
	const uint32_t chunks = 1 + below(bounds[below(4)]);
	const uint32_t first = below(CHUNKS - chunks);
	const uint32_t kind = below(8);

	if (kind < 4)
		mark(first, chunks, MARK_USED);
	else if (kind < 7 || chunks > 200)
		mark(first, chunks, MARK_EMPTY);
	else
		mark(first, chunks, MARK_IDLE);
}

static void it_finds_what_a_walk_over_all_finds(void **state)
{
	const char *text = getenv("SEED");
	const uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
	while (groups_known() < GROUPS)
		assert_int_equal(index_extend(0), 0);
	memset(marks, MARK_EMPTY, sizeof marks);
	compare_runs();
	for (int i = 0; i < 1500; i++) {
		change();
		compare_runs();
		compare_runs();
		if (i % 16 == 0)
			compare_idle();
	}
	for (uint32_t i = 0; i < GROUPS; i++) {
		const struct node is = pool_index.groups[i].node;
		const struct node should = index_node_of_group(i);

		assert_memory_equal(&is, &should, sizeof is);
	}
}

static void runs_cross_borders_of_blocks_groups_and_supers(void **state)
{
	static const uint32_t borders[] = {BLOCK_CHUNKS, GROUP_CHUNKS, SUPER_CHUNKS};

	(void)state;
	for (int i = 0; i < 3; i++) {
		mark(0, CHUNKS, MARK_USED);
		mark(borders[i] - 3, 7, MARK_EMPTY);
		assert_int_equal(index_find(0, 7), borders[i] - 3);
		assert_int_equal(index_find(0, 8), CHUNK_NONE);
		assert_int_equal(index_find(borders[i] - 1, 5), borders[i] - 1);
		assert_int_equal(index_find(borders[i], 5), CHUNK_NONE);
		assert_int_equal(index_run(borders[i] - 2, 100), 6);
	}
	/* A run of several whole supers that begins behind used memory. */
	mark(0, CHUNKS, MARK_EMPTY);
	mark(0, SUPER_CHUNKS, MARK_USED);
	assert_int_equal(index_find(0, CHUNKS - SUPER_CHUNKS), SUPER_CHUNKS);
	assert_int_equal(index_find(0, CHUNKS - SUPER_CHUNKS + 1), CHUNK_NONE);
	/* A walk that begins inside a group which ends with used memory. */
	mark(0, CHUNKS, MARK_EMPTY);
	mark(GROUP_CHUNKS - 1, 1, MARK_USED);
	assert_int_equal(index_find(5, 2 * GROUP_CHUNKS), GROUP_CHUNKS);
}

static int start(void **state)
{
	const struct ledger_spec spec = {.limit_pages = LEDGER_NO_LIMIT};
	struct ledger *ledger;

	(void)state;
	return ledger_create(&spec, &ledger) != 0 || pool_init(ledger) != 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_finds_what_a_walk_over_all_finds),
		cmocka_unit_test(runs_cross_borders_of_blocks_groups_and_supers),
	};

	return cmocka_run_group_tests(tests, start, NULL);
}
