/*
 * The fake's host table: descriptors, mappings, threads and signals, and the plans of what goes wrong when.
 *
 * KVM's own ioctls are in fake_ioctl.c. One lock guards everything here; it is never held while a guest runs.
 */
#include "fake_kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fake_ioctl.h"
#include "host/host.h"
#include "t.h"

enum { THREADS = 64, EVENTFDS = 256, SPIN_SECONDS = 30, WAIT_SECONDS = 30 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct fake_options options;
static struct akvm__host kernel;

/* What was handed out and not yet taken back. */
static _Atomic long mapped_bytes, descriptors, threads_running;
static _Atomic bool eventfds[EVENTFDS];
static struct thread {
	void *(*body)(void *);
	void *argument;
	pid_t tid;
	bool used;
} threads[THREADS];

static struct {
	fake_script script;
	void *opaque;
	uint32_t cut_offset;
	unsigned cut_skip, cut_count, cut_one_in, cut_vector, cut_deliveries, cuts;
	unsigned long long random;
	unsigned fail_number, calls;
	int fail_error;
	unsigned long ioctl_request;
	unsigned ioctl_skip, ioctl_count;
	int ioctl_error;
	unsigned long before_request;
	void (*before)(void *opaque);
	void *before_opaque;
	unsigned write_count;
	int write_error;
} plan;
static _Atomic uint64_t flushes;

/* ---------------------------------------------------------------- plans */

const struct fake_options *fake_kind(void)
{
	return &options;
}

void fake_count_flush(void)
{
	atomic_fetch_add(&flushes, 1);
}

uint64_t fake_flushes(void)
{
	return atomic_load(&flushes);
}

static bool spend(unsigned *skip, unsigned *count)
{
	if (*count == 0)
		return false;
	if (*skip) {
		--*skip;
		return false;
	}
	--*count;
	return true;
}

/* One host call: an error to fail with, or 0. */
static int call(void)
{
	int error = 0;

	pthread_mutex_lock(&lock);
	if (++plan.calls == plan.fail_number)
		error = plan.fail_error;
	pthread_mutex_unlock(&lock);
	return error;
}

static bool failed(int error)
{
	errno = error ? error : errno;
	return error != 0;
}

int fake_planned_ioctl_error(unsigned long request)
{
	void (*before)(void *opaque) = NULL;
	void *opaque = NULL;
	int error = call();

	pthread_mutex_lock(&lock);
	if (!error && request == plan.ioctl_request && spend(&plan.ioctl_skip, &plan.ioctl_count))
		error = plan.ioctl_error;
	if (plan.before && request == plan.before_request) {
		before = plan.before;
		opaque = plan.before_opaque;
		plan.before = NULL;
	}
	pthread_mutex_unlock(&lock);
	if (before)
		before(opaque);
	return error;
}

void fake_before_ioctl(unsigned long request, void (*callback)(void *opaque), void *opaque)
{
	pthread_mutex_lock(&lock);
	plan.before_request = request;
	plan.before = callback;
	plan.before_opaque = opaque;
	pthread_mutex_unlock(&lock);
}

void fake_fail_call(unsigned number, int error)
{
	pthread_mutex_lock(&lock);
	plan.calls = 0;
	plan.fail_number = number;
	plan.fail_error = error;
	pthread_mutex_unlock(&lock);
}

unsigned fake_calls(void)
{
	unsigned calls;

	pthread_mutex_lock(&lock);
	calls = plan.calls;
	pthread_mutex_unlock(&lock);
	return calls;
}

void fake_fail_ioctl(unsigned long request, unsigned skip, unsigned count, int error)
{
	pthread_mutex_lock(&lock);
	plan.ioctl_request = request;
	plan.ioctl_skip = skip;
	plan.ioctl_count = count;
	plan.ioctl_error = error;
	pthread_mutex_unlock(&lock);
}

void fake_fail_write(unsigned count, int error)
{
	pthread_mutex_lock(&lock);
	plan.write_count = count;
	plan.write_error = error;
	pthread_mutex_unlock(&lock);
}

void fake_cut(uint32_t offset, unsigned skip, unsigned count)
{
	pthread_mutex_lock(&lock);
	plan.cut_offset = offset;
	plan.cut_skip = skip;
	plan.cut_count = count;
	pthread_mutex_unlock(&lock);
}

void fake_cut_randomly(unsigned one_in)
{
	pthread_mutex_lock(&lock);
	plan.cut_one_in = one_in;
	pthread_mutex_unlock(&lock);
}

void fake_cut_delivery(unsigned vector, unsigned count)
{
	pthread_mutex_lock(&lock);
	plan.cut_vector = vector;
	plan.cut_deliveries = count;
	pthread_mutex_unlock(&lock);
}

unsigned fake_cuts(void)
{
	unsigned cuts;

	pthread_mutex_lock(&lock);
	cuts = plan.cuts;
	pthread_mutex_unlock(&lock);
	return cuts;
}

bool fake_cut_here(struct fake_cpu *cpu)
{
	bool cut = false;

	pthread_mutex_lock(&lock);
	if (plan.cut_count && cpu->regs.rip == AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + plan.cut_offset)
		cut = spend(&plan.cut_skip, &plan.cut_count);
	if (!cut && plan.cut_one_in && fake_cpu_ring(cpu) == 0)
		cut = t_random(&plan.random) % plan.cut_one_in == 0;
	plan.cuts += cut;
	pthread_mutex_unlock(&lock);
	return cut;
}

bool fake_cut_event(struct fake_cpu *cpu, unsigned vector)
{
	bool cut;

	(void)cpu;
	pthread_mutex_lock(&lock);
	cut = plan.cut_deliveries && plan.cut_vector == vector;
	plan.cut_deliveries -= cut;
	plan.cuts += cut;
	pthread_mutex_unlock(&lock);
	return cut;
}

void fake_set_script(fake_script script, void *opaque)
{
	pthread_mutex_lock(&lock);
	plan.script = script;
	plan.opaque = opaque;
	pthread_mutex_unlock(&lock);
}

bool fake_scripted(const struct fake_cpu *cpu)
{
	return fake_cpu_ring(cpu) == 3 && cpu->regs.rip >= FAKE_SCRIPT && cpu->regs.rip < FAKE_SCRIPT_END;
}

struct fake_step fake_ask_script(struct fake_cpu *cpu)
{
	fake_script script;
	void *opaque;

	pthread_mutex_lock(&lock);
	script = plan.script;
	opaque = plan.opaque;
	pthread_mutex_unlock(&lock);
	T_CHECK(script != NULL);
	return script(cpu, opaque);
}

/* ---------------------------------------------------------------- signals */

static struct timespec seconds_from_now(unsigned seconds)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += seconds;
	return deadline;
}

/* As in the kernel: from here on a signal ends KVM_RUN, before it is the program's to handle. */
void fake_enter(struct fake_cpu *cpu)
{
	pthread_mutex_lock(&lock);
	T_CHECK(!cpu->inside);
	cpu->inside = true;
	cpu->tid = (pid_t)syscall(SYS_gettid);
	atomic_store(&cpu->kicked, false);
	pthread_mutex_unlock(&lock);
}

void fake_leave(struct fake_cpu *cpu)
{
	pthread_mutex_lock(&lock);
	cpu->inside = false;
	pthread_mutex_unlock(&lock);
}

bool fake_kick_pending(struct fake_cpu *cpu)
{
	return atomic_load(&cpu->kicked);
}

int fake_spin(struct fake_cpu *cpu)
{
	struct timespec deadline = seconds_from_now(SPIN_SECONDS);

	pthread_mutex_lock(&lock);
	atomic_store(&cpu->spinning, true);
	pthread_cond_broadcast(&changed);
	while (!atomic_load(&cpu->kicked))
		T_CHECK(pthread_cond_timedwait(&changed, &lock, &deadline) == 0);
	atomic_store(&cpu->spinning, false);
	pthread_mutex_unlock(&lock);
	return EINTR;
}

void fake_wait_spinning(uint32_t index)
{
	struct timespec deadline = seconds_from_now(WAIT_SECONDS);

	pthread_mutex_lock(&lock);
	while (!fake_vcpu(index) || !atomic_load(&fake_vcpu(index)->spinning))
		T_CHECK(pthread_cond_timedwait(&changed, &lock, &deadline) == 0);
	pthread_mutex_unlock(&lock);
}

static int host_thread_kill(pid_t tid, int signal)
{
	int error = call();
	bool alive = false;

	(void)signal;
	if (failed(error))
		return -1;
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < THREADS; i++)
		alive = alive || (threads[i].used && threads[i].tid == tid);
	/* Outside KVM_RUN a signal is handled on the spot and leaves no trace. */
	fake_each_vcpu_kick(tid);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	T_CHECK(tid > 0);
	/* One that is just ending may still be kicked. */
	return failed(alive ? 0 : ESRCH) ? -1 : 0;
}

/* ---------------------------------------------------------------- descriptors, memory, threads */

static int host_open(const char *path, int flags)
{
	(void)flags;
	if (failed(call()))
		return -1;
	if (strcmp(path, "/dev/kvm") != 0) {
		errno = ENOENT;
		return -1;
	}
	atomic_fetch_add(&descriptors, 1);
	return fake_device_open();
}

static int host_close(int fd)
{
	int error = fake_descriptor(fd) ? fake_descriptor_close(fd) : close(fd);

	T_EQUAL(error, 0);
	/* A copy of a file's descriptor is not of our making. */
	if (fake_descriptor(fd) || (fd < EVENTFDS && atomic_exchange(&eventfds[fd], false)))
		atomic_fetch_sub(&descriptors, 1);
	return 0;
}

static int host_ioctl(int fd, unsigned long request, void *argument)
{
	int result = fake_ioctl(fd, request, argument);

	if (result >= 0 && (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU))
		atomic_fetch_add(&descriptors, 1);
	return result;
}

static void *host_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	struct fake_cpu *cpu = fd >= 0 ? fake_vcpu_of(fd) : NULL;
	void *memory;

	if (failed(call()))
		return MAP_FAILED;
	if (cpu)
		memory = mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	else
		memory = mmap(address, length, protection, flags, fd, offset);
	if (memory == MAP_FAILED)
		return MAP_FAILED;
	if (cpu)
		cpu->run = memory;
	if (!(flags & MAP_FIXED))
		atomic_fetch_add(&mapped_bytes, (long)((length + 4095) & ~4095ul));
	return memory;
}

static int host_munmap(void *address, size_t length)
{
	atomic_fetch_sub(&mapped_bytes, (long)((length + 4095) & ~4095ul));
	return munmap(address, length);
}

static int host_madvise(void *address, size_t length, int advice)
{
	return failed(call()) ? -1 : madvise(address, length, advice);
}

static int host_eventfd(unsigned int initial, int flags)
{
	int fd;

	if (failed(call()))
		return -1;
	fd = eventfd(initial, flags);
	if (fd >= 0) {
		T_CHECK(fd < EVENTFDS);
		atomic_store(&eventfds[fd], true);
		atomic_fetch_add(&descriptors, 1);
	}
	return fd;
}

static ssize_t host_write(int fd, const void *buffer, size_t count)
{
	int error = call();

	pthread_mutex_lock(&lock);
	if (!error && plan.write_count) {
		plan.write_count--;
		error = plan.write_error;
	}
	pthread_mutex_unlock(&lock);
	return failed(error) ? -1 : write(fd, buffer, count);
}

static void *thread_body(void *argument)
{
	struct thread *thread = argument;
	void *result;

	pthread_mutex_lock(&lock);
	thread->tid = (pid_t)syscall(SYS_gettid);
	pthread_mutex_unlock(&lock);
	result = thread->body(thread->argument);
	pthread_mutex_lock(&lock);
	thread->used = false;
	pthread_mutex_unlock(&lock);
	atomic_fetch_sub(&threads_running, 1);
	return result;
}

static int host_thread_create(pthread_t *created, int signal, void *(*body)(void *), void *argument)
{
	struct thread *thread = NULL;
	int error = call();

	if (error)
		return error;
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < THREADS && !thread; i++)
		if (!threads[i].used)
			thread = &threads[i];
	T_CHECK(thread != NULL);
	*thread = (struct thread){ .body = body, .argument = argument, .used = true };
	pthread_mutex_unlock(&lock);
	atomic_fetch_add(&threads_running, 1);
	return kernel.thread_create(created, signal, thread_body, thread);
}

/* What is not KVM's stays the kernel's. */
static const struct akvm__host *become_host(void)
{
	static struct akvm__host fake;

	akvm__host_replace(NULL);
	kernel = fake = *akvm__host;
	fake.open = host_open;
	fake.close = host_close;
	fake.ioctl = host_ioctl;
	fake.mmap = host_mmap;
	fake.munmap = host_munmap;
	fake.madvise = host_madvise;
	fake.eventfd = host_eventfd;
	fake.write = host_write;
	fake.thread_create = host_thread_create;
	fake.thread_kill = host_thread_kill;
	return &fake;
}

void fake_install(const struct fake_options *wanted)
{
	fake_check_clean();
	options = wanted ? *wanted : (struct fake_options){ 0 };
	memset(&plan, 0, sizeof(plan));
	plan.random = 88172645463325252ull;
	atomic_store(&flushes, 0);
	fake_ioctl_forget();
	akvm__host_replace(become_host());
}

void fake_check_clean(void)
{
	T_EQUAL(atomic_load(&descriptors), 0);
	T_EQUAL(atomic_load(&mapped_bytes), 0);
	T_EQUAL(atomic_load(&threads_running), 0);
}
