/*
 * A vCPU's mailbox: contexts queued for it, first in first out, ring-0 operations before them. The loop puts; the owner takes; idle vCPUs steal what is not
 * pinned; the loop withdraws what it interrupts before it ran. The owner polls for a while before it sleeps, because waking
 * a halted core costs more than a guest exit.
 */
#ifndef AKVM_MAILBOX_H
#define AKVM_MAILBOX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct akvm__context;

enum { AKVM_MAILBOX_CAPACITY = 64 };

struct akvm__mailbox {
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	/* Guarded by mutex. */
	struct akvm__context *items[AKVM_MAILBOX_CAPACITY];
	uint32_t head;
	bool notified;
	/* Written under mutex, polled without. Pinned ones are operations: only the owner takes them, and no guest keeps it
	 * from doing so. */
	_Atomic uint32_t length, stealable, pinned;
	_Atomic bool sleeping;
};

void akvm__mailbox_create(struct akvm__mailbox *mailbox);
void akvm__mailbox_free(struct akvm__mailbox *mailbox);
/* False when full. Thread: loop. */
bool akvm__mailbox_put(struct akvm__mailbox *mailbox, struct akvm__context *context);
/* The oldest, or NULL. Thread: the owner. */
struct akvm__context *akvm__mailbox_take(struct akvm__mailbox *mailbox);
/* The oldest that is not pinned, or NULL. Thread: another vCPU. */
struct akvm__context *akvm__mailbox_steal(struct akvm__mailbox *mailbox);
/* True when it was still queued and now is not. Thread: loop. */
bool akvm__mailbox_withdraw(struct akvm__mailbox *mailbox, struct akvm__context *context);
/* Sleep until something is put or notified, at most timeout_ns; not at all when `work` finds some elsewhere once `sleeping` is
 * there to be seen. Thread: the owner. */
void akvm__mailbox_sleep(struct akvm__mailbox *mailbox, uint64_t timeout_ns, bool (*work)(const void *argument),
			 const void *argument);
/* Wake the owner without a context (to reap, to stop). Thread: any. */
void akvm__mailbox_notify(struct akvm__mailbox *mailbox);

#endif
