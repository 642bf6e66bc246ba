/*
 * Every call the core makes to the host kernel, and every allocation, behind one table, so that tests replace KVM by a script
 * and inject faults. Nothing else in native/src may call these functions directly: tests/meta/test_includes.py lists what may
 * be, and native/tests/host_plan.c says for each place that calls what must happen when the call fails.
 *
 * Mutexes and condition variables are not here: of the default kind, as all of ours, they cannot fail in the GNU C library.
 */
#ifndef AKVM_HOST_H
#define AKVM_HOST_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

struct akvm__host {
	int (*open)(const char *path, int flags);
	int (*close)(int fd);
	int (*ioctl)(int fd, unsigned long request, void *argument);
	void *(*mmap)(void *address, size_t length, int protection, int flags, int fd, off_t offset);
	int (*munmap)(void *address, size_t length);
	int (*madvise)(void *address, size_t length, int advice);
	int (*eventfd)(unsigned int initial, int flags);
	int (*memfd)(const char *name, uint64_t bytes); /* a file without a name, so long and closed on exec */
	ssize_t (*write)(int fd, const void *buffer, size_t count);
	ssize_t (*pread)(int fd, void *buffer, size_t count, off_t offset);
	ssize_t (*preadv2)(int fd, const struct iovec *parts, int count, off_t offset, int flags);
	ssize_t (*pwrite)(int fd, const void *buffer, size_t count, off_t offset);
	off_t (*lseek)(int fd, off_t offset, int whence);
	int (*fstat)(int fd, struct stat *status);
	int (*status_flags)(int fd); /* fcntl(F_GETFL) */
	int (*duplicate)(int fd);    /* fcntl(F_DUPFD_CLOEXEC) */
	/* The last name in `folder` that begins with `prefix`, cut to fit; "" when there is none. */
	int (*find_entry)(const char *folder, const char *prefix, char *name, size_t bytes);
	int (*sigaction)(int signal, const struct sigaction *action, struct sigaction *old);
	int (*sched_getaffinity)(pid_t tid, size_t bytes, cpu_set_t *cpus);
	int (*sched_yield)(void);
	int (*nanosleep)(const struct timespec *duration, struct timespec *left);
	/* A thread in which every signal but `signal` is blocked. Returns an errno, as pthread_create. */
	int (*thread_create)(pthread_t *thread, int signal, void *(*body)(void *), void *argument);
	int (*thread_join)(pthread_t thread, uint64_t timeout_ns); /* returns an errno, ETIMEDOUT among them */
	int (*thread_kill)(pid_t tid, int signal);                 /* tgkill in this process */
	pid_t (*thread_id)(void);
	int (*thread_name)(const char *name); /* of the calling thread, for people */
	/* For processes of our own that run guests (src/ptrace). */
	pid_t (*process_id)(void);
	/* The first stub process (guest/stub_process.S): its pid. */
	pid_t (*fork_stub)(int file, int values, uint64_t page);
	int (*process_kill)(pid_t pid, int signal);
	/* Until it stops or ends, EINTR or not; 0 at once when `poll` and it has not. Its pid. */
	pid_t (*wait)(pid_t pid, int *status, bool poll);
	/* Whether it has ended, without reaping it: info->si_pid is 0 when it has not. */
	int (*peek_exit)(pid_t pid, siginfo_t *info);
	long (*ptrace)(int request, pid_t pid, void *address, void *data);
	int (*futex)(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout);
	/* A timer that sends one of the program's threads a signal at each interval; 0: stops it. */
	int (*timer_create)(pid_t tid, int signal, int *timer);
	int (*timer_set)(int timer, uint64_t interval_ns);
	int (*timer_delete)(int timer);
	int (*sched_setaffinity)(pid_t tid, size_t bytes, const cpu_set_t *cpus);
	/* NULL when there is no memory. */
	void *(*calloc)(size_t count, size_t size);
	void *(*realloc)(void *memory, size_t bytes);
	void *(*aligned_alloc)(size_t alignment, size_t bytes);
};

/* The real kernel, or whatever the last akvm__host_replace() installed. All return -1 and set errno unless said otherwise. */
extern const struct akvm__host *akvm__host;
/* For tests, before any machine is open. NULL restores the kernel. */
void akvm__host_replace(const struct akvm__host *host);

/* Who makes the calling thread's present host call: a test's host asks, to fail just that one. */
struct akvm__caller {
	const char *function;
	int line;
};
/* initial-exec: a store, where a shared library's usual model would call a function. */
extern _Thread_local struct akvm__caller akvm__caller __attribute__((tls_model("initial-exec")));

static inline const struct akvm__host *akvm__host_for(const char *function, int line)
{
	akvm__caller.function = function;
	akvm__caller.line = line;
	return akvm__host;
}

/* How the core calls: AKVM__HOST->close(fd). */
#define AKVM__HOST akvm__host_for(__func__, __LINE__)

/* Remember the operation behind a failure for akvm_last_error() of this thread; returns -error. */
int akvm__fail(const char *operation, int error);

uint64_t akvm__now_ns(void);
/* The processor that this thread is on. */
int akvm__processor(void);

#endif
