/*
 * What ring 3 did reaches the caller exactly, on every kind of host and wherever KVM_RUN was interrupted on the way out; and
 * only what this very guest did.
 */
#include <string.h>

#include "rig.h"

enum { PF_FETCH_LSTAR = 0x15, SEEN = 0x10000000, RETURN_ADDRESS = 0x400100 };
#define TEXT (AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET)

static const struct fake_options kinds[] = {
	{ 0 },
	{ .syscall_as_fault = true, .int80_as_ud = true, .shadow_paging = true },
};

static struct fake_step one_step(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	return *(struct fake_step *)opaque;
}

/* Values that are addresses of nothing good wherever they can be. */
static void hostile_registers(struct akvm_context *context)
{
	context->registers = (struct akvm_registers){
		.rax = 0x8000000000000000,
		.rbx = AKVM_TABLES_WINDOW,
		.rcx = 0xdeadbeefdeadbeef,
		.rdx = UINT64_MAX,
		.rsi = TEXT,
		.rdi = 1,
		.rsp = AKVM_TABLES_WINDOW + 8,
		.rbp = 0x7fffffffffff,
		.r8 = 8,
		.r9 = 9,
		.r10 = 10,
		.r11 = 0x3f7fd7,
		.r12 = 12,
		.r13 = 13,
		.r14 = 14,
		.r15 = AKVM_KERNEL_BASE,
		.rip = FAKE_SCRIPT + 0x100,
		.rflags = 0x246,
	};
	context->fs_base = 0x7ffffffff000;
	context->gs_base = 0xffffffffffff0000;
}

static void same_but_rip_rcx_r11_flags(const struct akvm_registers *now, const struct akvm_registers *then)
{
	struct akvm_registers left = *now, right = *then;

	left.rip = left.rcx = left.r11 = left.rflags = right.rip = right.rcx = right.r11 = right.rflags = 0;
	T_EQUAL(memcmp(&left, &right, sizeof(left)), 0);
}

static void check_system_call(struct akvm_context *context, const struct akvm_context *before)
{
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(context->vector, 256);
	same_but_rip_rcx_r11_flags(&context->registers, &before->registers);
	T_EQUAL(context->registers.rip, before->registers.rip + 2);
	T_EQUAL(context->registers.rcx, context->registers.rip);
	T_EQUAL(context->registers.rflags, 0x246);
	T_EQUAL(context->registers.r11, 0x246);
	T_EQUAL(context->fs_base, before->fs_base);
	T_EQUAL(context->gs_base, before->gs_base);
}

static void system_calls(void)
{
	for (size_t i = 0; i < 2; i++) {
		struct fake_step step = { .action = FAKE_SYSCALL };
		struct akvm_context *context, before;
		struct rig rig;

		rig_open(&rig, &kinds[i], 1);
		fake_set_script(one_step, &step);
		context = rig_context(&rig, 0);
		hostile_registers(context);
		before = *context;
		rig_run(&rig, context, 0);
		check_system_call(context, &before);
		/* Interrupted at the entry point, before the stub's HLT or the fetch fault. */
		hostile_registers(context);
		fake_cut(AKVM_STUB_SYSCALL, 0, 1);
		rig_run(&rig, context, 0);
		T_EQUAL(fake_cuts(), 1);
		check_system_call(context, &before);
		/* Interrupted with the fetch fault delivered or about to be. */
		if (kinds[i].syscall_as_fault) {
			hostile_registers(context);
			fake_cut(14 * AKVM_STUB_BYTES, 0, 1);
			rig_run(&rig, context, 0);
			check_system_call(context, &before);
			hostile_registers(context);
			fake_cut_delivery(14, 1);
			rig_run(&rig, context, 0);
			check_system_call(context, &before);
			T_EQUAL(fake_cuts(), 3);
		}
		rig_close(&rig);
	}
}

static void old_system_calls(void)
{
	for (size_t i = 0; i < 2; i++) {
		struct akvm_context *context;
		struct rig rig;

		rig_open(&rig, &kinds[i], 1);
		context = rig_context(&rig, 0);
		rig_execute(&rig, context, 0, RIG_INT80, 7, 8);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->vector, 0x80);
		T_EQUAL(context->registers.rip, RIG_INT80 + 2);
		T_EQUAL(context->registers.rdi, 7);
		rig_close(&rig);
	}
}

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void check_fault(struct akvm_context *context, const struct akvm_context *before, unsigned vector, uint32_t error_code)
{
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, vector);
	T_EQUAL(context->error_code, error_code);
	T_EQUAL(context->address, vector == 14 ? SEEN : 0);
	T_EQUAL(context->detail, vector == 14 ? AKVM_FAULT_UNMAPPED : AKVM_FAULT_NONE);
	same_but_rip_rcx_r11_flags(&context->registers, &before->registers);
	T_EQUAL(context->registers.rip, before->registers.rip);
	T_EQUAL(context->registers.rcx, before->registers.rcx);
	T_EQUAL(context->registers.r11, before->registers.r11);
	T_EQUAL(context->registers.rflags & ~0x10000ull, before->registers.rflags);
}

/* Each vector, plainly, then with EINTR at its stub, then with EINTR while it is delivered: always this context's own. */
static void every_exception(void)
{
	for (size_t i = 0; i < 2; i++) {
		struct akvm_context *context, *other, before;
		struct fake_step step = { .action = FAKE_EXCEPTION };
		struct rig rig;

		rig_open(&rig, &kinds[i], 1);
		fake_set_script(one_step, &step);
		context = rig_context(&rig, 0);
		other = rig_context(&rig, 0);
		for (unsigned vector = 0; vector < 32; vector++) {
			uint32_t error_code = vector == 14 ? 6 : has_error_code(vector) ? 0x18 : 0;

			if (vector == 21 || vector == 29 || vector == 30)
				continue; /* #CP, #VC, #SX: not for this processor to raise */
			snprintf(t_context, sizeof(t_context), "host %zu, vector %u", i, vector);
			step.fault = (struct fake_fault){ vector, error_code, SEEN };
			for (unsigned way = 0; way < 3; way++) {
				unsigned cuts = fake_cuts();

				hostile_registers(context);
				before = *context;
				if (way == 1)
					fake_cut(vector * AKVM_STUB_BYTES, 0, 1);
				else if (way == 2)
					fake_cut_delivery(vector, 1);
				rig_run(&rig, context, 0);
				check_fault(context, &before, vector, error_code);
				T_EQUAL(fake_cuts() - cuts, way != 0);
				rig_execute(&rig, other, 0, RIG_SYSCALL, 1, 2);
				T_EQUAL(other->kind, AKVM_EXIT_SYSCALL);
			}
		}
		t_context[0] = 0;
		rig_close(&rig);
	}
}

static void every_software_interrupt(void)
{
	for (size_t i = 0; i < 2; i++) {
		struct fake_step step = { .action = FAKE_INT };
		struct akvm_context *context;
		struct rig rig;

		rig_open(&rig, &kinds[i], 1);
		fake_set_script(one_step, &step);
		context = rig_context(&rig, 0);
		for (unsigned vector = 0; vector < 256; vector++) {
			bool open = vector == 3 || vector == 4 || vector == 0x80;

			snprintf(t_context, sizeof(t_context), "host %zu, int %u", i, vector);
			step.fault.vector = vector;
			context->registers.rip = FAKE_SCRIPT;
			rig_run(&rig, context, 0);
			T_EQUAL(context->kind, vector == 0x80 ? AKVM_EXIT_SYSCALL : AKVM_EXIT_FAULT);
			T_EQUAL(context->vector, open ? vector : 13);
			T_EQUAL(context->error_code, open ? 0 : vector * 8 + 2);
			T_EQUAL(context->registers.rip, FAKE_SCRIPT + (open ? 2 : 0));
		}
		t_context[0] = 0;
		rig_close(&rig);
	}
}

static struct fake_step compatibility_mode(struct fake_cpu *cpu, void *opaque)
{
	cpu->sregs.cs.selector = AKVM_USER32_CS;
	cpu->sregs.cs.l = 0;
	return one_step(cpu, opaque);
}

static void foreign_code_segment(void)
{
	struct fake_step step = { .action = FAKE_EXCEPTION, .fault = { .vector = 6 } };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(compatibility_mode, &step);
	context = rig_context(&rig, 0);
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 13);
	T_EQUAL(context->error_code, AKVM_USER32_CS & ~3);
	rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	rig_close(&rig);
}

static struct fake_step trapped_at_the_entry(struct fake_cpu *cpu, void *opaque)
{
	cpu->regs.rcx = RETURN_ADDRESS;
	cpu->regs.r11 = 0x302;
	cpu->regs.rip = AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + AKVM_STUB_SYSCALL;
	cpu->sregs.cs.selector = AKVM_KERNEL_CS;
	cpu->sregs.cs.dpl = 0;
	cpu->sregs.ss.selector = AKVM_KERNEL_SS;
	return one_step(cpu, opaque);
}

/* A CPU that steps into ring 0: the system call is done all the same, with TF where its return finds it. */
static void stepped_system_call(void)
{
	struct fake_step step = { .action = FAKE_EXCEPTION, .fault = { .vector = 1 } };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(trapped_at_the_entry, &step);
	context = rig_context(&rig, 0);
	context->registers.rax = 39;
	context->registers.rsp = 0x7000;
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(context->vector, 256);
	T_EQUAL(context->registers.rax, 39);
	T_EQUAL(context->registers.rip, RETURN_ADDRESS);
	T_EQUAL(context->registers.rsp, 0x7000);
	T_EQUAL(context->registers.rflags, 0x302);
	rig_close(&rig);
}

/* HLT, says KVM, but RIP is in ring 3: the state makes no sense and ends that context only. */
static void halted_nowhere(void)
{
	struct fake_step step = { .action = FAKE_EXIT, .exit_reason = KVM_EXIT_HLT };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(one_step, &step);
	context = rig_context(&rig, 0);
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_ERROR);
	T_EQUAL(context->detail, AKVM_FAILURE_STATE);
	rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	rig_close(&rig);
}

/*
 * A guest jumps to a stub, its stack pointer at the frame that another guest's exit left on the vCPU's stack, and KVM_RUN is
 * interrupted before the jump faults. It gets its own page fault, and nothing of the other guest.
 */
static void kicked_after_a_jump_into_the_stubs(void)
{
	for (size_t i = 0; i < 2; i++) {
		struct akvm_context *victim, *guest;
		struct rig rig;

		rig_open(&rig, &kinds[i], 1);
		victim = rig_context(&rig, 0);
		guest = rig_context(&rig, 0);
		for (uint32_t offset = 0; offset < AKVM_STUB_END;
		     offset += offset < 0x100 || offset >= AKVM_STUB_SYSCALL - 1 ? 1 : 16) {
			unsigned cuts = fake_cuts();

			if (kinds[i].syscall_as_fault && offset == AKVM_STUB_SYSCALL)
				continue; /* a system call there: see below */
			snprintf(t_context, sizeof(t_context), "host %zu, text + %#x", i, offset);
			victim->registers.rsp = 0x5ec3e7000;
			rig_execute(&rig, victim, 0, RIG_LOAD, SEEN, 0);
			T_EQUAL(victim->vector, 14);
			guest->registers.rsp =
				AKVM_KERNEL_BASE + AKVM_VCPU_OFFSET + AKVM_VCPU_STACKS + AKVM_VCPU_STACK_BYTES - 48;
			fake_cut(offset, 0, 1);
			rig_execute(&rig, guest, 0, TEXT + offset, 0, 0);
			T_EQUAL(fake_cuts() - cuts, 1);
			T_EQUAL(guest->kind, AKVM_EXIT_FAULT);
			T_EQUAL(guest->vector, 14);
			T_EQUAL(guest->error_code, PF_FETCH_LSTAR);
			T_EQUAL(guest->address, TEXT + offset);
			T_EQUAL(guest->registers.rip, TEXT + offset);
			T_CHECK(guest->registers.rsp != 0x5ec3e7000);
		}
		t_context[0] = 0;
		rig_close(&rig);
	}
}

/*
 * Where SYSCALL arrives as a fetch fault, a jump to LSTAR is a system call too, with a return address nobody checked: it
 * must never meet SYSRET, whose fault in ring 0 would be delivered on the guest's stack pointer (CVE-2012-0217).
 */
static void system_call_returning_nowhere(void)
{
	struct akvm_answers *answers;
	struct akvm_context *context;
	uint64_t before, after;
	struct rig rig;

	rig_open(&rig, &kinds[1], 1);
	context = rig_context(&rig, 0);
	T_EQUAL(akvm_answers_create(&answers), 0);
	T_EQUAL(akvm_answers_set(answers, 39, 1), 0);
	T_EQUAL(akvm_context_answers(context, answers), 0);
	T_CHECK(fake_cpu_access_system(fake_vcpu(0), AKVM_TABLES_WINDOW + 0x8000 - 8, FAKE_READ, &before, 8));
	context->registers = (struct akvm_registers){ .rax = 39,
						      .rcx = 0x8000000000000000,
						      .r11 = 0x202,
						      .rflags = 0x202,
						      .rip = TEXT + AKVM_STUB_SYSCALL,
						      .rsp = AKVM_TABLES_WINDOW + 0x8000 };
	rig_run(&rig, context, 0);
	T_CHECK(fake_cpu_access_system(fake_vcpu(0), AKVM_TABLES_WINDOW + 0x8000 - 8, FAKE_READ, &after, 8));
	T_EQUAL(after, before);
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 13);
	T_EQUAL(context->registers.rip, 0x8000000000000000);
	T_EQUAL(context->registers.rax, 1);
	rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(akvm_context_answers(context, NULL), 0);
	akvm_answers_destroy(answers);
	rig_close(&rig);
}

static struct fake_step far_away(struct fake_cpu *cpu, void *opaque)
{
	(void)opaque;
	cpu->regs.rip = 0x0000900000000000;
	return (struct fake_step){ .action = FAKE_ERROR, .error = 4 /* EINTR */ };
}

/* Some processors let a jump to a non-canonical address happen and fault afterwards; an interrupt may come between. */
static void interrupted_at_a_non_canonical_address(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(far_away, NULL);
	context = rig_context(&rig, 0);
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 13);
	T_EQUAL(context->error_code, 0);
	T_EQUAL(context->registers.rip, 0x0000900000000000);
	rig_close(&rig);
}

int main(void)
{
	T_RUN(system_calls);
	T_RUN(old_system_calls);
	T_RUN(every_exception);
	T_RUN(every_software_interrupt);
	T_RUN(foreign_code_segment);
	T_RUN(stepped_system_call);
	T_RUN(halted_nowhere);
	T_RUN(kicked_after_a_jump_into_the_stubs);
	T_RUN(system_call_returning_nowhere);
	T_RUN(interrupted_at_a_non_canonical_address);
	return 0;
}
