/*
 * FP and vector state, moved only when a vCPU changes context: a vCPU may remember whose state its registers hold, and whoever
 * needs that state elsewhere takes it out, under that vCPU's lock.
 */
#include "machine/machine.h"
#include "vcpu/vcpu.h"

int akvm__context_save_fp(struct akvm__context *context)
{
	struct akvm__vcpu *holder = atomic_load(&context->resident);
	int error = 0;

	if (!holder)
		return 0;
	pthread_mutex_lock(&holder->lock);
	/* Looked at again: the holder may have put it back meanwhile. */
	if (holder->resident == context)
		error = holder->machine->driver->take_vector_state(holder);
	pthread_mutex_unlock(&holder->lock);
	return error;
}

void akvm__context_forget_fp(struct akvm__context *context)
{
	struct akvm__vcpu *holder = atomic_load(&context->resident);

	if (!holder)
		return;
	pthread_mutex_lock(&holder->lock);
	if (holder->resident == context) {
		holder->resident = NULL;
		atomic_store(&context->resident, NULL);
	}
	pthread_mutex_unlock(&holder->lock);
}
