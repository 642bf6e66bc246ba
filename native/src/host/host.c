/*
 * The real host kernel behind struct akvm__host, and the thread-local name of the last failed operation.
 */
#include "host/host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "akvm/akvm.h"

static int host_open(const char *path, int flags)
{
	return open(path, flags);
}

static int host_ioctl(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument);
}

static int host_memfd(const char *name, uint64_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int host_status_flags(int fd)
{
	return fcntl(fd, F_GETFL);
}

static int host_duplicate(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static int host_find_entry(const char *folder, const char *prefix, char *name, size_t bytes)
{
	DIR *entries = opendir(folder);
	struct dirent *entry;

	name[0] = 0;
	if (!entries)
		return -1;
	while ((entry = readdir(entries)))
		if (!strncmp(entry->d_name, prefix, strlen(prefix)))
			snprintf(name, bytes, "%.*s", (int)bytes - 1, entry->d_name);
	closedir(entries);
	return 0;
}

static int host_thread_create(pthread_t *thread, int signal, void *(*body)(void *), void *argument)
{
	sigset_t blocked, old;
	int error;

	/* The thread inherits the mask, so that there is no moment in which it could take a signal of the program's. */
	sigfillset(&blocked);
	sigdelset(&blocked, signal);
	error = pthread_sigmask(SIG_SETMASK, &blocked, &old);
	if (error)
		return error;
	error = pthread_create(thread, NULL, body, argument);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return error;
}

static int host_thread_join(pthread_t thread, uint64_t timeout_ns)
{
	struct timespec now;
	uint64_t until_ns;

	clock_gettime(CLOCK_REALTIME, &now);
	until_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + timeout_ns;
	now = (struct timespec){ (time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u) };
	return pthread_timedjoin_np(thread, NULL, &now);
}

/* EAGAIN: a real-time signal is refused while the user's RLIMIT_SIGPENDING is used up, by whatever program of theirs. */
static int host_thread_kill(pid_t tid, int signal)
{
	return (int)syscall(SYS_tgkill, getpid(), tid, signal);
}

static pid_t host_thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static int host_thread_name(const char *name)
{
	return prctl(PR_SET_NAME, name);
}

extern int akvm__stub_fork(int file, int values, uint64_t page, int *pid);

static pid_t host_fork_stub(int file, int values, uint64_t page)
{
	int pid = -EIO, between = akvm__stub_fork(file, values, page, &pid);

	if (between > 0)
		while (waitpid(between, NULL, __WALL) < 0 && errno == EINTR)
			;
	if (between > 0 && pid > 0)
		return pid;
	errno = between < 0 ? -between : -pid;
	return -1;
}

/* The stop of a process that this thread traces, when it is stopped: as waitpid() would tell it. */
static bool tell_stop(pid_t pid, int *status)
{
	siginfo_t info;

	if (syscall(SYS_ptrace, PTRACE_GETSIGINFO, pid, NULL, &info) != 0)
		return false;
	*status = (info.si_code == (SIGTRAP | 0x80) ? SIGTRAP | 0x80 : info.si_signo) << 8 | 0x7f;
	return true;
}

static pid_t host_wait(pid_t pid, int *status, bool poll)
{
	pid_t waited;

	while ((waited = waitpid(pid, status, __WALL | (poll ? WNOHANG : 0))) < 0 && errno == EINTR)
		/* Any thread of the program that waits for any child may have been told of a stop instead. */
		if (tell_stop(pid, status))
			return pid;
	return waited;
}

static int host_peek_exit(pid_t pid, siginfo_t *info)
{
	return waitid(P_PID, (id_t)pid, info, WEXITED | WNOHANG | WNOWAIT | __WALL);
}

static long host_ptrace(int request, pid_t pid, void *address, void *data)
{
	return syscall(SYS_ptrace, request, pid, address, data);
}

static int host_futex(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
	return (int)syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

static int host_timer_create(pid_t tid, int signal, int *timer)
{
	struct sigevent event;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = signal;
	event._sigev_un._tid = tid;
	return (int)syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, timer);
}

static int host_timer_set(int timer, uint64_t interval_ns)
{
	const struct timespec interval = { (time_t)(interval_ns / 1000000000u), (long)(interval_ns % 1000000000u) };
	const struct itimerspec setting = { interval, interval };

	return (int)syscall(SYS_timer_settime, timer, 0, &setting, NULL);
}

static int host_timer_delete(int timer)
{
	return (int)syscall(SYS_timer_delete, timer);
}

static const struct akvm__host kernel = {
	.open = host_open,
	.close = close,
	.ioctl = host_ioctl,
	.mmap = mmap,
	.munmap = munmap,
	.madvise = madvise,
	.eventfd = eventfd,
	.memfd = host_memfd,
	.write = write,
	.pread = pread,
	.preadv2 = preadv2,
	.pwrite = pwrite,
	.lseek = lseek,
	.fstat = fstat,
	.status_flags = host_status_flags,
	.duplicate = host_duplicate,
	.find_entry = host_find_entry,
	.sigaction = sigaction,
	.sched_getaffinity = sched_getaffinity,
	.sched_yield = sched_yield,
	.nanosleep = nanosleep,
	.thread_create = host_thread_create,
	.thread_join = host_thread_join,
	.thread_kill = host_thread_kill,
	.thread_id = host_thread_id,
	.thread_name = host_thread_name,
	.process_id = getpid,
	.fork_stub = host_fork_stub,
	.process_kill = kill,
	.wait = host_wait,
	.peek_exit = host_peek_exit,
	.ptrace = host_ptrace,
	.futex = host_futex,
	.timer_create = host_timer_create,
	.timer_set = host_timer_set,
	.timer_delete = host_timer_delete,
	.sched_setaffinity = sched_setaffinity,
	.calloc = calloc,
	.realloc = realloc,
	.aligned_alloc = aligned_alloc,
};

const struct akvm__host *akvm__host = &kernel;
_Thread_local struct akvm__caller akvm__caller;

void akvm__host_replace(const struct akvm__host *host)
{
	akvm__host = host ? host : &kernel;
}

static _Thread_local const char *last_operation = "";

int akvm__fail(const char *operation, int error)
{
	last_operation = operation;
	return -error;
}

const char *akvm_last_error(void)
{
	return last_operation;
}

const char *akvm_version(void)
{
	return AKVM_VERSION;
}

uint64_t akvm__now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int akvm__processor(void)
{
	return sched_getcpu();
}
