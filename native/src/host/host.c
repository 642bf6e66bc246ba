/*
 * The real host kernel behind struct akvm__host, and the thread-local name of the last failed operation.
 */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
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

static int host_thread_create(pthread_t *thread, void *(*body)(void *), void *argument)
{
	return pthread_create(thread, NULL, body, argument);
}

static int host_thread_kill(pid_t tid, int signal)
{
	return (int)syscall(SYS_tgkill, getpid(), tid, signal);
}

static const struct akvm__host kernel = {
	.open = host_open,
	.close = close,
	.ioctl = host_ioctl,
	.mmap = mmap,
	.munmap = munmap,
	.madvise = madvise,
	.eventfd = eventfd,
	.write = write,
	.thread_create = host_thread_create,
	.thread_kill = host_thread_kill,
};

const struct akvm__host *akvm__host = &kernel;

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
