/*
 * See host_strike.h: calls that hand nothing out which would have to be counted.
 */
#include <signal.h>

#include "host_plan.h"
#include "host_strike.h"
#include "t.h"

static int host_madvise(void *address, size_t length, int advice)
{
	return faults_failed(faults_strike("madvise", (unsigned long)advice)) ? -1
									      : faults_under->madvise(address, length, advice);
}

static ssize_t host_preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	return faults_failed(faults_strike("preadv2", 0)) ? -1 : faults_under->preadv2(fd, parts, count, offset, flags);
}

static off_t host_lseek(int fd, off_t offset, int whence)
{
	return faults_failed(faults_strike("lseek", 0)) ? -1 : faults_under->lseek(fd, offset, whence);
}

static ssize_t host_write(int fd, const void *buffer, size_t count)
{
	return faults_failed(faults_strike("write", 0)) ? -1 : faults_under->write(fd, buffer, count);
}

static ssize_t host_pwrite(int fd, const void *buffer, size_t count, off_t offset)
{
	return faults_failed(faults_strike("pwrite", 0)) ? -1 : faults_under->pwrite(fd, buffer, count, offset);
}

static int host_status_flags(int fd)
{
	return faults_failed(faults_strike("status_flags", 0)) ? -1 : faults_under->status_flags(fd);
}

static ssize_t host_pread(int fd, void *buffer, size_t count, off_t offset)
{
	return faults_failed(faults_strike("pread", 0)) ? -1 : faults_under->pread(fd, buffer, count, offset);
}

static int host_fstat(int fd, struct stat *status)
{
	return faults_failed(faults_strike("fstat", 0)) ? -1 : faults_under->fstat(fd, status);
}

static int host_find_entry(const char *folder, const char *prefix, char *name, size_t bytes)
{
	name[0] = 0;
	return faults_failed(faults_strike("find_entry", 0)) ? -1 : faults_under->find_entry(folder, prefix, name, bytes);
}

static int host_sched_getaffinity(pid_t tid, size_t bytes, cpu_set_t *cpus)
{
	return faults_failed(faults_strike("sched_getaffinity", 0)) ? -1 : faults_under->sched_getaffinity(tid, bytes, cpus);
}

static int host_sched_yield(void)
{
	return faults_failed(faults_strike("sched_yield", 0)) ? -1 : faults_under->sched_yield();
}

static int host_nanosleep(const struct timespec *duration, struct timespec *left)
{
	return faults_failed(faults_strike("nanosleep", 0)) ? -1 : faults_under->nanosleep(duration, left);
}

static pid_t host_thread_id(void)
{
	T_EQUAL(faults_strike("thread_id", 0), 0);
	return faults_under->thread_id();
}

static int host_thread_name(const char *name)
{
	return faults_failed(faults_strike("thread_name", 0)) ? -1 : faults_under->thread_name(name);
}

static void *host_calloc(size_t count, size_t size)
{
	return faults_failed(faults_strike("calloc", 0)) ? NULL : faults_under->calloc(count, size);
}

static void *host_realloc(void *memory, size_t bytes)
{
	return faults_failed(faults_strike("realloc", 0)) ? NULL : faults_under->realloc(memory, bytes);
}

static void *host_aligned_alloc(size_t alignment, size_t bytes)
{
	return faults_failed(faults_strike("aligned_alloc", 0)) ? NULL : faults_under->aligned_alloc(alignment, bytes);
}

static pid_t host_process_id(void)
{
	T_EQUAL(faults_strike("process_id", 0), 0);
	return faults_under->process_id();
}

static pid_t host_fork_stub(int file, int values, uint64_t page)
{
	return faults_failed(faults_strike("fork_stub", 0)) ? -1 : faults_under->fork_stub(file, values, page);
}

static int host_process_kill(pid_t pid, int signal)
{
	if (faults_failed(faults_strike("process_kill", 0)))
		return -1;
	/* Anything else is a group of processes, or all there are. */
	T_CHECK(pid > 1);
	return signal != SIGKILL && faults_drop_kick() ? 0 : faults_under->process_kill(pid, signal);
}

static pid_t host_wait(pid_t pid, int *status, bool poll)
{
	if (faults_failed(faults_strike("wait", 0)))
		return -1;
	T_CHECK(pid > 1);
	return faults_under->wait(pid, status, poll);
}

static int host_peek_exit(pid_t pid, siginfo_t *info)
{
	return faults_failed(faults_strike("peek_exit", 0)) ? -1 : faults_under->peek_exit(pid, info);
}

static long host_ptrace(int request, pid_t pid, void *address, void *data)
{
	return faults_failed(faults_strike("ptrace", 0)) ? -1 : faults_under->ptrace(request, pid, address, data);
}

static int host_futex(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
	return faults_failed(faults_strike("futex", PLAN_FUTEX + (unsigned long)operation))
		       ? -1
		       : faults_under->futex(word, operation, value, timeout);
}

static int host_timer_create(pid_t tid, int signal, int *timer)
{
	return faults_failed(faults_strike("timer_create", 0)) ? -1 : faults_under->timer_create(tid, signal, timer);
}

static int host_timer_set(int timer, uint64_t interval_ns)
{
	return faults_failed(faults_strike("timer_set", 0)) ? -1 : faults_under->timer_set(timer, interval_ns);
}

static int host_timer_delete(int timer)
{
	return faults_failed(faults_strike("timer_delete", 0)) ? -1 : faults_under->timer_delete(timer);
}

static int host_sched_setaffinity(pid_t tid, size_t bytes, const cpu_set_t *cpus)
{
	return faults_failed(faults_strike("sched_setaffinity", 0)) ? -1 : faults_under->sched_setaffinity(tid, bytes, cpus);
}

void faults_add_calls(struct akvm__host *host)
{
	host->madvise = host_madvise;
	host->preadv2 = host_preadv2;
	host->lseek = host_lseek;
	host->write = host_write;
	host->pwrite = host_pwrite;
	host->status_flags = host_status_flags;
	host->pread = host_pread;
	host->fstat = host_fstat;
	host->find_entry = host_find_entry;
	host->sched_getaffinity = host_sched_getaffinity;
	host->sched_yield = host_sched_yield;
	host->nanosleep = host_nanosleep;
	host->thread_id = host_thread_id;
	host->thread_name = host_thread_name;
	host->calloc = host_calloc;
	host->realloc = host_realloc;
	host->aligned_alloc = host_aligned_alloc;
	host->process_id = host_process_id;
	host->fork_stub = host_fork_stub;
	host->process_kill = host_process_kill;
	host->wait = host_wait;
	host->peek_exit = host_peek_exit;
	host->ptrace = host_ptrace;
	host->futex = host_futex;
	host->sched_setaffinity = host_sched_setaffinity;
	host->timer_create = host_timer_create;
	host->timer_set = host_timer_set;
	host->timer_delete = host_timer_delete;
}
