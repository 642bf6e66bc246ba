/*
 * Kicks: the only signal code. How no kick is lost and none hits the wrong run:
 *
 *   kicker (loop, or a vCPU that changed a space)        owner of the vCPU
 *   1 set the reason: context->interrupt or the           a store immediate_exit = 0 (expect_kicks)
 *     space's generation                                  b store state = GUEST
 *   2 store immediate_exit = 1                            c look at the reasons; leave if there is one
 *   3 look at state; GUEST: tgkill                        d KVM_RUN
 *
 * All are sequentially consistent. If (c) missed the reason, (1) came after (c), so (3) sees GUEST and signals; the signal
 * finds the owner before d, and then immediate_exit makes KVM_RUN return at once, or inside d, and interrupts it. If (a)
 * wiped out (2), (1) came before (c). A kick that arrives after its run ended finds no reason for the next one: that run
 * re-enters, which is counted as a stale kick.
 *
 * The handler is empty: a signal is only wanted for KVM_RUN's EINTR.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

static void ignore(int signal)
{
	(void)signal;
}

static int install(int signal)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = ignore;
	sigfillset(&action.sa_mask);
	if (AKVM__HOST->sigaction(signal, &action, NULL) < 0)
		return akvm__fail("sigaction", errno);
	return 0;
}

int akvm__kick_setup(int signal)
{
	struct sigaction old;

	if (AKVM__HOST->sigaction(signal, NULL, &old) < 0)
		return akvm__fail("sigaction", errno);
	if (old.sa_handler == ignore)
		return 0;
	if (old.sa_handler != SIG_DFL)
		return akvm__fail("kick signal already in use", EBUSY);
	return install(signal);
}

int akvm__vcpu_kick(struct akvm__vcpu *vcpu)
{
	atomic_fetch_add_explicit(&vcpu->counters.kicks, 1, memory_order_relaxed);
	return vcpu->machine->driver->kick(vcpu);
}

int akvm_context_interrupt(struct akvm_context *public, uint32_t generation, uint32_t reasons)
{
	struct akvm__context *context = akvm__context(public);
	uint64_t word = atomic_load(&context->interrupt);
	struct akvm__vcpu *vcpu;

	do {
		if ((uint32_t)(word >> 32) != generation || !public->submitted)
			return 0;
	} while (!atomic_compare_exchange_weak(&context->interrupt, &word, word | reasons));

	vcpu = atomic_load(&context->running);
	if (!vcpu && akvm__mailbox_withdraw(&context->machine->vcpus[context->mailbox]->mailbox, context)) {
		/* It never ran: complete it here, or it would wait behind whatever runs there now. */
		public->kind = AKVM_EXIT_INTERRUPTED;
		public->interrupts = akvm__context_interrupts(context);
		public->ran_ns = 0;
		akvm__ring_put(&context->machine->loop_completions, public->index);
		akvm__doorbell_ring(&context->machine->doorbell);
		return 0;
	}
	vcpu = atomic_load(&context->running);
	return vcpu ? akvm__vcpu_kick(vcpu) : 0;
}
