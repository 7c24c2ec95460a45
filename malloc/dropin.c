/*
 * The drop-in: the C library's allocation functions over Holdfast's public API.
 *
 * Every request accepts failure only after an effort (HF_RETRY), and says nothing when it fails: the program does.
 * errno is ENOMEM or untouched, whatever the reason. What the standard leaves open is as glibc has it: malloc(0) is a
 * unique object, realloc(p, 0) frees, memalign() rounds an odd alignment up.
 *
 * mlockall() is here because it would lock, and so fill, all the address space that the library has open.
 * C++: new and delete of libstdc++ and libc++ call malloc and free.
 */
#include <holdfast/alloc.h>
#include <holdfast/init.h>
#include <holdfast/stats.h>

#include <errno.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOW (HF_RETRY | HF_NOWARN)
#define EXPORT __attribute__((visibility("default")))

enum { PAGE_BYTES = 4096, DEFAULT_ALIGNMENT = 16 };

/* C23's and the old names, which no header here declares. */
void free_sized(void *object, size_t bytes);
void free_aligned_sized(void *object, size_t alignment, size_t bytes);
void cfree(void *object);

/* The reason why is for hf_alloc()'s callers; malloc()'s know one. */
static inline void *result(void *object)
{
	if (__builtin_expect(object == NULL, 0))
		errno = ENOMEM;
	return object;
}

EXPORT void *malloc(size_t bytes)
{
	return result(hf_alloc(bytes, HOW));
}

EXPORT void *calloc(size_t count, size_t bytes_each)
{
	return result(hf_alloc_array(count, bytes_each, HOW | HF_ZERO));
}

EXPORT void *realloc(void *object, size_t bytes)
{
	if (object && bytes == 0) {
		hf_free(object);
		return NULL;
	}
	return result(hf_realloc(object, bytes, HOW));
}

EXPORT void *reallocarray(void *object, size_t count, size_t bytes_each)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, bytes_each, &bytes))
		return result(NULL);
	return realloc(object, bytes);
}

EXPORT void free(void *object)
{
	hf_free(object);
}

EXPORT void free_sized(void *object, size_t bytes)
{
	hf_free_sized(object, bytes);
}

EXPORT void free_aligned_sized(void *object, size_t alignment, size_t bytes)
{
	(void)alignment;
	hf_free_sized(object, bytes);
}

EXPORT void cfree(void *object)
{
	hf_free(object);
}

static inline bool is_power_of_two(size_t number)
{
	return number != 0 && (number & (number - 1)) == 0;
}

EXPORT void *memalign(size_t alignment, size_t bytes)
{
	if (alignment > SIZE_MAX / 2 + 1) {
		errno = EINVAL;
		return NULL;
	}
	if (!is_power_of_two(alignment)) {
		size_t rounded = DEFAULT_ALIGNMENT;

		while (rounded < alignment)
			rounded <<= 1;
		alignment = rounded;
	}
	return result(hf_alloc_aligned(alignment, bytes, HOW));
}

EXPORT void *aligned_alloc(size_t alignment, size_t bytes)
{
	return memalign(alignment, bytes);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t bytes)
{
	const int saved_errno = errno;
	void *object;

	if (!is_power_of_two(alignment) || alignment % sizeof(void *) != 0)
		return EINVAL;
	object = hf_alloc_aligned(alignment, bytes, HOW);
	errno = saved_errno;
	if (!object)
		return ENOMEM;
	*out = object;
	return 0;
}

EXPORT void *valloc(size_t bytes)
{
	return result(hf_alloc_aligned(PAGE_BYTES, bytes, HOW));
}

EXPORT void *pvalloc(size_t bytes)
{
	if (bytes > SIZE_MAX - (PAGE_BYTES - 1))
		return result(NULL);
	bytes = (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
	return valloc(bytes ? bytes : PAGE_BYTES);
}

EXPORT size_t malloc_usable_size(void *object)
{
	return hf_usable_bytes(object);
}

EXPORT int malloc_trim(size_t keep_bytes)
{
	(void)keep_bytes; /* what a heap keeps idle is bounded by the library itself */
	return hf_trim() > 0;
}

static struct hf_stats stats_now(void)
{
	struct hf_stats stats = {.struct_bytes = sizeof stats};

	if (hf_stats_get(&stats) != 0)
		stats = (struct hf_stats){.struct_bytes = 0};
	return stats;
}

/* arena: what this process has committed; uordblks: in use by the program; fordblks: the rest; keepcost: what
 * malloc_trim() could give back. */
EXPORT struct mallinfo2 mallinfo2(void)
{
	const struct hf_stats stats = stats_now();
	const size_t committed_bytes = stats.process_committed_bytes;
	const size_t live_bytes = stats.live_bytes < committed_bytes ? stats.live_bytes : committed_bytes;

	return (struct mallinfo2){
		.arena = committed_bytes,
		.uordblks = live_bytes,
		.fordblks = committed_bytes - live_bytes,
		.keepcost = stats.idle_bytes,
	};
}

/* The old one's fields are ints: what does not fit wraps, as glibc's do. */
EXPORT struct mallinfo mallinfo(void)
{
	const struct mallinfo2 info = mallinfo2();

	return (struct mallinfo){
		.arena = (int)info.arena,
		.uordblks = (int)info.uordblks,
		.fordblks = (int)info.fordblks,
		.keepcost = (int)info.keepcost,
	};
}

EXPORT void malloc_stats(void)
{
	const struct hf_stats stats = stats_now();

	fprintf(stderr,
		"holdfast: this process: committed %zu, in use %zu, idle %zu, metadata %zu bytes; refused %llu "
		"requests\n",
		stats.process_committed_bytes, stats.live_bytes, stats.idle_bytes, stats.metadata_bytes,
		(unsigned long long)stats.process_refusals);
	fprintf(stderr, "holdfast: the budget: committed %zu, peak %zu", stats.committed_bytes, stats.peak_bytes);
	if (stats.limit_bytes == SIZE_MAX)
		fprintf(stderr, " bytes, no limit; ");
	else
		fprintf(stderr, " of %zu bytes; ", stats.limit_bytes);
	fprintf(stderr, "%u processes\n", stats.processes);
}

EXPORT int malloc_info(int options, FILE *stream)
{
	const struct hf_stats stats = stats_now();

	if (options != 0) {
		errno = EINVAL;
		return -1;
	}
	fprintf(stream,
		"<malloc version=\"holdfast-1\">\n<system type=\"current\" size=\"%zu\"/>\n"
		"<total type=\"live\" size=\"%zu\"/>\n<total type=\"idle\" size=\"%zu\"/>\n</malloc>\n",
		stats.process_committed_bytes, stats.live_bytes, stats.idle_bytes);
	return 0;
}

EXPORT int mlockall(int flags)
{
	(void)hf_prepare_mlockall();
	return (int)syscall(SYS_mlockall, flags);
}
