/*
 * Every call the core makes to the host kernel, behind one table, so that tests replace KVM by a script and inject faults.
 * Nothing else in native/src may call these functions directly.
 */
#ifndef AKVM_HOST_H
#define AKVM_HOST_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct akvm__host {
	int (*open)(const char *path, int flags);
	int (*close)(int fd);
	int (*ioctl)(int fd, unsigned long request, void *argument);
	void *(*mmap)(void *address, size_t length, int protection, int flags, int fd, off_t offset);
	int (*munmap)(void *address, size_t length);
	int (*madvise)(void *address, size_t length, int advice);
	int (*eventfd)(unsigned int initial, int flags);
	ssize_t (*write)(int fd, const void *buffer, size_t count);
	int (*thread_create)(pthread_t *thread, void *(*body)(void *), void *argument); /* returns an errno, as pthread_create */
	int (*thread_kill)(pid_t tid, int signal);                                      /* tgkill in this process */
};

/* The real kernel, or whatever the last akvm__host_replace() installed. All return -1 and set errno unless said otherwise. */
extern const struct akvm__host *akvm__host;
/* For tests, before any machine is open. NULL restores the kernel. */
void akvm__host_replace(const struct akvm__host *host);

/* Remember the operation behind a failure for akvm_last_error() of this thread; returns -error. */
int akvm__fail(const char *operation, int error);

uint64_t akvm__now_ns(void);

#endif
