/*
 * Finding other processes' ledgers, to look at: for commands. Opens views only, which take no part in anything.
 */
#ifndef HF_LEDGER_FIND_H
#define HF_LEDGER_FIND_H

#include "base/compiler.h"

#include <stdbool.h>
#include <sys/types.h>

struct ledger;

/*
 * The innermost ledger among @pid's descriptors.
 * Returns 0, -ENOENT, -ESRCH, -EACCES, -EPROTO, -EPROTONOSUPPORT, -ENOMEM, -EMFILE. Owner: the caller, until
 * ledger_leave().
 */
HF_MUST_USE int ledger_find_process(pid_t pid, bool writable, struct ledger **ledger_out);

/* The ledger that a keeper of this user's has named @name. The same; -ENOENT: nobody answers. */
HF_MUST_USE int ledger_find_name(const char *name, bool writable, struct ledger **ledger_out);

/* The innermost ledger of HOLDFAST_LEDGER's @text. The same, and -EINVAL. */
HF_MUST_USE int ledger_find_environment(const char *text, bool writable, struct ledger **ledger_out);

#endif
