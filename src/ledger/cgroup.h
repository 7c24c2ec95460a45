/*
 * The memory cgroups that this process is in: the nearest and its ancestors, as far as they can be seen, of v1 and v2.
 *
 * Reads only. Knows nothing of ledgers.
 */
#ifndef HF_LEDGER_CGROUP_H
#define HF_LEDGER_CGROUP_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { CGROUP_PATH_BYTES = 1024, CGROUP_TEXT_BYTES = 8192, CGROUP_LEVELS = 32, CGROUP_VERSIONS = 2 };
#define CGROUP_UNLIMITED UINT64_MAX

/* One version's hierarchy. */
struct cgroup_tree {
	bool present;
	unsigned version; /* 1 or 2 */
	/* This process's path as /proc/self/cgroup has it: a change means that it was moved. */
	char own_path[CGROUP_PATH_BYTES];
	/* The nearest directory that exists; those above it, down to the mount point, are its beginnings. */
	char directory[CGROUP_PATH_BYTES];
	size_t mount_length;
	/* own_path's length above the mount point: the part of it that the mount hides. */
	size_t root_length;
};

struct cgroup_level {
	const struct cgroup_tree *tree;
	size_t length; /* the level's directory is the first so many bytes of tree->directory */
	/* Of the last reading. */
	uint64_t limit_bytes, high_bytes;  /* CGROUP_UNLIMITED: none */
	uint64_t usage_bytes, clean_bytes; /* clean: file pages that the kernel can drop at once */
};

struct cgroup_set {
	struct cgroup_tree trees[CGROUP_VERSIONS];
	struct cgroup_level levels[CGROUP_LEVELS]; /* of each tree the nearest first */
	unsigned level_count;
	/* Since cgroup_find(), something could not be read for a reason that says nothing about it (no descriptor
	 * free): there may be tighter limits than those that were read. */
	bool is_uncertain;
	char text[CGROUP_TEXT_BYTES]; /* a file's; here, since the stack may be that of a thread which has next to none
				       */
};

/* Find them. Not finding any is no error. Needs a moment's memory of its own for long lists of mounts. */
void cgroup_find(struct cgroup_set *set);
/* Has this process been moved, or the set never been filled? */
bool cgroup_has_moved(struct cgroup_set *set);

/* Read level @level's limit and, if there is one, what is in use. False: it has no memory controller, or is gone. */
bool cgroup_read(struct cgroup_set *set, unsigned level);

/* Bit i: @pid surely is in level i. */
uint32_t cgroup_levels_of(struct cgroup_set *set, pid_t pid);

/* The level's path, as a user would say it. */
void cgroup_level_name(const struct cgroup_level *level, char *name, size_t bytes);

#endif
