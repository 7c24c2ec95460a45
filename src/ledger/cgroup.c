/*
 * Where a cgroup's directory is: /proc/self/cgroup says the path in the hierarchy, /proc/self/mountinfo which part
 * of the hierarchy is mounted where. The cases:
 *   mounted root "/", path "/a/b"            MOUNT/a/b (no container, or a cgroup namespace)
 *   mounted root "/a", path "/a/b"           MOUNT/b (a container without cgroup namespace)
 *   mounted root "/..", "/../.." etc.        a namespace with its parent's mount: which directory is ours cannot be
 *                                            seen, but all of the mount's root is above us: MOUNT itself
 *   anything else, also paths with "/.."     MOUNT, if its list of processes has this one; else nothing
 * A directory that does not exist (a path hidden by a bind mount, say) is left for the nearest that does: what
 * remains are true ancestors.
 */
#include "ledger/cgroup.h"

#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { MOUNTS_BYTES = 1 << 20 };

/* A file that is not there, or not for us, is no limit. Any other failure to read it may hide one. */
static ssize_t read_file(struct cgroup_set *set, const char *path, char *text, size_t bytes)
{
	const ssize_t result = os_read_small(path, text, bytes);

	if (result < 0 && result != -ENOENT && result != -ENOTDIR && result != -EACCES && result != -EPERM &&
		result != -ENODEV && result != -EOPNOTSUPP && result != -EINVAL)
		set->is_uncertain = true;
	return result;
}

/* ---- text ---- */

static bool starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

/* Is @word one of the comma-separated @list of @length bytes? */
static bool list_has(const char *list, size_t length, const char *word)
{
	const size_t word_length = strlen(word);

	while (length > 0) {
		const char *comma = memchr(list, ',', length);
		const size_t item = comma ? (size_t)(comma - list) : length;

		if (item == word_length && memcmp(list, word, item) == 0)
			return true;
		if (!comma)
			return false;
		list += item + 1;
		length -= item + 1;
	}
	return false;
}

/* A decimal number, or @otherwise if there is none. */
static uint64_t parse_number(const char *text, uint64_t otherwise)
{
	uint64_t number = 0;

	if (*text < '0' || *text > '9')
		return otherwise;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (__builtin_mul_overflow(number, 10, &number) ||
			__builtin_add_overflow(number, (uint64_t)(*text - '0'), &number))
			return UINT64_MAX;
	}
	return number;
}

/* The value of "key value" in a file of such lines; 0 if it has none. */
static uint64_t stat_value(const char *text, const char *key)
{
	const size_t length = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, length) == 0 && line[length] == ' ')
			return parse_number(line + length + 1, 0);
	}
	return 0;
}

/* mountinfo writes space, tab, newline and backslash as \ooo. In place. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from;) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
			from[3] >= '0' && from[3] <= '7') {
			*to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
}

/* ---- /proc/PID/cgroup ---- */

/*
 * The path of the line "ID:CONTROLLERS:PATH" of the v1 memory controller or of v2 ("0::PATH").
 * 0, -ENOENT, -ENAMETOOLONG.
 */
static int path_of_version(const char *text, unsigned version, char *path, size_t bytes)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		const size_t length = strcspn(line, "\n");
		const char *first = memchr(line, ':', length);
		const char *second = first ? memchr(first + 1, ':', length - (size_t)(first + 1 - line)) : NULL;

		if (!second)
			continue;
		const size_t controllers = (size_t)(second - first - 1);
		const bool matches = version == 1 ? list_has(first + 1, controllers, "memory")
						  : controllers == 0 && starts_with(line, "0:");
		const size_t path_length = length - (size_t)(second + 1 - line);

		if (!matches)
			continue;
		if (path_length >= bytes)
			return -ENAMETOOLONG;
		memcpy(path, second + 1, path_length);
		path[path_length] = '\0';
		return 0;
	}
	return -ENOENT;
}

static void drop_suffix(char *text, const char *suffix)
{
	const size_t length = strlen(text), suffix_length = strlen(suffix);

	if (length >= suffix_length && strcmp(text + length - suffix_length, suffix) == 0)
		text[length - suffix_length] = '\0';
}

/* ---- /proc/self/mountinfo ---- */

struct mount {
	char *root, *point;
	unsigned version;
};

/* Cut a line "ID PARENT MAJ:MIN ROOT POINT OPTIONS ... - TYPE SOURCE SUPER" up. False: not a memory cgroup's. */
static bool parse_mount(char *line, struct mount *mount)
{
	char *fields[5];
	char *rest = line;
	char *tail = strstr(line, " - ");

	if (!tail)
		return false;
	*tail = '\0';
	tail += 3;
	for (size_t i = 0; i < HF_COUNT_OF(fields); i++) {
		fields[i] = strsep(&rest, " ");
		if (!fields[i])
			return false;
	}
	const char *type = strsep(&tail, " ");
	const char *source = strsep(&tail, " ");
	const char *super = strsep(&tail, " ");

	if (!type || !source || !super)
		return false;
	if (strcmp(type, "cgroup2") == 0)
		mount->version = 2;
	else if (strcmp(type, "cgroup") == 0 && list_has(super, strlen(super), "memory"))
		mount->version = 1;
	else
		return false;
	mount->root = fields[3];
	mount->point = fields[4];
	unescape(mount->root);
	unescape(mount->point);
	return true;
}

/* "/..", "/../.." and so on: above the root of this process's namespace. */
static bool is_above_namespace(const char *root)
{
	if (*root == '\0')
		return false;
	while (starts_with(root, "/.."))
		root += 3;
	return *root == '\0';
}

static bool lists_this_process(struct cgroup_set *set, const char *directory)
{
	char path[CGROUP_PATH_BYTES + 16];
	const uint64_t self = (uint64_t)os_process_id();
	int length = snprintf(path, sizeof path, "%s/cgroup.procs", directory);

	if (length < 0 || (size_t)length >= sizeof path || read_file(set, path, set->text, sizeof set->text) <= 0)
		return false;
	for (const char *line = set->text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (parse_number(line, 0) == self)
			return true;
	}
	return false;
}

/* Where below the mount is the tree's own path? NULL: nowhere that can be said. */
static const char *below_mount(struct cgroup_set *set, const struct mount *mount, size_t *root_length_out)
{
	const struct cgroup_tree *tree = &set->trees[mount->version - 1];
	const size_t root_length = strcmp(mount->root, "/") == 0 ? 0 : strlen(mount->root);
	const char *path = tree->own_path;

	*root_length_out = root_length;
	if (is_above_namespace(mount->root)) {
		*root_length_out = 0;
		return "";
	}
	if (!starts_with(path, "/..") && strncmp(path, mount->root, root_length) == 0 &&
		(path[root_length] == '/' || path[root_length] == '\0'))
		return strcmp(path + root_length, "/") == 0 ? "" : path + root_length;
	if (lists_this_process(set, mount->point)) {
		*root_length_out = strlen(path);
		return "";
	}
	return NULL;
}

static bool has_memory_files(struct cgroup_set *set, const char *directory, unsigned version)
{
	char path[CGROUP_PATH_BYTES + 32], text[64];
	const char *file = version == 1 ? "memory.limit_in_bytes" : "memory.stat";
	const int length = snprintf(path, sizeof path, "%s/%s", directory, file);

	return length > 0 && (size_t)length < sizeof path && read_file(set, path, text, sizeof text) > 0;
}

/* The nearest directory that is there, from @tree->directory towards the mount point. */
static bool settle(struct cgroup_set *set, struct cgroup_tree *tree)
{
	char *directory = tree->directory;

	while (!has_memory_files(set, directory, tree->version)) {
		char *slash = strrchr(directory, '/');

		if (!slash || (size_t)(slash - directory) < tree->mount_length)
			return false;
		*slash = '\0';
	}
	return true;
}

static void consider_mount(struct cgroup_set *set, const struct mount *mount)
{
	struct cgroup_tree *tree = &set->trees[mount->version - 1];
	const char *below;
	int length;

	if (tree->present || tree->own_path[0] == '\0')
		return;
	below = below_mount(set, mount, &tree->root_length);
	if (!below)
		return;
	length = snprintf(tree->directory, sizeof tree->directory, "%s%s", mount->point, below);
	if (length < 0 || (size_t)length >= sizeof tree->directory)
		return;
	tree->mount_length = strlen(mount->point);
	tree->present = settle(set, tree);
}

static void consider_mounts(struct cgroup_set *set)
{
	void *memory;
	ssize_t bytes;

	if (os_memory_map(MOUNTS_BYTES, &memory) != 0) {
		set->is_uncertain = true;
		return;
	}
	bytes = read_file(set, "/proc/self/mountinfo", memory, MOUNTS_BYTES);
	if (bytes > 0) {
		char *rest = memory;

		for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
			struct mount mount;

			if (parse_mount(line, &mount))
				consider_mount(set, &mount);
		}
	}
	os_unmap(memory, MOUNTS_BYTES);
}

static void add_levels(struct cgroup_set *set, const struct cgroup_tree *tree)
{
	size_t length = strlen(tree->directory);

	while (set->level_count < CGROUP_LEVELS) {
		set->levels[set->level_count++] = (struct cgroup_level){.tree = tree,
			.length = length,
			.limit_bytes = CGROUP_UNLIMITED,
			.high_bytes = CGROUP_UNLIMITED};
		if (length <= tree->mount_length)
			return;
		do
			length--;
		while (length > tree->mount_length && tree->directory[length] != '/');
	}
}

void cgroup_find(struct cgroup_set *set)
{
	char *text = set->text;

	memset(set, 0, sizeof *set);
	if (read_file(set, "/proc/self/cgroup", text, sizeof set->text) <= 0)
		return;
	for (unsigned i = 0; i < CGROUP_VERSIONS; i++) {
		struct cgroup_tree *tree = &set->trees[i];

		tree->version = i + 1;
		if (path_of_version(text, tree->version, tree->own_path, sizeof tree->own_path) != 0)
			tree->own_path[0] = '\0';
		drop_suffix(tree->own_path, " (deleted)");
	}
	consider_mounts(set);
	for (unsigned i = 0; i < CGROUP_VERSIONS; i++) {
		if (set->trees[i].present)
			add_levels(set, &set->trees[i]);
	}
}

bool cgroup_has_moved(struct cgroup_set *set)
{
	char path[CGROUP_PATH_BYTES];

	if (os_read_small("/proc/self/cgroup", set->text, sizeof set->text) <= 0)
		return false; /* no /proc any more (chroot): what was found stays the best that is known */
	for (unsigned i = 0; i < CGROUP_VERSIONS; i++) {
		if (path_of_version(set->text, i + 1, path, sizeof path) != 0)
			path[0] = '\0';
		drop_suffix(path, " (deleted)");
		if (strcmp(path, set->trees[i].own_path) != 0)
			return true;
	}
	return false;
}

/* ---- a level's numbers ---- */

static ssize_t read_level(
	struct cgroup_set *set, const struct cgroup_level *level, const char *file, char *text, size_t bytes)
{
	char path[CGROUP_PATH_BYTES + 32];
	const int length = snprintf(path, sizeof path, "%.*s/%s", (int)level->length, level->tree->directory, file);

	if (length < 0 || (size_t)length >= sizeof path)
		return -ENAMETOOLONG;
	return read_file(set, path, text, bytes);
}

static uint64_t read_amount(struct cgroup_set *set, const struct cgroup_level *level, const char *file)
{
	char text[64];
	uint64_t amount;

	if (read_level(set, level, file, text, sizeof text) <= 0)
		return CGROUP_UNLIMITED;
	amount = parse_number(text, CGROUP_UNLIMITED); /* "max" */
	/* v1 writes "no limit" as the largest multiple of a page that its counter holds. */
	return amount >= (uint64_t)1 << 62 ? CGROUP_UNLIMITED : amount;
}

/*
 * File pages on the lists that the kernel reclaims from, without those that must be written first. Shared memory is on
 * the anonymous lists and locked pages are on the unevictable one: neither is counted here.
 */
static uint64_t clean_of(const char *text, unsigned version)
{
	uint64_t file, busy;

	if (version == 1) {
		/* total_*: with the descendants, as the usage is. */
		file = stat_value(text, "total_inactive_file") + stat_value(text, "total_active_file");
		busy = stat_value(text, "total_dirty") + stat_value(text, "total_writeback");
	} else {
		file = stat_value(text, "inactive_file") + stat_value(text, "active_file");
		busy = stat_value(text, "file_dirty") + stat_value(text, "file_writeback");
	}
	return file > busy ? file - busy : 0;
}

bool cgroup_read(struct cgroup_set *set, unsigned index)
{
	struct cgroup_level *level = &set->levels[index];
	const unsigned version = level->tree->version;

	level->limit_bytes = read_amount(set, level, version == 1 ? "memory.limit_in_bytes" : "memory.max");
	level->high_bytes = version == 1 ? CGROUP_UNLIMITED : read_amount(set, level, "memory.high");
	level->usage_bytes = 0;
	level->clean_bytes = 0;
	if (level->limit_bytes == CGROUP_UNLIMITED)
		return false;
	level->usage_bytes = read_amount(set, level, version == 1 ? "memory.usage_in_bytes" : "memory.current");
	if (level->usage_bytes == CGROUP_UNLIMITED)
		return false;
	if (read_level(set, level, "memory.stat", set->text, sizeof set->text) > 0)
		level->clean_bytes = clean_of(set->text, version);
	return true;
}

uint32_t cgroup_levels_of(struct cgroup_set *set, pid_t pid)
{
	char path[CGROUP_PATH_BYTES];
	uint32_t levels = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
	if (os_read_small(path, set->text, sizeof set->text) <= 0)
		return 0;
	for (unsigned i = 0; i < set->level_count; i++) {
		const struct cgroup_level *level = &set->levels[i];
		const struct cgroup_tree *tree = level->tree;
		const size_t length = tree->root_length + (level->length - tree->mount_length);

		if (path_of_version(set->text, tree->version, path, sizeof path) != 0)
			continue;
		/* A path out of the namespace never starts with one in it. */
		if (length == 0 ? !starts_with(path, "/..")
				: strncmp(path, tree->own_path, length) == 0 &&
					  (path[length] == '/' || path[length] == '\0'))
			levels |= UINT32_C(1) << i;
	}
	return levels;
}

void cgroup_level_name(const struct cgroup_level *level, char *name, size_t bytes)
{
	const struct cgroup_tree *tree = level->tree;
	const size_t length = tree->root_length + (level->length - tree->mount_length);
	const char *path = length == 0 ? "/" : tree->own_path;
	const int shown = length == 0 ? 1 : (int)length;
	enum { LONGEST = 48 }; /* the end of a long path says more than its beginning */

	if (shown > LONGEST)
		(void)snprintf(name, bytes, "cgroup v%u ...%.*s", tree->version, LONGEST, path + shown - LONGEST);
	else
		(void)snprintf(name, bytes, "cgroup v%u %.*s", tree->version, shown, path);
}
