/*
 * The slow path. The fast path found nothing ready in this thread's heap; nothing has failed yet.
 *
 * The steps are numbered as in the design (§7). Those that need reservations (2), shrinkers and the balancer (in 1 and
 * 4), the OOM policy and waiting (6 to 8) come with what they need; no class of this release sleeps.
 *
 * Progress (for RETRY): after a round of reclaim the ledger has more room than at any time since the request began.
 * Room has an end, so every request ends: two processes that free and take the same pages in turn are no progress for a
 * third.
 */
#include "base/assert.h"
#include "heap/heap.h"
#include "ledger/ledger.h"
#include "ledger/limit.h"
#include "os/os.h"
#include "pool/pool.h"
#include "probe/probe.h"
#include "request/request.h"

#include <errno.h>
#include <string.h>

enum { ROUNDS_WITHOUT_PROGRESS = 16 }; /* the kernel's MAX_RECLAIM_RETRIES */

static _Atomic uint64_t refusals;

uint64_t request_refusals(void)
{
	return atomic_load_explicit(&refusals, memory_order_relaxed);
}

void request_refusals_reset(void)
{
	atomic_store_explicit(&refusals, 0, memory_order_relaxed);
}

/* How much must stay free under the limit for a request of this class. */
static uint64_t floor_pages_of(hf_how how)
{
	uint64_t floor_pages = ledger_watermarks_now(pool_ledger()).min_pages;

	if (request_class(how) == HF_ATOMIC)
		floor_pages = floor_pages * 3 / 8;
	return how & HF_HIGH ? floor_pages / 2 : floor_pages;
}

/* What stands between this process and its limit: the tightest of nested ledgers. */
struct room {
	uint64_t limit_pages, free_pages;
};

static struct room room_now(void)
{
	struct room room = {.limit_pages = LEDGER_NO_LIMIT, .free_pages = LEDGER_NO_LIMIT};
	struct ledger_view view;

	for (const struct ledger *at = pool_ledger(); at != NULL; at = ledger_outer(at)) {
		ledger_look(at, &view);
		const uint64_t free_pages =
			view.limit_pages > view.committed_pages ? view.limit_pages - view.committed_pages : 0;
		if (view.limit_pages < room.limit_pages)
			room.limit_pages = view.limit_pages;
		if (free_pages < room.free_pages)
			room.free_pages = free_pages;
	}
	return room;
}

static uint64_t pages_of(size_t bytes)
{
	return (uint64_t)bytes / OS_PAGE_BYTES + (bytes % OS_PAGE_BYTES != 0);
}

/* A larger object with the same contents: where it stands, by moving its pages, or as a copy. */
static void *resize(const struct request *request, uint64_t floor_pages)
{
	const size_t old_bytes = heap_usable(request->object);
	const int error = heap_resize(request->object, request->bytes, floor_pages);
	void *object = request->object;

	if (error == -ENOMEM)
		return NULL; /* a copy would need still more */
	if (error != 0)
		object = heap_move(request->object, request->bytes, floor_pages);
	if (!object) {
		object = heap_alloc(request->bytes, 0, request->how & HF_ZERO, floor_pages);
		if (!object)
			return NULL;
		memcpy(object, request->object, old_bytes < request->bytes ? old_bytes : request->bytes);
		heap_free(request->object);
		return object;
	}
	if (request->how & HF_ZERO && request->bytes > old_bytes)
		memset((char *)object + old_bytes, 0, request->bytes - old_bytes);
	return object;
}

/* Step 1. NULL: the pool said no. */
static void *attempt(const struct request *request)
{
	const uint64_t floor_pages = floor_pages_of(request->how);

	if (request->object)
		return resize(request, floor_pages);
	return heap_alloc(request->bytes, request->align_bytes, request->how & HF_ZERO, floor_pages);
}

uint64_t request_reclaim(void)
{
	return heap_trim() + ledger_collect_dead(pool_ledger(), true);
}

/* Limits that are automatic, and that no keeper follows, are measured again before anybody hears no. */
static void refresh_limits(void)
{
	for (struct ledger *at = pool_ledger(); at != NULL; at = ledger_outer(at))
		limit_refresh(at);
}

/* Could never be served, whoever frees what: so nobody's caches are dropped for it. */
static bool is_hopeless(const struct request *request, const struct room *room)
{
	const uint64_t pages = pages_of(request->bytes);

	return pages > room->limit_pages || floor_pages_of(request->how) > room->limit_pages - pages;
}

/* At most one line in ten seconds, as the kernel does it; the counts are in the ledger. */
static HF_COLD void warn(const struct request *request)
{
	static _Atomic uint64_t next_ns;
	uint64_t due_ns = atomic_load_explicit(&next_ns, memory_order_relaxed);
	const uint64_t now_ns = os_clock_ns();

	if (now_ns < due_ns || !atomic_compare_exchange_strong(&next_ns, &due_ns, now_ns + 10ull * 1000 * 1000 * 1000))
		return;
	const struct room room = room_now();

	base_warn("process %d: a request for %zu bytes was refused; %llu of %llu KiB are free", (int)os_process_id(),
		request->bytes, (unsigned long long)room.free_pages * 4, (unsigned long long)room.limit_pages * 4);
}

static HF_COLD void *refuse(const struct request *request)
{
	atomic_fetch_add_explicit(&refusals, 1, memory_order_relaxed);
	ledger_note_refusal(pool_ledger(), request->bytes);
	if (!(request->how & HF_NOWARN))
		warn(request);
	errno = ENOMEM;
	return NULL;
}

/* Steps 4 and 5: what was not there at once. */
static HF_NOINLINE void *reclaim_and_retry(const struct request *request)
{
	unsigned rounds_without_progress = 0;
	uint64_t free_pages_before;

	refresh_limits();
	struct room room = room_now();
	uint64_t most_free_pages = room.free_pages;
	while (!is_hopeless(request, &room)) {
		const uint64_t reclaimed_pages = request_reclaim(); /* 4 */
		void *object = attempt(request);		    /* 5 */
		if (object)
			return object;
		if (request_class(request->how) == HF_NORETRY)
			break;
		free_pages_before = room.free_pages;
		room = room_now();
		if (reclaimed_pages == 0 && room.free_pages == free_pages_before)
			break; /* nobody did anything: the rounds to come would be the same */
		if (room.free_pages > most_free_pages) {
			most_free_pages = room.free_pages;
			rounds_without_progress = 0;
		} else if (++rounds_without_progress == ROUNDS_WITHOUT_PROGRESS) {
			break;
		}
		os_yield(); /* whoever is about to free something may run */
	}
	return refuse(request);
}

void *request_serve(const struct request *request)
{
	if (!init_ensure()) {
		errno = ENOMEM; /* the library's own start-up asked: it must not */
		return NULL;
	}
	fork_raw_clone_check();
	if (probe_is_armed() && probe_should_fail(request_class(request->how), request->bytes)) {
		errno = ENOMEM;
		return NULL;
	}

	void *object = attempt(request); /* 1 */
	if (HF_LIKELY(object != NULL))
		return object;
	if (request_class(request->how) == HF_ATOMIC) /* 3 */
		return refuse(request);
	return reclaim_and_retry(request);
}
