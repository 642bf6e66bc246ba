/*
 * What the thread of a vCPU does with a task that it traces (ptrace(2)).
 */
#include <elf.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "host/host.h"
#include "ptrace/ptrace.h"

/* Offsets in the ucontext of a signal's frame (asm/ucontext.h, asm/sigcontext.h). */
enum { UCONTEXT_ERR = 192, UCONTEXT_TRAPNO = 200, UCONTEXT_CR2 = 216 };
/* Stops on the way to an explanation that come from elsewhere. */
enum { STRAY_STOPS_MAX = 64 };
/* XSTATE_BV in the header of an XSAVE image, and what the kernel writes into the part of it that is software's. */
enum { XSAVE_SOFTWARE = 464, XSAVE_SOFTWARE_BYTES = 48, XSAVE_HEADER = 512 };

static long trace(int request, const struct akvm__stub_task *task, void *address, void *data)
{
	return AKVM__HOST->ptrace(request, task->pid, address, data);
}

int akvm__task_wait(struct akvm__stub_task *task)
{
	siginfo_t info;
	int status;

	if (AKVM__HOST->wait(task->pid, &status, false) != task->pid || !WIFSTOPPED(status))
		return akvm__fail("wait for a stub", ESRCH);
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

int akvm__task_set_registers(struct akvm__stub_task *task, const struct user_regs_struct *registers)
{
	if (task->known && memcmp(&task->registers, registers, sizeof(*registers)) == 0)
		return 0;
	task->known = false;
	if (trace(PTRACE_SETREGS, task, NULL, (void *)(uintptr_t)registers) != 0)
		return akvm__fail("ptrace PTRACE_SETREGS", errno);
	task->registers = *registers;
	task->known = true;
	return 0;
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
