/*
 * What threads and processes share and leave behind: a robust mutex whose owner died, process-shared semaphores and futexes
 * after fork, cancellation, detached threads, signals to one thread, exit of the first thread before the others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	sem_t semaphore;
	int value;
};

static volatile sig_atomic_t handled_by;
static int cleaned;

static void *die_owning(void *mutex)
{
	pthread_mutex_lock(mutex);
	return NULL;
}

static void clean(void *argument)
{
	(void)argument;
	cleaned++;
}

static void *sleep_long(void *argument)
{
	pthread_cleanup_push(clean, NULL);
	sleep(60);
	pthread_cleanup_pop(0);
	return argument;
}

static void handle(int number)
{
	(void)number;
	handled_by = (int)syscall(SYS_gettid);
}

static void *wait_for_signal(void *argument)
{
	while (handled_by == 0)
		usleep(1000);
	*(int *)argument = handled_by == (int)syscall(SYS_gettid);
	return NULL;
}

static void *outlive(void *argument)
{
	(void)argument;
	usleep(100000);
	printf("the last thread speaks\n");
	fflush(stdout);
	exit(21);
}

int main(void)
{
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t mutex_attributes;
	pthread_condattr_t condition_attributes;
	pthread_t thread;
	void *result;
	int status, here = 0;

	pthread_mutexattr_init(&mutex_attributes);
	pthread_mutexattr_setpshared(&mutex_attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&mutex_attributes, PTHREAD_MUTEX_ROBUST);
	pthread_condattr_init(&condition_attributes);
	pthread_condattr_setpshared(&condition_attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->mutex, &mutex_attributes);
	pthread_cond_init(&shared->changed, &condition_attributes);
	sem_init(&shared->semaphore, 1, 0);

	pthread_create(&thread, NULL, die_owning, &shared->mutex);
	pthread_join(thread, NULL);
	printf("%s\n", strerror(pthread_mutex_lock(&shared->mutex)));
	pthread_mutex_consistent(&shared->mutex);
	pthread_mutex_unlock(&shared->mutex);

	if (fork() == 0) {
		pthread_mutex_lock(&shared->mutex);
		shared->value = 1;
		pthread_cond_signal(&shared->changed);
		pthread_mutex_unlock(&shared->mutex);
		sem_wait(&shared->semaphore);
		pthread_mutex_lock(&shared->mutex);
		raise(SIGKILL);
	}
	pthread_mutex_lock(&shared->mutex);
	while (shared->value == 0)
		pthread_cond_wait(&shared->changed, &shared->mutex);
	pthread_mutex_unlock(&shared->mutex);
	sem_post(&shared->semaphore);
	wait(&status);
	printf("%d %s\n", WTERMSIG(status), strerror(pthread_mutex_lock(&shared->mutex)));

	pthread_create(&thread, NULL, sleep_long, NULL);
	pthread_cancel(thread);
	pthread_join(thread, &result);
	printf("%d %d\n", result == PTHREAD_CANCELED, cleaned <= 1);

	signal(SIGUSR1, handle);
	pthread_create(&thread, NULL, wait_for_signal, &here);
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, NULL);
	printf("%d\n", here);
	fflush(stdout);

	pthread_create(&thread, NULL, outlive, NULL);
	pthread_detach(thread);
	pthread_exit(NULL);
}
