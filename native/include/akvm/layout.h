/*
 * The guest's kernel half, shared by C and assembly.
 *
 * The kernel half holds nothing but what ring 0 needs to leave the guest: stubs, descriptor tables, small stacks, and a
 * supervisor-only window on the page-table arena. No host memory and no other guest's memory is mapped in it.
 * W^X: the text page is read-execute, everything else read-only or read-write and no-execute.
 */
#ifndef AKVM_LAYOUT_H
#define AKVM_LAYOUT_H

/* Virtual addresses. PML4 entry 511: kernel image; entry 510: window on the tables arena.
 * The text's address has nothing but zeroes in its lower half where a guest could map something (AKVM_USER_MIN): an emulated
 * ring 0 may cut the address of the system-call entry to 32 bits when SYSCALL comes from compatibility mode, and would then
 * run the guest's own page in ring 0. */
#define AKVM_KERNEL_BASE   0xffffffff00000000
#define AKVM_TABLES_WINDOW 0xffffff0000000000
#define AKVM_KERNEL_HALF   0xffff800000000000

/* Offsets inside the kernel image (guest-physical address == offset). */
#define AKVM_IDT_OFFSET  0x0000 /* 256 gates of 16 bytes */
#define AKVM_TEXT_OFFSET 0x1000 /* stubs and operations: two pages */
#define AKVM_TEXT_BYTES  0x2000
#define AKVM_VCPU_OFFSET 0x4000 /* per-vCPU areas from here */
#define AKVM_VCPU_BYTES  0x4000 /* one vCPU: four pages */

/* Offsets inside a per-vCPU area. */
#define AKVM_VCPU_GDT         0x0000 /* page 0, read-only to ring 0: GDT and TSS */
#define AKVM_VCPU_TSS         0x0200
#define AKVM_VCPU_STACKS      0x1000 /* page 1, read-write: four stacks of 1 KiB, each used from its top */
#define AKVM_VCPU_STACK_BYTES 0x0400
#define AKVM_VCPU_PAYLOAD     0x2000 /* pages 2 and 3, read-only to ring 0: page-table edits */
#define AKVM_PAYLOAD_BYTES    0x2000
#define AKVM_STACK_RSP0       0 /* ring 3 -> ring 0 */
#define AKVM_STACK_DF         1 /* IST1: #DF */
#define AKVM_STACK_NMI        2 /* IST2 */
#define AKVM_STACK_MC         3 /* IST3: #MC */

/* Selectors: Linux's own values for user code. */
#define AKVM_KERNEL_CS    0x10
#define AKVM_KERNEL_SS    0x18
#define AKVM_USER32_CS    0x23 /* not present: compatibility mode is not offered */
#define AKVM_USER_SS      0x2b
#define AKVM_USER_CS      0x33
#define AKVM_TSS_SELECTOR 0x40
#define AKVM_GDT_BYTES    0x50

/* Guest-physical address space. */
#define AKVM_GPA_KERNEL  0x000000000
#define AKVM_GPA_TSS_KVM 0x0fffbd000  /* KVM_SET_TSS_ADDR: three pages no slot covers */
#define AKVM_GPA_TABLES  0x100000000  /* page-table arena */
#define AKVM_GPA_FRAMES  0x400000000  /* frames arena */
#define AKVM_GPA_FILES   0x4000000000 /* host files, upwards */

/* Text page: one 16-byte slot for each vector, then the named stubs. */
#define AKVM_STUB_BYTES     16
#define AKVM_STUB_SYSCALL   0x1000 /* LSTAR and CSTAR */
#define AKVM_STUB_IRET      0x1010 /* iretq */
#define AKVM_STUB_SYSRET    0x1020 /* sysretq */
#define AKVM_STUB_SPACE     0x1030 /* mov %rax,%cr3; pop %rax; iretq */
#define AKVM_STUB_EDIT      0x1050 /* apply page-table edits, reload CR3, hlt */
#define AKVM_STUB_FLUSH     0x1080 /* mov %rax,%cr3; hlt */
#define AKVM_STUB_READ_MSR  0x1090 /* rdmsr; hlt */
#define AKVM_STUB_WRITE_MSR 0x10a0 /* wrmsr; hlt */
#define AKVM_STUB_NOTHING   0x10b0 /* hlt */
#define AKVM_STUB_END       0x10c0

#endif
