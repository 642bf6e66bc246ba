/*
 * Files below a directory of the host, by paths that come from a stranger: openat2(2) and what follows it, in one call each; and
 * what is asked of their descriptors most.
 *
 * The host's kernel checks each step of its own walk from the directory on: neither `..`, nor a symbolic link, nor a magic link
 * of procfs, nor a mount, nor somebody who renames directories meanwhile leads out of it. No part of the core: a binding that
 * has files to show to guests links it too. Source: openat2(2), path_resolution(7).
 *
 * Returns:  0 or a descriptor, which is the caller's; a failure is -errno. EACCES: another file system covers it. Thread: any.
 */
#ifndef AKVM_BENEATH_H
#define AKVM_BENEATH_H

#ifndef AKVM_CDEF
#include <stdbool.h>
#include <stdint.h>
#define AKVM_API __attribute__((visibility("default")))
#else
#define AKVM_API
#endif

/* `taken`: how much of the path led to it. `target`: where it points when it is a symbolic link that was read. */
struct akvm_found {
	uint8_t status[144]; /* struct stat, which is the same for the kernel and for its guests */
	uint32_t taken;
	uint32_t target_bytes; /* without a NUL; 0: no link */
	char target[4096];
};

/* What `path` (relative, not empty) leads to below `root`, or the first symbolic link on the way there. Nothing is opened.
 * `follow`: read a link in the last place too, which its time of access tells. */
AKVM_API int akvm_beneath_look(int root, const char *path, bool follow, struct akvm_found *found);

/* Open what `path` leads to below `root`, no link: with O_PATH in `flags` just that, else as open(2) with these flags.
 * `inode`, unless it is 0, and `device` say which file it has to be, or nothing happens to it: -ESTALE. */
AKVM_API int akvm_beneath_open(int root, const char *path, int flags, uint64_t device, uint64_t inode);

/* struct stat of a descriptor. */
AKVM_API int akvm_fd_status(int fd, uint8_t *status);

/* The next records of a directory, as getdents64(2): how many bytes. */
AKVM_API int akvm_fd_entries(int fd, char *buffer, uint32_t capacity);

#endif
