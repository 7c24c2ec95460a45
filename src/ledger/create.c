/*
 * New ledger files.
 */
#include "ledger/internal.h"

#include <errno.h>
#include <string.h>

static void fill_header(struct ledger_shared *shared, const struct ledger_spec *spec)
{
	shared->version = LEDGER_VERSION;
	shared->slot_count = LEDGER_SLOTS;
	shared->slot_bytes = LEDGER_SLOT_BYTES;
	shared->header_bytes = LEDGER_HEADER_BYTES;
	shared->created_ns = os_clock_ns();
	os_random(&shared->identity, sizeof shared->identity);
	os_random(shared->cookie, sizeof shared->cookie);
	if (spec->name != NULL)
		memcpy(shared->name, spec->name, strlen(spec->name));
	/* Header, first slots, and one ahead (members.c): charged from the start. */
	const uint64_t own_pages = 3;
	struct ledger_slot *own = (struct ledger_slot *)(void *)((char *)shared + LEDGER_HEADER_BYTES);

	own->entry.words.low = own_pages;
	atomic_store(&own->state, state_make(1, LEDGER_OWN));
	shared->word.words.low = own_pages;
	atomic_store(&shared->peak_pages, own_pages);
	atomic_store(&shared->slots_high, 1);
	atomic_store(&shared->automatic, spec->automatic);
	shared->magic = LEDGER_MAGIC;
}

/* Fresh, sealed, filled in; close-on-exec. */
static int make_file(const struct ledger_spec *spec, int *fd_out)
{
	struct ledger_shared *shared;
	int error = os_memfd(LEDGER_MEMFD_NAME, LEDGER_FILE_BYTES, fd_out);

	if (error != 0)
		return error;
	error = ledger_map(*fd_out, true, &shared);
	if (error != 0) {
		os_fd_close(*fd_out);
		return error;
	}
	fill_header(shared, spec);
	struct ledger filler = {.shared = shared, .writable = true};
	ledger_set_limit(&filler, spec->limit_pages);
	os_unmap(shared, LEDGER_FILE_BYTES);
	return 0;
}

int ledger_create(const struct ledger_spec *spec, struct ledger **ledger_out)
{
	const char *why;
	int fd;

	if (spec->name != NULL && strlen(spec->name) >= sizeof((struct ledger_shared *)NULL)->name)
		return -EINVAL;
	int error = make_file(spec, &fd);
	if (error != 0)
		return error;
	error = ledger_join(fd, ledger_out, &why);
	if (error != 0) /* no /proc: nobody else has this description yet, so the lock may live on it */
		error = ledger_join_fresh(fd, ledger_out, &why);
	os_fd_close(fd);
	return error;
}

/* ---- a child that is cut off ---- */

/* @fd: the new file. On failure the attachment is as it was. */
static int move_to(struct ledger *ledger, int fd)
{
	struct ledger_shared *const before = ledger->shared;
	struct ledger_shared *shared;
	struct os_file_id id;
	int slot_fd;
	int error = os_fd_identify(fd, &id);

	if (error != 0)
		return error;
	/* Without /proc, or with no descriptor left, the lock lives on the file's first description. */
	const bool has_slot_fd = os_fd_reopen(fd, &slot_fd) == 0;
	if (!has_slot_fd)
		slot_fd = fd;
	error = ledger_map(fd, true, &shared);
	if (error != 0)
		goto close_slot_fd;
	ledger_use_mapping(ledger, shared);
	/* The mapping before stays for good: it holds the parent's slot, where all that was inherited is charged. */
	ledger->keeps_first_mapping = false;
	error = ledger_attach_on_locked(ledger, slot_fd, 0, 0, 0);
	if (error != 0) {
		ledger_use_mapping(ledger, before);
		os_unmap(shared, LEDGER_FILE_BYTES);
		goto close_slot_fd;
	}
	if (ledger->fd >= 0)
		os_fd_close(ledger->fd); /* still open, but of no use to this user */
	ledger->device = id.device;
	ledger->inode = id.inode;
	if (!has_slot_fd || os_fd_duplicate_high(fd, true, &ledger->fd) != 0)
		ledger->fd = -1;
close_slot_fd:
	if (has_slot_fd)
		os_fd_close(slot_fd);
	return error;
}

int ledger_secede_locked(struct ledger *ledger)
{
	const uint64_t limit_pages = atomic_load_explicit(&ledger->shared->limit_pages, memory_order_relaxed);
	char socket_name[sizeof ledger->shared->socket_name + 1];
	char name[sizeof ledger->shared->name];
	struct ledger_spec spec = {.name = name,
		/* What it inherited counts against it; its parent goes on being charged for it, too. */
		.limit_pages = limit_pages > ledger->orphan_holding ? limit_pages - ledger->orphan_holding : 0,
		.automatic = atomic_load_explicit(&ledger->shared->automatic, memory_order_relaxed) != 0};
	const bool keeps_first_mapping = ledger->keeps_first_mapping;
	int fd;

	ledger_socket_name(ledger, socket_name);
	if (socket_name[0] != '\0')
		return -EBADF; /* it has a budget with others, and must not leave it */
	if (limit_pages >= LEDGER_NO_LIMIT)
		spec.limit_pages = LEDGER_NO_LIMIT;
	memcpy(name, ledger->shared->name, sizeof name);
	name[sizeof name - 1] = '\0';
	int error = make_file(&spec, &fd);
	if (error != 0)
		return error;
	error = move_to(ledger, fd);
	if (error != 0)
		ledger->keeps_first_mapping = keeps_first_mapping;
	os_fd_close(fd);
	return error;
}
