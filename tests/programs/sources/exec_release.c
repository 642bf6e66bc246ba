/*
 * A child that shares its parent's memory executes a program: its robust futex is marked and its clear_child_tid written while
 * it lives on, and the parent, which waits for both, is woken. In memory that nobody shares, nothing is written.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct lock {
	struct lock *next;
	unsigned word;
};

static struct robust_list_head head;
static struct lock lock;
static int cleared = 1;
static int input[2];
static char stack[65536];

static int wait_while(void *word, unsigned value)
{
	const struct timespec limit = { .tv_sec = 20 };

	while (__atomic_load_n((unsigned *)word, __ATOMIC_SEQ_CST) == value)
		if (syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, NULL, 0) && errno == ETIMEDOUT)
			return 0;
	return 1;
}

static int execute(void *unused)
{
	(void)unused;
	lock.word = (unsigned)syscall(SYS_gettid) | FUTEX_WAITERS;
	lock.next = (struct lock *)&head;
	head.list.next = (struct robust_list *)&lock;
	head.futex_offset = offsetof(struct lock, word);
	syscall(SYS_set_robust_list, &head, sizeof head);
	dup2(input[0], 0);
	close(input[1]);
	execl("/bin/cat", "cat", (char *)NULL);
	return 9;
}

int main(void)
{
	int status, *alone;
	pid_t child;

	if (pipe(input))
		return 1;
	child = clone(execute, stack + sizeof stack, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, NULL, NULL, NULL, &cleared);
	printf("cleared %d\n", wait_while(&cleared, 1));
	wait_while(&lock.word, 0);
	printf("marked %d\n", wait_while(&lock.word, (unsigned)child | FUTEX_WAITERS));
	printf("word %x, alive %d\n", lock.word, waitpid(child, &status, WNOHANG) == 0);
	fflush(stdout);
	close(input[0]);
	close(input[1]);
	waitpid(child, &status, 0);
	printf("status %d\n", status);

	alone = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*alone = 7;
	fflush(stdout);
	child = fork();
	if (child == 0) {
		syscall(SYS_set_tid_address, alone);
		_exit(0);
	}
	waitpid(child, &status, 0);
	printf("alone %d\n", *alone);
	return 0;
}
