/*
 * /dev/kvm and the VM: what must be there before anything can run.
 */
#include <errno.h>
#include <fcntl.h>

#include "host/host.h"
#include "kvm/kvm.h"

_Static_assert(sizeof(struct kvm_cpuid2) == 8, "flexible array must add nothing, else ioctl numbers come out wrong");
_Static_assert(sizeof(struct kvm_msrs) == 8, "flexible array must add nothing, else ioctl numbers come out wrong");

/* A signal for the calling thread ends KVM_CREATE_VM; one every millisecond may end some in a row. */
enum { CREATE_ATTEMPTS = 1000 };

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

/* KVM's answer, or -errno: "not offered" is an answer, 0. */
static int check(int fd, int capability, const char *name)
{
	int answer = AKVM__HOST->ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)capability);

	return answer < 0 ? akvm__fail(name, errno) : answer;
}

static int require(struct akvm_machine *machine)
{
	const int registers = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;

	for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
		int answer = check(machine->device, required[i].capability, required[i].name);

		if (answer < 0)
			return answer;
		if (!answer || (required[i].capability == KVM_CAP_SYNC_REGS && (answer & registers) != registers))
			return akvm__fail(required[i].name, ENOTSUP);
		if (required[i].capability == KVM_CAP_SYNC_REGS)
			machine->sync_events = answer & KVM_SYNC_X86_EVENTS;
	}
	return 0;
}

int akvm__device_open(struct akvm_machine *machine)
{
	struct akvm_capabilities *capabilities = &machine->capabilities;
	const char *path = machine->config.device ? machine->config.device : "/dev/kvm";
	int version, count, error;

	machine->device = AKVM__HOST->open(path, O_RDWR | O_CLOEXEC);
	if (machine->device < 0)
		return akvm__fail("open the KVM device", errno);
	version = AKVM__HOST->ioctl(machine->device, KVM_GET_API_VERSION, NULL);
	if (version != KVM_API_VERSION)
		return akvm__fail("KVM_GET_API_VERSION", version < 0 ? errno : ENOTSUP);
	error = require(machine);
	if (error)
		return error;
	count = check(machine->device, KVM_CAP_MAX_VCPUS, "KVM_CAP_MAX_VCPUS");
	if (count < 0)
		return count;
	capabilities->vcpus_max = count > AKVM_VCPUS_MAX ? AKVM_VCPUS_MAX : count ? (uint32_t)count : 1;
	count = check(machine->device, KVM_CAP_NR_MEMSLOTS, "KVM_CAP_NR_MEMSLOTS");
	if (count < 0)
		return count;
	capabilities->slots_max = count ? (uint32_t)count : 32;
	/* For people, never for decisions. */
	AKVM__HOST->find_entry("/sys/module", "kvm_", capabilities->kvm_module, sizeof(capabilities->kvm_module));
	count = AKVM__HOST->ioctl(machine->device, KVM_GET_VCPU_MMAP_SIZE, NULL);
	if (count < (int)sizeof(struct kvm_run))
		return akvm__fail("KVM_GET_VCPU_MMAP_SIZE", count < 0 ? errno : ENOTSUP);
	machine->run_bytes = (size_t)count;
	return 0;
}

int akvm__vm_create(struct akvm_machine *machine)
{
	unsigned attempts = 0;
	int xsave;

	do
		machine->vm = AKVM__HOST->ioctl(machine->device, KVM_CREATE_VM, NULL);
	while (machine->vm < 0 && errno == EINTR && ++attempts < CREATE_ATTEMPTS);
	if (machine->vm < 0)
		return akvm__fail("KVM_CREATE_VM", errno);
	if (AKVM__HOST->ioctl(machine->vm, KVM_SET_TSS_ADDR, (void *)AKVM_GPA_TSS_KVM) < 0)
		return akvm__fail("KVM_SET_TSS_ADDR", errno);
	/* Without KVM_CAP_XSAVE2 the image is the fixed struct kvm_xsave. */
	xsave = check(machine->vm, KVM_CAP_XSAVE2, "KVM_CAP_XSAVE2");
	if (xsave < 0)
		return xsave;
	machine->capabilities.xsave_bytes = xsave > (int)sizeof(struct kvm_xsave) ? (uint32_t)xsave : sizeof(struct kvm_xsave);
	return 0;
}

int akvm__vm_set_slot(void *opaque, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes)
{
	const struct akvm_machine *machine = opaque;
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = read_only ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uint64_t)(uintptr_t)host,
	};

	if (AKVM__HOST->ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return akvm__fail("KVM_SET_USER_MEMORY_REGION", errno);
	return 0;
}
