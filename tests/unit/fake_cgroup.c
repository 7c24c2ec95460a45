/* Finding this process's cgroups, and reading them, in every shape that the files can have. */
#include "ledger/cgroup.h"
#include "os/os.h"
#include "os/os_fake.h"
#include "support/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOUNT_V2 "30 23 0:26 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define MOUNT_V1 "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
#define MOUNT_V1_CPU "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
#define MOUNT_PROC "22 23 0:21 / /proc rw,nosuid - proc proc rw\n"

static struct cgroup_set set;

static int reset(void **state)
{
	(void)state;
	os_fake_reset();
	memset(&set, 0, sizeof set);
	return 0;
}

static void file(const char *directory, const char *name, const char *text)
{
	char path[256];

	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	os_fake_file(path, text);
}

static void make_v2(const char *directory, const char *max)
{
	file(directory, "memory.stat", "anon 4096\ninactive_file 0\n");
	if (max) {
		file(directory, "memory.max", max);
		file(directory, "memory.current", "1000000\n");
		file(directory, "memory.high", "max\n");
	}
}

static void make_v1(const char *directory, const char *limit)
{
	file(directory, "memory.stat", "cache 0\ntotal_inactive_file 0\n");
	file(directory, "memory.limit_in_bytes", limit);
	file(directory, "memory.usage_in_bytes", "1000000\n");
}

static void find(const char *own, const char *mounts)
{
	os_fake_file("/proc/self/cgroup", own);
	os_fake_file("/proc/self/mountinfo", mounts);
	cgroup_find(&set);
}

static void assert_level(unsigned index, const char *directory)
{
	char found[CGROUP_PATH_BYTES];

	assert_true(index < set.level_count);
	(void)snprintf(found, sizeof found, "%.*s", (int)set.levels[index].length, set.levels[index].tree->directory);
	assert_string_equal(found, directory);
}

static void v2_levels_are_the_nearest_and_its_ancestors(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup", NULL);
	make_v2("/sys/fs/cgroup/a", "max\n");
	make_v2("/sys/fs/cgroup/a/b.slice", "67108864\n");
	find("0::/a/b.slice\n", MOUNT_PROC MOUNT_V2);
	assert_int_equal(set.level_count, 3);
	assert_level(0, "/sys/fs/cgroup/a/b.slice");
	assert_level(1, "/sys/fs/cgroup/a");
	assert_level(2, "/sys/fs/cgroup");
	assert_true(cgroup_read(&set, 0));
	assert_int_equal(set.levels[0].limit_bytes, 67108864);
	assert_int_equal(set.levels[0].usage_bytes, 1000000);
	assert_false(cgroup_read(&set, 1));
	assert_false(cgroup_read(&set, 2));
}

static void v1_is_found_among_other_controllers(void **state)
{
	(void)state;
	make_v1("/sys/fs/cgroup/memory", "9223372036854771712\n");
	make_v1("/sys/fs/cgroup/memory/x", "67108864\n");
	find("5:devices:/y\n4:cpu,memory,pids:/x\n1:cpu:/z\n0::/\n", MOUNT_V1_CPU MOUNT_V1);
	assert_int_equal(set.level_count, 2);
	assert_level(0, "/sys/fs/cgroup/memory/x");
	assert_true(cgroup_read(&set, 0));
	assert_false(cgroup_read(&set, 1)); /* v1's way of writing "none" */
}

static void both_versions_count_where_both_are_mounted(void **state)
{
	(void)state;
	make_v1("/sys/fs/cgroup/memory", "9223372036854771712\n");
	make_v2("/sys/fs/cgroup", NULL);
	make_v2("/sys/fs/cgroup/u", "50000000\n");
	find("4:memory:/\n0::/u\n", MOUNT_V1 MOUNT_V2);
	assert_int_equal(set.level_count, 3);
	assert_level(0, "/sys/fs/cgroup/memory");
	assert_level(1, "/sys/fs/cgroup/u");
	assert_true(cgroup_read(&set, 1));
}

static void a_mounted_subtree_hides_its_ancestors(void **state)
{
	(void)state;
	make_v1("/sys/fs/cgroup/memory", "67108864\n");
	make_v1("/sys/fs/cgroup/memory/inner", "33554432\n");
	find("4:memory:/docker/0123/inner\n",
		"35 31 0:32 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
	assert_int_equal(set.level_count, 2);
	assert_level(0, "/sys/fs/cgroup/memory/inner");
	assert_level(1, "/sys/fs/cgroup/memory");
}

static void a_namespace_shows_its_root_as_slash(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup", "67108864\n"); /* the namespace's root has a limit, unlike the real root */
	find("0::/\n", MOUNT_V2);
	assert_int_equal(set.level_count, 1);
	assert_true(cgroup_read(&set, 0));
}

static void a_mount_from_outside_the_namespace_is_an_ancestor(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup", "67108864\n");
	find("0::/\n", "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
	assert_int_equal(set.level_count, 1);
	assert_level(0, "/sys/fs/cgroup");
}

static void a_path_outside_the_mount_counts_only_if_the_mount_lists_us(void **state)
{
	char procs[64];

	(void)state;
	make_v2("/sys/fs/cgroup", "67108864\n");
	file("/sys/fs/cgroup", "cgroup.procs", "1\n2\n");
	find("0::/../other\n", MOUNT_V2);
	assert_int_equal(set.level_count, 0);
	(void)snprintf(procs, sizeof procs, "1\n%d\n", (int)os_process_id());
	file("/sys/fs/cgroup", "cgroup.procs", procs);
	find("0::/../other\n", MOUNT_V2);
	assert_int_equal(set.level_count, 1);
}

static void a_directory_that_is_missing_leaves_its_ancestors(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup/a", "67108864\n");
	find("0::/a/removed/deeper (deleted)\n", MOUNT_V2);
	assert_int_equal(set.level_count, 2);
	assert_level(0, "/sys/fs/cgroup/a");
}

static void odd_paths_are_understood(void **state)
{
	(void)state;
	make_v2("/mnt/my cgroups/a:b c", "67108864\n");
	find("0::/a:b c\n", "30 23 0:26 / /mnt/my\\040cgroups rw - cgroup2 none rw\n");
	assert_int_equal(set.level_count, 2);
	assert_level(0, "/mnt/my cgroups/a:b c");
}

static void no_files_are_no_levels(void **state)
{
	(void)state;
	cgroup_find(&set);
	assert_int_equal(set.level_count, 0);
	find("0::/a\n", "");
	assert_int_equal(set.level_count, 0);
	find("", MOUNT_V2);
	assert_int_equal(set.level_count, 0);
}

static void only_clean_file_pages_are_clean(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup/a", "67108864\n");
	file("/sys/fs/cgroup/a", "memory.stat",
		"anon 1\nfile 9000000\nshmem 3000000\nfile_mapped 5\nfile_dirty 40000\nfile_writeback 2000\n"
		"inactive_anon 7\nactive_anon 7\ninactive_file 500000\nactive_file 100000\nunevictable 777\n");
	find("0::/a\n", MOUNT_V2);
	assert_true(cgroup_read(&set, 0));
	assert_int_equal(set.levels[0].clean_bytes, 500000 + 100000 - 40000 - 2000);

	file("/sys/fs/cgroup/a", "memory.stat", "inactive_file 100\nactive_file 100\nfile_dirty 300\n");
	assert_true(cgroup_read(&set, 0));
	assert_int_equal(set.levels[0].clean_bytes, 0); /* counters that were read at different moments */
}

static void v1_counts_the_descendants_too(void **state)
{
	(void)state;
	make_v1("/sys/fs/cgroup/memory", "67108864\n");
	file("/sys/fs/cgroup/memory", "memory.stat",
		"dirty 1\ninactive_file 1\nactive_file 1\ntotal_dirty 1000\ntotal_writeback 500\n"
		"total_inactive_file 90000\ntotal_active_file 10000\n");
	find("4:memory:/\n", MOUNT_V1);
	assert_true(cgroup_read(&set, 0));
	assert_int_equal(set.levels[0].clean_bytes, 100000 - 1500);
}

static void being_moved_is_noticed(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup/a", "67108864\n");
	find("0::/a\n", MOUNT_V2);
	assert_false(cgroup_has_moved(&set));
	os_fake_file("/proc/self/cgroup", "0::/b\n");
	assert_true(cgroup_has_moved(&set));
	os_fake_file("/proc/self/cgroup", NULL);
	assert_false(cgroup_has_moved(&set)); /* what was found stays the best that is known */
}

static void another_process_is_in_the_levels_above_it(void **state)
{
	(void)state;
	make_v2("/sys/fs/cgroup/a", "67108864\n");
	make_v2("/sys/fs/cgroup/a/b", "67108864\n");
	find("0::/a/b\n", MOUNT_V2); /* levels: a/b, a, root */
	os_fake_file("/proc/5/cgroup", "0::/a/b/c\n");
	os_fake_file("/proc/6/cgroup", "0::/a/bb\n");
	os_fake_file("/proc/7/cgroup", "0::/other\n");
	os_fake_file("/proc/8/cgroup", "0::/../out\n");
	assert_int_equal(cgroup_levels_of(&set, 5), 7);
	assert_int_equal(cgroup_levels_of(&set, 6), 6);
	assert_int_equal(cgroup_levels_of(&set, 7), 4);
	assert_int_equal(cgroup_levels_of(&set, 8), 0);
	assert_int_equal(cgroup_levels_of(&set, 9), 0); /* has ended */
}

static void names_are_cut_at_the_front(void **state)
{
	char name[96];

	(void)state;
	make_v2("/sys/fs/cgroup/0123456789012345678901234567890123456789/0123456789", "67108864\n");
	find("0::/0123456789012345678901234567890123456789/0123456789\n", MOUNT_V2);
	cgroup_level_name(&set.levels[0], name, sizeof name);
	assert_string_equal(name, "cgroup v2 ...3456789012345678901234567890123456789/0123456789");
	cgroup_level_name(&set.levels[set.level_count - 1], name, sizeof name);
	assert_string_equal(name, "cgroup v2 /");
}

/* No text, however damaged, does harm; the sanitizers' builds say so. */
static void damaged_files_do_no_harm(void **state)
{
	static const char good[] = MOUNT_PROC MOUNT_V1 MOUNT_V2;
	char mounts[sizeof good], own[] = "4:cpu,memory:/a/b\n0::/a/b\n";
	struct random random = {random_seed("damaged_files_do_no_harm")};

	(void)state;
	make_v2("/sys/fs/cgroup/a/b", "67108864\n");
	make_v1("/sys/fs/cgroup/memory/a/b", "67108864\n");
	for (int i = 0; i < 20000; i++) {
		memcpy(mounts, good, sizeof good);
		for (int k = 0; k < 3; k++) {
			mounts[random_below(&random, sizeof mounts - 1)] = "\n -/\\0:,.."[random_below(&random, 10)];
			own[random_below(&random, sizeof own - 1)] = "\n:/,.a4"[random_below(&random, 7)];
		}
		find(own, mounts);
		assert_true(set.level_count <= CGROUP_LEVELS);
		for (unsigned level = 0; level < set.level_count; level++)
			(void)cgroup_read(&set, level);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(v2_levels_are_the_nearest_and_its_ancestors, reset),
		cmocka_unit_test_setup(v1_is_found_among_other_controllers, reset),
		cmocka_unit_test_setup(both_versions_count_where_both_are_mounted, reset),
		cmocka_unit_test_setup(a_mounted_subtree_hides_its_ancestors, reset),
		cmocka_unit_test_setup(a_namespace_shows_its_root_as_slash, reset),
		cmocka_unit_test_setup(a_mount_from_outside_the_namespace_is_an_ancestor, reset),
		cmocka_unit_test_setup(a_path_outside_the_mount_counts_only_if_the_mount_lists_us, reset),
		cmocka_unit_test_setup(a_directory_that_is_missing_leaves_its_ancestors, reset),
		cmocka_unit_test_setup(odd_paths_are_understood, reset),
		cmocka_unit_test_setup(no_files_are_no_levels, reset),
		cmocka_unit_test_setup(only_clean_file_pages_are_clean, reset),
		cmocka_unit_test_setup(v1_counts_the_descendants_too, reset),
		cmocka_unit_test_setup(being_moved_is_noticed, reset),
		cmocka_unit_test_setup(another_process_is_in_the_levels_above_it, reset),
		cmocka_unit_test_setup(names_are_cut_at_the_front, reset),
		cmocka_unit_test_setup(damaged_files_do_no_harm, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
