/*
 * What this KVM really does, found by running guests once, when the machine opens. Nothing is concluded from CPU flags,
 * module names or version numbers: hosts emulate, hide and misreport (nested and software KVMs above all).
 */
#include <errno.h>

#include "host/host.h"
#include "kvm/kvm.h"
#include "machine/trial.h"

enum { DATA = AKVM_TRIAL_DATA, PAGE = 4096 };
enum { VECTOR_UD = 6, VECTOR_GP = 13 };
enum { MSR_MISC_FEATURES = 0x140, OPERATION_ATTEMPTS = 1000 };

static const uint64_t ENTRY_FRAME = 0x000ffffffffff000;

static int operate(struct akvm__trial *probe, uint32_t operation, uint64_t rcx, uint64_t rax)
{
	struct akvm_context *context = probe->context;
	unsigned attempts = 0;
	int error;

	do {
		context->registers = (struct akvm_registers){ .rcx = rcx, .rax = rax };
		error = akvm_context_operate(context, 0, operation);
		if (!error)
			error = akvm__trial_wait(probe);
	} while (!error && context->kind == AKVM_EXIT_INTERRUPTED && ++attempts < OPERATION_ATTEMPTS);
	if (!error && context->kind == AKVM_EXIT_INTERRUPTED)
		error = akvm__fail("a ring-0 operation of the start-up probe", EINTR);
	if (!error && context->host_errno)
		error = akvm__fail("a ring-0 operation of the start-up probe", -context->host_errno);
	return error;
}

static int probe_syscall(struct akvm__trial *probe)
{
	struct akvm_capabilities *capabilities = &probe->machine->capabilities;
	int error = akvm__trial_run(probe, AKVM_TRIAL_SYSCALL, 0);

	if (error)
		return error;
	if (probe->context->kind == AKVM_EXIT_SYSCALL)
		return 0;
	/* Not in ring 0 at LSTAR: then it must be the fetch fault at LSTAR, recognised from now on. */
	capabilities->syscall_as_fault = 1;
	error = akvm__trial_run(probe, AKVM_TRIAL_SYSCALL, 0);
	if (!error && probe->context->kind != AKVM_EXIT_SYSCALL)
		return akvm__fail("SYSCALL in ring 3", ENOTSUP);
	return error;
}

static int probe_int80(struct akvm__trial *probe)
{
	int error;

	probe->machine->capabilities.int80_as_ud = 0;
	error = akvm__trial_run(probe, AKVM_TRIAL_INT80, 0);
	if (error || probe->context->kind == AKVM_EXIT_SYSCALL)
		return error;
	probe->machine->capabilities.int80_as_ud = akvm__trial_stopped_at(probe, VECTOR_UD);
	return 0;
}

/* The leaf entry for an address, in the guest's own tables. */
static uint64_t *leaf_entry(const struct akvm__trial *probe, uint64_t address)
{
	uint64_t table = akvm__space_root(probe->space);

	for (int shift = 39;; shift -= 9) {
		uint64_t *entry = (uint64_t *)(probe->machine->tables + (table - AKVM_GPA_TABLES)) + (address >> shift & 511);

		if (shift == 12 || !(*entry & 1))
			return entry;
		table = *entry & ENTRY_FRAME;
	}
}

static int load(struct akvm__trial *probe, uint64_t address, uint64_t *value)
{
	int error = akvm__trial_run(probe, AKVM_TRIAL_LOAD, address);

	*value = akvm__trial_stopped_at(probe, AKVM_VECTOR_BP) ? probe->context->registers.rax : UINT64_MAX;
	return error;
}

/* Change present entries from the host, reload CR3, and look with the guest's eyes: other frame, then no frame. */
static int probe_host_edits(struct akvm__trial *probe)
{
	const uint64_t values[2] = { 0x1111, 0x2222 };
	uint64_t *entry, first, second, seen;
	int error;

	for (unsigned i = 0; i < 2; i++)
		if (akvm_space_write(probe->space, DATA + i * PAGE, &values[i], sizeof(values[i]), false) != sizeof(values[i]))
			return akvm__fail("memory of the start-up probe", EFAULT);
	/* Touch both, so that whatever caches entries has them. */
	if ((error = load(probe, DATA, &first)) || (error = load(probe, DATA + PAGE, &second)))
		return error;
	if (first != values[0] || second != values[1])
		return akvm__fail("loads of the start-up probe", EIO);

	entry = leaf_entry(probe, DATA);
	first = *entry;
	__atomic_store_n(entry, *leaf_entry(probe, DATA + PAGE), __ATOMIC_RELEASE);
	if ((error = operate(probe, AKVM_OPERATION_FLUSH, 0, 0)) || (error = load(probe, DATA, &seen)))
		return error;
	probe->machine->capabilities.host_edits_seen = seen == values[1];
	__atomic_store_n(entry, first, __ATOMIC_RELEASE);
	if ((error = operate(probe, AKVM_OPERATION_FLUSH, 0, 0)) || (error = load(probe, DATA, &seen)))
		return error;
	probe->machine->capabilities.host_edits_seen &= seen == values[0];
	return 0;
}

static int probe_cpuid(struct akvm__trial *probe)
{
	int error = operate(probe, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 1);

	if (error)
		return probe->context->vector == VECTOR_GP ? 0 : error; /* #GP: this CPU has no such MSR */
	error = akvm__trial_run(probe, AKVM_TRIAL_CPUID, 0);
	if (error)
		return error;
	probe->machine->capabilities.cpuid_faulting = akvm__trial_stopped_at(probe, VECTOR_GP);
	return operate(probe, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 0);
}

int akvm__machine_probe(struct akvm_machine *machine)
{
	struct akvm__trial probe = { .machine = machine };
	const char *operation;
	int error, retired;

	if ((error = akvm__trial_prepare(&probe)) || (error = operate(&probe, AKVM_OPERATION_NOTHING, 0, 0)) ||
	    (error = probe_syscall(&probe)) || (error = probe_int80(&probe)) || (error = probe_host_edits(&probe)) ||
	    (error = probe_cpuid(&probe)))
		;
	else
		error = akvm__trial_round_trip(&probe);
	operation = akvm_last_error();
	retired = akvm__trial_retire(&probe, !error);
	if (error)
		return akvm__fail(operation, -error);
	if (retired)
		return retired;
	akvm__mm_guest_edits(machine->mm,
			     !machine->capabilities.host_edits_seen || (machine->config.flags & AKVM_MACHINE_GUEST_EDITS));
	return 0;
}
