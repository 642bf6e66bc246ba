/*
 * One KVM_RUN, and a name for everything it can come back with. Whatever must not happen ends the context and resets the
 * vCPU; nothing falls through and nothing a guest does ends the host.
 */
#include <errno.h>

#include "host/host.h"
#include "kvm/kvm.h"

/* KVM_RUN may ask to be called again for a moment (a busy page, a dying vCPU thread elsewhere). */
enum { AGAIN_MAX = 1000, EVENT_RERUNS_MAX = 64 };

static struct akvm__run_outcome outcome(enum akvm__run_result result, uint32_t reason, int error, uint32_t failure)
{
	return (struct akvm__run_outcome){ .result = result, .reason = reason, .host_errno = error, .failure = failure };
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

struct akvm__run_outcome akvm__kvm_run_once(struct akvm__vcpu *vcpu)
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

/* What KVM still has to inject: with the registers where it can, else by an ioctl. False when it does not tell. */
static bool read_events(struct akvm__vcpu *vcpu, struct kvm_vcpu_events *events)
{
	if (!vcpu->machine->sync_events)
		return AKVM__HOST->ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, events) == 0;
	*events = vcpu->run->s.regs.events;
	return true;
}

/* Nothing to inject, and no interrupt shadow: KVM does not report the events of INT n, INT3 and INTO, and a shadow left by MOV
 * SS would meet the next context's flags. The instruction raises again what is dropped here. */
static bool clear_events(struct akvm__vcpu *vcpu)
{
	struct kvm_vcpu_events none = { .flags = KVM_VCPUEVENT_VALID_SHADOW };

	if (!vcpu->machine->sync_events)
		return AKVM__HOST->ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &none) == 0;
	vcpu->run->s.regs.events = none;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_EVENTS;
	return true;
}

/*
 * An exit in the middle of an event's delivery leaves the event in KVM, to be injected at the next entry: into whatever
 * context comes next, unless it is let through to its stub first.
 */
static struct akvm__run_outcome flush_events(struct akvm__vcpu *vcpu, struct akvm__run_outcome outcome)
{
	struct kvm_vcpu_events events;

	for (unsigned i = 0; i < EVENT_RERUNS_MAX && outcome.result == AKVM_RUN_INTERRUPTED; i++) {
		if (!read_events(vcpu, &events))
			break;
		if (!(events.exception.injected || events.exception.pending || events.interrupt.injected ||
		      events.nmi.injected)) {
			if (!clear_events(vcpu))
				break;
			return outcome;
		}
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		outcome = akvm__kvm_run_once(vcpu);
	}
	/* Unknown or stubborn: forget it. The guest's instruction will raise it again. */
	if (outcome.result == AKVM_RUN_INTERRUPTED)
		vcpu->must_reset = true;
	return outcome;
}

struct akvm__run_outcome akvm__kvm_run(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm__run_outcome result = akvm__kvm_run_once(vcpu);

	(void)context;
	return result.result == AKVM_RUN_INTERRUPTED ? flush_events(vcpu, result) : result;
}
