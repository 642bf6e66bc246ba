/*
 * System V objects as programs see them: what each step says is printed, and a native run prints the same. Numbers of objects and
 * processes are left out: they differ.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static void say(const char *what, long result)
{
	printf("%s: %ld %s\n", what, result, result < 0 ? strerrorname_np(errno) : "");
	fflush(stdout);
}

static long operate(int set, int index, int change, int flags)
{
	struct sembuf operation = { (unsigned short)index, (short)change, (short)flags };
	return semop(set, &operation, 1);
}

static long value(int set, int index)
{
	return semctl(set, index, GETVAL);
}

static void collect(pid_t child)
{
	int status = 0;
	if (waitpid(child, &status, 0) != child)
		abort();
	say("child", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
}

static void alarmed(int number)
{
	(void)number;
}

static void semaphores(void)
{
	struct timespec soon = { 0, 20000000 };
	struct sembuf both[2] = { { 0, -1, 0 }, { 1, 2, IPC_NOWAIT } };
	unsigned short values[2] = { 7, 8 };
	int set = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600);

	say("take nothing", operate(set, 0, -1, IPC_NOWAIT));
	say("too far", operate(set, 2, 1, 0));
	say("add", operate(set, 0, 3, 0));
	say("zero", operate(set, 0, 0, IPC_NOWAIT));
	say("both", semop(set, both, 2));
	printf("%ld %ld\n", value(set, 0), value(set, 1));
	say("too much", operate(set, 0, 32767, 0));
	say("timed", semtimedop(set, &(struct sembuf){ 1, -9, 0 }, 1, &soon));

	pid_t child = fork();
	if (child == 0) {
		/* The end of the process takes this back. */
		operate(set, 0, -2, SEM_UNDO);
		_exit(value(set, 0) == 0 ? 0 : 1);
	}
	collect(child);
	say("undone", value(set, 0));

	child = fork();
	if (child == 0)
		_exit(operate(set, 1, -5, 0) == 0 ? 3 : 4);
	while (semctl(set, 1, GETNCNT) != 1)
		usleep(1000);
	say("wake", operate(set, 1, 4, 0));
	collect(child);
	say("left", value(set, 1));

	say("set all", semctl(set, 0, SETALL, values));
	say("set too much", semctl(set, 0, SETVAL, 40000));
	say("get", value(set, 1));
	say("own", semctl(set, 1, GETPID) == getpid());

	struct sigaction action = { .sa_handler = alarmed, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	ualarm(20000, 0);
	say("interrupted", operate(set, 0, -100, 0));

	child = fork();
	if (child == 0)
		_exit(operate(set, 0, 0, 0) < 0 && errno == EIDRM ? 5 : 6);
	while (semctl(set, 0, GETZCNT) != 1)
		usleep(1000);
	say("remove", semctl(set, 0, IPC_RMID));
	collect(child);
	say("gone", operate(set, 0, 1, 0) < 0);
}

static long attachments(int segment)
{
	struct shmid_ds status;
	return shmctl(segment, IPC_STAT, &status) < 0 ? -1 : (long)status.shm_nattch;
}

static void segments(void)
{
	int segment = shmget(IPC_PRIVATE, 3 * PAGE - 1, IPC_CREAT | 0600);
	char *here = shmat(segment, NULL, 0);
	const char *there = shmat(segment, NULL, SHM_RDONLY);

	say("attached", attachments(segment));
	strcpy(here + PAGE, "written");
	printf("%s\n", there + PAGE);
	say("occupied", (long)shmat(segment, here, 0));
	say("replaced", shmat(segment, here, SHM_REMAP) == here);
	printf("%s\n", here + PAGE);
	say("unaligned", (long)shmat(segment, here + 1, 0));

	pid_t child = fork();
	if (child == 0) {
		strcpy(here, "by the child");
		_exit((int)attachments(segment));
	}
	collect(child);
	printf("%s\n", there);

	say("protect", mprotect(here + PAGE, PAGE, PROT_READ));
	say("detach", shmdt(here));
	say("again", shmdt(here));
	say("attached", attachments(segment));
	say("remove", shmctl(segment, IPC_RMID, NULL));
	say("still attached", attachments(segment));
	printf("%s\n", there);
	child = fork();
	if (child == 0) {
		*(volatile char *)there = 1;
		_exit(0);
	}
	collect(child);
	say("detach", shmdt(there));
	say("gone", attachments(segment));
	say("too small", shmget(IPC_PRIVATE, 0, IPC_CREAT));
	say("none", shmget(0x51e61e, PAGE, 0));
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "semaphores") == 0)
		semaphores();
	else if (argc > 1 && strcmp(argv[1], "segments") == 0)
		segments();
	else
		return 2;
	return 0;
}
