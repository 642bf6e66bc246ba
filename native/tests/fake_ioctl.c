/*
 * The fake's /dev/kvm, VM and vCPU descriptors and their ioctls (Documentation/virt/kvm/api.rst of the kernel).
 */
#include "fake_ioctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_kvm.h"
#include "t.h"

enum { FIRST = 100000, OBJECTS = 256, RUN_BYTES = 12288, IOCTL_SECONDS = 30 };
enum { CR4_PCIDE = 1 << 17, MSR_STAR = 0xc0000081, MSR_LSTAR = 0xc0000082, MSR_FMASK = 0xc0000084 };

enum kind { UNUSED, DEVICE, VM, VCPU };
static struct object {
	enum kind kind;
	struct fake_vm *vm;
	struct fake_cpu *cpu;
} objects[OBJECTS];
static pthread_mutex_t objects_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fake_vm *last_vm;
static _Atomic uint64_t ioctls, runs;

uint64_t fake_vcpu_ioctls(void)
{
	return atomic_load(&ioctls);
}

uint64_t fake_runs(void)
{
	return atomic_load(&runs);
}

/* ---------------------------------------------------------------- descriptors */

static int take_object(enum kind kind, struct fake_vm *vm, struct fake_cpu *cpu)
{
	int found = -1;

	pthread_mutex_lock(&objects_lock);
	for (int i = 0; i < OBJECTS && found < 0; i++)
		if (objects[i].kind == UNUSED)
			found = i;
	T_CHECK(found >= 0);
	objects[found] = (struct object){ kind, vm, cpu };
	pthread_mutex_unlock(&objects_lock);
	return FIRST + found;
}

static struct object object_of(int fd)
{
	struct object object = { .kind = UNUSED };

	pthread_mutex_lock(&objects_lock);
	if (fd >= FIRST && fd < FIRST + OBJECTS)
		object = objects[fd - FIRST];
	pthread_mutex_unlock(&objects_lock);
	return object;
}

bool fake_descriptor(int fd)
{
	return fd >= FIRST && fd < FIRST + OBJECTS;
}

int fake_device_open(void)
{
	return take_object(DEVICE, NULL, NULL);
}

struct fake_cpu *fake_vcpu_of(int fd)
{
	return object_of(fd).cpu;
}

struct fake_cpu *fake_vcpu(uint32_t index)
{
	struct fake_cpu *cpu;

	pthread_mutex_lock(&objects_lock);
	cpu = last_vm && index < FAKE_VCPUS ? last_vm->vcpus[index] : NULL;
	pthread_mutex_unlock(&objects_lock);
	return cpu;
}

void fake_each_vcpu_kick(pid_t tid)
{
	pthread_mutex_lock(&objects_lock);
	for (int i = 0; i < OBJECTS; i++)
		if (objects[i].kind == VCPU && objects[i].cpu->inside && objects[i].cpu->tid == tid)
			atomic_store(&objects[i].cpu->kicked, true);
	pthread_mutex_unlock(&objects_lock);
}

static int new_vm(void)
{
	struct fake_vm *vm = calloc(1, sizeof(*vm));

	T_CHECK(vm != NULL);
	pthread_rwlock_init(&vm->slots_lock, NULL);
	pthread_mutex_init(&vm->shadow_lock, NULL);
	pthread_mutex_lock(&objects_lock);
	last_vm = vm;
	pthread_mutex_unlock(&objects_lock);
	return take_object(VM, vm, NULL);
}

static int new_vcpu(struct fake_vm *vm, unsigned long index)
{
	struct fake_cpu *cpu;

	if (index >= FAKE_VCPUS || vm->vcpus[index]) {
		errno = index >= FAKE_VCPUS ? EINVAL : EEXIST;
		return -1;
	}
	cpu = calloc(1, sizeof(*cpu));
	T_CHECK(cpu != NULL);
	cpu->vm = vm;
	cpu->index = (uint32_t)index;
	pthread_mutex_init(&cpu->ioctls, NULL);
	pthread_mutex_lock(&objects_lock);
	vm->vcpus[index] = cpu;
	pthread_mutex_unlock(&objects_lock);
	return take_object(VCPU, vm, cpu);
}

int fake_descriptor_close(int fd)
{
	struct object object = object_of(fd);

	T_CHECK(object.kind != UNUSED);
	pthread_mutex_lock(&objects_lock);
	objects[fd - FIRST].kind = UNUSED;
	objects[fd - FIRST].cpu = NULL;
	if (object.kind == VCPU)
		object.vm->vcpus[object.cpu->index] = NULL;
	if (object.kind == VM && last_vm == object.vm)
		last_vm = NULL;
	pthread_mutex_unlock(&objects_lock);
	if (object.kind == VCPU) {
		pthread_mutex_destroy(&object.cpu->ioctls);
		free(object.cpu);
	} else if (object.kind == VM) {
		for (unsigned i = 0; i < FAKE_VCPUS; i++)
			T_CHECK(object.vm->vcpus[i] == NULL);
		pthread_rwlock_destroy(&object.vm->slots_lock);
		pthread_mutex_destroy(&object.vm->shadow_lock);
		free(object.vm->shadow);
		free(object.vm);
	}
	return 0;
}

void fake_ioctl_forget(void)
{
	atomic_store(&ioctls, 0);
	atomic_store(&runs, 0);
}

/* ---------------------------------------------------------------- ioctls */

/* 0 or an errno, as everywhere below. */
static int supported_cpuid(struct kvm_cpuid2 *cpuid)
{
	const struct kvm_cpuid_entry2 entries[] = {
		/* XSAVE, PCID. */
		{ .function = 1, .ecx = 1u << 26 | (fake_kind()->pcid ? 1u << 17 : 0) },
		/* FSGSBASE, SMEP, SMAP; UMIP. */
		{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 1u | 1u << 7 | 1u << 20, .ecx = 1u << 2 },
		{ .function = 0xd, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 0x2e7 },
		{ .function = 0x80000008, .eax = 0x302e },
	};
	const uint32_t count = sizeof(entries) / sizeof(entries[0]);

	if (cpuid->nent < count)
		return E2BIG;
	memcpy(cpuid->entries, entries, sizeof(entries));
	cpuid->nent = count;
	return 0;
}

static int capability(long which)
{
	switch (which) {
	case KVM_CAP_USER_MEMORY:
	case KVM_CAP_READONLY_MEM:
	case KVM_CAP_IMMEDIATE_EXIT:
	case KVM_CAP_XSAVE:
	case KVM_CAP_XCRS:
	case KVM_CAP_EXT_CPUID:
		return 1;
	case KVM_CAP_SYNC_REGS:
		return KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS; /* events by ioctl, so that those can fail */
	case KVM_CAP_MAX_VCPUS:
		return FAKE_VCPUS;
	case KVM_CAP_NR_MEMSLOTS:
		return FAKE_SLOTS;
	case KVM_CAP_XSAVE2:
		return fake_kind()->xsave_bytes > 4096 ? (int)fake_kind()->xsave_bytes : 4096;
	}
	return 0;
}

static int set_sregs(struct fake_cpu *cpu, const struct kvm_sregs *sregs)
{
	if (sregs->cr3 >> 52 || (sregs->cr4 & CR4_PCIDE && !fake_kind()->pcid) ||
	    (!(sregs->cr4 & CR4_PCIDE) && sregs->cr3 & 0xfff))
		return EINVAL;
	/* KVM flushes everything when CR3 or CR4 changes this way. */
	if (sregs->cr3 != cpu->sregs.cr3 || sregs->cr4 != cpu->sregs.cr4)
		fake_cpu_flush(cpu, -1);
	cpu->sregs = *sregs;
	return 0;
}

static int set_msrs(struct fake_cpu *cpu, const struct kvm_msrs *msrs)
{
	for (uint32_t i = 0; i < msrs->nmsrs; i++) {
		if (msrs->entries[i].index == MSR_STAR)
			cpu->star = msrs->entries[i].data;
		else if (msrs->entries[i].index == MSR_LSTAR)
			cpu->lstar = msrs->entries[i].data;
		else if (msrs->entries[i].index == MSR_FMASK)
			cpu->fmask = msrs->entries[i].data;
	}
	return (int)msrs->nmsrs;
}

/* KVM_RUN: take over what is dirty, finish what is unfinished, run, hand out the registers. */
static int run_vcpu(struct fake_cpu *cpu)
{
	struct kvm_run *run = cpu->run;
	int error = 0;

	fake_enter(cpu);
	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS) {
		memcpy(&cpu->regs, &run->s.regs.regs, sizeof(cpu->regs));
		cpu->events.exception.pending = 0;
	}
	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS)
		error = set_sregs(cpu, &run->s.regs.sregs);
	run->kvm_dirty_regs = 0;
	if (!error && cpu->completion) {
		cpu->completion = false;
		cpu->regs.rax = 0x4141414141414141;
		cpu->regs.rip += 3;
	}
	if (!error && __atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
		error = EINTR;
	run->exit_reason = error == EINTR ? KVM_EXIT_INTR : KVM_EXIT_UNKNOWN;
	if (!error)
		error = fake_cpu_run(cpu);
	if (error == EINTR)
		run->exit_reason = KVM_EXIT_INTR;
	memcpy(&run->s.regs.regs, &cpu->regs, sizeof(cpu->regs));
	run->s.regs.sregs = cpu->sregs;
	fake_leave(cpu);
	return error;
}

static int device_ioctl(unsigned long request, void *argument, int *result)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		*result = KVM_API_VERSION;
		return 0;
	case KVM_CHECK_EXTENSION:
		*result = capability((long)argument);
		return 0;
	case KVM_GET_VCPU_MMAP_SIZE:
		*result = RUN_BYTES;
		return 0;
	case KVM_CREATE_VM:
		*result = new_vm();
		return 0;
	case KVM_GET_SUPPORTED_CPUID:
		return supported_cpuid(argument);
	}
	return ENOTTY;
}

static int vm_ioctl(struct fake_vm *vm, unsigned long request, void *argument, int *result)
{
	switch (request) {
	case KVM_CHECK_EXTENSION:
		*result = capability((long)argument);
		return 0;
	case KVM_SET_TSS_ADDR:
		return 0;
	case KVM_SET_USER_MEMORY_REGION:
		return fake_vm_set_slot(vm, argument);
	case KVM_CREATE_VCPU:
		*result = new_vcpu(vm, (unsigned long)argument);
		return *result < 0 ? errno : 0;
	}
	return ENOTTY;
}

/* Like KVM_SET_REGS itself: a pending exception is forgotten, an injected one is not. */
static int set_regs(struct fake_cpu *cpu, const void *registers)
{
	memcpy(&cpu->regs, registers, sizeof(cpu->regs));
	cpu->events.exception.pending = 0;
	return 0;
}

static int vcpu_state_ioctl(struct fake_cpu *cpu, unsigned long request, void *argument, int *result)
{
	uint32_t xsave = (uint32_t)capability(KVM_CAP_XSAVE2);

	switch (request) {
	case KVM_GET_SREGS:
		*(struct kvm_sregs *)argument = cpu->sregs;
		return 0;
	case KVM_SET_SREGS:
		return set_sregs(cpu, argument);
	case KVM_SET_REGS:
		return set_regs(cpu, argument);
	case KVM_GET_VCPU_EVENTS:
		*(struct kvm_vcpu_events *)argument = cpu->events;
		return 0;
	case KVM_SET_VCPU_EVENTS:
		cpu->events = *(struct kvm_vcpu_events *)argument;
		return 0;
	case KVM_SET_MSRS:
		*result = set_msrs(cpu, argument);
		return 0;
	case KVM_SET_MP_STATE:
		cpu->shut_down = false;
		return 0;
	case KVM_GET_XSAVE:
		T_EQUAL(xsave, 4096);
		memcpy(argument, cpu->xsave, xsave);
		return 0;
	case KVM_GET_XSAVE2:
		memcpy(argument, cpu->xsave, xsave);
		return 0;
	case KVM_SET_XSAVE:
		memcpy(cpu->xsave, argument, xsave);
		return 0;
	case KVM_SET_CPUID2:
	case KVM_SET_XCRS:
		return 0;
	case KVM_SET_DEVICE_ATTR:
		return fake_kind()->no_tsc_offset ? ENXIO : 0;
	}
	return ENOTTY;
}

/* One ioctl at a time: whoever comes second waits, for ever if the first is a guest that nobody kicks. */
static void lock_vcpu(struct fake_cpu *cpu)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += IOCTL_SECONDS;
	T_EQUAL(pthread_mutex_timedlock(&cpu->ioctls, &deadline), 0);
}

int fake_ioctl(int fd, unsigned long request, void *argument)
{
	struct object object = object_of(fd);
	int error = fake_planned_ioctl_error(request), result = 0;

	T_CHECK(object.kind != UNUSED);
	if (!error && object.kind == DEVICE)
		error = device_ioctl(request, argument, &result);
	else if (!error && object.kind == VM)
		error = vm_ioctl(object.vm, request, argument, &result);
	else if (!error && object.kind == VCPU) {
		lock_vcpu(object.cpu);
		atomic_fetch_add(request == KVM_RUN ? &runs : &ioctls, 1);
		error = request == KVM_RUN ? run_vcpu(object.cpu) : vcpu_state_ioctl(object.cpu, request, argument, &result);
		pthread_mutex_unlock(&object.cpu->ioctls);
	}
	T_CHECK(error != ENOTTY);
	if (error) {
		errno = error;
		return -1;
	}
	return result;
}
