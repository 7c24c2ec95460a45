#include "heap/object.h"

#include "heap/span.h"

HF_NORETURN HF_COLD static void die_unused(const char *who, const void *object, const char *what)
{
	base_die("%s(%p): freed already, or never allocated: %s", who, object, what);
}

HF_NORETURN HF_COLD static void die_foreign(const char *who, const void *object)
{
	base_die("%s(%p): not from this heap (nothing is known of this address; the heap lies in %p-%p)", who, object,
		(void *)pool_window.base, (void *)(pool_window.base + (pool_window.chunk_count << CHUNK_SHIFT)));
}

HF_NORETURN HF_COLD static void die_in_span(const char *who, const void *object, const struct chunk *chunk)
{
	while (chunk > pool_window.chunks && chunk->state == CHUNK_SPAN_BODY &&
		pool_index_is_mapped((uintptr_t)(chunk - 1 - pool_window.chunks)))
		chunk--;
	if (chunk->state != CHUNK_SPAN)
		die_unused(who, object, "no object is there");

	const char *const base = chunk_address(chunk);
	base_die("%s(%p): points %zu bytes into an object of %zu bytes at %p", who, object,
		(size_t)((const char *)object - base), pool_span_bytes(chunk), (const void *)base);
}

static void verify_slab_object(const char *who, const void *object, struct chunk *chunk)
{
	const struct slab *const slab = slab_of(chunk);
	const uint32_t offset = slab_offset(object);

	if (!atomic_load_explicit(&slab_of(chunk)->owner, memory_order_relaxed))
		die_unused(who, object, "no object is there");

	const uint32_t into = offset % slab->object_bytes;
	if (offset / slab->object_bytes >= slab_cut_count(slab))
		die_unused(who, object, "no object was ever handed out there");
	if (into != 0)
		base_die("%s(%p): points %u bytes into an object of %u bytes at %p", who, object, into,
			slab->object_bytes, (const void *)((const char *)object - into));
	if (slab_is_suspicious(slab, word_load(object)) && slab_finds_free(slab, object, object_is_mine(slab)))
		base_die("%s(%p): freed already (an object of %u bytes)", who, object, slab->object_bytes);
}

struct chunk *object_chunk(const char *who, const void *object)
{
	const uintptr_t index = pool_index_of(object);

	if (index >= pool_window.chunk_count)
		die_foreign(who, object);
	if (!pool_index_is_mapped(index))
		die_unused(who, object, "nothing is there");

	struct chunk *const chunk = &pool_window.chunks[index];
	switch (chunk->state) {
	case CHUNK_SLAB:
		verify_slab_object(who, object, chunk);
		break;
	case CHUNK_SPAN:
		if (slab_offset(object) != 0)
			die_in_span(who, object, chunk);
		if (!span_is_live(chunk))
			die_unused(who, object, "no object is there");
		break;
	case CHUNK_SPAN_BODY:
		die_in_span(who, object, chunk);
	default:
		die_unused(who, object, "no object is there");
	}
	return chunk;
}
