/*
 * Every function of the C library that the drop-in replaces, called by a program that knows nothing of Holdfast. Run
 * with LD_PRELOAD; with HOLDFAST=budget=64M. Without the drop-in it fails, since it checks that the drop-in is what
 * answers.
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BUDGET = 64 << 20 };

static int failures;

#define CHECK(condition)                                                                                          \
	do {                                                                                                      \
		if (!(condition)) {                                                                               \
			fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
			failures++;                                                                               \
		}                                                                                                 \
	} while (0)

/* Volatile, so that no compiler can work the answers out by itself. */
static void *(*volatile call_malloc)(size_t) = malloc;
static void *(*volatile call_calloc)(size_t, size_t) = calloc;
static void *(*volatile call_realloc)(void *, size_t) = realloc;
static void *(*volatile call_reallocarray)(void *, size_t, size_t) = reallocarray;
static void *(*volatile call_memalign)(size_t, size_t) = memalign;
static void *(*volatile call_aligned_alloc)(size_t, size_t) = aligned_alloc;
static int (*volatile call_posix_memalign)(void **, size_t, size_t) = posix_memalign;
static void *(*volatile call_valloc)(size_t) = valloc;
static void (*volatile call_free)(void *) = free;

static bool is_zero(const unsigned char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (bytes[i])
			return false;
	return true;
}

/* The call answers NULL and errno is ENOMEM. */
#define CHECK_REFUSED(call)             \
	do {                            \
		errno = 0;              \
		CHECK((call) == NULL);  \
		CHECK(errno == ENOMEM); \
	} while (0)

static void check_malloc_and_calloc(void)
{
	void *none = call_malloc(0), *other = call_malloc(0);

	CHECK(none && other && none != other);
	call_free(none);
	call_free(other);
	call_free(NULL);
	for (size_t bytes = 1; bytes < 1 << 20; bytes = bytes * 3 + 1) {
		errno = 4711;
		unsigned char *object = call_malloc(bytes);
		CHECK(object && (uintptr_t)object % 16 == 0 && malloc_usable_size(object) >= bytes);
		memset(object, 0xff, malloc_usable_size(object));
		call_free(object);
		object = call_calloc(1, bytes);
		CHECK(object && is_zero(object, bytes));
		call_free(object);
		CHECK(errno == 4711);
	}
	CHECK_REFUSED(call_malloc(PTRDIFF_MAX));
	CHECK_REFUSED(call_malloc((size_t)PTRDIFF_MAX + 1));
	CHECK_REFUSED(call_malloc(SIZE_MAX));
	CHECK_REFUSED(call_calloc(SIZE_MAX / 2, 3));
	CHECK_REFUSED(call_calloc((size_t)1 << 32, (size_t)1 << 32));
	CHECK_REFUSED(call_malloc(2 * (size_t)BUDGET));
	CHECK(malloc_usable_size(NULL) == 0);
}

static void check_realloc(void)
{
	char *object = call_realloc(NULL, 10);

	CHECK(object != NULL);
	strcpy(object, "kept");
	for (size_t bytes = 20; bytes < 8 << 20; bytes *= 3) {
		object = call_realloc(object, bytes);
		CHECK(object && strcmp(object, "kept") == 0);
	}
	CHECK_REFUSED(call_realloc(object, SIZE_MAX));
	CHECK_REFUSED(call_realloc(object, 2 * (size_t)BUDGET));
	CHECK_REFUSED(call_reallocarray(object, SIZE_MAX / 4, 5));
	CHECK(strcmp(object, "kept") == 0);
	object = call_reallocarray(object, 5, 1);
	CHECK(object && strcmp(object, "kept") == 0);
	CHECK(call_realloc(object, 0) == NULL); /* glibc: freed */
}

static void check_aligned(void)
{
	for (size_t alignment = 8; alignment <= 1 << 21; alignment *= 2) {
		void *object = call_memalign(alignment, 100);
		CHECK(object && (uintptr_t)object % alignment == 0);
		call_free(object);
		object = call_aligned_alloc(alignment, alignment);
		CHECK(object && (uintptr_t)object % alignment == 0);
		call_free(object);
		object = NULL;
		errno = 4711;
		CHECK(call_posix_memalign(&object, alignment, 3000) == 0);
		CHECK(errno == 4711 && object && (uintptr_t)object % alignment == 0);
		call_free(object);
	}
	void *object = &failures;
	errno = 4711;
	CHECK(call_posix_memalign(&object, 3, 10) == EINVAL);
	CHECK(call_posix_memalign(&object, 4, 10) == EINVAL);
	CHECK(call_posix_memalign(&object, 0, 10) == EINVAL);
	CHECK(call_posix_memalign(&object, 64, SIZE_MAX) == ENOMEM);
	CHECK(call_posix_memalign(&object, 64, 2 * (size_t)BUDGET) == ENOMEM);
	CHECK(errno == 4711 && object == &failures);
	object = call_memalign(48, 100); /* glibc rounds it up */
	CHECK(object && (uintptr_t)object % 64 == 0);
	call_free(object);
	CHECK_REFUSED(call_memalign(4096, PTRDIFF_MAX));
	CHECK_REFUSED(call_aligned_alloc(64, SIZE_MAX - 10));
	object = valloc(10);
	CHECK(object && (uintptr_t)object % 4096 == 0);
	call_free(object);
	object = pvalloc(4097);
	CHECK(object && (uintptr_t)object % 4096 == 0 && malloc_usable_size(object) >= 8192);
	call_free(object);
	CHECK_REFUSED(pvalloc(SIZE_MAX));
	CHECK_REFUSED(call_valloc(SIZE_MAX));
}

static void check_reports(void)
{
	char *text = NULL;
	size_t bytes = 0;
	void *object = call_malloc(1 << 20);
	const struct mallinfo2 before = mallinfo2();

	CHECK(before.uordblks >= 1 << 20 && before.arena >= before.uordblks);
	CHECK(before.fordblks == before.arena - before.uordblks);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	CHECK(mallinfo().uordblks == (int)before.uordblks);
#pragma GCC diagnostic pop
	call_free(object);
	CHECK(mallinfo2().uordblks <= before.uordblks - (1 << 20));
	(void)malloc_trim(0);
	CHECK(mallinfo2().keepcost == 0);
	CHECK(malloc_trim(0) == 0);
	FILE *stream = open_memstream(&text, &bytes);
	CHECK(malloc_info(0, stream) == 0);
	errno = 0;
	CHECK(malloc_info(1, stream) == -1 && errno == EINVAL);
	fclose(stream);
	CHECK(text && strstr(text, "holdfast"));
	call_free(text);
	malloc_stats();
}

/* Fills the budget in small objects and lets go again: malloc says no, nothing dies. */
static void check_limit(void)
{
	void *chain = NULL, *object;
	size_t count = 0;

	errno = 0;
	while ((object = call_malloc(1000))) {
		memset(object, 1, 1000);
		*(void **)object = chain;
		chain = object;
		count++;
	}
	CHECK(errno == ENOMEM);
	CHECK(count > BUDGET / 1000 * 8 / 10 && count < BUDGET / 1000);
	while (chain) {
		object = *(void **)chain;
		call_free(chain);
		chain = object;
	}
	object = call_malloc(BUDGET / 2);
	CHECK(object != NULL);
	call_free(object);
}

/* The whole of the address space that the library has open must not be filled and locked. */
static void check_mlockall(void)
{
	void *object;
	const int error = mlockall(MCL_CURRENT | MCL_FUTURE);

	if (error != 0) {
		CHECK(errno == ENOMEM || errno == EPERM); /* RLIMIT_MEMLOCK */
		return;
	}
	object = call_malloc(3 << 20);
	CHECK(object != NULL);
	memset(object, 1, 3 << 20);
	call_free(object);
	CHECK_REFUSED(call_malloc(2 * (size_t)BUDGET));
	long resident_pages = 0;
	FILE *statm = fopen("/proc/self/statm", "r");
	CHECK(statm && fscanf(statm, "%*s %ld", &resident_pages) == 1);
	if (statm)
		fclose(statm);
	CHECK(resident_pages < BUDGET / 4096);
	CHECK(munlockall() == 0);
}

static void check_old_names(void)
{
	void (*old_free)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
	void (*sized_free)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
	void (*aligned_free)(void *, size_t, size_t) =
		(void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");

	CHECK(old_free && sized_free && aligned_free);
	if (!old_free || !sized_free || !aligned_free)
		return;
	old_free(call_malloc(10));
	sized_free(call_malloc(10), 10);
	aligned_free(call_memalign(64, 100), 64, 100);
}

/* For a user with RLIMIT_MEMLOCK as it is by default: what works without the drop-in works with it. */
static int lock_and_allocate(void)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
		perror("mlockall");
		return 1;
	}
	void *object = call_malloc(200000);
	if (!object)
		return 2;
	memset(object, 1, 200000);
	call_free(object);
	puts("locked");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "locked") == 0)
		return lock_and_allocate();
	check_malloc_and_calloc();
	check_realloc();
	check_aligned();
	check_reports();
	check_limit();
	check_old_names();
	check_mlockall();
	printf("%d failures\n", failures);
	return failures != 0;
}
