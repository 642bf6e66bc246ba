/*
 * A vCPU of KVM's and its state at rest: ring 0, kernel root, interrupts masked, nothing pending.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "host/host.h"
#include "kvm/kvm.h"
#include "kvm/segments.h"

enum {
	MSR_STAR = 0xc0000081,
	MSR_LSTAR = 0xc0000082,
	MSR_CSTAR = 0xc0000083,
	MSR_FMASK = 0xc0000084,
	MSR_KERNEL_GS_BASE = 0xc0000102,
	MSR_SYSENTER_CS = 0x174,
	MSR_PAT = 0x277,
	MSR_TSC = 0x10,
};

/* SYSCALL clears TF, IF, DF, IOPL, NT and AC, as Linux has it. */
enum { FMASK = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18 };

/* Parts of one instruction's input or output: some for an access that crosses pages, one for each element of a string. */
enum { INPUT_PARTS_MAX = 4096 };

enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };
/* PE, MP, ET, NE, WP, AM, PG. */
enum { CR0 = 0x80050033u };

static int set_msrs(struct akvm__vcpu *vcpu)
{
	uint64_t entry = AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + AKVM_STUB_SYSCALL;
	const uint64_t values[][2] = {
		/* SYSRET to 64-bit code takes CS from the field + 16 and SS from + 8 (SDM vol. 2B). */
		{ MSR_STAR, (uint64_t)AKVM_USER32_CS << 48 | (uint64_t)AKVM_KERNEL_CS << 32 },
		{ MSR_LSTAR, entry },
		{ MSR_CSTAR, entry },
		{ MSR_FMASK, FMASK },
		{ MSR_KERNEL_GS_BASE, 0 },
		{ MSR_SYSENTER_CS, 0 },          /* SYSENTER is #GP */
		{ MSR_PAT, 0x0007040600070406 }, /* the reset value: all of a guest's memory is write-back */
	};
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[sizeof(values) / sizeof(values[0])];
	} msrs = { .header.nmsrs = sizeof(values) / sizeof(values[0]) };
	int result;

	_Static_assert(AKVM_USER32_CS + 8 == AKVM_USER_SS && AKVM_USER32_CS + 16 == AKVM_USER_CS, "SYSRET's layout");
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		msrs.entries[i] = (struct kvm_msr_entry){ .index = (uint32_t)values[i][0], .data = values[i][1] };
	result = AKVM__HOST->ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);
	if (result != (int)msrs.header.nmsrs)
		return akvm__fail("KVM_SET_MSRS", result < 0 ? errno : EIO);
	return 0;
}

/* After a read from where no memory is, or an IN, the next KVM_RUN finishes that instruction: into the registers of whatever
 * context it is for, and at the old RIP. So it is finished here, for nobody: in as many parts as KVM cut it into, until nothing
 * is left but the interruption asked for. */
static int finish_input(struct akvm__vcpu *vcpu)
{
	int result = 0, error = 0;

	if (vcpu->run->exit_reason != KVM_EXIT_MMIO && vcpu->run->exit_reason != KVM_EXIT_IO)
		return 0;
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	for (unsigned part = 0; result == 0 && part < INPUT_PARTS_MAX; part++) {
		result = AKVM__HOST->ioctl(vcpu->fd, KVM_RUN, NULL);
		error = result < 0 ? errno : EIO;
	}
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return error == EINTR ? 0 : akvm__fail("KVM_RUN to finish an input", error);
}

int akvm__kvm_reset(struct akvm__vcpu *vcpu)
{
	struct akvm_machine *machine = vcpu->machine;
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = machine->capabilities.xcr0 };
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_vcpu_events events = { .flags = KVM_VCPUEVENT_VALID_SHADOW };
	struct kvm_regs registers = { .rflags = 2 };
	struct kvm_sregs sregs;
	int error;

	error = finish_input(vcpu);
	if (error)
		return error;
	if (AKVM__HOST->ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return akvm__fail("KVM_GET_SREGS", errno);
	sregs.cr0 = CR0;
	sregs.cr2 = 0;
	sregs.cr3 = akvm__mm_kernel_root(machine->mm);
	sregs.cr4 = machine->cr4;
	sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	sregs.cs = akvm__kernel_code;
	sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = akvm__kernel_data;
	sregs.gdt = (struct kvm_dtable){ .base = vcpu->area_address + AKVM_VCPU_GDT, .limit = AKVM_GDT_BYTES - 1 };
	sregs.idt = (struct kvm_dtable){ .base = AKVM_KERNEL_BASE + AKVM_IDT_OFFSET, .limit = 256 * 16 - 1 };
	sregs.tr = akvm__task_state(vcpu->area_address + AKVM_VCPU_TSS);
	sregs.ldt = (struct kvm_segment){ .unusable = 1 };
	if (AKVM__HOST->ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return akvm__fail("KVM_SET_SREGS", errno);
	if (AKVM__HOST->ioctl(vcpu->fd, KVM_SET_REGS, &registers) < 0)
		return akvm__fail("KVM_SET_REGS", errno);
	if (AKVM__HOST->ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) < 0)
		return akvm__fail("KVM_SET_VCPU_EVENTS", errno);
	/* A triple fault leaves some hosts waiting for INIT; without an in-kernel APIC the ioctl may not exist. */
	AKVM__HOST->ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable);
	if (machine->capabilities.xcr0 && AKVM__HOST->ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs) < 0)
		return akvm__fail("KVM_SET_XCRS", errno);
	vcpu->run->s.regs.sregs = sregs;
	vcpu->run->s.regs.regs = registers;
	vcpu->run->kvm_dirty_regs = 0;
	vcpu->run->request_interrupt_window = 0;
	vcpu->cr3_space_id = 0;
	akvm__pcids_drop(&vcpu->pcids);
	error = set_msrs(vcpu);
	vcpu->must_reset = error != 0;
	return error;
}

/* Guest TSC == host TSC. Kernels before 5.16 have no offset attribute; there the TSC is written, which is nearly exact. */
static int set_tsc(struct akvm__vcpu *vcpu)
{
	uint64_t offset = 0;
	struct kvm_device_attr attribute = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)(uintptr_t)&offset,
	};
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = { .header.nmsrs = 1, .entry.index = MSR_TSC };
	int result;

	if (AKVM__HOST->ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute) == 0) {
		vcpu->machine->capabilities.tsc_offset_exact = 1;
		return 0;
	}
	msrs.entry.data = __builtin_ia32_rdtsc();
	result = AKVM__HOST->ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);
	if (result != 1)
		return akvm__fail("KVM_SET_MSRS TSC", result < 0 ? errno : EIO);
	return 0;
}

int akvm__kvm_vcpu_open(struct akvm__vcpu *vcpu)
{
	struct akvm_machine *machine = vcpu->machine;
	void *run;
	int error;

	vcpu->fd = -1;
	vcpu->area = machine->kernel + AKVM_VCPU_OFFSET + (size_t)vcpu->index * AKVM_VCPU_BYTES;
	vcpu->area_address = AKVM_KERNEL_BASE + AKVM_VCPU_OFFSET + (uint64_t)vcpu->index * AKVM_VCPU_BYTES;

	vcpu->fd = AKVM__HOST->ioctl(machine->vm, KVM_CREATE_VCPU, (void *)(long)vcpu->index);
	if (vcpu->fd < 0)
		return akvm__fail("KVM_CREATE_VCPU", errno);
	run = AKVM__HOST->mmap(NULL, machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return akvm__fail("mmap kvm_run", errno);
	vcpu->run = run;
	vcpu->run_bytes = machine->run_bytes;
	AKVM__HOST->madvise(run, machine->run_bytes, MADV_DONTFORK);
	vcpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | (machine->sync_events ? KVM_SYNC_X86_EVENTS : 0);
	akvm__kernel_image_vcpu(machine, vcpu->index);
	/* Before the system registers: KVM refuses CR4 bits that CPUID does not offer. */
	if (AKVM__HOST->ioctl(vcpu->fd, KVM_SET_CPUID2, machine->cpuid) < 0)
		return akvm__fail("KVM_SET_CPUID2", errno);
	error = akvm__kvm_reset(vcpu);
	if (error)
		return error;
	return set_tsc(vcpu);
}

void akvm__kvm_vcpu_close(struct akvm__vcpu *vcpu)
{
	if (vcpu->run)
		AKVM__HOST->munmap(vcpu->run, vcpu->run_bytes);
	if (vcpu->fd >= 0)
		AKVM__HOST->close(vcpu->fd);
}
