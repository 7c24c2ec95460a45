/* What of the members' heaps is physically there, by the real kernel's account. */
#include "ledger/residency.h"

#include "ledger/ledger.h"
#include "os/os.h"
#include "support/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { PAGES = 1024, PAGE = OS_PAGE_BYTES };

static struct ledger *ledger;
static struct residency *residency;
static struct cgroup_set no_cgroups;
static char *heap;

static int start(void **state)
{
	const struct ledger_spec spec = {.limit_pages = 100000};

	(void)state;
	if (ledger_create(&spec, &ledger) != 0 || residency_create(&residency) != 0)
		return -1;
	heap = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heap == MAP_FAILED)
		return -1;
	(void)madvise(heap, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE);
	ledger_publish_heap(ledger, (uintptr_t)heap, (uintptr_t)heap + (size_t)PAGES * PAGE);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	munmap(heap, (size_t)PAGES * PAGE);
	residency_destroy(residency);
	ledger_leave(ledger);
	return 0;
}

static uint64_t look(void)
{
	residency_update(residency, ledger, &no_cgroups);
	return residency_pages(residency, RESIDENCY_ANYWHERE);
}

static void touch(int first, int count)
{
	for (int i = first; i < first + count; i++)
		heap[(size_t)i * PAGE] = 1;
}

static void what_is_touched_and_committed_counts(void **state)
{
	(void)state;
	assert_int_equal(ledger_commit(ledger, 500, 0), 0);
	touch(0, 300);
	assert_int_equal(look(), 300);
}

static void what_is_not_committed_does_not_count(void **state)
{
	(void)state;
	assert_int_equal(ledger_commit(ledger, 100, 0), 0);
	touch(0, 300);
	assert_int_equal(look(), 100);
}

static void memory_beside_the_heap_does_not_count(void **state)
{
	char *other = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_ptr_not_equal(other, MAP_FAILED);
	memset(other, 1, (size_t)PAGES * PAGE);
	assert_int_equal(ledger_commit(ledger, 500, 0), 0);
	touch(0, 20);
	assert_int_equal(look(), 20);
	munmap(other, (size_t)PAGES * PAGE);
}

static void pages_that_were_only_read_are_not_there(void **state)
{
	volatile char sum = 0;

	(void)state;
	assert_int_equal(ledger_commit(ledger, 1000, 0), 0);
	touch(0, 10);
	for (int i = 10; i < 1000; i++)
		sum = (char)(sum + heap[(size_t)i * PAGE]);
	assert_int_equal(look(), 10);
}

static void address_space_is_not_searched(void **state)
{
	const uintptr_t base = (uintptr_t)heap & ~(((uintptr_t)1 << 40) - 1);

	(void)state;
	assert_int_equal(ledger_commit(ledger, 500, 0), 0);
	touch(1000, 20);
	/* Sixteen terabytes: would take half a minute page by page, and the test has a time limit. */
	ledger_publish_heap(ledger, base, base + ((uintptr_t)16 << 40));
	/* Other mappings of the test are in that range too: at least ours are found. */
	assert_in_range(look(), 20, 500);
}

static void an_ended_process_does_not_count(void **state)
{
	struct ledger_view view;
	pid_t child;

	(void)state;
	child = fork();
	if (child == 0)
		_exit(0);
	assert_int_equal(child_wait(child), 0);
	assert_int_equal(look(), 0);
	ledger_look(ledger, &view);
	assert_int_equal(view.members, 1);
}

/* A child that inherits, and writes @dirtied of it; asks for a look while it lives. */
static uint64_t look_with_child(int dirtied, uint64_t *copied_out)
{
	int to_child[2], to_parent[2];
	char byte = 0;
	uint64_t pages;
	pid_t child;

	assert_int_equal(pipe(to_child), 0);
	assert_int_equal(pipe(to_parent), 0);
	ledger_fork_prepare(ledger, 200);
	child = fork();
	if (child == 0) {
		ledger_fork_child(ledger);
		ledger_publish_heap(ledger, (uintptr_t)heap, (uintptr_t)heap + (size_t)PAGES * PAGE);
		touch(0, dirtied);
		if (write(to_parent[1], &byte, 1) != 1 || read(to_child[0], &byte, 1) != 1)
			_exit(1);
		_exit(0);
	}
	ledger_fork_parent(ledger, child);
	assert_int_equal(read(to_parent[0], &byte, 1), 1);
	pages = look();
	*copied_out = 0;
	for (uint32_t i = 0; i < 16; i++) {
		struct ledger_member member;

		if (ledger_look_member(ledger, i, &member) && member.pid == child)
			*copied_out = member.cow_pages;
	}
	assert_int_equal(write(to_child[1], &byte, 1), 1);
	assert_int_equal(child_wait(child), 0);
	for (int i = 0; i < 2; i++) {
		close(to_child[i]);
		close(to_parent[i]);
	}
	return pages;
}

static void pages_shared_by_a_fork_count_once(void **state)
{
	uint64_t copied;

	(void)state;
	assert_int_equal(ledger_commit(ledger, 200, 0), 0);
	touch(0, 200);
	assert_int_equal(look_with_child(0, &copied), 200);
	assert_int_equal(copied, 0);
}

static void what_copy_on_write_duplicates_is_outside(void **state)
{
	uint64_t copied;

	(void)state;
	assert_int_equal(ledger_commit(ledger, 200, 0), 0);
	touch(0, 200);
	/* 300 pages are there, of which the ledger knows 200. */
	assert_int_equal(look_with_child(100, &copied), 200);
	assert_int_equal(copied, 100);
}

static void between_looks_it_moves_with_what_was_committed(void **state)
{
	(void)state;
	assert_int_equal(ledger_commit(ledger, 500, 0), 0);
	touch(0, 100);
	assert_int_equal(look(), 100);
	/* Whether it looks again or estimates: the same. */
	assert_int_equal(ledger_commit(ledger, 100, 0), 0);
	touch(100, 100);
	assert_in_range(look(), 200, 200);
	assert_int_equal(madvise(heap, (size_t)150 * PAGE, MADV_DONTNEED), 0);
	ledger_uncommit(ledger, 150, ledger_epoch(ledger));
	assert_in_range(look(), 50, 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_touched_and_committed_counts, start, stop),
		cmocka_unit_test_setup_teardown(what_is_not_committed_does_not_count, start, stop),
		cmocka_unit_test_setup_teardown(memory_beside_the_heap_does_not_count, start, stop),
		cmocka_unit_test_setup_teardown(pages_that_were_only_read_are_not_there, start, stop),
		cmocka_unit_test_setup_teardown(address_space_is_not_searched, start, stop),
		cmocka_unit_test_setup_teardown(an_ended_process_does_not_count, start, stop),
		cmocka_unit_test_setup_teardown(pages_shared_by_a_fork_count_once, start, stop),
		cmocka_unit_test_setup_teardown(what_copy_on_write_duplicates_is_outside, start, stop),
		cmocka_unit_test_setup_teardown(between_looks_it_moves_with_what_was_committed, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
