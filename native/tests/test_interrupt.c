/*
 * An interrupt in each state a context can be in: before it is submitted, queued, running, done; of the right run only.
 */
#include <errno.h>

#include "rig.h"

static struct fake_step spin(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	(void)opaque;
	return (struct fake_step){ .action = FAKE_SPIN };
}

/* On which vCPU is told: an idle one may have taken it over. */
static struct akvm_context *open_spinning(struct rig *rig, uint32_t vcpus, uint32_t *vcpu)
{
	struct akvm_context *context;

	rig_open(rig, NULL, vcpus);
	fake_set_script(spin, NULL);
	context = rig_context(rig, 0);
	rig_submit(context, 0);
	*vcpu = rig_wait_running(rig, context, vcpus);
	fake_wait_spinning(*vcpu);
	return context;
}

static void check_interrupted(struct akvm_context *context, uint32_t reasons)
{
	T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
	T_EQUAL(context->interrupts, reasons);
	T_EQUAL(context->submitted, 0);
}

static void running(void)
{
	struct akvm_context *context;
	uint32_t vcpu;
	struct rig rig;

	context = open_spinning(&rig, 1, &vcpu);
	for (uint64_t i = 0; i < 50; i++) {
		context->restore = i % 3;
		T_EQUAL(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_PREEMPT), 0);
		T_CHECK(rig_wait(&rig) == context);
		check_interrupted(context, AKVM_INTERRUPT_PREEMPT);
		T_EQUAL(context->registers.rip, FAKE_SCRIPT);
		T_EQUAL(context->registers.rbx, i);
		context->registers.rbx = i + 1;
		rig_submit(context, 0);
		fake_wait_spinning(0);
	}
	T_EQUAL(rig_status(&rig, 0).stale_kicks, 0);
	rig_close(&rig);
}

static void several_collapse(void)
{
	struct akvm_context *context, *other;
	uint32_t vcpu;
	struct rig rig;

	context = open_spinning(&rig, 1, &vcpu);
	other = rig_context(&rig, 0);
	/* Queued behind the spinner, interrupted twice; the second finds it withdrawn. */
	rig_submit(other, 0);
	T_EQUAL(akvm_context_interrupt(other, other->generation, AKVM_INTERRUPT_BOUNCE), 0);
	T_EQUAL(akvm_context_interrupt(other, other->generation, AKVM_INTERRUPT_CANCEL), 0);
	T_CHECK(rig_wait(&rig) == other);
	T_EQUAL(other->kind, AKVM_EXIT_INTERRUPTED);
	T_CHECK(other->interrupts & AKVM_INTERRUPT_BOUNCE);
	rig_expect_none(&rig);
	T_EQUAL(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_TIMEOUT), 0);
	T_CHECK(rig_wait(&rig) == context);
	check_interrupted(context, AKVM_INTERRUPT_TIMEOUT);
	rig_close(&rig);
}

/* Taken out of the queue at once, registers untouched, while the spinner before it spins on. */
static void queued(void)
{
	struct akvm_context *context, *others[8];
	uint32_t vcpu;
	struct rig rig;

	context = open_spinning(&rig, 1, &vcpu);
	for (unsigned i = 0; i < 8; i++) {
		others[i] = rig_context(&rig, 0);
		others[i]->registers.rax = i;
		rig_submit(others[i], 0);
	}
	for (unsigned i = 0; i < 8; i++) {
		struct akvm_context *one = others[(i * 3 + 1) % 8];

		T_EQUAL(akvm_context_interrupt(one, one->generation, AKVM_INTERRUPT_CANCEL), 0);
		T_CHECK(rig_wait(&rig) == one);
		check_interrupted(one, AKVM_INTERRUPT_CANCEL);
		T_EQUAL(one->registers.rax, (i * 3 + 1) % 8);
		T_EQUAL(one->registers.rip, FAKE_SCRIPT);
	}
	T_EQUAL(context->submitted, 1);
	T_EQUAL(rig_status(&rig, 0).queued, 0);
	T_EQUAL(rig_status(&rig, 0).context, context->index);
	rig_close(&rig);
}

static void stale_generations(void)
{
	struct akvm_context *context, *quick;
	uint32_t vcpu;
	struct rig rig;

	context = open_spinning(&rig, 2, &vcpu);
	quick = rig_context(&rig, 0);
	/* Never submitted, an older and a younger run: nothing happens to anybody. */
	T_EQUAL(akvm_context_interrupt(quick, 0, AKVM_INTERRUPT_BOUNCE), 0);
	T_EQUAL(akvm_context_interrupt(quick, 1, AKVM_INTERRUPT_BOUNCE), 0);
	rig_execute(&rig, quick, 1, RIG_SYSCALL, 0, 0);
	T_EQUAL(quick->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(akvm_context_interrupt(quick, quick->generation, AKVM_INTERRUPT_BOUNCE), 0);
	rig_execute(&rig, quick, 1, RIG_SYSCALL, 0, 0);
	T_EQUAL(quick->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(akvm_context_interrupt(context, context->generation - 1, AKVM_INTERRUPT_BOUNCE), 0);
	T_EQUAL(akvm_context_interrupt(context, context->generation + 1, AKVM_INTERRUPT_BOUNCE), 0);
	rig_expect_none(&rig);
	T_EQUAL(rig_status(&rig, vcpu).kicks, 0);
	rig_close(&rig);
}

/* Done and not yet drained: the exit stays what it is, and the next run is not touched. */
static void after_the_exit(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	context->registers.rip = RIG_SYSCALL;
	rig_submit(context, 0);
	RIG_UNTIL(akvm_machine_poll(rig.machine, 1000000));
	T_EQUAL(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_BOUNCE), 0);
	T_CHECK(rig_wait(&rig) == context);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(rig_status(&rig, 0).kicks, 0);
	rig_close(&rig);
}

/* A kick that is too late for its run finds the next one: which goes on. */
static void late_kick(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	for (unsigned i = 0; i < 10; i++) {
		__atomic_store_n(&fake_vcpu(0)->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	}
	rig_close(&rig);
}

static void interrupt(void *context)
{
	struct akvm_context *public = context;

	T_EQUAL(akvm_context_interrupt(public, public->generation, AKVM_INTERRUPT_BOUNCE), 0);
}

/* Between being taken from the mailbox and KVM_RUN, at each host call on the way. */
static void on_the_way_in(void)
{
	static const unsigned long requests[] = { KVM_SET_XSAVE, KVM_RUN };
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(spin, NULL);
	for (unsigned i = 0; i < 2; i++) {
		context = rig_context(&rig, 0);
		fake_before_ioctl(requests[i], interrupt, context);
		rig_run(&rig, context, 0);
		check_interrupted(context, AKVM_INTERRUPT_BOUNCE);
		T_EQUAL(context->registers.rip, FAKE_SCRIPT);
	}
	rig_close(&rig);
}

int main(void)
{
	T_RUN(running);
	T_RUN(several_collapse);
	T_RUN(queued);
	T_RUN(stale_generations);
	T_RUN(after_the_exit);
	T_RUN(late_kick);
	T_RUN(on_the_way_in);
	return 0;
}
