/*
 * Guest code for the tests of the ptrace platform, which a fake processor would not know: a page of pieces, mapped at PTRACE_CODE.
 * A label that ends in _at is the instruction that raises what the piece is about.
 */
	.macro PIECE name
	.balign 16
	.globl guest_\name
guest_\name:
	.endm
	.macro AT name
	.globl guest_\name\()_at
guest_\name\()_at:
	.endm

	.code64
	.section .rodata.ptrace_guest, "a", @progbits
	.balign 4096
	.globl guest_code
guest_code:
PIECE syscall
	syscall
	jmp guest_syscall
PIECE int80
	int $0x80
	jmp guest_int80
PIECE load
	movq (%rdi), %rax
	int3
PIECE store
	movq %rsi, (%rdi)
	int3
PIECE spin
	jmp guest_spin

	/* Exceptions. RSP is the top of a page of data. */
PIECE divide
	xorl %ecx, %ecx
AT divide
	divl %ecx
PIECE step
	nop
AT step
	nop
	nop
PIECE step_syscall
	syscall
	int3
PIECE icebp
	.byte 0xf1
AT icebp
	nop
PIECE breakpoint
	int3
AT breakpoint
	nop
PIECE int3
	int $3
	/* The assembler makes one byte of it. */
AT int3
	nop
PIECE int3_long
	.byte 0xcd, 3
AT int3_long
	nop
PIECE overflow
	.byte 0xcd, 4
AT overflow
	nop
PIECE undefined
AT undefined
	ud2
PIECE stack
	movabsq $0x800000000000, %rbp
AT stack
	movq (%rbp), %rax
PIECE far
	movabsq $0x800000000000, %rbx
AT far
	movq (%rbx), %rax
PIECE halt
AT halt
	hlt
PIECE gate
AT gate
	int $0x21
PIECE debug_gate
AT debug_gate
	int $1
PIECE selector
	movl $0xfffb, %eax
AT selector
	movw %ax, %ds
PIECE local_selector
	movl $0x0f, %eax
AT local_selector
	movw %ax, %es
PIECE compatibility
	pushq $0x23
	leaq 1f(%rip), %rax
	pushq %rax
	lretq
1:	ud2
PIECE x87
	fninit
	movw $0x37b, -8(%rsp)
	fldcw -8(%rsp)
	fld1
	fldz
	fdivrp
AT x87
	fwait
PIECE alignment
	pushfq
	orl $0x40000, (%rsp)
	popfq
AT alignment
	movq -15(%rsp), %rax
PIECE simd
	movl $0x1d80, -8(%rsp)
	ldmxcsr -8(%rsp)
	movl $0x3f800000, %eax
	movd %eax, %xmm0
	xorps %xmm1, %xmm1
AT simd
	divss %xmm1, %xmm0
PIECE vsyscall
	movq $0xffffffffff600000, %rax
	callq *%rax
PIECE jump
	jmpq *%rdi
PIECE locked
AT locked
	lock incq (%rdi)

	/* XMM0 += XMM1, and the upper half of YMM2 where there is one (RDX is 1); for ever. */
PIECE vectors
	paddq %xmm1, %xmm0
	testl %edx, %edx
	jz 1f
	vextracti128 $1, %ymm2, %xmm3
	paddq %xmm1, %xmm3
	vinserti128 $1, %xmm3, %ymm2, %ymm2
1:	syscall
	jmp guest_vectors

	/* RAX, RAX + 1, ... to *RDI, for ever. */
PIECE writer
	movq %rax, (%rdi)
	incq %rax
	jmp guest_writer
	/* What is in *RDI to *RSI, and how often so far behind it; for ever. */
PIECE reader
	movq (%rdi), %rax
	movq %rax, (%rsi)
	incq %rcx
	movq %rcx, 8(%rsi)
	jmp guest_reader

	/*
	 * System calls that somebody would see, for ever: a byte to each of the descriptors 0..15, the file that *RDI names, the
	 * signal RDX to process RSI.
	 */
PIECE effects
	movq %rdi, %r12
	movq %rsi, %r13
	movq %rdx, %r14
1:	xorl %ebx, %ebx
2:	movl %ebx, %edi
	movq %r12, %rsi
	movl $1, %edx
	movl $1, %eax
	syscall
	incl %ebx
	cmpl $16, %ebx
	jb 2b
	movq %r12, %rdi
	movl $0600, %esi
	movl $85, %eax
	syscall
	movq %r13, %rdi
	movq %r14, %rsi
	movl $62, %eax
	syscall
	jmp 1b
	.globl guest_end
guest_end:
	.org 4096, 0xcc

	.section .note.GNU-stack, "", @progbits
