/*
 * Threads: objects that cross between them, threads that come and go, destructors that allocate, forks in the middle of
 * everything. Also built under ThreadSanitizer.
 */
#include "os/os.h"
#include "support/child.h"
#include "support/heap_case.h"
#include "support/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { LIMIT_PAGES = 1 << 18 };

static uint64_t seed;

/* The first 16 bytes of each object say how large it is and what is in it. */
struct object {
	uint32_t bytes;
	uint32_t seed;
	uint64_t more[];
};

static struct object *object_make(struct random *random)
{
	const size_t largest = random_below(random, 50) == 0 ? 200000 : random_below(random, 10) == 0 ? 20000 : 600;
	const size_t bytes = sizeof(struct object) + random_below(random, largest);
	void *memory = heap_alloc_fast(bytes);

	if (!memory)
		memory = heap_case_alloc(bytes);
	struct object *const object = memory;
	object->bytes = (uint32_t)bytes;
	object->seed = (uint32_t)random_next(random);
	pattern_write(object->more, bytes - sizeof *object, object->seed);
	return object;
}

static void object_end(struct object *object)
{
	CASE_CHECK(pattern_holds(object->more, object->bytes - sizeof *object, object->seed));
	heap_free(object);
}

static void threads_run(pthread_t *threads, size_t count, void *(*body)(void *context), void *context)
{
	for (size_t i = 0; i < count; i++)
		CASE_CHECK(pthread_create(&threads[i], NULL, body, context) == 0);
	for (size_t i = 0; i < count; i++)
		CASE_CHECK(pthread_join(threads[i], NULL) == 0);
}

static void nothing_is_left(void)
{
	(void)heap_trim();
	heap_check();
	const struct heap_stats stats = heap_case_stats();

	assert_int_equal(stats.live_bytes, 0);
	assert_int_equal(stats.orphan_heaps, 0);
	assert_int_equal(stats.slabs, 0);
	assert_int_equal(stats.spans, 0);
}

/* ---- objects cross ---- */

enum { BOXES = 512, SWAPS = 30000, CROSSING = 4 };
static _Atomic(struct object *) boxes[BOXES];

/* Whoever comes by puts an object in and frees what was there: most likely somebody else's. */
static void *cross_body(void *context)
{
	struct random random = {seed + atomic_fetch_add((_Atomic uint64_t *)context, 1)};

	for (int i = 0; i < SWAPS; i++) {
		struct object *const object = object_make(&random);
		struct object *const before = atomic_exchange(&boxes[random_below(&random, BOXES)], object);

		if (before)
			object_end(before);
	}
	return NULL;
}

static void objects_cross_between_threads(void **state)
{
	_Atomic uint64_t counter = 0;
	pthread_t threads[CROSSING];

	(void)state;
	threads_run(threads, CROSSING, cross_body, &counter);
	heap_check();
	for (size_t i = 0; i < BOXES; i++) {
		struct object *const object = atomic_exchange(&boxes[i], NULL);

		if (object)
			object_end(object);
	}
	nothing_is_left();
}

/* ---- one makes, the other frees ---- */

enum { RING = 1024, PASSED = 150000 };
static _Atomic(void *) ring[RING];

static void *consumer_body(void *unused)
{
	for (size_t i = 0; i < PASSED; i++) {
		void *object;

		while (!(object = atomic_exchange(&ring[i % RING], NULL)))
			os_yield();
		heap_free(object);
	}
	return unused;
}

/* The memory that comes back from the other thread is used again: what is held stays bounded. */
static void a_producer_gets_its_memory_back(void **state)
{
	pthread_t consumer;
	uint64_t most_slabs = 0;

	(void)state;
	assert_int_equal(pthread_create(&consumer, NULL, consumer_body, NULL), 0);
	for (size_t i = 0; i < PASSED; i++) {
		void *const object = heap_case_alloc(256);

		while (atomic_load(&ring[i % RING]))
			os_yield();
		atomic_store(&ring[i % RING], object);
		if (i % 4096 == 0) {
			const uint64_t slabs = heap_case_stats().slabs;

			most_slabs = slabs > most_slabs ? slabs : most_slabs;
		}
	}
	assert_int_equal(pthread_join(consumer, NULL), 0);
	/* 1,024 objects of 256 bytes are in flight: 4 slabs; and some that wait until enough has come back. */
	assert_true(most_slabs <= 16);
	nothing_is_left();
}

/* ---- threads come and go ---- */

static void *brief_body(void *context)
{
	struct random random = {seed + (uintptr_t)context};
	struct object *objects[20];

	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = object_make(&random);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		object_end(objects[i]);
	return NULL;
}

static void ten_thousand_threads_leave_nothing_behind(void **state)
{
	enum { THREADS = HF_TSAN ? 1000 : 10000 };
	uint64_t committed_early = 0;

	(void)state;
	for (uintptr_t i = 0; i < THREADS; i++) {
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, brief_body, (void *)i), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		if (i == 100) {
			(void)heap_trim();
			committed_early = heap_case_committed();
		}
	}
	nothing_is_left();
	assert_true(heap_case_committed() <= committed_early + 4);
	assert_true(heap_case_stats().threads <= 1);
}

enum { LEFT = 200 };

static void *leaver_body(void *context)
{
	struct object **const objects = context;
	struct random random = {seed};

	for (size_t i = 0; i < LEFT; i++)
		objects[i] = object_make(&random);
	return NULL;
}

static void what_an_ended_thread_left_is_freed_by_others_and_goes_back(void **state)
{
	struct object *objects[LEFT];
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, leaver_body, objects), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(heap_case_stats().orphan_heaps, 1);
	heap_check();
	for (size_t i = 0; i < LEFT; i++)
		object_end(objects[i]);
	/* With the last free, and without being asked. */
	assert_int_equal(heap_case_stats().orphan_heaps, 0);
	assert_int_equal(heap_case_stats().live_bytes, 0);
	nothing_is_left();
}

static void *heir_body(void *context)
{
	struct random random = {seed + 1};

	object_end(object_make(&random));
	CASE_CHECK(heap_case_stats().orphan_heaps == 0); /* it is this thread's now */
	heap_check();
	for (size_t i = 0; i < LEFT; i++)
		object_end(((struct object **)context)[i]);
	heap_check();
	return NULL;
}

static void a_new_thread_takes_over_an_ended_ones_heap(void **state)
{
	struct object *objects[LEFT];
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, leaver_body, objects), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(heap_case_stats().orphan_heaps, 1);
	assert_int_equal(pthread_create(&thread, NULL, heir_body, objects), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	nothing_is_left();
}

enum { HALF = 2000 };

static void *half_body(void *context)
{
	void **const objects = context;

	for (size_t i = 0; i < HALF; i++)
		objects[i] = heap_case_alloc(128);
	for (size_t i = 0; i < HALF; i += 2)
		heap_free(objects[i]);
	return NULL;
}

/* A thread that has a heap already takes single slabs of an orphan before it asks the pool for more. */
static void holes_in_an_orphan_are_filled_by_others(void **state)
{
	void *objects[HALF];
	void *filled[HALF / 2];
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, half_body, objects), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	const uint64_t slabs_before = heap_case_stats().slabs;
	for (size_t i = 0; i < HALF / 2 - 64; i++) {
		filled[i] = heap_case_alloc(128);
		pattern_write(filled[i], 128, i);
	}
	assert_true(heap_case_stats().slabs <= slabs_before);
	heap_check();
	for (size_t i = 0; i < HALF / 2 - 64; i++) {
		assert_true(pattern_holds(filled[i], 128, i));
		heap_free(filled[i]);
	}
	for (size_t i = 1; i < HALF; i += 2)
		heap_free(objects[i]);
	nothing_is_left();
}

/* ---- a thread's last requests ---- */

static pthread_key_t late_key;
static _Atomic int late_rounds;
static __thread int my_rounds;

/* Runs before or after our own destructor, in several rounds; it needs memory each time. */
static void late_destructor(void *value)
{
	struct random random = {seed + 7};
	struct object *const object = object_make(&random);

	object_end(value);
	object_end(object);
	atomic_fetch_add(&late_rounds, 1);
	if (my_rounds++ < 2) /* the C library makes four */
		CASE_CHECK(pthread_setspecific(late_key, object_make(&random)) == 0);
}

static void *late_body(void *unused)
{
	struct random random = {seed + 8};

	CASE_CHECK(pthread_setspecific(late_key, object_make(&random)) == 0);
	return unused;
}

static void destructors_may_still_allocate_and_free(void **state)
{
	enum { THREADS = 100 };
	pthread_t threads[THREADS];

	(void)state;
	assert_int_equal(pthread_key_create(&late_key, late_destructor), 0);
	threads_run(threads, THREADS, late_body, NULL);
	assert_int_equal(atomic_load(&late_rounds), 3 * THREADS);
	assert_int_equal(pthread_key_delete(late_key), 0);
	assert_true(heap_case_stats().threads <= 1);
	nothing_is_left();
}

/* ---- statistics and trimming beside all that ---- */

static _Atomic bool busy_stop;

static void *busy_body(void *context)
{
	struct random random = {seed + atomic_fetch_add((_Atomic uint64_t *)context, 1)};
	struct object *objects[100] = {NULL};

	while (!atomic_load_explicit(&busy_stop, memory_order_relaxed)) {
		struct object **const at = &objects[random_below(&random, HF_COUNT_OF(objects))];

		if (*at)
			*at = atomic_exchange(&boxes[random_below(&random, BOXES)], *at);
		if (*at)
			object_end(*at);
		*at = object_make(&random);
	}
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		if (objects[i])
			object_end(objects[i]);
	return NULL;
}

struct busy {
	pthread_t threads[3];
	_Atomic uint64_t counter;
};

static void busy_begin(struct busy *busy)
{
	atomic_store(&busy_stop, false);
	for (size_t i = 0; i < HF_COUNT_OF(busy->threads); i++)
		assert_int_equal(pthread_create(&busy->threads[i], NULL, busy_body, &busy->counter), 0);
}

static void busy_end(struct busy *busy)
{
	atomic_store(&busy_stop, true);
	for (size_t i = 0; i < HF_COUNT_OF(busy->threads); i++)
		assert_int_equal(pthread_join(busy->threads[i], NULL), 0);
	for (size_t i = 0; i < BOXES; i++) {
		struct object *const object = atomic_exchange(&boxes[i], NULL);

		if (object)
			object_end(object);
	}
}

static void statistics_and_trim_run_beside_busy_threads(void **state)
{
	struct busy busy = {.counter = 100};

	(void)state;
	busy_begin(&busy);
	for (int i = 0; i < 300; i++) {
		const struct heap_stats stats = heap_case_stats();

		assert_true(stats.live_bytes <= (uint64_t)LIMIT_PAGES * 4096);
		if (i % 10 == 0)
			(void)heap_trim();
		heap_set_watched(i % 3 == 0);
		os_yield();
	}
	heap_set_watched(false);
	busy_end(&busy);
	nothing_is_left();
}

/* ---- fork in the middle ---- */

struct fork_case {
	struct object *mine[200];
	uint64_t round;
};

static void *child_thread(void *context)
{
	struct random random = {seed + *(uint64_t *)context};

	for (int i = 0; i < 300; i++)
		object_end(object_make(&random));
	return NULL;
}

/*
 * The other threads were anywhere. What this thread holds is whole; what it allocates now overlaps with nothing; other
 * threads' objects that it can reach are whole too, and can be freed.
 */
static int fork_child_body(void *context)
{
	struct fork_case *const c = context;
	struct random random = {seed + c->round};
	struct object *objects[1500];
	pthread_t threads[2];

	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = object_make(&random);
	heap_check();
	for (size_t i = 0; i < BOXES; i++) {
		struct object *const object = atomic_exchange(&boxes[i], NULL);

		if (object)
			object_end(object);
	}
	/* ThreadSanitizer dies when a child of a process with threads makes one. */
	if (!HF_TSAN)
		threads_run(threads, HF_COUNT_OF(threads), child_thread, &c->round);
	for (size_t i = 0; i < HF_COUNT_OF(c->mine); i++)
		object_end(c->mine[i]);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		object_end(objects[i]);
	heap_check();
	(void)heap_trim();
	heap_check();
	return 0;
}

static void a_fork_meets_other_threads_anywhere(void **state)
{
	const uint64_t forks =
		HF_TSAN ? 1 : 60; /* under ThreadSanitizer the child must not make threads: see fork_child_body() */
	struct busy busy = {.counter = 200};
	static struct fork_case c;
	struct random random = {seed + 9};

	(void)state;
	busy_begin(&busy);
	for (size_t i = 0; i < HF_COUNT_OF(c.mine); i++)
		c.mine[i] = object_make(&random);
	for (c.round = 0; c.round < forks; c.round++) {
		assert_int_equal(child_check(fork_child_body, &c), 0);
		for (size_t i = 0; i < 20; i++) {
			object_end(c.mine[i]);
			c.mine[i] = object_make(&random);
		}
	}
	busy_end(&busy);
	for (size_t i = 0; i < HF_COUNT_OF(c.mine); i++)
		object_end(c.mine[i]);
	nothing_is_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(objects_cross_between_threads),
		cmocka_unit_test(a_producer_gets_its_memory_back),
		cmocka_unit_test(ten_thousand_threads_leave_nothing_behind),
		cmocka_unit_test(what_an_ended_thread_left_is_freed_by_others_and_goes_back),
		cmocka_unit_test(a_new_thread_takes_over_an_ended_ones_heap),
		cmocka_unit_test(holes_in_an_orphan_are_filled_by_others),
		cmocka_unit_test(destructors_may_still_allocate_and_free),
		cmocka_unit_test(statistics_and_trim_run_beside_busy_threads),
		cmocka_unit_test(a_fork_meets_other_threads_anywhere),
	};

	seed = random_seed("test_heap_threads");
	heap_case_start(LIMIT_PAGES);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
