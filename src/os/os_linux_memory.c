#include "os/linux_call.h"
#include "os/os.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* Newer than Debian 12's headers or only in linux/mman.h; the numbers are the kernel's ABI. */
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS };

/* mmap with a result of 0 or -errno, errno left alone. */
static int map(void *hint, size_t bytes, int protection, int flags, int fd, void **memory_out)
{
	const int saved_errno = errno;
	void *memory = mmap(hint, bytes, protection, flags, fd, 0);
	int result = 0;

	if (memory == MAP_FAILED)
		result = -errno;
	else
		*memory_out = memory;
	errno = saved_errno;
	return result;
}

static int unmap(void *address, size_t bytes)
{
	const int saved_errno = errno;
	const int result = munmap(address, bytes) == 0 ? 0 : -errno;

	errno = saved_errno;
	return result;
}

static int advise(void *address, size_t bytes, int advice)
{
	const int saved_errno = errno;
	int result;

	do
		result = madvise(address, bytes, advice) == 0 ? 0 : -errno;
	while (result == -EINTR);
	errno = saved_errno;
	return result;
}

static int map_exactly(uintptr_t hint, size_t bytes, void **space_out)
{
	void *space = NULL;
	int result = map((void *)hint, bytes, PROT_NONE, ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, &space);

	if (result)
		return result;
	if ((uintptr_t)space != hint) { /* kernels before 4.17 take it as a mere hint */
		os_unmap(space, bytes);
		return -EEXIST;
	}
	*space_out = space;
	return 0;
}

static int map_aligned(size_t bytes, size_t align_bytes, void **space_out)
{
	char *space = NULL;
	void *mapped = NULL;
	size_t more = align_bytes - OS_PAGE_BYTES;
	size_t head;
	int result;

	if (bytes > SIZE_MAX - more)
		return -ENOMEM;
	result = map(NULL, bytes + more, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, &mapped);
	if (result)
		return result;
	space = mapped;
	head = -(uintptr_t)space & (align_bytes - 1);
	if (head)
		os_unmap(space, head);
	if (more - head)
		os_unmap(space + head + bytes, more - head);
	*space_out = space + head;
	return 0;
}

int os_space_map(uintptr_t hint, size_t bytes, size_t align_bytes, void **space_out)
{
	void *space = NULL;
	int result;

	if (hint)
		return map_exactly(hint, bytes, space_out);
	/* Often it happens to be aligned; and under a tight RLIMIT_AS there is no room for more. */
	result = map(NULL, bytes, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, &space);
	if (result)
		return result;
	if (align_bytes <= OS_PAGE_BYTES || ((uintptr_t)space & (align_bytes - 1)) == 0) {
		*space_out = space;
		return 0;
	}
	os_unmap(space, bytes);
	return map_aligned(bytes, align_bytes, space_out);
}

int os_memory_map(size_t bytes, void **memory_out)
{
	return map(NULL, bytes, PROT_READ | PROT_WRITE, ANONYMOUS, -1, memory_out);
}

void os_unmap(void *address, size_t bytes)
{
	/* It fails only where a mapping had to be split and the process has too many: then at least the pages go. */
	if (unmap(address, bytes) != 0)
		(void)!os_discard(address, bytes);
}

static int protect(void *address, size_t bytes, int protection)
{
	const int saved_errno = errno;
	const int result = mprotect(address, bytes, protection) == 0 ? 0 : -errno;

	errno = saved_errno;
	return result;
}

int os_space_open(void *address, size_t bytes)
{
	return protect(address, bytes, PROT_READ | PROT_WRITE);
}

int os_space_show(void *address, size_t bytes)
{
	return protect(address, bytes, PROT_READ);
}

int os_space_close(void *address, size_t bytes)
{
	void *ignored;

	return map(address, bytes, PROT_NONE, ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, &ignored);
}

int os_discard(void *address, size_t bytes)
{
	const int result = advise(address, bytes, MADV_DONTNEED);

	return result == -EINVAL ? advise(address, bytes, MADV_DONTNEED_LOCKED) : result;
}

int os_advise(void *address, size_t bytes, enum os_advice advice)
{
	static const int advices[] = {
		[OS_HUGE] = MADV_HUGEPAGE,
		[OS_NO_HUGE] = MADV_NOHUGEPAGE,
		[OS_WIPE_ON_FORK] = MADV_WIPEONFORK,
		[OS_KEEP_ON_FORK] = MADV_KEEPONFORK,
		[OS_DONT_FORK] = MADV_DONTFORK,
		[OS_POPULATE] = MADV_POPULATE_WRITE,
		[OS_COLD] = MADV_COLD,
		[OS_COLLAPSE] = MADV_COLLAPSE,
	};

	if ((size_t)advice >= HF_COUNT_OF(advices))
		return -EINVAL;
	return advise(address, bytes, advices[advice]);
}

int os_move(void *from, size_t bytes, void *to)
{
	const int saved_errno = errno;
	const int result = mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED ? 0 : -errno;

	errno = saved_errno;
	return result;
}

int os_resident_pages(void *address, size_t bytes, size_t *pages_out)
{
	unsigned char there[512];
	const size_t pages = bytes >> OS_PAGE_SHIFT;
	size_t count = 0;

	for (size_t first = 0; first < pages; first += sizeof there) {
		const size_t part = pages - first < sizeof there ? pages - first : sizeof there;
		char *at = (char *)address + (first << OS_PAGE_SHIFT);
		const long result = OS_CALL(SYS_mincore, at, part << OS_PAGE_SHIFT, there);

		if (result < 0)
			return (int)result;
		for (size_t i = 0; i < part; i++)
			count += there[i] & 1;
	}
	*pages_out = count;
	return 0;
}

bool os_locks_new_memory(void)
{
	void *page = NULL;
	int result = os_memory_map(OS_PAGE_BYTES, &page);
	bool locked;

	if (result)
		return result == -EAGAIN; /* locked, and over RLIMIT_MEMLOCK */
	/* The kernel refuses to drop pages of a locked mapping, resident or not. */
	locked = advise(page, OS_PAGE_BYTES, MADV_DONTNEED) == -EINVAL;
	os_unmap(page, OS_PAGE_BYTES);
	return locked;
}

int os_overcommit_mode(void)
{
	char text[8];

	if (os_read_small("/proc/sys/vm/overcommit_memory", text, sizeof text) < 1)
		return 0;
	return text[0] == '1' || text[0] == '2' ? text[0] - '0' : 0;
}

unsigned os_thp_mode(void)
{
	char text[64];

	if (OS_CALL(SYS_prctl, PR_GET_THP_DISABLE, 0L, 0L, 0L, 0L) == 1)
		return 0;
	if (os_read_small("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text) < 1)
		return 0;
	if (strstr(text, "[always]"))
		return 2;
	return strstr(text, "[madvise]") ? 1 : 0;
}

int os_map_shared(int fd, size_t bytes, bool writable, void **memory_out)
{
	return map(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, memory_out);
}
