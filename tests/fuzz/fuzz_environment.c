/*
 * HOLDFAST_LEDGER as anybody could have set it: parsed, and joined where it names the one ledger that there is, which
 * is descriptor 100 with a cookie of zeros. No socket is connected to.
 */
#include "base/assert.h"
#include "ledger/environment.h"
#include "ledger/internal.h"
#include "ledger/ledger.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { DESCRIPTOR = 100 };

static struct ledger *only_ledger;

static void be_silent(const char *text, size_t bytes)
{
	(void)text;
	(void)bytes;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct ledger_spec spec = {.name = "fuzz", .limit_pages = 1000};

	(void)argc;
	(void)argv;
	base_set_writer(be_silent);
	if (ledger_create(&spec, &only_ledger) != 0 || dup2(ledger_descriptor(only_ledger), DESCRIPTOR) != DESCRIPTOR)
		abort();
	memset(only_ledger->shared->cookie, 0, sizeof only_ledger->shared->cookie);
	return 0;
}

/* What was joined can be written down again, and means the same. */
static void check_joined(struct ledger *ledger)
{
	char text[1024];
	struct ledger *again = NULL;
	const char *why = NULL;
	int depth = 0, fd;

	for (const struct ledger *at = ledger; at != NULL; at = ledger_outer(at))
		depth++;
	if (depth < 1 || depth > LEDGER_DEPTH_MAX)
		abort();
	if (ledger_environment_format(ledger, text, sizeof text) != 0)
		abort();
	const char *value = strchr(text, '=') + 1;
	if (ledger_join_environment(value, &again, &why) != 0)
		abort();
	ledger_leave(again);
	for (const char *at = value; at != NULL; at = strchr(at, ';')) {
		at += *at == ';';
		fd = atoi(at);
		close(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct ledger *ledger = NULL;
	const char *why = NULL;
	char *text = malloc(bytes + 1);

	memcpy(text, data, bytes);
	text[bytes] = '\0';
	const int error = ledger_join_environment(text, &ledger, &why);
	if (error == 0) {
		check_joined(ledger);
		ledger_leave(ledger);
	} else if (error > 0 || why == NULL || *why == '\0') {
		abort();
	}
	free(text);
	return 0;
}
