/*
 * <holdfast/ledger.h>: budgets seen from outside the heap. Thin: the work is done in ledger/.
 *
 * A struct's first member says how long the caller's version of it is; what is beyond that is not written.
 */
#include <holdfast/ledger.h>

#include "ledger/environment.h"
#include "ledger/find.h"
#include "ledger/keeper.h"
#include "ledger/ledger.h"
#include "os/os.h"
#include "request/request.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { ENVIRONMENT_BYTES = 512 };

/* A page of its own: this must work before there is a heap. */
struct hf_ledger {
	struct ledger *ledger;
	struct keeper *keeper;		     /* NULL: somebody else's, a view */
	char environment[ENVIRONMENT_BYTES]; /* made once, since each making leaves descriptors for the children */
};
static_assert(sizeof(struct hf_ledger) <= OS_PAGE_BYTES, "it is given a page");

static int handle_create(hf_ledger **handle_out)
{
	void *memory;
	const int error = os_memory_map(OS_PAGE_BYTES, &memory);

	if (error == 0)
		*handle_out = memory;
	return error;
}

static bool name_is_good(const char *name)
{
	const size_t length = strlen(name);

	return length > 0 && length <= 31 &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length;
}

/* The environment's ledgers, around a new one. 0 also if there are none. */
static int nest_in_environment(struct ledger *inner)
{
	char text[ENVIRONMENT_BYTES];
	struct ledger *outer;
	const char *why;
	int error = environment_get(LEDGER_ENVIRONMENT, text, sizeof text);

	if (error == -ENOENT || (error == 0 && *text == '\0'))
		return 0;
	if (error == 0)
		error = ledger_join_environment(text, &outer, &why);
	if (error == 0) {
		error = ledger_nest(inner, outer);
		if (error)
			ledger_leave(outer);
	}
	return error;
}

HF_EXPORT int hf_ledger_create(const struct hf_ledger_spec *spec, hf_ledger **out)
{
	struct hf_ledger_spec whole = {0};
	struct ledger_spec inside = {.limit_pages = LEDGER_NO_LIMIT};
	unsigned ignored_ms;
	hf_ledger *handle;
	int error;

	if (spec->struct_bytes < sizeof spec->struct_bytes)
		return -EINVAL;
	memcpy(&whole, spec, spec->struct_bytes < sizeof whole ? spec->struct_bytes : sizeof whole);
	if (whole.name && !name_is_good(whole.name))
		return -EINVAL;
	error = handle_create(&handle);
	if (error)
		return error;
	inside.name = whole.name;
	inside.automatic = whole.budget_bytes == 0;
	if (!inside.automatic && whole.budget_bytes != SIZE_MAX)
		inside.limit_pages = whole.budget_bytes / OS_PAGE_BYTES;
	error = ledger_create(&inside, &handle->ledger);
	if (error)
		goto unmap;
	if (whole.inner)
		error = nest_in_environment(handle->ledger);
	if (error == 0)
		error = keeper_create(handle->ledger, whole.name, &handle->keeper);
	if (error)
		goto leave;
	if (!inside.automatic)
		ledger_publish_outside(handle->ledger, 0, 0, whole.budget_bytes == SIZE_MAX ? "none" : "as given");
	keeper_serve(handle->keeper, &ignored_ms); /* so that an automatic limit is there from the first moment */
	*out = handle;
	return 0;
leave:
	ledger_leave(handle->ledger);
unmap:
	os_unmap(handle, OS_PAGE_BYTES);
	return error;
}

HF_EXPORT int hf_ledger_environment(hf_ledger *ledger, char *text, size_t bytes)
{
	if (ledger->environment[0] == '\0') {
		const int error =
			ledger_environment_format(ledger->ledger, ledger->environment, sizeof ledger->environment);

		if (error) {
			ledger->environment[0] = '\0';
			return error;
		}
	}
	if (strlen(ledger->environment) >= bytes)
		return -ENOBUFS;
	strcpy(text, ledger->environment);
	return 0;
}

HF_EXPORT int hf_ledger_serve(hf_ledger *ledger, unsigned *next_ms_out)
{
	if (!ledger->keeper)
		return -EINVAL;
	keeper_serve(ledger->keeper, next_ms_out);
	return 0;
}

HF_EXPORT int hf_ledger_poll_fd(hf_ledger *ledger)
{
	return ledger->keeper ? keeper_poll_fd(ledger->keeper) : -EINVAL;
}

static int open_environment(bool writable, struct ledger **ledger_out)
{
	char text[ENVIRONMENT_BYTES];
	const int error = environment_get(LEDGER_ENVIRONMENT, text, sizeof text);

	if (error || *text == '\0')
		return error == -ENOBUFS ? -EINVAL : -ENOENT;
	return ledger_find_environment(text, writable, ledger_out);
}

HF_EXPORT int hf_ledger_open_pid(pid_t pid, bool writable, hf_ledger **out)
{
	hf_ledger *handle;
	int error = pid < 0 ? -EINVAL : handle_create(&handle);

	if (error)
		return error;
	error = pid == 0 ? open_environment(writable, &handle->ledger)
			 : ledger_find_process(pid, writable, &handle->ledger);
	if (error)
		os_unmap(handle, OS_PAGE_BYTES);
	else
		*out = handle;
	return error;
}

HF_EXPORT int hf_ledger_open_name(const char *name, bool writable, hf_ledger **out)
{
	hf_ledger *handle;
	int error = name_is_good(name) ? handle_create(&handle) : -EINVAL;

	if (error)
		return error;
	error = ledger_find_name(name, writable, &handle->ledger);
	if (error)
		os_unmap(handle, OS_PAGE_BYTES);
	else
		*out = handle;
	return error;
}

HF_EXPORT void hf_ledger_close(hf_ledger *ledger)
{
	if (!ledger)
		return;
	if (ledger->keeper)
		keeper_destroy(ledger->keeper);
	ledger_environment_close(ledger->ledger, ledger->environment);
	ledger_leave(ledger->ledger);
	os_unmap(ledger, OS_PAGE_BYTES);
}

static size_t bytes_of(uint64_t pages)
{
	return pages >= LEDGER_NO_LIMIT ? SIZE_MAX : (size_t)pages * OS_PAGE_BYTES;
}

/* The keeper has a slot, but holds nothing there: it is no process under the budget. */
static bool is_only_keeper(const struct ledger_member *member)
{
	return member->is_keeper && member->committed_pages == 0 && member->heap_high == 0;
}

static bool look_process(const struct ledger *ledger, uint32_t slot, struct ledger_member *member_out)
{
	if (!ledger_look_member(ledger, slot, member_out))
		return false;
	if (member_out->kind == LEDGER_FAMILY)
		return member_out->committed_pages != 0;
	return member_out->kind == LEDGER_LIVE && !is_only_keeper(member_out);
}

HF_EXPORT int hf_ledger_info(const hf_ledger *ledger, struct hf_ledger_info *info)
{
	const size_t bytes = info->struct_bytes;
	struct ledger_member member;
	struct ledger_view view;
	struct hf_ledger_info whole = {.struct_bytes = bytes};

	if (bytes < sizeof bytes)
		return -EINVAL;
	ledger_look(ledger->ledger, &view);
	memcpy(whole.name, view.name, sizeof whole.name);
	memcpy(whole.limit_source, view.limit_source, sizeof whole.limit_source - 1);
	whole.limit_bytes = bytes_of(view.limit_pages);
	whole.committed_bytes = bytes_of(view.committed_pages);
	whole.peak_bytes = bytes_of(view.peak_pages);
	whole.own_bytes = bytes_of(view.own_pages);
	whole.outside_bytes = bytes_of(view.outside_pages);
	whole.margin_bytes = bytes_of(view.margin_pages);
	whole.refusals = view.refusals;
	whole.deaths_collected = view.deaths_collected;
	whole.at_limit_ms = view.at_limit_ms;
	whole.keeper_pid = view.keeper_alive ? view.keeper_pid : 0;
	whole.automatic = view.automatic;
	whole.identity = view.identity;
	for (uint32_t i = 0; i < view.slots_high; i++) {
		if (look_process(ledger->ledger, i, &member) && member.kind == LEDGER_LIVE)
			whole.processes++;
	}
	memcpy(info, &whole, bytes < sizeof whole ? bytes : sizeof whole);
	return 0;
}

static void fill_process(const struct ledger_member *member, struct hf_ledger_process *process)
{
	process->pid = member->pid;
	process->uid = member->uid;
	memcpy(process->command, member->command, sizeof process->command - 1);
	process->committed_bytes = bytes_of(member->committed_pages);
	process->inherited_bytes = bytes_of(member->inherited_pages);
	process->resident_bytes = bytes_of(member->resident_pages);
	process->cow_bytes = bytes_of(member->cow_pages);
	process->refusals = member->refusals;
	process->last_refused_bytes = (size_t)member->last_refused_bytes;
	process->alive = member->kind == LEDGER_LIVE;
	process->shares_a_slot = member->unattached_children != 0;
	process->is_family_share = member->kind == LEDGER_FAMILY;
}

static bool find_process(const hf_ledger *ledger, uint32_t index, struct ledger_member *member_out)
{
	struct ledger_view view;

	ledger_look(ledger->ledger, &view);
	for (uint32_t i = 0; i < view.slots_high; i++) {
		if (look_process(ledger->ledger, i, member_out) && index-- == 0)
			return true;
	}
	return ledger->keeper && keeper_ended_at(ledger->keeper, index, member_out);
}

HF_EXPORT int hf_ledger_process_at(const hf_ledger *ledger, uint32_t index, struct hf_ledger_process *process)
{
	const size_t bytes = process->struct_bytes;
	struct hf_ledger_process whole = {.struct_bytes = bytes};
	struct ledger_member member;

	if (bytes < sizeof bytes)
		return -EINVAL;
	if (!find_process(ledger, index, &member))
		return -ENOENT;
	fill_process(&member, &whole);
	memcpy(process, &whole, bytes < sizeof whole ? bytes : sizeof whole);
	return 0;
}
