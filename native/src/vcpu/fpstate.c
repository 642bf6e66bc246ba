/*
 * FP and vector state, moved only when a vCPU changes context: a vCPU remembers whose state its registers hold, and whoever
 * needs that state elsewhere takes it out, under that vCPU's lock.
 *
 * KVM_GET_XSAVE on another thread's vCPU waits for its KVM_RUN to end, but a vCPU inside KVM_RUN holds the state of the
 * context it runs, which by definition nobody else is asking for.
 */
#include <errno.h>
#include <string.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

#ifndef KVM_GET_XSAVE2
#define KVM_GET_XSAVE2 _IOR(KVMIO, 0xcf, struct kvm_xsave)
#endif

/* Ring 3 cannot set reserved bits of MXCSR, but an emulated processor was seen to let XRSTOR do it; KVM refuses such an image. */
static void clear_reserved_mxcsr(uint8_t *image)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, image + AKVM_XSAVE_MXCSR, sizeof(mxcsr));
	mxcsr &= AKVM_MXCSR_VALID;
	memcpy(image + AKVM_XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
}

/* Precondition: vcpu->lock held, vcpu->resident not NULL. */
static int take_out(struct akvm__vcpu *vcpu)
{
	struct akvm__context *owner = vcpu->resident;
	int result;

	if (vcpu->machine->capabilities.xsave_bytes > sizeof(struct kvm_xsave))
		result = AKVM__HOST->ioctl(vcpu->fd, KVM_GET_XSAVE2, owner->xsave);
	else
		result = AKVM__HOST->ioctl(vcpu->fd, KVM_GET_XSAVE, owner->xsave);
	if (result < 0)
		return akvm__fail("KVM_GET_XSAVE", errno);
	clear_reserved_mxcsr(owner->xsave);
	vcpu->resident = NULL;
	atomic_store(&owner->resident, NULL);
	return 0;
}

int akvm__context_save_fp(struct akvm__context *context)
{
	struct akvm__vcpu *holder = atomic_load(&context->resident);
	int error = 0;

	if (!holder)
		return 0;
	pthread_mutex_lock(&holder->lock);
	/* Looked at again: the holder may have put it back meanwhile. */
	if (holder->resident == context)
		error = take_out(holder);
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

int akvm__vcpu_load_fp(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	int error = 0;

	if (atomic_load(&context->resident) == vcpu)
		return 0;
	error = akvm__context_save_fp(context);
	if (error)
		return error;
	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->resident)
		error = take_out(vcpu);
	if (!error && AKVM__HOST->ioctl(vcpu->fd, KVM_SET_XSAVE, context->xsave) < 0)
		error = akvm__fail("KVM_SET_XSAVE", errno);
	if (!error) {
		vcpu->resident = context;
		atomic_store(&context->resident, vcpu);
		akvm__count(&vcpu->counters.fp_switches);
	}
	pthread_mutex_unlock(&vcpu->lock);
	return error;
}
