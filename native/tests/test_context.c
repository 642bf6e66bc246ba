/*
 * Contexts as the caller handles them: bounds, refusals while one runs, the order of completions, constant answers.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "machine/machine.h"
#include "rig.h"
#include "vcpu/vcpu.h"

enum { MAILBOX = 64 };

static struct fake_step spin(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	(void)opaque;
	return (struct fake_step){ .action = FAKE_SPIN };
}

static void as_many_as_configured(void)
{
	struct akvm_context *one;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	for (unsigned i = 0; i < RIG_CONTEXTS; i++)
		T_EQUAL(rig_context(&rig, 0)->index, i);
	T_EQUAL(akvm_context_create(rig.machine, &one), -EAGAIN);
	T_CHECK(strlen(akvm_last_error()) > 0);
	T_EQUAL(akvm_context_destroy(rig.contexts[7]), 0);
	T_EQUAL(rig_context(&rig, 0)->index, 7);
	rig_close(&rig);
}

static void refused_while_submitted(void)
{
	struct akvm_context *context;
	uint8_t image[4096];
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(spin, NULL);
	context = rig_context(&rig, 0);
	rig_submit(context, 0);
	fake_wait_spinning(0);
	T_EQUAL(akvm_context_submit(context, 0), -EBUSY);
	T_EQUAL(akvm_context_operate(context, 0, AKVM_OPERATION_NOTHING), -EBUSY);
	T_EQUAL(akvm_context_destroy(context), -EBUSY);
	T_EQUAL(akvm_context_attach(context, NULL), -EBUSY);
	T_EQUAL(akvm_context_answers(context, NULL), -EBUSY);
	T_EQUAL(akvm_context_get_xsave(context, image, sizeof(image)), -EBUSY);
	T_EQUAL(akvm_context_set_xsave(context, image, sizeof(image)), -EBUSY);
	T_EQUAL(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_BOUNCE), 0);
	T_CHECK(rig_wait(&rig) == context);
	T_EQUAL(akvm_context_submit(context, 1), -EINVAL);
	T_EQUAL(akvm_context_attach(context, NULL), 0);
	T_EQUAL(akvm_context_submit(context, 0), -EINVAL);
	T_EQUAL(context->submitted, 0);
	T_EQUAL(akvm_context_destroy(context), 0);
	rig_close(&rig);
}

/* One spins, 64 wait, the 66th is refused and unharmed; then all come back in order. */
static void full_mailbox(void)
{
	struct akvm_context *refused;
	uint32_t generation;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	fake_set_script(spin, NULL);
	rig_submit(rig_context(&rig, 0), 0);
	fake_wait_spinning(0);
	for (unsigned i = 0; i < MAILBOX; i++) {
		struct akvm_context *context = rig_context(&rig, 0);

		context->registers.rip = RIG_SYSCALL;
		rig_submit(context, 0);
	}
	T_EQUAL(rig_status(&rig, 0).queued, MAILBOX);
	refused = rig_context(&rig, 0);
	refused->registers.rip = RIG_SYSCALL;
	T_EQUAL(akvm_context_submit(refused, 0), -ENOSPC);
	T_EQUAL(refused->submitted, 0);
	generation = refused->generation;
	T_EQUAL(akvm_context_interrupt(rig.contexts[0], rig.contexts[0]->generation, AKVM_INTERRUPT_PREEMPT), 0);
	for (unsigned i = 0; i <= MAILBOX; i++)
		T_EQUAL(rig_wait(&rig)->index, i);
	rig_run(&rig, refused, 0);
	T_EQUAL(refused->kind, AKVM_EXIT_SYSCALL);
	T_CHECK(refused->generation != generation);
	rig_close(&rig);
}

/* A short buffer starves no vCPU. */
static void drained_in_turn(void)
{
	unsigned taken[2] = { 0 };
	uint32_t index;
	struct rig rig;

	rig_open(&rig, NULL, 2);
	for (unsigned i = 0; i < 40; i++) {
		struct akvm_context *context = rig_context(&rig, 0);

		context->registers.rip = RIG_SYSCALL;
		rig_submit(context, i % 2);
	}
	for (unsigned done = 0; done < 40;) {
		uint32_t count = akvm_machine_drain(rig.machine, &index, 1);

		done += count;
		taken[count ? rig.contexts[index]->vcpu : 0] += count;
		if (!count)
			RIG_UNTIL(akvm_machine_poll(rig.machine, 1000000));
	}
	T_EQUAL(taken[0] + taken[1], 40);
	T_EQUAL(akvm_machine_poll(rig.machine, 1000), 0);
	rig_close(&rig);
}

static void constant_answers(void)
{
	struct akvm_answers *answers;
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	T_EQUAL(akvm_answers_create(&answers), 0);
	T_EQUAL(akvm_answers_set(answers, AKVM_ANSWERS_MAX, 1), -EINVAL);
	T_EQUAL(akvm_answers_clear(answers, AKVM_ANSWERS_MAX), -EINVAL);
	T_EQUAL(akvm_context_answers(context, answers), 0);
	for (uint32_t number = 0; number < AKVM_ANSWERS_MAX; number += 73) {
		T_EQUAL(akvm_answers_set(answers, number, -(int64_t)number), 0);
		context->registers.rax = number;
		rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
		/* Answered on the vCPU's thread; the guest went on to its INT3. */
		T_EQUAL(context->kind, AKVM_EXIT_FAULT);
		T_EQUAL(context->vector, 3);
		T_EQUAL(context->registers.rax, (uint64_t) - (int64_t)number);
		T_EQUAL(akvm_answers_clear(answers, number), 0);
		context->registers.rax = number;
		rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->registers.rax, number);
	}
	/* Numbers out of range are the caller's. */
	context->registers.rax = UINT64_MAX;
	rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	context->registers.rax = AKVM_ANSWERS_MAX;
	rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(akvm_context_answers(context, NULL), 0);
	akvm_answers_destroy(answers);
	rig_close(&rig);
}

/* A guest that only makes calls answered natively can be interrupted all the same. */
static void native_loops_are_interruptible(void)
{
	struct akvm_answers *answers;
	struct akvm_context *context;
	uint64_t exits;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	T_EQUAL(akvm_answers_create(&answers), 0);
	T_EQUAL(akvm_answers_set(answers, 0, 0), 0);
	T_EQUAL(akvm_context_answers(context, answers), 0);
	context->registers = (struct akvm_registers){ .rip = RIG_SYSCALLS, .rbx = UINT64_MAX, .rsp = 0x1000 };
	exits = rig_status(&rig, 0).exits;
	rig_submit(context, 0);
	RIG_UNTIL(rig_status(&rig, 0).exits >= exits + 100);
	T_EQUAL(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_TIMEOUT), 0);
	T_CHECK(rig_wait(&rig) == context);
	T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
	T_EQUAL(context->interrupts, AKVM_INTERRUPT_TIMEOUT);
	T_CHECK(context->native_exits >= 100);
	T_EQUAL(akvm_context_answers(context, NULL), 0);
	akvm_answers_destroy(answers);
	rig_close(&rig);
}

/* Contexts queued behind a spinner are taken over by a vCPU that idles. */
static void stolen_by_the_idle(void)
{
	struct akvm_context *spinner;
	uint32_t busy;
	struct rig rig;

	rig_open(&rig, NULL, 2);
	fake_set_script(spin, NULL);
	spinner = rig_context(&rig, 0);
	rig_submit(spinner, 0);
	busy = rig_wait_running(&rig, spinner, 2);
	for (unsigned i = 0; i < 10; i++) {
		struct akvm_context *context = rig_context(&rig, 0);

		context->registers.rip = RIG_SYSCALL;
		rig_submit(context, busy);
	}
	for (unsigned i = 0; i < 10; i++) {
		struct akvm_context *context = rig_wait(&rig);

		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(context->vcpu, 1 - busy);
	}
	T_CHECK(rig_status(&rig, 1 - busy).steals >= 10);
	rig_close(&rig);
}

/* With no core to spare, a context waits behind one that was brief until now rather than wake a vCPU; should that one not be brief
 * this time, rousing sets it right. */
static void misjudged_as_brief(void)
{
	struct akvm_context *spinner, *waiting;
	uint32_t busy;
	cpu_set_t before, one;
	struct rig rig;

	T_EQUAL(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	T_EQUAL(sched_setaffinity(0, sizeof(one), &one), 0);
	rig_open(&rig, NULL, 2);
	T_EQUAL(sched_setaffinity(0, sizeof(before), &before), 0);
	fake_set_script(spin, NULL);
	spinner = rig_context(&rig, 0);
	waiting = rig_context(&rig, 0);
	rig_execute(&rig, spinner, 0, RIG_SYSCALL, 0, 0);
	spinner->registers.rip = FAKE_SCRIPT;
	rig_submit(spinner, 0);
	busy = rig_wait_running(&rig, spinner, 2);
	fake_wait_spinning(busy);
	RIG_UNTIL(atomic_load(&rig.machine->vcpus[1 - busy]->mailbox.sleeping));
	waiting->registers.rip = RIG_SYSCALL;
	rig_submit(waiting, 1 - busy);
	T_EQUAL(rig_status(&rig, busy).queued, 1);
	T_CHECK(atomic_load(&rig.machine->vcpus[1 - busy]->mailbox.sleeping));
	rig_expect_none(&rig);
	akvm_machine_rouse(rig.machine);
	T_CHECK(rig_wait(&rig) == waiting);
	T_EQUAL(waiting->vcpu, 1 - busy);
	rig_close(&rig);
}

int main(void)
{
	T_RUN(as_many_as_configured);
	T_RUN(refused_while_submitted);
	T_RUN(full_mailbox);
	T_RUN(drained_in_turn);
	T_RUN(constant_answers);
	T_RUN(native_loops_are_interruptible);
	T_RUN(stolen_by_the_idle);
	T_RUN(misjudged_as_brief);
	return 0;
}
