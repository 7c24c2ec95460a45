/*
 * The ledger: the shared record of one budget. This header is a process's side of it.
 *
 * It counts pages and answers at once, with 0 or -ENOMEM. It does not know what the pages are, whether
 * anybody may wait, or how memory is found: pool/ and request/ do.
 * Life: ledger_create() or ledger_join(), then commit/uncommit, ledger_leave(). A process that dies
 * or execs needs to do nothing. All functions are thread-safe except where it says otherwise.
 *
 * L1: committed <= limit, except for a recorded overdraft or after the limit was lowered.
 * L2: committed == the sum over all slots, once the last change is completed (ledger_check_books).
 * The layout of the shared file and the protocol are in ledger/shared.h.
 */
#ifndef HF_LEDGER_LEDGER_H
#define HF_LEDGER_LEDGER_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct ledger; /* one attachment; several may exist in one process */

/* 2^44 pages would be 64 PiB: a limit that no machine reaches stands for "no limit". */
#define LEDGER_NO_LIMIT ((uint64_t)1 << 44)

struct ledger_spec {
	const char *name;     /* at most 31 characters; NULL: unnamed */
	uint64_t limit_pages; /* LEDGER_NO_LIMIT: none */
	bool automatic; /* the limit follows cgroup and RAM (ledger/limit.h); limit_pages is then the first guess */
};

/*
 * A new ledger, with this process in it.
 * Returns 0, -ENOMEM, -EMFILE, -EINVAL (name too long). Owner: the caller, until ledger_leave().
 */
HF_MUST_USE int ledger_create(const struct ledger_spec *spec, struct ledger **ledger_out);

/*
 * Join the ledger behind @fd (which stays the caller's and may be closed afterwards).
 * Returns 0, -EPROTO (not a ledger, or damaged: *why_out says what, in static text), -EPROTONOSUPPORT
 * (another version), -EUSERS (no slot free), -ENOMEM.
 */
HF_MUST_USE int ledger_join(int fd, struct ledger **ledger_out, const char **why_out);

/* The same on a description that nobody else has, such as a keeper sends; the lock then lives on it. */
HF_MUST_USE int ledger_join_fresh(int fd, struct ledger **ledger_out, const char **why_out);

/*
 * An inner budget: every later commit on @inner is also made on @outer, and is refused if either
 * says no. Both must be joined; @inner then owns @outer. Depth at most 4 (-ELOOP).
 */
HF_MUST_USE int ledger_nest(struct ledger *inner, struct ledger *outer);

/* Gives back whatever this attachment still has, and forgets it. Also leaves the outer ones. */
void ledger_leave(struct ledger *ledger);

/*
 * Commit @pages more to this process, or none of them.
 * Returns 0, or -ENOMEM if that would leave less than @floor_pages under the limit (dead processes'
 * pages are collected before saying so). Blocks on no other process, except that a refusal may ask the keeper
 * for a descriptor that the program has closed (2 s at most, once in 10 s).
 * The caller owes ledger_uncommit() of the same pages.
 */
HF_MUST_USE int ledger_commit(struct ledger *ledger, uint64_t pages, uint64_t floor_pages);

/*
 * The pages are gone from this process, by the kernel's account. @epoch is what ledger_epoch() said
 * when they were committed: pages that a living forked child also holds, or that this process
 * inherited, stay charged to the family until the last holder lets go.
 */
void ledger_uncommit(struct ledger *ledger, uint64_t pages, uint32_t epoch);

/* Counts this process's forks; pages are labelled with it when they are committed or taken from idle. */
uint32_t ledger_epoch(const struct ledger *ledger);
/* May more pages be added to memory that was labelled @epoch? False: it is inherited, or a child holds it. */
bool ledger_epoch_is_open(struct ledger *ledger, uint32_t epoch);

/*
 * Around fork(), called by request/fork.c with every lock of the library held. @held_pages: what a child
 * will inherit (committed less idle, plus what this process itself inherited and still holds).
 * prepare makes the child's slot, so that there is no instant at which its memory is nobody's. If it
 * cannot (no slot, descriptor or memory), the child keeps its parent's slot alive, can commit nothing, and tries
 * again for a slot of its own at each commit: sums stay right, and the ledger counts it as unattached.
 */
void ledger_fork_prepare(struct ledger *ledger, uint64_t held_pages);
void ledger_fork_parent(struct ledger *ledger, pid_t child_or_error);
void ledger_fork_child(struct ledger *ledger);
/* In a child made by a raw clone, which no handler saw: take a slot of its own now. 0 or -errno. */
HF_MUST_USE int ledger_raw_clone_child(struct ledger *ledger, uint64_t held_pages);

/* A descriptor of the file, the ledger's own, close-on-exec, valid now (fetched from the keeper if it was lost), or
 * -EBADF. */
int ledger_descriptor(struct ledger *ledger);
/* The next one outwards, or NULL. */
struct ledger *ledger_outer(const struct ledger *ledger);

/* ---- what request/ and the keeper do besides ---- */

/*
 * Collect the memory of processes that have died or exec'd: all of them if @all, else at most a few.
 * Returns the pages that came back. Lock-free; any number of collectors may run.
 */
uint64_t ledger_collect_dead(struct ledger *ledger, bool all);

/* Set the limit, and the watermarks that follow from it. Anything above LEDGER_NO_LIMIT is that. */
void ledger_set_limit(struct ledger *ledger, uint64_t limit_pages);
/* Counts a refused request of this process: shown by stat and --stats. */
void ledger_note_refusal(struct ledger *ledger, uint64_t bytes);
/* Where this process's heap lives, and how much of it the process itself found resident: for the keeper's "outside". */
void ledger_publish_heap(struct ledger *ledger, uintptr_t low, uintptr_t high);
void ledger_publish_resident(struct ledger *ledger, uint64_t resident_pages);

struct ledger_watermarks {
	uint64_t min_pages, low_pages, high_pages;
};
/* The kernel's formula for a zone of @limit_pages (facts: 64 MiB gives 256/320/384). */
struct ledger_watermarks ledger_watermarks_of(uint64_t limit_pages);
struct ledger_watermarks ledger_watermarks_now(const struct ledger *ledger);

/* One consistent look. */
struct ledger_view {
	char name[32];
	uint64_t limit_pages, committed_pages, peak_pages, own_pages; /* own: the shared file's, within committed */
	uint64_t outside_pages, margin_pages, overdraft_pages;
	uint64_t refusals, deaths_collected, at_limit_ms, unattached, identity, limit_checked_ns;
	uint32_t members, slots_high;
	pid_t keeper_pid;
	bool automatic, keeper_alive;
	char limit_source[97];
};
void ledger_look(const struct ledger *ledger, struct ledger_view *view_out);

enum ledger_member_kind { LEDGER_FREE, LEDGER_CLAIMED, LEDGER_LIVE, LEDGER_FAMILY, LEDGER_DEAD, LEDGER_OWN };
struct ledger_member {
	enum ledger_member_kind kind;
	pid_t pid;
	uid_t uid;
	char command[17];
	uint64_t committed_pages, inherited_pages, resident_pages, cow_pages;
	uint64_t refusals, last_refused_bytes, commits;
	uintptr_t heap_low, heap_high;
	uint64_t unattached_children; /* forked from here without a slot of their own */
	bool is_keeper;
};
/* Slot @index, 0 <= index < view.slots_high. False: nobody. Everything is checked, nothing trusted. */
bool ledger_look_member(const struct ledger *ledger, uint32_t index, struct ledger_member *member_out);

/* L2 at this instant: 0, or the difference in pages (committed minus sum). Retries until it sees a still moment. */
int64_t ledger_check_books(const struct ledger *ledger);

/* A view of somebody else's ledger, for commands: takes no slot, maps read-only unless @writable (knobs). */
HF_MUST_USE int ledger_open_view(int fd, bool writable, struct ledger **ledger_out, const char **why_out);
/* ---- what the keeper writes ---- */
void ledger_set_keeper(
	struct ledger *ledger, pid_t pid, const char *socket_name); /* name: at most 63 characters; pid 0: no more */
void ledger_socket_name(const struct ledger *ledger, char name_out[65]);
void ledger_publish_outside(struct ledger *ledger, uint64_t outside_pages, uint64_t margin_pages, const char *source);
/* True for one caller: nobody else has checked since @older_than_ns, and the caller is to do it. */
bool ledger_take_turn_to_check(struct ledger *ledger, uint64_t now_ns, uint64_t older_than_ns);
void ledger_add_at_limit(struct ledger *ledger, uint64_t ms);
void ledger_publish_member(struct ledger *ledger, uint32_t index, uint64_t resident_pages, uint64_t cow_pages);
/* A dead member's slot has been read: it is free. */
void ledger_forget_dead(struct ledger *ledger, uint32_t index);

/* Pages committed by this attachment's own slot. */
uint64_t ledger_committed_here(const struct ledger *ledger);
/* The cookie that a child which has lost the descriptor shows to the keeper: 32 hex digits and NUL. */
void ledger_cookie(const struct ledger *ledger, char cookie_out[33]);

#endif
