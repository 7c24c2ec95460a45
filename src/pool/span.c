/*
 * Spans: runs of chunks that hold one large object, with exactly the pages that it needs.
 *
 * The first chunk's descriptor knows the span: its run, its pages (pool_word), its epoch. Blocks that lie wholly inside
 * need no descriptors: the block says whose body it is. So a span costs metadata for its two ends only, and taking
 * one of any size is a few system calls and one step a block.
 */
#include "pool/internal.h"

#include <errno.h>
#include <string.h>

/* Beyond this, an alignment would make us know (and pay for) too much empty address space. */
#define ALIGN_MOST_BYTES ((size_t)16 << 30)

static uint32_t chunks_of(uint64_t pages)
{
	return (uint32_t)((pages + CHUNK_PAGES - 1) / CHUNK_PAGES);
}

/* Pages of @bytes; 0: more than the window has. */
static uint64_t pages_of(size_t bytes)
{
	if (bytes == 0)
		bytes = 1;
	if (bytes > (uint64_t)pool_window.chunk_count << CHUNK_SHIFT)
		return 0;
	return (bytes + OS_PAGE_BYTES - 1) >> OS_PAGE_SHIFT;
}

size_t pool_span_bytes(const struct chunk *first)
{
	return span_pages(first) << OS_PAGE_SHIFT;
}

/* ---- labels ---- */

/* Chunks [from, to) are the body of the span at @head. */
static void label_body(uint32_t head, uint32_t from, uint32_t to)
{
	while (from < to) {
		struct block *block = block_at(from / BLOCK_CHUNKS);
		const uint32_t end = least(to, (from / BLOCK_CHUNKS + 1) * BLOCK_CHUNKS);

		if (block_flags(block) & BLOCK_TABLE) {
			for (uint32_t i = from; i < end; i++) {
				chunk_at(i)->state = CHUNK_SPAN_BODY;
				chunk_at(i)->committed_mask = 0;
				chunk_at(i)->pool_word = head;
			}
		}
		if (end - from == BLOCK_CHUNKS) {
			block->span_head = head;
			block_set(block, BLOCK_BODY);
		} else {
			HF_ASSERT(block_flags(block) & BLOCK_TABLE);
		}
		from = end;
	}
}

void span_unlabel(uint32_t first, uint32_t chunks)
{
	const uint32_t to = first + chunks;

	for (uint32_t from = first; from < to;) {
		struct block *block = block_at(from / BLOCK_CHUNKS);
		const uint32_t end = least(to, (from / BLOCK_CHUNKS + 1) * BLOCK_CHUNKS);

		if (block_flags(block) & BLOCK_TABLE) {
			for (uint32_t i = from; i < end; i++) {
				chunk_at(i)->state = CHUNK_EMPTY;
				chunk_at(i)->committed_mask = 0;
			}
		}
		block_clear(block, BLOCK_BODY);
		from = end;
	}
	pool.used_chunks -= chunks;
}

static void set_pages(struct chunk *first, uint64_t pages)
{
	first->pool_word = (uint32_t)pages;
	first->committed_mask = mask_of_first(pages);
}

void span_label(uint32_t first, uint32_t chunks, uint64_t pages, uint32_t epoch)
{
	struct chunk *chunk = chunk_at(first);

	memset(chunk->heap_words, 0, sizeof chunk->heap_words);
	chunk->state = CHUNK_SPAN;
	chunk->epoch = epoch;
	chunk->span_chunks = chunks;
	set_pages(chunk, pages);
	label_body(first, first + 1, first + chunks);
	pool.used_chunks += chunks;
}

/* ---- take ---- */

/* A run of idle chunks is there already. Its pages past @pages go back. */
static struct chunk *take_idle_run(uint32_t chunks, uint32_t align, uint64_t pages, bool *zero_out)
{
	uint32_t first;

	if (align > 1 || word_available() < chunks)
		return NULL;
	first = index_find_idle(chunks);
	if (first == CHUNK_NONE || !word_take(chunks))
		return NULL;
	const uint64_t surplus = (uint64_t)chunks * CHUNK_PAGES - pages;
	if (surplus != 0 && !space_give_back((uint64_t)first * CHUNK_PAGES + pages, surplus)) {
		word_put(chunks);
		return NULL;
	}
	pages_uncommit(surplus, ledger_epoch(pool.ledger));
	*zero_out = true;
	for (uint32_t i = first; i < first + chunks; i++)
		*zero_out &= chunk_at(i)->is_zero;
	index_mark(first, chunks, MARK_USED);
	span_label(first, chunks, pages, ledger_epoch(pool.ledger));
	chunk_at(first)->is_zero = *zero_out;
	return chunk_at(first);
}

static struct chunk *take_new_run(uint32_t chunks, uint32_t align, uint64_t pages, uint64_t floor_pages)
{
	const uint32_t base = (uint32_t)(pool_window.base >> CHUNK_SHIFT & (align - 1));
	const uint32_t residue = (0 - base) & (align - 1);
	uint32_t first;
	int error;

	if (pages_acquire(pages, floor_pages) != 0)
		return NULL;
	error = -ENOMEM;
	/* Large ones begin where a block does: whole blocks come and go together, and are cheap to move. */
	if (align < BLOCK_CHUNKS && chunks >= BLOCK_CHUNKS)
		error = run_claim(chunks, BLOCK_CHUNKS, 0, 0, pages, floor_pages, &first);
	if (error != 0)
		error = run_claim(chunks, align, residue, 0, pages, floor_pages, &first);
	if (error != 0) {
		pages_uncommit(pages, ledger_epoch(pool.ledger));
		return NULL;
	}
	span_label(first, chunks, pages, ledger_epoch(pool.ledger));
	chunk_at(first)->is_zero = true;
	huge_allow(first, 0, pages);
	return chunk_at(first);
}

struct chunk *pool_span_take(size_t bytes, size_t align_bytes, uint64_t floor_pages, bool *zero_out)
{
	const uint64_t pages = pages_of(bytes);
	const uint32_t align = align_bytes > CHUNK_BYTES ? (uint32_t)(align_bytes >> CHUNK_SHIFT) : 1;
	struct chunk *first;

	HF_ASSERT_OP(align_bytes & (align_bytes - 1), ==, 0);
	if (pages == 0 || pages > UINT32_MAX || align_bytes > ALIGN_MOST_BYTES)
		return NULL;
	lock_take(&pool.lock);
	first = take_idle_run(chunks_of(pages), align, pages, zero_out);
	if (first == NULL) {
		first = take_new_run(chunks_of(pages), align, pages, floor_pages);
		*zero_out = true;
	}
	if (first != NULL)
		spare_refill(floor_pages);
	check_sampled();
	lock_put(&pool.lock);
	return first;
}

/* ---- put ---- */

static bool give_back_from(const struct chunk *first, uint64_t pages)
{
	const uint32_t index = chunk_index(first);

	if (huge_is(index))
		return huge_give_back(index, pages, span_pages(first));
	return space_give_back((uint64_t)index * CHUNK_PAGES + pages, span_pages(first) - pages);
}

bool span_release(struct chunk *first)
{
	const uint32_t index = chunk_index(first);
	const uint32_t chunks = first->span_chunks;

	if (!give_back_from(first, 0))
		return false;
	pages_uncommit(span_pages(first), first->epoch);
	span_unlabel(index, chunks);
	index_mark(index, chunks, MARK_EMPTY);
	space_tidy(index, chunks);
	return true;
}

/* The first @keep chunks, which are whole, become idle. */
static void release_but(struct chunk *first, uint32_t keep)
{
	const uint32_t index = chunk_index(first);
	const uint32_t chunks = first->span_chunks;
	const uint64_t kept = (uint64_t)keep * CHUNK_PAGES;
	const uint64_t pages = span_pages(first) - kept;

	if (pages != 0 && !space_give_back(index * (uint64_t)CHUNK_PAGES + kept, pages)) {
		retire(first);
		return;
	}
	pages_uncommit(pages, first->epoch);
	span_unlabel(index, chunks);
	for (uint32_t i = index; i < index + keep; i++) {
		chunk_at(i)->state = CHUNK_IDLE;
		chunk_at(i)->committed_mask = MASK_FULL;
		chunk_at(i)->is_zero = false;
	}
	index_mark(index, keep, MARK_IDLE);
	word_put(keep);
	if (chunks > keep) {
		index_mark(index + keep, chunks - keep, MARK_EMPTY);
		space_tidy(index + keep, chunks - keep);
	}
}

void pool_span_put(struct chunk *first)
{
	lock_take(&pool.lock);
	HF_ASSERT_OP(first->state, ==, CHUNK_SPAN);
	/* Only in the first block: the others may have no descriptors. */
	const uint64_t whole = span_pages(first) / CHUNK_PAGES;
	const uint32_t in_block = BLOCK_CHUNKS - chunk_index(first) % BLOCK_CHUNKS;
	uint32_t keep = whole < in_block ? (uint32_t)whole : in_block;

	if (keep != 0 && (huge_is(chunk_index(first)) || !ledger_epoch_is_open(pool.ledger, first->epoch)))
		keep = 0;
	if (keep != 0)
		keep = idle_room(keep);
	if (keep != 0)
		release_but(first, keep);
	else if (!span_release(first))
		retire(first);
	check_sampled();
	lock_put(&pool.lock);
}

/* ---- resize ---- */

/*
 * A run cut at @chunks: its new last block must have descriptors if it is only partly the span's any more. Where
 * that is not possible the run keeps the block to its end (without pages). How long it is then.
 */
static uint32_t cut_at(const struct chunk *first, uint32_t chunks)
{
	const uint32_t end = chunk_index(first) + chunks;

	if (chunks == first->span_chunks || end % BLOCK_CHUNKS == 0 || table_prepare(end / BLOCK_CHUNKS, 0) == 0)
		return chunks;
	return least(first->span_chunks, (end / BLOCK_CHUNKS + 1) * BLOCK_CHUNKS - chunk_index(first));
}

static void shrink_locked(struct chunk *first, uint64_t pages)
{
	const uint32_t index = chunk_index(first);
	const uint32_t before = first->span_chunks;
	uint64_t freed;

	pages = huge_cut(index, span_pages(first), pages);
	if (pages >= span_pages(first) || !give_back_from(first, pages))
		return;
	freed = span_pages(first) - pages;
	pages_uncommit(freed, first->epoch);
	set_pages(first, pages);
	const uint32_t chunks = cut_at(first, chunks_of(pages));
	if (chunks == before)
		return;
	const uint32_t end = index + chunks;
	span_unlabel(end, before - chunks);
	/* What is left of a block that was all body. */
	if (end % BLOCK_CHUNKS != 0 && end / BLOCK_CHUNKS != index / BLOCK_CHUNKS)
		label_body(index, end - end % BLOCK_CHUNKS, end);
	first->span_chunks = chunks;
	index_mark(end, before - chunks, MARK_EMPTY);
	space_tidy(end, before - chunks);
}

/* Take @more chunks right behind the span. 0, -ENOSPC, -ENOMEM. */
static int extend_run(struct chunk *first, uint32_t more, uint64_t floor_pages)
{
	const uint32_t end = chunk_index(first) + first->span_chunks;

	for (;;) {
		const uint32_t run = index_run(end, more);

		if (run == more)
			break;
		if (end + run < chunks_known())
			return -ENOSPC;
		if (index_extend(floor_pages) != 0)
			return -ENOMEM;
	}
	if (idle_evict(end, more) != 0)
		return -ENOSPC;
	if ((end + more) % BLOCK_CHUNKS != 0) {
		const uint32_t block = (end + more) / BLOCK_CHUNKS;
		const int error = table_prepare(block, floor_pages);

		if (error == -EEXIST)
			table_give_up(block);
		if (error != 0)
			return error == -EEXIST ? -ENOSPC : error;
	}
	index_mark(end, more, MARK_USED);
	return 0;
}

/* From where to label a run that grows at @end: a last block that was partly its own may be all body now. */
static uint32_t seam_of(uint32_t first, uint32_t end)
{
	const uint32_t block_start = end - end % BLOCK_CHUNKS;

	return block_start > first ? block_start : end;
}

static int grow_locked(struct chunk *first, uint64_t pages, uint64_t floor_pages)
{
	const uint32_t index = chunk_index(first);
	const uint64_t before = span_pages(first);
	const uint32_t chunks = chunks_of(pages) > first->span_chunks ? chunks_of(pages) : first->span_chunks;
	const uint32_t more = chunks - first->span_chunks;
	int error;

	if (!ledger_epoch_is_open(pool.ledger, first->epoch))
		return -EBUSY;
	if (index_run(index + first->span_chunks, more) < more &&
		index + first->span_chunks + index_run(index + first->span_chunks, more) < chunks_known())
		return -ENOSPC; /* known without asking anybody */
	if (pages_acquire(pages - before, floor_pages) != 0)
		return -ENOMEM;
	error = more == 0 ? 0 : extend_run(first, more, floor_pages);
	if (error != 0)
		goto uncommit;
	const uint64_t page = (uint64_t)index * CHUNK_PAGES + before;
	const uint32_t from = index + (uint32_t)(before / CHUNK_PAGES);
	error = space_prepare(from, index + chunks - from, page, pages - before);
	if (error != 0) {
		space_abandon(page, pages - before);
		if (more != 0)
			index_mark(index + first->span_chunks, more, MARK_EMPTY);
		error = error == -EEXIST ? -ENOSPC : error;
		goto uncommit;
	}
	if (more != 0)
		label_body(index, seam_of(index, index + first->span_chunks), index + chunks);
	pool.used_chunks += more;
	first->span_chunks = chunks;
	first->epoch = ledger_epoch(pool.ledger); /* open: nobody else holds the older pages */
	set_pages(first, pages);
	huge_allow(index, before, pages);
	return 0;

uncommit:
	pages_uncommit(pages - before, ledger_epoch(pool.ledger));
	return error;
}

int pool_span_resize(struct chunk *first, size_t bytes, uint64_t floor_pages)
{
	const uint64_t pages = pages_of(bytes);
	int error = 0;

	if (pages == 0 || pages > UINT32_MAX)
		return -ENOMEM;
	lock_take(&pool.lock);
	HF_ASSERT_OP(first->state, ==, CHUNK_SPAN);
	if (pages < span_pages(first))
		shrink_locked(first, pages);
	else if (pages > span_pages(first))
		error = grow_locked(first, pages, floor_pages);
	check_sampled();
	lock_put(&pool.lock);
	return error;
}

struct chunk *pool_span_around(const void *address)
{
	const uintptr_t index = pool_index_of(address);
	struct chunk *found = NULL;

	lock_take(&pool.lock);
	if (index < chunks_known()) {
		const struct block *block = block_at((uint32_t)index / BLOCK_CHUNKS);

		if (block_flags(block) & BLOCK_BODY)
			found = chunk_at(block->span_head);
		else if (block_flags(block) & BLOCK_TABLE) {
			struct chunk *chunk = chunk_at((uint32_t)index);

			if (chunk->state == CHUNK_SPAN)
				found = chunk;
			else if (chunk->state == CHUNK_SPAN_BODY && chunk->pool_word != CHUNK_NONE)
				found = chunk_at(chunk->pool_word);
		}
	}
	lock_put(&pool.lock);
	return found;
}
