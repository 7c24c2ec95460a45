/* Each misuse ends the program by SIGABRT, with a message that names the address and what is known of it. */
#include "os/os.h"
#include "support/child.h"
#include "support/heap_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

/* What the message must say; filled in by the child, hence shared. */
struct expected {
	char text[2][64];
};
static struct expected *expected;

static void expect(const char *first, const void *pointer, const char *second)
{
	snprintf(expected->text[0], sizeof expected->text[0], first, pointer);
	snprintf(expected->text[1], sizeof expected->text[1], "%s", second);
}

struct misuse {
	const char *name;
	int (*body)(void *context);
};

static void dies(void **state)
{
	const struct misuse *const misuse = *state;
	char text[1024];
	const int status = child_run(misuse->body, NULL, text, sizeof text);

	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
		fail_msg("status %#x, message: %s", (unsigned)status, text);
	for (size_t i = 0; i < 2; i++)
		if (strstr(text, expected->text[i]) == NULL)
			fail_msg("expected \"%s\" in: %s", expected->text[i], text);
}

/* ---- the misuses: each returns if it was not noticed ---- */

static int double_free(void *context)
{
	void *const object = heap_case_alloc(100);
	expect("hf_free(%p)", object, "freed already (an object of 112 bytes)");
	heap_free(object);
	heap_free(object);
	(void)context;
	return 0;
}

static int double_free_after_others(void *context)
{
	void *objects[300];
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = heap_case_alloc(64);
	expect("hf_free(%p)", objects[77], "freed already (an object of 64 bytes)");
	for (size_t i = 0; i < HF_COUNT_OF(objects); i += 2)
		heap_free(objects[i]);
	heap_free(objects[77]);
	for (size_t i = 101; i < HF_COUNT_OF(objects); i += 2)
		heap_free(objects[i]);
	heap_free(objects[77]);
	(void)context;
	return 0;
}

static int double_free_of_an_object_that_was_never_written(void *context)
{
	void *const object = heap_alloc(32, 0, true, 0);
	expect("hf_free(%p)", object, "freed already");
	heap_free(object);
	heap_free(object);
	(void)context;
	return 0;
}

static int double_free_while_watched(void *context)
{
	void *const object = heap_case_alloc(100);
	heap_set_watched(true);
	expect("hf_free(%p)", object, "freed already");
	heap_free(object);
	heap_free(object);
	(void)context;
	return 0;
}

static void *free_it(void *object)
{
	heap_free(object);
	return NULL;
}

static void free_elsewhere(void *object)
{
	pthread_t thread;

	CASE_CHECK(pthread_create(&thread, NULL, free_it, object) == 0);
	CASE_CHECK(pthread_join(thread, NULL) == 0);
}

static int double_free_by_two_other_threads(void *context)
{
	void *const object = heap_case_alloc(100);
	expect("hf_free(%p)", object, "freed already");
	free_elsewhere(object);
	free_elsewhere(object);
	(void)context;
	return 0;
}

static int double_free_here_and_elsewhere(void *context)
{
	void *const object = heap_case_alloc(100);
	expect("hf_free(%p)", object, "freed already");
	heap_free(object);
	free_elsewhere(object);
	(void)context;
	return 0;
}

static int double_free_elsewhere_and_here(void *context)
{
	void *const object = heap_case_alloc(100);
	expect("hf_free(%p)", object, "freed already");
	free_elsewhere(object);
	heap_free(object);
	(void)context;
	return 0;
}

static int double_free_after_the_slab_went_back(void *context)
{
	void *objects[600];
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = heap_case_alloc(1024);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		heap_free(objects[i]);
	(void)heap_trim();
	expect("hf_free(%p)", objects[70], "freed already");
	heap_free(objects[70]);
	(void)context;
	return 0;
}

static int double_free_of_a_large_object(void *context)
{
	void *const object = heap_case_alloc(200000);
	expect("hf_free(%p)", object, "freed already");
	heap_free(object);
	heap_free(object);
	(void)context;
	return 0;
}

static int free_of_the_inside_of_an_object(void *context)
{
	char *const object = heap_case_alloc(64);
	char second[64];
	snprintf(second, sizeof second, "points 8 bytes into an object of 64 bytes at %p", (void *)object);
	expect("hf_free(%p)", object + 8, second);
	heap_free(object + 8);
	(void)context;
	return 0;
}

static int free_of_the_aligned_inside_of_an_object(void *context)
{
	char *const object = heap_case_alloc(20000);
	expect("hf_free(%p)", object + 4096, "points 4096 bytes into an object of 20480 bytes");
	heap_free(object + 4096);
	(void)context;
	return 0;
}

static int free_of_the_inside_of_a_large_object(void *context)
{
	char *const object = heap_case_alloc(200000);
	char second[64];
	snprintf(second, sizeof second, "points 16 bytes into an object of 200704 bytes");
	expect("hf_free(%p)", object + 16, second);
	heap_free(object + 16);
	(void)context;
	return 0;
}

static int free_of_the_far_inside_of_a_huge_object(void *context)
{
	char *const object = heap_case_alloc(64 << 20);
	expect("hf_free(%p)", object + (33 << 20), "points 34603008 bytes into an object of 67108864 bytes");
	heap_free(object + (33 << 20));
	(void)context;
	return 0;
}

static int free_of_the_stack(void *context)
{
	int on_the_stack = 0;
	expect("hf_free(%p)", &on_the_stack, "not from this heap");
	heap_free(&on_the_stack);
	(void)context;
	return 0;
}

static int free_of_static_memory(void *context)
{
	expect("hf_free(%p)", &expected, "not from this heap");
	heap_free(&expected);
	(void)context;
	return 0;
}

static int free_of_foreign_mapped_memory(void *context)
{
	void *const memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expect("hf_free(%p)", memory, "not from this heap");
	heap_free(memory);
	(void)context;
	return 0;
}

static int free_of_an_absurd_address(void *context)
{
	void *const address = (void *)(uintptr_t)0xdeadbeefdeadbee0;
	expect("hf_free(%p)", address, "not from this heap");
	heap_free(address);
	(void)context;
	return 0;
}

/* All over the window, known or not: a message, never a fault. */
static int free_at(void *address)
{
	heap_free(address);
	return 0;
}

static void free_anywhere_in_the_window(void **state)
{
	(void)state;
	for (uintptr_t index = 1; index < pool_window.chunk_count; index = index * 5 + 3) {
		void *const address = (void *)(pool_window.base + (index << CHUNK_SHIFT) + 64);
		char text[1024];
		const int status = child_run(free_at, address, text, sizeof text);

		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, "hf_free("))
			fail_msg("%p: status %#x, message: %s", address, (unsigned)status, text);
	}
}

static int free_of_what_was_never_handed_out(void *context)
{
	char *const object = heap_case_alloc(16384);
	expect("hf_free(%p)", object + 16384, "no object was ever handed out there");
	heap_free(object + 16384);
	(void)context;
	return 0;
}

static int a_write_after_free(void *context)
{
	uint64_t *objects[10];
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = heap_case_alloc(48);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		heap_free(objects[i]);
	objects[5][0] = 0x4141414141414141;
	expect("%p", objects[5], "damaged link in the free object of 48 bytes");
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		(void)heap_case_alloc(48);
	(void)context;
	return 0;
}

/* The classic: a string's terminating zero lands one byte past its object. */
static int an_overflow_by_one_byte(void *context)
{
	char *objects[1000];
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = heap_case_alloc(32);
	for (size_t i = 1; i < HF_COUNT_OF(objects); i += 2)
		heap_free(objects[i]);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i += 2)
		objects[i][32] = (char)(objects[i][32] ^ 0x15);
	expect("object%.0s", (const void *)"", "damaged");
	for (size_t i = 1; i < HF_COUNT_OF(objects); i += 2)
		(void)heap_case_alloc(32);
	(void)context;
	return 0;
}

static int a_write_after_a_free_elsewhere(void *context)
{
	uint64_t *objects[10];
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i] = heap_case_alloc(30000);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		free_elsewhere(objects[i]);
	for (size_t i = 0; i < HF_COUNT_OF(objects); i++)
		objects[i][0] = i + 1;
	expect("object%.0s", (const void *)"", "damaged link in the free object of 32768 bytes");
	for (size_t i = 0; i < 2 * HF_COUNT_OF(objects); i++)
		(void)heap_case_alloc(30000);
	(void)context;
	return 0;
}

static int realloc_of_a_freed_object(void *context)
{
	void *const object = heap_case_alloc(100);
	expect("hf_realloc(%p)", object, "freed already");
	heap_free(object);
	return heap_resize(object, 110, 0) == 0;
	(void)context;
	return 0;
}

static int realloc_of_a_freed_large_object(void *context)
{
	void *const object = heap_case_alloc(100000);
	expect("hf_realloc(%p)", object, "freed already");
	heap_free(object);
	return heap_move(object, 200000, 0) != NULL;
	(void)context;
	return 0;
}

static int size_of_garbage(void *context)
{
	void *const garbage = (void *)(uintptr_t)0x1234567890;
	expect("hf_usable_bytes(%p)", garbage, "not from this heap");
	(void)heap_usable(garbage);
	(void)context;
	return 0;
}

static int size_of_a_freed_object(void *context)
{
	void *const object = heap_case_alloc(500);
	expect("hf_usable_bytes(%p)", object, "freed already (an object of 512 bytes)");
	heap_free(object);
	(void)heap_usable(object);
	(void)context;
	return 0;
}

/* Not misuse: data that happens to look like a free object's link is just data. */
static void what_looks_like_a_link_is_no_double_free(void **state)
{
	uint64_t *const object = heap_case_alloc(64);
	uint64_t *const other = heap_case_alloc(64);

	(void)state;
	heap_free(object);
	const uint64_t link = object[0]; /* nobody may read this, but a program might */
	uint64_t *const again = heap_case_alloc(64);
	assert_ptr_equal(again, object);
	again[0] = link;
	heap_free(again);
	heap_free(other);
	heap_check();
}

#define MISUSE(body)        \
	{                   \
#body, body \
	}
static struct misuse misuses[] = {
	MISUSE(double_free),
	MISUSE(double_free_after_others),
	MISUSE(double_free_of_an_object_that_was_never_written),
	MISUSE(double_free_while_watched),
	MISUSE(double_free_by_two_other_threads),
	MISUSE(double_free_here_and_elsewhere),
	MISUSE(double_free_elsewhere_and_here),
	MISUSE(double_free_after_the_slab_went_back),
	MISUSE(double_free_of_a_large_object),
	MISUSE(free_of_the_inside_of_an_object),
	MISUSE(free_of_the_aligned_inside_of_an_object),
	MISUSE(free_of_the_inside_of_a_large_object),
	MISUSE(free_of_the_far_inside_of_a_huge_object),
	MISUSE(free_of_the_stack),
	MISUSE(free_of_static_memory),
	MISUSE(free_of_foreign_mapped_memory),
	MISUSE(free_of_an_absurd_address),
	MISUSE(free_of_what_was_never_handed_out),
	MISUSE(a_write_after_free),
	MISUSE(an_overflow_by_one_byte),
	MISUSE(a_write_after_a_free_elsewhere),
	MISUSE(realloc_of_a_freed_object),
	MISUSE(realloc_of_a_freed_large_object),
	MISUSE(size_of_garbage),
	MISUSE(size_of_a_freed_object),
};

int main(void)
{
	struct CMUnitTest tests[HF_COUNT_OF(misuses) + 2] = {
		cmocka_unit_test(free_anywhere_in_the_window),
		cmocka_unit_test(what_looks_like_a_link_is_no_double_free),
	};

	for (size_t i = 0; i < HF_COUNT_OF(misuses); i++)
		tests[i + 2] = (struct CMUnitTest){misuses[i].name, dies, NULL, NULL, &misuses[i]};
	heap_case_start((uint64_t)1 << 20);
	expected = mmap(NULL, sizeof *expected, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (expected == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
