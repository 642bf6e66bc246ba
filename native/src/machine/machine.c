/*
 * Opening and closing a machine, in an order that leaves nothing behind from wherever it stopped.
 */
#include "machine/machine.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "host/host.h"

enum { HUGE_PAGE = 2 << 20, CONTEXTS_MAX = 1 << 20, FAULT_AROUND_DEFAULT = 16, FAULT_AROUND_MAX = 64 };

static void interrupt_space(void *opaque, struct akvm_space *space)
{
	struct akvm_machine *machine = opaque;

	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (atomic_load(&machine->vcpus[i]->space) == space)
			akvm__vcpu_kick(machine->vcpus[i]);
}

static int settled(void *opaque, struct akvm_space *space, uint64_t generation)
{
	struct akvm_machine *machine = opaque;

	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct akvm__vcpu *vcpu = machine->vcpus[i];

		if (atomic_load(&vcpu->space) == space && atomic_load(&vcpu->space_generation) < generation)
			return 0;
	}
	return 1;
}

/* Any vCPU may reap: an idle one now, else whichever is first without work. When the last request still waits for that, none may
 * ever be: whichever first has an exit does it, and when every guest is deep in its own computation, one is made to exit. */
static void reap(void *opaque)
{
	struct akvm_machine *machine = opaque;
	bool overdue = atomic_exchange(&machine->reap_due, true);

	if (overdue)
		atomic_store(&machine->reap_pressing, true);
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct akvm__vcpu *vcpu = machine->vcpus[i];

		if (!atomic_load(&vcpu->busy)) {
			akvm__mailbox_notify(&vcpu->mailbox);
			return;
		}
	}
	if (overdue)
		akvm__vcpu_kick(machine->vcpus[0]);
}

static int check_config(struct akvm_machine_config *config)
{
	if (config->platform > AKVM_PLATFORM_PTRACE)
		return akvm__fail("platform", EINVAL);
	if (!config->vcpus || config->vcpus > AKVM_VCPUS_MAX || !config->contexts_max || config->contexts_max > CONTEXTS_MAX ||
	    config->memory_bytes < HUGE_PAGE || config->memory_bytes % HUGE_PAGE ||
	    config->memory_bytes > AKVM_GPA_FILES - AKVM_GPA_FRAMES)
		return akvm__fail("machine configuration", EINVAL);
	if (!config->fault_around_pages)
		config->fault_around_pages = FAULT_AROUND_DEFAULT;
	if (config->fault_around_pages > FAULT_AROUND_MAX || (config->fault_around_pages & (config->fault_around_pages - 1)))
		return akvm__fail("fault_around_pages", EINVAL);
	if (!config->kick_signal)
		config->kick_signal = SIGRTMAX - 2;
	if (config->kick_signal < SIGRTMIN || config->kick_signal > SIGRTMAX)
		return akvm__fail("kick_signal", EINVAL);
	return 0;
}

static int create_contexts(struct akvm_machine *machine)
{
	uint32_t max = machine->config.contexts_max;

	machine->contexts = AKVM__HOST->calloc(max, sizeof(*machine->contexts));
	machine->free_contexts = AKVM__HOST->calloc(max, sizeof(*machine->free_contexts));
	if (!machine->contexts || !machine->free_contexts)
		return akvm__fail("allocate contexts", ENOMEM);
	while (machine->free_count < max) {
		machine->free_contexts[machine->free_count] = max - 1 - machine->free_count;
		machine->free_count++;
	}
	return akvm__ring_create(&machine->loop_completions, max);
}

static int create_vcpus(struct akvm_machine *machine)
{
	uint32_t count = machine->config.vcpus;
	int error;

	machine->vcpus = AKVM__HOST->calloc(count, sizeof(*machine->vcpus));
	if (!machine->vcpus)
		return akvm__fail("allocate vCPUs", ENOMEM);
	for (uint32_t i = 0; i < count; i++) {
		error = akvm__vcpu_create(machine, i, &machine->vcpus[i]);
		/* Counted even when it failed half-way, so that close releases what there is. */
		machine->vcpu_count = i + !!machine->vcpus[i];
		if (error)
			return error;
	}
	for (uint32_t i = 0; i < count; i++) {
		error = akvm__vcpu_start(machine->vcpus[i]);
		if (error)
			return error;
	}
	return 0;
}

static int build(struct akvm_machine *machine)
{
	const struct akvm__mm_hooks hooks = {
		.opaque = machine,
		.shadowed = machine->driver->forget != NULL,
		.forget = machine->driver->forget,
		.set_slot = machine->driver->set_slot,
		.interrupt = interrupt_space,
		.settled = settled,
		.reap = reap,
	};
	int error;

	machine->opened = true;
	if ((error = machine->driver->open(machine)) || (error = akvm__doorbell_create(&machine->doorbell)))
		return error;
	if (machine->config.vcpus > machine->capabilities.vcpus_max)
		return akvm__fail("more vCPUs than the platform offers", EINVAL);
	if ((error = akvm__mm_create(&hooks, machine->config.memory_bytes, machine->config.fault_around_pages,
				     machine->capabilities.slots_max, &machine->mm)) ||
	    (error = machine->driver->build(machine)) || (error = create_contexts(machine)) ||
	    (error = akvm__kick_setup(machine->config.kick_signal)) || (error = create_vcpus(machine)))
		return error;
	return akvm__machine_probe(machine);
}

static void release(struct akvm_machine *machine)
{
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		akvm__vcpu_free(machine->vcpus[i]);
	free(machine->vcpus);
	for (uint32_t i = 0; machine->contexts && i < machine->config.contexts_max; i++) {
		if (machine->contexts[i])
			akvm__context_free(machine->contexts[i]);
	}
	free(machine->contexts);
	free(machine->free_contexts);
	akvm__ring_free(&machine->loop_completions);
	akvm__doorbell_free(&machine->doorbell);
	if (machine->opened)
		machine->driver->close(machine);
	if (machine->mm)
		akvm__mm_free(machine->mm);
	free(machine);
}

int akvm_machine_open(const struct akvm_machine_config *config, struct akvm_machine **opened)
{
	enum { OPEN_JOIN_NS = 2000000000 };
	struct akvm_machine *machine = AKVM__HOST->calloc(1, sizeof(*machine));
	const char *operation;
	cpu_set_t cpus;
	int error;

	if (!machine)
		return akvm__fail("allocate machine", ENOMEM);
	machine->config = *config;
	machine->driver = config->platform == AKVM_PLATFORM_PTRACE ? &akvm__ptrace_driver : &akvm__kvm_driver;
	machine->capabilities.platform = config->platform;
	machine->doorbell.fd = -1;
	machine->capabilities.kernel_base = AKVM_KERNEL_HALF;
	machine->spare_cpus = AKVM__HOST->sched_getaffinity(0, sizeof(cpus), &cpus) ? 0 : (uint32_t)CPU_COUNT(&cpus) - 1;
	error = check_config(&machine->config);
	if (!error)
		error = build(machine);
	if (error) {
		operation = akvm_last_error();
		akvm_machine_close(machine, OPEN_JOIN_NS);
		return akvm__fail(operation, -error);
	}
	*opened = machine;
	return 0;
}

void akvm_machine_stop(struct akvm_machine *machine)
{
	atomic_store(&machine->stopping, true);
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (machine->vcpus[i]->thread_started)
			akvm__vcpu_kick(machine->vcpus[i]);
}

int akvm_machine_close(struct akvm_machine *machine, uint64_t timeout_ns)
{
	enum { REKICK_NS = 10000000 };
	uint64_t until_ns = akvm__now_ns() + timeout_ns;
	bool running = true;

	akvm_machine_stop(machine);
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		atomic_store(&machine->vcpus[i]->stop, true);
	while (running) {
		running = false;
		for (uint32_t i = 0; i < machine->vcpu_count; i++) {
			struct akvm__vcpu *vcpu = machine->vcpus[i];

			akvm__mailbox_notify(&vcpu->mailbox);
			if (vcpu->thread_started && atomic_load(&vcpu->state) == AKVM_VCPU_GUEST)
				akvm__vcpu_kick(vcpu);
			if (akvm__vcpu_join(vcpu, REKICK_NS))
				running = true;
		}
		if (running && akvm__now_ns() > until_ns)
			return akvm__fail("close with a vCPU thread that does not come back", ETIMEDOUT);
	}
	release(machine);
	return 0;
}
