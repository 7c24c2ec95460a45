/*
 * What the kernel says is there: pages of this process that are resident in a range, from its own account (smaps).
 */
#ifndef HF_TESTS_SUPPORT_RESIDENT_H
#define HF_TESTS_SUPPORT_RESIDENT_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The sum of one figure ("Rss:", "Locked:") of all mappings that begin in [low, high), in pages; UINT64_MAX:
 * unreadable. */
static inline uint64_t resident_figure(const char *figure, uintptr_t low, uintptr_t high)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	const size_t length = strlen(figure);
	char line[512];
	uint64_t kib = 0;
	int inside = 0;

	if (smaps == NULL)
		return UINT64_MAX;
	while (fgets(line, sizeof line, smaps) != NULL) {
		unsigned long from, to, value;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = from >= low && from < high;
		else if (inside && strncmp(line, figure, length) == 0 && sscanf(line + length, " %lu kB", &value) == 1)
			kib += value;
	}
	fclose(smaps);
	return kib / 4;
}

static inline uint64_t resident_pages(uintptr_t low, uintptr_t high)
{
	return resident_figure("Rss:", low, high);
}

#endif
