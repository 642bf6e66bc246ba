/*
 * The thread that owns a vCPU: take a context, run it, hand it back; poll a little before sleeping.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

enum { SLEEP_NS = 1000000000, POLLS_PER_CLOCK = 32 };
enum { ANNOUNCE_NOW = 16, BRIEF_NS = 200000, DEAD_WAIT_NS = 50000000 };
/* Of the time a vCPU may poll: less than this part is never left of it, and work within so many of them came soon. */
enum { LEAST_PART = 8, SOON = 2 };

static struct akvm__context *find_work(struct akvm__vcpu *vcpu)
{
	struct akvm_machine *machine = vcpu->machine;
	struct akvm__context *context = akvm__mailbox_take(&vcpu->mailbox);

	for (uint32_t i = 1; !context && i < machine->vcpu_count; i++) {
		context = akvm__mailbox_steal(&machine->vcpus[(vcpu->index + i) % machine->vcpu_count]->mailbox);
		if (context)
			akvm__count(&vcpu->counters.steals);
	}
	return context;
}

static bool is_brief(const struct akvm__context *context)
{
	return !context->operation && context->pub.ran_ns < BRIEF_NS &&
	       (context->pub.kind == AKVM_EXIT_SYSCALL || context->pub.kind == AKVM_EXIT_FAULT);
}

/* With a context whose last run ended by itself and soon, while no core is to spare for one vCPU more. */
bool akvm__vcpu_soon_free(const struct akvm__vcpu *vcpu)
{
	return atomic_load(&vcpu->engaged) && atomic_load(&vcpu->brief) &&
	       atomic_load(&vcpu->machine->awake) >= vcpu->machine->spare_cpus;
}

void akvm__vcpu_wake_a_thief(const struct akvm__vcpu *owner, bool overdue)
{
	const struct akvm_machine *machine = owner->machine;

	if (!atomic_load(&owner->engaged) || !atomic_load(&owner->mailbox.stealable) || (!overdue && akvm__vcpu_soon_free(owner)))
		return;
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct akvm__vcpu *vcpu = machine->vcpus[i];

		if (vcpu != owner && atomic_load(&vcpu->mailbox.sleeping)) {
			akvm__mailbox_notify(&vcpu->mailbox);
			return;
		}
	}
}

static bool work_in_sight(const void *argument)
{
	const struct akvm__vcpu *vcpu = argument;
	const struct akvm_machine *machine = vcpu->machine;

	if (atomic_load(&vcpu->mailbox.length))
		return true;
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (atomic_load(&machine->vcpus[i]->mailbox.stealable))
			return true;
	return atomic_load(&vcpu->stop) || atomic_load(&machine->reap_due);
}

/* True when work came before the budget was used up. */
static bool poll_for_work(struct akvm__vcpu *vcpu, uint64_t started_ns)
{
	struct akvm_machine *machine = vcpu->machine;
	uint64_t until_ns = started_ns + vcpu->spin_ns;
	unsigned polls = 0;

	while (atomic_load_explicit(&machine->awake, memory_order_relaxed) <= machine->spare_cpus) {
		if (work_in_sight(vcpu))
			return true;
		__builtin_ia32_pause();
		/* On the loop's own core it would keep from the loop what it waits for. */
		if (++polls % POLLS_PER_CLOCK == 0 &&
		    (akvm__now_ns() >= until_ns || akvm__processor() == atomic_load(&machine->loop_cpu)))
			break;
	}
	return work_in_sight(vcpu);
}

/*
 * Waking a halted core costs both sides more than an exit, so poll while there is a core to spare for it; the less, the less
 * it has been worth lately. Work that came soon after falling asleep brings the whole budget back.
 */
static void wait_for_work(struct akvm__vcpu *vcpu)
{
	struct akvm_machine *machine = vcpu->machine;
	uint64_t most_ns = machine->config.vcpu_spin_ns, started_ns = akvm__now_ns();

	if (poll_for_work(vcpu, started_ns))
		return;
	akvm__count(&vcpu->counters.sleeps);
	if (machine->driver->rest)
		machine->driver->rest(vcpu);
	atomic_fetch_sub(&machine->awake, 1);
	akvm__mailbox_sleep(&vcpu->mailbox, SLEEP_NS, work_in_sight, vcpu);
	atomic_fetch_add(&machine->awake, 1);
	vcpu->spin_ns = akvm__now_ns() - started_ns <= SOON * most_ns ? most_ns : vcpu->spin_ns / 2;
	if (vcpu->spin_ns < most_ns / LEAST_PART)
		vcpu->spin_ns = most_ns / LEAST_PART;
}

static void operate(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm_context *pub = &context->pub;
	uint32_t vector = 0;
	int error;

	if (akvm__context_interrupts(context) || atomic_load(&vcpu->machine->stopping)) {
		pub->interrupts =
			akvm__context_interrupts(context) | (atomic_load(&vcpu->machine->stopping) ? AKVM_INTERRUPT_CLOSE : 0);
		pub->kind = AKVM_EXIT_INTERRUPTED;
		return;
	}
	error = vcpu->machine->driver->operate(vcpu, context->operation - 1, &pub->registers, &vector);
	pub->kind = error == -EINTR ? AKVM_EXIT_INTERRUPTED : AKVM_EXIT_OPERATION;
	pub->interrupts = error == -EINTR ? akvm__context_interrupts(context) : 0;
	pub->host_errno = error == -EINTR ? 0 : error;
	pub->vector = vector;
	pub->detail = error != 0;
	if (error && error != -EINTR)
		vcpu->must_reset = true;
	akvm__vcpu_record(vcpu, context, 0, pub->kind, pub->registers.rip);
}

/* The dead wait for a vCPU without a context. Where there is always one, the next guest waits for them instead. */
static void mind_the_dead(struct akvm__vcpu *vcpu, uint64_t now_ns)
{
	if (!atomic_load(&vcpu->machine->reap_due))
		vcpu->dead_since_ns = 0;
	else if (!vcpu->dead_since_ns)
		vcpu->dead_since_ns = now_ns;
	else if (now_ns - vcpu->dead_since_ns > DEAD_WAIT_NS)
		atomic_store(&vcpu->machine->reap_pressing, true);
}

static void serve(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	uint64_t started_ns = akvm__now_ns(), ended_ns;

	mind_the_dead(vcpu, started_ns);
	atomic_store(&vcpu->cpu, akvm__processor());
	atomic_store(&vcpu->brief, is_brief(context));
	atomic_store(&vcpu->engaged, true);
	akvm__vcpu_wake_a_thief(vcpu, false);
	atomic_store(&vcpu->current, context->pub.index);
	atomic_store(&vcpu->current_generation, context->pub.generation);
	atomic_store(&vcpu->started_ns, started_ns);
	context->pub.started_ns = started_ns;
	context->pub.vcpu = vcpu->index;
	context->pub.vector = context->pub.error_code = context->pub.detail = context->pub.interrupts = 0;
	context->pub.host_errno = 0;
	context->pub.address = 0;
	atomic_store(&context->running, vcpu);
	if (context->operation)
		operate(vcpu, context);
	else
		akvm__vcpu_execute(vcpu, context);
	atomic_store(&context->running, NULL);
	ended_ns = akvm__now_ns();
	context->pub.ran_ns = ended_ns - started_ns;
	context->pub.total_ns += ended_ns - started_ns;
	atomic_fetch_add_explicit(&vcpu->counters.busy_ns, ended_ns - started_ns, memory_order_relaxed);
	akvm__count(&vcpu->counters.runs);
	atomic_store(&vcpu->current, UINT32_MAX);
	atomic_store(&vcpu->started_ns, 0);
	atomic_store(&vcpu->state, AKVM_VCPU_IDLE);
	atomic_store(&vcpu->engaged, false);
	/* From here on the context belongs to the loop. */
	akvm__machine_complete(vcpu->machine, vcpu, context);
}

/*
 * Wake the loop for what has completed, or leave it for later. Every wake-up takes a core from some vCPU and finds it cold; so
 * while this vCPU goes on to a context whose last run ended by itself and soon, completions go by the batch. Should that one
 * be long this time, what was left waits for the loop to look by itself (akvm_machine_doorbell). Operations are never left.
 */
static void announce(struct akvm__vcpu *vcpu, const struct akvm__context *next)
{
	if (!vcpu->unannounced || (next && is_brief(next) && vcpu->unannounced < ANNOUNCE_NOW))
		return;
	vcpu->unannounced = 0;
	akvm__doorbell_ring(&vcpu->machine->doorbell);
}

static void *thread_main(void *argument)
{
	struct akvm__vcpu *vcpu = argument;
	struct akvm__context *context;

	AKVM__HOST->thread_name("akvm-vcpu");
	atomic_store(&vcpu->tid, AKVM__HOST->thread_id());
	atomic_fetch_add(&vcpu->machine->awake, 1);
	for (;;) {
		atomic_store(&vcpu->busy, true);
		context = find_work(vcpu);
		announce(vcpu, context);
		if (context) {
			vcpu->unannounced += context->operation ? ANNOUNCE_NOW : 1;
			serve(vcpu, context);
			continue;
		}
		if (akvm__vcpu_reap_when_idle(vcpu))
			continue;
		atomic_store(&vcpu->busy, false);
		if (atomic_load(&vcpu->stop))
			break;
		wait_for_work(vcpu);
	}
	atomic_fetch_sub(&vcpu->machine->awake, 1);
	atomic_store(&vcpu->state, AKVM_VCPU_DEAD);
	atomic_store(&vcpu->finished, true);
	return NULL;
}

int akvm__vcpu_start(struct akvm__vcpu *vcpu)
{
	int error;

	vcpu->spin_ns = vcpu->machine->config.vcpu_spin_ns;
	/* Every signal but the kick is for the host program's own threads. */
	error = AKVM__HOST->thread_create(&vcpu->thread, vcpu->machine->config.kick_signal, thread_main, vcpu);

	if (error)
		return akvm__fail("start vCPU thread", error);
	vcpu->thread_started = true;
	return 0;
}

int akvm__vcpu_join(struct akvm__vcpu *vcpu, uint64_t timeout_ns)
{
	if (!vcpu->thread_started)
		return 0;
	if (AKVM__HOST->thread_join(vcpu->thread, timeout_ns))
		return akvm__fail("join vCPU thread", ETIMEDOUT);
	vcpu->thread_started = false;
	return 0;
}
