/*
 * Stopping and closing a machine whatever its contexts are doing, in bounded time, and losing none of them.
 */
#include <errno.h>
#include <semaphore.h>

#include "machine/machine.h"
#include "rig.h"

static sem_t release;
static _Atomic unsigned held;

static struct fake_step spin_or_hold(struct fake_cpu *cpu, void *opaque)
{
	(void)opaque;
	if (cpu->regs.rip == FAKE_SCRIPT)
		return (struct fake_step){ .action = FAKE_SPIN };
	/* A KVM_RUN that does not come back for a kick. */
	atomic_fetch_add(&held, 1);
	T_EQUAL(sem_wait(&release), 0);
	return (struct fake_step){ .action = FAKE_SYSCALL };
}

/* Two spinners, `queued` contexts behind them, one exit that nobody drained. */
static void open_busy(struct rig *rig, unsigned queued)
{
	struct akvm_context *done;

	rig_open(rig, NULL, 2);
	fake_set_script(spin_or_hold, NULL);
	done = rig_context(rig, 0);
	done->registers.rip = RIG_SYSCALL;
	rig_submit(done, 0);
	RIG_UNTIL(akvm_machine_poll(rig->machine, 1000000));
	for (unsigned i = 0; i < 2 + queued; i++)
		rig_submit(rig_context(rig, 0), i % 2);
	fake_wait_spinning(0);
	fake_wait_spinning(1);
}

static void stop_completes_everything(void)
{
	unsigned closed = 0, calls = 0;
	struct rig rig;

	open_busy(&rig, 20);
	akvm_machine_stop(rig.machine);
	for (unsigned i = 0; i < 23; i++) {
		struct akvm_context *context = rig_wait(&rig);

		if (context->kind == AKVM_EXIT_SYSCALL) {
			calls++;
			continue;
		}
		T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
		T_EQUAL(context->interrupts, AKVM_INTERRUPT_CLOSE);
		T_EQUAL(context->registers.rip, FAKE_SCRIPT);
		closed++;
	}
	T_EQUAL(calls, 1);
	T_EQUAL(closed, 22);
	rig_expect_none(&rig);
	/* And whatever comes later, operations too. */
	rig_run(&rig, rig.contexts[1], 1);
	T_EQUAL(rig.contexts[1]->interrupts, AKVM_INTERRUPT_CLOSE);
	T_EQUAL(akvm_context_operate(rig.contexts[2], 0, AKVM_OPERATION_NOTHING), 0);
	T_CHECK(rig_wait(&rig) == rig.contexts[2]);
	T_EQUAL(rig.contexts[2]->kind, AKVM_EXIT_INTERRUPTED);
	T_EQUAL(rig.contexts[2]->interrupts, AKVM_INTERRUPT_CLOSE);
	rig_close(&rig);
}

static void close_in_any_state(void)
{
	for (unsigned queued = 0; queued < 60; queued += 10) {
		struct rig rig;

		open_busy(&rig, queued);
		rig_close(&rig);
	}
}

static void close_with_nothing_done(void)
{
	struct rig rig;

	for (unsigned i = 0; i < 10; i++) {
		rig_open(&rig, NULL, 1 + i % 4);
		rig_close(&rig);
	}
}

/* A thread inside a KVM_RUN that does not end: close says so and frees nothing under it. */
static void close_gives_up(void)
{
	struct akvm_context *context;
	struct rig rig;

	rig_open(&rig, NULL, 2);
	T_EQUAL(sem_init(&release, 0, 0), 0);
	fake_set_script(spin_or_hold, NULL);
	context = rig_context(&rig, 0x1000);
	atomic_store(&held, 0);
	rig_submit(context, 0);
	RIG_UNTIL(atomic_load(&held));
	T_EQUAL(akvm_machine_close(rig.machine, 1000000), -ETIMEDOUT);
	T_EQUAL(context->submitted, 1);
	T_EQUAL(sem_post(&release), 0);
	rig_close(&rig);
	T_EQUAL(sem_destroy(&release), 0);
}

/* A completion ring without room: the vCPU waits for the loop, loses nothing, and does not keep close from its end. */
static void full_ring(void)
{
	for (unsigned drained = 0; drained < 2; drained++) {
		struct akvm_machine_config config = rig_config(1);
		struct akvm_context *context;
		struct akvm__ring *ring;
		struct rig rig = { 0 };
		uint32_t index;
		uint64_t runs;

		fake_install(NULL);
		config.contexts_max = 1;
		T_EQUAL(akvm_machine_open(&config, &rig.machine), 0);
		rig.space = rig_space(&rig, 0, 0);
		context = rig_context(&rig, 0);
		context->registers.rip = RIG_SYSCALL;
		ring = &rig.machine->vcpus[0]->completions;
		T_CHECK(akvm__ring_put(ring, context->index));
		runs = rig_status(&rig, 0).runs;
		rig_submit(context, 0);
		RIG_UNTIL(rig_status(&rig, 0).runs > runs);
		if (drained) {
			T_EQUAL(akvm_machine_drain(rig.machine, &index, 1), 1);
			T_CHECK(rig_wait(&rig) == context);
			T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		}
		rig_close(&rig);
	}
}

int main(void)
{
	T_RUN(stop_completes_everything);
	T_RUN(close_in_any_state);
	T_RUN(close_with_nothing_done);
	T_RUN(close_gives_up);
	T_RUN(full_ring);
	return 0;
}
