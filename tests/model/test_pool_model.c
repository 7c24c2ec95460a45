/*
 * Random operations on the pool against an obvious model: a list of what is out, and one sum.
 *
 * After each step the pool's numbers must be the model's, and the ledger's; what was written must still be there; what
 * is said to be zero must be zero; a refusal must be one that the model understands. Now and then the kernel is asked:
 * resident <= committed. SEED=n replays; STEPS=n changes the length.
 */
#include "pool/internal.h"
#include "support/resident.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 4096, OUT_MOST = 600, LIMIT_PAGES = 24 << 8, META_SLACK = 6 };

struct out {
	struct chunk *chunk;
	bool is_span;
	uint32_t pages; /* committed, as the model has it */
	uint16_t mask;	/* of a single chunk */
	uint64_t pattern;
};

static struct out out[OUT_MOST];
static uint32_t out_count;
static uint64_t out_pages;
static struct ledger *ledger;
static uint64_t random_state;
static uint64_t next_pattern = 1;
static uint64_t refusals, moves, resizes, huge_most;

static uint64_t draw(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * UINT64_C(0x2545F4914F6CDD1D);
}

static uint32_t below(uint32_t bound)
{
	return (uint32_t)((draw() >> 33) % bound);
}

/* ---- contents: the first and the last word of each committed page ---- */

static uint64_t *page_of(const struct out *one, uint32_t page)
{
	return (uint64_t *)(void *)((char *)chunk_address(one->chunk) + (size_t)page * PAGE);
}

static bool has_page(const struct out *one, uint32_t page)
{
	return one->is_span || (one->mask >> page & 1);
}

static uint32_t pages_long(const struct out *one)
{
	return one->is_span ? one->pages : CHUNK_PAGES;
}

static void write_from(struct out *one, uint32_t first)
{
	for (uint32_t i = first; i < pages_long(one); i++) {
		if (!has_page(one, i))
			continue;
		page_of(one, i)[0] = one->pattern + i;
		page_of(one, i)[PAGE / 8 - 1] = ~(one->pattern + i);
	}
}

static void verify(const struct out *one)
{
	for (uint32_t i = 0; i < pages_long(one); i++) {
		if (!has_page(one, i))
			continue;
		assert_int_equal(page_of(one, i)[0], one->pattern + i);
		assert_int_equal(page_of(one, i)[PAGE / 8 - 1], ~(one->pattern + i));
	}
}

static void verify_zero(const struct out *one, uint32_t first)
{
	for (uint32_t i = first; i < pages_long(one); i++)
		for (uint32_t word = 0; has_page(one, i) && word < PAGE / 8; word++)
			assert_int_equal(page_of(one, i)[word], 0);
}

/* ---- the books ---- */

static void verify_books(void)
{
	struct pool_stats stats;
	uint64_t chunks = 0;

	pool_stats_get(&stats);
	assert_int_equal(stats.committed_pages, out_pages + stats.idle_chunks * CHUNK_PAGES + stats.meta_pages);
	assert_int_equal(stats.committed_pages, ledger_committed_here(ledger));
	assert_int_equal(ledger_check_books(ledger), 0);
	for (uint32_t i = 0; i < out_count; i++)
		chunks += out[i].is_span ? (out[i].pages + CHUNK_PAGES - 1) / CHUNK_PAGES : 1;
	/* A run whose shrinking found no room for descriptors keeps its last block. */
	assert_true(stats.used_chunks >= chunks);
	assert_true(stats.used_chunks < chunks + BLOCK_CHUNKS);
}

/* Refusing @pages makes sense only if they are not there: neither free in the ledger nor idle. */
static void verify_refusal(uint64_t pages)
{
	struct ledger_view view;
	struct pool_stats stats;

	refusals++;
	ledger_look(ledger, &view);
	pool_stats_get(&stats);
	const uint64_t room = view.limit_pages > view.committed_pages ? view.limit_pages - view.committed_pages : 0;
	assert_true(pages + META_SLACK > room + stats.idle_chunks * CHUNK_PAGES);
}

static void verify_kernel(void)
{
	uintptr_t low, high;
	struct pool_stats stats;

	pool_extent(&low, &high);
	pool_stats_get(&stats);
	assert_true(resident_pages(low, high) <= stats.committed_pages);
	const uint64_t huge = resident_figure("AnonHugePages:", low, high);
	if (huge > huge_most)
		huge_most = huge;
}

/* ---- the operations ---- */

static void add(struct out one)
{
	one.pattern = next_pattern;
	next_pattern += UINT64_C(1) << 32;
	write_from(&one, 0);
	out[out_count++] = one;
	out_pages += one.pages;
}

static void take_chunk(void)
{
	const uint32_t pages = 1 + below(CHUNK_PAGES);
	struct chunk *chunk = out_count < OUT_MOST ? pool_chunk_take(pages, CHUNK_SLAB, 0) : NULL;

	if (out_count == OUT_MOST)
		return;
	if (chunk == NULL) {
		verify_refusal(pages);
		return;
	}
	assert_int_equal(chunk->state, CHUNK_SLAB);
	assert_int_equal(chunk->committed_mask & ((1U << pages) - 1), (1U << pages) - 1);
	assert_true(pool_index_is_mapped(pool_index_of(chunk_address(chunk))));
	for (int i = 0; i < CHUNK_HEAP_WORDS; i++)
		assert_int_equal(chunk->heap_words[i], 0);
	struct out one = {.chunk = chunk, .mask = chunk->committed_mask};
	one.pages = (uint32_t)__builtin_popcount(one.mask);
	if (chunk->is_zero)
		verify_zero(&one, 0);
	add(one);
}

static size_t some_bytes(void)
{
	static const uint32_t most_pages[] = {16, 64, 512, 1024, 4096};
	const uint32_t pages = 1 + below(most_pages[below(5)]);

	return (size_t)pages * PAGE - below(PAGE);
}

static void take_span(void)
{
	const size_t bytes = some_bytes();
	const size_t align = below(4) == 0 ? (size_t)CHUNK_BYTES << below(8) : 0;
	bool zero = false;

	if (out_count == OUT_MOST)
		return;
	struct chunk *chunk = pool_span_take(bytes, align, 0, &zero);
	if (chunk == NULL) {
		verify_refusal((bytes + PAGE - 1) / PAGE);
		return;
	}
	struct out one = {.chunk = chunk, .is_span = true, .pages = (uint32_t)((bytes + PAGE - 1) / PAGE)};
	assert_int_equal(pool_span_bytes(chunk), (size_t)one.pages * PAGE);
	assert_true(align == 0 || (uintptr_t)chunk_address(chunk) % align == 0);
	assert_ptr_equal(pool_span_around((char *)chunk_address(chunk) + bytes - 1), chunk);
	if (zero)
		verify_zero(&one, 0);
	add(one);
}

static void put(uint32_t which)
{
	struct out one = out[which];

	verify(&one);
	out[which] = out[--out_count];
	out_pages -= one.pages;
	if (one.is_span)
		pool_span_put(one.chunk);
	else
		pool_chunk_put(one.chunk);
}

static void grow_chunk(struct out *one)
{
	const uint32_t pages = 1 + below(CHUNK_PAGES);
	const uint16_t wanted = (uint16_t)((1U << pages) - 1);
	const int error = pool_chunk_grow(one->chunk, pages, 0);

	if (error != 0) {
		assert_int_equal(error, -ENOMEM);
		verify_refusal(CHUNK_PAGES);
		return;
	}
	struct out fresh = *one;
	fresh.mask = wanted & (uint16_t)~one->mask;
	verify_zero(&fresh, 0);
	out_pages += (uint64_t)__builtin_popcount(fresh.mask);
	one->mask |= wanted;
	one->pages = (uint32_t)__builtin_popcount(one->mask);
	assert_int_equal(one->chunk->committed_mask, one->mask);
	write_from(one, 0);
}

static void shrink_chunk(struct out *one)
{
	const uint32_t first = below(CHUNK_PAGES);
	const uint32_t count = 1 + below(CHUNK_PAGES - first);
	const uint16_t gone = (uint16_t)(((1U << count) - 1) << first);

	pool_chunk_shrink(one->chunk, first, count);
	out_pages -= (uint64_t)__builtin_popcount(one->mask & gone);
	one->mask &= (uint16_t)~gone;
	one->pages = (uint32_t)__builtin_popcount(one->mask);
	assert_int_equal(one->chunk->committed_mask, one->mask);
}

/* What may have been a huge page is given back only whole. */
static uint32_t pages_after(const struct out *one, uint32_t wanted)
{
	const uint32_t pages = (uint32_t)(pool_span_bytes(one->chunk) / PAGE);

	if (pages != wanted) {
		assert_true(wanted < one->pages);
		assert_true(pages > wanted && pages < wanted + BLOCK_BYTES / PAGE);
		assert_true(pages == one->pages || pages % (BLOCK_BYTES / PAGE) == 0);
	}
	return pages;
}

static void set_span_pages(struct out *one, uint32_t wanted)
{
	const uint32_t before = one->pages;
	const uint32_t pages = pages_after(one, wanted);

	out_pages += pages;
	out_pages -= before;
	one->pages = pages;
	if (pages > before) {
		verify_zero(one, before);
		write_from(one, before);
	}
	verify(one);
}

static void resize_span(struct out *one)
{
	const size_t bytes = some_bytes();
	const uint32_t pages = (uint32_t)((bytes + PAGE - 1) / PAGE);
	const int error = pool_span_resize(one->chunk, bytes, 0);

	if (error == 0) {
		resizes++;
		set_span_pages(one, pages);
		return;
	}
	assert_true(pages > one->pages);
	if (error == -ENOMEM)
		verify_refusal(pages - one->pages);
	else
		assert_int_equal(error, -ENOSPC);
}

static void move_span(struct out *one)
{
	const uint32_t pages = one->pages + 1 + below(600);
	const uint32_t word = below(CHUNK_HEAP_WORDS);

	one->chunk->heap_words[word] = one->pattern;
	struct chunk *moved = pool_span_move(one->chunk, (size_t)pages * PAGE, 0);
	if (moved == NULL) {
		verify_refusal(pages - one->pages);
		verify(one);
		return;
	}
	moves++;
	assert_int_equal(moved->heap_words[word], one->pattern);
	one->chunk = moved;
	set_span_pages(one, pages);
}

static void change(struct out *one)
{
	if (!one->is_span && below(2) == 0)
		grow_chunk(one);
	else if (!one->is_span)
		shrink_chunk(one);
	else if (below(3) == 0)
		move_span(one);
	else
		resize_span(one);
}

/* Phases: for a while more is taken than put, then the other way round. */
static void step(bool filling)
{
	const uint32_t dice = below(100);

	if (dice == 0 && below(8) == 0)
		(void)pool_trim(below(3) * 8);
	else if (dice == 1 && below(8) == 0)
		ledger_set_limit(ledger, LIMIT_PAGES / 4 + below(LIMIT_PAGES)); /* also below what is committed */
	else if (dice < (filling ? 35U : 15U))
		take_chunk();
	else if (dice < (filling ? 60U : 25U))
		take_span();
	else if (out_count > 0 && dice < 75)
		change(&out[below(out_count)]);
	else if (out_count > 0)
		put(below(out_count));
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static void random_operations_keep_the_books(void **state)
{
	const uint64_t seed = number_of("SEED", (uint64_t)time(NULL));
	const uint64_t steps = number_of("STEPS", 20000);
	uint32_t phase = 0;
	bool filling = true;

	(void)state;
	print_message("SEED=%llu STEPS=%llu\n", (unsigned long long)seed, (unsigned long long)steps);
	random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
	if (below(2) == 0)
		pool.huge_from_pages = 0; /* huge pages from the first span on */
	for (uint64_t i = 0; i < steps; i++) {
		if (phase-- == 0) {
			phase = 50 + below(500);
			filling = !filling;
		}
		step(filling);
		verify_books();
		if (i % 16 == 0)
			pool_check();
		if (i % 512 == 0)
			verify_kernel();
	}
	while (out_count > 0)
		put(out_count - 1);
	pool_check();
	(void)pool_trim(0);
	verify_books();
	verify_kernel();
	print_message("%llu refusals, %llu resizes, %llu moves, %llu pages in huge ones\n",
		(unsigned long long)refusals, (unsigned long long)resizes, (unsigned long long)moves,
		(unsigned long long)huge_most);
	assert_true(refusals > 0);
	assert_true(resizes > 0);
	assert_true(moves > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_operations_keep_the_books)};
	const struct ledger_spec spec = {.name = "model", .limit_pages = LIMIT_PAGES};

	if (ledger_create(&spec, &ledger) != 0 || pool_init(ledger) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
