/* Address space and memory: each call does what os.h says, by the kernel's own word. */
#include "base/compiler.h"
#include "os/os.h"
#include "support/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { PAGE = OS_PAGE_BYTES, BLOCK = 2 << 20 };

/* Can the kernel read, or write, this byte? Asked of the kernel, so that no signal is needed. */
static bool is_readable(const void *address)
{
	int ends[2];
	bool yes;

	assert_int_equal(pipe(ends), 0);
	yes = syscall(SYS_write, ends[1], address, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return yes;
}

static bool is_writable(void *address)
{
	const int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	bool yes;

	assert_true(fd >= 0);
	yes = syscall(SYS_read, fd, address, 1) == 1;
	close(fd);
	return yes;
}

static size_t resident(void *address, size_t bytes)
{
	size_t pages = SIZE_MAX;

	assert_int_equal(os_resident_pages(address, bytes, &pages), 0);
	return pages;
}

static char *space(size_t bytes, size_t align_bytes)
{
	void *address = NULL;

	assert_int_equal(os_space_map(0, bytes, align_bytes, &address), 0);
	return address;
}

static char *memory(size_t bytes)
{
	void *address = NULL;

	assert_int_equal(os_memory_map(bytes, &address), 0);
	return address;
}

/* Has the mapping at @address this flag in smaps ("hg", "wf", ...)? */
static bool has_vm_flag(const void *address, const char *flag)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	char line[512];
	bool inside = false, found = false;

	assert_non_null(smaps);
	while (fgets(line, sizeof line, smaps)) {
		unsigned long first, end;
		char padded[8];

		if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
			inside = (uintptr_t)address >= first && (uintptr_t)address < end;
		(void)snprintf(padded, sizeof padded, " %s ", flag);
		if (inside && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, padded) != NULL;
	}
	(void)fclose(smaps);
	return found;
}

/* ---- address space ---- */

static void space_is_aligned_and_inaccessible(void **state)
{
	(void)state;
	for (size_t align_bytes = PAGE; align_bytes <= (size_t)1 << 30; align_bytes <<= 1) {
		char *address = space(3 * PAGE, align_bytes);

		assert_int_equal((uintptr_t)address & (align_bytes - 1), 0);
		assert_false(is_readable(address));
		assert_false(is_readable(address + 3 * PAGE - 1));
		os_unmap(address, 3 * PAGE);
	}
}

static void space_beside_an_aligned_one_is_given_back(void **state)
{
	char *address = space(BLOCK, (size_t)1 << 30);
	void *before = NULL, *behind = NULL;

	(void)state;
	/* What was cut off on both sides can be mapped again, exactly there. */
	assert_int_equal(os_space_map((uintptr_t)address - PAGE, PAGE, 0, &before), 0);
	assert_int_equal(os_space_map((uintptr_t)address + BLOCK, PAGE, 0, &behind), 0);
	assert_ptr_equal(before, address - PAGE);
	assert_ptr_equal(behind, address + BLOCK);
	os_unmap(before, BLOCK + 2 * PAGE);
}

static void space_at_a_hint_is_exactly_there_or_eexist(void **state)
{
	char *address = space(4 * PAGE, 0);
	void *again = NULL;

	(void)state;
	assert_int_equal(os_space_map((uintptr_t)address, PAGE, 0, &again), -EEXIST);
	assert_int_equal(os_space_map((uintptr_t)address + 3 * PAGE, 2 * PAGE, 0, &again), -EEXIST);
	assert_null(again);
	os_unmap(address, 4 * PAGE);
	assert_int_equal(os_space_map((uintptr_t)address, 4 * PAGE, 0, &again), 0);
	assert_ptr_equal(again, address);
	os_unmap(again, 4 * PAGE);
}

static void space_too_large_is_enomem(void **state)
{
	void *address = NULL;

	(void)state;
	assert_int_equal(os_space_map(0, (size_t)1 << 62, 0, &address), -ENOMEM);
	assert_int_equal(os_space_map(0, SIZE_MAX & ~(size_t)(PAGE - 1), (size_t)1 << 30, &address), -ENOMEM);
	assert_null(address);
}

static void open_space_is_writable_zero_memory(void **state)
{
	char *address = space(4 * PAGE, 0);

	(void)state;
	assert_int_equal(os_space_open(address + PAGE, 2 * PAGE), 0);
	assert_false(is_readable(address));
	assert_false(is_readable(address + 3 * PAGE));
	assert_int_equal(resident(address, 4 * PAGE), 0);
	for (size_t i = PAGE; i < 3 * PAGE; i++)
		assert_int_equal(address[i], 0);
	address[PAGE] = 1;
	assert_true(is_writable(address + 3 * PAGE - 1));
	os_unmap(address, 4 * PAGE);
	assert_false(is_readable(address + PAGE));
	assert_int_equal(os_space_open(address, PAGE), -ENOMEM);
}

static void shown_space_reads_as_zero_and_has_no_pages(void **state)
{
	char *address = space(4 * PAGE, 0);

	(void)state;
	assert_int_equal(os_space_show(address, 4 * PAGE), 0);
	for (size_t i = 0; i < 4 * PAGE; i++)
		assert_int_equal(address[i], 0);
	assert_false(is_writable(address));
	/* Counted nowhere: the page that all processes read is nobody's. */
	assert_false(has_vm_flag(address, "ac"));
	assert_int_equal(os_space_open(address + PAGE, PAGE), 0);
	address[PAGE] = 1;
	assert_int_equal(address[2 * PAGE], 0);
	os_unmap(address, 4 * PAGE);
	assert_int_equal(os_space_show(address, PAGE), -ENOMEM);
}

static void closed_space_has_no_pages_and_opens_as_zero(void **state)
{
	char *address = space(4 * PAGE, 0);

	(void)state;
	assert_int_equal(os_space_open(address, 4 * PAGE), 0);
	memset(address, 7, 4 * PAGE);
	assert_int_equal(resident(address, 4 * PAGE), 4);
	/* "ac": counted against overcommit, which this kind of mapping is only where overcommit is strict. */
	assert_int_equal(has_vm_flag(address, "ac"), os_overcommit_mode() == 2);
	assert_int_equal(os_space_close(address, 4 * PAGE), 0);
	assert_int_equal(resident(address, 4 * PAGE), 0);
	assert_false(is_readable(address));
	assert_false(has_vm_flag(address, "ac"));
	assert_int_equal(os_space_open(address, 4 * PAGE), 0);
	for (size_t i = 0; i < 4 * PAGE; i++)
		assert_int_equal(address[i], 0);
	os_unmap(address, 4 * PAGE);
}

static int open_under_limit(void *address)
{
	struct rlimit limit = {PAGE, RLIM_INFINITY};
	void *more = NULL;
	int result = 0;

	if (setrlimit(RLIMIT_DATA, &limit) != 0)
		return 1;
	if (os_limit_data() != PAGE)
		result = 2;
	else if (os_space_open(address, BLOCK) != -ENOMEM)
		result = 3;
	else if (!HF_TSAN && os_space_map(0, BLOCK, 0, &more) != 0) /* TSan maps memory of its own then */
		result = 4;
	limit.rlim_cur = RLIM_INFINITY;
	return setrlimit(RLIMIT_DATA, &limit) == 0 && os_space_open(address, BLOCK) == 0 ? result : 5;
}

static void only_open_space_counts_against_rlimit_data(void **state)
{
	char *address = space(BLOCK, 0);

	(void)state;
	assert_int_equal(child_check(open_under_limit, address), 0);
	os_unmap(address, BLOCK);
}

/* ---- giving back ---- */

static void discarded_memory_is_gone_and_reads_as_zero(void **state)
{
	char *address = memory(8 * PAGE);

	(void)state;
	memset(address, 7, 8 * PAGE);
	assert_int_equal(os_discard(address + PAGE, 2 * PAGE), 0);
	assert_int_equal(resident(address, 8 * PAGE), 6);
	assert_int_equal(address[0], 7);
	assert_int_equal(address[PAGE], 0);
	assert_int_equal(address[3 * PAGE - 1], 0);
	assert_int_equal(address[3 * PAGE], 7);
	os_unmap(address, 8 * PAGE);
}

static void discard_works_on_locked_memory(void **state)
{
	char *address = memory(8 * PAGE);

	(void)state;
	/* By the number: sanitizers make the functions do nothing. Half of it, so that the range has two kinds. */
	if (syscall(SYS_mlock, address, 4 * PAGE) != 0) {
		print_message("RLIMIT_MEMLOCK does not allow 16 KiB\n");
		skip();
	}
	memset(address, 7, 8 * PAGE);
	assert_int_equal(os_discard(address, 8 * PAGE), 0);
	assert_int_equal(resident(address, 8 * PAGE), 0);
	assert_int_equal(address[0], 0);
	assert_int_equal(address[4 * PAGE], 0);
	assert_true(has_vm_flag(address, "lo")); /* still locked */
	os_unmap(address, 8 * PAGE);
}

static void discard_of_nothing_is_enomem(void **state)
{
	char *address = memory(PAGE);

	(void)state;
	os_unmap(address, PAGE);
	assert_int_equal(os_discard(address, PAGE), -ENOMEM);
}

/* ---- moving, counting ---- */

static void moved_pages_keep_what_they_hold(void **state)
{
	char *from = memory(BLOCK), *to = space(BLOCK, 0);

	(void)state;
	memset(from, 7, BLOCK);
	assert_int_equal(os_move(from, BLOCK, to), 0);
	assert_int_equal(resident(to, BLOCK), BLOCK / PAGE);
	assert_int_equal(to[0], 7);
	assert_int_equal(to[BLOCK - 1], 7);
	assert_false(is_readable(from));
	os_unmap(to, BLOCK);
}

static void moving_nothing_is_efault(void **state)
{
	char *from = memory(PAGE), *to = space(PAGE, 0);

	(void)state;
	os_unmap(from, PAGE);
	assert_int_equal(os_move(from, PAGE, to), -EFAULT);
	os_unmap(to, PAGE);
}

static void resident_pages_are_counted_over_long_ranges(void **state)
{
	enum { PAGES = 3 * 512 + 7 };
	char *address = memory(PAGES * PAGE);
	size_t expected = 0;

	(void)state;
	assert_int_equal(os_advise(address, PAGES * PAGE, OS_NO_HUGE), 0);
	for (size_t i = 0; i < PAGES; i += 5, expected++)
		address[i * PAGE] = 1;
	assert_int_equal(resident(address, PAGES * PAGE), expected);
	assert_int_equal(resident(address, PAGE), 1);
	assert_int_equal(resident(address, 0), 0);
	os_unmap(address, PAGES * PAGE);
}

/* ---- advice ---- */

static void advice_about_huge_pages_reaches_the_mapping(void **state)
{
	char *address = space(BLOCK, BLOCK);
	const int result = os_advise(address, BLOCK, OS_HUGE);

	(void)state;
	if (result == -EINVAL) {
		print_message("this kernel has no transparent huge pages\n");
		os_unmap(address, BLOCK);
		skip();
	}
	assert_int_equal(result, 0);
	assert_true(has_vm_flag(address, "hg"));
	assert_int_equal(os_advise(address, BLOCK, OS_NO_HUGE), 0);
	assert_true(has_vm_flag(address, "nh"));
	os_unmap(address, BLOCK);
}

static void collapse_makes_a_block_resident(void **state)
{
	char *address = space(BLOCK, BLOCK);
	int result;

	(void)state;
	assert_int_equal(os_space_open(address, BLOCK), 0);
	/* With nothing written the kernel refuses, whether or not it knows COLLAPSE. */
	assert_int_equal(os_advise(address, BLOCK, OS_COLLAPSE), -EINVAL);
	address[5] = 7;
	result = os_advise(address, BLOCK, OS_COLLAPSE);
	if (result != 0) {
		print_message("MADV_COLLAPSE says %d: before Linux 6.1, or no free huge page\n", result);
		os_unmap(address, BLOCK);
		skip();
	}
	assert_int_equal(resident(address, BLOCK), BLOCK / PAGE);
	assert_int_equal(address[5], 7);
	assert_int_equal(address[BLOCK - 1], 0);
	os_unmap(address, BLOCK);
}

static void populate_makes_pages_resident(void **state)
{
	char *address = memory(8 * PAGE);

	(void)state;
	assert_int_equal(os_advise(address, 8 * PAGE, OS_POPULATE), 0);
	assert_int_equal(resident(address, 8 * PAGE), 8);
	assert_int_equal(os_advise(address, 8 * PAGE, OS_COLD), 0);
	os_unmap(address, 8 * PAGE);
}

static void unknown_advice_is_einval(void **state)
{
	char *address = memory(PAGE);

	(void)state;
	assert_int_equal(os_advise(address, PAGE, (enum os_advice)77), -EINVAL);
	os_unmap(address, PAGE);
}

static int first_byte(void *address)
{
	return *(char *)address;
}

static int is_inaccessible(void *address)
{
	return is_readable(address) ? 1 : 0;
}

static void wiped_memory_is_zero_in_a_child(void **state)
{
	char *address = memory(PAGE);

	(void)state;
	address[0] = 7;
	assert_int_equal(WEXITSTATUS(child_check(first_byte, address)), 7);
	assert_int_equal(os_advise(address, PAGE, OS_WIPE_ON_FORK), 0);
	assert_int_equal(child_check(first_byte, address), 0);
	assert_int_equal(address[0], 7);
	assert_int_equal(os_advise(address, PAGE, OS_KEEP_ON_FORK), 0);
	assert_int_equal(WEXITSTATUS(child_check(first_byte, address)), 7);
	os_unmap(address, PAGE);
}

static void unforked_memory_is_not_in_a_child(void **state)
{
	char *address = memory(PAGE);

	(void)state;
	assert_int_equal(os_advise(address, PAGE, OS_DONT_FORK), 0);
	assert_int_equal(child_check(is_inaccessible, address), 0);
	os_unmap(address, PAGE);
}

/* ---- what the process and the machine do with memory ---- */

static int lock_future(void *flags)
{
	if (os_locks_new_memory())
		return 1;
	if (syscall(SYS_mlockall, *(int *)flags) != 0)
		return 2;
	return os_locks_new_memory() ? 0 : 3;
}

static void locking_of_new_memory_is_noticed(void **state)
{
	int flags = MCL_FUTURE | MCL_ONFAULT;

	(void)state;
	assert_false(os_locks_new_memory());
	assert_int_equal(child_check(lock_future, &flags), 0);
	flags = MCL_FUTURE;
	if (!HF_ASAN && !HF_TSAN) /* it would make their shadow memory resident */
		assert_int_equal(child_check(lock_future, &flags), 0);
}

static int thp_disabled(void *context)
{
	(void)context;
	return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0 && os_thp_mode() == 0 ? 0 : 1;
}

static void modes_are_what_the_files_say(void **state)
{
	static const char *const modes[] = {"[never]", "[madvise]", "[always]"};
	FILE *file = fopen("/proc/sys/vm/overcommit_memory", "re");
	char line[64] = "";

	(void)state;
	assert_non_null(file);
	assert_non_null(fgets(line, sizeof line, file));
	(void)fclose(file);
	assert_int_equal(os_overcommit_mode(), atoi(line));
	file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	if (!file) {
		assert_int_equal(os_thp_mode(), 0);
		return;
	}
	assert_non_null(fgets(line, sizeof line, file));
	(void)fclose(file);
	assert_non_null(strstr(line, modes[os_thp_mode()]));
	assert_int_equal(child_check(thp_disabled, NULL), 0);
}

static void memory_calls_leave_errno_alone(void **state)
{
	char *address = memory(PAGE);
	size_t pages;
	void *out = NULL;

	(void)state;
	os_unmap(address, PAGE);
	errno = 12345;
	(void)!os_space_map(0, (size_t)1 << 62, 0, &out);
	(void)!os_space_map((uintptr_t)&errno & ~(uintptr_t)(PAGE - 1), PAGE, 0, &out);
	(void)!os_memory_map((size_t)1 << 62, &out);
	(void)!os_space_open(address, PAGE);
	(void)!os_space_show(address, PAGE);
	(void)!os_space_close((void *)(uintptr_t)1, PAGE);
	(void)!os_discard(address, PAGE);
	(void)!os_advise(address, PAGE, OS_HUGE);
	(void)!os_move(address, PAGE, address + PAGE);
	(void)!os_resident_pages(address, PAGE, &pages);
	(void)!os_map_shared(-1, PAGE, true, &out);
	os_unmap((void *)(uintptr_t)1, PAGE);
	(void)os_locks_new_memory();
	(void)os_overcommit_mode();
	(void)os_thp_mode();
	assert_int_equal(errno, 12345);
	assert_null(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(space_is_aligned_and_inaccessible),
		cmocka_unit_test(space_beside_an_aligned_one_is_given_back),
		cmocka_unit_test(space_at_a_hint_is_exactly_there_or_eexist),
		cmocka_unit_test(space_too_large_is_enomem),
		cmocka_unit_test(open_space_is_writable_zero_memory),
		cmocka_unit_test(shown_space_reads_as_zero_and_has_no_pages),
		cmocka_unit_test(closed_space_has_no_pages_and_opens_as_zero),
		cmocka_unit_test(only_open_space_counts_against_rlimit_data),
		cmocka_unit_test(discarded_memory_is_gone_and_reads_as_zero),
		cmocka_unit_test(discard_works_on_locked_memory),
		cmocka_unit_test(discard_of_nothing_is_enomem),
		cmocka_unit_test(moved_pages_keep_what_they_hold),
		cmocka_unit_test(moving_nothing_is_efault),
		cmocka_unit_test(resident_pages_are_counted_over_long_ranges),
		cmocka_unit_test(advice_about_huge_pages_reaches_the_mapping),
		cmocka_unit_test(collapse_makes_a_block_resident),
		cmocka_unit_test(populate_makes_pages_resident),
		cmocka_unit_test(unknown_advice_is_einval),
		cmocka_unit_test(wiped_memory_is_zero_in_a_child),
		cmocka_unit_test(unforked_memory_is_not_in_a_child),
		cmocka_unit_test(locking_of_new_memory_is_noticed),
		cmocka_unit_test(modes_are_what_the_files_say),
		cmocka_unit_test(memory_calls_leave_errno_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
