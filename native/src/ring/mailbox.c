/*
 * A small deque under a mutex: exits cost tens of microseconds, so an uncontended lock is noise, and a lock is what makes
 * stealing and withdrawing easy to reason about.
 */
#include "ring/mailbox.h"

#include <string.h>
#include <time.h>

#include "host/host.h"
#include "vcpu/context.h"

void akvm__mailbox_create(struct akvm__mailbox *mailbox)
{
	pthread_condattr_t attributes;

	memset(mailbox, 0, sizeof(*mailbox));
	pthread_mutex_init(&mailbox->mutex, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&mailbox->wake, &attributes);
	pthread_condattr_destroy(&attributes);
}

void akvm__mailbox_free(struct akvm__mailbox *mailbox)
{
	pthread_cond_destroy(&mailbox->wake);
	pthread_mutex_destroy(&mailbox->mutex);
}

static uint32_t length(struct akvm__mailbox *mailbox)
{
	return atomic_load_explicit(&mailbox->length, memory_order_relaxed);
}

static struct akvm__context **slot(struct akvm__mailbox *mailbox, uint32_t position)
{
	return &mailbox->items[(mailbox->head + position) % AKVM_MAILBOX_CAPACITY];
}

/* Precondition: mutex held, position < length. */
static struct akvm__context *remove_at(struct akvm__mailbox *mailbox, uint32_t position)
{
	struct akvm__context *context = *slot(mailbox, position);
	uint32_t count = length(mailbox);

	if (position == 0) {
		mailbox->head = (mailbox->head + 1) % AKVM_MAILBOX_CAPACITY;
	} else {
		for (uint32_t i = position; i + 1 < count; i++)
			*slot(mailbox, i) = *slot(mailbox, i + 1);
	}
	atomic_store(&mailbox->length, count - 1);
	atomic_fetch_sub(context->pinned ? &mailbox->pinned : &mailbox->stealable, 1);
	return context;
}

/* Precondition: mutex held, position <= length < capacity. */
static void insert_at(struct akvm__mailbox *mailbox, uint32_t position, struct akvm__context *context)
{
	for (uint32_t i = length(mailbox); i > position; i--)
		*slot(mailbox, i) = *slot(mailbox, i - 1);
	*slot(mailbox, position) = context;
}

bool akvm__mailbox_put(struct akvm__mailbox *mailbox, struct akvm__context *context)
{
	bool put = false, wake;
	uint32_t count;

	pthread_mutex_lock(&mailbox->mutex);
	count = length(mailbox);
	if (count < AKVM_MAILBOX_CAPACITY) {
		insert_at(mailbox, context->pinned ? atomic_load(&mailbox->pinned) : count, context);
		atomic_store(&mailbox->length, count + 1);
		atomic_fetch_add(context->pinned ? &mailbox->pinned : &mailbox->stealable, 1);
		put = true;
	}
	wake = atomic_load(&mailbox->sleeping);
	pthread_mutex_unlock(&mailbox->mutex);
	if (put && wake)
		pthread_cond_signal(&mailbox->wake);
	return put;
}

struct akvm__context *akvm__mailbox_take(struct akvm__mailbox *mailbox)
{
	struct akvm__context *context = NULL;

	if (atomic_load(&mailbox->length) == 0)
		return NULL;
	pthread_mutex_lock(&mailbox->mutex);
	if (length(mailbox))
		context = remove_at(mailbox, 0);
	pthread_mutex_unlock(&mailbox->mutex);
	return context;
}

struct akvm__context *akvm__mailbox_steal(struct akvm__mailbox *mailbox)
{
	struct akvm__context *context = NULL;

	if (atomic_load(&mailbox->stealable) == 0)
		return NULL;
	pthread_mutex_lock(&mailbox->mutex);
	for (uint32_t i = 0; i < length(mailbox) && !context; i++)
		if (!(*slot(mailbox, i))->pinned)
			context = remove_at(mailbox, i);
	pthread_mutex_unlock(&mailbox->mutex);
	return context;
}

bool akvm__mailbox_withdraw(struct akvm__mailbox *mailbox, struct akvm__context *context)
{
	bool found = false;

	pthread_mutex_lock(&mailbox->mutex);
	for (uint32_t i = 0; i < length(mailbox) && !found; i++) {
		if (*slot(mailbox, i) == context) {
			remove_at(mailbox, i);
			found = true;
		}
	}
	pthread_mutex_unlock(&mailbox->mutex);
	return found;
}

void akvm__mailbox_sleep(struct akvm__mailbox *mailbox, uint64_t timeout_ns, bool (*work)(const void *argument),
			 const void *argument)
{
	uint64_t deadline_ns = akvm__now_ns() + timeout_ns;
	struct timespec deadline = { (time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u) };

	pthread_mutex_lock(&mailbox->mutex);
	atomic_store(&mailbox->sleeping, true);
	while (!length(mailbox) && !mailbox->notified && !work(argument))
		if (pthread_cond_timedwait(&mailbox->wake, &mailbox->mutex, &deadline))
			break;
	atomic_store(&mailbox->sleeping, false);
	mailbox->notified = false;
	pthread_mutex_unlock(&mailbox->mutex);
}

void akvm__mailbox_notify(struct akvm__mailbox *mailbox)
{
	pthread_mutex_lock(&mailbox->mutex);
	mailbox->notified = true;
	pthread_mutex_unlock(&mailbox->mutex);
	pthread_cond_signal(&mailbox->wake);
}
