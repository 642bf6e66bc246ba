/*
 * Whatever KVM_RUN comes back with, it ends at most the context that ran: with a typed error, and with a vCPU that runs the
 * next context as if nothing had been.
 */
#include <errno.h>
#include <string.h>

#include "rig.h"

enum { DATA = 0x10000000, AGAIN_MAX = 1000 };

static struct fake_step one_step(struct fake_cpu *cpu, void *opaque)
{
	/* Leave the processor as bad as a guest may: odd registers, flags, segments. */
	memset(&cpu->regs.rax, 0x5a, 4 * sizeof(cpu->regs.rax));
	cpu->regs.rflags |= 0x40400;
	return *(struct fake_step *)opaque;
}

/* The next context on this vCPU: every register arrives, the memory is its own. */
static void next_context_works(struct rig *rig)
{
	struct akvm_context *next = rig_context(rig, 0);

	next->registers.rax = 0x77;
	next->registers.rcx = 0x99;
	rig_execute(rig, next, 0, RIG_SYSCALL, 1, 2);
	T_EQUAL(next->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(next->registers.rax, 0x77);
	T_EQUAL(next->registers.rip, RIG_SYSCALL + 2);
	T_EQUAL(next->registers.rdi, 1);
	next->registers.rax = 0x78;
	next->registers.rcx = 0x99;
	rig_execute(rig, next, 0, RIG_CPUID, 1, 2);
	T_EQUAL(next->vector, 3);
	T_EQUAL(akvm_context_destroy(next), 0);
}

static void every_exit_reason(void)
{
	static const uint32_t reasons[] = {
		KVM_EXIT_UNKNOWN,
		KVM_EXIT_EXCEPTION,
		KVM_EXIT_IO,
		KVM_EXIT_HYPERCALL,
		KVM_EXIT_DEBUG,
		KVM_EXIT_MMIO,
		KVM_EXIT_SHUTDOWN,
		KVM_EXIT_FAIL_ENTRY,
		KVM_EXIT_SET_TPR,
		KVM_EXIT_TPR_ACCESS,
		KVM_EXIT_NMI,
		KVM_EXIT_INTERNAL_ERROR,
		KVM_EXIT_SYSTEM_EVENT,
		KVM_EXIT_IOAPIC_EOI,
		KVM_EXIT_HYPERV,
		KVM_EXIT_X86_RDMSR,
		KVM_EXIT_X86_WRMSR,
		KVM_EXIT_DIRTY_RING_FULL,
		KVM_EXIT_X86_BUS_LOCK,
		KVM_EXIT_XEN,
		99,
		UINT32_MAX,
	};
	struct fake_step step = { .action = FAKE_EXIT };
	struct akvm_flight_record records[AKVM_FLIGHT_RECORDS];
	struct akvm_context *context;
	struct rig rig;
	int count;

	rig_open(&rig, NULL, 1);
	fake_set_script(one_step, &step);
	context = rig_context(&rig, 0);
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		snprintf(t_context, sizeof(t_context), "exit reason %u", reasons[i]);
		step.exit_reason = reasons[i];
		context->registers.rip = FAKE_SCRIPT;
		rig_run(&rig, context, 0);
		T_EQUAL(context->kind, AKVM_EXIT_ERROR);
		T_EQUAL(context->detail, AKVM_FAILURE_EXIT);
		T_EQUAL(context->kvm_exit_reason, reasons[i]);
		count = akvm_vcpu_flight(rig.machine, 0, records, AKVM_FLIGHT_RECORDS);
		T_CHECK(count > 0);
		T_EQUAL(records[count - 1].kvm_exit_reason, reasons[i]);
		T_EQUAL(records[count - 1].kind, AKVM_EXIT_ERROR);
		T_EQUAL(records[count - 1].context, context->index);
		next_context_works(&rig);
	}
	t_context[0] = 0;
	rig_close(&rig);
}

/* Reasons that only interrupt: the guest goes on. */
static struct fake_step exit_then_call(struct fake_cpu *cpu, void *opaque)
{
	unsigned *left = opaque;

	(void)cpu;
	if (*left) {
		--*left;
		return (struct fake_step){ .action = FAKE_EXIT,
					   .exit_reason = *left % 2 ? KVM_EXIT_INTR : KVM_EXIT_IRQ_WINDOW_OPEN };
	}
	return (struct fake_step){ .action = FAKE_SYSCALL };
}

static void interruptions_go_on(void)
{
	struct akvm_context *context;
	unsigned left = 100;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(exit_then_call, &left);
	context = rig_context(&rig, 0);
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(left, 0);
	T_EQUAL(context->native_exits, 100);
	rig_close(&rig);
}

static void every_errno(void)
{
	static const int errors[] = { ENOMEM, EIO, EINVAL, ENOSPC, EPERM, ENOSYS, EBADF, EFAULT };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		/* Before anything ran: the vCPU still stands at a stub. */
		fake_fail_ioctl(KVM_RUN, 0, 1, errors[i]);
		rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
		T_EQUAL(context->kind, AKVM_EXIT_ERROR);
		T_EQUAL(context->detail, AKVM_FAILURE_RUN);
		T_EQUAL(context->host_errno, errors[i]);
		next_context_works(&rig);
	}
	rig_close(&rig);
}

static void errors_in_ring_3(void)
{
	struct fake_step step = { .action = FAKE_ERROR, .error = ENOMEM };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(one_step, &step);
	context = rig_context(&rig, 0);
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_ERROR);
	T_EQUAL(context->host_errno, ENOMEM);
	next_context_works(&rig);
	/* A page the host cannot give, and no file is to blame. */
	step.error = EFAULT;
	context->registers.rip = FAKE_SCRIPT + 5;
	rig_run(&rig, context, 0);
	T_EQUAL(context->kind, AKVM_EXIT_ERROR);
	T_EQUAL(context->detail, AKVM_FAILURE_RUN);
	T_EQUAL(context->host_errno, EFAULT);
	next_context_works(&rig);
	rig_close(&rig);
}

static void again_is_bounded(void)
{
	struct akvm_context *context;
	uint64_t runs;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	fake_fail_ioctl(KVM_RUN, 0, AGAIN_MAX, EAGAIN);
	rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	runs = fake_calls();
	fake_fail_ioctl(KVM_RUN, 0, UINT32_MAX, EAGAIN);
	rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
	T_EQUAL(context->kind, AKVM_EXIT_ERROR);
	T_EQUAL(context->host_errno, EAGAIN);
	T_CHECK(fake_calls() - runs < 2 * AGAIN_MAX);
	fake_fail_ioctl(0, 0, 0, 0);
	next_context_works(&rig);
	rig_close(&rig);
}

static void interrupted_at_every_stub(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	T_EQUAL(akvm_space_map(rig.space, DATA, 64 * RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	fake_cut_randomly(3);
	for (uint64_t i = 0; i < 300; i++) {
		context->restore = i % 3;
		rig_execute(&rig, context, 0, i % 2 ? RIG_SYSCALL : RIG_STORE, DATA + i % 64 * RIG_PAGE, i);
		T_EQUAL(context->kind, i % 2 ? AKVM_EXIT_SYSCALL : AKVM_EXIT_FAULT);
		T_EQUAL(context->vector, i % 2 ? 256 : 3);
		T_EQUAL(context->registers.rsi, i);
	}
	T_CHECK(fake_cuts() > 200);
	fake_cut_randomly(0);
	rig_close(&rig);
}

/*
 * A debug trap of an earlier run, which KVM does not show among its events, hits the stub of the next entry. In the SYSRET stub
 * RSP is the guest's: it must not choose where ring 0 pushes, least of all into page tables.
 */
static void hidden_debug_trap(void)
{
	const uint64_t target = AKVM_TABLES_WINDOW + 0x8000;
	uint64_t before[5], after[5];
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	T_CHECK(fake_cpu_access_system(fake_vcpu(0), target - sizeof(before), FAKE_READ, before, sizeof(before)));
	for (unsigned i = 0; i < 9; i++) {
		context->restore = i % 3;
		context->registers.rsp = target;
		fake_vcpu(0)->debug_pending = true;
		rig_execute(&rig, context, 0, RIG_SYSCALL, 1, 2);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->detail, 0);
		T_EQUAL(context->registers.rip, RIG_SYSCALL + 2);
		T_EQUAL(context->registers.rsp, target);
		T_CHECK(fake_cpu_access_system(fake_vcpu(0), target - sizeof(after), FAKE_READ, after, sizeof(after)));
		T_EQUAL(memcmp(after, before, sizeof(after)), 0);
	}
	rig_close(&rig);
}

/* Each ioctl of a reset fails once: an error for one context, and the next is well. */
static void failing_resets(void)
{
	static const unsigned long requests[] = { KVM_GET_SREGS,       KVM_SET_SREGS, KVM_SET_REGS,
						  KVM_SET_VCPU_EVENTS, KVM_SET_XCRS,  KVM_SET_MSRS };
	struct fake_step step = { .action = FAKE_EXIT, .exit_reason = KVM_EXIT_SHUTDOWN };
	struct akvm_context *context, *next;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(one_step, &step);
	context = rig_context(&rig, 0);
	next = rig_context(&rig, 0);
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		context->registers.rip = FAKE_SCRIPT;
		rig_run(&rig, context, 0);
		T_EQUAL(context->kind, AKVM_EXIT_ERROR);
		fake_fail_ioctl(requests[i], 0, 1, EIO);
		rig_execute(&rig, next, 0, RIG_SYSCALL, 1, 2);
		T_EQUAL(next->kind, AKVM_EXIT_ERROR);
		T_EQUAL(next->detail, AKVM_FAILURE_HOST);
		T_EQUAL(next->host_errno, EIO);
		next_context_works(&rig);
	}
	rig_close(&rig);
}

static void interrupt(void *context)
{
	struct akvm_context *public = context;

	T_EQUAL(akvm_context_interrupt(public, public->generation, AKVM_INTERRUPT_BOUNCE), 0);
}

/* What KVM holds of a half-delivered event cannot be asked for, or never gets through: the next context must not get it. */
static void stubborn_events(void)
{
	struct fake_step step = { .action = FAKE_EXCEPTION, .fault = { .vector = 6 } };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(one_step, &step);
	context = rig_context(&rig, 0);
	for (unsigned turn = 0; turn < 2; turn++) {
		fake_cut_delivery(6, turn ? 65 : 1);
		fake_fail_ioctl(KVM_GET_VCPU_EVENTS, 0, turn ? 0 : 1, EIO);
		fake_before_ioctl(KVM_GET_VCPU_EVENTS, interrupt, context);
		context->registers.rip = FAKE_SCRIPT;
		rig_run(&rig, context, 0);
		T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
		T_EQUAL(context->registers.rip, FAKE_SCRIPT);
		next_context_works(&rig);
		/* Its own instruction raises it again. */
		rig_run(&rig, context, 0);
		T_EQUAL(context->kind, AKVM_EXIT_FAULT);
		T_EQUAL(context->vector, 6);
	}
	rig_close(&rig);
}

int main(void)
{
	T_RUN(every_exit_reason);
	T_RUN(interruptions_go_on);
	T_RUN(every_errno);
	T_RUN(errors_in_ring_3);
	T_RUN(again_is_bounded);
	T_RUN(interrupted_at_every_stub);
	T_RUN(hidden_debug_trap);
	T_RUN(failing_resets);
	T_RUN(stubborn_events);
	return 0;
}
