/* The heap on a real pool: sizes, alignment, zeroes, growth, resizing, trimming, statistics. One thread, and fork. */
#include "heap/class.h"
#include "heap/slab.h"
#include "os/os.h"
#include "support/child.h"
#include "support/heap_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

static void each_class_is_the_smallest_that_holds(void **state)
{
	(void)state;
	assert_int_equal(class_bytes(0), 16);
	assert_int_equal(class_bytes(CLASS_COUNT - 1), HEAP_SLAB_MAX_BYTES);
	for (size_t bytes = 0; bytes <= HEAP_SLAB_MAX_BYTES; bytes++) {
		const uint32_t cls = class_of(bytes);

		assert_true(cls < CLASS_COUNT);
		assert_true(class_bytes(cls) >= bytes);
		assert_true(cls == 0 || class_bytes(cls - 1) < bytes);
		assert_int_equal(class_bytes(cls) % HEAP_ALIGN_BYTES, 0);
	}
}

static void an_offset_is_a_start_exactly_if_the_size_divides_it(void **state)
{
	(void)state;
	for (uint32_t cls = 0; cls < CLASS_COUNT; cls++) {
		const uint32_t bytes = class_bytes(cls);
		struct slab slab = {.magic = slab_magic(bytes)};
		const uint32_t counts[] = {0, 1, class_capacity(cls) / 2, class_capacity(cls)};

		for (size_t i = 0; i < HF_COUNT_OF(counts); i++) {
			slab.limit = slab_rank(&slab, counts[i] * bytes);
			assert_int_equal(slab_cut_count(&slab), counts[i]);
			for (uint32_t offset = 0; offset < CHUNK_BYTES; offset++)
				if (slab_is_start(&slab, offset) != (offset % bytes == 0 && offset / bytes < counts[i]))
					fail_msg("offset %u, size %u, %u cut", offset, bytes, counts[i]);
		}
	}
}

static void every_size_is_aligned_usable_and_apart(void **state)
{
	enum { SIZES = 600 };
	void *objects[SIZES];
	size_t sizes[SIZES];

	(void)state;
	for (size_t i = 0; i < SIZES; i++) {
		sizes[i] = i < 300 ? i : i * i * i / 500;
		objects[i] = heap_case_alloc(sizes[i]);
		assert_int_equal((uintptr_t)objects[i] % HEAP_ALIGN_BYTES, 0);
		assert_true(heap_usable(objects[i]) >= sizes[i]);
		assert_true(heap_owns(objects[i]));
		pattern_write(objects[i], heap_usable(objects[i]), i);
	}
	heap_check();
	for (size_t i = 0; i < SIZES; i++) {
		assert_true(pattern_holds(objects[i], heap_usable(objects[i]), i));
		heap_free(objects[i]);
	}
	heap_check();
}

static void nothing_is_an_object_too(void **state)
{
	void *const first = heap_case_alloc(0);
	void *const second = heap_case_alloc(0);

	(void)state;
	assert_ptr_not_equal(first, second);
	heap_free(first);
	heap_free(second);
	heap_free(NULL);
}

static void every_alignment_is_kept(void **state)
{
	void *objects[24 * 12];
	size_t count = 0;

	(void)state;
	for (size_t align = 1; align <= (size_t)4 << 20; align *= 2) {
		for (size_t bytes = 1; bytes <= 400000; bytes = bytes * 3 + 7) {
			void *const object = heap_alloc(bytes, align, false, 0);

			assert_non_null(object);
			assert_int_equal((uintptr_t)object % align, 0);
			assert_true(heap_usable(object) >= bytes);
			pattern_write(object, bytes, count);
			objects[count++] = object;
		}
	}
	assert_true(count <= HF_COUNT_OF(objects));
	while (count > 0)
		heap_free(objects[--count]);
}

static void zeroed_objects_are_zero_in_used_memory_and_in_fresh(void **state)
{
	(void)state;
	for (size_t bytes = 1; bytes < 300000; bytes = bytes * 3 / 2 + 5) {
		for (int round = 0; round < 3; round++) {
			void *objects[5];

			for (size_t i = 0; i < HF_COUNT_OF(objects); i++) {
				objects[i] = heap_alloc(bytes, 0, true, 0);
				assert_non_null(objects[i]);
				assert_true(is_zero(objects[i], heap_usable(objects[i])));
				memset(objects[i], 0xa5, heap_usable(objects[i]));
			}
			for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
				heap_free(objects[i]);
		}
	}
}

static void what_was_freed_last_comes_first(void **state)
{
	void *objects[100];

	(void)state;
	for (size_t i = 0; i < 100; i++)
		objects[i] = heap_case_alloc(64);
	heap_free(objects[3]);
	heap_free(objects[7]);
	assert_ptr_equal(heap_alloc_fast(64), objects[7]);
	assert_ptr_equal(heap_alloc(64, 0, false, 0), objects[3]);
	for (size_t i = 0; i < 100; i++)
		heap_free(objects[i]);
}

static void the_fast_path_serves_every_small_size_once_it_is_warm(void **state)
{
	(void)state;
	for (size_t bytes = 0; bytes <= HEAP_SLAB_MAX_BYTES; bytes += bytes < 1100 ? 1 : 131) {
		void *const first = heap_case_alloc(bytes);
		void *const second = heap_case_alloc(bytes);
		void *const third = heap_case_alloc(bytes);

		heap_free(first);
		heap_free(second);
		heap_free(third);
		void *const again = heap_alloc_fast(bytes);
		/* Objects of half a slab: the three may lie in two slabs. */
		assert_true(again != NULL || bytes > CHUNK_BYTES / 4);
		assert_true(!again || heap_usable(again) >= bytes);
		heap_free(again);
	}
	assert_null(heap_alloc_fast(HEAP_SLAB_MAX_BYTES + 1));
	assert_null(heap_alloc_fast(SIZE_MAX));
}

static void errno_is_left_alone_by_free(void **state)
{
	void *small[3000];
	void *const large = heap_case_alloc(3 << 20);

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(small); i++)
		small[i] = heap_case_alloc(1000);
	errno = 12345;
	heap_free(large);
	for (size_t i = 0; i < HF_COUNT_OF(small); i++)
		heap_free(small[i]);
	heap_free(NULL);
	assert_int_equal(errno, 12345);
}

static void a_class_begins_small_and_grows(void **state)
{
	enum { CHILD_LIMIT = 8 };
	void *objects[4000];
	(void)heap_trim();
	const uint64_t before = heap_case_committed();

	(void)state;
	objects[0] = heap_case_alloc(48);
	assert_true(heap_case_committed() - before <= CHILD_LIMIT);
	for (size_t i = 1; i < HF_COUNT_OF(objects); i++)
		objects[i] = heap_case_alloc(48);
	/* Three slabs hold 4,095 of them; and there are descriptors. */
	assert_true(heap_case_committed() - before <= 4 * CHUNK_PAGES);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		heap_free(objects[i]);
	heap_check();
}

static void trim_gives_everything_back(void **state)
{
	enum { OBJECTS = 20000 };
	static void *objects[OBJECTS];
	(void)heap_trim();
	const struct heap_stats before = heap_case_stats();
	const uint64_t committed_before = heap_case_committed();

	(void)state;
	for (size_t i = 0; i < OBJECTS; i++)
		objects[i] = heap_case_alloc(i * 7 % 3000);
	for (size_t i = 0; i < OBJECTS; i++)
		heap_free(objects[i]);
	(void)heap_trim();
	heap_check();
	const struct heap_stats after = heap_case_stats();
	assert_int_equal(after.slabs, before.slabs);
	assert_int_equal(after.live_bytes, before.live_bytes);
	/* Descriptors stay until their block is empty. */
	assert_true(heap_case_committed() <= committed_before + 64);
}

static void empty_slabs_go_back_without_being_asked(void **state)
{
	enum { OBJECTS = 60000 };
	static void *objects[OBJECTS];
	const struct heap_stats before = heap_case_stats();

	(void)state;
	for (size_t i = 0; i < OBJECTS; i++)
		objects[i] = heap_case_alloc(512);
	const uint64_t slabs_full = heap_case_stats().slabs;
	assert_true(slabs_full - before.slabs >= OBJECTS / 128);
	for (size_t i = 0; i < OBJECTS; i++)
		heap_free(objects[i]);
	assert_true(heap_case_stats().slabs - before.slabs <= 2);
}

static void statistics_are_exact(void **state)
{
	const struct heap_stats before = heap_case_stats();
	void *objects[1000];
	uint64_t usable = 0;

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++) {
		objects[i] = heap_case_alloc(i * 50);
		usable += heap_usable(objects[i]);
		assert_int_equal(heap_case_stats().live_bytes - before.live_bytes, usable);
	}
	assert_true(heap_case_stats().large_bytes > before.large_bytes);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		heap_free(objects[i]);
	const struct heap_stats after = heap_case_stats();
	assert_int_equal(after.live_bytes, before.live_bytes);
	assert_int_equal(after.large_bytes, before.large_bytes);
	assert_int_equal(after.spans, before.spans);
}

static void small_objects_resize_within_their_class(void **state)
{
	void *const object = heap_case_alloc(200); /* of 224 */

	(void)state;
	assert_int_equal(heap_resize(object, 224, 0), 0);
	assert_int_equal(heap_resize(object, 113, 0), 0);
	assert_int_equal(heap_resize(object, 225, 0), -ENOSPC);
	assert_int_equal(heap_resize(object, 112, 0), -ENOSPC); /* half: worth a move */
	assert_null(heap_move(object, 300, 0));
	heap_free(object);
}

static void large_objects_grow_in_place_or_move_with_their_contents(void **state)
{
	size_t bytes = 100000;
	void *object = heap_case_alloc(bytes);
	void *const neighbour = heap_case_alloc(100000);

	(void)state;
	pattern_write(object, bytes, 1);
	for (int i = 0; i < 8; i++) {
		const size_t more = bytes * 2;
		const int error = heap_resize(object, more, 0);

		assert_true(error == 0 || error == -ENOSPC);
		if (error != 0) {
			void *const moved = heap_move(object, more, 0);

			if (!moved) { /* copy, as the caller would */
				void *const copy = heap_case_alloc(more);

				memcpy(copy, object, bytes);
				heap_free(object);
				object = copy;
			} else {
				object = moved;
			}
		}
		assert_true(heap_usable(object) >= more);
		assert_true(pattern_holds(object, bytes, 1));
		pattern_write(object, more, 1);
		bytes = more;
	}
	/* To the page; or, where it has huge pages, by whole ones, and then a copy is better. */
	if (heap_resize(object, 70000, 0) == 0)
		assert_true(heap_usable(object) < 80000);
	else
		assert_true(heap_usable(object) <= BLOCK_BYTES);
	assert_true(pattern_holds(object, 70000, 1));
	assert_int_equal(heap_resize(object, 100, 0), -ENOSPC);
	heap_free(object);
	heap_free(neighbour);
	heap_check();
}

static void what_cannot_be_committed_is_null_and_nothing_breaks(void **state)
{
	(void)state;
	assert_null(heap_alloc((size_t)1 << 40, 0, false, 0));
	assert_null(heap_alloc(PTRDIFF_MAX, 0, false, 0));
	assert_null(heap_alloc((size_t)3 << 30, 0, false, (uint64_t)1 << 19)); /* the floor: half of the limit */
	heap_check();
}

static void watched_requests_all_miss(void **state)
{
	void *const object = heap_case_alloc(64);
	void *const other = heap_case_alloc(64);
	void *const third = heap_case_alloc(64);

	(void)state;
	heap_free(object);
	heap_set_watched(true);
	assert_null(heap_alloc_fast(64));
	assert_ptr_equal(heap_alloc(64, 0, false, 0), object);
	heap_free(object);
	heap_free(other);
	assert_null(heap_alloc_fast(64));
	heap_set_watched(false);
	assert_ptr_equal(heap_alloc_fast(64), other);
	heap_free(other);
	heap_free(third);
	heap_check();
}

static void ownership_is_known_for_any_address(void **state)
{
	int local = 0;
	char *const object = heap_case_alloc(5 << 20);

	(void)state;
	assert_true(heap_owns(object + 12345));
	assert_true(heap_owns(object + (3 << 20)));
	assert_false(heap_owns(&local));
	assert_false(heap_owns(NULL));
	assert_false(heap_owns((void *)UINTPTR_MAX));
	assert_false(heap_owns((void *)(uintptr_t)ownership_is_known_for_any_address));
	heap_free(object);
	assert_false(heap_owns(object));
}

enum { FORKED = 300 };

static int fork_body(void *context)
{
	void **const objects = context;
	void *own[FORKED];

	for (size_t i = 0; i < FORKED; i++) {
		CASE_CHECK(pattern_holds(objects[i], i * 40, i));
		own[i] = heap_case_alloc(i * 41);
		pattern_write(own[i], i * 41, i + 1000);
	}
	heap_check();
	for (size_t i = 0; i < FORKED; i++) {
		CASE_CHECK(pattern_holds(objects[i], i * 40, i));
		CASE_CHECK(pattern_holds(own[i], i * 41, i + 1000));
		heap_free(objects[i]);
		heap_free(own[i]);
	}
	heap_check();
	CASE_CHECK(heap_case_stats().live_bytes == 0);
	return 0;
}

static void a_forked_child_has_the_same_objects(void **state)
{
	void *objects[FORKED];

	(void)state;
	assert_int_equal(heap_case_stats().live_bytes, 0);
	for (size_t i = 0; i < FORKED; i++) {
		objects[i] = heap_case_alloc(i * 40);
		pattern_write(objects[i], i * 40, i);
	}
	assert_int_equal(child_check(fork_body, objects), 0);
	for (size_t i = 0; i < FORKED; i++) {
		assert_true(pattern_holds(objects[i], i * 40, i));
		heap_free(objects[i]);
	}
	heap_check();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_class_is_the_smallest_that_holds),
		cmocka_unit_test(an_offset_is_a_start_exactly_if_the_size_divides_it),
		cmocka_unit_test(every_size_is_aligned_usable_and_apart),
		cmocka_unit_test(nothing_is_an_object_too),
		cmocka_unit_test(every_alignment_is_kept),
		cmocka_unit_test(zeroed_objects_are_zero_in_used_memory_and_in_fresh),
		cmocka_unit_test(what_was_freed_last_comes_first),
		cmocka_unit_test(the_fast_path_serves_every_small_size_once_it_is_warm),
		cmocka_unit_test(errno_is_left_alone_by_free),
		cmocka_unit_test(a_class_begins_small_and_grows),
		cmocka_unit_test(trim_gives_everything_back),
		cmocka_unit_test(empty_slabs_go_back_without_being_asked),
		cmocka_unit_test(statistics_are_exact),
		cmocka_unit_test(small_objects_resize_within_their_class),
		cmocka_unit_test(large_objects_grow_in_place_or_move_with_their_contents),
		cmocka_unit_test(what_cannot_be_committed_is_null_and_nothing_breaks),
		cmocka_unit_test(watched_requests_all_miss),
		cmocka_unit_test(ownership_is_known_for_any_address),
		cmocka_unit_test(a_forked_child_has_the_same_objects),
	};

	heap_case_start((uint64_t)1 << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
