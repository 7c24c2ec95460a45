/*
 * hf_stats_get(): what this process and its budget hold now.
 */
#include <holdfast/stats.h>

#include "heap/heap.h"
#include "ledger/ledger.h"
#include "os/os.h"
#include "pool/pool.h"
#include "probe/probe.h"
#include "request/request.h"

#include <errno.h>
#include <string.h>

static size_t bytes_of(uint64_t pages)
{
	return (size_t)pages * OS_PAGE_BYTES;
}

static void fill(struct hf_stats *stats)
{
	struct ledger_view view;
	struct pool_stats pool;
	struct heap_stats heap;

	ledger_look(pool_ledger(), &view);
	pool_stats_get(&pool);
	heap_stats_get(&heap);
	stats->limit_bytes = view.limit_pages >= LEDGER_NO_LIMIT ? SIZE_MAX : bytes_of(view.limit_pages);
	stats->committed_bytes = bytes_of(view.committed_pages);
	stats->peak_bytes = bytes_of(view.peak_pages);
	stats->outside_bytes = bytes_of(view.outside_pages);
	stats->processes = view.members;
	stats->refusals = view.refusals;
	stats->process_committed_bytes = bytes_of(ledger_committed_here(pool_ledger()));
	stats->idle_bytes = (size_t)pool.idle_chunks * CHUNK_BYTES;
	stats->live_bytes = (size_t)heap.live_bytes;
	stats->metadata_bytes = bytes_of(pool.meta_pages);
	stats->process_refusals = request_refusals();
	stats->faults_injected = probe_injected();
}

HF_EXPORT int hf_stats_get(struct hf_stats *stats)
{
	struct hf_stats whole = {0};
	size_t bytes;

	if (!stats || stats->struct_bytes < sizeof stats->struct_bytes)
		return -EINVAL;
	if (!init_ensure())
		return -EINVAL;
	fork_raw_clone_check();
	fill(&whole);
	bytes = stats->struct_bytes < sizeof whole ? stats->struct_bytes : sizeof whole;
	whole.struct_bytes = stats->struct_bytes;
	memcpy(stats, &whole, bytes);
	return 0;
}
