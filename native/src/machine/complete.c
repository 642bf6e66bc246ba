/*
 * Where finished contexts cross from vCPU threads to the loop.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/machine.h"

void akvm__machine_complete(struct akvm_machine *machine, struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	/* Every ring holds all contexts, so this fails only when a context was submitted twice; then the loop is behind, and
	 * waiting for it is the one thing that loses nothing. */
	while (!akvm__ring_put(&vcpu->completions, context->pub.index)) {
		akvm__doorbell_ring(&machine->doorbell);
		if (atomic_load(&vcpu->stop))
			return;
		__builtin_ia32_pause();
	}
}

int akvm_machine_doorbell(const struct akvm_machine *machine)
{
	return machine->doorbell.fd;
}

uint32_t akvm_machine_drain(struct akvm_machine *machine, uint32_t *indices, uint32_t max)
{
	uint32_t taken;

	/* The loop is awake: nobody need ring until it arms again. */
	akvm__doorbell_disarm(&machine->doorbell);
	taken = akvm__ring_take(&machine->loop_completions, indices, max);

	/* A different vCPU comes first each time, so that a short buffer starves none. */
	for (uint32_t i = 0; i < machine->vcpu_count && taken < max; i++) {
		uint32_t next = (machine->drain_next + i) % machine->vcpu_count;

		taken += akvm__ring_take(&machine->vcpus[next]->completions, indices + taken, max - taken);
	}
	machine->drain_next = (machine->drain_next + 1) % machine->vcpu_count;
	for (uint32_t i = 0; i < taken; i++)
		machine->contexts[indices[i]]->pub.submitted = 0;
	return taken;
}

static bool completions_waiting(const struct akvm_machine *machine)
{
	if (!akvm__ring_empty(&machine->loop_completions))
		return true;
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (!akvm__ring_empty(&machine->vcpus[i]->completions))
			return true;
	return false;
}

int akvm_machine_arm(struct akvm_machine *machine)
{
	if (machine->driver->loop_rests)
		machine->driver->loop_rests(machine);
	akvm__doorbell_arm(&machine->doorbell);
	if (!completions_waiting(machine))
		return 0;
	akvm__doorbell_disarm(&machine->doorbell);
	return 1;
}

/* Whether some vCPU runs on this very core: polling would keep from it what is waited for. */
static bool shares_core(const struct akvm_machine *machine, int cpu)
{
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (atomic_load(&machine->vcpus[i]->engaged) && atomic_load(&machine->vcpus[i]->cpu) == cpu)
			return true;
	return false;
}

int akvm_machine_poll(struct akvm_machine *machine, uint64_t spin_ns)
{
	enum { POLLS_PER_CLOCK = 32 };
	uint64_t until_ns = akvm__now_ns() + spin_ns;
	int cpu = akvm__processor();
	unsigned polls = 0;

	atomic_store(&machine->loop_cpu, cpu);
	for (;;) {
		if (completions_waiting(machine))
			return 1;
		__builtin_ia32_pause();
		if (++polls % POLLS_PER_CLOCK == 0 && (akvm__now_ns() >= until_ns || shares_core(machine, cpu)))
			return completions_waiting(machine);
	}
}
