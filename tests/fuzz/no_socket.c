/*
 * Linked into every fuzzer in place of os_socket_connect(): what an input names is not to be knocked at.
 */
#include "ledger/environment.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int __wrap_os_socket_connect(const char *abstract_name, int *fd_out);

int __wrap_os_socket_connect(const char *abstract_name, int *fd_out)
{
	(void)fd_out;
	if (strlen(abstract_name) >= LEDGER_SOCKET_BYTES)
		abort();
	return -ECONNREFUSED;
}
