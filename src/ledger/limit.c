/*
 * At each level (a cgroup with a limit, or RAM):
 *
 *     outside = usage - clean file pages - what is surely resident heap of our members
 *     budget  = the most B with  B + overdraft(B) + margin(B) + outside <= limit
 *
 * and the ledger's limit is the least budget of all levels. B + outside bounds the level's usage whatever the members
 * do, because a heap's page is committed before it is touched. The members' own figures come first and the usage
 * second, so that a heap that grows in between counts as outside.
 *
 * The margin, from measurements of what is left free when the kernel does not kill:
 *     0.4% of B           page tables of memory yet to be touched (0.2% if it is dense)
 *     256 KiB for a CPU   the kernel's per-CPU stock of charges: a usage that is not use
 *     4 MiB               one process at a time that commits up to the limit was killed with 2 MiB free and not with 4.
 * Members ask the ledger first, so that they count as one, however many they are growth              outside is
 * uncoordinated: the most that it grew from one measurement to the next of the last eight, but at most 1/32 of the
 * limit; what it is growing by will be gone before we look again What the kernel holds for programs that run already
 * (page tables, stacks, sockets) is in the usage, hence outside.
 */
#include "ledger/limit.h"

#include "ledger/cgroup.h"
#include "ledger/ledger.h"
#include "ledger/residency.h"
#include "os/os.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
	GROWTHS = 8,
	MARGIN_CPU_BYTES = 256 * 1024,
	MARGIN_BASE_BYTES = 4 * 1024 * 1024,
	GROWTH_SHARE = 32, /* of the limit */
	/* B + B/32 (overdraft) + B*4/1000 = B * 33128 / 32000 */
	SCALE_OF_BUDGET = 32000,
	SCALE_OF_ALL = 33128,
	INTERVAL_MS = 250,
	INTERVAL_NEAR_MS = 50, /* when less than 1/8 of the budget is left */
	INTERVAL_MAX_MS = 500,
	COST_FACTOR = 25, /* a keeper takes 4% of one CPU at most, as long as INTERVAL_MAX_MS allows */
};
#define NS_PER_MS UINT64_C(1000000)
#define REFRESH_NS (100 * NS_PER_MS)
#define KEEPER_IS_LATE_NS (1000 * NS_PER_MS)
#define FIND_AGAIN_NS (5000 * NS_PER_MS) /* controllers may be switched on and off above us */

struct limit {
	struct cgroup_set set;
	struct residency *residency;
	uint64_t found_ns;
	uint64_t tightest; /* the level that decided last: index, or CGROUP_LEVELS: RAM */
	uint64_t outside_before;
	uint64_t growths[GROWTHS];
	unsigned growth_next;
	bool has_before;
};

static size_t limit_bytes_mapped(void)
{
	return (sizeof(struct limit) + OS_PAGE_BYTES - 1) / OS_PAGE_BYTES * OS_PAGE_BYTES;
}

int limit_create(struct limit **limit_out)
{
	struct limit *limit;
	void *memory;
	int error = os_memory_map(limit_bytes_mapped(), &memory);

	if (error)
		return error;
	limit = memory;
	error = residency_create(&limit->residency);
	if (error) {
		os_unmap(memory, limit_bytes_mapped());
		return error;
	}
	*limit_out = limit;
	return 0;
}

void limit_destroy(struct limit *limit)
{
	residency_destroy(limit->residency);
	os_unmap(limit, limit_bytes_mapped());
}

/* ---- RAM ---- */

static uint64_t meminfo_bytes(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	uint64_t kb = 0;

	if (!at)
		return 0;
	for (at += strlen(key); *at == ' '; at++)
		;
	for (; *at >= '0' && *at <= '9'; at++)
		kb = kb * 10 + (uint64_t)(*at - '0');
	return kb << 10;
}

/* Both 0 if /proc is not there. */
static void read_ram(uint64_t *total_out, uint64_t *available_out)
{
	char text[512]; /* what is wanted stands in the first lines */

	*total_out = *available_out = 0;
	if (os_read_small("/proc/meminfo", text, sizeof text) <= 0)
		return;
	*total_out = meminfo_bytes(text, "MemTotal:");
	*available_out = meminfo_bytes(text, "MemAvailable:");
	if (*available_out > *total_out)
		*available_out = *total_out;
}

/* ---- one level ---- */

struct level_figures {
	uint64_t limit_bytes, outside_bytes;
};
static_assert(LEDGER_NO_LIMIT <= UINT64_MAX / SCALE_OF_BUDGET, "a number of pages can be scaled");

static uint64_t budget_of(const struct level_figures *level, uint64_t growth_bytes, uint64_t *margin_out)
{
	uint64_t fixed = MARGIN_BASE_BYTES + (uint64_t)MARGIN_CPU_BYTES * os_cpu_count();
	uint64_t room_pages, budget_pages;

	if (growth_bytes > level->limit_bytes / GROWTH_SHARE)
		growth_bytes = level->limit_bytes / GROWTH_SHARE;
	fixed += growth_bytes;
	room_pages = level->limit_bytes > level->outside_bytes ? level->limit_bytes - level->outside_bytes : 0;
	room_pages = (room_pages > fixed ? room_pages - fixed : 0) / OS_PAGE_BYTES;
	if (room_pages > LEDGER_NO_LIMIT)
		room_pages = LEDGER_NO_LIMIT;
	budget_pages = room_pages * SCALE_OF_BUDGET / SCALE_OF_ALL;
	*margin_out = fixed + budget_pages * OS_PAGE_BYTES / 1000 * 4;
	return budget_pages;
}

static uint64_t subtract(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static struct level_figures figures_of(const struct cgroup_level *level, uint64_t heap_bytes)
{
	return (struct level_figures){.limit_bytes = level->limit_bytes,
		.outside_bytes = subtract(level->usage_bytes, level->clean_bytes + heap_bytes)};
}

static void append_size(char *text, size_t bytes, const char *before, uint64_t size)
{
	static const char units[] = "KMGTPE";
	const size_t used = strlen(text);
	unsigned unit = 0;
	uint64_t tenths = size / 1024 * 10 + size % 1024 * 10 / 1024;

	for (; tenths >= 10240 && units[unit + 1]; unit++)
		tenths /= 1024;
	(void)snprintf(text + used, bytes - used, "%s%u.%u%c", before, (unsigned)(tenths / 10), (unsigned)(tenths % 10),
		units[unit]);
}

/* ---- all levels ---- */

static void find_levels(struct limit *limit)
{
	const uint64_t now_ns = os_clock_ns();

	if (limit->found_ns != 0 && now_ns - limit->found_ns < FIND_AGAIN_NS && !cgroup_has_moved(&limit->set))
		return;
	cgroup_find(&limit->set);
	residency_forget_levels(limit->residency);
	limit->found_ns = now_ns ? now_ns : 1;
}

static uint64_t growth_now(const struct limit *limit)
{
	uint64_t most = 0;

	for (int i = 0; i < GROWTHS; i++) {
		if (limit->growths[i] > most)
			most = limit->growths[i];
	}
	return most;
}

static void note_growth(struct limit *limit, unsigned tightest, uint64_t outside_bytes)
{
	uint64_t growth = 0;

	if (limit->has_before && limit->tightest == tightest)
		growth = subtract(outside_bytes, limit->outside_before);
	limit->growths[limit->growth_next] = growth;
	limit->growth_next = (limit->growth_next + 1) % GROWTHS;
	limit->tightest = tightest;
	limit->outside_before = outside_bytes;
	limit->has_before = true;
}

struct tightest {
	unsigned level; /* CGROUP_LEVELS: RAM */
	struct level_figures figures;
	uint64_t budget_pages, margin_bytes;
};

static void consider(struct tightest *tightest, unsigned level, const struct level_figures *figures, uint64_t growth)
{
	uint64_t margin;
	const uint64_t budget = budget_of(figures, growth, &margin);

	if (budget >= tightest->budget_pages)
		return;
	*tightest = (struct tightest){level, *figures, budget, margin};
}

static void describe(const struct limit *limit, const struct tightest *tightest, char *text, size_t bytes)
{
	const struct cgroup_level *level;

	if (tightest->level == CGROUP_LEVELS) {
		(void)snprintf(text, bytes, "RAM");
		append_size(text, bytes, ", ", tightest->figures.limit_bytes);
		return;
	}
	level = &limit->set.levels[tightest->level];
	cgroup_level_name(level, text, bytes);
	append_size(text, bytes, ", ", level->limit_bytes);
	/* Above it the kernel stalls the whole group, seconds a megabyte, and still returns no error. */
	if (level->high_bytes < level->limit_bytes)
		append_size(text, bytes, ", slowed from ", level->high_bytes);
}

static void consider_ram(const struct limit *limit, struct tightest *tightest, uint64_t growth)
{
	uint64_t total, available;
	struct level_figures figures;

	read_ram(&total, &available);
	if (total == 0) {
		total = os_ram_bytes();
		available = total;
	}
	figures.limit_bytes = total;
	figures.outside_bytes =
		subtract(total - available, residency_pages(limit->residency, RESIDENCY_ANYWHERE) * OS_PAGE_BYTES);
	consider(tightest, CGROUP_LEVELS, &figures, growth);
}

void limit_measure(struct limit *limit, struct ledger *ledger, struct limit_reading *reading_out)
{
	struct tightest tightest = {.level = CGROUP_LEVELS, .budget_pages = UINT64_MAX};
	uint64_t growth = growth_now(limit);

	find_levels(limit);
	if (ledger)
		residency_update(limit->residency, ledger, &limit->set);
	for (unsigned i = 0; i < limit->set.level_count; i++) {
		struct level_figures figures;

		if (!cgroup_read(&limit->set, i))
			continue;
		figures = figures_of(&limit->set.levels[i], residency_pages(limit->residency, i) * OS_PAGE_BYTES);
		consider(&tightest, i, &figures, growth);
	}
	consider_ram(limit, &tightest, growth);
	note_growth(limit, tightest.level, tightest.figures.outside_bytes);

	reading_out->is_certain = !limit->set.is_uncertain;
	if (limit->set.is_uncertain)
		limit->found_ns = 0; /* everything anew the next time */
	reading_out->budget_pages = tightest.budget_pages;
	reading_out->outside_pages = tightest.figures.outside_bytes / OS_PAGE_BYTES;
	reading_out->margin_pages = tightest.margin_bytes / OS_PAGE_BYTES;
	reading_out->limit_bytes = tightest.figures.limit_bytes;
	describe(limit, &tightest, reading_out->source, sizeof reading_out->source);
}

static void apply(struct limit *limit, struct ledger *ledger, const struct ledger_view *before, uint64_t *budget_out)
{
	struct limit_reading reading;

	limit_measure(limit, ledger, &reading);
	*budget_out = reading.budget_pages;
	/* A limit that could not be read this time is still there. (There is no limit yet: better this one than none.)
	 */
	if (!reading.is_certain && reading.budget_pages > before->limit_pages && before->limit_source[0])
		return;
	ledger_set_limit(ledger, reading.budget_pages);
	ledger_publish_outside(ledger, reading.outside_pages, reading.margin_pages, reading.source);
}

unsigned limit_update(struct limit *limit, struct ledger *ledger)
{
	const uint64_t start_ns = os_clock_ns();
	struct ledger_view view;
	uint64_t budget, cost_ms, interval;

	ledger_look(ledger, &view);
	if (!view.automatic) {
		/* Nothing depends on it, but people want to see what is resident. */
		residency_update(limit->residency, ledger, &limit->set);
		return INTERVAL_MS;
	}
	(void)ledger_take_turn_to_check(ledger, start_ns, 0); /* so that nobody else thinks that it is late */
	apply(limit, ledger, &view, &budget);
	cost_ms = (os_clock_ns() - start_ns) * COST_FACTOR / NS_PER_MS;
	interval = subtract(budget, view.committed_pages) < budget / 8 ? INTERVAL_NEAR_MS : INTERVAL_MS;
	if (interval < cost_ms)
		interval = cost_ms < INTERVAL_MAX_MS ? cost_ms : INTERVAL_MAX_MS;
	return (unsigned)interval;
}

/* ---- without a keeper ---- */

/* Who measures: a process's pid. It is not a lock of ours, since it must also be free in a child whose parent was
 * measuring. */
static _Atomic pid_t measuring;
static struct limit *refresh_state; /* of the one who measures */

static bool start_measuring(void)
{
	const pid_t self = os_process_id();
	pid_t found = 0;

	/* Acquire: pairs with the release at the end of limit_refresh(). */
	if (atomic_compare_exchange_strong_explicit(
		    &measuring, &found, self, memory_order_acquire, memory_order_relaxed))
		return true;
	if (found == self)
		return false; /* another thread is at it */
	/* A fork's child: the parent's measuring thread does not exist here, and has left the state in any shape. */
	if (!atomic_compare_exchange_strong(&measuring, &found, self))
		return false;
	refresh_state = NULL;
	return true;
}

void limit_refresh(struct ledger *ledger)
{
	struct ledger_view view;
	uint64_t budget;

	ledger_look(ledger, &view);
	if (!view.automatic)
		return;
	if (!ledger_take_turn_to_check(ledger, os_clock_ns(), view.keeper_pid != 0 ? KEEPER_IS_LATE_NS : REFRESH_NS))
		return;
	if (!start_measuring())
		return;
	/* A copy: a vfork's child that comes here takes the turn for its own, and clears what both share. */
	struct limit *state = refresh_state;
	if (!state && limit_create(&state) == 0)
		refresh_state = state;
	if (state)
		apply(state, ledger, &view, &budget);
	/* Release: the state is whole for the next. Pairs with the acquire in start_measuring(). */
	atomic_store_explicit(&measuring, 0, memory_order_release);
}

uint64_t limit_tightest_bytes(void)
{
	struct limit *limit;
	uint64_t total, available;

	read_ram(&total, &available);
	if (total == 0)
		total = os_ram_bytes();
	if (limit_create(&limit) != 0)
		return total;
	cgroup_find(&limit->set);
	for (unsigned i = 0; i < limit->set.level_count; i++) {
		if (cgroup_read(&limit->set, i) && limit->set.levels[i].limit_bytes < total)
			total = limit->set.levels[i].limit_bytes;
	}
	limit_destroy(limit);
	return total;
}
