/*
 * What a machine tells about itself, and the public calls that start from a machine.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/machine.h"

const struct akvm_capabilities *akvm_machine_capabilities(const struct akvm_machine *machine)
{
	return &machine->capabilities;
}

static uint64_t read_counter(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

int akvm_vcpu_status(const struct akvm_machine *machine, uint32_t index, struct akvm_vcpu_status *status)
{
	const struct akvm__vcpu_counters *counters;
	const struct akvm__vcpu *vcpu;

	if (index >= machine->vcpu_count)
		return akvm__fail("status of an unknown vCPU", EINVAL);
	vcpu = machine->vcpus[index];
	counters = &vcpu->counters;
	*status = (struct akvm_vcpu_status){
		.started_ns = read_counter(&vcpu->started_ns),
		.busy_ns = read_counter(&counters->busy_ns),
		.runs = read_counter(&counters->runs),
		.exits = read_counter(&counters->exits),
		.native_exits = read_counter(&counters->native_exits),
		.kicks = read_counter(&counters->kicks),
		.stale_kicks = read_counter(&counters->stale_kicks),
		.steals = read_counter(&counters->steals),
		.fp_switches = read_counter(&counters->fp_switches),
		.space_switches = read_counter(&counters->space_switches),
		.space_flushes = read_counter(&counters->space_flushes),
		.operations = read_counter(&counters->operations),
		.shootdowns = read_counter(&counters->shootdowns),
		.sleeps = read_counter(&counters->sleeps),
		.state = atomic_load(&vcpu->state),
		.context = atomic_load(&vcpu->current),
		.generation = atomic_load(&vcpu->current_generation),
		.queued = atomic_load(&vcpu->mailbox.length),
	};
	return 0;
}

int akvm_memory_status(const struct akvm_machine *machine, struct akvm_memory_status *status)
{
	akvm__mm_status(machine->mm, status);
	return 0;
}

int akvm_space_create(struct akvm_machine *machine, struct akvm_space **space)
{
	return akvm__space_create(machine->mm, space);
}

int akvm_budget_create(struct akvm_machine *machine, uint64_t pages, struct akvm_budget **budget)
{
	int error = akvm__mm_budget_create(machine->mm, pages, budget);

	return error ? akvm__fail("create budget", -error) : 0;
}

int akvm_file_open(struct akvm_machine *machine, int fd, bool writable, uint64_t bytes, struct akvm_file **file)
{
	return akvm__file_open(machine->mm, fd, writable, bytes, file);
}
