/*
 * See host_faults.h. One lock guards everything; it is never held during a call of the host beneath.
 */
#include "host_faults.h"
#include "host_strike.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "host/host.h"
#include "open_files.h"
#include "ptrace_rig.h"
#include "t.h"

enum { RUNS = 16, KEPT = 256, WAIT_SECONDS = 30 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
const struct akvm__host *faults_under;

static struct {
	struct faults_target targets[FAULTS_TARGETS];
	unsigned count, phase;
	struct {
		const struct faults_target *target;
		int error;
		unsigned skip, left, injected, shown;
	} plan;
	int also;
	unsigned kicks_to_drop;
	/* kvm_run pages, by descriptor: where to ask for an early end. */
	struct {
		int fd;
		struct kvm_run *run;
	} runs[RUNS];
	/* What could not be unmapped. */
	struct {
		void *address;
		size_t bytes;
	} kept[KEPT];
	unsigned kept_count;
} faults;
static _Atomic long mapped_bytes, descriptors, threads;
static long descriptors_before;

/* Precondition: lock held. */
static struct faults_target *find_target(const char *call, unsigned long request)
{
	struct akvm__caller caller = akvm__caller;
	struct faults_target *target = faults.targets;

	for (; target < faults.targets + faults.count; target++)
		if (target->function == caller.function && target->line == caller.line && !strcmp(target->call, call))
			return target;
	T_CHECK(faults.count < FAULTS_TARGETS);
	*target = (struct faults_target){
		.function = caller.function,
		.call = call,
		.line = caller.line,
		.site = plan_find(caller.function, call, request),
	};
	faults.count++;
	return target;
}

/* One call: the errno to fail with, or 0. */
int faults_strike(const char *call, unsigned long request)
{
	struct faults_target *target;
	int error = 0;

	pthread_mutex_lock(&lock);
	target = find_target(call, request);
	target->hits[faults.phase]++;
	if (target == faults.plan.target && faults.plan.left) {
		if (faults.plan.skip) {
			faults.plan.skip--;
		} else {
			faults.plan.left--;
			faults.plan.injected++;
			error = faults.plan.error;
		}
	}
	pthread_mutex_unlock(&lock);
	return error;
}

bool faults_failed(int error)
{
	if (error)
		errno = error;
	return error != 0;
}

static int handed_out(int fd)
{
	if (fd >= 0)
		atomic_fetch_add(&descriptors, 1);
	return fd;
}

void faults_give(int fd)
{
	handed_out(fd);
}

/* ---------------------------------------------------------------- the host table */

static int host_open(const char *path, int flags)
{
	return faults_failed(faults_strike("open", 0)) ? -1 : handed_out(faults_under->open(path, flags));
}

/* As Linux: the descriptor is gone whatever close() says. */
static int host_close(int fd)
{
	int error = faults_strike("close", 0);

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < RUNS; i++)
		if (faults.runs[i].run && faults.runs[i].fd == fd)
			faults.runs[i].run = NULL;
	pthread_mutex_unlock(&lock);
	atomic_fetch_sub(&descriptors, 1);
	T_EQUAL(faults_under->close(fd), 0);
	return faults_failed(error) ? -1 : 0;
}

static struct kvm_run *run_of(int fd)
{
	struct kvm_run *run = NULL;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < RUNS; i++)
		if (faults.runs[i].run && faults.runs[i].fd == fd)
			run = faults.runs[i].run;
	pthread_mutex_unlock(&lock);
	T_CHECK(run != NULL);
	return run;
}

static int host_ioctl(int fd, unsigned long request, void *argument)
{
	int error = faults_strike("ioctl", request);

	if (error == EINTR && request == KVM_RUN) {
		/* KVM itself says so only after it has taken the registers over. */
		__atomic_store_n(&run_of(fd)->immediate_exit, 1, __ATOMIC_SEQ_CST);
		return faults_under->ioctl(fd, request, argument);
	}
	if (faults_failed(error))
		return -1;
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU)
		return handed_out(faults_under->ioctl(fd, request, argument));
	return faults_under->ioctl(fd, request, argument);
}

static void *host_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	void *memory = faults_failed(faults_strike("mmap", 0))
			       ? MAP_FAILED
			       : faults_under->mmap(address, length, protection, flags, fd, offset);

	/* In place of something is no more than there was. */
	if (memory == MAP_FAILED || flags & MAP_FIXED)
		return memory;
	atomic_fetch_add(&mapped_bytes, (long)((length + 4095) & ~4095ul));
	if (fd >= 0 && protection & PROT_WRITE) {
		unsigned i = 0;

		pthread_mutex_lock(&lock);
		while (i < RUNS && faults.runs[i].run)
			i++;
		T_CHECK(i < RUNS);
		faults.runs[i].fd = fd;
		faults.runs[i].run = memory;
		pthread_mutex_unlock(&lock);
	}
	return memory;
}

static int host_munmap(void *address, size_t length)
{
	if (faults_failed(faults_strike("munmap", 0))) {
		pthread_mutex_lock(&lock);
		T_CHECK(faults.kept_count < KEPT);
		faults.kept[faults.kept_count].address = address;
		faults.kept[faults.kept_count++].bytes = length;
		pthread_mutex_unlock(&lock);
		return -1;
	}
	atomic_fetch_sub(&mapped_bytes, (long)((length + 4095) & ~4095ul));
	return faults_under->munmap(address, length);
}

static int host_eventfd(unsigned int initial, int flags)
{
	return faults_failed(faults_strike("eventfd", 0)) ? -1 : handed_out(faults_under->eventfd(initial, flags));
}

static int host_memfd(const char *name, uint64_t bytes)
{
	return faults_failed(faults_strike("memfd", 0)) ? -1 : handed_out(faults_under->memfd(name, bytes));
}

static int host_duplicate(int fd)
{
	return faults_failed(faults_strike("duplicate", 0)) ? -1 : handed_out(faults_under->duplicate(fd));
}

static int host_sigaction(int signal, const struct sigaction *action, struct sigaction *old)
{
	int error = faults_strike("sigaction", 0);

	if (faults_failed(error))
		return -1;
	if (faults_under->sigaction(signal, action, old))
		return -1;
	/* As if nobody had set the handler yet, so that each machine does. */
	if (!action) {
		old->sa_handler = SIG_DFL;
		old->sa_flags = 0;
	}
	return 0;
}

static int host_thread_create(pthread_t *thread, int signal, void *(*body)(void *), void *argument)
{
	int error = faults_strike("thread_create", 0);

	if (!error)
		error = faults_under->thread_create(thread, signal, body, argument);
	if (!error)
		atomic_fetch_add(&threads, 1);
	return error;
}

static int host_thread_join(pthread_t thread, uint64_t timeout_ns)
{
	int error = faults_strike("thread_join", 0);

	if (!error)
		error = faults_under->thread_join(thread, timeout_ns);
	if (!error)
		atomic_fetch_sub(&threads, 1);
	return error;
}

bool faults_drop_kick(void)
{
	bool drop;

	pthread_mutex_lock(&lock);
	drop = faults.kicks_to_drop != 0;
	faults.kicks_to_drop -= drop;
	pthread_mutex_unlock(&lock);
	return drop;
}

static int host_thread_kill(pid_t tid, int signal)
{
	if (faults_failed(faults_strike("thread_kill", 0)))
		return -1;
	return faults_drop_kick() ? 0 : faults_under->thread_kill(tid, signal);
}

/* Those that hand something out, or take it back; the others are in host_calls.c. */
static struct akvm__host failing = {
	.open = host_open,
	.close = host_close,
	.ioctl = host_ioctl,
	.mmap = host_mmap,
	.munmap = host_munmap,
	.eventfd = host_eventfd,
	.memfd = host_memfd,
	.duplicate = host_duplicate,
	.sigaction = host_sigaction,
	.thread_create = host_thread_create,
	.thread_join = host_thread_join,
	.thread_kill = host_thread_kill,
};

/* ---------------------------------------------------------------- plans */

void faults_install(void)
{
	T_CHECK(akvm__host != &failing);
	faults_under = akvm__host;
	descriptors_before = open_files_count();
	faults_add_calls(&failing);
	akvm__host_replace(&failing);
}

void faults_count(void)
{
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < faults.count; i++)
		memset(faults.targets[i].hits, 0, sizeof(faults.targets[i].hits));
	pthread_mutex_unlock(&lock);
}

void faults_phase(unsigned phase)
{
	T_CHECK(phase < FAULTS_PHASES);
	pthread_mutex_lock(&lock);
	faults.phase = phase;
	pthread_mutex_unlock(&lock);
}

unsigned faults_targets(void)
{
	return faults.count;
}

const struct faults_target *faults_target(unsigned index)
{
	return &faults.targets[index];
}

void faults_arm(unsigned target, int error, unsigned skip, unsigned count)
{
	pthread_mutex_lock(&lock);
	memset(&faults.plan, 0, sizeof(faults.plan));
	faults.plan.target = &faults.targets[target];
	faults.plan.error = error;
	faults.plan.skip = skip;
	faults.plan.left = count;
	pthread_mutex_unlock(&lock);
}

void faults_disarm(void)
{
	pthread_mutex_lock(&lock);
	faults.plan.left = 0;
	pthread_mutex_unlock(&lock);
}

bool faults_armed(void)
{
	bool armed;

	pthread_mutex_lock(&lock);
	armed = faults.plan.left != 0;
	pthread_mutex_unlock(&lock);
	return armed;
}

unsigned faults_injected(void)
{
	unsigned injected;

	pthread_mutex_lock(&lock);
	injected = faults.plan.injected;
	pthread_mutex_unlock(&lock);
	return injected;
}

void faults_also(int error)
{
	faults.also = error;
}

unsigned faults_shown(void)
{
	return faults.plan.shown;
}

void faults_show(int error, const char *operation)
{
	const struct plan_site *row;
	int planned;

	fflush(stdout);
	if (!faults_injected()) {
		fprintf(stderr, "errno %d in %s, though nothing was injected\n", error, operation ? operation : "an exit");
		t_fail(__FILE__, __LINE__, "no failure without a cause");
	}
	row = plan_row(faults.plan.target->site, faults.plan.error);
	planned = row->shown ? row->shown : faults.plan.error;
	if (error == faults.also && (error != planned || faults.plan.shown == faults_injected()))
		return;
	T_EQUAL(error, planned);
	if (operation)
		T_CHECK(row->operation ? !strcmp(operation, row->operation) : strlen(operation) > 0);
	faults.plan.shown++;
	T_CHECK(faults.plan.shown <= faults_injected());
}

bool faults_stop_kicks(void)
{
	const struct faults_target *target = faults.plan.target;

	return faults_armed() && faults_injected() &&
	       (!strcmp(target->call, "thread_kill") || !strcmp(target->call, "process_kill"));
}

void faults_drop_kicks(unsigned count)
{
	pthread_mutex_lock(&lock);
	faults.kicks_to_drop = count;
	pthread_mutex_unlock(&lock);
}

void faults_check_clean(void)
{
	for (unsigned i = 0; i < faults.kept_count; i++) {
		atomic_fetch_sub(&mapped_bytes, (long)((faults.kept[i].bytes + 4095) & ~4095ul));
		T_EQUAL(faults_under->munmap(faults.kept[i].address, faults.kept[i].bytes), 0);
	}
	faults.kept_count = 0;
	T_EQUAL(atomic_load(&threads), 0);
	T_EQUAL(atomic_load(&descriptors), 0);
	T_EQUAL(atomic_load(&mapped_bytes), 0);
	T_EQUAL(open_files_count(), descriptors_before);
	T_EQUAL(ptrace_children(NULL, 0), 0);
}
