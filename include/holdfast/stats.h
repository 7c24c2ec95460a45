/*
 * Holdfast: what this process and its budget hold now.
 */
#ifndef HOLDFAST_STATS_H
#define HOLDFAST_STATS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hf_stats {
	size_t struct_bytes; /* set by the caller: sizeof(struct hf_stats) */
	/* The budget, all processes. SIZE_MAX: no limit. */
	size_t limit_bytes, committed_bytes, peak_bytes, outside_bytes;
	uint32_t processes;
	uint64_t refusals;
	/* This process. */
	size_t process_committed_bytes, idle_bytes, live_bytes, metadata_bytes;
	uint64_t process_refusals, faults_injected;
};

/* Fills at most stats->struct_bytes. Returns 0, or -EINVAL when that is not set. Never blocks for long. */
int hf_stats_get(struct hf_stats *stats);

#ifdef __cplusplus
}
#endif

#endif
