/*
 * From a context to registers at a ring-0 stub. Nothing a guest controls reaches ring 0 unchecked: flags are masked,
 * selectors are ours, and a non-canonical RIP never meets SYSRET or IRET.
 */
#include <string.h>

#include "kvm/kvm.h"
#include "kvm/segments.h"

enum { FLAG_TF = 1 << 8, FLAG_RF = 1 << 16 };

/* SYSRET loads RIP from RCX and RFLAGS from R11 and cannot set RF or resume single-stepping faithfully. */
static bool sysret_restores(const struct akvm_registers *registers)
{
	return registers->rcx == registers->rip && registers->r11 == akvm__user_flags(registers->rflags) &&
	       !(registers->rflags & (FLAG_TF | FLAG_RF));
}

static bool same_segment(const struct kvm_segment *loaded, uint16_t selector)
{
	return loaded->selector == selector;
}

/* Segments go through KVM_SET_SREGS's synced twin, and only when they differ from what the vCPU holds. */
static void load_segments(struct akvm__vcpu *vcpu, const struct akvm__context *context)
{
	struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;
	const struct akvm__selectors *selectors = &context->selectors;

	if ((sregs->cs.selector & 3) == 0 && sregs->fs.base == context->pub.fs_base && sregs->gs.base == context->pub.gs_base &&
	    same_segment(&sregs->ds, selectors->ds) && same_segment(&sregs->es, selectors->es) &&
	    same_segment(&sregs->fs, selectors->fs) && same_segment(&sregs->gs, selectors->gs))
		return;
	sregs->cs = akvm__kernel_code;
	sregs->ss = akvm__kernel_data;
	sregs->ds = akvm__user_data(selectors->ds, 0);
	sregs->es = akvm__user_data(selectors->es, 0);
	sregs->fs = akvm__user_data(selectors->fs, context->pub.fs_base);
	sregs->gs = akvm__user_data(selectors->gs, context->pub.gs_base);
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

static void to_kvm(struct kvm_regs *to, const struct akvm_registers *from)
{
	_Static_assert(sizeof(struct kvm_regs) == sizeof(struct akvm_registers), "same order, same size");
	memcpy(to, from, sizeof(*to));
}

void akvm__kvm_load(struct akvm__vcpu *vcpu, struct akvm__context *context, bool load_cr3, uint64_t cr3)
{
	const struct akvm_registers *registers = &context->pub.registers;
	struct kvm_regs *entry = &vcpu->run->s.regs.regs;
	const uint64_t text = AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET;
	uint64_t frame[6] = { registers->rax, registers->rip, AKVM_USER_CS, akvm__user_flags(registers->rflags),
			      registers->rsp, AKVM_USER_SS };
	uint64_t top = AKVM_VCPU_STACKS + AKVM_VCPU_STACK_BYTES;
	bool partial =
		context->restore == AKVM_RESTORE_PARTIAL || (context->restore == AKVM_RESTORE_AUTO && sysret_restores(registers));

	load_segments(vcpu, context);
	to_kvm(entry, registers);
	entry->rflags = 2;
	vcpu->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	if (partial && !load_cr3) {
		entry->rip = text + AKVM_STUB_SYSRET;
		entry->rcx = registers->rip;
		entry->r11 = akvm__user_flags(registers->rflags);
		return;
	}
	if (partial) {
		/* The IRET stub stands in, with SYSRET's effect on RCX and R11. */
		entry->rcx = registers->rip;
		entry->r11 = akvm__user_flags(registers->rflags);
	}
	memcpy(vcpu->area + top - sizeof(frame), frame, sizeof(frame));
	if (load_cr3) {
		entry->rax = cr3;
		entry->rsp = vcpu->area_address + top - sizeof(frame);
		entry->rip = text + AKVM_STUB_SPACE;
	} else {
		entry->rsp = vcpu->area_address + top - sizeof(frame) + sizeof(frame[0]);
		entry->rip = text + AKVM_STUB_IRET;
	}
}
