/*
 * Entering an address space: pending page-table edits are applied first, and nobody enters while another vCPU is still inside
 * with older translations. So a guest never runs beside a thread of its own that sees memory it has already lost, and a
 * call that changed the space need not wait for anybody.
 */
#include <errno.h>
#include <sched.h>
#include <stddef.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

enum { REKICK_NS = 200000, CR3_NO_FLUSH_BIT = 63, REAP_ATTEMPTS = 64, PAUSES_PER_YIELD = 64 };

/* Precondition: the space's lock is held. 0, -EINTR or -errno. */
static int apply_edits(struct akvm__vcpu *vcpu, struct akvm_space *space, uint64_t cr3)
{
	uint64_t *payload = (uint64_t *)(vcpu->area + AKVM_VCPU_PAYLOAD);
	uint32_t runs = 0, vector = 0;

	while (akvm__space_edits_take(space, payload, AKVM_PAYLOAD_BYTES / 8, &runs)) {
		struct akvm_registers registers = {
			.rsi = vcpu->area_address + AKVM_VCPU_PAYLOAD,
			.rbx = runs,
			.rdx = cr3,
		};
		int error = akvm__vcpu_operate(vcpu, AKVM_STUB_EDIT, &registers, &vector);

		if (error)
			return error;
		akvm__space_edits_done(space);
	}
	return 0;
}

static bool somebody_behind(struct akvm__vcpu *self, struct akvm_space *space, uint64_t generation, bool kick)
{
	struct akvm_machine *machine = self->machine;
	bool behind = false;

	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct akvm__vcpu *vcpu = machine->vcpus[i];

		if (vcpu == self || atomic_load(&vcpu->space) != space || atomic_load(&vcpu->space_generation) >= generation)
			continue;
		behind = true;
		if (kick)
			akvm__vcpu_kick(vcpu);
	}
	return behind;
}

static void publish(struct akvm__vcpu *vcpu, struct akvm_space *space, uint64_t generation)
{
	atomic_store(&vcpu->space_generation, generation);
	atomic_store(&vcpu->space, space);
}

void akvm__vcpu_leave_space(struct akvm__vcpu *vcpu)
{
	atomic_store(&vcpu->space, NULL);
}

void akvm__vcpu_forget_cr3(struct akvm__vcpu *vcpu)
{
	vcpu->cr3_space_id = 0;
	akvm__pcids_drop(&vcpu->pcids);
}

/* 0 when everybody inside is current, -EAGAIN when the space changed again, -EINTR when the context must not run. */
static int wait_for_others(struct akvm__vcpu *vcpu, struct akvm__context *context, uint64_t generation)
{
	uint64_t kicked_ns = 0;
	unsigned pauses = 0;

	while (somebody_behind(vcpu, context->space, generation, false)) {
		uint64_t now_ns = akvm__now_ns();

		if (akvm__context_interrupts(context) || atomic_load(&vcpu->machine->stopping))
			return -EINTR;
		if (akvm__space_generation(context->space) != generation)
			return -EAGAIN;
		if (now_ns - kicked_ns > REKICK_NS) {
			somebody_behind(vcpu, context->space, generation, true);
			kicked_ns = now_ns;
		}
		if (++pauses % PAUSES_PER_YIELD)
			__builtin_ia32_pause();
		else
			AKVM__HOST->sched_yield();
	}
	return 0;
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

int akvm__vcpu_enter_space(struct akvm__vcpu *vcpu, struct akvm__context *context, bool *load_cr3, uint64_t *cr3)
{
	struct akvm_space *space = context->space;
	uint64_t generation;
	int error;

	do {
		akvm__vcpu_leave_space(vcpu);
		if (akvm__space_edits_pending(space)) {
			akvm__space_lock(space);
			error = apply_edits(vcpu, space, vcpu->run->s.regs.sregs.cr3);
			akvm__space_unlock(space);
			if (error)
				return error;
		}
		generation = akvm__space_generation(space);
		publish(vcpu, space, generation);
		/* Read again after publishing: whoever raised it since then either sees us inside or is seen here. */
		error = akvm__space_edits_pending(space) ? -EAGAIN : wait_for_others(vcpu, context, generation);
	} while (error == -EAGAIN);
	if (error) {
		akvm__vcpu_leave_space(vcpu);
		return error;
	}
	*load_cr3 = vcpu->cr3_space_id != akvm__space_id(space) || vcpu->cr3_generation != generation;
	if (*load_cr3) {
		*cr3 = choose_cr3(vcpu, space, generation);
		vcpu->cr3_space_id = akvm__space_id(space);
		vcpu->cr3_generation = generation;
		akvm__count(&vcpu->counters.space_switches);
		if (!(*cr3 >> CR3_NO_FLUSH_BIT))
			akvm__count(&vcpu->counters.space_flushes);
	}
	return 0;
}

/* A context came for this vCPU: a sleeping one goes on with the dead, which would else wait until it has work of its own. */
static void leave_to_others(struct akvm_machine *machine)
{
	atomic_store(&machine->reap_due, true);
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		if (!atomic_load(&machine->vcpus[i]->busy)) {
			akvm__mailbox_notify(&machine->vcpus[i]->mailbox);
			return;
		}
	}
}

/* Until none is left; an idle vCPU also stops for a context that comes, whose guest shall not wait for the dead. */
static void reap(struct akvm__vcpu *vcpu, bool idle)
{
	struct akvm__mm *mm = vcpu->machine->mm;

	for (;;) {
		struct akvm_space *space;
		int error = -EINTR;

		if (idle && atomic_load(&vcpu->mailbox.length)) {
			leave_to_others(vcpu->machine);
			return;
		}
		space = akvm__mm_reap_next(mm);
		if (space == NULL)
			return;

		vcpu->cr3_space_id = 0;
		for (unsigned attempt = 0; error && attempt < REAP_ATTEMPTS; attempt++) {
			if (vcpu->must_reset && akvm__vcpu_reset(vcpu))
				continue;
			akvm__space_lock(space);
			error = apply_edits(vcpu, space, akvm__mm_kernel_root(mm));
			akvm__space_unlock(space);
		}
		/* Tables that could not be cleared are not reused: better lost than shared. But the host may recover. */
		if (error) {
			akvm__mm_reap_failed(mm, space);
			return;
		}
		akvm__mm_reap_done(mm, space);
	}
}

void akvm__vcpu_reap_if_due(struct akvm__vcpu *vcpu)
{
	_Atomic bool *due = &vcpu->machine->reap_due;

	if (!atomic_load(due) || !atomic_exchange(due, false))
		return;
	atomic_store(&vcpu->machine->reap_pressing, false);
	reap(vcpu, false);
}

void akvm__vcpu_reap_if_pressing(struct akvm__vcpu *vcpu)
{
	if (atomic_load(&vcpu->machine->reap_pressing))
		akvm__vcpu_reap_if_due(vcpu);
}

bool akvm__vcpu_reap_when_idle(struct akvm__vcpu *vcpu)
{
	_Atomic bool *due = &vcpu->machine->reap_due;

	if (!atomic_load(due) || !atomic_exchange(due, false))
		return false;
	atomic_store(&vcpu->brief, false);
	atomic_store(&vcpu->engaged, true);
	reap(vcpu, true);
	atomic_store(&vcpu->engaged, false);
	return true;
}
