/*
 * Running ring 3 with KVM: how a space becomes current, and the driver's table.
 */
#include <errno.h>
#include <stdlib.h>

#include "host/host.h"
#include "kvm/kvm.h"

enum { CR3_NO_FLUSH_BIT = 63 };

int akvm__kvm_apply_edits(struct akvm__vcpu *vcpu, struct akvm_space *space, bool entering)
{
	uint64_t *payload = (uint64_t *)(vcpu->area + AKVM_VCPU_PAYLOAD);
	uint64_t cr3 = vcpu->run->s.regs.sregs.cr3;
	uint32_t runs = 0, vector = 0;

	if (!entering) {
		cr3 = akvm__mm_kernel_root(vcpu->machine->mm);
		vcpu->cr3_space_id = 0;
	}
	while (akvm__space_edits_take(space, payload, AKVM_PAYLOAD_BYTES / 8, &runs)) {
		struct akvm_registers registers = {
			.rsi = vcpu->area_address + AKVM_VCPU_PAYLOAD,
			.rbx = runs,
			.rdx = cr3,
		};
		int error = akvm__kvm_run_stub(vcpu, AKVM_STUB_EDIT, &registers, &vector);

		if (error)
			return error;
		akvm__space_edits_done(space);
	}
	return 0;
}

void akvm__kvm_forget_cr3(struct akvm__vcpu *vcpu)
{
	vcpu->cr3_space_id = 0;
	akvm__pcids_drop(&vcpu->pcids);
}

static uint64_t choose_cr3(struct akvm__vcpu *vcpu, struct akvm_space *space, uint64_t generation)
{
	uint64_t root = akvm__space_root(space), pcid;
	bool flush;

	if (!vcpu->machine->capabilities.pcid)
		return root;
	pcid = akvm__pcids_assign(&vcpu->pcids, akvm__space_id(space), generation, &flush);
	return root | pcid | (flush ? 0 : 1ull << CR3_NO_FLUSH_BIT);
}

static int load(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	uint64_t id = akvm__space_id(context->space), generation = atomic_load(&vcpu->space_generation), cr3 = 0;
	bool load_cr3 = vcpu->cr3_space_id != id || vcpu->cr3_generation != generation;
	int error;

	if (load_cr3) {
		cr3 = choose_cr3(vcpu, context->space, generation);
		vcpu->cr3_space_id = id;
		vcpu->cr3_generation = generation;
		akvm__count(&vcpu->counters.space_switches);
		if (!(cr3 >> CR3_NO_FLUSH_BIT))
			akvm__count(&vcpu->counters.space_flushes);
	}
	error = akvm__kvm_load_fp(vcpu, context);
	if (error) {
		/* Whatever was chosen never came to be loaded. */
		if (load_cr3)
			akvm__kvm_forget_cr3(vcpu);
		return error;
	}
	akvm__kvm_load(vcpu, context, load_cr3, cr3);
	return 0;
}

static void expect_kicks(struct akvm__vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static enum akvm__event decode(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome outcome)
{
	return akvm__kvm_decode(vcpu, context, outcome.result == AKVM_RUN_HALTED);
}

/* The tables are what the CPU walks. */
static int resolved(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	(void)vcpu, (void)context;
	return 0;
}

/* Registers are in the context already, and the vector state may stay where it is. */
static int retire(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	(void)vcpu, (void)context;
	return 0;
}

static int kick(struct akvm__vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&vcpu->state) == AKVM_VCPU_GUEST &&
	    AKVM__HOST->thread_kill(atomic_load(&vcpu->tid), vcpu->machine->config.kick_signal) < 0)
		return akvm__fail("kick vCPU", errno);
	return 0;
}

static int open_machine(struct akvm_machine *machine)
{
	int error;

	machine->device = machine->vm = -1;
	if ((error = akvm__device_open(machine)) || (error = akvm__vm_create(machine)) || (error = akvm__cpuid_create(machine)))
		return error;
	return akvm__kernel_image_create(machine);
}

static void close_machine(struct akvm_machine *machine)
{
	if (machine->vm >= 0)
		AKVM__HOST->close(machine->vm);
	akvm__kernel_image_free(machine);
	free(machine->cpuid);
	if (machine->device >= 0)
		AKVM__HOST->close(machine->device);
}

const struct akvm__driver akvm__kvm_driver = {
	.open = open_machine,
	.build = akvm__kernel_image_map,
	.probe = akvm__kvm_probe,
	.close = close_machine,
	.set_slot = akvm__vm_set_slot,
	.vcpu_open = akvm__kvm_vcpu_open,
	.vcpu_close = akvm__kvm_vcpu_close,
	.reset = akvm__kvm_reset,
	.apply_edits = akvm__kvm_apply_edits,
	.load = load,
	.unload = akvm__kvm_forget_cr3,
	.expect_kicks = expect_kicks,
	.run = akvm__kvm_run,
	.decode = decode,
	.resolved = resolved,
	.retire = retire,
	.operate = akvm__kvm_operate,
	.answer_cpuid = akvm__cpuid_answer,
	.kick = kick,
	.take_vector_state = akvm__kvm_take_vector_state,
};
