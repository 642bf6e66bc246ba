/*
 * The completion ring: order, fullness, wrap-around of its free-running indices, and one producer beside one consumer.
 */
#include "ring/ring.h"

#include <pthread.h>

#include "t.h"

static void capacity_is_a_power_of_two(void)
{
	struct akvm__ring ring;
	uint32_t values[16];

	T_EQUAL(akvm__ring_create(&ring, 5), 0);
	T_CHECK(akvm__ring_empty(&ring));
	T_EQUAL(akvm__ring_take(&ring, values, 16), 0);
	for (uint32_t i = 0; i < 8; i++)
		T_CHECK(akvm__ring_put(&ring, i));
	T_CHECK(!akvm__ring_put(&ring, 8));
	T_CHECK(!akvm__ring_empty(&ring));
	T_EQUAL(akvm__ring_take(&ring, values, 3), 3);
	T_CHECK(values[0] == 0 && values[1] == 1 && values[2] == 2);
	for (uint32_t i = 8; i < 11; i++)
		T_CHECK(akvm__ring_put(&ring, i));
	T_CHECK(!akvm__ring_put(&ring, 11));
	T_EQUAL(akvm__ring_take(&ring, values, 16), 8);
	for (uint32_t i = 0; i < 8; i++)
		T_EQUAL(values[i], i + 3);
	T_CHECK(akvm__ring_empty(&ring));
	akvm__ring_free(&ring);
	akvm__ring_free(&ring);
}

static void indices_wrap(void)
{
	struct akvm__ring ring;
	uint32_t value;

	T_EQUAL(akvm__ring_create(&ring, 4), 0);
	atomic_store(&ring.head, UINT32_MAX - 1);
	atomic_store(&ring.tail, UINT32_MAX - 1);
	for (uint32_t i = 0; i < 4; i++)
		T_CHECK(akvm__ring_put(&ring, 100 + i));
	T_CHECK(!akvm__ring_put(&ring, 0));
	for (uint32_t i = 0; i < 4; i++) {
		T_EQUAL(akvm__ring_take(&ring, &value, 1), 1);
		T_EQUAL(value, 100 + i);
	}
	T_CHECK(akvm__ring_empty(&ring));
	akvm__ring_free(&ring);
}

enum { MESSAGES = 200000 };

static void *produce(void *argument)
{
	struct akvm__ring *ring = argument;

	for (uint32_t i = 0; i < MESSAGES; i++)
		while (!akvm__ring_put(ring, i))
			sched_yield();
	return NULL;
}

static void nothing_is_lost_between_two_threads(void)
{
	struct akvm__ring ring;
	uint32_t values[7], next = 0;
	pthread_t producer;

	T_EQUAL(akvm__ring_create(&ring, 16), 0);
	T_EQUAL(pthread_create(&producer, NULL, produce, &ring), 0);
	while (next < MESSAGES) {
		uint32_t count = akvm__ring_take(&ring, values, 7);

		for (uint32_t i = 0; i < count; i++)
			T_EQUAL(values[i], next++);
		if (!count)
			sched_yield();
	}
	T_EQUAL(pthread_join(producer, NULL), 0);
	T_CHECK(akvm__ring_empty(&ring));
	akvm__ring_free(&ring);
}

int main(void)
{
	T_RUN(capacity_is_a_power_of_two);
	T_RUN(indices_wrap);
	T_RUN(nothing_is_lost_between_two_threads);
	return 0;
}
