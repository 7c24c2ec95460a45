/*
 * Which chunks are free (EMPTY or IDLE) and which of these are idle, in a tree of three levels.
 *
 * A block has two masks of 32 bits; a group of 32 blocks and a super of 32 groups (2 GiB) have a summary: the free run
 * at the start, the longest, the one at the end. A search walks along supers, goes down only into one whose
 * longest run suffices, and carries the run that crosses a border. So it costs one step for 2 GiB plus at most 32
 * for each level, and a change costs 32 steps for each level whose summary it alters.
 */
#include "pool/internal.h"

#include <errno.h>

struct pool_index pool_index;

static uint32_t longest_ones(uint32_t mask)
{
	uint32_t ends[5]; /* ends[i]: bits at which a run of 2^i ones ends */
	uint32_t found = UINT32_MAX;
	uint32_t length = 0;

	if (mask == UINT32_MAX)
		return 32;
	ends[0] = mask;
	for (int i = 1; i < 5; i++)
		ends[i] = ends[i - 1] & ends[i - 1] << (1 << (i - 1));
	for (int i = 4; i >= 0; i--) {
		const uint32_t longer = found & ends[i] << length;

		if (longer != 0) {
			found = longer;
			length += 1U << i;
		}
	}
	return length;
}

static struct node node_of_mask(uint32_t free)
{
	if (free == 0)
		return (struct node){0, 0, 0, 0};
	if (free == UINT32_MAX)
		return (struct node){32, 32, 32, 0};
	return (struct node){
		.prefix = (uint32_t)__builtin_ctz(~free),
		.longest = longest_ones(free),
		.suffix = (uint32_t)__builtin_clz(~free),
	};
}

static uint32_t shape_of(struct node node)
{
	return node.prefix | node.longest << 8 | node.suffix << 16;
}

static struct node node_of_shape(uint32_t shape)
{
	return (struct node){shape & 0xff, shape >> 8 & 0xff, shape >> 16, 0};
}

uint32_t index_shape_of_mask(uint32_t free)
{
	return shape_of(node_of_mask(free));
}

/* @total, which stands for @total_chunks, becomes the node of itself and @next behind it. */
static void node_append(struct node *total, uint32_t total_chunks, struct node next, uint32_t next_chunks)
{
	const uint32_t across = total->suffix + next.prefix;

	if (total->prefix == total_chunks)
		total->prefix += next.prefix;
	if (next.longest > total->longest)
		total->longest = next.longest;
	if (across > total->longest)
		total->longest = across;
	total->suffix = next.suffix == next_chunks ? total->suffix + next_chunks : next.suffix;
}

struct node index_node_of_group(uint32_t group)
{
	struct node total = {0, 0, 0, 0};

	for (uint32_t i = 0; i < GROUP_BLOCKS; i++) {
		const struct block *block = &pool_index.groups[group].blocks[i];

		node_append(&total, i * BLOCK_CHUNKS, node_of_shape(block->shape), BLOCK_CHUNKS);
		total.idle |= (uint32_t)(block->idle != 0) << i;
	}
	return total;
}

struct node index_node_of_super(uint32_t super)
{
	const uint32_t known = groups_known() - super * SUPER_GROUPS;
	struct node total = {0, 0, 0, 0};

	for (uint32_t i = 0; i < SUPER_GROUPS && i < known; i++) {
		const struct node node = pool_index.groups[super * SUPER_GROUPS + i].node;

		node_append(&total, i * GROUP_CHUNKS, node, GROUP_CHUNKS);
		total.idle |= (uint32_t)(node.idle != 0) << i;
	}
	if (known < SUPER_GROUPS)
		total.suffix = 0; /* what is not known is not free */
	return total;
}

static bool node_same(struct node a, struct node b)
{
	return a.prefix == b.prefix && a.longest == b.longest && a.suffix == b.suffix && a.idle == b.idle;
}

/* True: the group's summary has changed. */
static bool refresh_group(uint32_t group)
{
	const struct node node = index_node_of_group(group);

	if (node_same(node, pool_index.groups[group].node))
		return false;
	pool_index.groups[group].node = node;
	return true;
}

/* True: the block's part of its group's summary has changed. */
static bool mark_in_block(struct block *block, uint32_t mask, enum mark mark)
{
	const uint32_t shape = block->shape;
	const bool idle = block->idle != 0;

	if (block_flags(block) & BLOCK_TAKEN)
		mark = MARK_USED;
	block->free = mark == MARK_USED ? block->free & ~mask : block->free | mask;
	block->idle = mark == MARK_IDLE ? block->idle | mask : block->idle & ~mask;
	block->shape = index_shape_of_mask(block->free);
	return block->shape != shape || (block->idle != 0) != idle;
}

void index_mark(uint32_t first, uint32_t chunks, enum mark mark)
{
	const uint32_t end = first + chunks;
	bool group_changed = false;
	bool super_changed = false;

	while (first < end) {
		const uint32_t bit = first % BLOCK_CHUNKS;
		const uint32_t count = least(BLOCK_CHUNKS - bit, end - first);
		const uint32_t mask = count == BLOCK_CHUNKS ? UINT32_MAX : ((1U << count) - 1) << bit;

		group_changed |= mark_in_block(block_at(first / BLOCK_CHUNKS), mask, mark);
		first += count;
		if (group_changed && (first % GROUP_CHUNKS == 0 || first == end)) {
			super_changed |= refresh_group((first - 1) / GROUP_CHUNKS);
			group_changed = false;
		}
		if (super_changed && (first % SUPER_CHUNKS == 0 || first == end)) {
			const uint32_t super = (first - 1) / SUPER_CHUNKS;

			pool_index.supers[super] = index_node_of_super(super);
			super_changed = false;
		}
	}
}

int index_extend(uint64_t floor_pages)
{
	const uint32_t group = groups_known();
	const uint32_t super = group / SUPER_GROUPS;
	int error;

	if (group == pool_index.groups_max)
		return -ENOMEM;
	error = canary_prepare(floor_pages);
	if (error == 0)
		error = region_open(&pool.supers_region, (super + 1) * sizeof(struct node), floor_pages);
	if (error == 0)
		error = region_open(&pool.groups_region, (group + 1) * sizeof(struct group), floor_pages);
	if (error != 0)
		return error;
	for (uint32_t i = 0; i < GROUP_BLOCKS; i++) {
		struct block *block = &pool_index.groups[group].blocks[i];

		block->free = UINT32_MAX;
		block->shape = index_shape_of_mask(UINT32_MAX);
		block_set(block, pool.placed ? 0 : BLOCK_MAPPED);
	}
	error = table_map_group(group);
	if (error == -ENOMEM)
		return error;
	(void)refresh_group(group);
	/* Release: the group can be read before it is known. Pairs with the acquire in pool_index_is_mapped(). */
	atomic_store_explicit(&pool_index.groups_known, group + 1, memory_order_release);
	pool_index.supers[super] = index_node_of_super(super);
	if (error == -EEXIST)
		table_give_up(group * GROUP_BLOCKS);
	/* Relaxed: readers have the address of something that is below it, and with that address they have this. */
	__atomic_store_n(&pool_window.known_chunks, (uintptr_t)(group + 1) * GROUP_CHUNKS, __ATOMIC_RELAXED);
	return 0;
}

/* A run that is being carried along a walk. */
struct carried {
	uint32_t first, length;
};

/* Walk over one unit of @unit chunks at @at, in which no run gets long enough. */
static void carry(struct carried *run, uint32_t at, struct node node, uint32_t unit)
{
	if (node.prefix == unit) {
		if (run->length == 0)
			run->first = at;
		run->length += unit;
	} else {
		run->length = node.suffix;
		run->first = at + unit - node.suffix;
	}
}

/* The same bit by bit, from bit @bit on; also finds a run inside the block. */
static bool carry_bits(struct carried *run, uint32_t block, uint32_t bit, uint32_t wanted)
{
	const uint32_t free = block_at(block)->free;
	const uint32_t base = block * BLOCK_CHUNKS;

	while (bit < BLOCK_CHUNKS) {
		const uint32_t rest = free >> bit;
		const uint32_t ones = rest == UINT32_MAX ? 32 : (uint32_t)__builtin_ctz(~rest);

		if (ones > 0) {
			if (run->length == 0)
				run->first = base + bit;
			run->length += ones;
			if (run->length >= wanted)
				return true;
			bit += ones;
		} else {
			run->length = 0;
			bit += rest == 0 ? BLOCK_CHUNKS - bit : (uint32_t)__builtin_ctz(rest);
		}
	}
	return false;
}

uint32_t index_find(uint32_t from, uint32_t chunks)
{
	const uint32_t end = chunks_known();
	struct carried run = {from, 0};
	uint32_t at = from;

	while (at < end) {
		if (at % SUPER_CHUNKS == 0) {
			const struct node node = pool_index.supers[at / SUPER_CHUNKS];

			if (run.length + node.prefix < chunks && node.longest < chunks) {
				carry(&run, at, node, SUPER_CHUNKS);
				at += SUPER_CHUNKS;
				continue;
			}
		}
		if (at % GROUP_CHUNKS == 0) {
			const struct node node = pool_index.groups[at / GROUP_CHUNKS].node;

			if (run.length + node.prefix < chunks && node.longest < chunks) {
				carry(&run, at, node, GROUP_CHUNKS);
				at += GROUP_CHUNKS;
				continue;
			}
		}
		if (carry_bits(&run, at / BLOCK_CHUNKS, at % BLOCK_CHUNKS, chunks))
			return run.first;
		at += BLOCK_CHUNKS - at % BLOCK_CHUNKS;
	}
	return CHUNK_NONE;
}

uint32_t index_run(uint32_t first, uint32_t most)
{
	const uint32_t known = chunks_known();
	const uint32_t end = first > known || most > known - first ? known : first + most;
	uint32_t at = first;

	while (at < end) {
		const uint32_t bit = at % BLOCK_CHUNKS;
		const uint32_t rest = block_at(at / BLOCK_CHUNKS)->free >> bit;
		const uint32_t ones = rest == UINT32_MAX ? 32 : (uint32_t)__builtin_ctz(~rest);

		at += ones;
		if (ones < BLOCK_CHUNKS - bit)
			break;
	}
	return at > end ? end - first : at - first;
}

uint32_t index_tail(void)
{
	uint32_t length = 0;

	for (uint32_t group = groups_known(); group > 0; group--) {
		length += pool_index.groups[group - 1].node.suffix;
		if (pool_index.groups[group - 1].node.suffix != GROUP_CHUNKS)
			break;
	}
	return length;
}

uint32_t index_lowest_idle(void)
{
	const uint32_t supers = (groups_known() + SUPER_GROUPS - 1) / SUPER_GROUPS;

	for (uint32_t super = 0; super < supers; super++) {
		if (pool_index.supers[super].idle == 0)
			continue;
		const uint32_t group = super * SUPER_GROUPS + (uint32_t)__builtin_ctz(pool_index.supers[super].idle);
		const uint32_t block =
			group * GROUP_BLOCKS + (uint32_t)__builtin_ctz(pool_index.groups[group].node.idle);

		return block * BLOCK_CHUNKS + (uint32_t)__builtin_ctz(block_at(block)->idle);
	}
	return CHUNK_NONE;
}

static uint32_t highest_bit(uint32_t mask)
{
	return 31 - (uint32_t)__builtin_clz(mask);
}

uint32_t index_highest_idle(void)
{
	const uint32_t supers = (groups_known() + SUPER_GROUPS - 1) / SUPER_GROUPS;

	for (uint32_t super = supers; super-- > 0;) {
		if (pool_index.supers[super].idle == 0)
			continue;
		const uint32_t group = super * SUPER_GROUPS + highest_bit(pool_index.supers[super].idle);
		const uint32_t block = group * GROUP_BLOCKS + highest_bit(pool_index.groups[group].node.idle);

		return block * BLOCK_CHUNKS + highest_bit(block_at(block)->idle);
	}
	return CHUNK_NONE;
}

/* The first block at @block or later that has idle chunks; UINT32_MAX. */
static uint32_t next_idle_block(uint32_t block)
{
	const uint32_t end = groups_known() * GROUP_BLOCKS;

	while (block < end) {
		const uint32_t group = block / GROUP_BLOCKS;
		const uint32_t in_super = pool_index.supers[group / SUPER_GROUPS].idle >> group % SUPER_GROUPS;
		const uint32_t in_group = pool_index.groups[group].node.idle >> block % GROUP_BLOCKS;

		if (in_group != 0)
			return block + (uint32_t)__builtin_ctz(in_group);
		/* On to the next group of this super that has any, or to the next super. */
		const uint32_t later = in_super & ~1U;
		if (later != 0)
			block = (group + (uint32_t)__builtin_ctz(later)) * GROUP_BLOCKS;
		else
			block = (group / SUPER_GROUPS + 1) * SUPER_GROUPS * GROUP_BLOCKS;
	}
	return UINT32_MAX;
}

bool index_next_idle_run(uint32_t from, uint32_t *first_out, uint32_t *chunks_out)
{
	uint32_t block = from / BLOCK_CHUNKS;
	uint32_t mask = from < chunks_known() ? block_at(block)->idle & UINT32_MAX << from % BLOCK_CHUNKS : 0;

	if (mask == 0) {
		block = next_idle_block(block + 1);
		if (block == UINT32_MAX)
			return false;
		mask = block_at(block)->idle;
	}
	const uint32_t bit = (uint32_t)__builtin_ctz(mask);
	uint32_t length = 0;
	uint32_t rest = mask >> bit;

	*first_out = block * BLOCK_CHUNKS + bit;
	length = rest == UINT32_MAX ? 32 : (uint32_t)__builtin_ctz(~rest);
	while ((*first_out + length) % BLOCK_CHUNKS == 0 && *first_out + length < chunks_known()) {
		const uint32_t next = block_at((*first_out + length) / BLOCK_CHUNKS)->idle;
		const uint32_t ones = next == UINT32_MAX ? 32 : (uint32_t)__builtin_ctz(~next);

		length += ones;
		if (ones == 0)
			break;
	}
	*chunks_out = length;
	return true;
}

uint32_t index_find_idle(uint32_t chunks)
{
	enum { LOOKS = 64 }; /* idle_max is 32 chunks: more runs than these only where much is reserved */
	uint32_t first = 0;
	uint32_t length = 0;

	for (int i = 0; i < LOOKS && index_next_idle_run(first + length, &first, &length); i++)
		if (length >= chunks)
			return first;
	return CHUNK_NONE;
}
