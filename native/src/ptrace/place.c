/*
 * On which processor a vCPU's thread and the processes it works with run.
 *
 * A stub and its tracer take turns, and a turn costs ten times as much when it wakes another processor. So while exits come one
 * after the other all of them stay on one processor; a guest that computes is left to the scheduler, as is a vCPU without work.
 */
#include <errno.h>
#include <sched.h>

#include "host/host.h"
#include "ptrace/ptrace.h"

static void place(struct akvm__ptrace *ptrace, pid_t pid, int processor)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	if (processor >= 0)
		CPU_SET((size_t)processor, &one);
	/* A wish: without it everything works, only slower. */
	(void)AKVM__HOST->sched_setaffinity(pid, sizeof(one), processor >= 0 ? &one : &ptrace->processors);
}

static bool is_taken(const struct akvm__vcpu *self, int processor)
{
	const struct akvm_machine *machine = self->machine;

	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (machine->vcpus[i] != self && atomic_load(&machine->vcpus[i]->processor) == processor)
			return true;
	return false;
}

/* The one it is on, unless another vCPU has settled there. */
static int choose(const struct akvm__vcpu *vcpu)
{
	const struct akvm__ptrace *ptrace = vcpu->machine->ptrace;
	int here = akvm__processor();

	for (int i = 0; i < CPU_SETSIZE; i++) {
		int processor = (here + i) % CPU_SETSIZE;

		if (CPU_ISSET((size_t)processor, &ptrace->processors) && !is_taken(vcpu, processor))
			return processor;
	}
	return AKVM__ANYWHERE;
}

void akvm__vcpu_settle(struct akvm__vcpu *vcpu, bool brief)
{
	int processor = atomic_load(&vcpu->processor);

	if (brief == (processor >= 0))
		return;
	processor = brief ? choose(vcpu) : AKVM__ANYWHERE;
	if (processor == atomic_load(&vcpu->processor))
		return;
	atomic_store(&vcpu->processor, processor);
	place(vcpu->machine->ptrace, 0, processor);
}

void akvm__process_settle(struct akvm__vcpu *vcpu, pid_t pid, int *processor)
{
	int wanted = atomic_load(&vcpu->processor);

	if (pid == 0 || *processor == wanted)
		return;
	*processor = wanted;
	place(vcpu->machine->ptrace, pid, wanted);
}
