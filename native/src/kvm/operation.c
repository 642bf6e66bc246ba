/*
 * Ring-0 operations: the named stubs that do something and halt. Idempotent by construction, so an interrupted one is
 * simply run again by whoever asked for it.
 */
#include <errno.h>
#include <string.h>

#include "host/host.h"
#include "kvm/kvm.h"
#include "kvm/segments.h"

enum { VECTOR_DB = 1 };

static const uint32_t stubs[] = {
	[AKVM_OPERATION_READ_MSR] = AKVM_STUB_READ_MSR,
	[AKVM_OPERATION_WRITE_MSR] = AKVM_STUB_WRITE_MSR,
	[AKVM_OPERATION_FLUSH] = AKVM_STUB_FLUSH,
	[AKVM_OPERATION_NOTHING] = AKVM_STUB_NOTHING,
};

int akvm__kvm_run_stub(struct akvm__vcpu *vcpu, uint32_t stub, struct akvm_registers *registers, uint32_t *vector)
{
	struct kvm_regs *entry = &vcpu->run->s.regs.regs;
	struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;
	struct akvm__run_outcome outcome;
	struct akvm__context scratch = { .machine = vcpu->machine };

	if ((sregs->cs.selector & 3) != 0) {
		sregs->cs = akvm__kernel_code;
		sregs->ss = akvm__kernel_data;
		vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	}
	memcpy(entry, registers, sizeof(*entry));
	entry->rip = AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + stub;
	entry->rsp = vcpu->area_address + AKVM_VCPU_STACKS + AKVM_VCPU_STACK_BYTES;
	entry->rflags = 2;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	akvm__count(&vcpu->counters.operations);
	/* A kick left over from an earlier run would end each attempt at once; reasons to leave are looked at afterwards. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	outcome = akvm__kvm_run_once(vcpu);
	if (outcome.result == AKVM_RUN_FAILED || outcome.result == AKVM_RUN_BUS)
		return akvm__fail("KVM_RUN of a ring-0 operation", outcome.host_errno ? outcome.host_errno : EIO);
	switch (akvm__kvm_decode(vcpu, &scratch, outcome.result == AKVM_RUN_HALTED)) {
	case AKVM_EVENT_OPERATION_DONE:
		memcpy(registers, entry, sizeof(*registers));
		return 0;
	case AKVM_EVENT_OPERATION_CUT:
		/* CR3 may or may not have been reloaded. */
		vcpu->cr3_space_id = 0;
		return -EINTR;
	case AKVM_EVENT_BROKEN:
		/* A debug trap left by whoever ran before: nobody's any more. */
		if (scratch.pub.detail == AKVM_FAILURE_RING0 && scratch.pub.vector == VECTOR_DB) {
			akvm__kvm_forget_cr3(vcpu);
			return -EINTR;
		}
		if (scratch.pub.detail == AKVM_FAILURE_RING0) {
			*vector = scratch.pub.vector;
			return akvm__fail("ring-0 operation", EFAULT);
		}
		break;
	default:
		break;
	}
	vcpu->must_reset = true;
	return akvm__fail("ring-0 operation", EIO);
}

int akvm__kvm_operate(struct akvm__vcpu *vcpu, uint32_t operation, struct akvm_registers *registers, uint32_t *vector)
{
	int error;

	if (operation == AKVM_OPERATION_FLUSH) {
		/* The kernel root: safe whatever happened to the space that was current. */
		registers->rax = akvm__mm_kernel_root(vcpu->machine->mm);
		akvm__kvm_forget_cr3(vcpu);
	}
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	error = vcpu->must_reset ? akvm__kvm_reset(vcpu) : 0;
	return error ? error : akvm__kvm_run_stub(vcpu, stubs[operation], registers, vector);
}
