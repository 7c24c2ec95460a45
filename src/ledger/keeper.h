/*
 * The keeper: the process that looks after one ledger. It collects what dead processes held, follows the automatic
 * limit, gives the ledger its name, lets processes in that have lost the descriptor, and remembers who was refused.
 *
 * It has no thread and no timer of its own: whoever runs it calls keeper_serve() when keeper_poll_fd() is readable, and
 * at least as often as it says. A ledger works without one; dead processes are then collected by whoever is refused.
 */
#ifndef HF_LEDGER_KEEPER_H
#define HF_LEDGER_KEEPER_H

#include "base/compiler.h"
#include "ledger/ledger.h"

struct keeper;

/*
 * Become the keeper of @ledger, which this process has joined, and which stays the caller's; @name as in ledger_spec.
 * Returns 0, -EEXIST (another keeper of this user has that name), -ENOMEM, -EMFILE.
 */
HF_MUST_USE int keeper_create(struct ledger *ledger, const char *name, struct keeper **keeper_out);
void keeper_destroy(struct keeper *keeper);

/* The work, once. Never blocks. A fork's child may go on in its parent's place: it must then be the only one. */
void keeper_serve(struct keeper *keeper, unsigned *next_ms_out);
int keeper_poll_fd(const struct keeper *keeper);

/* The @index-th of the ended processes that were refused something, newest first. False: there are no more. */
bool keeper_ended_at(const struct keeper *keeper, uint32_t index, struct ledger_member *member_out);

#endif
