/*
 * What ring 3 did reaches the caller exactly, on the ptrace platform and the real kernel: system calls, every exception that user
 * code can raise, page faults, vector state. What is expected is what tests/kvm expect of a guest on KVM.
 */
#include <cpuid.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ptrace_rig.h"

enum { FLAGS = 0x202, TF = 0x100, RF = 0x10000, PF_PRESENT = 1 };
enum { READ = 4, WRITE = 6, FETCH = 0x14 };
enum { FILE_AT = 0x30000000, EDGE = 0x40000000 };

#define PIECE(name) extern const uint8_t guest_##name[], guest_##name##_at[];
PIECE(syscall)
PIECE(int80)
PIECE(load) PIECE(store) PIECE(divide) PIECE(step) PIECE(step_syscall) PIECE(icebp) PIECE(breakpoint) PIECE(int3) PIECE(int3_long)
	PIECE(overflow) PIECE(undefined) PIECE(stack) PIECE(far) PIECE(halt) PIECE(gate) PIECE(debug_gate) PIECE(selector)
		PIECE(local_selector) PIECE(compatibility) PIECE(x87) PIECE(alignment) PIECE(simd) PIECE(vsyscall) PIECE(jump)
			PIECE(locked) PIECE(vectors)

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

static void check_page_fault(const struct akvm_context *context, uint64_t address, uint32_t error_code, uint32_t detail)
{
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 14);
	T_EQUAL(context->address, address);
	/* Whether an entry was there already is the platform's own business. */
	T_EQUAL(context->error_code & ~(uint32_t)PF_PRESENT, error_code);
	T_EQUAL(context->detail, detail);
}

static void page_faults(void)
{
	enum { NOTHING = 0x70000000, READABLE = 0x50000000, NONE = 0x51000000, EXECUTABLE = 0x52000000 };
	static const struct {
		const uint8_t *entry;
		uint64_t address;
		uint32_t error_code, detail;
	} rows[] = {
		{ guest_load, 0, READ, AKVM_FAULT_UNMAPPED },
		{ guest_store, 0, WRITE, AKVM_FAULT_UNMAPPED },
		{ guest_jump, 0, FETCH, AKVM_FAULT_UNMAPPED },
		{ guest_load, NOTHING + 5, READ, AKVM_FAULT_UNMAPPED },
		{ guest_store, NOTHING + 5, WRITE, AKVM_FAULT_UNMAPPED },
		{ guest_locked, NOTHING + 8, WRITE, AKVM_FAULT_UNMAPPED },
		{ guest_jump, NOTHING + 5, FETCH, AKVM_FAULT_UNMAPPED },
		{ guest_store, READABLE, WRITE, AKVM_FAULT_ACCESS },
		{ guest_locked, READABLE + 8, WRITE, AKVM_FAULT_ACCESS },
		{ guest_jump, READABLE, FETCH, AKVM_FAULT_ACCESS },
		{ guest_load, NONE + 16, READ, AKVM_FAULT_ACCESS },
		{ guest_store, NONE + 16, WRITE, AKVM_FAULT_ACCESS },
		{ guest_jump, NONE + 16, FETCH, AKVM_FAULT_ACCESS },
		{ guest_store, EXECUTABLE + 0x800, WRITE, AKVM_FAULT_ACCESS },
		{ guest_jump, PTRACE_DATA, FETCH, AKVM_FAULT_ACCESS },
		{ guest_load, 0xffff800000000000, READ, AKVM_FAULT_UNMAPPED },
		{ guest_store, 0xffffffffff600000, WRITE, AKVM_FAULT_UNMAPPED },
		{ guest_jump, 0xffff800000000000, FETCH, AKVM_FAULT_UNMAPPED },
	};

	T_EQUAL(akvm_space_map(rig.space, READABLE, RIG_PAGE, AKVM_READ, NULL, 0), 0);
	T_EQUAL(akvm_space_map(rig.space, NONE, RIG_PAGE, 0, NULL, 0), 0);
	T_EQUAL(akvm_space_map(rig.space, EXECUTABLE, RIG_PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0), 0);
	for (unsigned turn = 0; turn < 2; turn++)
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			struct akvm_context *context = ptrace_context(&rig, rig.space);

			snprintf(t_context, sizeof(t_context), "row %zu, turn %u", i, turn);
			context->registers.rdi = rows[i].address;
			ptrace_run(&rig, context, 0, rows[i].entry);
			check_page_fault(context, rows[i].address, rows[i].error_code, rows[i].detail);
			T_EQUAL(context->registers.rip, rows[i].entry == guest_jump ? rows[i].address : PTRACE_AT(rows[i].entry));
			T_EQUAL(akvm_context_destroy(context), 0);
		}
	t_context[0] = 0;
}

/* The page that the kernel calls for user code: there is none here. */
static void vsyscalls(void)
{
	struct akvm_context *context = ptrace_context(&rig, rig.space);

	for (uint64_t page = 0xffffffffff600000, offset = 0; offset < 0x1000; offset += 0x200) {
		context->registers.rdi = page + offset;
		context->registers.rsp = offset & 0x200 ? 0 : PTRACE_STACK - 8;
		ptrace_run(&rig, context, 0, guest_jump);
		check_page_fault(context, page + offset, FETCH, AKVM_FAULT_UNMAPPED);
		T_EQUAL(context->registers.rip, page + offset);
		T_EQUAL(context->registers.rsp, offset & 0x200 ? 0 : PTRACE_STACK - 8);
	}
	/* As a jump with a stack that cannot be read, which the kernel takes for an attack. */
	context->registers.rdi = 0xffffffffff600000;
	context->registers.rsp = 0;
	ptrace_run(&rig, context, 0, guest_jump);
	check_page_fault(context, 0xffffffffff600000, FETCH, AKVM_FAULT_UNMAPPED);
	T_EQUAL(context->registers.rsp, 0);
	context->registers.rsp = PTRACE_STACK;
	ptrace_run(&rig, context, 0, guest_vsyscall);
	check_page_fault(context, 0xffffffffff600000, FETCH, AKVM_FAULT_UNMAPPED);
	T_EQUAL(context->registers.rsp, PTRACE_STACK - 8);
	T_EQUAL(akvm_context_destroy(context), 0);
}

/* Code that stores to itself, in a page which is shared until then: a fork's. */
static void code_that_changes_itself(void)
{
	/* mov %eax, d(%rip), where d leads to its own first byte, or to what follows; syscall */
	static const uint8_t itself[] = { 0x89, 0x05, 0xfa, 0xff, 0xff, 0xff, 0x0f, 0x05 };
	static const uint8_t behind[] = { 0x89, 0x05, 0x02, 0, 0, 0, 0x0f, 0x05 };

	for (unsigned turn = 0; turn < 2; turn++) {
		struct akvm_context *context = ptrace_context(&rig, rig.space);
		struct akvm_space *child;
		uint32_t word;

		T_EQUAL(akvm_space_map(rig.space, EDGE, RIG_PAGE, AKVM_READ | AKVM_WRITE | AKVM_EXECUTE, NULL, 0), 0);
		T_EQUAL(akvm_space_write(rig.space, EDGE, turn ? behind : itself, sizeof(itself), false), sizeof(itself));
		context->registers.rdi = EDGE;
		ptrace_run(&rig, context, 0, guest_load);
		T_EQUAL(akvm_space_fork(rig.space, &child), 0);
		context->registers.rax = 0x55667788;
		context->registers.rip = EDGE;
		ptrace_run(&rig, context, 0, NULL);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(akvm_space_read(rig.space, EDGE + (turn ? 8 : 0), &word, sizeof(word)), sizeof(word));
		T_EQUAL(word, 0x55667788);
		T_EQUAL(akvm_space_read(child, EDGE, &word, sizeof(word)), sizeof(word));
		T_EQUAL(memcmp(&word, turn ? behind : itself, sizeof(word)), 0);
		T_EQUAL(akvm_space_destroy(child), 0);
		T_EQUAL(akvm_context_destroy(context), 0);
	}
	T_EQUAL(akvm_space_unmap(rig.space, EDGE, RIG_PAGE), 0);
}

/* An instruction whose second half lies in a page that may not be executed, or not yet. */
static void instructions_across_pages(void)
{
	static const uint8_t instruction[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0x0f, 0x05 }; /* mov $..., %rax; syscall */
	static const struct {
		uint32_t access, detail;
	} rows[] = {
		{ 0, AKVM_FAULT_ACCESS },
		{ AKVM_READ, AKVM_FAULT_ACCESS },
		{ AKVM_READ | AKVM_WRITE, AKVM_FAULT_ACCESS },
		{ AKVM_READ | AKVM_EXECUTE, AKVM_FAULT_NONE },
		{ AKVM_READ | AKVM_WRITE | AKVM_EXECUTE, AKVM_FAULT_NONE },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (unsigned touched = 0; touched < 2; touched++) {
			struct akvm_context *context = ptrace_context(&rig, rig.space);
			const uint64_t at = EDGE + RIG_PAGE - 3;

			snprintf(t_context, sizeof(t_context), "row %zu, touched %u", i, touched);
			T_EQUAL(akvm_space_map(rig.space, EDGE, 2 * RIG_PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0), 0);
			T_EQUAL(akvm_space_protect(rig.space, EDGE + RIG_PAGE, RIG_PAGE, rows[i].access), 0);
			T_EQUAL(akvm_space_write(rig.space, at, instruction, sizeof(instruction), true), sizeof(instruction));
			if (touched) {
				context->registers.rdi = EDGE + RIG_PAGE;
				ptrace_run(&rig, context, 0, guest_load);
			}
			context->registers.rip = at;
			ptrace_run(&rig, context, 0, NULL);
			if (rows[i].detail == AKVM_FAULT_NONE) {
				T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
				T_EQUAL(context->registers.rax, 0x0807060504030201);
			} else {
				check_page_fault(context, EDGE + RIG_PAGE, FETCH, rows[i].detail);
				T_EQUAL(context->registers.rip, at);
			}
			T_EQUAL(akvm_context_destroy(context), 0);
		}
	t_context[0] = 0;
	T_EQUAL(akvm_space_unmap(rig.space, EDGE, 2 * RIG_PAGE), 0);
}

static void run_at(struct akvm_context *context, const uint8_t *entry, uint64_t rdi, uint64_t rsi)
{
	context->registers.rdi = rdi;
	context->registers.rsi = rsi;
	ptrace_run(&rig, context, 0, entry);
}

static void load(struct akvm_context *context, uint64_t address, uint64_t expected)
{
	run_at(context, guest_load, address, 0);
	T_EQUAL(context->vector, 3);
	T_EQUAL(context->registers.rax, expected);
}

static void files(void)
{
	int fd = memfd_create("exits", MFD_CLOEXEC);
	struct akvm_context *context = ptrace_context(&rig, rig.space);
	struct akvm_file *file;
	uint64_t word;

	T_CHECK(fd >= 0);
	T_EQUAL(ftruncate(fd, 4 * RIG_PAGE), 0);
	for (word = 0; word < 4; word++)
		T_EQUAL(pwrite(fd, &word, sizeof(word), (off_t)word * RIG_PAGE), sizeof(word));
	T_EQUAL(akvm_file_open(rig.machine, fd, true, 0, &file), 0);
	/* Private: copies; the first access may be a store. */
	T_EQUAL(akvm_space_map(rig.space, FILE_AT, 4 * RIG_PAGE, AKVM_READ | AKVM_WRITE, file, 0), 0);
	run_at(context, guest_store, FILE_AT, 77);
	T_EQUAL(context->vector, 3);
	load(context, FILE_AT, 77);
	load(context, FILE_AT + RIG_PAGE, 1);
	run_at(context, guest_store, FILE_AT + RIG_PAGE, 78);
	load(context, FILE_AT + RIG_PAGE, 78);
	T_EQUAL(pread(fd, &word, sizeof(word), RIG_PAGE), sizeof(word));
	T_EQUAL(word, 1);
	/* Cut short: what the guest copied stays, what it saw goes, and it is told where. */
	load(context, FILE_AT + 3 * RIG_PAGE, 3);
	T_EQUAL(ftruncate(fd, RIG_PAGE), 0);
	for (unsigned turn = 0; turn < 2; turn++) {
		run_at(context, guest_load, FILE_AT + 3 * RIG_PAGE + 8, 0);
		check_page_fault(context, FILE_AT + 3 * RIG_PAGE + 8, READ, AKVM_FAULT_BUS);
		run_at(context, guest_store, FILE_AT + 2 * RIG_PAGE, 1);
		check_page_fault(context, FILE_AT + 2 * RIG_PAGE, WRITE, AKVM_FAULT_BUS);
		run_at(context, guest_jump, FILE_AT + 2 * RIG_PAGE, 1);
		check_page_fault(context, FILE_AT + 2 * RIG_PAGE, FETCH, AKVM_FAULT_ACCESS);
	}
	load(context, FILE_AT + RIG_PAGE, 78);
	T_EQUAL(ftruncate(fd, 4 * RIG_PAGE), 0);
	load(context, FILE_AT + 3 * RIG_PAGE, 0);
	/* Shared: stores go to the file, and what others write there is seen at once. */
	T_EQUAL(akvm_space_map(rig.space, FILE_AT, 4 * RIG_PAGE, AKVM_READ | AKVM_WRITE | AKVM_SHARED, file, 0), 0);
	run_at(context, guest_store, FILE_AT + 8, 99);
	T_EQUAL(context->vector, 3);
	T_EQUAL(pread(fd, &word, sizeof(word), 8), sizeof(word));
	T_EQUAL(word, 99);
	word = 100;
	T_EQUAL(pwrite(fd, &word, sizeof(word), 8), sizeof(word));
	load(context, FILE_AT + 8, 100);
	run_at(context, guest_store, FILE_AT + 2 * RIG_PAGE, 5);
	T_EQUAL(ftruncate(fd, RIG_PAGE), 0);
	run_at(context, guest_store, FILE_AT + 2 * RIG_PAGE, 6);
	check_page_fault(context, FILE_AT + 2 * RIG_PAGE, WRITE, AKVM_FAULT_BUS);
	akvm_file_close(file);
	T_EQUAL(close(fd), 0);
	T_EQUAL(akvm_space_unmap(rig.space, FILE_AT, 4 * RIG_PAGE), 0);
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
	T_RUN(page_faults);
	T_RUN(vsyscalls);
	T_RUN(files);
	T_RUN(vector_state);
	T_RUN(segments);
	T_RUN(instructions_across_pages);
	T_RUN(code_that_changes_itself);
	ptrace_close(&rig);
	return 0;
}
