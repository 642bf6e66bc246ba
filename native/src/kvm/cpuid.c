/*
 * What guests are told the CPU can do: KVM's supported leaves, without what a ring-3 guest must not expect.
 */
#include <errno.h>
#include <stdlib.h>

#include "host/host.h"
#include "kvm/kvm.h"

/* XCR0: x87, SSE, AVX, AVX-512. MPX, PKRU and AMX are left out: the core does not switch what they need. */
enum { XCR0_USED = 0xe7 };

const struct kvm_cpuid_entry2 *akvm__cpuid_find(const struct akvm_machine *machine, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < machine->cpuid->header.nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &machine->cpuid->entries[i];

		if (entry->function == function && (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == index))
			return entry;
	}
	return NULL;
}

static void restrict_leaf(struct akvm_machine *machine, struct kvm_cpuid_entry2 *entry)
{
	switch (entry->function) {
	case 1:
		entry->ecx &= ~(1u << 5);                   /* VMX */
		entry->ecx |= (entry->ecx >> 26 & 1) << 27; /* OSXSAVE follows XSAVE: CR4 sets it */
		break;
	case 7:
		if (entry->index == 0) {
			entry->ebx &= ~(1u << 14);                       /* MPX */
			entry->ecx &= ~(1u << 3 | 1u << 4);              /* PKU, OSPKE */
			entry->edx &= ~(1u << 22 | 1u << 24 | 1u << 25); /* AMX */
		}
		break;
	case 0xd:
		if (entry->index == 0) {
			entry->eax &= XCR0_USED;
			entry->edx = 0;
			machine->capabilities.xcr0 = entry->eax;
		}
		break;
	case 0x80000001:
		entry->ecx &= ~(1u << 2); /* SVM */
		break;
	case 0x80000008:
		machine->capabilities.physical_bits = entry->eax & 0xff;
		break;
	}
}

int akvm__cpuid_create(struct akvm_machine *machine)
{
	struct akvm_capabilities *capabilities = &machine->capabilities;
	const struct kvm_cpuid_entry2 *leaf1, *leaf7;
	uint32_t kept = 0;

	machine->cpuid = AKVM__HOST->calloc(1, sizeof(*machine->cpuid));
	if (!machine->cpuid)
		return akvm__fail("allocate CPUID table", ENOMEM);
	machine->cpuid->header.nent = AKVM_CPUID_MAX;
	if (AKVM__HOST->ioctl(machine->device, KVM_GET_SUPPORTED_CPUID, machine->cpuid) < 0)
		return akvm__fail("KVM_GET_SUPPORTED_CPUID", errno);
	for (uint32_t i = 0; i < machine->cpuid->header.nent; i++) {
		struct kvm_cpuid_entry2 entry = machine->cpuid->entries[i];

		/* KVM's paravirtual leaves: their MSRs are out of a ring-3 guest's reach. */
		if (entry.function >= 0x40000000 && entry.function < 0x40010000)
			continue;
		restrict_leaf(machine, &entry);
		machine->cpuid->entries[kept++] = entry;
	}
	machine->cpuid->header.nent = kept;

	leaf1 = akvm__cpuid_find(machine, 1, 0);
	leaf7 = akvm__cpuid_find(machine, 7, 0);
	if (!leaf1)
		return akvm__fail("KVM_GET_SUPPORTED_CPUID", ENOTSUP);
	/* PAE, OSFXSR, OSXMMEXCPT always; the rest as offered. XCR0 is set even where XSAVE is hidden: ring 3 may have the
	 * registers all the same. */
	machine->cr4 = 1u << 5 | 1u << 9 | 1u << 10 | (leaf1->ecx >> 26 & 1) << 18;
	capabilities->pcid = !(machine->config.flags & AKVM_MACHINE_NO_PCID) && (leaf1->ecx >> 17 & 1);
	capabilities->fsgsbase = leaf7 && (leaf7->ebx & 1);
	capabilities->smep = leaf7 && (leaf7->ebx >> 7 & 1);
	capabilities->smap = leaf7 && (leaf7->ebx >> 20 & 1);
	capabilities->umip = leaf7 && (leaf7->ecx >> 2 & 1);
	machine->cr4 |= (uint64_t)capabilities->pcid << 17 | (uint64_t)capabilities->fsgsbase << 16 |
			(uint64_t)capabilities->smep << 20 | (uint64_t)capabilities->smap << 21 |
			(uint64_t)capabilities->umip << 11;
	return 0;
}

void akvm__cpuid_answer(const struct akvm_machine *machine, struct akvm_registers *registers)
{
	const struct kvm_cpuid_entry2 *entry;

	entry = akvm__cpuid_find(machine, (uint32_t)registers->rax, (uint32_t)registers->rcx);
	registers->rax = entry ? entry->eax : 0;
	registers->rbx = entry ? entry->ebx : 0;
	registers->rcx = entry ? entry->ecx : 0;
	registers->rdx = entry ? entry->edx : 0;
}
