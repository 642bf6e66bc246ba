/*
 * What a mapping may become later: one of something that was opened to be read only is never written, whoever asks. How often
 * shared memory is attached. Advice about ranges with holes, files and locks in them. A futex seen through two mappings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static const char *said(int result)
{
	return result < 0 ? strerrorname_np(errno) : "ok";
}

static void become_writable(const char *path, int way, int shared)
{
	int fd = open(path, way);
	char *map = mmap(NULL, 2 * PAGE, PROT_READ, shared, fd, 0);

	if (map == MAP_FAILED) {
		printf("%s: mmap %s\n", path, said(-1));
		return;
	}
	close(fd);
	printf("%s %d %d: %s\n", path, way, shared, said(mprotect(map, PAGE, PROT_READ | PROT_WRITE)));
	munmap(map, 2 * PAGE);
}

static unsigned long attached(int id)
{
	struct shmid_ds status;

	shmctl(id, IPC_STAT, &status);
	return status.shm_nattch;
}

static void segments(void)
{
	int id = shmget(IPC_PRIVATE, 8 * PAGE, IPC_CREAT | 0600), status;
	char *one = shmat(id, NULL, 0), *two = shmat(id, NULL, SHM_RDONLY), *seen;

	strcpy(one, "seen");
	printf("attached %lu, %s\n", attached(id), two);
	printf("read only: %s\n", said(mprotect(two, PAGE, PROT_READ | PROT_WRITE)));
	printf("split: %s", said(mprotect(one + PAGE, PAGE, PROT_READ)));
	printf(" %lu\n", attached(id));
	fflush(stdout);
	if (fork() == 0) {
		printf("child %lu", attached(id));
		printf(" %s", said(shmdt(two)));
		printf(" %lu\n", attached(id));
		fflush(stdout);
		_exit(0);
	}
	wait(&status);
	printf("parent %lu\n", attached(id));
	munmap(one, PAGE);
	munmap(one + 4 * PAGE, PAGE);
	printf("holes %lu, %s\n", attached(id), said(shmdt(one + 2 * PAGE)));
	printf("%s", said(shmdt(one)));
	printf(" %lu\n", attached(id));
	shmctl(id, IPC_RMID, NULL);
	printf("%lu", attached(id));
	seen = shmat(id, NULL, 0);
	printf(" %lu %s\n", attached(id), seen);
	shmdt(two);
	shmdt(seen);
	printf("gone: %s\n", said(shmctl(id, IPC_STAT, (struct shmid_ds *)malloc(200))));
}

static void advice(const char *path)
{
	int fd = open(path, O_RDWR);
	char *map = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *file;

	memset(map, 1, 8 * PAGE);
	munmap(map + 4 * PAGE, PAGE);
	printf("hole: %s", said(madvise(map, 8 * PAGE, MADV_DONTNEED)));
	printf(" %d %d\n", map[0], map[7 * PAGE]);
	printf("free: %s", said(madvise(map, 8 * PAGE, MADV_FREE)));
	printf(" %s", said(madvise(map, 4 * PAGE, MADV_FREE)));
	printf(" %s\n", said(madvise(map + 1, PAGE, MADV_FREE)));
	file = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	printf("file: %s\n", said(madvise(file, PAGE, MADV_FREE)));
	mlock(map, 2 * PAGE);
	map[0] = map[3 * PAGE] = 5;
	printf("locked: %s", said(madvise(map + PAGE, 2 * PAGE, MADV_DONTNEED)));
	printf(" %s", said(madvise(map + 2 * PAGE, 2 * PAGE, MADV_DONTNEED)));
	munlock(map, 2 * PAGE);
	printf(" %s", said(madvise(map, PAGE, MADV_DONTNEED)));
	printf(" %d %d\n", map[0], map[3 * PAGE]);
	printf("all: %s", said(mlockall(MCL_CURRENT)));
	printf(" %s\n", said(munlockall()));
	close(fd);
}

static void two_mappings(const char *path)
{
	const struct timespec limit = { .tv_sec = 20 };
	int writing = open(path, O_RDWR), reading = open(path, O_RDONLY), status;
	unsigned *word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, writing, 0);
	const unsigned *seen = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reading, 0);

	*word = 0;
	fflush(stdout);
	if (fork() == 0) {
		while (!__atomic_load_n(seen, __ATOMIC_SEQ_CST))
			if (syscall(SYS_futex, seen, FUTEX_WAIT, 0, &limit, NULL, 0) && errno == ETIMEDOUT)
				_exit(1);
		_exit(0);
	}
	/* It waits there as soon as it can be woken, here for nothing yet. */
	for (int tries = 0; tries < 10000 && syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) != 1; tries++)
		usleep(1000);
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
	wait(&status);
	printf("woken: %d\n", status);
}

int main(int count, char **names)
{
	static const int ways[] = { O_RDONLY, O_RDWR };

	(void)count;
	for (int i = 0; i < 2; i++)
		for (int shared = MAP_SHARED; shared <= MAP_PRIVATE; shared++) {
			become_writable("/dev/zero", ways[i], shared);
			become_writable(names[1], ways[i], shared);
		}
	become_writable("/dev/zero", O_WRONLY, MAP_PRIVATE);
	segments();
	advice(names[1]);
	two_mappings(names[1]);
	return 0;
}
