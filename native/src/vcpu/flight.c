/*
 * The flight recorder: what a vCPU did last, for the moment something hangs. Written by the owner without locks, read racily.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

void akvm__vcpu_record(struct akvm__vcpu *vcpu, const struct akvm__context *context, uint32_t kvm_exit_reason, uint32_t kind,
		       uint64_t rip)
{
	uint64_t count = atomic_load_explicit(&vcpu->flight_count, memory_order_relaxed);
	struct akvm_flight_record *record = &vcpu->flight[count % AKVM_FLIGHT_RECORDS];

	*record = (struct akvm_flight_record){
		.when_ns = akvm__now_ns(),
		.rip = rip,
		.address = context->pub.address,
		.context = context->pub.index,
		.generation = context->pub.generation,
		.kvm_exit_reason = kvm_exit_reason,
		.kind = kind,
		.vector = context->pub.vector,
		.error_code = context->pub.error_code,
		.host_errno = context->pub.host_errno,
		.interrupts = context->pub.interrupts,
	};
	atomic_store_explicit(&vcpu->flight_count, count + 1, memory_order_release);
}

int akvm_vcpu_flight(const struct akvm_machine *machine, uint32_t index, struct akvm_flight_record *records, uint32_t max)
{
	const struct akvm__vcpu *vcpu;
	uint64_t count, first;
	int written = 0;

	if (index >= machine->vcpu_count)
		return akvm__fail("flight recorder of an unknown vCPU", EINVAL);
	vcpu = machine->vcpus[index];
	count = atomic_load_explicit(&vcpu->flight_count, memory_order_acquire);
	first = count > AKVM_FLIGHT_RECORDS ? count - AKVM_FLIGHT_RECORDS : 0;
	if (count - first > max)
		first = count - max;
	for (; first < count; first++)
		records[written++] = vcpu->flight[first % AKVM_FLIGHT_RECORDS];
	return written;
}
