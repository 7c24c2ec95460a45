/*
 * Damaged and hostile ledgers: what is not a ledger is refused with a word about why, and a member that writes nonsense
 * over the shared memory, all the time, can make others hear no, but neither crash nor hang.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ledger/environment.h"
#include "support/child.h"
#include "support/ledger_case.h"
#include "support/random.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* ---- files that are not right ---- */

/* A file like @ledger's, which @damage may spoil. */
static int file_like(
	const struct ledger *ledger, size_t bytes, bool sealed, void (*damage)(struct ledger_shared *shared))
{
	const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *memory;

	CASE_CHECK(fd >= 0);
	CASE_CHECK(ftruncate(fd, (off_t)bytes) == 0);
	memory = mmap(NULL, LEDGER_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CASE_CHECK(memory != MAP_FAILED);
	memcpy(memory, ledger->shared, bytes < LEDGER_FILE_BYTES ? bytes / 4096 * 4096 : LEDGER_FILE_BYTES);
	if (damage != NULL)
		damage(memory);
	CASE_CHECK(munmap(memory, LEDGER_FILE_BYTES) == 0);
	if (sealed)
		CASE_CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
	return fd;
}

static void assert_refused(int fd, int error, const char *why_wanted)
{
	const char *why = "";
	struct ledger *ledger = NULL;

	assert_int_equal(ledger_join(fd, &ledger, &why), error);
	assert_string_equal(why, why_wanted);
	why = "";
	assert_int_equal(ledger_open_view(fd, false, &ledger, &why), error);
	assert_string_equal(why, why_wanted);
}

static void refused(void (*damage)(struct ledger_shared *shared), int error, const char *why)
{
	struct ledger *good = case_create(100);
	const int fd = file_like(good, LEDGER_FILE_BYTES, true, damage);

	assert_refused(fd, error, why);
	close(fd);
	ledger_leave(good);
}

static void no_magic(struct ledger_shared *shared)
{
	shared->magic ^= 1;
}

static void later_version(struct ledger_shared *shared)
{
	shared->version++;
}

static void more_slots(struct ledger_shared *shared)
{
	shared->slot_count = UINT32_MAX;
}

static void no_slots(struct ledger_shared *shared)
{
	shared->slot_count = 0;
}

static void larger_slots(struct ledger_shared *shared)
{
	shared->slot_bytes *= 2;
}

static void larger_header(struct ledger_shared *shared)
{
	shared->header_bytes = 0x80000000;
}

static void a_copy_of_a_ledger_is_a_ledger(void **state)
{
	struct ledger *good = case_create(100), *copy;
	const int fd = file_like(good, LEDGER_FILE_BYTES, true, NULL);
	const char *why = "";

	(void)state;
	/* Or the tests below would not show what they say. */
	assert_int_equal(ledger_join(fd, &copy, &why), 0);
	ledger_leave(copy);
	close(fd);
	ledger_leave(good);
}

static void what_is_not_a_ledger_is_refused(void **state)
{
	(void)state;
	refused(no_magic, -EPROTO, "its first bytes are not a ledger's");
	refused(more_slots, -EPROTO, "its sizes are not this version's");
	refused(no_slots, -EPROTO, "its sizes are not this version's");
	refused(larger_slots, -EPROTO, "its sizes are not this version's");
	refused(larger_header, -EPROTO, "its sizes are not this version's");
}

static void another_version_is_refused(void **state)
{
	(void)state;
	refused(later_version, -EPROTONOSUPPORT, "it was made by another version of Holdfast");
}

static void a_file_of_another_length_is_refused(void **state)
{
	static const size_t shorter[] = {0, 1, 4095, 4096, LEDGER_FILE_BYTES - 4096, LEDGER_FILE_BYTES - 1};
	struct ledger *good = case_create(100);

	(void)state;
	for (size_t i = 0; i < HF_COUNT_OF(shorter); i++) {
		const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, (off_t)shorter[i]), 0);
		assert_refused(fd, -EPROTO, "it is truncated, or not a ledger");
		close(fd);
	}
	const int fd = file_like(good, LEDGER_FILE_BYTES + 1, true, NULL);
	assert_refused(fd, -EPROTO, "it is longer than a ledger");
	close(fd);
	ledger_leave(good);
}

/* One that could be truncated under our feet would be a SIGBUS. */
static void a_file_that_can_shrink_is_refused(void **state)
{
	struct ledger *good = case_create(100);
	const int fd = file_like(good, LEDGER_FILE_BYTES, false, NULL);

	(void)state;
	assert_refused(fd, -EPROTO, "it is not sealed against shrinking");
	close(fd);
	ledger_leave(good);
}

static void what_is_no_file_is_refused(void **state)
{
	struct ledger *ledger;
	const char *why = "";
	int ends[2];

	(void)state;
	assert_int_equal(ledger_join(-1, &ledger, &why), -EBADF);
	assert_string_equal(why, "the descriptor is not open");
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(ledger_join(ends[0], &ledger, &why), -EPROTO);
	close(ends[0]);
	close(ends[1]);
	const int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	assert_int_equal(ledger_join(fd, &ledger, &why), -EPROTO);
	close(fd);
}

static void a_refused_file_costs_no_descriptor(void **state)
{
	struct ledger *good = case_create(100);
	const int fd = file_like(good, LEDGER_FILE_BYTES, true, later_version);
	const int before = dup(0);

	(void)state;
	close(before);
	/* More often than there are handles, and than a leak of descriptors would survive. */
	for (int i = 0; i < 200; i++)
		assert_refused(fd, -EPROTONOSUPPORT, "it was made by another version of Holdfast");
	const int after = dup(0);
	close(after);
	assert_int_equal(before, after);
	close(fd);
	ledger_leave(good);
}

/* ---- a member that writes nonsense ---- */

enum { BLOWS = 2000000 };

enum attack {
	EVERYTHING,	 /* random words everywhere */
	WORD,		 /* the word of the protocol, as fast as it goes */
	PLAUSIBLE_SLOTS, /* states, families and records as they could be, but are not */
	NUMBERS,	 /* limits, marks, entries: small numbers and huge ones */
	ATTACKS
};

static _Atomic uint64_t *word_at(struct ledger_shared *shared, size_t offset)
{
	return (_Atomic uint64_t *)(void *)((char *)shared + offset);
}

static uint64_t nonsense(struct random *random)
{
	const uint64_t number = random_next(random);

	switch (random_below(random, 4)) {
	case 0:
		return number;
	case 1:
		return number & 0xfff;
	case 2:
		return (number & 0xffff) << 48 | (number >> 16 & 0xff);
	default:
		return number & 1 ? UINT64_MAX : 0;
	}
}

static void attack_slot(struct ledger_slot *slot, struct random *random)
{
	const uint64_t other = random_below(random, LEDGER_SLOTS);

	atomic_store(&slot->state, random_below(random, 4) << 8 | random_below(random, LEDGER_OWN + 2));
	atomic_store(&slot->family, other << 32 | random_below(random, 4));
	atomic_store(&slot->lineage, other << 48 | random_below(random, 4) << 32 | random_below(random, 4));
	atomic_store(&slot->holding_pages, nonsense(random));
	atomic_store(&slot->record.slot[random_below(random, 2)], random_below(random, LEDGER_SLOTS + 2));
	atomic_store(&slot->record.sequence, random_below(random, 100));
	slot->entry.words.low = nonsense(random);
	slot->entry.words.high = random_below(random, 100);
}

static void attack(struct ledger_shared *shared, enum attack how, struct random *random)
{
	struct ledger_slot *slots = (struct ledger_slot *)(void *)((char *)shared + LEDGER_HEADER_BYTES);

	switch (how) {
	case EVERYTHING:
		atomic_store(word_at(shared, random_below(random, LEDGER_FILE_BYTES / 8) * 8), nonsense(random));
		/* Most of the file is slots that nobody looks at: the header and the first ones oftener. */
		atomic_store(word_at(shared, random_below(random, 8192 / 8) * 8), nonsense(random));
		break;
	case WORD:
		shared->word.words.low = nonsense(random);
		shared->word.words.high = random_next(random);
		break;
	case PLAUSIBLE_SLOTS:
		attack_slot(&slots[random_below(random, random_below(random, 2) ? 16 : LEDGER_SLOTS)], random);
		shared->word.words.high = random_below(random, 16) << 48 | random_below(random, 100);
		atomic_store(&shared->slots_high, random_below(random, LEDGER_SLOTS + 2));
		break;
	default:
		atomic_store(&shared->limit_pages, nonsense(random));
		atomic_store(&shared->min_pages, nonsense(random));
		shared->word.words.low = nonsense(random);
		slots[random_below(random, 4)].entry.words.low = nonsense(random);
		atomic_store(&shared->limit_checked_ns, nonsense(random));
		atomic_store(&shared->keeper_pid, nonsense(random));
		break;
	}
}

/* Outside the ledger: how often the attacker has struck. */
static _Atomic uint64_t *blows;

static void attack_for_ever(struct ledger *ledger, enum attack how, uint64_t seed)
{
	struct random random = {seed};

	for (;;) {
		attack(ledger->shared, how, &random);
		atomic_fetch_add(blows, 1);
	}
}

/* All that a process does with a ledger. Results are anything; that it comes back is what counts. */
static void use(struct ledger *ledger, struct random *random)
{
	struct ledger_member member;
	char text[512], cookie[33];
	const uint32_t index = (uint32_t)random_below(random, LEDGER_SLOTS + 10);

	switch (random_below(random, 12)) {
	case 0:
	case 1:
	case 2:
		(void)!ledger_commit(ledger, 1 + random_below(random, 100), random_below(random, 10));
		break;
	case 3:
	case 4:
		ledger_uncommit(ledger, 1 + random_below(random, 100), (uint32_t)random_below(random, 3));
		break;
	case 5:
		(void)ledger_collect_dead(ledger, random_below(random, 2));
		break;
	case 6:
		(void)case_look(ledger);
		(void)ledger_look_member(ledger, index, &member);
		break;
	case 7:
		(void)case_slots_taken(ledger);
		break;
	case 8:
		(void)ledger_epoch_is_open(ledger, (uint32_t)random_below(random, 3));
		break;
	case 9:
		ledger_note_refusal(ledger, 1);
		ledger_forget_dead(ledger, index);
		ledger_publish_member(ledger, index, 1, 1);
		(void)ledger_take_turn_to_check(ledger, random_next(random), 1000);
		(void)ledger_watermarks_now(ledger);
		break;
	case 10:
		ledger_fork_prepare(ledger, random_below(random, 100));
		ledger_fork_parent(ledger, -1);
		break;
	default:
		ledger_cookie(ledger, cookie);
		ledger_socket_name(ledger, text);
		(void)ledger_committed_here(ledger);
		break;
	}
}

struct siege {
	struct ledger *ledger;
	enum attack how;
	uint64_t seed;
	int uses;	/* at least so many */
	uint64_t blows; /* and until so many blows have fallen */
};

static int live_under_siege(void *context)
{
	const struct siege *siege = context;
	struct random random = {siege->seed};
	const char *why;

	(void)alarm(120); /* nothing here takes so long: else it hangs */
	for (int i = 0; i < siege->uses || atomic_load(blows) < siege->blows; i++) {
		struct ledger *joined = NULL;

		if (i % 50 == 0 && ledger_join(ledger_descriptor(siege->ledger), &joined, &why) == 0) {
			for (int j = 0; j < 5; j++)
				use(joined, &random);
			ledger_leave(joined);
		}
		use(siege->ledger, &random);
	}
	(void)ledger_check_books(siege->ledger);
	return 0;
}

/* The child that uses the ledger is an attachment by itself; the one that attacks has the file mapped, like anybody. */
static void survive(enum attack how)
{
	struct siege siege = {.how = how, .uses = HF_ASAN || HF_TSAN ? 400 : 1500, .blows = BLOWS};
	char text[4096];

	siege.seed = random_seed(how == EVERYTHING ? "everything" : "attack") + how;
	siege.ledger = case_create(10000);
	blows = mmap(NULL, sizeof *blows, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CASE_CHECK(blows != MAP_FAILED);
	const pid_t attacker = fork();
	if (attacker == 0)
		attack_for_ever(siege.ledger, how, siege.seed);
	const int status = child_run(live_under_siege, &siege, text, sizeof text);
	assert_int_equal(kill(attacker, SIGKILL), 0);
	(void)child_wait(attacker);
	if (status != 0)
		print_message("attack %d: status %#x, it said: %s\n", (int)how, (unsigned)status, text);
	assert_int_equal(status, 0);
	CASE_CHECK(munmap((void *)(uintptr_t)blows, sizeof *blows) == 0);
	case_die(siege.ledger); /* its numbers are nonsense: it has nothing to give back */
}

static void nonsense_everywhere_is_survived(void **state)
{
	(void)state;
	survive(EVERYTHING);
}

static void a_word_that_never_stands_still_is_survived(void **state)
{
	(void)state;
	survive(WORD);
}

static void slots_that_are_not_what_they_seem_are_survived(void **state)
{
	(void)state;
	survive(PLAUSIBLE_SLOTS);
}

static void absurd_numbers_are_survived(void **state)
{
	(void)state;
	survive(NUMBERS);
}

/* A file that has gone mad and then stands still: also by those who come anew. */
static void a_ledger_full_of_nonsense_can_be_joined_and_left(void **state)
{
	struct random random = {random_seed("a_ledger_full_of_nonsense_can_be_joined_and_left")};

	(void)state;
	for (int i = 0; i < 300; i++) {
		struct ledger *ledger = case_create(1000), *joined;
		const char *why;

		for (int j = 0; j < 200; j++) {
			const size_t offset =
				offsetof(struct ledger_shared, word) + random_below(&random, 12288 / 8) * 8;

			atomic_store(word_at(ledger->shared, offset), nonsense(&random));
		}
		if (ledger_join(ledger_descriptor(ledger), &joined, &why) == 0) {
			for (int j = 0; j < 20; j++)
				use(joined, &random);
			ledger_leave(joined);
		}
		ledger_leave(ledger);
	}
}

static void texts_of_others_reach_no_terminal(void **state)
{
	struct ledger *ledger = case_create(100);
	struct ledger_member member;

	(void)state;
	memset(ledger->shared->name, 0x1b, sizeof ledger->shared->name);
	memset((void *)(uintptr_t)ledger->shared->limit_source, 0x9b, sizeof ledger->shared->limit_source);
	atomic_store(&ledger->slots[ledger->slot].command[0], UINT64_C(0x1b1b1b1b1b1b1b1b));
	const struct ledger_view view = case_look(ledger);
	assert_int_equal(strlen(view.name), 31);
	assert_null(strchr(view.name, 0x1b));
	assert_true(strlen(view.limit_source) < sizeof view.limit_source);
	assert_true(ledger_look_member(ledger, ledger->slot, &member));
	assert_null(strchr(member.command, 0x1b));
	ledger_leave(ledger);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_copy_of_a_ledger_is_a_ledger),
		cmocka_unit_test(what_is_not_a_ledger_is_refused),
		cmocka_unit_test(another_version_is_refused),
		cmocka_unit_test(a_file_of_another_length_is_refused),
		cmocka_unit_test(a_file_that_can_shrink_is_refused),
		cmocka_unit_test(what_is_no_file_is_refused),
		cmocka_unit_test(a_refused_file_costs_no_descriptor),
		cmocka_unit_test(nonsense_everywhere_is_survived),
		cmocka_unit_test(a_word_that_never_stands_still_is_survived),
		cmocka_unit_test(slots_that_are_not_what_they_seem_are_survived),
		cmocka_unit_test(absurd_numbers_are_survived),
		cmocka_unit_test(a_ledger_full_of_nonsense_can_be_joined_and_left),
		cmocka_unit_test(texts_of_others_reach_no_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
