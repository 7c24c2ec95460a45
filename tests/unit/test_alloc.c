/* The public allocation functions: what each returns, and each of their errors. */
#include "heap/heap.h"
#include "ledger/ledger.h"
#include "pool/pool.h"

#include <holdfast/holdfast.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

enum { BUDGET_BYTES = 64 << 20 };

static const hf_how classes[] = {HF_ATOMIC, HF_NORETRY, HF_RETRY};

static struct hf_stats stats_now(void)
{
	struct hf_stats stats = {.struct_bytes = sizeof stats};

	assert_int_equal(hf_stats_get(&stats), 0);
	return stats;
}

static void check_books(void)
{
	pool_check();
	heap_check();
	assert_int_equal(ledger_check_books(pool_ledger()), 0);
}

static bool is_filled(const unsigned char *bytes, unsigned char with, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (bytes[i] != with)
			return false;
	}
	return true;
}

static void alloc_gives_aligned_writable_objects_of_every_size_and_class(void **state)
{
	(void)state;
	for (size_t c = 0; c < HF_COUNT_OF(classes); c++) {
		for (size_t bytes = 0; bytes < 300000; bytes += bytes < 2000 ? 1 : bytes / 7) {
			unsigned char *object = hf_alloc(bytes, classes[c]);

			assert_non_null(object);
			assert_int_equal((uintptr_t)object % 16, 0);
			assert_true(hf_usable_bytes(object) >= bytes);
			memset(object, 0xa5, hf_usable_bytes(object));
			hf_free(object);
		}
	}
	check_books();
}

static void alloc_of_nothing_is_a_unique_object(void **state)
{
	(void)state;
	void *first = hf_alloc(0, HF_RETRY), *second = hf_alloc(0, HF_RETRY);

	assert_non_null(first);
	assert_non_null(second);
	assert_ptr_not_equal(first, second);
	hf_free(first);
	hf_free(second);
}

static void alloc_refuses_unknown_classes_and_flags(void **state)
{
	static const hf_how unknown[] = {0, 4, 5, 0xff, HF_RETRY | 0x800, HF_RETRY | 0x80000000u, HF_ZERO};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(unknown); i++) {
		void *object = hf_alloc(10, HF_RETRY);

		errno = 0;
		assert_null(hf_alloc(10, unknown[i]));
		assert_int_equal(errno, EINVAL);
		errno = 0;
		assert_null(hf_zalloc(10, unknown[i]));
		assert_int_equal(errno, EINVAL);
		errno = 0;
		assert_null(hf_alloc_aligned(64, 10, unknown[i]));
		assert_int_equal(errno, EINVAL);
		errno = 0;
		assert_null(hf_alloc_array(SIZE_MAX, 10, unknown[i]));
		assert_int_equal(errno, EINVAL);
		errno = 0;
		assert_null(hf_realloc(object, 100, unknown[i]));
		assert_int_equal(errno, EINVAL);
		hf_free(object);
	}
}

static void alloc_refuses_more_than_ptrdiff_max_as_overflow(void **state)
{
	(void)state;
	void *object = hf_alloc(10, HF_RETRY);

	errno = 0;
	assert_null(hf_alloc((size_t)PTRDIFF_MAX + 1, HF_RETRY));
	assert_int_equal(errno, EOVERFLOW);
	errno = 0;
	assert_null(hf_zalloc(SIZE_MAX, HF_RETRY));
	assert_int_equal(errno, EOVERFLOW);
	errno = 0;
	assert_null(hf_alloc_aligned(4096, PTRDIFF_MAX, HF_RETRY));
	assert_int_equal(errno, EOVERFLOW);
	errno = 0;
	assert_null(hf_realloc(object, (size_t)PTRDIFF_MAX + 1, HF_RETRY));
	assert_int_equal(errno, EOVERFLOW);
	hf_free(object);
}

static void alloc_of_what_no_machine_has_is_a_shortage(void **state)
{
	(void)state;
	for (size_t c = 0; c < HF_COUNT_OF(classes); c++) {
		errno = 0;
		assert_null(hf_alloc(PTRDIFF_MAX, classes[c] | HF_NOWARN));
		assert_int_equal(errno, ENOMEM);
		errno = 0;
		assert_null(hf_alloc_aligned((size_t)1 << 62, 1, classes[c] | HF_NOWARN));
		assert_int_equal(errno, ENOMEM);
	}
}

static void array_checks_the_product(void **state)
{
	(void)state;
	unsigned char *object = hf_alloc_array(100, 37, HF_RETRY | HF_ZERO);

	assert_non_null(object);
	assert_true(hf_usable_bytes(object) >= 3700);
	assert_true(is_filled(object, 0, 3700));
	hf_free(object);
	errno = 0;
	assert_null(hf_alloc_array(SIZE_MAX / 2, 3, HF_RETRY));
	assert_int_equal(errno, EOVERFLOW);
	errno = 0;
	assert_null(hf_alloc_array((size_t)1 << 32, (size_t)1 << 32, HF_RETRY));
	assert_int_equal(errno, EOVERFLOW);
	object = hf_alloc_array(0, 16, HF_RETRY);
	assert_non_null(object);
	hf_free(object);
}

static void zalloc_clears_what_was_used_before(void **state)
{
	static const size_t sizes[] = {1, 16, 100, 1000, 4096, 20000, 32768, 40000, 300000, 3000000};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(sizes); i++) {
		for (int round = 0; round < 20; round++) {
			unsigned char *object =
				round % 2 ? hf_zalloc(sizes[i], HF_RETRY) : hf_alloc(sizes[i], HF_ATOMIC | HF_ZERO);

			assert_non_null(object);
			assert_true(is_filled(object, 0, sizes[i]));
			memset(object, 0xff, hf_usable_bytes(object));
			hf_free(object);
		}
	}
}

static void aligned_objects_are_aligned(void **state)
{
	(void)state;
	for (size_t alignment = 1; alignment <= 8 << 20; alignment *= 2) {
		for (size_t bytes = 1; bytes <= 1 << 20; bytes = bytes * 5 + 1) {
			unsigned char *object = hf_alloc_aligned(alignment, bytes, HF_RETRY | HF_ZERO);

			assert_non_null(object);
			assert_int_equal((uintptr_t)object % alignment, 0);
			assert_true(is_filled(object, 0, bytes));
			memset(object, 0x5a, hf_usable_bytes(object));
			hf_free(object);
		}
	}
	check_books();
}

static void aligned_refuses_what_is_no_power_of_two(void **state)
{
	static const size_t odd[] = {0, 3, 24, 48, 4095, SIZE_MAX};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(odd); i++) {
		errno = 0;
		assert_null(hf_alloc_aligned(odd[i], 16, HF_RETRY));
		assert_int_equal(errno, EINVAL);
	}
}

static void realloc_keeps_the_contents_between_any_two_sizes(void **state)
{
	static const size_t sizes[] = {1, 15, 16, 17, 100, 1000, 4000, 8192, 20000, 32768, 32769, 65536, 70000, 200000,
		1 << 20, (1 << 20) + 1, 5 << 20};

	(void)state;
	for (size_t from = 0; from < HF_COUNT_OF(sizes); from++) {
		for (size_t to = 0; to < HF_COUNT_OF(sizes); to++) {
			const size_t kept = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
			unsigned char *object = hf_alloc(sizes[from], HF_RETRY);

			assert_non_null(object);
			memset(object, 0x3c, sizes[from]);
			object = hf_realloc(object, sizes[to], HF_RETRY);
			assert_non_null(object);
			assert_true(hf_usable_bytes(object) >= sizes[to]);
			assert_true(is_filled(object, 0x3c, kept));
			memset(object, 0x11, hf_usable_bytes(object));
			hf_free(object);
		}
	}
	check_books();
}

static void realloc_of_null_allocates_and_to_nothing_keeps_an_object(void **state)
{
	(void)state;
	unsigned char *object = hf_realloc(NULL, 100, HF_RETRY | HF_ZERO);

	assert_non_null(object);
	assert_true(is_filled(object, 0, 100));
	object[0] = 7;
	object = hf_realloc(object, 0, HF_RETRY);
	assert_non_null(object);
	assert_int_equal(object[0], 7);
	hf_free(object);
}

static void realloc_with_zero_clears_what_is_new(void **state)
{
	static const size_t sizes[] = {10, 500, 5000, 40000, 400000, 4000000};

	(void)state;
	for (size_t from = 0; from < HF_COUNT_OF(sizes); from++) {
		for (size_t to = from + 1; to < HF_COUNT_OF(sizes); to++) {
			unsigned char *dirt = hf_alloc(sizes[to], HF_RETRY);
			unsigned char *object = hf_alloc(sizes[from], HF_RETRY);
			const size_t old_bytes = hf_usable_bytes(object);

			memset(dirt, 0xee, sizes[to]);
			hf_free(dirt);
			memset(object, 0x77, old_bytes);
			object = hf_realloc(object, sizes[to], HF_RETRY | HF_ZERO);
			assert_non_null(object);
			assert_true(is_filled(object, 0x77, old_bytes));
			assert_true(is_filled(object + old_bytes, 0, sizes[to] - old_bytes));
			hf_free(object);
		}
	}
}

static void realloc_that_fails_leaves_the_object_alone(void **state)
{
	static const size_t sizes[] = {100, 40000, 4 << 20};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(sizes); i++) {
		unsigned char *object = hf_alloc(sizes[i], HF_RETRY);

		memset(object, 0x42, sizes[i]);
		errno = 0;
		assert_null(hf_realloc(object, 2 * (size_t)BUDGET_BYTES, HF_RETRY | HF_NOWARN));
		assert_int_equal(errno, ENOMEM);
		assert_true(is_filled(object, 0x42, sizes[i]));
		hf_free(object);
	}
	check_books();
}

static void realloc_grows_a_large_object_past_half_the_budget(void **state)
{
	(void)state;
	/* A copy would need 1.9 times the budget: so it is made larger where it stands, or its pages are moved. */
	unsigned char *object = hf_alloc((size_t)BUDGET_BYTES * 45 / 100, HF_RETRY);
	unsigned char *behind = hf_alloc(100000, HF_RETRY);

	assert_non_null(object);
	assert_non_null(behind);
	memset(object, 0x24, (size_t)BUDGET_BYTES * 45 / 100);
	object = hf_realloc(object, (size_t)BUDGET_BYTES * 90 / 100, HF_RETRY);
	assert_non_null(object);
	assert_true(is_filled(object, 0x24, (size_t)BUDGET_BYTES * 45 / 100));
	assert_true(stats_now().committed_bytes <= BUDGET_BYTES);
	hf_free(object);
	hf_free(behind);
	check_books();
}

static void free_leaves_errno_alone(void **state)
{
	static const size_t sizes[] = {10, 40000, 8 << 20};

	(void)state;
	hf_free(NULL);
	for (size_t i = 0; i < HF_COUNT_OF(sizes); i++) {
		void *object = hf_alloc(sizes[i], HF_RETRY);

		errno = 12345;
		hf_free(object);
		assert_int_equal(errno, 12345);
		object = hf_alloc(sizes[i], HF_RETRY);
		assert_int_equal(errno, 12345);
		hf_free_sized(object, sizes[i]);
		assert_int_equal(errno, 12345);
	}
	assert_int_equal(hf_usable_bytes(NULL), 0);
}

/* Takes objects of @bytes until @how is refused; they are chained by their first word. */
static void *take_all(size_t bytes, hf_how how, size_t *count_out)
{
	void *chain = NULL;
	void **object;

	*count_out = 0;
	while ((object = hf_alloc(bytes, how | HF_NOWARN))) {
		*object = chain;
		chain = object;
		(*count_out)++;
	}
	assert_int_equal(errno, ENOMEM);
	return chain;
}

static void free_all(void *chain)
{
	while (chain) {
		void *next = *(void **)chain;

		hf_free(chain);
		chain = next;
	}
}

static void at_the_limit_the_answer_is_no_and_after_a_free_it_is_yes(void **state)
{
	static const size_t sizes[] = {64, 3000, 40000, 1 << 20};

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(sizes); i++) {
		const uint64_t refused_before = stats_now().process_refusals;
		size_t count;
		void **chain = take_all(sizes[i], HF_RETRY, &count);
		void *second = *chain;

		/* At least nine tenths of the budget are of use: classes and descriptors cost something. */
		assert_true(count * sizes[i] > (size_t)BUDGET_BYTES * 9 / 10);
		assert_true(stats_now().committed_bytes <= BUDGET_BYTES);
		assert_true(stats_now().process_refusals > refused_before);
		hf_free(chain);
		chain = hf_alloc(sizes[i], HF_RETRY);
		assert_non_null(chain);
		*chain = second;
		check_books();
		free_all(chain);
	}
	check_books();
}

static void classes_have_their_floors(void **state)
{
	const struct ledger_watermarks marks = ledger_watermarks_now(pool_ledger());
	const struct {
		hf_how how;
		uint64_t floor_pages;
	} in_order[] = {{HF_RETRY, marks.min_pages}, {HF_NORETRY, marks.min_pages},
		{HF_RETRY | HF_HIGH, marks.min_pages / 2}, {HF_ATOMIC, marks.min_pages * 3 / 8},
		{HF_ATOMIC | HF_HIGH, marks.min_pages * 3 / 8 / 2}};
	void *chains[HF_COUNT_OF(in_order)];

	(void)state;
	assert_int_equal(marks.min_pages, 256);
	for (size_t i = 0; i < HF_COUNT_OF(in_order); i++) {
		size_t count;

		chains[i] = take_all(100000, in_order[i].how, &count); /* 25 pages */
		const struct hf_stats stats = stats_now();
		const uint64_t room_pages = (stats.limit_bytes - stats.committed_bytes) / 4096;
		assert_true(room_pages >= in_order[i].floor_pages);
		assert_true(room_pages < in_order[i].floor_pages + 25 + 16);
	}
	for (size_t i = 0; i < HF_COUNT_OF(in_order); i++)
		free_all(chains[i]);
}

static void trim_gives_everything_idle_back(void **state)
{
	size_t count;

	(void)state;
	(void)hf_trim();
	const size_t before = stats_now().process_committed_bytes;
	free_all(take_all(5000, HF_RETRY, &count));
	free_all(take_all(50000, HF_RETRY, &count));
	(void)hf_trim();
	const struct hf_stats after = stats_now();
	assert_int_equal(after.idle_bytes, 0);
	/* What stays: descriptors, which are never given back, and at most a started slab a class. */
	assert_true(after.process_committed_bytes - after.metadata_bytes <= before + (1 << 20));
	assert_int_equal(hf_trim(), 0);
	check_books();
}

static void stats_fill_as_much_as_the_caller_knows(void **state)
{
	struct hf_stats stats = {.struct_bytes = offsetof(struct hf_stats, peak_bytes), .peak_bytes = 4711};

	(void)state;
	assert_int_equal(hf_stats_get(&stats), 0);
	assert_int_equal(stats.limit_bytes, BUDGET_BYTES);
	assert_true(stats.committed_bytes > 0);
	assert_int_equal(stats.peak_bytes, 4711);
	stats.struct_bytes = 0;
	assert_int_equal(hf_stats_get(&stats), -EINVAL);
	assert_int_equal(hf_stats_get(NULL), -EINVAL);
	stats = stats_now();
	assert_int_equal(stats.processes, 1);
	assert_true(stats.peak_bytes >= stats.committed_bytes);
	assert_true(stats.process_committed_bytes <= stats.committed_bytes);
	void *object = hf_alloc(1 << 20, HF_RETRY);
	assert_true(stats_now().live_bytes >= stats.live_bytes + (1 << 20));
	hf_free(object);
	assert_int_equal(stats_now().live_bytes, stats.live_bytes);
}

int main(void)
{
	const struct hf_config config = {
		.struct_bytes = sizeof config, .budget_bytes = BUDGET_BYTES, .ignore_environment = true};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alloc_gives_aligned_writable_objects_of_every_size_and_class),
		cmocka_unit_test(alloc_of_nothing_is_a_unique_object),
		cmocka_unit_test(alloc_refuses_unknown_classes_and_flags),
		cmocka_unit_test(alloc_refuses_more_than_ptrdiff_max_as_overflow),
		cmocka_unit_test(alloc_of_what_no_machine_has_is_a_shortage),
		cmocka_unit_test(array_checks_the_product),
		cmocka_unit_test(zalloc_clears_what_was_used_before),
		cmocka_unit_test(aligned_objects_are_aligned),
		cmocka_unit_test(aligned_refuses_what_is_no_power_of_two),
		cmocka_unit_test(realloc_keeps_the_contents_between_any_two_sizes),
		cmocka_unit_test(realloc_of_null_allocates_and_to_nothing_keeps_an_object),
		cmocka_unit_test(realloc_with_zero_clears_what_is_new),
		cmocka_unit_test(realloc_that_fails_leaves_the_object_alone),
		cmocka_unit_test(realloc_grows_a_large_object_past_half_the_budget),
		cmocka_unit_test(free_leaves_errno_alone),
		cmocka_unit_test(at_the_limit_the_answer_is_no_and_after_a_free_it_is_yes),
		cmocka_unit_test(classes_have_their_floors),
		cmocka_unit_test(trim_gives_everything_idle_back),
		cmocka_unit_test(stats_fill_as_much_as_the_caller_knows),
	};

	if (hf_init(&config) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
