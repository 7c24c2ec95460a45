/*
 * Holdfast: configuration.
 *
 * Optional. Without hf_init() the first allocation configures the library from the environment:
 *   HOLDFAST=budget=64M,name=web,fail.probability=10
 * The knobs' names are the same everywhere; an unknown one, or a bad value, is an error that names it
 * and ends the program. The environment is ignored in secure-execution mode (setuid programs).
 * A process that `holdfast run` started, or whose ancestor it started, joins that ledger.
 */
#ifndef HOLDFAST_INIT_H
#define HOLDFAST_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hf_config {
	size_t struct_bytes; /* sizeof(struct hf_config) */
	const char *name;    /* of the ledger; NULL: none */
	size_t budget_bytes; /* 0: automatic (cgroup and RAM); SIZE_MAX: no limit */
	const char *knobs;   /* "fail.probability=10,fail.times=-1": as in HOLDFAST=; NULL: none */
	bool ignore_environment;
};

/*
 * Configure before the first allocation. NULL: as the environment says.
 * Returns 0; -EALREADY after the first allocation; -EINVAL (a message on standard error names the knob
 * and the cure); -ENOMEM; -EPROTO (an inherited ledger is damaged).
 */
int hf_init(const struct hf_config *config);

/*
 * Call before mlockall(): address space that holds no memory is then made inaccessible, so that the kernel does not
 * fill and lock it. (The drop-in does this for the program.) Returns 0, or -ENOMEM while the library itself starts.
 */
int hf_prepare_mlockall(void);

/* What this process may have at most: the tightest limit among its cgroups and RAM. Never 0. Reads a few files. */
size_t hf_ram_limit_bytes(void);

/*
 * Parse a size: "64M", "1.5G", "4096", "50%" of what hf_ram_limit_bytes() says, "auto" (0), "unlimited" (SIZE_MAX).
 * K, M, G, T (or KiB and so on) are powers of 1024. Returns 0, -EINVAL (also for 0), -ERANGE (also above 100%). Never
 * blocks.
 */
int hf_parse_size(const char *text, size_t *bytes_out);

#ifdef __cplusplus
}
#endif

#endif
