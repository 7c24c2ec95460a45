#include "heap/object.h"

#include "heap/span.h"

HF_NORETURN HF_COLD static void die_unused(const char *who, const void *object, const char *what)
{
	base_die("%s(%p): freed already, or never allocated: %s", who, object, what);
}

HF_NORETURN HF_COLD static void die_nothing(const char *who, const void *object)
{
	const uintptr_t index = pool_index_of(object);

	if (index < pool_window.chunk_count)
		die_unused(who, object, "not from this heap as it is now");
	base_die("%s(%p): not from this heap: nothing of ours is there (nearest mapping unknown)", who, object);
}

HF_NORETURN HF_COLD static void die_inside(const char *who, const void *object, const void *base, size_t bytes)
{
	base_die("%s(%p): points %zu bytes into an object of %zu bytes at %p", who, object,
		(size_t)((const char *)object - (const char *)base), bytes, base);
}

static void verify_slab_object(const char *who, const void *object, struct chunk *chunk)
{
	const struct slab *const slab = slab_of(chunk);
	const uint32_t offset = slab_offset(object);

	if (!atomic_load_explicit(&slab_of(chunk)->owner, memory_order_relaxed))
		die_unused(who, object, "no object is there");

	const uint32_t into = offset % slab->object_bytes;
	if (offset / slab->object_bytes >= slab_cut_count(slab)) /* a wild pointer */
		die_unused(who, object, "no object was ever handed out there");
	if (into != 0)
		die_inside(who, object, (const char *)object - into, slab->object_bytes);
	if (slab_is_suspicious(slab, word_load(object)) && slab_finds_free(slab, object, object_is_mine(slab)))
		base_die("%s(%p): freed already (an object of %u bytes)", who, object, slab->object_bytes);
}

struct chunk *object_chunk(const char *who, const void *object)
{
	struct chunk *const chunk = pool_chunk_at(object);

	if (!chunk)
		die_nothing(who, object);
	if (chunk->state == CHUNK_SLAB) {
		verify_slab_object(who, object, chunk);
		return chunk;
	}
	if (!span_is_live(chunk))
		die_unused(who, object, "no object is there");
	if (object != chunk_address(chunk))
		die_inside(who, object, chunk_address(chunk), pool_span_bytes(chunk));
	return chunk;
}
