/*
 * What the thread of a vCPU does with a task that it traces (ptrace(2)).
 */
#include <elf.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "host/host.h"
#include "ptrace/ptrace.h"

/* Offsets in the ucontext of a signal's frame (asm/ucontext.h, asm/sigcontext.h). */
enum { UCONTEXT_ERR = 192, UCONTEXT_TRAPNO = 200, UCONTEXT_CR2 = 216 };
/* Stops on the way to an explanation that come from elsewhere. */
enum { STRAY_STOPS_MAX = 64 };
enum { FLAG_ID = 1 << 21 };
/* XSTATE_BV in the header of an XSAVE image, and what the kernel writes into the part of it that is software's. */
enum { XSAVE_SOFTWARE = 464, XSAVE_SOFTWARE_BYTES = 48, XSAVE_HEADER = 512 };

/* TASK_SIZE_MAX of the host. */
static const uint64_t HOST_USER_MAX = 0x7ffffffff000;

static long trace(int request, const struct akvm__stub_task *task, void *address, void *data)
{
	return AKVM__HOST->ptrace(request, task->pid, address, data);
}

int akvm__task_wait(struct akvm__stub_task *task)
{
	/* Read once: whoever drops the stub takes it away, and 0 would be any child of the program's. */
	pid_t pid = task->pid;
	siginfo_t info;
	int status;

	if (pid == 0 || AKVM__HOST->wait(pid, &status, false) != pid)
		return akvm__fail("wait for a stub", ESRCH);
	if (!WIFSTOPPED(status)) {
		/* Reaped: its number may be another's from now on. */
		task->pid = 0;
		return akvm__fail("wait for a stub", ESRCH);
	}
	task->signal = WSTOPSIG(status);
	task->code = 0;
	task->address = 0;
	/* Everything else but a system call has something to say. */
	if (task->signal != (SIGTRAP | 0x80) && status >> 16 == 0) {
		if (trace(PTRACE_GETSIGINFO, task, NULL, &info) != 0)
			return akvm__fail("ptrace PTRACE_GETSIGINFO", errno);
		task->code = info.si_code;
		task->address = (uint64_t)(uintptr_t)info.si_addr;
	}
	if (trace(PTRACE_GETREGS, task, NULL, &task->registers) != 0)
		return akvm__fail("ptrace PTRACE_GETREGS", errno);
	task->known = true;
	return 0;
}

int akvm__task_seize(struct akvm__stub_task *task, pid_t pid)
{
	const long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;

	task->pid = pid;
	if (trace(PTRACE_SEIZE, task, NULL, (void *)options) != 0)
		return akvm__fail("ptrace PTRACE_SEIZE", errno);
	return 0;
}

int akvm__task_run(struct akvm__stub_task *task, int signal)
{
	if (trace(PTRACE_SYSEMU, task, NULL, (void *)(long)signal) != 0)
		return akvm__fail("ptrace PTRACE_SYSEMU", errno);
	return akvm__task_wait(task);
}

/* All that come before the bases of FS and GS. */
static int set_first_registers(const struct akvm__stub_task *task, const struct user_regs_struct *registers)
{
	struct iovec part = {
		.iov_base = (void *)(uintptr_t)registers,
		.iov_len = offsetof(struct user_regs_struct, fs_base),
	};

	if (trace(PTRACE_SETREGSET, task, (void *)(long)NT_PRSTATUS, &part) != 0)
		return akvm__fail("ptrace PTRACE_SETREGSET", errno);
	return 0;
}

static bool is_refused(const struct user_regs_struct *registers)
{
	return registers->fs_base >= HOST_USER_MAX || registers->gs_base >= HOST_USER_MAX;
}

/* A tracer may not set bases in the upper half, nor the ID flag; ring 3 may, by instructions. */
static int set_by_itself(struct akvm__stub_task *task, const struct user_regs_struct *registers)
{
	struct user_regs_struct own = *registers;
	int error;

	own.rax = registers->fs_base;
	own.rbx = registers->gs_base;
	own.eflags = 2;
	own.rip = AKVM_STUB_CODE_AT + (is_refused(registers) ? AKVM_STUB_SET_BASES : AKVM_STUB_SET_FLAGS);
	own.rsp = AKVM_STUB_CODE_AT + (registers->eflags & FLAG_ID ? AKVM_STUB_FLAGS_ID : AKVM_STUB_FLAGS);
	/* Not by a register set: that is one of 32 bits while a task is in 32-bit code. */
	own.fs_base = own.gs_base = 0;
	error = trace(PTRACE_SETREGS, task, NULL, &own) != 0 ? akvm__fail("ptrace PTRACE_SETREGS", errno) : 0;
	do
		error = error ? error : akvm__task_run(task, 0);
	while (!error && task->signal == SIGUSR1);
	if (!error && task->signal != SIGTRAP)
		error = akvm__fail("ptrace: a stub could not set its registers", EIO);
	return error;
}

int akvm__task_set_registers(struct akvm__stub_task *task, const struct user_regs_struct *registers)
{
	int error = 0;

	if (task->known && memcmp(&task->registers, registers, sizeof(*registers)) == 0)
		return 0;
	/* Its flags are those of its last stop, whatever else was lost since. */
	if (is_refused(registers) || (task->registers.eflags ^ registers->eflags) & FLAG_ID)
		error = set_by_itself(task, registers);
	task->known = false;
	if (error)
		return error;
	if (is_refused(registers))
		error = set_first_registers(task, registers);
	else if (trace(PTRACE_SETREGS, task, NULL, (void *)(uintptr_t)registers) != 0)
		error = akvm__fail("ptrace PTRACE_SETREGS", errno);
	task->registers = *registers;
	task->known = error == 0;
	return error;
}

int akvm__task_get_vector_state(struct akvm__stub_task *task, void *image, uint32_t bytes, uint64_t components)
{
	struct iovec part = { .iov_base = image, .iov_len = bytes };
	uint64_t present;

	if (trace(PTRACE_GETREGSET, task, (void *)(long)NT_X86_XSTATE, &part) != 0)
		return akvm__fail("ptrace PTRACE_GETREGSET", errno);
	memset((uint8_t *)image + XSAVE_SOFTWARE, 0, XSAVE_SOFTWARE_BYTES);
	memcpy(&present, (uint8_t *)image + XSAVE_HEADER, sizeof(present));
	present &= components;
	memcpy((uint8_t *)image + XSAVE_HEADER, &present, sizeof(present));
	return 0;
}

int akvm__task_set_vector_state(struct akvm__stub_task *task, void *image, uint32_t bytes)
{
	struct iovec part = { .iov_base = image, .iov_len = bytes };

	if (trace(PTRACE_SETREGSET, task, (void *)(long)NT_X86_XSTATE, &part) != 0)
		return akvm__fail("ptrace PTRACE_SETREGSET", errno);
	return 0;
}

static int peek(const struct akvm__stub_task *task, uint64_t address, uint64_t *value)
{
	/* The system call itself stores the word. */
	if (trace(PTRACE_PEEKDATA, task, (void *)(uintptr_t)address, value) != 0)
		return akvm__fail("ptrace PTRACE_PEEKDATA", errno);
	return 0;
}

/* A guest whose RSP is in there would have the frame put below it, where there may be no room: the kernel would end the task. */
static int leave_signal_stack(struct akvm__stub_task *task)
{
	struct user_regs_struct elsewhere = task->registers;

	if (elsewhere.rsp - AKVM_STUB_STACK_AT > AKVM_STUB_STACK_BYTES)
		return 0;
	elsewhere.rsp = 0;
	/* A tracer may not give all that a guest can load. */
	elsewhere.ds = elsewhere.es = elsewhere.fs = elsewhere.gs = 0;
	return set_first_registers(task, &elsewhere);
}

/*
 * A tracer is not told the vector, the error code or CR2; the handler of a signal is, in its frame. So the signal is delivered, to a
 * handler that traps at once. A sibling can write to that stack meanwhile: what it says is about that guest alone, and no more
 * trusted than its registers.
 */
int akvm__task_explain(struct akvm__stub_task *task, struct akvm__explanation *explanation)
{
	int signal = task->signal, error;
	uint64_t vector, code;

	task->vector_version = 0;
	task->ahead = false;
	error = leave_signal_stack(task);
	if (!error)
		error = akvm__task_run(task, signal);
	for (unsigned strays = 0; !error && task->signal == SIGUSR1 && strays < STRAY_STOPS_MAX; strays++)
		error = akvm__task_run(task, 0);
	if (!error && (task->signal != SIGTRAP || task->registers.rip <= AKVM_STUB_CODE_AT ||
		       task->registers.rip >= AKVM_STUB_CODE_AT + AKVM_STUB_CODE_BYTES))
		error = akvm__fail("ptrace: a signal of a stub was not delivered", ESRCH);
	if (!error)
		error = peek(task, task->registers.rdx + UCONTEXT_TRAPNO, &vector);
	if (!error)
		error = peek(task, task->registers.rdx + UCONTEXT_ERR, &code);
	if (!error)
		error = peek(task, task->registers.rdx + UCONTEXT_CR2, &explanation->address);
	task->known = false;
	if (error)
		return error;
	explanation->vector = vector & 31;
	explanation->error_code = (uint32_t)code;
	return 0;
}
