/*
 * Between knobs.c, which knows names and texts, and probe.c, which knows what the knobs do.
 */
#ifndef HF_PROBE_KNOBS_H
#define HF_PROBE_KNOBS_H

#include "probe/probe.h"

/* One or two fields of struct probe_settings. */
enum probe_knob {
	PROBE_KNOB_PROBABILITY = 1 << 0,
	PROBE_KNOB_INTERVAL = 1 << 1,
	PROBE_KNOB_TIMES = 1 << 2,
	PROBE_KNOB_SPACE = 1 << 3,
	PROBE_KNOB_SIZE = 1 << 4,
	PROBE_KNOB_CLASS = 1 << 5,
	PROBE_KNOB_COMMITS = 1 << 6,
	PROBE_KNOB_SEED = 1 << 7,
	PROBE_KNOB_ALL = (1 << 8) - 1,
};

/* Sets those of @which (enum probe_knob) and leaves the others, so that what threads use up of them is not lost. */
void probe_apply(const struct probe_settings *settings, uint32_t which);

#endif
