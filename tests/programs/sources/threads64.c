/*
 * 64 threads at once: mutexes, condition variables, reader-writer locks, semaphores, barriers, once, keys and __thread.
 * Prints only what does not depend on the order in which they ran.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 64, ROUNDS = 200 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static sem_t semaphore;
static atomic_int atomic_sum, destroyed, leaders, inits;
static int counter, turn, shared;
static __thread int local;
static __thread char large[4096];

static void init(void)
{
	atomic_fetch_add(&inits, 1);
}

static void destroy(void *value)
{
	atomic_fetch_add(&destroyed, (int)(long)value);
}

static void *work(void *argument)
{
	int number = (int)(long)argument;

	pthread_once(&once, init);
	pthread_setspecific(key, (void *)(long)(number + 1));
	local = number;
	memset(large, number, sizeof(large));
	if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
		atomic_fetch_add(&leaders, 1);
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
		atomic_fetch_add(&atomic_sum, 1);
		local++;
		if (i % 16 == number % 16) {
			pthread_rwlock_wrlock(&rwlock);
			shared++;
			pthread_rwlock_unlock(&rwlock);
		} else {
			pthread_rwlock_rdlock(&rwlock);
			pthread_rwlock_unlock(&rwlock);
		}
	}
	/* One after the other, in the order of their numbers. */
	pthread_mutex_lock(&mutex);
	while (turn != number)
		pthread_cond_wait(&changed, &mutex);
	turn++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mutex);
	sem_wait(&semaphore);
	sem_post(&semaphore);
	return (void *)(long)(local + large[sizeof(large) - 1]);
}

int main(void)
{
	pthread_t threads[THREADS];
	pthread_mutexattr_t attributes;
	pthread_mutex_t robust;
	struct timespec soon;
	long sum = 0;

	pthread_key_create(&key, destroy);
	pthread_barrier_init(&barrier, NULL, THREADS);
	sem_init(&semaphore, 0, 3);
	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i))
			return 1;
	for (int i = 0; i < THREADS; i++) {
		void *result;

		pthread_join(threads[i], &result);
		sum += (long)result;
	}
	printf("%d %d %d %d\n", counter, atomic_load(&atomic_sum), turn, shared);
	printf("%ld %d %d %d %d\n", sum, atomic_load(&destroyed), atomic_load(&leaders), atomic_load(&inits), local);
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_nsec += 20000000;
	soon.tv_sec += soon.tv_nsec / 1000000000;
	soon.tv_nsec %= 1000000000;
	pthread_mutex_lock(&mutex);
	printf("%s\n", strerror(pthread_cond_timedwait(&changed, &mutex, &soon)));
	printf("%s\n", strerror(pthread_mutex_timedlock(&mutex, &soon)));
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	pthread_mutex_lock(&robust);
	printf("%s\n", strerror(pthread_mutex_lock(&robust)));
	pthread_mutex_unlock(&robust);
	return 0;
}
