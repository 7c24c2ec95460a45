/*
 * The public functions. What is ready in this thread's heap is handed out here; all else is slow.c.
 */
#include "base/assert.h"
#include "heap/heap.h"
#include "heap/heap_fast.h"
#include "os/os.h"
#include "request/request.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(HF_ATOMIC == 1 && HF_RETRY == 3, "is_plain() relies on the classes being 1 to 3");

/* A known class, and no flag that the fast path would have to look at. */
static inline bool is_plain(hf_how how)
{
	return (how & ~HF_NOWARN) - HF_ATOMIC <= HF_RETRY - HF_ATOMIC;
}

static bool is_known(hf_how how)
{
	return request_class(how) - HF_ATOMIC <= HF_RETRY - HF_ATOMIC &&
	       (how & ~(hf_how)(REQUEST_CLASS_MASK | REQUEST_FLAGS)) == 0;
}

static void *refuse(int error)
{
	errno = error;
	return NULL;
}

static HF_NOINLINE void *alloc_slow(size_t bytes, size_t align_bytes, hf_how how)
{
	const struct request request = {.bytes = bytes ? bytes : 1, .align_bytes = align_bytes, .how = how};

	if (!is_known(how))
		return refuse(EINVAL);
	if (bytes > PTRDIFF_MAX || align_bytes > PTRDIFF_MAX - bytes)
		return refuse(EOVERFLOW);
	return request_serve(&request);
}

HF_EXPORT void *hf_alloc(size_t bytes, hf_how how)
{
	if (HF_LIKELY(is_plain(how))) {
		void *object = heap_alloc_inline(bytes);

		if (HF_LIKELY(object != NULL))
			return object;
	}
	return alloc_slow(bytes, 0, how);
}

/* Below this, clearing what the fast path has ready is cheaper than asking for memory that is known to be zero. */
enum { CLEAR_BYTES = HEAP_SLAB_MAX_BYTES };

HF_EXPORT void *hf_zalloc(size_t bytes, hf_how how)
{
	if (HF_LIKELY(is_plain(how & ~HF_ZERO) && bytes <= CLEAR_BYTES)) {
		void *object = heap_alloc_inline(bytes);

		if (HF_LIKELY(object != NULL))
			return memset(object, 0, bytes);
	}
	return alloc_slow(bytes, 0, how | HF_ZERO);
}

HF_EXPORT void *hf_alloc_array(size_t count, size_t bytes_each, hf_how how)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, bytes_each, &bytes))
		return refuse(is_known(how) ? EOVERFLOW : EINVAL);
	return how & HF_ZERO ? hf_zalloc(bytes, how) : hf_alloc(bytes, how);
}

HF_EXPORT void *hf_alloc_aligned(size_t alignment, size_t bytes, hf_how how)
{
	if (alignment == 0 || (alignment & (alignment - 1)) != 0)
		return refuse(EINVAL);
	if (alignment <= HEAP_ALIGN_BYTES)
		return how & HF_ZERO ? hf_zalloc(bytes, how) : hf_alloc(bytes, how);
	return alloc_slow(bytes, alignment, how);
}

/* Smaller by less than half: not worth a move. */
static bool is_close_enough(size_t bytes, size_t usable_bytes)
{
	return bytes <= usable_bytes && bytes >= usable_bytes / 2;
}

/* Never fails: at worst the object stays as large as it is. */
static void *shrink(void *object, size_t bytes)
{
	fork_raw_clone_check();
	if (heap_resize(object, bytes, 0) == 0)
		return object;
	void *smaller = heap_alloc(bytes, 0, false, 0);

	if (!smaller)
		return object;
	memcpy(smaller, object, bytes);
	heap_free(object);
	return smaller;
}

HF_EXPORT void *hf_realloc(void *object, size_t bytes, hf_how how)
{
	if (!object)
		return how & HF_ZERO ? hf_zalloc(bytes, how) : hf_alloc(bytes, how);
	if (!is_known(how))
		return refuse(EINVAL);
	if (bytes > PTRDIFF_MAX)
		return refuse(EOVERFLOW);
	if (bytes == 0)
		bytes = 1;

	const size_t usable_bytes = heap_usable(object);
	if (is_close_enough(bytes, usable_bytes))
		return object;
	if (bytes < usable_bytes)
		return shrink(object, bytes);
	const struct request request = {.object = object, .bytes = bytes, .how = how};
	return request_serve(&request);
}

HF_EXPORT void hf_free(void *object)
{
	heap_free_inline(object);
}

HF_EXPORT void hf_free_sized(void *object, size_t bytes)
{
#ifdef HF_DEBUG
	if (object && bytes > heap_usable(object))
		base_die("hf_free_sized(%p, %zu): the object has only %zu bytes", object, bytes, heap_usable(object));
#else
	(void)bytes;
#endif
	heap_free(object);
}

HF_EXPORT size_t hf_usable_bytes(const void *object)
{
	return object ? heap_usable(object) : 0;
}

HF_EXPORT size_t hf_trim(void)
{
	if (!init_ensure())
		return 0;
	fork_raw_clone_check();
	return (size_t)heap_trim() * OS_PAGE_BYTES;
}
