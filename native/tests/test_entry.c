/*
 * What ring 3 gets when it is entered: each register as asked, by IRET and by SYSRET, flags and segments it may not have
 * taken away, and nothing non-canonical ever near ring 0.
 */
#include <errno.h>
#include <string.h>

#include "rig.h"

enum { USER_FLAGS = 0x254dd5, FIXED_FLAGS = 0x202, TF = 0x100, RF = 0x10000 };

/* What the last script saw, and what it does to the segments. */
struct seen {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint16_t set_ds, set_es, set_fs, set_gs;
	uint64_t set_fs_base;
};

static struct fake_step look(struct fake_cpu *cpu, void *opaque)
{
	struct seen *seen = opaque;

	seen->regs = cpu->regs;
	seen->sregs = cpu->sregs;
	if (seen->set_ds) {
		cpu->sregs.ds.selector = seen->set_ds;
		cpu->sregs.es.selector = seen->set_es;
		cpu->sregs.fs.selector = seen->set_fs;
		cpu->sregs.gs.selector = seen->set_gs;
		cpu->sregs.fs.base = seen->set_fs_base;
	}
	return (struct fake_step){ .action = FAKE_SYSCALL };
}

static struct akvm_context *open_looking(struct rig *rig, struct seen *seen)
{
	struct akvm_context *context;

	memset(seen, 0, sizeof(*seen));
	rig_open(rig, NULL, 1);
	fake_set_script(look, seen);
	context = rig_context(rig, 0);
	rig_run(rig, context, 0);
	return context;
}

static void run_registers(struct rig *rig, struct akvm_context *context, const struct akvm_registers *registers, uint32_t restore)
{
	context->registers = *registers;
	context->restore = restore;
	rig_run(rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
}

/* Was the stub at `offset` passed while this ran? The cut makes the entry happen twice, which must not show. */
static bool passes(struct rig *rig, struct akvm_context *context, const struct akvm_registers *registers, uint32_t restore,
		   uint32_t offset)
{
	unsigned before = fake_cuts();

	fake_cut(offset, 0, 1);
	run_registers(rig, context, registers, restore);
	fake_cut(0, 0, 0);
	return fake_cuts() > before;
}

static const struct akvm_registers after_a_system_call = {
	.rax = 1,
	.rbx = 2,
	.rcx = FAKE_SCRIPT + 0x40,
	.rdx = 3,
	.rsi = 4,
	.rdi = 5,
	.rsp = 0x7fff0008,
	.rbp = 6,
	.r8 = 8,
	.r9 = 9,
	.r10 = 10,
	.r11 = 0x246,
	.r12 = 12,
	.r13 = 13,
	.r14 = 14,
	.r15 = 15,
	.rip = FAKE_SCRIPT + 0x40,
	.rflags = 0x246,
};

static void check_seen(const struct seen *seen, const struct akvm_registers *asked, bool partial)
{
	struct akvm_registers expected = *asked;

	expected.rflags = (expected.rflags & USER_FLAGS) | FIXED_FLAGS;
	if (partial) {
		expected.rcx = expected.rip;
		expected.r11 = expected.rflags;
	}
	T_EQUAL(memcmp(&seen->regs, &expected, sizeof(expected)), 0);
	T_EQUAL(seen->sregs.cs.selector, AKVM_USER_CS);
	T_EQUAL(seen->sregs.ss.selector, AKVM_USER_SS);
}

static void sysret_only_where_it_restores_everything(void)
{
	struct akvm_registers registers = after_a_system_call;
	struct akvm_context *context;
	struct seen seen;
	struct rig rig;

	context = open_looking(&rig, &seen);
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_AUTO, AKVM_STUB_SYSRET));
	check_seen(&seen, &registers, false);
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_FULL, AKVM_STUB_IRET));
	check_seen(&seen, &registers, false);
	registers.rcx++;
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_AUTO, AKVM_STUB_IRET));
	check_seen(&seen, &registers, false);
	registers.rcx--;
	registers.r11 ^= 1;
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_AUTO, AKVM_STUB_IRET));
	check_seen(&seen, &registers, false);
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_PARTIAL, AKVM_STUB_SYSRET));
	check_seen(&seen, &registers, true);
	/* Single-step and resume flags need IRET. */
	registers.rflags = registers.r11 = 0x246 | TF;
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_AUTO, AKVM_STUB_IRET));
	registers.rflags = registers.r11 = 0x246 | RF;
	T_CHECK(passes(&rig, context, &registers, AKVM_RESTORE_AUTO, AKVM_STUB_IRET));
	rig_close(&rig);
}

/* The stub that changes CR3 as well, cut before, between and after its instructions. */
static void with_a_change_of_space(void)
{
	struct akvm_registers registers = after_a_system_call;
	struct akvm_context *context;
	struct akvm_space *other;
	struct seen seen;
	struct rig rig;

	registers.rcx = 0xccc;
	context = open_looking(&rig, &seen);
	other = rig_space(&rig, 0, 0);
	for (unsigned turn = 0; turn < 12; turn++) {
		static const uint32_t places[] = { AKVM_STUB_SPACE, AKVM_STUB_SPACE + 3, AKVM_STUB_SPACE + 4 };
		bool partial = turn >= 6;

		T_EQUAL(akvm_context_attach(context, turn % 2 ? rig.space : other), 0);
		T_CHECK(passes(&rig, context, &registers, partial ? AKVM_RESTORE_PARTIAL : AKVM_RESTORE_AUTO, places[turn % 3]));
		check_seen(&seen, &registers, partial);
	}
	rig_close(&rig);
}

static void flags_are_masked(void)
{
	static const uint64_t hostile[] = { 0, UINT64_MAX, 0x3000, 0x20000, 0x180000, 1ull << 63, 0x200, 0x40ed5 };
	struct akvm_registers registers = after_a_system_call;
	struct akvm_context *context;
	struct seen seen;
	struct rig rig;

	context = open_looking(&rig, &seen);
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		for (uint32_t restore = AKVM_RESTORE_AUTO; restore <= AKVM_RESTORE_PARTIAL; restore++) {
			registers.rflags = hostile[i];
			registers.r11 = restore == AKVM_RESTORE_AUTO ? hostile[i] : UINT64_MAX;
			run_registers(&rig, context, &registers, restore);
			T_EQUAL(seen.regs.rflags & 0x3000, 0);
			T_EQUAL(seen.regs.rflags & ~(uint64_t)(USER_FLAGS | FIXED_FLAGS), 0);
			T_EQUAL(seen.regs.rflags & FIXED_FLAGS, FIXED_FLAGS);
			/* SYSRET cannot set RF, whoever asks. */
			if (restore != AKVM_RESTORE_PARTIAL)
				check_seen(&seen, &registers, false);
		}
	}
	rig_close(&rig);
}

static void segments_follow_their_context(void)
{
	struct akvm_context *first, *second;
	struct seen seen;
	struct rig rig;

	first = open_looking(&rig, &seen);
	second = rig_context(&rig, 0x1000);
	for (unsigned turn = 0; turn < 4; turn++) {
		seen.set_ds = seen.set_es = AKVM_USER_SS;
		seen.set_fs = AKVM_USER_SS;
		seen.set_gs = 3;
		seen.set_fs_base = 0x1111000;
		first->registers.rip = FAKE_SCRIPT;
		first->gs_base = 0x2222000;
		rig_run(&rig, first, 0);
		T_EQUAL(first->fs_base, 0x1111000);
		T_EQUAL(first->gs_base, 0x2222000);
		seen.set_ds = 0;
		second->registers.rip = FAKE_SCRIPT;
		second->fs_base = 0x3333000;
		rig_run(&rig, second, 0);
		T_EQUAL(seen.sregs.ds.selector, 0);
		T_EQUAL(seen.sregs.es.selector, 0);
		T_EQUAL(seen.sregs.fs.selector, 0);
		T_EQUAL(seen.sregs.fs.base, 0x3333000);
		T_EQUAL(seen.sregs.gs.base, 0);
		first->registers.rip = FAKE_SCRIPT;
		rig_run(&rig, first, 0);
		T_EQUAL(seen.sregs.ds.selector, AKVM_USER_SS);
		T_EQUAL(seen.sregs.es.selector, AKVM_USER_SS);
		T_EQUAL(seen.sregs.fs.selector, AKVM_USER_SS);
		T_EQUAL(seen.sregs.gs.selector, 3);
		T_EQUAL(seen.sregs.fs.base, 0x1111000);
		T_EQUAL(seen.sregs.gs.base, 0x2222000);
	}
	rig_close(&rig);
}

static void addresses_are_canonical_or_refused(void)
{
	static const uint64_t bad[] = { 0x800000000000, 0x8000000000000000, 0xffff7fffffffffff, 0x0001000000000000,
					0x7fffffffffffffff };
	static const uint64_t good[] = { 0, 0x7fffffffffff, 0xffff800000000000, UINT64_MAX };
	struct akvm_context *context;
	struct seen seen;
	struct rig rig;

	context = open_looking(&rig, &seen);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t *fields[] = { &context->registers.rip, &context->registers.rsp, &context->fs_base, &context->gs_base };

		for (size_t field = 0; field < 4; field++) {
			uint64_t kept = *fields[field];

			*fields[field] = bad[i];
			T_EQUAL(akvm_context_submit(context, 0), -EINVAL);
			T_EQUAL(context->submitted, 0);
			*fields[field] = kept;
		}
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		context->registers.rip = FAKE_SCRIPT;
		context->registers.rsp = context->fs_base = context->gs_base = good[i];
		rig_run(&rig, context, 0);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(seen.regs.rsp, good[i]);
		T_EQUAL(seen.sregs.fs.base, good[i]);
		T_EQUAL(seen.sregs.gs.base, good[i]);
		/* The same as an address to run at: nothing is there. */
		context->registers.rip = good[i];
		rig_run(&rig, context, 0);
		T_EQUAL(context->kind, AKVM_EXIT_FAULT);
		T_EQUAL(context->vector, 14);
		T_EQUAL(context->registers.rip, good[i]);
	}
	rig_close(&rig);
}

/* The ordinary exit costs one KVM_RUN and no other call into the host. */
static void no_ioctl_on_the_way(void)
{
	struct akvm_answers *answers;
	struct akvm_context *context;
	uint64_t ioctls, runs;
	struct seen seen;
	struct rig rig;

	context = open_looking(&rig, &seen);
	ioctls = fake_vcpu_ioctls();
	runs = fake_runs();
	for (unsigned i = 0; i < 100; i++)
		run_registers(&rig, context, &after_a_system_call, i % 2 ? AKVM_RESTORE_AUTO : AKVM_RESTORE_FULL);
	T_EQUAL(fake_vcpu_ioctls() - ioctls, 0);
	T_EQUAL(fake_runs() - runs, 100);
	T_EQUAL(akvm_answers_create(&answers), 0);
	T_EQUAL(akvm_answers_set(answers, 0, -38), 0);
	T_EQUAL(akvm_context_answers(context, answers), 0);
	/* The first run faults the code in. */
	for (unsigned i = 0; i < 2; i++) {
		runs = fake_runs();
		context->registers = (struct akvm_registers){ .rip = RIG_SYSCALLS, .rbx = 50, .rsp = 0x1000 };
		rig_run(&rig, context, 0);
	}
	T_EQUAL(context->vector, 3);
	T_EQUAL(context->registers.rax, (uint64_t)-38);
	T_EQUAL(fake_vcpu_ioctls() - ioctls, 0);
	T_EQUAL(fake_runs() - runs, 51);
	T_EQUAL(akvm_context_answers(context, NULL), 0);
	akvm_answers_destroy(answers);
	rig_close(&rig);
}

int main(void)
{
	T_RUN(sysret_only_where_it_restores_everything);
	T_RUN(with_a_change_of_space);
	T_RUN(flags_are_masked);
	T_RUN(segments_follow_their_context);
	T_RUN(addresses_are_canonical_or_refused);
	T_RUN(no_ioctl_on_the_way);
	return 0;
}
