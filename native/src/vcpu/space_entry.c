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

enum { REKICK_NS = 200000, REAP_ATTEMPTS = 64, PAUSES_PER_YIELD = 64 };

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

int akvm__vcpu_enter_space(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm_space *space = context->space;
	uint64_t generation;
	int error;

	do {
		akvm__vcpu_leave_space(vcpu);
		if (akvm__space_edits_pending(space)) {
			akvm__space_lock(space);
			error = vcpu->machine->driver->apply_edits(vcpu, space, true);
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
	const struct akvm__driver *driver = vcpu->machine->driver;
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

		for (unsigned attempt = 0; error && attempt < REAP_ATTEMPTS; attempt++) {
			if (vcpu->must_reset && driver->reset(vcpu))
				continue;
			akvm__space_lock(space);
			error = driver->apply_edits(vcpu, space, false);
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
