/*
 * The pool over an operating system that refuses: the nth call of a scene fails, for every n until none does; once, or
 * all calls from the nth on. After each step the books must balance, and what was written must be there; when the
 * system works again, everything can be given back.
 */
#include "os/os.h"
#include "os/os_fake.h"
#include "pool/internal.h"
#include "support/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, LIMIT_PAGES = 12 << 8, SLABS = 24, TAG_EVERY = 8 * PAGE /* a sweep is thousands of runs */ };

struct fault {
	enum os_fake_call call;
	int error;
	unsigned nth;
	bool from_then_on;
	bool strict;
	uint64_t limit_pages;
	bool copies; /* all moves are refused: pages are copied */
};

/* In a child: a failed check says where, and ends it. */
#define CHECK(condition)                                                                        \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			_exit(1);                                                               \
		}                                                                               \
	} while (0)

static struct ledger *ledger;

struct held {
	struct chunk *chunk;
	size_t bytes;
	unsigned char tag;
};

static void books(void)
{
	struct pool_stats stats;

	pool_check();
	pool_stats_get(&stats);
	CHECK(stats.committed_pages == ledger_committed_here(ledger));
}

static void write_tag(struct held *held, unsigned char tag)
{
	unsigned char *memory = chunk_address(held->chunk);

	held->tag = tag;
	for (size_t i = 0; i < held->bytes; i += TAG_EVERY)
		memory[i] = tag;
	memory[held->bytes - 1] = tag;
}

static void check_tag(const struct held *held, size_t bytes)
{
	const unsigned char *memory = chunk_address(held->chunk);

	for (size_t i = 0; i < bytes; i += TAG_EVERY)
		CHECK(memory[i] == held->tag);
}

/* ---- the scene ---- */

static void slabs(void)
{
	struct held held[SLABS];
	unsigned count = 0;

	for (unsigned i = 0; i < SLABS; i++) {
		struct chunk *chunk = pool_chunk_take(1 + i % CHUNK_PAGES, CHUNK_SLAB, 0);

		books();
		if (chunk == NULL)
			continue;
		held[count] = (struct held){chunk, (size_t)__builtin_popcount(chunk->committed_mask) * PAGE, 0};
		write_tag(&held[count++], (unsigned char)(i + 1));
	}
	for (unsigned i = 0; i < count; i += 3) {
		if (pool_chunk_grow(held[i].chunk, CHUNK_PAGES, 0) == 0) {
			check_tag(&held[i], held[i].bytes);
			held[i].bytes = CHUNK_BYTES;
			write_tag(&held[i], held[i].tag);
		}
		books();
		pool_chunk_shrink(held[i].chunk, 8, 4);
		books();
		held[i].bytes = held[i].bytes < 8 * (size_t)PAGE ? held[i].bytes : 8 * (size_t)PAGE;
	}
	for (unsigned i = 0; i < count; i++) {
		check_tag(&held[i], held[i].bytes);
		pool_chunk_put(held[i].chunk);
		books();
	}
}

static void change_span(struct held *held, size_t bytes, bool move)
{
	const size_t before = held->bytes;
	struct chunk *moved;

	if (move) {
		moved = pool_span_move(held->chunk, bytes, 0);
		if (moved != NULL)
			held->chunk = moved;
		held->bytes = moved != NULL ? bytes : before;
	} else if (pool_span_resize(held->chunk, bytes, 0) == 0) {
		held->bytes = bytes;
	}
	books();
	check_tag(held, held->bytes < before ? held->bytes : before);
	write_tag(held, held->tag);
}

static void spans(void)
{
	static const size_t sizes[] = {CHUNK_BYTES, 2 * BLOCK_BYTES + 5 * PAGE, 150 * PAGE, 5 * CHUNK_BYTES + 1};
	struct held held[4];
	bool zero;

	for (unsigned i = 0; i < 4; i++) {
		held[i].chunk = pool_span_take(sizes[i], i == 3 ? BLOCK_BYTES : 0, 0, &zero);
		held[i].bytes = sizes[i];
		books();
		if (held[i].chunk != NULL) {
			check_tag(&(struct held){held[i].chunk, sizes[i], 0}, zero ? sizes[i] : 0);
			write_tag(&held[i], (unsigned char)(i + 1));
		}
	}
	for (unsigned i = 0; i < 4; i++) {
		if (held[i].chunk == NULL)
			continue;
		change_span(&held[i], sizes[i] + 3 * CHUNK_BYTES, true);
		change_span(&held[i], sizes[i] + 40 * CHUNK_BYTES, false);
		change_span(&held[i], sizes[i] + 45 * CHUNK_BYTES, true);
		change_span(&held[i], sizes[i] / 2 + 1, false);
	}
	for (unsigned i = 0; i < 4; i++) {
		if (held[i].chunk == NULL)
			continue;
		check_tag(&held[i], held[i].bytes);
		pool_span_put(held[i].chunk);
		books();
	}
}

/* The budget is full and all that is free is scattered: one large piece of it. */
static void scattered(void)
{
	static struct chunk *chunks[LIMIT_PAGES / CHUNK_PAGES];
	unsigned count = 0;
	bool zero;

	while (count < HF_COUNT_OF(chunks) && (chunks[count] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0)) != NULL)
		count++;
	books();
	for (unsigned i = 0; i < count; i += 2)
		pool_chunk_put(chunks[i]);
	books();
	struct chunk *span = pool_span_take((size_t)(count / 2) * CHUNK_BYTES, 0, 0, &zero);
	books();
	if (span != NULL)
		pool_span_put(span);
	for (unsigned i = 1; i < count; i += 2)
		pool_chunk_put(chunks[i]);
	books();
}

static void fork_around(void)
{
	struct chunk *chunk[2];

	for (unsigned i = 0; i < 2; i++)
		chunk[i] = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
	for (unsigned i = 0; i < 2; i++)
		if (chunk[i] != NULL)
			pool_chunk_put(chunk[i]);
	pool_fork_prepare();
	pool_fork_parent(1);
	books();
	for (unsigned i = 0; i < 8; i++) {
		unsigned char *memory = pool_meta_alloc(3000);

		for (unsigned byte = 0; memory != NULL && byte < 3000; byte++)
			CHECK(memory[byte] == 0);
		if (memory != NULL)
			memset(memory, 1, 3000);
		books();
	}
}

/* ---- one run ---- */

enum { FIRED = 10, NOT_FIRED = 11 };

static void give_all_back(const struct fault *fault)
{
	struct pool_stats stats;

	os_fake_fail_off(OS_FAKE_ANY);
	for (int call = 0; call < OS_FAKE_CAN_FAIL; call++)
		os_fake_fail_off((enum os_fake_call)call);
	(void)pool_trim(0);
	books();
	pool_stats_get(&stats);
	CHECK(stats.idle_chunks == 0);
	CHECK(stats.used_chunks == pool.lost_chunks);
	CHECK(stats.committed_pages == stats.meta_pages);
	if (fault->limit_pages != 0)
		return;
	/* And it works again. */
	struct chunk *chunk = pool_chunk_take(CHUNK_PAGES, CHUNK_SLAB, 0);
	CHECK(chunk != NULL);
	memset(chunk_address(chunk), 1, CHUNK_BYTES);
	pool_chunk_put(chunk);
}

static int run_scene(void *context)
{
	const struct fault *fault = context;
	const struct ledger_spec spec = {.limit_pages = fault->limit_pages != 0 ? fault->limit_pages : LIMIT_PAGES};

	os_fake_reset();
	if (ledger_create(&spec, &ledger) != 0)
		return 1;
	os_fake_machine.overcommit_mode = fault->strict ? 2 : 0;
	if (fault->copies)
		os_fake_fail_nth(OS_FAKE_MOVE, 1, -EFAULT, true);
	if (fault->nth != 0)
		os_fake_fail_nth(fault->call, fault->nth, fault->error, fault->from_then_on);
	if (pool_init(ledger) != 0) {
		const int result = os_fake_fired(fault->call) ? FIRED : 1;

		os_fake_fail_off(fault->call);
		return pool_init(ledger) == 0 ? result : 1;
	}
	pool.huge_from_pages = 0; /* huge pages from the first span on */
	slabs();
	spans();
	if (fault->copies)
		spans(); /* where the first ones were, nothing of them may be seen */
	scattered();
	fork_around();
	if (!fault->strict) {
		pool_set_strict();
		books();
		slabs();
		spans();
	}
	const bool fired = os_fake_fired(fault->call);
	give_all_back(fault);
	return fired ? FIRED : NOT_FIRED;
}

static void sweep(struct fault fault)
{
	for (fault.nth = 1;; fault.nth++) {
		const int status = child_check(run_scene, &fault);

		if (!WIFEXITED(status) || (WEXITSTATUS(status) != FIRED && WEXITSTATUS(status) != NOT_FIRED))
			fail_msg("call %d, nth %u, error %d, strict %d: status %x", fault.call, fault.nth, fault.error,
				fault.strict, (unsigned)status);
		if (WEXITSTATUS(status) == NOT_FIRED)
			break;
	}
	print_message("%u places\n", fault.nth - 1);
	assert_true(fault.nth > 1);
}

static void any_call_may_fail_once(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_ANY, .error = -ENOMEM});
}

static void any_call_may_fail_once_in_a_strict_pool(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_ANY, .error = -ENOMEM, .strict = true});
}

static void address_space_may_be_occupied(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_SPACE_MAP, .error = -EEXIST});
	sweep((struct fault){.call = OS_FAKE_SPACE_MAP, .error = -EEXIST, .strict = true});
}

static void moves_may_be_refused(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_MOVE, .error = -EFAULT});
	sweep((struct fault){.call = OS_FAKE_MOVE, .error = -EFAULT, .from_then_on = true});
	sweep((struct fault){.call = OS_FAKE_MOVE, .error = -EFAULT, .strict = true});
}

static void copying_instead_of_moving_may_fail_too(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_DISCARD, .error = -EINVAL, .copies = true});
	sweep((struct fault){.call = OS_FAKE_DISCARD, .error = -EINVAL, .copies = true, .from_then_on = true});
	sweep((struct fault){.call = OS_FAKE_SPACE_MAP, .error = -EEXIST, .copies = true});
	sweep((struct fault){.call = OS_FAKE_SPACE_OPEN, .error = -ENOMEM, .copies = true});
}

static void the_kernel_may_stop_to_take_pages_back(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_DISCARD, .error = -EINVAL, .from_then_on = true});
	sweep((struct fault){.call = OS_FAKE_SPACE_CLOSE, .error = -ENOMEM, .from_then_on = true, .strict = true});
}

static void the_kernel_may_stop_to_give_space(void **state)
{
	(void)state;
	sweep((struct fault){.call = OS_FAKE_SPACE_MAP, .error = -ENOMEM, .from_then_on = true});
	sweep((struct fault){.call = OS_FAKE_SPACE_OPEN, .error = -ENOMEM, .from_then_on = true});
	sweep((struct fault){.call = OS_FAKE_ADVISE, .error = -EINVAL, .from_then_on = true});
}

/* No call fails, but the ledger says no: at every point, since every budget is tried. */
static void any_commit_may_be_refused(void **state)
{
	(void)state;
	for (uint64_t pages = 4; pages < 3 * BLOCK_BYTES / PAGE; pages += 1 + pages / 64) {
		struct fault fault = {.limit_pages = pages};
		const int status = child_check(run_scene, &fault);

		if (!WIFEXITED(status) || WEXITSTATUS(status) != NOT_FIRED)
			fail_msg("budget of %u pages: status %x", (unsigned)pages, (unsigned)status);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_commit_may_be_refused),
		cmocka_unit_test(any_call_may_fail_once),
		cmocka_unit_test(any_call_may_fail_once_in_a_strict_pool),
		cmocka_unit_test(address_space_may_be_occupied),
		cmocka_unit_test(moves_may_be_refused),
		cmocka_unit_test(copying_instead_of_moving_may_fail_too),
		cmocka_unit_test(the_kernel_may_stop_to_take_pages_back),
		cmocka_unit_test(the_kernel_may_stop_to_give_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
