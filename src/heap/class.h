/*
 * Size classes: multiples of 16 up to 128, then four to each doubling up to 32 KiB.
 * Rounding up wastes at most 15 bytes, or a fifth of the object.
 */
#ifndef HF_HEAP_CLASS_H
#define HF_HEAP_CLASS_H

#include "heap/heap.h"
#include "pool/pool.h"

#include <assert.h>
#include <stdint.h>

enum {
	CLASS_LINEAR = 8, /* 16, 32 ... 128 */
	CLASS_LINEAR_BYTES = CLASS_LINEAR * HEAP_ALIGN_BYTES,
	CLASS_COUNT = CLASS_LINEAR + 4 * 8, /* and eight doublings */
	CLASS_DIRECT_BYTES = 1024,	    /* up to here a table by size finds the slab */
	CLASS_DIRECT_COUNT = CLASS_DIRECT_BYTES / HEAP_ALIGN_BYTES + 1,
};
static_assert(CLASS_LINEAR_BYTES << 8 == HEAP_SLAB_MAX_BYTES, "the last class holds the largest object of a slab");

/* @bytes at most HEAP_SLAB_MAX_BYTES; 0 counts as 1. */
static inline uint32_t class_of(size_t bytes)
{
	if (bytes <= CLASS_LINEAR_BYTES)
		return bytes == 0 ? 0 : (uint32_t)(bytes - 1) / HEAP_ALIGN_BYTES;

	const uint32_t top = 63 - (uint32_t)__builtin_clzll(bytes - 1); /* 7 from 129 to 256 */
	const uint32_t quarter = (uint32_t)((bytes - 1) >> (top - 2));	/* 4 to 7 */
	return CLASS_LINEAR + (top - 7) * 4 + quarter - 4;
}

static inline uint32_t class_bytes(uint32_t cls)
{
	if (cls < CLASS_LINEAR)
		return (cls + 1) * HEAP_ALIGN_BYTES;

	const uint32_t step = cls - CLASS_LINEAR;
	return (5 + step % 4) << (5 + step / 4); /* 5/4, 6/4, 7/4, 8/4 of 128 << (step / 4) */
}

/*
 * The smallest class that holds @bytes with every object aligned to @align_bytes: slabs begin on a chunk's
 * boundary, so the objects of a class are aligned to every power of two that divides its size.
 * CLASS_COUNT: none, it takes a span.
 */
static inline uint32_t class_of_aligned(size_t bytes, size_t align_bytes)
{
	if (bytes > HEAP_SLAB_MAX_BYTES || align_bytes > HEAP_SLAB_MAX_BYTES)
		return CLASS_COUNT;

	uint32_t cls = class_of(bytes < align_bytes ? align_bytes : bytes);
	while (cls < CLASS_COUNT && (class_bytes(cls) & (align_bytes - 1)) != 0)
		cls++;
	return cls;
}

/* Objects of a whole chunk. */
static inline uint32_t class_capacity(uint32_t cls)
{
	return CHUNK_BYTES / class_bytes(cls);
}

#endif
