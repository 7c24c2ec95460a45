/*
 * The filters, in the kernel's order (lib/fault-inject.c, should_fail_ex). Each is one atomic of its own, relaxed: a
 * knob that is being turned may meet a request half-way, with old and new filters mixed; that does no harm, since
 * either answer is a right one for a request that runs beside the turning. What is counted is exact whatever the number
 * of threads: space and times are taken by compare-and-swap, the interval and the draws by fetch-and-add.
 */
#include "probe/probe.h"

#include "base/assert.h"
#include "os/lock.h"
#include "os/os.h"
#include "probe/knobs.h"

_Atomic uint32_t probe_armed;

/* The knobs as they are asked; written under knobs_lock, and times and space by whoever uses them up. */
static struct {
	_Atomic uint32_t probability_percent;
	_Atomic uint32_t interval;
	_Atomic uint32_t classes;
	_Atomic bool deny_commits;
	_Atomic int64_t times;
	_Atomic uint64_t space_bytes;
	_Atomic uint64_t size_min_bytes, size_max_bytes;
	_Atomic uint64_t seed;
	_Atomic uint32_t count; /* of what passed the filters before the interval */
	_Atomic uint64_t draws; /* the nth draw depends on seed and n only */
} knobs = {
	.interval = 1,
	.times = 1,
	.classes = UINT32_MAX,
	.size_max_bytes = UINT64_MAX,
};

static struct lock knobs_lock = LOCK_INIT(LOCK_RANK_PROBE);
static bool knobs_armed; /* under knobs_lock: their one in probe_armed */
static _Atomic uint64_t injected;

/* This thread's own. Initial-exec: no allocation behind our back on first use. */
static __thread struct {
	unsigned nth; /* 0: off; while it is not, this thread's one is in probe_armed */
	bool fired;
	unsigned benign_depth;
} mine __attribute__((tls_model("initial-exec")));

#define GET(knob) atomic_load_explicit(&knobs.knob, memory_order_relaxed)
#define SET(knob, value) atomic_store_explicit(&knobs.knob, (value), memory_order_relaxed)

static void arm(void)
{
	atomic_fetch_add_explicit(&probe_armed, 1, memory_order_relaxed);
}

static void disarm(void)
{
	const uint32_t before = atomic_fetch_sub_explicit(&probe_armed, 1, memory_order_relaxed);

	HF_VERIFY_OP(before, >, 0);
}

/* ---- the filters ---- */

static bool is_size_or_class_excluded(uint32_t class_bit, uint64_t bytes)
{
	return !(GET(classes) & class_bit) || bytes < GET(size_min_bytes) || bytes > GET(size_max_bytes);
}

/* True: these bytes still had to succeed, and have been taken off. */
static bool use_space(uint64_t bytes)
{
	uint64_t space = GET(space_bytes);

	while (space > bytes)
		if (atomic_compare_exchange_weak_explicit(
			    &knobs.space_bytes, &space, space - bytes, memory_order_relaxed, memory_order_relaxed))
			return true;
	return false;
}

static bool is_between_intervals(void)
{
	const uint32_t interval = GET(interval);

	/* Like the kernel, an interval of 1 does not count. */
	return interval > 1 && (atomic_fetch_add_explicit(&knobs.count, 1, memory_order_relaxed) + 1) % interval != 0;
}

static bool is_drawn(uint32_t probability_percent)
{
	/* splitmix64: the nth number after a seed, without a state that threads would have to share. */
	const uint64_t n = atomic_fetch_add_explicit(&knobs.draws, 1, memory_order_relaxed) + 1;
	uint64_t mixed = GET(seed) + n * 0x9e3779b97f4a7c15u;

	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
	mixed ^= mixed >> 31;
	return (mixed >> 32) * 100 >> 32 < probability_percent;
}

/* True: one more may fail, and has been counted. */
static bool use_times(void)
{
	int64_t times = GET(times);

	while (times > 0)
		if (atomic_compare_exchange_weak_explicit(
			    &knobs.times, &times, times - 1, memory_order_relaxed, memory_order_relaxed))
			return true;
	return times < 0;
}

/* This thread counts down whatever it asks for. True: this is the one. */
static bool count_down(void)
{
	if (--mine.nth != 0)
		return false;
	mine.fired = true;
	disarm();
	(void)use_times(); /* as in the kernel: it counts as one of them, but fires without any left, too */
	return true;
}

static bool should_fail(uint32_t class_bit, uint64_t bytes)
{
	uint32_t probability_percent;

	if (mine.nth != 0)
		return count_down();
	probability_percent = GET(probability_percent);
	if (probability_percent == 0)
		return false;
	if (is_size_or_class_excluded(class_bit, bytes))
		return false;
	if (GET(times) == 0)
		return false;
	if (use_space(bytes))
		return false;
	if (is_between_intervals())
		return false;
	if (!is_drawn(probability_percent))
		return false;
	return use_times(); /* another thread may have had the last one since we looked */
}

static bool note(bool fails)
{
	if (fails)
		atomic_fetch_add_explicit(&injected, 1, memory_order_relaxed);
	return fails;
}

bool probe_should_fail(uint32_t accept_class, size_t bytes)
{
	if (mine.benign_depth > 0 || GET(deny_commits))
		return false;
	return note(should_fail((uint32_t)1 << (accept_class & 31), bytes));
}

bool probe_should_deny_commit(uint64_t pages)
{
	if (!probe_is_armed() || mine.benign_depth > 0 || !GET(deny_commits))
		return false;
	return note(should_fail(UINT32_MAX, pages > UINT64_MAX >> OS_PAGE_SHIFT ? UINT64_MAX : pages << OS_PAGE_SHIFT));
}

uint64_t probe_injected(void)
{
	return atomic_load_explicit(&injected, memory_order_relaxed);
}

/* ---- one thread ---- */

void probe_fail_nth(unsigned n)
{
	if (mine.nth == 0 && n != 0)
		arm();
	else if (mine.nth != 0 && n == 0)
		disarm();
	mine.nth = n;
	mine.fired = false;
}

bool probe_fired(void)
{
	return mine.fired;
}

void probe_off(void)
{
	if (mine.nth != 0)
		disarm();
	mine.nth = 0;
}

void probe_benign_enter(void)
{
	mine.benign_depth++;
}

void probe_benign_leave(void)
{
	HF_VERIFY_OP(mine.benign_depth, >, 0);
	mine.benign_depth--;
}

void probe_fork_child(void)
{
	lock_reset_after_fork(&knobs_lock);
	mine.nth = 0;
	mine.fired = false;
	/* The other threads are gone, and their ones with them. */
	atomic_store_explicit(&probe_armed, GET(probability_percent) != 0, memory_order_relaxed);
	knobs_armed = GET(probability_percent) != 0;
	atomic_store_explicit(&injected, 0, memory_order_relaxed);
}

/* ---- the knobs ---- */

void probe_settings_default(struct probe_settings *settings_out)
{
	*settings_out = (struct probe_settings){
		.interval = 1,
		.times = 1,
		.size_max_bytes = UINT64_MAX,
		.classes = UINT32_MAX,
	};
}

static void seed_set(uint64_t seed)
{
	while (seed == 0)
		os_random(&seed, sizeof seed);
	SET(seed, seed);
	SET(draws, 0);
}

static void arm_for_knobs(bool armed)
{
	HF_ASSERT(lock_is_mine(&knobs_lock));
	if (armed && !knobs_armed)
		arm();
	else if (!armed && knobs_armed)
		disarm();
	knobs_armed = armed;
}

void probe_apply(const struct probe_settings *settings, uint32_t which)
{
	lock_take(&knobs_lock);
	if (which & PROBE_KNOB_SEED)
		seed_set(settings->seed);
	else if (GET(seed) == 0)
		seed_set(0);
	if (which & PROBE_KNOB_INTERVAL) {
		SET(interval, settings->interval > 0 ? settings->interval : 1);
		SET(count, 0);
	}
	if (which & PROBE_KNOB_TIMES)
		SET(times, settings->times);
	if (which & PROBE_KNOB_SPACE)
		SET(space_bytes, settings->space_bytes);
	if (which & PROBE_KNOB_SIZE) {
		SET(size_min_bytes, settings->size_min_bytes);
		SET(size_max_bytes, settings->size_max_bytes);
	}
	if (which & PROBE_KNOB_CLASS)
		SET(classes, settings->classes);
	if (which & PROBE_KNOB_COMMITS)
		SET(deny_commits, settings->deny_commits);
	if (which & PROBE_KNOB_PROBABILITY) { /* last: it opens the door to the filters above */
		SET(probability_percent, settings->probability_percent);
		arm_for_knobs(settings->probability_percent != 0);
	}
	lock_put(&knobs_lock);
}

void probe_configure(const struct probe_settings *settings)
{
	probe_apply(settings, PROBE_KNOB_ALL);
}

void probe_get(struct probe_settings *settings_out)
{
	*settings_out = (struct probe_settings){
		.probability_percent = GET(probability_percent),
		.interval = GET(interval),
		.times = GET(times),
		.space_bytes = GET(space_bytes),
		.size_min_bytes = GET(size_min_bytes),
		.size_max_bytes = GET(size_max_bytes),
		.classes = GET(classes),
		.seed = GET(seed),
		.deny_commits = GET(deny_commits),
	};
}
