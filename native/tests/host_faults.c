/*
 * See host_faults.h. One lock guards everything; it is never held during a call of the host beneath.
 */
#include "host_faults.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "host/host.h"
#include "open_files.h"
#include "t.h"

enum { RUNS = 16, KEPT = 256, WAIT_SECONDS = 30 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct akvm__host *under;

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
static int strike(const char *call, unsigned long request)
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

static bool failed(int error)
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
	return failed(strike("open", 0)) ? -1 : handed_out(under->open(path, flags));
}

/* As Linux: the descriptor is gone whatever close() says. */
static int host_close(int fd)
{
	int error = strike("close", 0);

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < RUNS; i++)
		if (faults.runs[i].run && faults.runs[i].fd == fd)
			faults.runs[i].run = NULL;
	pthread_mutex_unlock(&lock);
	atomic_fetch_sub(&descriptors, 1);
	T_EQUAL(under->close(fd), 0);
	return failed(error) ? -1 : 0;
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
	int error = strike("ioctl", request);

	if (error == EINTR && request == KVM_RUN) {
		/* KVM itself says so only after it has taken the registers over. */
		__atomic_store_n(&run_of(fd)->immediate_exit, 1, __ATOMIC_SEQ_CST);
		return under->ioctl(fd, request, argument);
	}
	if (failed(error))
		return -1;
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU)
		return handed_out(under->ioctl(fd, request, argument));
	return under->ioctl(fd, request, argument);
}

static void *host_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	void *memory = failed(strike("mmap", 0)) ? MAP_FAILED : under->mmap(address, length, protection, flags, fd, offset);

	if (memory == MAP_FAILED)
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
	if (failed(strike("munmap", 0))) {
		pthread_mutex_lock(&lock);
		T_CHECK(faults.kept_count < KEPT);
		faults.kept[faults.kept_count].address = address;
		faults.kept[faults.kept_count++].bytes = length;
		pthread_mutex_unlock(&lock);
		return -1;
	}
	atomic_fetch_sub(&mapped_bytes, (long)((length + 4095) & ~4095ul));
	return under->munmap(address, length);
}

static int host_madvise(void *address, size_t length, int advice)
{
	return failed(strike("madvise", (unsigned long)advice)) ? -1 : under->madvise(address, length, advice);
}

static int host_eventfd(unsigned int initial, int flags)
{
	return failed(strike("eventfd", 0)) ? -1 : handed_out(under->eventfd(initial, flags));
}

static ssize_t host_preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	return failed(strike("preadv2", 0)) ? -1 : under->preadv2(fd, parts, count, offset, flags);
}

static off_t host_lseek(int fd, off_t offset, int whence)
{
	return failed(strike("lseek", 0)) ? -1 : under->lseek(fd, offset, whence);
}

static ssize_t host_write(int fd, const void *buffer, size_t count)
{
	return failed(strike("write", 0)) ? -1 : under->write(fd, buffer, count);
}

static ssize_t host_pwrite(int fd, const void *buffer, size_t count, off_t offset)
{
	return failed(strike("pwrite", 0)) ? -1 : under->pwrite(fd, buffer, count, offset);
}

static int host_status_flags(int fd)
{
	return failed(strike("status_flags", 0)) ? -1 : under->status_flags(fd);
}

static ssize_t host_pread(int fd, void *buffer, size_t count, off_t offset)
{
	return failed(strike("pread", 0)) ? -1 : under->pread(fd, buffer, count, offset);
}

static int host_fstat(int fd, struct stat *status)
{
	return failed(strike("fstat", 0)) ? -1 : under->fstat(fd, status);
}

static int host_duplicate(int fd)
{
	return failed(strike("duplicate", 0)) ? -1 : handed_out(under->duplicate(fd));
}

static int host_find_entry(const char *folder, const char *prefix, char *name, size_t bytes)
{
	name[0] = 0;
	return failed(strike("find_entry", 0)) ? -1 : under->find_entry(folder, prefix, name, bytes);
}

static int host_sigaction(int signal, const struct sigaction *action, struct sigaction *old)
{
	int error = strike("sigaction", 0);

	if (failed(error))
		return -1;
	if (under->sigaction(signal, action, old))
		return -1;
	/* As if nobody had set the handler yet, so that each machine does. */
	if (!action)
		old->sa_handler = SIG_DFL;
	return 0;
}

static int host_sched_getaffinity(pid_t tid, size_t bytes, cpu_set_t *cpus)
{
	return failed(strike("sched_getaffinity", 0)) ? -1 : under->sched_getaffinity(tid, bytes, cpus);
}

static int host_sched_yield(void)
{
	return failed(strike("sched_yield", 0)) ? -1 : under->sched_yield();
}

static int host_nanosleep(const struct timespec *duration, struct timespec *left)
{
	return failed(strike("nanosleep", 0)) ? -1 : under->nanosleep(duration, left);
}

static int host_thread_create(pthread_t *thread, int signal, void *(*body)(void *), void *argument)
{
	int error = strike("thread_create", 0);

	if (!error)
		error = under->thread_create(thread, signal, body, argument);
	if (!error)
		atomic_fetch_add(&threads, 1);
	return error;
}

static int host_thread_join(pthread_t thread, uint64_t timeout_ns)
{
	int error = strike("thread_join", 0);

	if (!error)
		error = under->thread_join(thread, timeout_ns);
	if (!error)
		atomic_fetch_sub(&threads, 1);
	return error;
}

static int host_thread_kill(pid_t tid, int signal)
{
	bool drop;

	if (failed(strike("thread_kill", 0)))
		return -1;
	pthread_mutex_lock(&lock);
	drop = faults.kicks_to_drop != 0;
	faults.kicks_to_drop -= drop;
	pthread_mutex_unlock(&lock);
	return drop ? 0 : under->thread_kill(tid, signal);
}

static pid_t host_thread_id(void)
{
	T_EQUAL(strike("thread_id", 0), 0);
	return under->thread_id();
}

static int host_thread_name(const char *name)
{
	return failed(strike("thread_name", 0)) ? -1 : under->thread_name(name);
}

static void *host_calloc(size_t count, size_t size)
{
	return failed(strike("calloc", 0)) ? NULL : under->calloc(count, size);
}

static void *host_realloc(void *memory, size_t bytes)
{
	return failed(strike("realloc", 0)) ? NULL : under->realloc(memory, bytes);
}

static void *host_aligned_alloc(size_t alignment, size_t bytes)
{
	return failed(strike("aligned_alloc", 0)) ? NULL : under->aligned_alloc(alignment, bytes);
}

static const struct akvm__host failing = {
	.open = host_open,
	.close = host_close,
	.ioctl = host_ioctl,
	.mmap = host_mmap,
	.munmap = host_munmap,
	.madvise = host_madvise,
	.eventfd = host_eventfd,
	.write = host_write,
	.pread = host_pread,
	.preadv2 = host_preadv2,
	.pwrite = host_pwrite,
	.status_flags = host_status_flags,
	.lseek = host_lseek,
	.fstat = host_fstat,
	.duplicate = host_duplicate,
	.find_entry = host_find_entry,
	.sigaction = host_sigaction,
	.sched_getaffinity = host_sched_getaffinity,
	.sched_yield = host_sched_yield,
	.nanosleep = host_nanosleep,
	.thread_create = host_thread_create,
	.thread_join = host_thread_join,
	.thread_kill = host_thread_kill,
	.thread_id = host_thread_id,
	.thread_name = host_thread_name,
	.calloc = host_calloc,
	.realloc = host_realloc,
	.aligned_alloc = host_aligned_alloc,
};

/* ---------------------------------------------------------------- plans */

void faults_install(void)
{
	T_CHECK(akvm__host != &failing);
	under = akvm__host;
	descriptors_before = open_files_count();
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
	return faults_armed() && faults_injected() && !strcmp(faults.plan.target->call, "thread_kill");
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
		T_EQUAL(under->munmap(faults.kept[i].address, faults.kept[i].bytes), 0);
	}
	faults.kept_count = 0;
	T_EQUAL(atomic_load(&threads), 0);
	T_EQUAL(atomic_load(&descriptors), 0);
	T_EQUAL(atomic_load(&mapped_bytes), 0);
	T_EQUAL(open_files_count(), descriptors_before);
}
