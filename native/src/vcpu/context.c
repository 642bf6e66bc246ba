/*
 * Contexts as the loop handles them: create, attach, submit, FP image, answers. All loop thread.
 */
#include "vcpu/context.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"
#include "machine/machine.h"

/* The legacy region and header of an XSAVE image (SDM vol. 1 §13.4). */
enum { XSAVE_FCW = 0, XSAVE_HEADER = 512, XSAVE_HEADER_BYTES = 64, XSAVE_ALIGNMENT = 64 };
enum { FCW_INITIAL = 0x37f, MXCSR_INITIAL = 0x1f80 };

static void initial_xsave(struct akvm__context *context)
{
	const uint16_t fcw = FCW_INITIAL;
	const uint32_t mxcsr = MXCSR_INITIAL;
	const uint64_t x87_and_sse = 3;
	uint8_t *image = context->xsave;

	memset(image, 0, context->machine->capabilities.xsave_bytes);
	memcpy(image + XSAVE_FCW, &fcw, sizeof(fcw));
	memcpy(image + AKVM_XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
	memcpy(image + XSAVE_HEADER, &x87_and_sse, sizeof(x87_and_sse));
	context->xsave_version = ++context->machine->xsave_versions;
}

int akvm_context_create(struct akvm_machine *machine, struct akvm_context **created)
{
	uint32_t bytes = machine->capabilities.xsave_bytes;
	struct akvm__context *context;

	if (!machine->free_count)
		return akvm__fail("more contexts than contexts_max", EAGAIN);
	context = AKVM__HOST->calloc(1, sizeof(*context));
	if (!context)
		return akvm__fail("allocate context", ENOMEM);
	context->xsave =
		AKVM__HOST->aligned_alloc(XSAVE_ALIGNMENT, (bytes + XSAVE_ALIGNMENT - 1) / XSAVE_ALIGNMENT * XSAVE_ALIGNMENT);
	if (!context->xsave) {
		free(context);
		return akvm__fail("allocate XSAVE image", ENOMEM);
	}
	context->machine = machine;
	context->pub.index = machine->free_contexts[--machine->free_count];
	context->pub.registers.rflags = 0x202;
	initial_xsave(context);
	machine->contexts[context->pub.index] = context;
	*created = &context->pub;
	return 0;
}

void akvm__context_free(struct akvm__context *context)
{
	if (context->direct_files)
		akvm_direct_files_release(context->direct_files);
	free(context->xsave);
	free(context);
}

int akvm_context_destroy(struct akvm_context *public)
{
	struct akvm__context *context = akvm__context(public);
	struct akvm_machine *machine = context->machine;

	if (public->submitted)
		return akvm__fail("destroy a running context", EBUSY);
	akvm__context_forget_fp(context);
	machine->contexts[public->index] = NULL;
	machine->free_contexts[machine->free_count++] = public->index;
	akvm__context_free(context);
	return 0;
}

int akvm_context_attach(struct akvm_context *public, struct akvm_space *space)
{
	if (public->submitted)
		return akvm__fail("attach a running context", EBUSY);
	akvm__context(public)->space = space;
	return 0;
}

static bool polls(const struct akvm__vcpu *vcpu)
{
	return !atomic_load(&vcpu->busy) && !atomic_load(&vcpu->mailbox.sleeping) && !atomic_load(&vcpu->mailbox.length);
}

/* A vCPU that is awake, rather than wake the chosen one, which costs more than an exit: one that is without work, else one that
 * can be expected to be without soon. */
static uint32_t wakeful(const struct akvm_machine *machine, uint32_t vcpu)
{
	uint32_t found = vcpu;

	if (!atomic_load(&machine->vcpus[vcpu]->mailbox.sleeping))
		return vcpu;
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		if (polls(machine->vcpus[i]))
			return i;
		if (akvm__vcpu_soon_free(machine->vcpus[i]) && !atomic_load(&machine->vcpus[i]->mailbox.length))
			found = i;
	}
	return found;
}

/* Whether somebody is in the way there of `pinned`, which may be running itself by now: a kick would cut it short. */
static bool must_make_way(const struct akvm__vcpu *vcpu, const struct akvm__context *pinned)
{
	uint32_t current = atomic_load(&vcpu->current);

	return current != UINT32_MAX && current != pinned->pub.index;
}

static int submit(struct akvm__context *context, uint32_t vcpu, uint32_t operation, bool pinned)
{
	struct akvm_machine *machine = context->machine;
	int error = 0;

	if (vcpu >= machine->vcpu_count)
		return akvm__fail("submit to an unknown vCPU", EINVAL);
	if (context->pub.submitted)
		return akvm__fail("submit a running context", EBUSY);
	if (!pinned)
		vcpu = wakeful(machine, vcpu);
	context->operation = operation;
	context->pinned = pinned;
	context->mailbox = vcpu;
	context->pub.generation++;
	context->pub.submitted = 1;
	/* A new generation: what was asked of earlier runs is void. */
	atomic_store(&context->interrupt, (uint64_t)context->pub.generation << 32);
	if (akvm__mailbox_put(&machine->vcpus[vcpu]->mailbox, context)) {
		/* An owner that is about to run something looks at its mailbox before it enters. */
		if (!pinned)
			akvm__vcpu_wake_a_thief(machine->vcpus[vcpu], false);
		else if (must_make_way(machine->vcpus[vcpu], context))
			error = akvm__vcpu_kick(machine->vcpus[vcpu]);
		/* It would wait for a guest that nobody told to leave. */
		if (!error || !akvm__mailbox_withdraw(&machine->vcpus[vcpu]->mailbox, context))
			return 0;
	} else {
		error = akvm__fail("submit to a full mailbox", ENOSPC);
	}
	context->pub.submitted = 0;
	return error;
}

int akvm_context_submit(struct akvm_context *public, uint32_t vcpu)
{
	struct akvm__context *context = akvm__context(public);
	const struct akvm_registers *registers = &public->registers;

	if (!context->space)
		return akvm__fail("submit a context without address space", EINVAL);
	/* SYSRET with a non-canonical RCX would fault in ring 0 on Intel; the rest would fault there on IRET or in KVM. */
	if (!akvm__canonical(registers->rip) || !akvm__canonical(registers->rsp) || !akvm__canonical(public->fs_base) ||
	    !akvm__canonical(public->gs_base))
		return akvm__fail("submit a context with non-canonical addresses", EINVAL);
	return submit(context, vcpu, 0, false);
}

void akvm_machine_rouse(struct akvm_machine *machine)
{
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		akvm__vcpu_wake_a_thief(machine->vcpus[i], true);
}

int akvm_context_operate(struct akvm_context *public, uint32_t vcpu, uint32_t operation)
{
	if (operation > AKVM_OPERATION_NOTHING)
		return akvm__fail("unknown ring-0 operation", EINVAL);
	return submit(akvm__context(public), vcpu, operation + 1, true);
}

int akvm_context_get_xsave(struct akvm_context *public, void *image, uint32_t bytes)
{
	struct akvm__context *context = akvm__context(public);
	int error;

	if (public->submitted)
		return akvm__fail("read FP state of a running context", EBUSY);
	if (bytes != context->machine->capabilities.xsave_bytes)
		return akvm__fail("XSAVE image size", EINVAL);
	error = akvm__context_save_fp(context);
	if (!error)
		memcpy(image, context->xsave, bytes);
	return error;
}

/* XRSTOR would fault on any of this (SDM vol. 1 §13.8), and in KVM's hands rather than the guest's. */
static bool valid_xsave(const struct akvm_machine *machine, const uint8_t *image)
{
	uint64_t header[XSAVE_HEADER_BYTES / 8];
	uint32_t mxcsr;

	memcpy(header, image + XSAVE_HEADER, sizeof(header));
	memcpy(&mxcsr, image + AKVM_XSAVE_MXCSR, sizeof(mxcsr));
	if (header[0] & ~(machine->capabilities.xcr0 | 3))
		return false;
	for (size_t i = 1; i < XSAVE_HEADER_BYTES / 8; i++)
		if (header[i])
			return false;
	return !(mxcsr & ~(uint32_t)AKVM_MXCSR_VALID);
}

int akvm_context_set_xsave(struct akvm_context *public, const void *image, uint32_t bytes)
{
	struct akvm__context *context = akvm__context(public);

	if (public->submitted)
		return akvm__fail("write FP state of a running context", EBUSY);
	if (bytes != context->machine->capabilities.xsave_bytes || !valid_xsave(context->machine, image))
		return akvm__fail("XSAVE image", EINVAL);
	akvm__context_forget_fp(context);
	memcpy(context->xsave, image, bytes);
	context->xsave_version = ++context->machine->xsave_versions;
	return 0;
}

int akvm_answers_create(struct akvm_answers **answers)
{
	*answers = AKVM__HOST->calloc(1, sizeof(**answers));
	return *answers ? 0 : akvm__fail("allocate answers", ENOMEM);
}

int akvm_answers_set(struct akvm_answers *answers, uint32_t number, int64_t value)
{
	if (number >= AKVM_ANSWERS_MAX)
		return akvm__fail("system call number of an answer", EINVAL);
	answers->known[number / 64] |= 1ull << number % 64;
	answers->values[number] = value;
	return 0;
}

int akvm_answers_clear(struct akvm_answers *answers, uint32_t number)
{
	if (number >= AKVM_ANSWERS_MAX)
		return akvm__fail("system call number of an answer", EINVAL);
	answers->known[number / 64] &= ~(1ull << number % 64);
	return 0;
}

void akvm_answers_destroy(struct akvm_answers *answers)
{
	free(answers);
}

int akvm_context_answers(struct akvm_context *public, struct akvm_answers *answers)
{
	if (public->submitted)
		return akvm__fail("change answers of a running context", EBUSY);
	akvm__context(public)->answers = answers;
	return 0;
}
