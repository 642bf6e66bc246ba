/*
 * One KVM_RUN, and a name for everything it can come back with. Whatever must not happen ends the context and resets the
 * vCPU; nothing falls through and nothing a guest does ends the host.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

/* KVM_RUN may ask to be called again for a moment (a busy page, a dying vCPU thread elsewhere). */
enum { AGAIN_MAX = 1000 };

static struct akvm__run_outcome outcome(enum akvm__run_result result, uint32_t reason, int error, uint32_t failure)
{
	return (struct akvm__run_outcome){ .result = result, .kvm_exit_reason = reason, .host_errno = error, .failure = failure };
}

static struct akvm__run_outcome run_failed(struct akvm__vcpu *vcpu, int error)
{
	switch (error) {
	case EINTR:
		return outcome(AKVM_RUN_INTERRUPTED, KVM_EXIT_INTR, 0, 0);
	case EFAULT:
		return outcome(AKVM_RUN_BUS, vcpu->run->exit_reason, EFAULT, 0);
	case ENOMEM:
	case ENOSPC:
	case EAGAIN:
	case ENOSYS:
	case EIO:
	default:
		return outcome(AKVM_RUN_FAILED, vcpu->run->exit_reason, error, AKVM_FAILURE_RUN);
	}
}

static struct akvm__run_outcome run_returned(struct akvm__vcpu *vcpu)
{
	uint32_t reason = vcpu->run->exit_reason;

	switch (reason) {
	case KVM_EXIT_HLT:
		return outcome(AKVM_RUN_HALTED, reason, 0, 0);
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		/* No window is ever requested; treated as the interruption it reports. */
		return outcome(AKVM_RUN_INTERRUPTED, reason, 0, 0);
	case KVM_EXIT_SHUTDOWN:       /* triple fault */
	case KVM_EXIT_FAIL_ENTRY:     /* the CPU refused the guest state */
	case KVM_EXIT_INTERNAL_ERROR: /* KVM could not emulate an instruction */
	case KVM_EXIT_MMIO:           /* a guest-physical hole, or a store to a read-only slot: our tables map neither */
	case KVM_EXIT_IO:             /* every port is closed to ring 3 */
	case KVM_EXIT_HYPERCALL:
	case KVM_EXIT_EXCEPTION:
	case KVM_EXIT_UNKNOWN:
	case KVM_EXIT_DEBUG:
	case KVM_EXIT_SYSTEM_EVENT:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_TPR_ACCESS:
	case KVM_EXIT_NMI:
	case KVM_EXIT_IOAPIC_EOI:
	case KVM_EXIT_HYPERV:
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
	case KVM_EXIT_DIRTY_RING_FULL:
	case KVM_EXIT_X86_BUS_LOCK:
	case KVM_EXIT_XEN:
	default:
		return outcome(AKVM_RUN_FAILED, reason, 0, AKVM_FAILURE_EXIT);
	}
}

struct akvm__run_outcome akvm__vcpu_run(struct akvm__vcpu *vcpu)
{
	struct akvm__run_outcome result;

	for (unsigned again = 0;; again++) {
		int error = AKVM__HOST->ioctl(vcpu->fd, KVM_RUN, NULL) < 0 ? errno : 0;

		if (error == EAGAIN && again < AGAIN_MAX)
			continue;
		result = error ? run_failed(vcpu, error) : run_returned(vcpu);
		break;
	}
	vcpu->run->kvm_dirty_regs = 0;
	if (result.result == AKVM_RUN_FAILED || result.result == AKVM_RUN_BUS)
		vcpu->must_reset = true;
	return result;
}
