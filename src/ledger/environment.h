/*
 * How a process finds the ledgers that it is under: HOLDFAST_LEDGER=FD,COOKIE,SOCKET[;FD,COOKIE,SOCKET...],
 * the innermost first. COOKIE is 32 hexadecimal digits; SOCKET an abstract unix socket's name, or empty.
 *
 * The descriptor is tried first. If the program closed it (or reused its number), the ledger's keeper is
 * asked, which answers with a new descriptor. Nothing in the text is trusted: what is joined must carry the cookie.
 */
#ifndef HF_LEDGER_ENVIRONMENT_H
#define HF_LEDGER_ENVIRONMENT_H

#include "base/compiler.h"

#include <stddef.h>

struct ledger;

#define LEDGER_ENVIRONMENT "HOLDFAST_LEDGER"
enum { LEDGER_COOKIE_CHARS = 32, LEDGER_SOCKET_BYTES = 64, LEDGER_DEPTH_MAX = 4 };

/*
 * Join every ledger that @text names, each inside the next.
 * Returns 0; -EINVAL (not such a text), -ELOOP (too many), or what joining the first that could not be joined said:
 * *why_out is then static text. On failure nothing stays joined. Blocks at most 2 s for each keeper that has to be
 * asked.
 */
HF_MUST_USE int ledger_join_environment(const char *text, struct ledger **ledger_out, const char **why_out);

/* Join one ledger by way of its keeper: after the descriptor was lost, or after a change of user. Errors as above. */
HF_MUST_USE int ledger_join_via_socket(
	const char *socket_name, const char *cookie, struct ledger **ledger_out, const char **why_out);

/*
 * A descriptor of the ledger from its keeper: an open file description of its own, close-on-exec.
 * Returns 0, -ECONNREFUSED (no keeper), -EACCES (the keeper says no, or is not one that we trust), -EPROTO, -ETIMEDOUT,
 * -errno.
 */
HF_MUST_USE int ledger_descriptor_via_socket(const char *socket_name, const char *cookie, int *fd_out);

/*
 * A descriptor of the innermost ledger that @text names, close-on-exec, the caller's: the inherited one's duplicate, or
 * from the keeper. 0, -ENOENT (cannot be had), -EINVAL, -errno.
 */
HF_MUST_USE int ledger_environment_descriptor(const char *text, int *fd_out);

/* The name of the socket on which the keeper of this user's ledger @name (at most 31 characters) answers. */
void ledger_socket_name_of(const char *name, char socket_name_out[LEDGER_SOCKET_BYTES]);

/* Write the variable for @ledger and those around it. 0, -ENOBUFS, -EBADF (a descriptor was lost and cannot be had
 * again). */
HF_MUST_USE int ledger_environment_format(struct ledger *ledger, char *text, size_t bytes);
/* Close the descriptors that were made for @text, the variable with its name, where they still are what they were. */
void ledger_environment_close(const struct ledger *ledger, const char *text);

#endif
