/*
 * What only KVM has to be asked: whether stores of the host's to page tables are seen, and whether CPUID can be made to fault.
 */
#include "host/host.h"
#include "kvm/kvm.h"
#include "machine/probe.h"

#include <errno.h>

enum { MSR_MISC_FEATURES = 0x140 };

static const uint64_t ENTRY_FRAME = 0x000ffffffffff000;

/* The leaf entry for an address, in the guest's own tables. */
static uint64_t *leaf_entry(const struct akvm__probe *probe, uint64_t address)
{
	uint64_t table = akvm__space_root(probe->space);

	for (int shift = 39;; shift -= 9) {
		uint64_t *entry = (uint64_t *)(probe->machine->tables + (table - AKVM_GPA_TABLES)) + (address >> shift & 511);

		if (shift == 12 || !(*entry & 1))
			return entry;
		table = *entry & ENTRY_FRAME;
	}
}

static int load(struct akvm__probe *probe, uint64_t address, uint64_t *value)
{
	int error = akvm__probe_run(probe, PROBE_LOAD, address, 0);

	*value = akvm__probe_stopped_at(probe, PROBE_VECTOR_BP) ? probe->context->registers.rax : UINT64_MAX;
	return error;
}

/* Change present entries from the host, reload CR3, and look with the guest's eyes: other frame, then no frame. */
static int probe_host_edits(struct akvm__probe *probe)
{
	const uint64_t values[2] = { 0x1111, 0x2222 };
	uint64_t *entry, first, second, seen;
	int error;

	for (unsigned i = 0; i < 2; i++)
		if (akvm_space_write(probe->space, PROBE_DATA + i * PROBE_PAGE, &values[i], sizeof(values[i]), false) !=
		    sizeof(values[i]))
			return akvm__fail("memory of the start-up probe", EFAULT);
	/* Touch both, so that whatever caches entries has them. */
	if ((error = load(probe, PROBE_DATA, &first)) || (error = load(probe, PROBE_DATA + PROBE_PAGE, &second)))
		return error;
	if (first != values[0] || second != values[1])
		return akvm__fail("loads of the start-up probe", EIO);

	entry = leaf_entry(probe, PROBE_DATA);
	first = *entry;
	__atomic_store_n(entry, *leaf_entry(probe, PROBE_DATA + PROBE_PAGE), __ATOMIC_RELEASE);
	if ((error = akvm__probe_operate(probe, AKVM_OPERATION_FLUSH, 0, 0)) || (error = load(probe, PROBE_DATA, &seen)))
		return error;
	probe->machine->capabilities.host_edits_seen = seen == values[1];
	__atomic_store_n(entry, first, __ATOMIC_RELEASE);
	if ((error = akvm__probe_operate(probe, AKVM_OPERATION_FLUSH, 0, 0)) || (error = load(probe, PROBE_DATA, &seen)))
		return error;
	probe->machine->capabilities.host_edits_seen &= seen == values[0];
	return 0;
}

static int probe_cpuid(struct akvm__probe *probe)
{
	int error = akvm__probe_operate(probe, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 1);

	if (error)
		return probe->context->vector == PROBE_VECTOR_GP ? 0 : error; /* #GP: this CPU has no such MSR */
	error = akvm__probe_run(probe, PROBE_CPUID, 0, 0);
	if (error)
		return error;
	probe->machine->capabilities.cpuid_faulting = akvm__probe_stopped_at(probe, PROBE_VECTOR_GP);
	return akvm__probe_operate(probe, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 0);
}

int akvm__kvm_probe(struct akvm__probe *probe)
{
	int error = probe_host_edits(probe);

	return error ? error : probe_cpuid(probe);
}
