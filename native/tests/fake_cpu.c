/*
 * The fake processor: the instructions of the ring-0 stubs and of small guests, and events through the IDT (SDM vol. 3A ch. 6).
 *
 * No more than that: an instruction it does not know is #UD.
 */
#include "fake_cpu.h"

#include <errno.h>
#include <string.h>

#include "fake_kvm.h"

enum { VECTOR_DB = 1, VECTOR_BP = 3, VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_PF = 14 };
enum { FLAG_RF = 1 << 16, FLAGS_CLEARED = 1 << 8 | 1 << 14 | 1 << 16 | 1 << 17, FLAG_IF = 1 << 9, FLAG_ZF = 1 << 6 };
enum { MSR_MISC_FEATURES = 0x140, CR4_PCIDE = 1 << 17 };

/* What came of one instruction. */
enum result { DONE, FAULT, HALT };

unsigned fake_cpu_ring(const struct fake_cpu *cpu)
{
	return cpu->sregs.cs.selector & 3;
}

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static bool canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static enum result fault(struct fake_cpu *cpu, unsigned vector, uint32_t error_code)
{
	cpu->fault = (struct fake_fault){ .vector = vector, .error_code = error_code };
	return FAULT;
}

static struct kvm_segment code_segment(uint16_t selector)
{
	return (struct kvm_segment){
		.selector = selector, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1, .dpl = selector & 3
	};
}

static struct kvm_segment stack_segment(uint16_t selector)
{
	return (struct kvm_segment){ .selector = selector,
				     .limit = 0xffffffff,
				     .type = 3,
				     .present = 1,
				     .s = 1,
				     .db = 1,
				     .g = 1,
				     .dpl = selector & 3,
				     .unusable = selector < 4 };
}

/* A descriptor must be in the GDT and present for its selector to be loaded. */
static bool descriptor(struct fake_cpu *cpu, uint16_t selector, uint64_t *bits)
{
	return (selector & 0xfff8u) + 7 <= cpu->sregs.gdt.limit &&
	       fake_cpu_access_system(cpu, cpu->sregs.gdt.base + (selector & 0xfff8u), FAKE_READ, bits, sizeof(*bits)) &&
	       *bits >> 47 & 1;
}

/*
 * Through the gate for a vector. `software`: INT n, which needs the gate's DPL. A push that fails is a triple fault here.
 */
static enum result deliver(struct fake_cpu *cpu, struct fake_fault event, bool software)
{
	uint64_t gate[2], stack, frame[6];
	unsigned first = has_error_code(event.vector) && !software ? 0 : 1, ist;

	if (!fake_cpu_access_system(cpu, cpu->sregs.idt.base + event.vector * 16, FAKE_READ, gate, sizeof(gate)) ||
	    !(gate[0] >> 47 & 1)) {
		cpu->shut_down = true;
		return DONE;
	}
	if (software && (gate[0] >> 45 & 3) < fake_cpu_ring(cpu))
		return fault(cpu, VECTOR_GP, event.vector * 8 + 2);
	ist = gate[0] >> 32 & 7;
	stack = cpu->regs.rsp;
	if ((ist || fake_cpu_ring(cpu) == 3) &&
	    !fake_cpu_access_system(cpu, cpu->sregs.tr.base + (ist ? 36 + 8 * (ist - 1) : 4), FAKE_READ, &stack, 8)) {
		cpu->shut_down = true;
		return DONE;
	}
	frame[0] = event.error_code;
	frame[1] = cpu->regs.rip;
	frame[2] = cpu->sregs.cs.selector;
	/* Faults set RF in the image, traps do not. */
	frame[3] = cpu->regs.rflags | (software || event.vector == VECTOR_DB ? 0 : FLAG_RF);
	frame[4] = cpu->regs.rsp;
	frame[5] = cpu->sregs.ss.selector;
	stack = (stack & ~15ull) - (6 - first) * 8;
	if (event.vector == VECTOR_PF)
		cpu->sregs.cr2 = event.address;
	if (!fake_cpu_access_system(cpu, stack, FAKE_WRITE, frame + first, (6 - first) * 8)) {
		cpu->shut_down = true;
		return DONE;
	}
	if (fake_cpu_ring(cpu) == 3)
		cpu->sregs.ss = stack_segment(0);
	cpu->sregs.cs = code_segment(gate[0] >> 16 & 0xfff8);
	cpu->regs.rsp = stack;
	cpu->regs.rip = (gate[0] & 0xffff) | (gate[0] >> 48 << 16) | gate[1] << 32;
	cpu->regs.rflags &= ~(uint64_t)(FLAGS_CLEARED | FLAG_IF);
	return DONE;
}

/* Leaving ring 0 takes segments with it that ring 3 may not hold. */
static void drop_privileged_segments(struct fake_cpu *cpu)
{
	struct kvm_segment *segments[] = { &cpu->sregs.ds, &cpu->sregs.es, &cpu->sregs.fs, &cpu->sregs.gs };

	for (unsigned i = 0; i < 4; i++)
		if (!segments[i]->unusable && segments[i]->dpl < 3)
			*segments[i] = (struct kvm_segment){ .unusable = 1 };
}

static enum result iret(struct fake_cpu *cpu)
{
	uint64_t frame[5], bits;

	if (!fake_cpu_access(cpu, cpu->regs.rsp, FAKE_READ, frame, sizeof(frame)))
		return FAULT;
	if (!canonical(frame[0]))
		return fault(cpu, VECTOR_GP, 0);
	if (!descriptor(cpu, (uint16_t)frame[1], &bits) || !descriptor(cpu, (uint16_t)frame[4], &bits))
		return fault(cpu, VECTOR_GP, (uint32_t)frame[1] & 0xfffc);
	cpu->regs.rip = frame[0];
	cpu->sregs.cs = code_segment((uint16_t)frame[1]);
	cpu->regs.rflags = frame[2];
	cpu->regs.rsp = frame[3];
	cpu->sregs.ss = stack_segment((uint16_t)frame[4]);
	if (fake_cpu_ring(cpu) == 3)
		drop_privileged_segments(cpu);
	return DONE;
}

static enum result sysret(struct fake_cpu *cpu)
{
	/* As Intel does: a non-canonical return address faults in ring 0, on the user's stack. */
	if (!canonical(cpu->regs.rcx))
		return fault(cpu, VECTOR_GP, 0);
	cpu->regs.rip = cpu->regs.rcx;
	cpu->regs.rflags = (cpu->regs.r11 & 0x3c7fd7) | 2;
	cpu->sregs.cs = code_segment((uint16_t)((cpu->star >> 48) + 16) | 3);
	cpu->sregs.ss = stack_segment((uint16_t)((cpu->star >> 48) + 8) | 3);
	return DONE;
}

static enum result system_call(struct fake_cpu *cpu)
{
	cpu->regs.rcx = cpu->regs.rip;
	cpu->regs.r11 = cpu->regs.rflags;
	cpu->regs.rflags &= ~cpu->fmask;
	cpu->regs.rip = cpu->lstar;
	if (!fake_kind()->syscall_as_fault) {
		cpu->sregs.cs = code_segment(cpu->star >> 32 & 0xfffc);
		cpu->sregs.ss = stack_segment((cpu->star >> 32 & 0xfffc) + 8);
	}
	return DONE;
}

static enum result load_cr3(struct fake_cpu *cpu, uint64_t value)
{
	bool keep = value >> 63;

	if (keep && !(cpu->sregs.cr4 & CR4_PCIDE))
		return fault(cpu, VECTOR_GP, 0);
	cpu->sregs.cr3 = value & ~(1ull << 63);
	if (!keep)
		fake_cpu_flush(cpu, cpu->sregs.cr4 & CR4_PCIDE ? (int)(value & 0xfff) : -1);
	return DONE;
}

static enum result msr(struct fake_cpu *cpu, bool write)
{
	if (cpu->regs.rcx != MSR_MISC_FEATURES || !fake_kind()->cpuid_faulting)
		return fault(cpu, VECTOR_GP, 0);
	if (write) {
		cpu->misc_features = cpu->regs.rdx << 32 | (uint32_t)cpu->regs.rax;
	} else {
		cpu->regs.rax = (uint32_t)cpu->misc_features;
		cpu->regs.rdx = cpu->misc_features >> 32;
	}
	return DONE;
}

static enum result cpuid(struct fake_cpu *cpu)
{
	if (fake_cpu_ring(cpu) == 3 && cpu->misc_features & 1)
		return fault(cpu, VECTOR_GP, 0);
	cpu->regs.rax = 0x1234;
	cpu->regs.rbx = cpu->regs.rcx = cpu->regs.rdx = 0;
	return DONE;
}

static enum result move_words(struct fake_cpu *cpu)
{
	uint64_t word;

	if (cpu->regs.rcx == 0)
		return DONE;
	if (!fake_cpu_access(cpu, cpu->regs.rsi, FAKE_READ, &word, 8) ||
	    !fake_cpu_access(cpu, cpu->regs.rdi, FAKE_WRITE, &word, 8))
		return FAULT;
	cpu->regs.rsi += 8;
	cpu->regs.rdi += 8;
	/* One iteration at a time: an interrupt finds RIP at the instruction. */
	if (--cpu->regs.rcx)
		cpu->regs.rip -= 3;
	return DONE;
}

static enum result load(struct fake_cpu *cpu, __u64 *address, unsigned advance)
{
	if (!fake_cpu_access(cpu, *address, FAKE_READ, &cpu->regs.rax, 8))
		return FAULT;
	*address += advance;
	return DONE;
}

static enum result jump_unless_zero(struct fake_cpu *cpu, int8_t distance)
{
	if (!(cpu->regs.rflags & FLAG_ZF))
		cpu->regs.rip += (uint64_t)(int64_t)distance;
	return DONE;
}

static enum result add_rbx(struct fake_cpu *cpu, int64_t amount)
{
	cpu->regs.rbx += (uint64_t)amount;
	cpu->regs.rflags = (cpu->regs.rflags & ~(uint64_t)FLAG_ZF) | (cpu->regs.rbx ? 0 : FLAG_ZF);
	return DONE;
}

struct instruction {
	uint8_t code[3];
	uint8_t match, length; /* bytes compared, and in all */
	bool privileged;
	enum {
		SYSCALL,
		CR3_RAX,
		CR3_RDX,
		WRMSR,
		RDMSR,
		CPUID,
		CLEAR_RAX,
		SYSRET,
		RDI_RAX,
		RCX_RAX,
		STORE,
		LOAD,
		LODS,
		IRET,
		DEC,
		INC,
		POP_RAX,
		JNZ,
		JMP,
		INT3,
		INT,
		MOVS,
		HLT,
		NOP,
	} what;
};

static const struct instruction known[] = {
	{ { 0x0f, 0x05 }, 2, 2, false, SYSCALL },
	{ { 0x0f, 0x22, 0xd8 }, 3, 3, true, CR3_RAX },
	{ { 0x0f, 0x22, 0xda }, 3, 3, true, CR3_RDX },
	{ { 0x0f, 0x30 }, 2, 2, true, WRMSR },
	{ { 0x0f, 0x32 }, 2, 2, true, RDMSR },
	{ { 0x0f, 0xa2 }, 2, 2, false, CPUID },
	{ { 0x31, 0xc0 }, 2, 2, false, CLEAR_RAX },
	{ { 0x48, 0x0f, 0x07 }, 3, 3, true, SYSRET },
	{ { 0x48, 0x89, 0xc7 }, 3, 3, false, RDI_RAX },
	{ { 0x48, 0x89, 0xc1 }, 3, 3, false, RCX_RAX },
	{ { 0x48, 0x89, 0x37 }, 3, 3, false, STORE },
	{ { 0x48, 0x8b, 0x07 }, 3, 3, false, LOAD },
	{ { 0x48, 0xad }, 2, 2, false, LODS },
	{ { 0x48, 0xcf }, 2, 2, true, IRET },
	{ { 0x48, 0xff, 0xcb }, 3, 3, false, DEC },
	{ { 0x48, 0xff, 0xc3 }, 3, 3, false, INC },
	{ { 0x58 }, 1, 1, false, POP_RAX },
	{ { 0x75 }, 1, 2, false, JNZ },
	{ { 0xeb }, 1, 2, false, JMP },
	{ { 0xcc }, 1, 1, false, INT3 },
	{ { 0xcd }, 1, 2, false, INT },
	{ { 0xf3, 0x48, 0xa5 }, 3, 3, false, MOVS },
	{ { 0xf4 }, 1, 1, true, HLT },
	{ { 0x90 }, 1, 1, false, NOP },
};

static enum result execute(struct fake_cpu *cpu, const struct instruction *instruction, const uint8_t *code)
{
	struct kvm_regs *regs = &cpu->regs;

	switch (instruction->what) {
	case SYSCALL:
		return system_call(cpu);
	case CR3_RAX:
		return load_cr3(cpu, regs->rax);
	case CR3_RDX:
		return load_cr3(cpu, regs->rdx);
	case WRMSR:
		return msr(cpu, true);
	case RDMSR:
		return msr(cpu, false);
	case CPUID:
		return cpuid(cpu);
	case CLEAR_RAX:
		regs->rax = 0;
		return DONE;
	case SYSRET:
		return sysret(cpu);
	case RDI_RAX:
		regs->rdi = regs->rax;
		return DONE;
	case RCX_RAX:
		regs->rcx = regs->rax;
		return DONE;
	case STORE:
		return fake_cpu_access(cpu, regs->rdi, FAKE_WRITE, &regs->rsi, 8) ? DONE : FAULT;
	case LOAD:
		return load(cpu, &(__u64){ regs->rdi }, 0);
	case LODS:
		return load(cpu, &regs->rsi, 8);
	case IRET:
		return iret(cpu);
	case DEC:
		return add_rbx(cpu, -1);
	case INC:
		return add_rbx(cpu, 1);
	case POP_RAX:
		return load(cpu, &regs->rsp, 8);
	case JNZ:
		return jump_unless_zero(cpu, (int8_t)code[1]);
	case JMP:
		regs->rip += (uint64_t)(int64_t)(int8_t)code[1];
		return DONE;
	case INT3:
		return deliver(cpu, (struct fake_fault){ .vector = VECTOR_BP }, true);
	case INT:
		if (code[1] == 0x80 && fake_kind()->int80_as_ud)
			return fault(cpu, VECTOR_UD, 0);
		return deliver(cpu, (struct fake_fault){ .vector = code[1] }, true);
	case MOVS:
		return move_words(cpu);
	case HLT:
		return HALT;
	case NOP:
		return DONE;
	}
	return fault(cpu, VECTOR_UD, 0);
}

/* A byte at a time, so that nothing is fetched that is not executed. */
static enum result step(struct fake_cpu *cpu)
{
	uint64_t rip = cpu->regs.rip;
	uint8_t code[3] = { 0 };
	enum result result;

	for (unsigned bytes = 1; bytes <= 3; bytes++) {
		if (!fake_cpu_access(cpu, rip + bytes - 1, FAKE_FETCH, &code[bytes - 1], 1))
			return FAULT;
		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
			if (known[i].length != bytes || memcmp(known[i].code, code, known[i].match))
				continue;
			if (known[i].privileged && fake_cpu_ring(cpu) != 0)
				return fault(cpu, VECTOR_GP, 0);
			cpu->regs.rip += bytes;
			cpu->regs.rflags &= ~(uint64_t)FLAG_RF;
			result = execute(cpu, &known[i], code);
			if (result == FAULT)
				cpu->regs.rip = rip;
			return result;
		}
	}
	return fault(cpu, VECTOR_UD, 0);
}

static int leave(struct fake_cpu *cpu, uint32_t reason)
{
	cpu->run->exit_reason = reason;
	return 0;
}

/* -1: the guest goes on. */
static int scripted(struct fake_cpu *cpu)
{
	struct fake_step next = fake_ask_script(cpu);

	switch (next.action) {
	case FAKE_CONTINUE:
		return -1;
	case FAKE_SYSCALL:
		cpu->regs.rip += 2;
		cpu->regs.rflags &= ~(uint64_t)FLAG_RF;
		system_call(cpu);
		return -1;
	case FAKE_INT:
		cpu->regs.rip += 2;
		if (deliver(cpu, next.fault, true) == FAULT) {
			cpu->regs.rip -= 2;
			deliver(cpu, cpu->fault, false);
		}
		return -1;
	case FAKE_EXCEPTION:
		cpu->events.exception.injected = 1;
		cpu->events.exception.nr = (uint8_t)next.fault.vector;
		cpu->events.exception.error_code = next.fault.error_code;
		cpu->sregs.cr2 = next.fault.vector == VECTOR_PF ? next.fault.address : cpu->sregs.cr2;
		return -1;
	case FAKE_SPIN:
		return fake_spin(cpu);
	case FAKE_EXIT:
		cpu->completion = next.exit_reason == KVM_EXIT_IO || next.exit_reason == KVM_EXIT_MMIO;
		cpu->shut_down = next.exit_reason == KVM_EXIT_SHUTDOWN;
		return leave(cpu, next.exit_reason);
	case FAKE_ERROR:
		return next.error;
	}
	return -1;
}

static bool spins_in_place(struct fake_cpu *cpu)
{
	uint8_t code[2];

	return fake_cpu_ring(cpu) == 3 && fake_cpu_access(cpu, cpu->regs.rip, FAKE_FETCH, code, 2) && code[0] == 0xeb &&
	       code[1] == 0xfe;
}

/* An event that waits inside KVM, at the start of an entry. True: cut while it was delivered. */
static bool deliver_waiting(struct fake_cpu *cpu)
{
	struct fake_fault event = { cpu->events.exception.nr, cpu->events.exception.error_code, cpu->sregs.cr2 };

	if (cpu->debug_pending) {
		cpu->debug_pending = false;
		deliver(cpu, (struct fake_fault){ .vector = VECTOR_DB }, false);
	}
	if (!cpu->events.exception.injected)
		return false;
	if (fake_cut_event(cpu, event.vector))
		return true;
	cpu->events.exception.injected = 0;
	deliver(cpu, event, false);
	return false;
}

int fake_cpu_run(struct fake_cpu *cpu)
{
	int ended;

	for (;;) {
		if (cpu->shut_down)
			return leave(cpu, KVM_EXIT_SHUTDOWN);
		if (fake_kick_pending(cpu) || deliver_waiting(cpu) || fake_cut_here(cpu))
			return EINTR;
		if (fake_scripted(cpu)) {
			ended = scripted(cpu);
			if (ended >= 0)
				return ended;
			continue;
		}
		cpu->hole = 0;
		cpu->bus = false;
		if (spins_in_place(cpu))
			return fake_spin(cpu);
		switch (step(cpu)) {
		case HALT:
			return leave(cpu, KVM_EXIT_HLT);
		case FAULT:
			if (cpu->bus)
				return EFAULT;
			if (cpu->hole) {
				cpu->completion = true;
				return leave(cpu, KVM_EXIT_MMIO);
			}
			cpu->events.exception.injected = 1;
			cpu->events.exception.nr = (uint8_t)cpu->fault.vector;
			cpu->events.exception.error_code = cpu->fault.error_code;
			if (cpu->fault.vector == VECTOR_PF)
				cpu->sregs.cr2 = cpu->fault.address;
			break;
		case DONE:
			break;
		}
	}
}
