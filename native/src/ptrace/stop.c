/*
 * From a stopped task to an event: what ring 3 looked like, and what happened to it.
 */
#include <errno.h>
#include <signal.h>

#include "akvm/layout.h"
#include "ptrace/ptrace.h"

enum { PAGE = 4096 };
enum { VECTOR_GP = 13, VECTOR_PF = 14 };
enum { PF_WRITE = 2, PF_USER = 4, PF_FETCH = 16 };
/* Of one fault: the likely access, then the other. */
enum { GUESSES = 2 };
enum { SEGV_MAPPING = 1, SEGV_ACCESS = 2, INSTRUCTION_MAX = 15 };
static const uint64_t VSYSCALL = 0xffffffffff600000;

static void from_host(struct akvm__context *context, const struct user_regs_struct *from)
{
	context->pub.registers = (struct akvm_registers){
		.rax = from->rax,
		.rbx = from->rbx,
		.rcx = from->rcx,
		.rdx = from->rdx,
		.rsi = from->rsi,
		.rdi = from->rdi,
		.rsp = from->rsp,
		.rbp = from->rbp,
		.r8 = from->r8,
		.r9 = from->r9,
		.r10 = from->r10,
		.r11 = from->r11,
		.r12 = from->r12,
		.r13 = from->r13,
		.r14 = from->r14,
		.r15 = from->r15,
		.rip = from->rip,
		.rflags = akvm__user_flags(from->eflags),
	};
	context->pub.fs_base = from->fs_base;
	context->pub.gs_base = from->gs_base;
	context->selectors =
		(struct akvm__selectors){ (uint16_t)from->ds, (uint16_t)from->es, (uint16_t)from->fs, (uint16_t)from->gs };
	context->restore = AKVM_RESTORE_AUTO;
}

/* At the page that the host's kernel calls for user code, which is not part of any space: the fetch there faulted. `returned`: the
 * kernel has already gone back to the caller. */
static enum akvm__event vsyscall(struct akvm__context *context, uint64_t address, bool returned)
{
	context->pub.registers.rip = address;
	context->pub.registers.rsp -= returned ? 8 : 0;
	context->pub.vector = VECTOR_PF;
	context->pub.error_code = PF_USER | PF_FETCH;
	context->pub.address = address;
	return AKVM_EVENT_EXCEPTION;
}

static enum akvm__event system_call(struct akvm__context *context, const struct akvm__stub_task *task)
{
	const struct user_regs_struct *registers = &task->registers;

	context->pub.registers.rax = registers->orig_rax;
	context->restore = context->pub.restore;
	/* SYSCALL leaves its return address in RCX and the flags in R11; INT 0x80 leaves them alone. */
	if (registers->rcx == registers->rip && registers->r11 == registers->eflags) {
		context->pub.vector = 256;
		return AKVM_EVENT_SYSCALL;
	}
	context->pub.vector = 0x80;
	return AKVM_EVENT_INT80;
}

/* Stores are told from loads only by asking, which costs as much as the fault; so what is likely is tried first. */
static void guess(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm__stub_task *task = vcpu->task;
	uint64_t rip = context->pub.registers.rip;
	uint32_t code = PF_USER;

	akvm__space_lock(context->space);
	/* A fetch faults at its first byte, or at the first of the next page. */
	if (task->address == rip || (task->address % PAGE == 0 && task->address - rip < INSTRUCTION_MAX))
		code |= PF_FETCH;
	else if (task->code == SEGV_ACCESS || akvm__space_likely_access(context->space, task->address) == AKVM_WRITE)
		code |= PF_WRITE;
	akvm__space_unlock(context->space);
	context->pub.vector = VECTOR_PF;
	context->pub.error_code = code;
	context->pub.address = task->address;
	task->guessed = true;
}

/* What was guessed last time did not help. */
static bool comes_again(struct akvm__stub_task *task)
{
	bool same = task->last_rip == task->registers.rip && task->last_address == task->address;

	task->repeated = same ? task->repeated + 1 : 0;
	task->last_rip = task->registers.rip;
	task->last_address = task->address;
	return task->repeated >= GUESSES;
}

/* Of all siblings one at a time: they share the stack that the answer comes on. */
static int ask(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm__stub_task *task = vcpu->task;
	struct akvm__explanation explanation;
	int error = akvm__stub_save_vector_state(vcpu, context);

	if (error)
		return akvm__stub_judge(vcpu, error);
	akvm__space_lock(context->space);
	error = akvm__task_explain(task, &explanation);
	akvm__space_unlock(context->space);
	if (error)
		return akvm__stub_judge(vcpu, error);
	context->pub.vector = explanation.vector;
	context->pub.error_code = explanation.error_code;
	context->pub.address = explanation.vector == VECTOR_PF ? explanation.address : 0;
	task->guessed = false;
	return 0;
}

static enum akvm__event broken(struct akvm__context *context, int error)
{
	context->pub.detail = AKVM_FAILURE_RUN;
	context->pub.host_errno = -error;
	return AKVM_EVENT_BROKEN;
}

/* It ran on into what the stub keeps for itself. After a system call or a trap RIP may just stand there. */
static bool is_stubs_own(const struct akvm__stub_task *task)
{
	uint64_t rip = task->registers.rip;

	if (rip == AKVM_STUB_CODE_AT)
		return (task->signal & ~0x80) != SIGTRAP;
	return rip > AKVM_STUB_CODE_AT && rip <= AKVM_STUB_TOP;
}

enum akvm__event akvm__stub_decode(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome result)
{
	struct akvm__stub_task *task = vcpu->task;
	uint64_t entered_at = context->pub.registers.rip;
	int error;

	from_host(context, &task->registers);
	task->guessed = false;
	context->pub.error_code = 0;
	context->pub.address = 0;
	if (is_stubs_own(task)) {
		/* Nothing is there, as far as it is concerned. */
		context->pub.vector = VECTOR_PF;
		context->pub.error_code = PF_USER | PF_FETCH;
		context->pub.address = task->registers.rip;
		return AKVM_EVENT_EXCEPTION;
	}
	if (task->registers.cs != AKVM_USER_CS) {
		/* Another mode than ours: as if the jump there had faulted. After its fast system calls RIP is where the host
		 * program's own vDSO would be, which is no guest's to know. */
		if (task->registers.rip > UINT32_MAX)
			context->pub.registers.rip = entered_at;
		context->pub.vector = VECTOR_GP;
		context->pub.error_code = (uint32_t)task->registers.cs & 0xfffc;
		return AKVM_EVENT_EXCEPTION;
	}
	if (result.result != AKVM_RUN_HALTED)
		return AKVM_EVENT_INTERRUPTED;
	if (task->signal == (SIGTRAP | 0x80))
		return system_call(context, task);
	if (task->signal == SIGSYS)
		return task->address >= VSYSCALL ? vsyscall(context, task->address, true) : broken(context, -EPROTO);
	if (task->signal == SIGSEGV && task->registers.rip - VSYSCALL < PAGE)
		return vsyscall(context, task->registers.rip, false);
	if (task->signal == SIGSEGV && (task->code == SEGV_MAPPING || task->code == SEGV_ACCESS) && !comes_again(task)) {
		guess(vcpu, context);
		return AKVM_EVENT_EXCEPTION;
	}
	error = ask(vcpu, context);
	return error ? broken(context, error) : AKVM_EVENT_EXCEPTION;
}

int akvm__stub_explain(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	uint32_t guessed = context->pub.error_code;
	int error;

	if (vcpu->task == NULL || !vcpu->task->guessed)
		return 0;
	error = ask(vcpu, context);
	if (error)
		return error;
	return ((context->pub.error_code ^ guessed) & (PF_WRITE | PF_FETCH)) != 0;
}
