/*
 * FP and vector state of KVM's vCPUs (vcpu/fpstate.c says when it moves).
 *
 * KVM_GET_XSAVE on another thread's vCPU waits for its KVM_RUN to end, but a vCPU inside KVM_RUN holds the state of the
 * context it runs, which by definition nobody else is asking for.
 */
#include <errno.h>
#include <string.h>

#include "host/host.h"
#include "kvm/kvm.h"

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

int akvm__kvm_take_vector_state(struct akvm__vcpu *vcpu)
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

int akvm__kvm_load_fp(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	int error = 0;

	if (atomic_load(&context->resident) == vcpu)
		return 0;
	error = akvm__context_save_fp(context);
	if (error)
		return error;
	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->resident)
		error = akvm__kvm_take_vector_state(vcpu);
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
