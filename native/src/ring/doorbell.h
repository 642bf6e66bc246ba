/*
 * The doorbell: an eventfd that wakes the loop, written only when the loop said it is about to sleep.
 *
 * No wake-up is lost: the loop stores armed = 1, then looks at the rings; a vCPU thread stores the ring's tail, then looks at
 * armed. All four accesses are sequentially consistent, so at least one side sees the other's store.
 */
#ifndef AKVM_DOORBELL_H
#define AKVM_DOORBELL_H

#include <stdatomic.h>
#include <stdint.h>

struct akvm__doorbell {
	int fd;
	_Atomic uint32_t armed;
	_Atomic uint64_t rings, failures;
};

int akvm__doorbell_create(struct akvm__doorbell *doorbell);
void akvm__doorbell_free(struct akvm__doorbell *doorbell);
/* Thread: loop. The caller checks the rings afterwards, and disarms when it found something. */
void akvm__doorbell_arm(struct akvm__doorbell *doorbell);
void akvm__doorbell_disarm(struct akvm__doorbell *doorbell);
/* After a put into any ring. Thread: any. */
void akvm__doorbell_ring(struct akvm__doorbell *doorbell);

#endif
