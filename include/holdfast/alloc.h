/*
 * Holdfast: allocation. Every request says what its caller accepts.
 *
 * Not here: object caches (cache.h), reservations (reserve.h); they come with later releases.
 * Memory from any of these functions may be freed by any thread. None is async-signal-safe.
 * On failure they return NULL and set errno: ENOMEM shortage; EINVAL, EOVERFLOW a request that makes no sense.
 */
#ifndef HOLDFAST_ALLOC_H
#define HOLDFAST_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A class, or'ed with flags. */
typedef uint32_t hf_how;

/* Classes: exactly one. */
#define HF_ATOMIC 1u  /* never sleeps; may use the lower part of the floor */
#define HF_NORETRY 2u /* one pass of reclaim, then NULL */
#define HF_RETRY 3u   /* reclaims until 16 rounds in a row make no progress, then NULL */
#define HF_NOOOM HF_RETRY

/* Flags. */
#define HF_ZERO 0x100u	 /* the memory reads as zero */
#define HF_HIGH 0x200u	 /* half the floor: for requests that will give memory back */
#define HF_NOWARN 0x400u /* no message on failure */

/*
 * @bytes (0 counts as 1), aligned to 16.
 * Result: the object, owned by the caller until hf_free(). Errors: ENOMEM, EINVAL (unknown class or flag),
 * EOVERFLOW (more than PTRDIFF_MAX). Blocking: HF_ATOMIC never; the others while they reclaim.
 */
void *hf_alloc(size_t bytes, hf_how how);
/* hf_alloc() with HF_ZERO. Fresh memory is not cleared twice. */
void *hf_zalloc(size_t bytes, hf_how how);
/* @count x @bytes_each, checked for overflow (EOVERFLOW). */
void *hf_alloc_array(size_t count, size_t bytes_each, hf_how how);
/* @alignment: a power of two (else EINVAL). */
void *hf_alloc_aligned(size_t alignment, size_t bytes, hf_how how);
/*
 * Resize, in place where possible. NULL @object: hf_alloc(). @bytes 0: 1 byte, never a free.
 * On failure the object is unchanged and still the caller's. HF_ZERO clears what is beyond the old *usable* size only.
 */
void *hf_realloc(void *object, size_t bytes, hf_how how);
/*
 * NULL is nothing. errno is left alone. Never fails, never sleeps.
 * A pointer that is not an object's, or was freed already, ends the program with a message that names it.
 */
void hf_free(void *object);
/* The same; @bytes is what was asked for (checked in debug builds). */
void hf_free_sized(void *object, size_t bytes);
/* How many bytes may be used, at least what was asked for. */
size_t hf_usable_bytes(const void *object);
/* Give all idle memory back to the budget and the kernel now. Returns the bytes given back. */
size_t hf_trim(void);

#ifdef __cplusplus
}
#endif

#endif
