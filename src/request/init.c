/*
 * Start-up: once, at the first request of any thread or by hf_init(), and possibly before any constructor has run.
 *
 * It must not ask for memory from malloc, which in the drop-in is this library. A request from inside it is refused.
 * Protocol: init_stage goes from NOT_YET to READY once, under init_lock; its release pairs with init_is_ready().
 */
#include <holdfast/init.h>

#include "base/assert.h"
#include "heap/heap.h"
#include "ledger/environment.h"
#include "ledger/ledger.h"
#include "ledger/limit.h"
#include "os/os.h"
#include "pool/pool.h"
#include "probe/probe.h"
#include "request/request.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

_Atomic uint32_t init_stage;
struct lock init_lock = LOCK_INIT(LOCK_RANK_INIT);

/* As `env` and `timeout` have it: the launcher itself failed. */
enum { EXIT_HOLDFAST_FAILED = 125 };

enum { KNOBS_TEXT_BYTES = 1024, LEDGERS_TEXT_BYTES = 1024 };

/* The thread that is inside start(); relaxed, since only that thread can find itself here. */
static _Atomic pid_t starting_thread;

static bool text_is_set(const char *text)
{
	return text && *text;
}

/* The program's own wishes first; then the environment, so that the user has the last word. */
static int gather_knobs(const struct hf_config *config, bool use_environment, struct knobs *knobs)
{
	char text[KNOBS_TEXT_BYTES];
	int error = 0;

	if (config) {
		knobs->has_budget = true;
		knobs->budget_bytes = config->budget_bytes;
		if (text_is_set(config->name)) {
			if (strlen(config->name) >= sizeof knobs->name) {
				base_warn("hf_init: the ledger's name \"%s\" is longer than %d characters",
					config->name, KNOBS_NAME_BYTES - 1);
				return -EINVAL;
			}
			strcpy(knobs->name, config->name);
		}
		if (text_is_set(config->knobs))
			error = knobs_parse(config->knobs, knobs);
	}
	if (error || !use_environment)
		return error;
	error = environment_get("HOLDFAST", text, sizeof text);
	if (error == -ENOBUFS) {
		base_warn("HOLDFAST is longer than %d bytes", KNOBS_TEXT_BYTES - 1);
		return -EINVAL;
	}
	return error ? 0 : knobs_parse(text, knobs);
}

/* A ledger of this process's own. */
static int create_ledger(const struct knobs *knobs, struct ledger **ledger_out)
{
	struct ledger_spec spec = {.name = knobs->name[0] ? knobs->name : NULL, .limit_pages = LEDGER_NO_LIMIT};
	int error;

	spec.automatic = knobs->budget_bytes == 0;
	if (!spec.automatic && knobs->budget_bytes != SIZE_MAX)
		spec.limit_pages = knobs->budget_bytes / OS_PAGE_BYTES;
	error = ledger_create(&spec, ledger_out);
	if (error == 0 && spec.automatic)
		limit_refresh(*ledger_out);
	return error;
}

/* What could not be joined, and why. The process goes on by itself only where that is harmless. */
static int join_failed(int error, const char *why, struct ledger **ledger_out)
{
	const struct ledger_spec unlimited = {.limit_pages = LEDGER_NO_LIMIT};

	if (error == -EPROTO || error == -EPROTONOSUPPORT || error == -EINVAL || error == -ELOOP) {
		base_warn("the ledger that " LEDGER_ENVIRONMENT " names cannot be used: %s",
			why ? why : "the variable's value is not one that holdfast wrote");
		return -EPROTO;
	}
	base_warn("process %d is not covered by the ledger that " LEDGER_ENVIRONMENT " names: %s", (int)os_process_id(),
		why ? why : "it cannot be reached");
	return ledger_create(&unlimited, ledger_out);
}

/* The ledgers that the environment names. 0, -ENOENT: none. */
static int join_environment(struct ledger **ledger_out, const char **why_out)
{
	char text[LEDGERS_TEXT_BYTES];
	const int error = environment_get(LEDGER_ENVIRONMENT, text, sizeof text);

	if (error == -ENOENT || (error == 0 && text[0] == '\0'))
		return -ENOENT;
	return error == -ENOBUFS ? -EINVAL : ledger_join_environment(text, ledger_out, why_out);
}

/* The environment's ledger, an own one, or an own one inside the environment's: an inner budget can only be smaller. */
static int find_ledger(const struct knobs *knobs, bool use_environment, struct ledger **ledger_out)
{
	const char *why = NULL;
	struct ledger *outer = NULL;
	int error = use_environment ? join_environment(&outer, &why) : -ENOENT;

	if (error == -ENOENT)
		return create_ledger(knobs, ledger_out);
	if (error)
		return join_failed(error, why, ledger_out);
	if (!knobs->has_budget || knobs->budget_bytes == 0) {
		*ledger_out = outer;
		return 0;
	}
	error = create_ledger(knobs, ledger_out);
	if (error == 0) {
		error = ledger_nest(*ledger_out, outer);
		if (error == 0)
			return 0;
		ledger_leave(*ledger_out);
	}
	ledger_leave(outer);
	return error;
}

/* The ledger and the pool: what they commit is not a request, and is not made to fail. */
static int start_pool(const struct knobs *knobs, bool use_environment)
{
	uintptr_t heap_low, heap_high;
	struct ledger *ledger;

	probe_benign_enter();
	int error = find_ledger(knobs, use_environment, &ledger);
	if (error)
		goto leave;
	error = pool_init(ledger);
	if (error) {
		ledger_leave(ledger);
		goto leave;
	}
	pool_extent(&heap_low, &heap_high);
	ledger_publish_heap(ledger, heap_low, heap_high);
leave:
	probe_benign_leave();
	return error;
}

/* Under init_lock. 0 or -errno; a message has been written for all but -ENOMEM and -EMFILE. A failed one leaves nothing
 * behind. */
static int start(const struct hf_config *config)
{
	const bool use_environment = !os_is_secure_execution() && !(config && config->ignore_environment);
	struct knobs knobs = {.has_budget = false};
	int error = gather_knobs(config, use_environment, &knobs);

	if (error == 0)
		error = start_pool(&knobs, use_environment);
	if (error) {
		struct probe_settings off;

		probe_settings_default(&off);
		probe_configure(&off);
		return error;
	}
	fault_watch_locked();
	/* Release: pairs with init_is_ready(). */
	atomic_store_explicit(&init_stage, INIT_READY, memory_order_release);
	return 0;
}

static int start_once(const struct hf_config *config, bool *done_before_out)
{
	int error = 0;

	lock_take(&init_lock);
	*done_before_out = init_is_ready();
	if (!*done_before_out) {
		atomic_store_explicit(&starting_thread, os_thread_id(), memory_order_relaxed);
		error = start(config);
		atomic_store_explicit(&starting_thread, 0, memory_order_relaxed);
	}
	lock_put(&init_lock);
	if (error == 0)
		fork_register(); /* may ask for memory: only now */
	return error;
}

static HF_COLD bool start_lazily(void)
{
	bool done_before;
	int error;

	if (atomic_load_explicit(&starting_thread, memory_order_relaxed) == os_thread_id())
		return false;
	error = start_once(NULL, &done_before);
	if (error == 0)
		return true;
	if (error != -EINVAL && error != -EPROTO)
		base_warn("cannot start: %s", error == -ENOMEM ? "the budget, or the system's memory, is too small"
							       : "no descriptor for the ledger");
	_exit(EXIT_HOLDFAST_FAILED);
}

bool init_ensure(void)
{
	return init_is_ready() || start_lazily();
}

HF_EXPORT int hf_init(const struct hf_config *config)
{
	struct hf_config whole = {0};
	bool done_before;
	int error;

	if (config) {
		if (config->struct_bytes < sizeof config->struct_bytes)
			return -EINVAL;
		/* An older program's struct is shorter: what it does not know stays 0. */
		memcpy(&whole, config, config->struct_bytes < sizeof whole ? config->struct_bytes : sizeof whole);
	}
	error = start_once(config ? &whole : NULL, &done_before);
	return done_before ? -EALREADY : error;
}

HF_EXPORT int hf_prepare_mlockall(void)
{
	if (!init_ensure())
		return -ENOMEM;
	fork_raw_clone_check();
	pool_set_strict();
	return 0;
}

/*
 * As early as a constructor can be, in linked programs: ours must be the first fork handlers. In the drop-in the first
 * request has come before any constructor.
 */
__attribute__((constructor(101))) static void register_early(void)
{
	fork_register();
}
