/*
 * A ledger whose file is whatever the input says: everything that a process can do with one, interleaved with words of
 * the input written over the shared memory. Nothing may crash, hang, or reach outside the file.
 *
 * The input is a list of orders. A byte below 128 writes: a place in the header or the first slots (2 bytes), 8 bytes
 * to go there. Another is an operation, with an argument of one byte.
 */
#include "base/assert.h"
#include "ledger/internal.h"
#include "ledger/ledger.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { GUESTS = 3, FUZZED_BYTES = LEDGER_HEADER_BYTES + 32 * LEDGER_SLOT_BYTES, LIMIT = 500 };

struct run {
	struct ledger *owner;
	struct ledger *guests[GUESTS];
};

static void be_silent(const char *text, size_t bytes)
{
	(void)text;
	(void)bytes;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	base_set_writer(be_silent); /* warnings about damage are what we ask for, a thousand times a second */
	return 0;
}

static void overwrite(struct ledger *ledger, const uint8_t *order)
{
	const size_t place = ((size_t)order[0] << 8 | order[1]) * 8 % FUZZED_BYTES;
	uint64_t word;

	memcpy(&word, order + 2, sizeof word);
	atomic_store((_Atomic uint64_t *)(void *)((char *)ledger->shared + place), word);
}

static void look(const struct ledger *ledger)
{
	struct ledger_view view;
	struct ledger_member member;

	ledger_look(ledger, &view);
	if (memchr(view.name, '\0', sizeof view.name) == NULL)
		abort();
	if (memchr(view.limit_source, '\0', sizeof view.limit_source) == NULL)
		abort();
	for (uint32_t i = 0; i < LEDGER_SLOTS + 2; i += i < 40 ? 1 : 509)
		if (ledger_look_member(ledger, i, &member) &&
			memchr(member.command, '\0', sizeof member.command) == NULL)
			abort();
	(void)ledger_check_books(ledger);
}

static void join_or_leave(struct run *run, unsigned index, bool dies)
{
	struct ledger **guest = &run->guests[index % GUESTS];
	const char *why = NULL;

	if (*guest == NULL) {
		if (ledger_join(ledger_descriptor(run->owner), guest, &why) != 0) {
			*guest = NULL;
			if (why == NULL || *why == '\0')
				abort();
		}
		return;
	}
	(*guest)->is_view |= dies; /* its mapping goes, and nothing is given back */
	ledger_leave(*guest);
	*guest = NULL;
}

static void operate(struct run *run, unsigned what, unsigned argument)
{
	struct ledger *ledger = run->guests[argument % GUESTS] ? run->guests[argument % GUESTS] : run->owner;

	switch (what % 12) {
	case 0:
	case 1:
		(void)!ledger_commit(ledger, argument, what % 16);
		break;
	case 2:
	case 3:
		ledger_uncommit(ledger, argument, what / 16 % 4);
		break;
	case 4:
		(void)ledger_collect_dead(ledger, argument & 1);
		break;
	case 5:
		look(ledger);
		break;
	case 6:
		join_or_leave(run, argument, false);
		break;
	case 7:
		join_or_leave(run, argument, true);
		break;
	case 8:
		ledger_fork_prepare(ledger, argument);
		ledger_fork_parent(ledger, -1);
		break;
	case 9:
		(void)ledger_epoch_is_open(ledger, argument % 4);
		(void)ledger_take_turn_to_check(ledger, argument, 100);
		break;
	case 10:
		ledger_forget_dead(ledger, argument);
		ledger_publish_member(ledger, argument, 1, 2);
		ledger_set_limit(ledger, argument * 10);
		break;
	default:
		ledger_note_refusal(ledger, argument);
		(void)ledger_committed_here(ledger);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	const struct ledger_spec spec = {.name = "fuzz", .limit_pages = LIMIT};
	struct run run = {0};

	if (ledger_create(&spec, &run.owner) != 0)
		abort();
	while (bytes > 0) {
		const size_t need = data[0] < 128 ? 11 : 2;

		if (bytes < need)
			break;
		if (data[0] < 128)
			overwrite(run.owner, data + 1);
		else
			operate(&run, data[0] - 128U, data[1]);
		data += need;
		bytes -= need;
	}
	for (unsigned i = 0; i < GUESTS; i++)
		if (run.guests[i] != NULL)
			ledger_leave(run.guests[i]);
	ledger_leave(run.owner);
	return 0;
}
