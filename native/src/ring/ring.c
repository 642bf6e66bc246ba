/*
 * Single-producer single-consumer ring of 32-bit values. Indices run freely and are masked on use.
 */
#include "ring/ring.h"

#include <errno.h>
#include <stdlib.h>

#include "host/host.h"

int akvm__ring_create(struct akvm__ring *ring, uint32_t capacity)
{
	uint32_t size = 1;

	while (size < capacity)
		size *= 2;
	ring->slots = AKVM__HOST->calloc(size, sizeof(*ring->slots));
	if (!ring->slots)
		return akvm__fail("allocate ring", ENOMEM);
	ring->mask = size - 1;
	atomic_init(&ring->head, 0);
	atomic_init(&ring->tail, 0);
	return 0;
}

void akvm__ring_free(struct akvm__ring *ring)
{
	free(ring->slots);
	ring->slots = NULL;
}

bool akvm__ring_put(struct akvm__ring *ring, uint32_t value)
{
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	/* Acquire: the consumer has read the slot before it moved head past it. */
	if (tail - atomic_load_explicit(&ring->head, memory_order_acquire) > ring->mask)
		return false;
	ring->slots[tail & ring->mask] = value;
	atomic_store(&ring->tail, tail + 1);
	return true;
}

uint32_t akvm__ring_take(struct akvm__ring *ring, uint32_t *values, uint32_t max)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t count = atomic_load(&ring->tail) - head;

	if (count > max)
		count = max;
	for (uint32_t i = 0; i < count; i++)
		values[i] = ring->slots[(head + i) & ring->mask];
	atomic_store_explicit(&ring->head, head + count, memory_order_release);
	return count;
}

bool akvm__ring_empty(const struct akvm__ring *ring)
{
	return atomic_load(&ring->tail) == atomic_load_explicit(&ring->head, memory_order_relaxed);
}
