/*
 * The least a program needs to run code in KVM guest ring 3 and come back: one VM, one vCPU, 256 HLT stubs, two ways back to
 * ring 3. The floors are measured with this and nothing of our library, so nothing in src/ may be included here.
 *
 * A benchmark program is one .c file; what several share lives in headers.
 */
#ifndef BENCH_RAW_GUEST_H
#define BENCH_RAW_GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "report.h"

/* Guest-physical layout; the kernel half maps the first RAW_KERNEL_PAGES pages at RAW_KERNEL. */
#define RAW_KERNEL    0xffffffff80000000ull
#define RAW_IDT       0x0000ull
#define RAW_STUBS     0x1000ull
#define RAW_ENTRY     0x2000ull /* LSTAR */
#define RAW_IRET      0x2010ull
#define RAW_SYSRET    0x2020ull
#define RAW_TABLES    0x3000ull /* GDT, and the TSS at +0x200 */
#define RAW_STACK_TOP 0x5000ull
#define RAW_ROOT      0x8000ull /* page tables from here */
#define RAW_CODE_PAGE 0x10000ull
#define RAW_DATA_PAGE 0x11000ull
#define RAW_BYTES     0x200000ull
#define RAW_TSS_KVM   0xfffbd000ull
/* Guest-virtual addresses of the two pages ring 3 has. */
#define RAW_CODE 0x400000ull
#define RAW_DATA 0x500000ull

#define RAW_KERNEL_CS 0x10
#define RAW_KERNEL_SS 0x18
#define RAW_USER_SS   0x2b
#define RAW_USER_CS   0x33
#define RAW_TSS       0x40
#define RAW_FLAGS     0x202ull /* IF and the bit that is always set */
#define RAW_FETCH     0x15ull  /* #PF error code of a user-mode fetch from a present page */

enum { RAW_KERNEL_PAGES = 8, RAW_CPUID_MAX = 256, RAW_VECTOR_PF = 14 };

struct raw_guest {
	int device, vm, vcpu;
	struct kvm_run *run;
	uint8_t *memory;
	uint64_t next_table;
};

/* What the hardware pushes for an exception with an error code. */
struct raw_frame {
	uint64_t error_code, rip, cs, rflags, rsp, ss;
};

static inline int raw_ioctl(int fd, unsigned long request, void *argument, const char *what)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		fail(what);
	return result;
}

static inline void raw_map(struct raw_guest *guest, uint64_t address, uint64_t physical, uint64_t bits)
{
	uint64_t *entry, table = RAW_ROOT;

	for (int shift = 39; shift > 12; shift -= 9) {
		entry = (uint64_t *)(guest->memory + table) + (address >> shift & 511);
		if (!*entry) {
			*entry = guest->next_table | 7;
			guest->next_table += 0x1000;
		}
		table = *entry & ~0xfffull;
	}
	((uint64_t *)(guest->memory + table))[address >> 12 & 511] = physical | bits | 1;
}

/* IDT, stubs, GDT, TSS and page tables. A/D bits are set where ring 0 needs no write to happen. */
static inline void raw_image(struct raw_guest *guest)
{
	const uint8_t iretq[] = { 0x48, 0xcf }, sysretq[] = { 0x48, 0x0f, 0x07 };
	uint64_t *gdt = (uint64_t *)(guest->memory + RAW_TABLES), tss = RAW_KERNEL + RAW_TABLES + 0x200;
	uint64_t stack = RAW_KERNEL + RAW_STACK_TOP;
	uint16_t io_map = 104;

	memset(guest->memory + RAW_STUBS, 0xf4, RAW_SYSRET - RAW_STUBS);
	memcpy(guest->memory + RAW_IRET, iretq, sizeof(iretq));
	memcpy(guest->memory + RAW_SYSRET, sysretq, sizeof(sysretq));
	for (unsigned vector = 0; vector < 256; vector++) {
		uint64_t handler = RAW_KERNEL + RAW_STUBS + 16 * vector, dpl = vector == 3 ? 3 : 0;
		uint64_t *gate = (uint64_t *)(guest->memory + RAW_IDT) + 2 * vector;

		gate[0] = (handler & 0xffff) | RAW_KERNEL_CS << 16 | (0x8eull | dpl << 5) << 40 | (handler >> 16 & 0xffff) << 48;
		gate[1] = handler >> 32;
	}
	gdt[RAW_KERNEL_CS / 8] = 0x00af9b000000ffff;
	gdt[RAW_KERNEL_SS / 8] = 0x00cf93000000ffff;
	gdt[RAW_USER_SS / 8] = 0x00cff3000000ffff;
	gdt[RAW_USER_CS / 8] = 0x00affb000000ffff;
	gdt[RAW_TSS / 8] = 0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
	gdt[RAW_TSS / 8 + 1] = tss >> 32;
	memcpy(guest->memory + RAW_TABLES + 0x200 + 4, &stack, sizeof(stack));
	memcpy(guest->memory + RAW_TABLES + 0x200 + 102, &io_map, sizeof(io_map));
	guest->next_table = RAW_ROOT + 0x1000;
	for (uint64_t page = 0; page < RAW_KERNEL_PAGES; page++)
		raw_map(guest, RAW_KERNEL + page * 0x1000, page * 0x1000, 0x62);
	raw_map(guest, RAW_CODE, RAW_CODE_PAGE, 0x24);
	raw_map(guest, RAW_DATA, RAW_DATA_PAGE, 0x66);
}

static inline void raw_registers(struct raw_guest *guest)
{
	const struct kvm_segment code = {
		.limit = 0xffffffff, .selector = RAW_KERNEL_CS, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	const struct kvm_segment data = {
		.limit = 0xffffffff, .selector = RAW_KERNEL_SS, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1
	};
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[3];
	} msrs = { .header.nmsrs = 3 };
	struct kvm_sregs sregs;

	raw_ioctl(guest->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cr0 = 0x80050033;
	sregs.cr3 = RAW_ROOT;
	sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10; /* PAE, OSFXSR, OSXMMEXCPT */
	sregs.efer = 0xd01;                    /* SCE, LME, LMA, NXE */
	sregs.cs = code;
	sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = data;
	sregs.gdt.base = RAW_KERNEL + RAW_TABLES;
	sregs.gdt.limit = RAW_TSS + 15;
	sregs.idt.base = RAW_KERNEL + RAW_IDT;
	sregs.idt.limit = 0xfff;
	sregs.tr = (struct kvm_segment){
		.base = RAW_KERNEL + RAW_TABLES + 0x200, .limit = 0x67, .selector = RAW_TSS, .type = 11, .present = 1
	};
	raw_ioctl(guest->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	/* SYSRET takes CS = STAR[63:48] + 16 and SS = + 8. */
	msrs.entries[0].index = 0xc0000081;
	msrs.entries[0].data = (uint64_t)(RAW_USER_CS - 16) << 48 | (uint64_t)RAW_KERNEL_CS << 32;
	msrs.entries[1].index = 0xc0000082;
	msrs.entries[1].data = RAW_KERNEL + RAW_ENTRY;
	msrs.entries[2].index = 0xc0000084;
	msrs.entries[2].data = 0x700;
	if (raw_ioctl(guest->vcpu, KVM_SET_MSRS, &msrs, "KVM_SET_MSRS") != 3)
		fail("KVM_SET_MSRS");
}

/* A vCPU in ring 0 whose ring-3 code page holds `code`. Ends the program when KVM cannot be used. */
static inline void raw_open(struct raw_guest *guest, const void *code, size_t bytes)
{
	static struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[RAW_CPUID_MAX];
	} cpuid = { .header.nent = RAW_CPUID_MAX };
	struct kvm_userspace_memory_region slot = { .memory_size = RAW_BYTES };

	guest->device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (guest->device < 0)
		fail("open /dev/kvm");
	guest->vm = raw_ioctl(guest->device, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	if (~raw_ioctl(guest->vm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS") &
	    KVM_SYNC_X86_VALID_FIELDS)
		fail("KVM_CAP_SYNC_REGS");
	raw_ioctl(guest->vm, KVM_SET_TSS_ADDR, (void *)RAW_TSS_KVM, "KVM_SET_TSS_ADDR");
	guest->memory = mmap(NULL, RAW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (guest->memory == MAP_FAILED)
		fail("mmap");
	slot.userspace_addr = (uintptr_t)guest->memory;
	raw_ioctl(guest->vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
	guest->vcpu = raw_ioctl(guest->vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	guest->run = mmap(NULL, (size_t)raw_ioctl(guest->device, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE"),
			  PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu, 0);
	if (guest->run == MAP_FAILED)
		fail("mmap kvm_run");
	raw_ioctl(guest->device, KVM_GET_SUPPORTED_CPUID, &cpuid, "KVM_GET_SUPPORTED_CPUID");
	raw_ioctl(guest->vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
	raw_image(guest);
	memcpy(guest->memory + RAW_CODE_PAGE, code, bytes);
	raw_registers(guest);
	guest->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
}

/* Load registers for a return to ring 3 with everything restored. */
static inline void raw_enter_iret(struct raw_guest *guest, const struct kvm_regs *user)
{
	uint64_t frame[5] = { user->rip, RAW_USER_CS, user->rflags, user->rsp, RAW_USER_SS };
	struct kvm_regs *entry = &guest->run->s.regs.regs;

	memcpy(guest->memory + RAW_STACK_TOP - sizeof(frame), frame, sizeof(frame));
	*entry = *user;
	entry->rip = RAW_KERNEL + RAW_IRET;
	entry->rsp = RAW_KERNEL + RAW_STACK_TOP - sizeof(frame);
	entry->rflags = 2;
	guest->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

/* Load registers for a return to ring 3 by SYSRET: RCX and R11 carry RIP and RFLAGS. */
static inline void raw_enter_sysret(struct raw_guest *guest, const struct kvm_regs *user)
{
	struct kvm_regs *entry = &guest->run->s.regs.regs;

	*entry = *user;
	entry->rip = RAW_KERNEL + RAW_SYSRET;
	entry->rcx = user->rip;
	entry->r11 = user->rflags;
	entry->rflags = 2;
	guest->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

/* True when KVM_RUN returned with a system call; `user` is ring 3 as it was. Where ring 0 is emulated a system call arrives
 * as the page fault of a user-mode fetch from LSTAR. */
static inline bool raw_system_call(const struct raw_guest *guest, struct kvm_regs *user)
{
	const struct raw_frame *frame = (const struct raw_frame *)(guest->memory + RAW_STACK_TOP) - 1;

	*user = guest->run->s.regs.regs;
	if (guest->run->exit_reason != KVM_EXIT_HLT)
		return false;
	if (user->rip == RAW_KERNEL + RAW_STUBS + 16 * RAW_VECTOR_PF + 1) {
		if (frame->rip != RAW_KERNEL + RAW_ENTRY || frame->error_code != RAW_FETCH)
			return false;
		user->rsp = frame->rsp;
	} else if (user->rip != RAW_KERNEL + RAW_ENTRY + 1) {
		return false;
	}
	user->rip = user->rcx;
	user->rflags = user->r11;
	return true;
}

#endif
