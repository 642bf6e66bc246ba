/*
 * A program with thousands of mappings, and the calls that look at all of them: none may hold up anybody else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 12000ul

int main(void)
{
	const size_t length = PAGES * PAGE;
	char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned char *there = malloc(PAGES);
	struct shmid_ds status;
	int id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600), result = 0;
	void *attached = shmat(id, NULL, 0);

	for (size_t i = 0; i < PAGES; i += 2)
		if (mprotect(map + i * PAGE, PAGE, PROT_READ))
			return 1;
	result |= madvise(map, length, MADV_WILLNEED);
	result |= madvise(map, length, MADV_FREE);
	result |= madvise(map, length, MADV_DONTNEED);
	result |= msync(map, length, MS_SYNC);
	result |= mincore(map, length, there);
	result |= mlockall(MCL_CURRENT);
	result |= munlockall();
	result |= mlock2(map, length, MLOCK_ONFAULT);
	result |= munlock(map, length);
	result |= shmctl(id, IPC_STAT, &status);
	result |= shmctl(id, IPC_RMID, NULL);
	result |= shmdt(attached);
	if (result || status.shm_nattch != 1)
		return 2;
	if (mprotect(map + PAGE, length, PROT_NONE) == 0 || mprotect(map, length, PROT_READ))
		return 3;
	for (size_t i = 0; i < PAGES; i += 2)
		if (mprotect(map + i * PAGE, PAGE, PROT_NONE))
			return 4;
	return munmap(map, length) ? 5 : 0;
}
