/*
 * Holdfast: budgets from outside the heap. For launchers, supervisors and monitors; ordinary programs
 * do not need this header. `holdfast run`, `ps` and `stat` are made of it.
 *
 * A keeper is a process that serves one ledger: it collects what dead processes held, follows the
 * cgroup's limit, and lets processes in that have lost the ledger's descriptor.
 */
#ifndef HOLDFAST_LEDGER_H
#define HOLDFAST_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hf_ledger hf_ledger;

struct hf_ledger_spec {
	size_t struct_bytes;
	const char *name;    /* at most 31 of [A-Za-z0-9._-]; NULL: unnamed */
	size_t budget_bytes; /* 0: automatic; SIZE_MAX: no limit */
	bool inner;	     /* inside another ledger (the environment's), if there is one: both count */
};

/*
 * A new ledger whose keeper is this process. With a name that exists already: -EEXIST.
 * Returns 0, -EINVAL, -EEXIST, -ENOMEM, -EMFILE. Owner: the caller, until hf_ledger_close().
 */
int hf_ledger_create(const struct hf_ledger_spec *spec, hf_ledger **out);

/*
 * Write the variable that lets exec'd children in, "HOLDFAST_LEDGER=...", for putenv(). -ENOBUFS: too small; 512 will
 * do. The descriptors that it names are inherited by children that are started before hf_ledger_close().
 */
int hf_ledger_environment(hf_ledger *ledger, char *text, size_t bytes);

/*
 * The keeper's work, once: collect, follow the limit, answer who knocks. Call when the descriptor of
 * hf_ledger_poll_fd() is readable, and at least every *next_ms_out.
 */
int hf_ledger_serve(hf_ledger *ledger, unsigned *next_ms_out);
int hf_ledger_poll_fd(hf_ledger *ledger);

/*
 * Open another process's innermost ledger, to look (or, @writable, to turn knobs). By its descriptor, found under
 * /proc/PID/fd. @pid 0: the innermost one that this process's environment names, if need be by way of its keeper.
 * Returns 0, -ENOENT (it has none), -ESRCH, -EACCES (another user's), -EPROTO (damaged), -EPROTONOSUPPORT (another
 * version's), -ENOMEM, -EMFILE. Owner: the caller, until hf_ledger_close().
 */
int hf_ledger_open_pid(pid_t pid, bool writable, hf_ledger **out);
/* The same for this user's ledger of that name, by way of its keeper. -ENOENT: there is none. */
int hf_ledger_open_name(const char *name, bool writable, hf_ledger **out);
void hf_ledger_close(hf_ledger *ledger);

struct hf_ledger_info {
	size_t struct_bytes;
	char name[32];
	char limit_source[96];
	size_t limit_bytes, committed_bytes, peak_bytes, own_bytes, outside_bytes,
		margin_bytes; /* limit: SIZE_MAX: none */
	uint64_t refusals, deaths_collected, at_limit_ms;
	uint32_t processes;
	pid_t keeper_pid; /* 0: none */
	bool automatic;
	uint64_t identity; /* the same for two views of one ledger */
};
int hf_ledger_info(const hf_ledger *ledger, struct hf_ledger_info *info);

struct hf_ledger_process {
	size_t struct_bytes;
	pid_t pid;
	uid_t uid;
	char command[16];
	size_t committed_bytes, inherited_bytes, resident_bytes, cow_bytes;
	uint64_t refusals;
	size_t last_refused_bytes;
	bool alive;	      /* false: has ended; only a keeper's own view lists those */
	bool shares_a_slot;   /* could not attach by itself: charges to its parent */
	bool is_family_share; /* what several forked processes hold together after the owner has gone */
};
/* The @index-th process, from 0; -ENOENT past the end. A keeper's view also lists the last ended ones that were refused
 * something. */
int hf_ledger_process_at(const hf_ledger *ledger, uint32_t index, struct hf_ledger_process *process);

#ifdef __cplusplus
}
#endif

#endif
