/*
 * Everything that ever runs in guest ring 0. One page of exception stubs, one page of named stubs; copied into each
 * machine's kernel image by src/machine/kernel_image.c. No stub touches memory a guest owns.
 *
 * An event leaves the guest by HLT, after which nothing is pending in KVM and RIP is past the HLT on every host (unlike OUT).
 * The host reads the hardware's own exception frame from the vCPU's stack, so stubs save nothing.
 */
#include "akvm/layout.h"

	.code64
	.section .rodata.akvm_guest, "a", @progbits
	.balign 4096
	.globl akvm__guest_text
	.hidden akvm__guest_text
akvm__guest_text:
	.rept 256
	.balign AKVM_STUB_BYTES, 0xf4
	hlt
	.endr

	/* LSTAR: on hardware reached in ring 0 with the user's RSP, return address in RCX, flags in R11. */
	.org AKVM_STUB_SYSCALL, 0xf4
	hlt

	/* RSP points to RIP, CS, RFLAGS, RSP, SS. */
	.org AKVM_STUB_IRET, 0xf4
	iretq

	/* RCX: user RIP (checked canonical by the host: CVE-2012-0217), R11: user RFLAGS, RSP: the user's. */
	.org AKVM_STUB_SYSRET, 0xf4
	sysretq

	/* RAX: the new CR3, whose kernel half maps this very page. RSP points to the user's RAX, then an IRET frame. */
	.org AKVM_STUB_SPACE, 0xf4
	movq %rax, %cr3
	popq %rax
	iretq

	/* RSI: payload, RBX: its runs (> 0) of [destination][count][count words], RDX: CR3 to reload. DF is clear. */
	.org AKVM_STUB_EDIT, 0xf4
1:	lodsq
	movq %rax, %rdi
	lodsq
	movq %rax, %rcx
	rep movsq
	decq %rbx
	jnz 1b
	movq %rdx, %cr3
	hlt

	/* RAX: CR3 to reload. */
	.org AKVM_STUB_FLUSH, 0xf4
	movq %rax, %cr3
	hlt

	.org AKVM_STUB_READ_MSR, 0xf4
	rdmsr
	hlt

	.org AKVM_STUB_WRITE_MSR, 0xf4
	wrmsr
	hlt

	.org AKVM_STUB_NOTHING, 0xf4
	hlt

	.org AKVM_TEXT_BYTES, 0xf4

/*
 * Ring-3 code of the start-up probe: position independent, entered at one of these offsets.
 */
	.balign 64
	.globl akvm__probe_code
	.hidden akvm__probe_code
akvm__probe_code:
	/* 0: SYSCALL, then INT3 when it returns. */
	syscall
	int3
	.balign 16, 0xcc
	/* 16: INT 0x80. */
	int $0x80
	int3
	.balign 16, 0xcc
	/* 32: load from RDI into RAX. */
	movq (%rdi), %rax
	int3
	.balign 16, 0xcc
	/* 48: store RSI to RDI. */
	movq %rsi, (%rdi)
	int3
	.balign 16, 0xcc
	/* 64: CPUID. */
	cpuid
	int3
	.balign 16, 0xcc
	/* 80: RBX system calls with number 0. */
1:	xorl %eax, %eax
	syscall
	decq %rbx
	jnz 1b
	int3
	.balign 16, 0xcc
	.globl akvm__probe_code_end
	.hidden akvm__probe_code_end
akvm__probe_code_end:

	.section .note.GNU-stack, "", @progbits
