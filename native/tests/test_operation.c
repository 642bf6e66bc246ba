/*
 * Ring-0 operations asked for by the caller: their results, their exceptions, and being cut short.
 */
#include <errno.h>

#include "rig.h"

enum { MSR_MISC_FEATURES = 0x140, MSR_NOWHERE = 0x4b564d99 };

static const struct fake_options with_msr = { .cpuid_faulting = true, .pcid = true };

static void operate(struct rig *rig, struct akvm_context *context, uint32_t vcpu, uint32_t operation, uint64_t rcx,
		    uint64_t value)
{
	context->registers = (struct akvm_registers){ .rcx = rcx, .rax = (uint32_t)value, .rdx = value >> 32 };
	T_EQUAL(akvm_context_operate(context, vcpu, operation), 0);
	T_CHECK(rig_wait(rig) == context);
	T_EQUAL(context->kind, AKVM_EXIT_OPERATION);
}

static void results(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, &with_msr, 2);
	context = rig_context(&rig, 0);
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++) {
		operate(&rig, context, vcpu, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 0x100000003 + vcpu);
		T_EQUAL(context->detail, 0);
		T_EQUAL(context->vcpu, vcpu);
	}
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++) {
		operate(&rig, context, vcpu, AKVM_OPERATION_READ_MSR, MSR_MISC_FEATURES, 0);
		T_EQUAL(context->detail, 0);
		T_EQUAL(context->registers.rax, 3 + vcpu);
		T_EQUAL(context->registers.rdx, 1);
		operate(&rig, context, vcpu, AKVM_OPERATION_NOTHING, 0, 0);
		T_EQUAL(context->host_errno, 0);
		operate(&rig, context, vcpu, AKVM_OPERATION_FLUSH, 0, 0);
		T_EQUAL(context->host_errno, 0);
		rig_execute(&rig, context, vcpu, RIG_SYSCALL, 0, 0);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	}
	T_EQUAL(akvm_context_operate(context, 0, AKVM_OPERATION_NOTHING + 1), -EINVAL);
	T_EQUAL(akvm_context_operate(context, 2, AKVM_OPERATION_NOTHING), -EINVAL);
	rig_close(&rig);
}

static void exceptions(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, &with_msr, 1);
	context = rig_context(&rig, 0);
	for (uint32_t operation = AKVM_OPERATION_READ_MSR; operation <= AKVM_OPERATION_WRITE_MSR; operation++) {
		operate(&rig, context, 0, operation, MSR_NOWHERE, 0);
		T_EQUAL(context->detail, 1);
		T_EQUAL(context->vector, 13);
		T_EQUAL(context->host_errno, -EFAULT);
		rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	}
	rig_close(&rig);
}

/* Cut short it is an interruption, and asked for again it works. */
static void cut_short(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, &with_msr, 1);
	context = rig_context(&rig, 0);
	for (unsigned i = 0; i < 4; i++) {
		static const uint32_t stubs[] = { AKVM_STUB_READ_MSR, AKVM_STUB_WRITE_MSR, AKVM_STUB_FLUSH, AKVM_STUB_NOTHING };

		context->registers = (struct akvm_registers){ .rcx = MSR_MISC_FEATURES };
		fake_cut(stubs[i], 0, 1);
		T_EQUAL(akvm_context_operate(context, 0, i), 0);
		T_CHECK(rig_wait(&rig) == context);
		T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
		T_EQUAL(context->interrupts, 0);
		operate(&rig, context, 0, i, MSR_MISC_FEATURES, 0);
		T_EQUAL(context->detail, 0);
	}
	fake_fail_ioctl(KVM_RUN, 0, 1, ENOMEM);
	operate(&rig, context, 0, AKVM_OPERATION_NOTHING, 0, 0);
	T_EQUAL(context->detail, 1);
	T_EQUAL(context->host_errno, -ENOMEM);
	operate(&rig, context, 0, AKVM_OPERATION_NOTHING, 0, 0);
	T_EQUAL(context->detail, 0);
	rig_close(&rig);
}

/* A faulting CPUID is answered on the vCPU's thread, out of the machine's own table. */
static void faulting_cpuid(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, &with_msr, 1);
	context = rig_context(&rig, 0);
	operate(&rig, context, 0, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 1);
	for (unsigned i = 0; i < 2; i++) {
		context->registers = (struct akvm_registers){ .rax = i ? 0x12345678 : 0xd, .rbx = 5, .rdx = 6 };
		rig_execute(&rig, context, 0, RIG_CPUID, 7, 8);
		T_EQUAL(context->vector, 3);
		T_EQUAL(context->registers.rax, i ? 0 : 0xe7);
		T_EQUAL(context->registers.rbx | context->registers.rcx | context->registers.rdx, 0);
		T_EQUAL(context->registers.rdi, 7);
	}
	T_CHECK(context->native_exits >= 2);
	rig_close(&rig);
}

static struct fake_step spin(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	(void)opaque;
	return (struct fake_step){ .action = FAKE_SPIN };
}

/* An operation is for one vCPU: the guest that runs there makes way for it, and nobody else takes it. */
static void preempts_on_its_vcpu(void)
{
	struct akvm_context *spinner, *operation;
	uint32_t busy;
	struct rig rig;

	rig_open(&rig, &with_msr, 2);
	fake_set_script(spin, NULL);
	spinner = rig_context(&rig, 0);
	operation = rig_context(&rig, 0);
	for (unsigned i = 0; i < 100; i++) {
		rig_submit(spinner, 0);
		busy = rig_wait_running(&rig, spinner, 2);
		/* Now and then before the guest is entered. */
		if (i % 2)
			fake_wait_spinning(busy);
		T_EQUAL(akvm_context_operate(operation, busy, AKVM_OPERATION_NOTHING), 0);
		T_CHECK(rig_wait(&rig) == spinner);
		T_EQUAL(spinner->kind, AKVM_EXIT_INTERRUPTED);
		T_EQUAL(spinner->interrupts, AKVM_INTERRUPT_PREEMPT);
		T_CHECK(rig_wait(&rig) == operation);
		/* The guest may have left before its kick came, which then cut the operation short. */
		if (operation->kind == AKVM_EXIT_INTERRUPTED) {
			T_EQUAL(operation->interrupts, 0);
			operate(&rig, operation, busy, AKVM_OPERATION_NOTHING, 0, 0);
		}
		T_EQUAL(operation->kind, AKVM_EXIT_OPERATION);
		T_EQUAL(operation->vcpu, busy);
	}
	rig_close(&rig);
}

int main(void)
{
	T_RUN(results);
	T_RUN(exceptions);
	T_RUN(cut_short);
	T_RUN(faulting_cpuid);
	T_RUN(preempts_on_its_vcpu);
	return 0;
}
