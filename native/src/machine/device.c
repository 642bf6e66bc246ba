/*
 * /dev/kvm and the VM: what must be there before anything can run.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "host/host.h"
#include "machine/machine.h"

_Static_assert(sizeof(struct kvm_cpuid2) == 8, "flexible array must add nothing, else ioctl numbers come out wrong");
_Static_assert(sizeof(struct kvm_msrs) == 8, "flexible array must add nothing, else ioctl numbers come out wrong");

static const struct {
	int capability;
	const char *name;
} required[] = {
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	{ KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
	{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
};

static int check(int fd, int capability)
{
	return akvm__host->ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)capability);
}

/* The module that serves /dev/kvm, as far as sysfs tells; for people, never for decisions. */
static void name_module(char *name, size_t bytes)
{
	DIR *modules = opendir("/sys/module");
	struct dirent *entry;

	name[0] = 0;
	while (modules && (entry = readdir(modules)))
		if (!strncmp(entry->d_name, "kvm_", 4))
			snprintf(name, bytes, "%.*s", (int)bytes - 1, entry->d_name);
	if (modules)
		closedir(modules);
}

int akvm__device_open(struct akvm_machine *machine)
{
	struct akvm_capabilities *capabilities = &machine->capabilities;
	const char *path = machine->config.device ? machine->config.device : "/dev/kvm";
	int version, count;

	machine->device = akvm__host->open(path, O_RDWR | O_CLOEXEC);
	if (machine->device < 0)
		return akvm__fail("open the KVM device", errno);
	version = akvm__host->ioctl(machine->device, KVM_GET_API_VERSION, NULL);
	if (version != KVM_API_VERSION)
		return akvm__fail("KVM_GET_API_VERSION", version < 0 ? errno : ENOTSUP);
	for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++)
		if (check(machine->device, required[i].capability) <= 0)
			return akvm__fail(required[i].name, ENOTSUP);
	count = check(machine->device, KVM_CAP_SYNC_REGS);
	if ((count & (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS)) != (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS))
		return akvm__fail("KVM_CAP_SYNC_REGS", ENOTSUP);
	machine->sync_events = count & KVM_SYNC_X86_EVENTS;
	count = check(machine->device, KVM_CAP_MAX_VCPUS);
	capabilities->vcpus_max = count > AKVM_VCPUS_MAX ? AKVM_VCPUS_MAX : count > 0 ? (uint32_t)count : 1;
	count = check(machine->device, KVM_CAP_NR_MEMSLOTS);
	capabilities->slots_max = count > 0 ? (uint32_t)count : 32;
	name_module(capabilities->kvm_module, sizeof(capabilities->kvm_module));
	count = akvm__host->ioctl(machine->device, KVM_GET_VCPU_MMAP_SIZE, NULL);
	if (count < (int)sizeof(struct kvm_run))
		return akvm__fail("KVM_GET_VCPU_MMAP_SIZE", count < 0 ? errno : ENOTSUP);
	machine->run_bytes = (size_t)count;
	return 0;
}

int akvm__vm_create(struct akvm_machine *machine)
{
	int xsave;

	do
		machine->vm = akvm__host->ioctl(machine->device, KVM_CREATE_VM, NULL);
	while (machine->vm < 0 && errno == EINTR);
	if (machine->vm < 0)
		return akvm__fail("KVM_CREATE_VM", errno);
	if (akvm__host->ioctl(machine->vm, KVM_SET_TSS_ADDR, (void *)AKVM_GPA_TSS_KVM) < 0)
		return akvm__fail("KVM_SET_TSS_ADDR", errno);
	/* Without KVM_CAP_XSAVE2 the image is the fixed struct kvm_xsave. */
	xsave = check(machine->vm, KVM_CAP_XSAVE2);
	machine->capabilities.xsave_bytes = xsave > (int)sizeof(struct kvm_xsave) ? (uint32_t)xsave : sizeof(struct kvm_xsave);
	return 0;
}

int akvm__vm_set_slot(struct akvm_machine *machine, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = read_only ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uint64_t)(uintptr_t)host,
	};

	if (akvm__host->ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return akvm__fail("KVM_SET_USER_MEMORY_REGION", errno);
	return 0;
}
