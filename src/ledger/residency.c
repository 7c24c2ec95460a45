/*
 * /proc/PID/pagemap says for each mapped page of a range whether it is there and whether this process alone maps it, to
 * whoever may look at the process. Three things make its sum wrong, and are corrected:
 *  - Forked processes share pages. Pages mapped by one process alone are added up; of the others only the largest count
 *    of any one process is taken, which is a lower bound of the union.
 *  - A page that was only read may be the kernel's zero page, which costs nothing, and looks like a shared one. Where
 * no member has inherited anything, there are no shared ones. Else the process's anonymous resident pages (statm),
 * which do not count it, are an upper bound.
 *  - What copy-on-write duplicated is not in the ledger, so it is outside. Of a member's pages that no other process
 * maps, only as many as its own slot has committed are heap; the rest only as far as the families' slots are charged
 * for it. That also bounds what a member can claim that lies about its range or its pid.
 *
 * A look takes 30 to 50 ns a page (2 to 10 us a member if nothing has changed), so that a member is looked at again
 * only after 50 times as long as the last look took, and only if something has changed. In between, what is there
 * cannot have grown by more than the process committed, nor by more than its anonymous memory grew: the smaller of both
 * changes is added to the last look's result.
 *
 * Where pagemap may not be read (another user's process, and we are not root) the member's own figure is taken, with
 * the same upper bounds.
 */
#include "ledger/residency.h"

#include "ledger/ledger.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	MEMBERS_MAX = 4096,
	LOOK_COST_FACTOR = 50, /* 2% of one CPU for each member that changes all the time */
	ENTRIES_AT_ONCE = 2048,
	TEXT_BYTES = 8192,
};
#define LEVELS_RECHECK_NS UINT64_C(2000000000) /* processes are seldom moved */
#define PAGEMAP_PRESENT ((uint64_t)1 << 63)
#define PAGEMAP_EXCLUSIVE ((uint64_t)1 << 56)

struct member_cache {
	pid_t pid; /* 0: nothing is known */
	uint32_t levels;
	uintptr_t heap_low;
	uint64_t levels_ns;
	/* Of the last look. */
	uint64_t looked_ns, cost_ns;
	uint64_t exclusive, shared, anon, committed;
	bool failed; /* may not be looked at */
	/* Of this update: committed by itself, beyond that, and also mapped by others. */
	uint64_t own_pages, excess_pages, shared_pages;
	bool counts;
};

struct residency {
	uint32_t used;				/* members[0, used) may be filled */
	uint64_t family_pages, committed_pages; /* charged to families' slots; to all */
	bool is_inherited;			/* by any member: then pages may be shared */
	uint64_t entries[ENTRIES_AT_ONCE];
	char text[TEXT_BYTES];
	struct member_cache members[MEMBERS_MAX];
};

int residency_create(struct residency **residency_out)
{
	void *memory;
	/* Zero, and only touched as far as there are members. */
	const size_t bytes = (sizeof(struct residency) + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES * OS_PAGE_BYTES;
	const int error = os_memory_map(bytes, &memory);

	if (error)
		return error;
	*residency_out = memory;
	return 0;
}

void residency_destroy(struct residency *residency)
{
	os_unmap(residency, (sizeof(struct residency) + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES * OS_PAGE_BYTES);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Reads a number and the space after it. */
static const char *skip_number(const char *text, uint64_t *number_out)
{
	uint64_t number = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + (uint64_t)(*text - '0');
	if (number_out)
		*number_out = number;
	return *text ? text + 1 : text;
}

/* Resident pages that are neither a file's nor shared memory, by /proc/PID/statm. -ESRCH or so: it has gone. */
static int anonymous_pages(pid_t pid, uint64_t *pages_out)
{
	char path[32], text[128];
	uint64_t resident, shared;

	(void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	const ssize_t bytes = os_read_small(path, text, sizeof text);

	if (bytes < 0)
		return (int)bytes;
	const char *rest = skip_number(text, NULL); /* the whole size */
	rest = skip_number(rest, &resident);
	(void)skip_number(rest, &shared);
	*pages_out = resident > shared ? resident - shared : 0;
	return 0;
}

/* One look at a member's heap. */
struct look {
	int maps, pagemap;
	uint64_t maps_offset, enough;
	uint64_t exclusive, shared;
};

/* Count [@low, @high). False: enough, or no more can be read. */
static bool count_range(struct residency *residency, struct look *look, uintptr_t low, uintptr_t high)
{
	const uint64_t end = high / OS_PAGE_BYTES;

	for (uint64_t at = low / OS_PAGE_BYTES; at < end;) {
		const size_t wanted = smaller(end - at, ENTRIES_AT_ONCE) * sizeof residency->entries[0];
		const ssize_t bytes =
			os_read_at(look->pagemap, residency->entries, wanted, at * sizeof residency->entries[0]);
		const uint64_t count = bytes > 0 ? (uint64_t)bytes / sizeof residency->entries[0] : 0;

		if (count == 0)
			return false; /* it has ended */
		for (uint64_t i = 0; i < count; i++) {
			const uint64_t entry = residency->entries[i];

			look->exclusive += (entry & PAGEMAP_PRESENT) && (entry & PAGEMAP_EXCLUSIVE);
			look->shared += (entry & PAGEMAP_PRESENT) && !(entry & PAGEMAP_EXCLUSIVE);
		}
		at += count;
		/* A member has no more than it has committed or inherited; the rest need not be searched. */
		if (look->exclusive + look->shared >= look->enough)
			return false;
	}
	return true;
}

/* "LOW-HIGH rw": a mapping that can be written. Others are address space only. */
static bool parse_mapping(const char *line, uintptr_t *low_out, uintptr_t *high_out)
{
	uintptr_t ends[2] = {0, 0};

	for (int i = 0; i < 2; i++) {
		for (; *line != '-' && *line != ' '; line++) {
			const int digit = *line >= '0' && *line <= '9' ? *line - '0' : *line - 'a' + 10;

			if (digit < 0 || digit > 15)
				return false;
			ends[i] = ends[i] << 4 | (uintptr_t)digit;
		}
		line++;
	}
	*low_out = ends[0];
	*high_out = ends[1];
	return line[0] == 'r' && line[1] == 'w';
}

/* The next lines of maps, whole ones; NULL: the end. */
static char *next_lines(struct residency *residency, struct look *look)
{
	char *text = residency->text, *last;
	const ssize_t bytes = os_read_at(look->maps, text, sizeof residency->text - 1, look->maps_offset);

	if (bytes <= 0)
		return NULL;
	text[bytes] = '\0';
	last = strrchr(text, '\n');
	if (!last)
		return NULL;
	last[1] = '\0';
	look->maps_offset += (uint64_t)(last + 1 - text);
	return text;
}

/* The range may be terabytes of address space: only what is mapped in it is counted. */
static void count_heap(struct residency *residency, struct look *look, const struct ledger_member *member)
{
	for (char *text = next_lines(residency, look); text; text = next_lines(residency, look)) {
		for (char *line = strsep(&text, "\n"); line && *line; line = strsep(&text, "\n")) {
			uintptr_t low, high;

			if (!parse_mapping(line, &low, &high) || high <= member->heap_low)
				continue;
			if (low >= member->heap_high)
				return; /* they come in order */
			low = low > member->heap_low ? low : member->heap_low;
			high = high < member->heap_high ? high : member->heap_high;
			if (!count_range(residency, look, low, high))
				return;
		}
	}
}

static int look_at(struct residency *residency, struct member_cache *cache, const struct ledger_member *member)
{
	struct look look = {.enough = member->committed_pages + member->inherited_pages};
	char path[32];
	int error;

	(void)snprintf(path, sizeof path, "/proc/%d/maps", (int)member->pid);
	error = os_open_read(path, &look.maps);
	if (error)
		return error;
	(void)snprintf(path, sizeof path, "/proc/%d/pagemap", (int)member->pid);
	error = os_open_read(path, &look.pagemap);
	if (error == 0) {
		count_heap(residency, &look, member);
		os_fd_close(look.pagemap);
	}
	os_fd_close(look.maps);
	cache->exclusive = look.exclusive;
	cache->shared = look.shared;
	return error;
}

static bool look_is_due(
	const struct member_cache *cache, const struct ledger_member *member, uint64_t anon, uint64_t now_ns)
{
	if (cache->looked_ns == 0)
		return true;
	if (anon == cache->anon && member->committed_pages == cache->committed)
		return false;
	return now_ns - cache->looked_ns >= cache->cost_ns * LOOK_COST_FACTOR;
}

/* What the last look found, moved by what can have changed since. */
static void estimate(struct member_cache *cache, const struct ledger_member *member, uint64_t anon, bool inherited)
{
	const uint64_t bound = smaller(anon, member->committed_pages + member->inherited_pages);
	const int64_t anon_change = (int64_t)anon - (int64_t)cache->anon;
	const int64_t commit_change = (int64_t)member->committed_pages - (int64_t)cache->committed;
	const int64_t change = anon_change < commit_change ? anon_change : commit_change;
	const int64_t own = (int64_t)cache->exclusive + change;

	const uint64_t found = smaller(own > 0 ? (uint64_t)own : 0, bound);

	cache->own_pages = smaller(found, member->committed_pages);
	cache->excess_pages = found - cache->own_pages;
	cache->shared_pages = inherited ? smaller(cache->shared, bound - found) : 0;
}

static void update_member(struct residency *residency, struct ledger *ledger, uint32_t index,
	const struct ledger_member *member, struct cgroup_set *set)
{
	struct member_cache *cache = &residency->members[index];
	uint64_t now_ns = os_clock_ns();
	uint64_t anon = 0;

	if (cache->pid != member->pid || cache->heap_low != member->heap_low)
		*cache = (struct member_cache){.pid = member->pid, .heap_low = member->heap_low};
	cache->counts = member->heap_high > member->heap_low && anonymous_pages(member->pid, &anon) == 0;
	if (!cache->counts)
		return;
	if (cache->levels_ns == 0 || now_ns - cache->levels_ns >= LEVELS_RECHECK_NS) {
		cache->levels = set->level_count ? cgroup_levels_of(set, member->pid) : 0;
		cache->levels_ns = now_ns;
		cache->failed = false; /* for want of a descriptor, perhaps */
	}
	if (!cache->failed && look_is_due(cache, member, anon, now_ns)) {
		cache->failed = look_at(residency, cache, member) != 0;
		cache->anon = anon;
		cache->committed = member->committed_pages;
		cache->looked_ns = os_clock_ns();
		cache->cost_ns = cache->looked_ns - now_ns;
	}
	if (cache->failed) {
		cache->own_pages = smaller(member->resident_pages, smaller(anon, member->committed_pages));
		cache->excess_pages = cache->shared_pages = 0;
		return;
	}
	estimate(cache, member, anon, residency->is_inherited);
	ledger_publish_member(ledger, index, cache->own_pages + cache->excess_pages + cache->shared_pages,
		cache->excess_pages - smaller(cache->excess_pages, residency->family_pages));
}

static void note_families(struct residency *residency, const struct ledger *ledger)
{
	residency->family_pages = 0;
	residency->is_inherited = false;
	for (uint32_t i = 0; i < residency->used; i++) {
		struct ledger_member member;

		if (!ledger_look_member(ledger, i, &member))
			continue;
		if (member.kind == LEDGER_FAMILY)
			residency->family_pages += member.committed_pages;
		if (member.kind == LEDGER_LIVE && member.inherited_pages)
			residency->is_inherited = true;
	}
}

void residency_update(struct residency *residency, struct ledger *ledger, struct cgroup_set *set)
{
	struct ledger_view view;

	ledger_look(ledger, &view);
	for (uint32_t i = 0; i < residency->used; i++)
		residency->members[i].counts = false;
	residency->used = (uint32_t)smaller(view.slots_high, MEMBERS_MAX);
	residency->committed_pages = view.committed_pages;
	note_families(residency, ledger);
	for (uint32_t i = 0; i < residency->used; i++) {
		struct ledger_member member;

		if (ledger_look_member(ledger, i, &member) && member.kind == LEDGER_LIVE)
			update_member(residency, ledger, i, &member, set);
	}
}

uint64_t residency_pages(const struct residency *residency, unsigned level)
{
	uint64_t own = 0, excess = 0, shared = 0;

	for (uint32_t i = 0; i < residency->used; i++) {
		const struct member_cache *cache = &residency->members[i];

		if (!cache->counts || (level < CGROUP_LEVELS && !(cache->levels & UINT32_C(1) << level)))
			continue;
		own += cache->own_pages;
		excess += cache->excess_pages;
		if (cache->shared_pages > shared)
			shared = cache->shared_pages;
	}
	return smaller(own + smaller(excess, residency->family_pages) + shared, residency->committed_pages);
}

void residency_forget_levels(struct residency *residency)
{
	for (uint32_t i = 0; i < residency->used; i++)
		residency->members[i].levels_ns = 0;
}
