/*
 * Page faults on the ptrace platform and the real kernel, which tells neither stores from loads nor loads from fetches: those that
 * are served, and those that the caller is told of, exactly.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ptrace_rig.h"

enum { PF_PRESENT = 1, READ = 4, WRITE = 6, FETCH = 0x14 };
enum { FILE_AT = 0x30000000, EDGE = 0x40000000 };

#define PIECE(name) extern const uint8_t guest_##name[], guest_##name##_at[]
PIECE(load);
PIECE(store);
PIECE(vsyscall);
PIECE(jump);
PIECE(locked);

static struct rig rig;

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

static void run_at(struct akvm_context *context, const uint8_t *entry, uint64_t rdi, uint64_t rsi)
{
	context->registers.rdi = rdi;
	context->registers.rsi = rsi;
	ptrace_run(&rig, context, 0, entry);
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

int main(void)
{
	ptrace_need();
	ptrace_open(&rig, 1);
	T_RUN(page_faults);
	T_RUN(vsyscalls);
	T_RUN(files);
	T_RUN(instructions_across_pages);
	T_RUN(code_that_changes_itself);
	ptrace_close(&rig);
	return 0;
}
