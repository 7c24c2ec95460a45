/*
 * Fork at every instruction: one thread of a process works on its heap, single-stepped by ptrace; between two of its
 * instructions another thread forks. The child must find its own objects and those that the stopped thread has
 * published whole, and whatever it allocates until it has taken over the stopped thread's heap must overlap with none
 * of them.
 *
 * A fork at each of some hundred thousand instructions takes long: without HOLDFAST_SOAK in the environment they are
 * spread over all of them, by random strides (SEED=n).
 */
#include "os/os.h"
#include "support/child.h"
#include "support/heap_case.h"
#include "support/random.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum { STRIDE = HF_TSAN || HF_ASAN ? 20000 : 700, FORKS_LEAST = 10, LIMIT_PAGES = 1 << 16 };
enum { OBJECTS = 36, FORKER_OBJECTS = 24 };

/* Between the tracer and the traced process. */
struct stage {
	_Atomic int worker;			      /* thread id of who is stepped; 0: not ready */
	_Atomic int finished;			      /* the worker has done all */
	_Atomic int may_finish;			      /* and may end */
	_Atomic uint32_t asked, forked, done, failed; /* so many */
};
static struct stage *stage;

/* ---- in the traced process ---- */

struct entry {
	void *object;
	size_t bytes;
};
/* What the worker has, published after it is filled and withdrawn before it is freed. */
static struct {
	_Atomic(void *) object;
	_Atomic size_t bytes;
} published[OBJECTS];
static struct entry forker_objects[FORKER_OBJECTS];
/* The forker's, for the worker to free. */
static void *handed[FORKER_OBJECTS];

static size_t bytes_of(size_t index)
{
	static const size_t sizes[] = {16, 48, 64, 500, 1024, 5000, 20000, 32768, 100000};

	return sizes[index % HF_COUNT_OF(sizes)];
}

static void publish(size_t index)
{
	const size_t bytes = bytes_of(index);
	void *object = heap_alloc_fast(bytes);

	if (!object)
		object = heap_case_alloc(bytes);
	/* A child that sees only half of this sees NULL. */
	memset(object, 0, 16);
	pattern_write(object, 16, index);
	pattern_write((char *)object + bytes - 8, 8, index + 1);
	atomic_store(&published[index].bytes, bytes);
	atomic_store(&published[index].object, object);
}

static bool is_whole(void *object, size_t bytes, size_t index)
{
	/* In an object of 16 bytes the end lies over the beginning. */
	return pattern_holds(object, bytes == 16 ? 8 : 16, index) &&
	       pattern_holds((char *)object + bytes - 8, 8, index + 1);
}

static void withdraw(size_t index)
{
	void *const object = atomic_exchange(&published[index].object, NULL);

	CASE_CHECK(is_whole(object, bytes_of(index), index));
	heap_free(object);
}

/* Every kind of thing that changes a heap's lists. */
static void work(void)
{
	for (size_t i = 0; i < OBJECTS / 2; i++)
		publish(i);
	for (size_t i = 0; i < FORKER_OBJECTS / 2; i++)
		heap_free(handed[i]); /* remote, some of them the last of what announces itself */
	for (size_t i = 0; i < OBJECTS / 2; i += 2)
		withdraw(i);
	for (size_t i = OBJECTS / 2; i < OBJECTS; i++)
		publish(i);
	for (size_t i = 1; i < OBJECTS / 2; i += 2)
		withdraw(i);
	for (size_t i = FORKER_OBJECTS / 2; i < FORKER_OBJECTS; i++)
		heap_free(handed[i]);
	for (size_t i = OBJECTS / 2; i < OBJECTS; i++)
		withdraw(i);
	(void)heap_trim();
}

static void *worker_body(void *unused)
{
	heap_free(heap_case_alloc(16)); /* it has a heap */
	atomic_store(&stage->worker, (int)os_thread_id());
	while (!atomic_load(&stage->may_finish))
		sched_yield(); /* the tracer has us now */
	work();
	atomic_store(&stage->finished, 1);
	for (;;)
		sched_yield();
	return unused;
}

static void forker_prepare(void)
{
	for (size_t i = 0; i < FORKER_OBJECTS; i++) {
		handed[i] = heap_case_alloc(i % 2 ? 64 : 30000);
		forker_objects[i] = (struct entry){heap_case_alloc(bytes_of(i)), bytes_of(i)};
		pattern_write(forker_objects[i].object, forker_objects[i].bytes, i + 1000);
	}
}

static void check_all_whole(void)
{
	for (size_t i = 0; i < FORKER_OBJECTS; i++)
		CASE_CHECK(pattern_holds(forker_objects[i].object, forker_objects[i].bytes, i + 1000));
	for (size_t i = 0; i < OBJECTS; i++) {
		void *const object = atomic_load(&published[i].object);

		CASE_CHECK(!object || is_whole(object, atomic_load(&published[i].bytes), i));
	}
}

/* In the child: enough of each class to use up its own slabs and those of the stopped thread. */
static int child_body(void *unused)
{
	enum { NEW = 200 };
	static struct entry fresh[NEW];

	(void)unused;
	check_all_whole();
	heap_check();
	for (size_t i = 0; i < NEW; i++) {
		fresh[i] = (struct entry){heap_case_alloc(bytes_of(i)), bytes_of(i)};
		pattern_write(fresh[i].object, fresh[i].bytes, i + 5000);
	}
	CASE_CHECK(heap_case_stats().threads == 1);
	heap_check();
	check_all_whole();
	for (size_t i = 0; i < OBJECTS; i++)
		heap_free(atomic_exchange(&published[i].object, NULL));
	for (size_t i = 0; i < NEW; i++) {
		CASE_CHECK(pattern_holds(fresh[i].object, fresh[i].bytes, i + 5000));
		heap_free(fresh[i].object);
	}
	for (size_t i = 0; i < FORKER_OBJECTS; i++)
		heap_free(forker_objects[i].object);
	heap_check();
	(void)heap_trim();
	heap_check();
	pool_check();
	return 0;
}

static void after_fork(void)
{
	atomic_fetch_add(&stage->forked, 1);
	(void)os_futex_wake(&stage->forked, 1, true);
}

static int traced_body(void *unused)
{
	pthread_t worker;
	uint32_t done = 0;

	(void)unused;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	heap_case_start(LIMIT_PAGES);
	forker_prepare();
	CASE_CHECK(pthread_atfork(NULL, after_fork, NULL) == 0);
	CASE_CHECK(pthread_create(&worker, NULL, worker_body, NULL) == 0);
	for (;;) {
		while (atomic_load(&stage->asked) == done)
			(void)os_futex_wait(&stage->asked, done, UINT64_MAX, true);
		if (child_check(child_body, NULL) != 0)
			atomic_fetch_add(&stage->failed, 1);
		atomic_store(&stage->done, ++done);
		(void)os_futex_wake(&stage->done, 1, true);
	}
	return 0;
}

/* ---- the tracer ---- */

static pid_t start(void)
{
	memset(stage, 0, sizeof *stage);
	const pid_t pid = fork();

	if (pid == 0)
		_exit(traced_body(NULL));
	while (atomic_load(&stage->worker) == 0)
		sched_yield();
	const pid_t worker = atomic_load(&stage->worker);
	CASE_CHECK(ptrace(PTRACE_SEIZE, worker, NULL, NULL) == 0);
	CASE_CHECK(ptrace(PTRACE_INTERRUPT, worker, NULL, NULL) == 0);
	CASE_CHECK(waitpid(worker, NULL, __WALL) == worker);
	atomic_store(&stage->may_finish, 1);
	return pid;
}

static void end(pid_t pid)
{
	CASE_CHECK(kill(pid, SIGKILL) == 0);
	while (waitpid(-1, NULL, __WALL) > 0)
		;
}

/* False: the worker has done its work. */
static bool step(void)
{
	const pid_t worker = atomic_load(&stage->worker);
	int status = 0;

	CASE_CHECK(ptrace(PTRACE_SINGLESTEP, worker, NULL, NULL) == 0);
	CASE_CHECK(waitpid(worker, &status, __WALL) == worker);
	CASE_CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	return atomic_load(&stage->finished) == 0;
}

/* A fork waits for the library's locks: if the worker holds one where it stands, it goes on until it does not. */
static bool fork_here(void)
{
	enum { PATIENCE_NS = 5 * 1000 * 1000 };
	const uint32_t number = atomic_fetch_add(&stage->asked, 1) + 1;
	bool goes_on = true;

	(void)os_futex_wake(&stage->asked, 1, true);
	(void)os_futex_wait(&stage->forked, number - 1, PATIENCE_NS, true);
	while (goes_on && atomic_load(&stage->forked) != number)
		goes_on = step();
	while (atomic_load(&stage->done) != number)
		(void)os_futex_wait(&stage->done, number - 1, UINT64_MAX, true);
	return goes_on;
}

int main(void)
{
	struct random random = {random_seed("test_heap_fork_steps")};
	const uint64_t stride = getenv("HOLDFAST_SOAK") ? 1 : STRIDE;
	uint64_t steps = 0, forks = 0, left = 0;

	stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CASE_CHECK(stage != MAP_FAILED);
	const pid_t pid = start();
	for (; step(); steps++) {
		if (left-- > 0)
			continue;
		forks++;
		left = random_below(&random, 2 * stride - 1);
		if (!fork_here())
			break;
		CASE_CHECK(atomic_load(&stage->failed) == 0);
	}
	end(pid);
	printf("%llu instructions, %llu forks\n", (unsigned long long)steps, (unsigned long long)forks);
	CASE_CHECK(forks >= FORKS_LEAST);
	return 0;
}
