/*
 * What ring 3 did reaches the caller exactly, on the ptrace platform and the real kernel: system calls, every exception that user
 * code can raise but page faults, vector state. What is expected is what tests/kvm expect of a guest on KVM.
 */
#include <cpuid.h>
#include <string.h>

#include "ptrace_rig.h"

enum { FLAGS = 0x202, TF = 0x100 };

#define PIECE(name) extern const uint8_t guest_##name[], guest_##name##_at[]
PIECE(syscall);
PIECE(int80);
PIECE(load);
PIECE(store);
PIECE(divide);
PIECE(step);
PIECE(step_syscall);
PIECE(icebp);
PIECE(breakpoint);
PIECE(int3);
PIECE(int3_long);
PIECE(overflow);
PIECE(undefined);
PIECE(stack);
PIECE(far);
PIECE(halt);
PIECE(gate);
PIECE(debug_gate);
PIECE(selector);
PIECE(local_selector);
PIECE(compatibility);
PIECE(x87);
PIECE(alignment);
PIECE(simd);
PIECE(vsyscall);
PIECE(jump);
PIECE(locked);
PIECE(vectors);

static struct rig rig;

static void same_but(const struct akvm_registers *now, const struct akvm_registers *then, bool by_syscall)
{
	struct akvm_registers left = *now, right = *then;
	uint64_t words[2][sizeof(left) / sizeof(uint64_t)];

	left.rip = right.rip = 0;
	if (by_syscall)
		left.rcx = left.r11 = right.rcx = right.r11 = 0;
	memcpy(words[0], &left, sizeof(left));
	memcpy(words[1], &right, sizeof(right));
	for (size_t i = 0; i < sizeof(left) / sizeof(uint64_t); i++) {
		snprintf(t_context, sizeof(t_context), "word %zu of the registers", i);
		T_EQUAL(words[0][i], words[1][i]);
	}
	t_context[0] = 0;
}

static struct akvm_registers all_different(void)
{
	return (struct akvm_registers){
		.rax = 0x8000000000000001,
		.rbx = 0x1111111111111111,
		.rcx = 0x2222222222222222,
		.rdx = UINT64_MAX,
		.rsi = 0xffff800000000000,
		.rdi = 1,
		.rsp = PTRACE_STACK - 256,
		.rbp = 0x7fffffffffff,
		.r8 = 8,
		.r9 = 9,
		.r10 = 10,
		.r11 = 0x3f7fd7,
		.r12 = 12,
		.r13 = 13,
		.r14 = 14,
		.r15 = 0x8000000000000000,
		.rflags = 0x246,
	};
}

static void system_calls(void)
{
	struct akvm_context *context = ptrace_context(&rig, rig.space);
	struct akvm_registers before;

	for (unsigned turn = 0; turn < 100; turn++) {
		before = context->registers = all_different();
		before.rax = context->registers.rax = turn % 2 ? turn : UINT64_MAX - turn;
		ptrace_run(&rig, context, turn % 2, guest_syscall);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->vector, 256);
		T_EQUAL(context->registers.rip, PTRACE_AT(guest_syscall) + 2);
		T_EQUAL(context->registers.rcx, context->registers.rip);
		T_EQUAL(context->registers.r11, 0x246);
		same_but(&context->registers, &before, true);
		/* Linux drops the upper half of RAX on this way in, before anybody can see it. */
		context->registers = all_different();
		context->registers.rax = turn;
		before = context->registers;
		ptrace_run(&rig, context, turn / 2 % 2, guest_int80);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->vector, 0x80);
		T_EQUAL(context->registers.rip, PTRACE_AT(guest_int80) + 2);
		same_but(&context->registers, &before, false);
	}
	/* The return value is what the caller says, and the guest goes on behind the instruction. */
	context->registers.rax = 0;
	for (unsigned turn = 0; turn < 100; turn++) {
		ptrace_run(&rig, context, 0, turn ? NULL : guest_syscall);
		T_EQUAL(context->registers.rax, turn);
		context->registers.rax = turn + 1;
	}
	T_EQUAL(akvm_context_destroy(context), 0);
}

/* Answered by the vCPU's thread: neither the caller nor the kernel sees them. */
static void answered_system_calls(void)
{
	struct akvm_context *context = ptrace_context(&rig, rig.space);
	struct akvm_answers *answers;
	uint64_t native;

	T_EQUAL(akvm_answers_create(&answers), 0);
	T_EQUAL(akvm_answers_set(answers, 39, 40), 0);
	T_EQUAL(akvm_answers_set(answers, 40, 41), 0);
	T_EQUAL(akvm_context_answers(context, answers), 0);
	context->registers.rax = 39;
	native = context->native_exits;
	ptrace_run(&rig, context, 0, guest_syscall);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(context->registers.rax, 41);
	T_CHECK(context->native_exits - native >= 2);
	T_EQUAL(akvm_context_answers(context, NULL), 0);
	akvm_answers_destroy(answers);
	T_EQUAL(akvm_context_destroy(context), 0);
}

static void exceptions(void)
{
	static const struct {
		const char *name;
		const uint8_t *entry, *at;
		uint32_t vector, error_code;
		uint64_t flags;
	} rows[] = {
		{ "#DE", guest_divide, guest_divide_at, 0, 0, 0 },
		{ "#DB by TF", guest_step, guest_step_at, 1, 0, TF },
		{ "#DB by ICEBP", guest_icebp, guest_icebp_at, 1, 0, 0 },
		{ "#BP", guest_breakpoint, guest_breakpoint_at, 3, 0, 0 },
		{ "#BP by the assembler's INT 3", guest_int3, guest_int3_at, 3, 0, 0 },
		{ "#BP by INT 3 in two bytes", guest_int3_long, guest_int3_long_at, 3, 0, 0 },
		{ "#OF", guest_overflow, guest_overflow_at, 4, 0, 0 },
		{ "#UD", guest_undefined, guest_undefined_at, 6, 0, 0 },
		{ "#SS", guest_stack, guest_stack_at, 12, 0, 0 },
		{ "#GP, not canonical", guest_far, guest_far_at, 13, 0, 0 },
		{ "#GP, HLT", guest_halt, guest_halt_at, 13, 0, 0 },
		{ "#GP, a gate of ring 0", guest_gate, guest_gate_at, 13, 0x21 * 8 + 2, 0 },
		{ "#GP, the gate of #DB", guest_debug_gate, guest_debug_gate_at, 13, 1 * 8 + 2, 0 },
		{ "#GP, no such selector", guest_selector, guest_selector_at, 13, 0xfff8, 0 },
		{ "#GP, no such local selector", guest_local_selector, guest_local_selector_at, 13, 0xc, 0 },
		{ "#MF", guest_x87, guest_x87_at, 16, 0, 0 },
		{ "#AC", guest_alignment, guest_alignment_at, 17, 0, 0 },
		{ "#XM", guest_simd, guest_simd_at, 19, 0, 0 },
	};
	uint32_t bytes = akvm_machine_capabilities(rig.machine)->xsave_bytes;
	uint8_t *image = calloc(1, bytes);
	struct akvm_context *context;

	T_CHECK(image != NULL);
	/* Twice each: nothing is left of the first. */
	for (unsigned turn = 0; turn < 2; turn++)
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			snprintf(t_context, sizeof(t_context), "%s, turn %u", rows[i].name, turn);
			context = ptrace_context(&rig, rig.space);
			context->registers.rflags = FLAGS | rows[i].flags;
			context->registers.r15 = i;
			context->registers.r11 = 11;
			ptrace_run(&rig, context, turn, rows[i].entry);
			T_EQUAL(context->kind, AKVM_EXIT_FAULT);
			T_EQUAL(context->vector, rows[i].vector);
			T_EQUAL(context->error_code, rows[i].error_code);
			T_EQUAL(context->address, 0);
			T_EQUAL(context->detail, AKVM_FAULT_NONE);
			/* A hypervisor beneath this kernel may leave RIP at an ICEBP. */
			if (rows[i].entry != guest_icebp || context->registers.rip != PTRACE_AT(guest_icebp))
				T_EQUAL(context->registers.rip, PTRACE_AT(rows[i].at));
			T_EQUAL(context->registers.r15, i);
			T_EQUAL(context->registers.r11, 11);
			T_EQUAL(context->registers.rflags & (FLAGS | TF), FLAGS | rows[i].flags);
			/* The vector state is the guest's, not that of the handler which explained. */
			T_EQUAL(akvm_context_get_xsave(context, image, bytes), 0);
			if (rows[i].vector == 19)
				T_EQUAL(image[24] | image[25] << 8, 0x1d84);
			T_EQUAL(akvm_context_destroy(context), 0);
		}
	t_context[0] = 0;
	free(image);
}

static void other_modes(void)
{
	struct akvm_context *context = ptrace_context(&rig, rig.space);

	ptrace_run(&rig, context, 0, guest_compatibility);
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 13);
	T_EQUAL(context->error_code, 0x20);
	/* SYSCALL under TF is a system call, with the flag where its return finds it. */
	context->registers.rflags = FLAGS | TF;
	context->registers.rax = 39;
	ptrace_run(&rig, context, 0, guest_step_syscall);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(context->registers.rax, 39);
	T_EQUAL(context->registers.rip, PTRACE_AT(guest_step_syscall) + 2);
	T_EQUAL(context->registers.rflags & TF, TF);
	context->registers.rflags = FLAGS;
	ptrace_run(&rig, context, 0, guest_syscall);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(akvm_context_destroy(context), 0);
}

/* Sums in vector registers that go on while contexts change vCPUs, spaces and places. */
static void vector_state(void)
{
	enum { CONTEXTS = 6, TURNS = 40, XMM = 160, XSTATE_BV = 512, YMM_COMPONENT = 4 };
	const struct akvm_capabilities *capabilities = akvm_machine_capabilities(rig.machine);
	struct akvm_space *spaces[] = { rig.space, ptrace_space(&rig) };
	bool ymm = capabilities->xcr0 & YMM_COMPONENT;
	struct akvm_context *contexts[CONTEXTS];
	uint32_t bytes = capabilities->xsave_bytes, eax, ebx, ecx, edx;
	uint8_t *image = calloc(1, bytes);
	uint64_t word;

	T_CHECK(image != NULL);
	__cpuid_count(0xd, 2, eax, ebx, ecx, edx);
	for (uint64_t i = 0; i < CONTEXTS; i++) {
		contexts[i] = ptrace_context(&rig, spaces[i % 2]);
		memset(image, 0, bytes);
		image[0] = 0x7f, image[1] = 3;
		image[24] = 0x80, image[25] = 0x1f;
		image[XSTATE_BV] = (uint8_t)(3 | (ymm ? YMM_COMPONENT : 0));
		word = i << 32;
		memcpy(image + XMM, &word, sizeof(word));
		word = i + 1;
		memcpy(image + XMM + 16, &word, sizeof(word));
		word = i << 40;
		if (ymm)
			memcpy(image + ebx + 2 * 16, &word, sizeof(word));
		T_EQUAL(akvm_context_set_xsave(contexts[i], image, bytes), 0);
		contexts[i]->registers.rip = PTRACE_AT(guest_vectors);
		contexts[i]->registers.rdx = ymm;
	}
	for (unsigned turn = 0; turn < TURNS; turn++)
		for (unsigned i = 0; i < CONTEXTS; i++) {
			/* A fault that had to be explained in between. */
			if (turn % 8 == i) {
				uint64_t rip = contexts[i]->registers.rip;

				ptrace_run(&rig, contexts[i], turn % 2, guest_undefined);
				T_EQUAL(contexts[i]->vector, 6);
				contexts[i]->registers.rip = rip;
			}
			ptrace_run(&rig, contexts[i], (turn / 3 + i) % 2, NULL);
			T_EQUAL(contexts[i]->kind, AKVM_EXIT_SYSCALL);
		}
	for (uint64_t i = 0; i < CONTEXTS; i++) {
		T_EQUAL(akvm_context_get_xsave(contexts[i], image, bytes), 0);
		memcpy(&word, image + XMM, sizeof(word));
		T_EQUAL(word, (i << 32) + TURNS * (i + 1));
		if (ymm) {
			memcpy(&word, image + ebx + 2 * 16, sizeof(word));
			T_EQUAL(word, (i << 40) + TURNS * (i + 1));
		}
		T_EQUAL(akvm_context_destroy(contexts[i]), 0);
	}
	T_EQUAL(akvm_space_destroy(spaces[1]), 0);
	free(image);
	(void)eax, (void)ecx, (void)edx;
}

/* FS and GS bases wherever ring 3 can put them, and selectors, stay with their context. */
static void segments(void)
{
	static const uint64_t bases[] = { 0, PTRACE_DATA, 0x7fffffffe000 };
	struct akvm_context *context = ptrace_context(&rig, rig.space), *other = ptrace_context(&rig, rig.space);

	for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
		context->fs_base = bases[i];
		context->gs_base = bases[i] + 8;
		ptrace_run(&rig, context, 0, guest_syscall);
		ptrace_run(&rig, other, 0, guest_syscall);
		T_EQUAL(other->fs_base, 0);
		T_EQUAL(other->gs_base, 0);
		ptrace_run(&rig, context, 1, NULL);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->fs_base, bases[i]);
		T_EQUAL(context->gs_base, bases[i] + 8);
	}
	T_EQUAL(akvm_context_destroy(context), 0);
	T_EQUAL(akvm_context_destroy(other), 0);
}

int main(void)
{
	ptrace_need();
	ptrace_open(&rig, 2);
	T_RUN(system_calls);
	T_RUN(answered_system_calls);
	T_RUN(exceptions);
	T_RUN(other_modes);
	T_RUN(vector_state);
	T_RUN(segments);
	ptrace_close(&rig);
	return 0;
}
