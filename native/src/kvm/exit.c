/*
 * From registers at an exit to an event: which stub the vCPU stands at, and what ring 3 looked like when it left.
 */
#include <string.h>

#include "kvm/kvm.h"

enum { VECTOR_DB = 1, VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_PF = 14 };
/* Present, user, instruction fetch: how SYSCALL arrives where ring 0 is emulated (a fetch from LSTAR at CPL 3). */
enum { SYSCALL_FETCH = 0x15 };

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30;
}

struct frame {
	uint64_t error_code, rip, cs, rflags, rsp, ss;
};

/* The hardware frame RSP points to, which must lie in one of this vCPU's stacks. */
static bool read_frame(const struct akvm__vcpu *vcpu, uint64_t rsp, bool error_code, struct frame *frame)
{
	uint64_t offset = rsp - vcpu->area_address;
	size_t bytes = sizeof(*frame) - (error_code ? 0 : sizeof(frame->error_code));

	if (offset < AKVM_VCPU_STACKS || offset > AKVM_VCPU_STACKS + 4 * AKVM_VCPU_STACK_BYTES - bytes || offset % 8)
		return false;
	frame->error_code = 0;
	memcpy((uint8_t *)frame + sizeof(*frame) - bytes, vcpu->area + offset, bytes);
	return true;
}

static void save_registers(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	const struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;

	memcpy(&context->pub.registers, &vcpu->run->s.regs.regs, sizeof(context->pub.registers));
	context->pub.registers.rflags = akvm__user_flags(context->pub.registers.rflags);
	/* It may have left between any two instructions, and goes on with every register. */
	context->restore = AKVM_RESTORE_AUTO;
	context->pub.fs_base = sregs->fs.base;
	context->pub.gs_base = sregs->gs.base;
	context->selectors =
		(struct akvm__selectors){ sregs->ds.selector, sregs->es.selector, sregs->fs.selector, sregs->gs.selector };
}

static enum akvm__event broken(struct akvm__context *context, enum akvm_failure failure)
{
	context->pub.detail = failure;
	return AKVM_EVENT_BROKEN;
}

/* Precondition: registers saved, the user's RSP in place. R11 is the guest's own choice where it can jump to LSTAR itself. */
static enum akvm__event system_call(struct akvm__context *context)
{
	struct akvm_registers *registers = &context->pub.registers;

	registers->rip = registers->rcx;
	registers->rflags = akvm__user_flags(registers->r11);
	context->restore = context->pub.restore;
	context->pub.vector = 256;
	return AKVM_EVENT_SYSCALL;
}

/*
 * SYSCALL in compatibility mode, which no segment of ours leads to, on a host that lends ring 3 its own 32-bit segment and cuts
 * the entry's address to 32 bits. Nothing can be mapped there (layout.h), so ring 0 stopped at its first fetch: what the
 * guest gets is the invalid opcode that Intel's CPUs raise (SDM vol. 2B, SYSCALL).
 */
static enum akvm__event compatibility_syscall(struct akvm__vcpu *vcpu, struct akvm__context *context, uint64_t rsp)
{
	enum { SYSCALL_BYTES = 2 };
	struct akvm_registers *registers = &context->pub.registers;

	save_registers(vcpu, context);
	registers->rip = (uint32_t)(registers->rcx - SYSCALL_BYTES);
	registers->rflags = akvm__user_flags(registers->r11);
	registers->rsp = rsp;
	context->pub.vector = VECTOR_UD;
	context->pub.error_code = 0;
	context->pub.address = 0;
	return AKVM_EVENT_EXCEPTION;
}

/*
 * SYSCALL under TF, on a CPU that traps once more although the entry's mask has cleared TF: ring 0 stands at its entry and has
 * touched nothing. The guest meets its own trap behind the call, when R11 brings TF back.
 */
static enum akvm__event stepped_syscall(struct akvm__vcpu *vcpu, struct akvm__context *context, uint64_t rsp)
{
	save_registers(vcpu, context);
	context->pub.registers.rsp = rsp;
	return system_call(context);
}

static enum akvm__event exception(struct akvm__vcpu *vcpu, struct akvm__context *context, unsigned vector)
{
	const uint64_t syscall_entry = AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + AKVM_STUB_SYSCALL;
	struct akvm_registers *registers = &context->pub.registers;
	struct frame frame;

	context->pub.vector = vector;
	if (!read_frame(vcpu, vcpu->run->s.regs.regs.rsp, has_error_code(vector), &frame))
		return broken(context, AKVM_FAILURE_STATE);
	context->pub.error_code = (uint32_t)frame.error_code;
	context->pub.address = vector == VECTOR_PF ? vcpu->run->s.regs.sregs.cr2 : 0;
	if ((frame.cs & 3) != 3) {
		if (vector == VECTOR_PF && frame.rip == (uint32_t)syscall_entry)
			return compatibility_syscall(vcpu, context, frame.rsp);
		if (vector == VECTOR_DB && frame.rip == syscall_entry)
			return stepped_syscall(vcpu, context, frame.rsp);
		return broken(context, AKVM_FAILURE_RING0);
	}
	save_registers(vcpu, context);
	registers->rip = frame.rip;
	registers->rflags = akvm__user_flags(frame.rflags);
	registers->rsp = frame.rsp;
	if (frame.cs != AKVM_USER_CS) {
		/* Another code segment than ours, so another mode or a host's own selector: as if the jump there had faulted. */
		context->pub.vector = VECTOR_GP;
		context->pub.error_code = (uint32_t)frame.cs & 0xfffc;
		return AKVM_EVENT_EXCEPTION;
	}
	if (vector == VECTOR_PF && frame.rip == syscall_entry && frame.error_code == SYSCALL_FETCH &&
	    vcpu->machine->capabilities.syscall_as_fault)
		return system_call(context);
	if (vector == 0x80)
		return AKVM_EVENT_INT80;
	return AKVM_EVENT_EXCEPTION;
}

static enum akvm__event interrupted_in_ring3(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	save_registers(vcpu, context);
	return AKVM_EVENT_INTERRUPTED;
}

enum akvm__event akvm__kvm_decode(struct akvm__vcpu *vcpu, struct akvm__context *context, bool halted)
{
	uint64_t rip = vcpu->run->s.regs.regs.rip;
	uint64_t offset = rip - (AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET) - (halted ? 1 : 0);

	/* Ring 3 may stand at any address, a stub's too, when the fetch there has not faulted yet: it will, when the context runs
	 * again. Only where SYSCALL arrives that way does one address mean something. */
	if (!halted && (vcpu->run->s.regs.sregs.cs.selector & 3) == 3 &&
	    !(offset == AKVM_STUB_SYSCALL && vcpu->machine->capabilities.syscall_as_fault))
		return interrupted_in_ring3(vcpu, context);
	if (offset < AKVM_STUB_SYSCALL) {
		if (offset % AKVM_STUB_BYTES == 0)
			return exception(vcpu, context, (unsigned)(offset / AKVM_STUB_BYTES));
	} else if (offset == AKVM_STUB_SYSCALL) {
		save_registers(vcpu, context);
		return system_call(context);
	} else if (offset < AKVM_STUB_EDIT) {
		if (!halted) {
			/* Between MOV CR3 and IRET nobody knows which root is loaded. */
			if (offset >= AKVM_STUB_SPACE)
				akvm__kvm_forget_cr3(vcpu);
			return AKVM_EVENT_NOT_ENTERED;
		}
	} else if (offset < AKVM_STUB_END) {
		return halted ? AKVM_EVENT_OPERATION_DONE : AKVM_EVENT_OPERATION_CUT;
	}
	return broken(context, AKVM_FAILURE_STATE);
}
