/*
 * One eventfd write per batch of completions.
 */
#include "ring/doorbell.h"

#include <errno.h>
#include <sys/eventfd.h>

#include "host/host.h"

/* No eventfd is known to be interrupted; this only bounds a loop. */
enum { WRITE_ATTEMPTS = 1000 };

int akvm__doorbell_create(struct akvm__doorbell *doorbell)
{
	doorbell->fd = AKVM__HOST->eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (doorbell->fd < 0)
		return akvm__fail("eventfd", errno);
	atomic_init(&doorbell->armed, 0);
	atomic_init(&doorbell->rings, 0);
	atomic_init(&doorbell->failures, 0);
	return 0;
}

void akvm__doorbell_free(struct akvm__doorbell *doorbell)
{
	if (doorbell->fd >= 0)
		AKVM__HOST->close(doorbell->fd);
	doorbell->fd = -1;
}

void akvm__doorbell_arm(struct akvm__doorbell *doorbell)
{
	atomic_store(&doorbell->armed, 1);
}

void akvm__doorbell_disarm(struct akvm__doorbell *doorbell)
{
	atomic_store(&doorbell->armed, 0);
}

void akvm__doorbell_ring(struct akvm__doorbell *doorbell)
{
	const uint64_t one = 1;
	unsigned attempts = 0;
	ssize_t written;

	if (!atomic_load(&doorbell->armed) || !atomic_exchange(&doorbell->armed, 0))
		return;
	do
		written = AKVM__HOST->write(doorbell->fd, &one, sizeof(one));
	while (written < 0 && errno == EINTR && ++attempts < WRITE_ATTEMPTS);
	if (written == sizeof(one)) {
		atomic_fetch_add_explicit(&doorbell->rings, 1, memory_order_relaxed);
		return;
	}
	/* EAGAIN means the counter is full, so the loop is woken all the same. Otherwise stay armed: the next completion tries
	 * again, and the loop's own timer bounds the wait when there is none. */
	if (errno != EAGAIN) {
		atomic_fetch_add_explicit(&doorbell->failures, 1, memory_order_relaxed);
		atomic_store(&doorbell->armed, 1);
	}
}
