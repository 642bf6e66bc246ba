/* Host files below a directory: see akvm/beneath.h. Only openat2(2) turns a stranger's path into a descriptor here. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "akvm/beneath.h"

_Static_assert(sizeof(struct stat) == sizeof(((struct akvm_found *)0)->status), "struct stat is not the kernel's");

/* A descriptor. A link before the last place is ELOOP; one in it is what was reached with O_PATH, else ELOOP too. */
static int reach(int root, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(uint32_t)flags | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));

	if (fd >= 0)
		return fd;
	return errno == EXDEV ? -EACCES : -errno;
}

/* The longest beginning of `path` without a link before its last name, which is the first link: `path` itself has a link on the
 * way. Each try starts from the root again, so that no step stands on a directory which was moved out by then. */
static int reach_link(int root, const char *path, uint32_t *taken)
{
	char part[PATH_MAX];
	/* Lengths: the first reaches something, what is longer than the second meets a link before its end. */
	uint32_t low = 0, high = (uint32_t)strlen(path);
	int found = -ELOOP;

	if (high >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, high + 1);
	for (;;) {
		/* The end of a name between the two, near the middle. */
		uint32_t middle = low + (high - low) / 2;
		int fd;

		while (middle > low && path[middle] != '/')
			middle--;
		if (middle == low)
			for (middle = low + (high - low) / 2 + 1; middle < high && path[middle] != '/'; middle++)
				;
		if (middle >= high)
			return found;
		part[middle] = 0;
		fd = reach(root, part, O_PATH);
		part[middle] = '/';
		if (fd == -ELOOP) {
			high = middle;
			continue;
		}
		if (found >= 0)
			(void)close(found);
		found = fd;
		if (fd < 0)
			return fd;
		low = *taken = middle;
	}
}

int akvm_beneath_look(int root, const char *path, bool follow, struct akvm_found *found)
{
	struct stat status;
	ssize_t length = 0;
	int fd, error = 0;

	found->taken = (uint32_t)strlen(path);
	found->target_bytes = 0;
	fd = reach(root, path, O_PATH);
	if (fd == -ELOOP)
		fd = reach_link(root, path, &found->taken);
	if (fd < 0)
		return fd;
	if (fstat(fd, &status) != 0)
		error = -errno;
	else if ((follow || path[found->taken] != 0) && S_ISLNK(status.st_mode) &&
		 (length = readlinkat(fd, "", found->target, sizeof(found->target))) < 0)
		error = -errno;
	(void)close(fd);
	if (error)
		return error;
	memcpy(found->status, &status, sizeof(status));
	found->target_bytes = (uint32_t)length;
	return 0;
}

/* By its descriptor: what is opened is what was looked at, whatever its name means by now. */
static int reopen(int fd, int flags)
{
	char path[sizeof("/proc/self/fd/-2147483648")];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int akvm_beneath_open(int root, const char *path, int flags, uint64_t device, uint64_t inode)
{
	/* Opening for reading changes nothing, whatever it is that somebody puts there now. */
	bool at_once = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC);
	int fd = reach(root, path, at_once ? flags : O_PATH), opened;
	struct stat status;

	if (fd < 0)
		return fd;
	if (inode != 0 && fstat(fd, &status) != 0)
		opened = -errno;
	else if (inode != 0 && (status.st_dev != device || status.st_ino != inode))
		opened = -ESTALE;
	else if (at_once)
		return fd;
	else
		opened = reopen(fd, flags);
	(void)close(fd);
	return opened;
}

int akvm_fd_status(int fd, uint8_t *status)
{
	struct stat now;

	if (fstat(fd, &now) != 0)
		return -errno;
	memcpy(status, &now, sizeof(now));
	return 0;
}

int akvm_fd_entries(int fd, char *buffer, uint32_t capacity)
{
	long count = syscall(SYS_getdents64, fd, buffer, capacity);

	return count < 0 ? -errno : (int)count;
}
