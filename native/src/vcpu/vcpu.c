/*
 * Creation and end of a vCPU, as far as every driver's is the same.
 */
#include "vcpu/vcpu.h"

#include <errno.h>
#include <stdlib.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/direct_files.h"

enum { BOUNCE_ALIGNMENT = 4096 };

int akvm__vcpu_create(struct akvm_machine *machine, uint32_t index, struct akvm__vcpu **created)
{
	struct akvm__vcpu *vcpu = AKVM__HOST->calloc(1, sizeof(*vcpu));
	int error;

	if (!vcpu)
		return akvm__fail("allocate vCPU", ENOMEM);
	vcpu->machine = machine;
	vcpu->index = index;
	atomic_store(&vcpu->current, UINT32_MAX);
	pthread_mutex_init(&vcpu->lock, NULL);
	akvm__mailbox_create(&vcpu->mailbox);
	*created = vcpu;
	vcpu->bounce = AKVM__HOST->aligned_alloc(BOUNCE_ALIGNMENT, AKVM_BOUNCE_BYTES);
	if (!vcpu->bounce)
		return akvm__fail("allocate bounce buffer", ENOMEM);
	error = akvm__ring_create(&vcpu->completions, machine->config.contexts_max);
	if (error)
		return error;
	vcpu->opened = true;
	return machine->driver->vcpu_open(vcpu);
}

void akvm__vcpu_free(struct akvm__vcpu *vcpu)
{
	if (vcpu->opened)
		vcpu->machine->driver->vcpu_close(vcpu);
	akvm__ring_free(&vcpu->completions);
	akvm__mailbox_free(&vcpu->mailbox);
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu->bounce);
	free(vcpu);
}
