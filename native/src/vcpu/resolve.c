/*
 * One run of a context: enter, decode, resolve what this thread can resolve, enter again; until something remains that the
 * caller must see. Every turn of the loop looks at the context's interrupts first, so no guest can keep it.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/direct_files.h"
#include "vcpu/vcpu.h"

enum { VECTOR_DB = 1, VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_PF = 14, VECTOR_INT80 = 0x80 };
enum { ERROR_CODE_IDT = 2 };
enum { PF_WRITE = 2, PF_USER = 4, PF_FETCH = 16 };
/* A fault that keeps being resolved and comes back is a broken table, not a slow one. */
enum { SAME_FAULT_MAX = 4096 };
/* Entries in a row that were interrupted before the guest's first instruction, or in the edits before it, which take longer.
 * Kicks do that now and then; a host that does it each time would keep this thread busy for ever. */
enum { ENTRY_CUTS_MAX = 4096, EDIT_CUTS_MAX = 65536 };

struct same_fault {
	uint64_t rip, address, generation;
	unsigned count, stray_traps, cuts;
};

/* Interrupted, closing, or in the way of a ring-0 operation. */
static bool must_leave(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	return akvm__context_interrupts(context) || atomic_load(&vcpu->machine->stopping) || atomic_load(&vcpu->mailbox.pinned);
}

static void finish(struct akvm__context *context, enum akvm_exit_kind kind)
{
	context->pub.kind = kind;
	context->pub.exits++;
}

static void finish_interrupted(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	context->pub.interrupts = akvm__context_interrupts(context);
	if (atomic_load(&vcpu->machine->stopping))
		context->pub.interrupts |= AKVM_INTERRUPT_CLOSE;
	/* An operation that made it leave may have been withdrawn since. */
	if (atomic_load(&vcpu->mailbox.pinned) || !context->pub.interrupts)
		context->pub.interrupts |= AKVM_INTERRUPT_PREEMPT;
	finish(context, AKVM_EXIT_INTERRUPTED);
}

static void finish_error(struct akvm__vcpu *vcpu, struct akvm__context *context, uint32_t failure, int error)
{
	context->pub.detail = failure;
	context->pub.host_errno = error;
	vcpu->must_reset = true;
	/* Where a call failed before the entry, the context is as it was and may be submitted again. */
	if (failure != AKVM_FAILURE_HOST)
		akvm__context_forget_fp(context);
	finish(context, AKVM_EXIT_ERROR);
}

/* The instruction at RIP, when it is two bytes beginning with `first`: its second byte, else -1. */
static int second_byte(struct akvm__context *context, uint8_t first)
{
	uint8_t bytes[2];

	if (akvm_space_read(context->space, context->pub.registers.rip, bytes, sizeof(bytes)) != sizeof(bytes) ||
	    bytes[0] != first)
		return -1;
	return bytes[1];
}

static bool resolve_syscall(struct akvm__context *context)
{
	const struct akvm_answers *answers = context->answers;
	uint64_t number = context->pub.registers.rax;

	if (!answers || number >= AKVM_ANSWERS_MAX || !(answers->known[number / 64] >> number % 64 & 1))
		return false;
	context->pub.registers.rax = (uint64_t)answers->values[number];
	return true;
}

static uint32_t serve_fault(struct akvm__vcpu *vcpu, struct akvm_space *space, uint64_t address, uint32_t access)
{
	struct akvm__mm *mm = vcpu->machine->mm;
	uint32_t fault = (uint32_t)akvm__space_fault(space, address, access);

	if ((fault != AKVM_FAULT_MEMORY && fault != AKVM_FAULT_LIMIT) || !akvm__mm_reaping(mm))
		return fault;
	/* Other spaces hold what is missing; another vCPU may have one of them in hand. */
	atomic_store(&vcpu->machine->reap_due, true);
	akvm__vcpu_reap_if_due(vcpu);
	fault = (uint32_t)akvm__space_fault(space, address, access);
	if ((fault == AKVM_FAULT_MEMORY || fault == AKVM_FAULT_LIMIT) && akvm__reap_wait(mm))
		fault = (uint32_t)akvm__space_fault(space, address, access);
	return fault;
}

static uint32_t access_of(uint32_t error_code)
{
	return error_code & PF_FETCH ? AKVM_EXECUTE : error_code & PF_WRITE ? AKVM_WRITE : AKVM_READ;
}

static bool resolve_page_fault(struct akvm__vcpu *vcpu, struct akvm__context *context, struct same_fault *same)
{
	const struct akvm__driver *driver = vcpu->machine->driver;
	struct akvm_context *pub = &context->pub;
	uint32_t access = access_of(pub->error_code);
	uint64_t generation;
	int error;

	if (!(pub->error_code & PF_USER) && pub->address < AKVM_USER_MAX) {
		/* Made with ring 0's rights, which no mapping of ours serves: an emulated processor does so in ring 3's IRET. */
		pub->detail = AKVM_FAULT_ACCESS;
		return false;
	}
	pub->detail = serve_fault(vcpu, context->space, pub->address, access);
	if (pub->detail != AKVM_FAULT_NONE) {
		error = driver->explain ? driver->explain(vcpu, context) : 0;
		if (error < 0)
			finish_error(vcpu, context, AKVM_FAILURE_HOST, -error);
		if (error <= 0)
			return false;
		access = access_of(pub->error_code);
		pub->detail = serve_fault(vcpu, context->space, pub->address, access);
		if (pub->detail != AKVM_FAULT_NONE)
			return false;
	}
	error = driver->resolved(vcpu, context);
	if (error) {
		finish_error(vcpu, context, AKVM_FAILURE_HOST, -error);
		return false;
	}
	/* A sibling that takes the page away again and again changes the generation each time. */
	generation = akvm__space_generation(context->space);
	if (same->rip != pub->registers.rip || same->address != pub->address || same->generation != generation) {
		same->rip = pub->registers.rip;
		same->address = pub->address;
		same->generation = generation;
		same->count = 0;
	}
	if (++same->count > SAME_FAULT_MAX) {
		finish_error(vcpu, context, AKVM_FAILURE_STATE, ELOOP);
		return false;
	}
	return true;
}

/* INT n where it arrives as #UD: the system call of vector 0x80, or the #GP that a gate of ring 0 raises (SDM vol. 3A §6.13).
 * False when it is some other invalid instruction. */
static bool software_interrupt(struct akvm__context *context)
{
	int vector = second_byte(context, 0xcd);

	if (vector < 0)
		return false;
	if (vector == VECTOR_INT80) {
		context->pub.registers.rip += 2;
		context->pub.vector = VECTOR_INT80;
		finish(context, AKVM_EXIT_SYSCALL);
		return true;
	}
	context->pub.vector = VECTOR_GP;
	context->pub.error_code = (uint32_t)vector << 3 | ERROR_CODE_IDT;
	finish(context, AKVM_EXIT_FAULT);
	return true;
}

/* True when the guest may go on; else the exit record is filled in. */
static bool resolve_exception(struct akvm__vcpu *vcpu, struct akvm__context *context, struct same_fault *same)
{
	const struct akvm_capabilities *capabilities = &vcpu->machine->capabilities;
	struct akvm_context *pub = &context->pub;

	pub->detail = AKVM_FAULT_NONE;
	if (pub->vector == VECTOR_PF) {
		if (resolve_page_fault(vcpu, context, same))
			return true;
		if (pub->kind == AKVM_EXIT_ERROR)
			return false;
	} else if (pub->vector == VECTOR_UD && capabilities->int80_as_ud) {
		if (software_interrupt(context))
			return false;
	} else if (pub->vector == VECTOR_GP && pub->error_code == 0 && capabilities->cpuid_faulting &&
		   second_byte(context, 0x0f) == 0xa2) {
		vcpu->machine->driver->answer_cpuid(vcpu->machine, &pub->registers);
		pub->registers.rip += 2;
		return true;
	}
	finish(context, AKVM_EXIT_FAULT);
	return false;
}

/* Ring 3 for a while. Returns false when the reasons to leave outran the entry: nothing happened. */
static bool enter_guest(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome *outcome)
{
	const struct akvm__driver *driver = vcpu->machine->driver;
	uint64_t generation = atomic_load(&vcpu->space_generation);

	atomic_store(&vcpu->state, AKVM_VCPU_ENTERING);
	driver->expect_kicks(vcpu);
	atomic_store(&vcpu->state, AKVM_VCPU_GUEST);
	if (must_leave(vcpu, context) || akvm__space_generation(context->space) != generation) {
		atomic_store(&vcpu->state, AKVM_VCPU_EXITING);
		driver->unload(vcpu);
		akvm__vcpu_leave_space(vcpu);
		return false;
	}
	*outcome = driver->run(vcpu, context);
	atomic_store(&vcpu->state, AKVM_VCPU_EXITING);
	akvm__vcpu_leave_space(vcpu);
	akvm__count(&vcpu->counters.exits);
	return true;
}

/*
 * A host page that cannot be had: a file was cut short under its mapping. The host may not say where, so what lies beyond the end
 * of files is unmapped and the guest runs on into an ordinary fault. True when that may help: also when another vCPU did it
 * since this one entered.
 */
static bool resolve_bus(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome outcome)
{
	if (vcpu->machine->driver->decode(vcpu, context, outcome) == AKVM_EVENT_INTERRUPTED &&
	    (akvm__space_trim(context->space) || akvm__space_generation(context->space) != vcpu->space_generation))
		return true;
	finish_error(vcpu, context, AKVM_FAILURE_RUN, outcome.host_errno);
	return false;
}

/* One entry more that led nowhere. False when that were too many, and for no reason. */
static bool bear_cut(struct akvm__vcpu *vcpu, struct akvm__context *context, struct same_fault *same, unsigned max)
{
	if (++same->cuts <= max || must_leave(vcpu, context))
		return true;
	finish_error(vcpu, context, AKVM_FAILURE_RUN, EINTR);
	return false;
}

/* True when the context should be entered again. */
static bool resolve(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome outcome,
		    struct same_fault *same)
{
	enum akvm__event event;

	context->pub.kvm_exit_reason = outcome.reason;
	if (outcome.result == AKVM_RUN_FAILED) {
		finish_error(vcpu, context, outcome.failure, outcome.host_errno);
		return false;
	}
	if (outcome.result == AKVM_RUN_BUS)
		return resolve_bus(vcpu, context, outcome);
	event = vcpu->machine->driver->decode(vcpu, context, outcome);
	if (event != AKVM_EVENT_NOT_ENTERED)
		same->cuts = 0;
	switch (event) {
	case AKVM_EVENT_NOT_ENTERED:
		if (!bear_cut(vcpu, context, same, ENTRY_CUTS_MAX))
			return false;
		/* fall through */
	case AKVM_EVENT_INTERRUPTED:
		/* The loop looks for the reason: an interrupt, a shootdown, or none (a kick meant for an earlier run). */
		if (!must_leave(vcpu, context))
			akvm__count(akvm__space_generation(context->space) == vcpu->space_generation
					    ? &vcpu->counters.stale_kicks
					    : &vcpu->counters.shootdowns);
		return true;
	case AKVM_EVENT_SYSCALL:
		if (resolve_syscall(context) || akvm__direct_call(vcpu, context))
			return true;
		finish(context, AKVM_EXIT_SYSCALL);
		return false;
	case AKVM_EVENT_INT80:
		finish(context, AKVM_EXIT_SYSCALL);
		return false;
	case AKVM_EVENT_EXCEPTION:
		return resolve_exception(vcpu, context, same);
	case AKVM_EVENT_BROKEN:
		/* A debug trap that was pending when its own run was cut short, delivered in the next entry's stub: it belongs to
		 * nobody any more. */
		if (context->pub.detail == AKVM_FAILURE_RING0 && context->pub.vector == VECTOR_DB &&
		    ++same->stray_traps <= SAME_FAULT_MAX) {
			vcpu->machine->driver->unload(vcpu);
			context->pub.detail = AKVM_FAILURE_NONE;
			return true;
		}
		finish_error(vcpu, context, context->pub.detail, context->pub.host_errno);
		return false;
	case AKVM_EVENT_OPERATION_DONE:
	case AKVM_EVENT_OPERATION_CUT:
		break;
	}
	finish_error(vcpu, context, AKVM_FAILURE_STATE, 0);
	return false;
}

void akvm__vcpu_execute(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	const struct akvm__driver *driver = vcpu->machine->driver;
	struct akvm__run_outcome outcome;
	struct same_fault same = { 0 };
	uint64_t native = 0;
	bool again = true;
	int error;

	context->pub.kind = AKVM_EXIT_NONE;
	context->restore = context->pub.restore;
	while (again) {
		if (must_leave(vcpu, context)) {
			finish_interrupted(vcpu, context);
			break;
		}
		if (!akvm__canonical(context->pub.registers.rip)) {
			/* Some processors fault after the jump, and a system call returns to wherever RCX says. Entering there
			 * would fault in ring 0. */
			context->pub.vector = VECTOR_GP;
			context->pub.error_code = 0;
			finish(context, AKVM_EXIT_FAULT);
			break;
		}
		akvm__vcpu_reap_if_pressing(vcpu);
		error = vcpu->must_reset ? driver->reset(vcpu) : 0;
		if (!error)
			error = akvm__vcpu_enter_space(vcpu, context);
		if (error == -EINTR && bear_cut(vcpu, context, &same, EDIT_CUTS_MAX))
			continue;
		if (error == -EINTR)
			break;
		if (!error)
			error = driver->load(vcpu, context);
		if (error) {
			akvm__vcpu_leave_space(vcpu);
			finish_error(vcpu, context, AKVM_FAILURE_HOST, -error);
			break;
		}
		if (!enter_guest(vcpu, context, &outcome))
			continue;
		again = resolve(vcpu, context, outcome, &same);
		native += again;
		akvm__vcpu_record(vcpu, context, outcome.reason, again ? AKVM_EXIT_NONE : context->pub.kind,
				  context->pub.registers.rip);
	}
	error = driver->retire(vcpu, context);
	if (error && context->pub.kind != AKVM_EXIT_ERROR) {
		/* Whatever the exit was, part of the context is lost. */
		context->pub.exits--;
		finish_error(vcpu, context, AKVM_FAILURE_RUN, -error);
	}
	context->pub.native_exits += native;
	atomic_fetch_add_explicit(&vcpu->counters.native_exits, native, memory_order_relaxed);
}
