/*
 * A thread that is short of memory takes back what others freed of an idle thread's objects, and never what is in use.
 * Also built under ThreadSanitizer.
 */
#include "support/heap_case.h"
#include "support/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

enum { LIMIT_PAGES = 32 << 8, OBJECTS = 250000, OBJECT_BYTES = 64, BATCH = 2000, ROUNDS = 300 };

static void *objects[OBJECTS];
static sem_t allocated, may_end;

static void *allocate_and_idle(void *context)
{
	for (size_t i = 0; i < OBJECTS; i++)
		objects[i] = heap_case_alloc(OBJECT_BYTES);
	CASE_CHECK(sem_post(&allocated) == 0);
	CASE_CHECK(sem_wait(&may_end) == 0);
	return context;
}

static void what_an_idle_thread_owned_serves_another(void **state)
{
	(void)state;
	pthread_t owner;

	CASE_CHECK(pthread_create(&owner, NULL, allocate_and_idle, NULL) == 0);
	CASE_CHECK(sem_wait(&allocated) == 0);
	for (size_t i = 0; i < OBJECTS; i++)
		heap_free(objects[i]);
	(void)heap_trim();
	/* Its current slab, and a page of it, stay the owner's. */
	assert_true(heap_case_committed() < 256);
	void *const large = heap_alloc((size_t)24 << 20, 0, false, 0);
	assert_non_null(large);
	heap_free(large);
	CASE_CHECK(sem_post(&may_end) == 0);
	CASE_CHECK(pthread_join(owner, NULL) == 0);
	heap_check();
}

/* ---- while the owner is busy ---- */

static _Atomic(void *) slots[BATCH];
static _Atomic bool done;
static uint64_t seed;

/* Allocates, frees a part itself, hands the rest over; and now and then has to look for the last free object. */
static void *produce(void *context)
{
	struct random random = {.state = seed + (uint64_t)(uintptr_t)context};

	for (int round = 0; round < ROUNDS; round++)
		for (size_t i = 0; i < BATCH; i++) {
			uint64_t *const object = heap_case_alloc((size_t)OBJECT_BYTES << random_below(&random, 4));

			object[0] = (uint64_t)(uintptr_t)object;
			object[7] = ~object[0];
			void *const before = atomic_exchange(&slots[random_below(&random, BATCH)], object);
			if (before) {
				const uint64_t *const words = before;

				CASE_CHECK(words[0] == (uint64_t)(uintptr_t)before && words[7] == ~words[0]);
				heap_free(before);
			}
		}
	return context;
}

static void *consume_and_trim(void *context)
{
	unsigned round = 0;

	while (!atomic_load(&done)) {
		for (size_t i = 0; i < BATCH; i++) {
			void *const object = atomic_exchange(&slots[i], NULL);
			const uint64_t *const words = object;

			if (!object)
				continue;
			CASE_CHECK(words[0] == (uint64_t)(uintptr_t)object && words[7] == ~words[0]);
			heap_free(object);
		}
		if (++round % 4 == 0)
			(void)heap_trim();
	}
	return context;
}

static void taking_back_never_meets_the_owner(void **state)
{
	(void)state;
	pthread_t producers[2], consumers[2];

	for (size_t i = 0; i < 2; i++) {
		CASE_CHECK(pthread_create(&producers[i], NULL, produce, (void *)(i + 1)) == 0);
		CASE_CHECK(pthread_create(&consumers[i], NULL, consume_and_trim, NULL) == 0);
	}
	for (size_t i = 0; i < 2; i++)
		CASE_CHECK(pthread_join(producers[i], NULL) == 0);
	atomic_store(&done, true);
	for (size_t i = 0; i < 2; i++)
		CASE_CHECK(pthread_join(consumers[i], NULL) == 0);
	for (size_t i = 0; i < BATCH; i++)
		heap_free(atomic_exchange(&slots[i], NULL));
	(void)heap_trim();
	heap_check();
	assert_true(heap_case_stats().live_bytes == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_an_idle_thread_owned_serves_another),
		cmocka_unit_test(taking_back_never_meets_the_owner),
	};

	heap_case_start(LIMIT_PAGES);
	seed = random_seed("take_back");
	CASE_CHECK(sem_init(&allocated, 0, 0) == 0 && sem_init(&may_end, 0, 0) == 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
