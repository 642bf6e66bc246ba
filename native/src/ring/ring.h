/*
 * The completion ring: one vCPU thread puts context indices in, the loop thread takes them out.
 *
 * A context is in at most one ring at a time and every ring holds all contexts of its machine, so a put cannot fail in a
 * correct program; the caller treats failure as an internal error rather than dropping a completion silently.
 */
#ifndef AKVM_RING_H
#define AKVM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct akvm__ring {
	uint32_t *slots;
	uint32_t mask;
	/* Written by the consumer, read by the producer. */
	_Alignas(64) _Atomic uint32_t head;
	/* Written by the producer with sequential consistency: pairs with the doorbell's armed flag (see doorbell.h). */
	_Alignas(64) _Atomic uint32_t tail;
};

/* Capacity is rounded up to a power of two. 0 or -ENOMEM. */
int akvm__ring_create(struct akvm__ring *ring, uint32_t capacity);
void akvm__ring_free(struct akvm__ring *ring);
/* Thread: the producer. False when full. */
bool akvm__ring_put(struct akvm__ring *ring, uint32_t value);
/* Thread: the consumer. Returns how many were taken. */
uint32_t akvm__ring_take(struct akvm__ring *ring, uint32_t *values, uint32_t max);
bool akvm__ring_empty(const struct akvm__ring *ring);

#endif
