/*
 * All code of a stub process (src/ptrace): one page, read-only and executable, at the same address in each.
 *
 * Nothing here uses a stack or reads memory that a guest could write to. What is to be done comes from the page of commands, which
 * the host alone can write; what came of it goes to the host by system calls.
 *
 *   zygote   a forked host process empties itself and becomes the first mapper, of which all others are copies
 *   mapper   waits for a batch of system calls, makes them, answers
 *   task     a new task in the mapper's memory, for guest code: gives up its descriptors, waits to be traced, locks itself in
 *   handler  where the host kernel goes with a fault that it was told to explain: traps at once
 */
#include "ptrace/layout.h"

/* asm/unistd_64.h, linux/sched.h, linux/prctl.h and so on: C's own headers do not all go through the assembler. */
#define NR_MMAP           9
#define NR_MUNMAP         11
#define NR_SETRLIMIT      160
#define NR_RT_SIGACTION   13
#define NR_RT_SIGPROCMASK 14
#define NR_PWRITE64       18
#define NR_LSEEK          8
#define NR_CLONE          56
#define NR_EXIT           60
#define NR_CHDIR          80
#define NR_GETPPID        110
#define NR_SETSID         112
#define NR_SIGALTSTACK    131
#define NR_PRCTL          157
#define NR_FUTEX          202
#define NR_EXIT_GROUP     231
#define NR_SECCOMP        317
#define NR_CLOSE_RANGE    436

#define PROT_READ         1
#define PROT_WRITE        2
#define PROT_EXEC         4
#define MAP_SHARED_FIXED  0x11
#define MAP_OWN_FIXED     0x4032 /* private, fixed, anonymous, no reserve */
#define PR_SET_PDEATHSIG  1
#define PR_SET_NAME       15
#define PR_NO_NEW_PRIVS   38
#define RLIMIT_CORE       4
#define SIGKILL           9
#define FUTEX_WAIT        0
#define FUTEX_WAKE        1
#define CLONE_VM          0x100
#define CLONE_FILES       0x400
#define CLONE_VFORK       0x4000
#define CLONE_PARENT      0x8000
#define UNSHARE           2
#define SIG_SETMASK       2
#define MINUS_ETIMEDOUT   -110
#define MINUS_ENOMEM      -12

	.macro CALL number
	movl $\number, %eax
	syscall
	.endm

	/* The host program is gone, or never was: nobody will ever need this process. */
	.macro LIVE_WITH_THE_HOST
	movl $PR_SET_PDEATHSIG, %edi
	movl $SIGKILL, %esi
	CALL NR_PRCTL
	CALL NR_GETPPID
	movabsq $AKVM_STUB_PAGE_AT, %rbp
	cmpl %eax, AKVM_COMMANDS_HOST(%rbp)
	jne leave
	.endm

	.code64
	.section .rodata.akvm_stub, "a", @progbits
	.balign 4096
	.globl akvm__stub_code
	.hidden akvm__stub_code
akvm__stub_code:
	/* R13: the file of commands. R14: the file of values. R15: where its page is. */
zygote:
	xorl %edi, %edi
	movabsq $AKVM_STUB_CODE_AT, %rsi
	CALL NR_MUNMAP
	testq %rax, %rax
	jnz leave
	movabsq $AKVM_STUB_PAGE_AT, %rdi
	movl $(AKVM_STUB_TOP - AKVM_STUB_PAGE_AT + 0x1000), %esi
	CALL NR_MUNMAP
	testq %rax, %rax
	jnz leave
	movabsq $AKVM_STUB_STACK_AT, %rdi
	movl $AKVM_STUB_STACK_BYTES, %esi
	movl $(PROT_READ | PROT_WRITE), %edx
	movl $MAP_OWN_FIXED, %r10d
	movq $-1, %r8
	xorl %r9d, %r9d
	CALL NR_MMAP
	cmpq $-4095, %rax
	jae leave
	CALL NR_SETSID
	/* No folder is kept busy, and no core of a guest is left anywhere. */
	leaq root(%rip), %rdi
	CALL NR_CHDIR
	movl $RLIMIT_CORE, %edi
	leaq no_core(%rip), %rsi
	CALL NR_SETRLIMIT
	movl $PR_SET_NAME, %edi
	leaq name(%rip), %rsi
	CALL NR_PRCTL
	movl $SIG_SETMASK, %edi
	leaq every_signal(%rip), %rsi
	xorl %edx, %edx
	movl $8, %r10d
	CALL NR_RT_SIGPROCMASK
	leaq explained(%rip), %rbx
next_action:
	movzbl (%rbx), %edi
	testl %edi, %edi
	jz actions_done
	leaq action(%rip), %rsi
	xorl %edx, %edx
	movl $8, %r10d
	CALL NR_RT_SIGACTION
	incq %rbx
	jmp next_action
actions_done:
	movl $PR_NO_NEW_PRIVS, %edi
	movl $1, %esi
	xorl %edx, %edx
	xorl %r10d, %r10d
	xorl %r8d, %r8d
	CALL NR_PRCTL
	movl $1, %edi
	xorl %esi, %esi
	leaq mapper_program(%rip), %rdx
	CALL NR_SECCOMP
	testq %rax, %rax
	jnz leave

mapper:
	movabsq $AKVM_STUB_PAGE_AT, %rdi
	movl $AKVM_STUB_PAGE_BYTES, %esi
	movl $PROT_READ, %edx
	movl $MAP_SHARED_FIXED, %r10d
	movq %r13, %r8
	movq %r15, %r9
	CALL NR_MMAP
	cmpq $-4095, %rax
	jae leave
	LIVE_WITH_THE_HOST
	xorl %r12d, %r12d /* the turn that was done last */
wait:
	movl AKVM_COMMANDS_TURN(%rbp), %eax
	cmpl %r12d, %eax
	jne batch
	leaq AKVM_COMMANDS_TURN(%rbp), %rdi
	movl $FUTEX_WAIT, %esi
	movl %r12d, %edx
	xorl %r10d, %r10d
	CALL NR_FUTEX
	jmp wait
batch:
	movl %eax, %r12d
	movl AKVM_COMMANDS_COUNT(%rbp), %ebx
	leaq AKVM_COMMANDS_CALLS(%rbp), %rsp
next_call:
	testl %ebx, %ebx
	jz done
	movq 0(%rsp), %rax
	movq 8(%rsp), %rdi
	movq 16(%rsp), %rsi
	movq 24(%rsp), %rdx
	movq 32(%rsp), %r10
	movq 40(%rsp), %r8
	movq 48(%rsp), %r9
	syscall
	cmpl $NR_CLONE, 0(%rsp)
	je cloned
	cmpq $-4095, %rax
	jae failed
after_call:
	addq $AKVM_CALL_BYTES, %rsp
	decl %ebx
	jmp next_call
cloned:
	testq %rax, %rax
	jz born
	/* A value that no guest can forge: the position of a file. */
	leaq AKVM_VALUE_BIAS(%rax), %rsi
	movl AKVM_COMMANDS_VALUES(%rbp), %edi
	xorl %edx, %edx
	CALL NR_LSEEK
	jmp after_call
done:
	leaq answer_done(%rip), %rsi
	jmp answer
failed:
	leaq answer_refused(%rip), %rsi
	cmpq $MINUS_ENOMEM, %rax
	jne answer
	leaq answer_no_memory(%rip), %rsi
answer:
	movq %r13, %rdi
	movl $4, %edx
	leaq AKVM_COMMANDS_ANSWER(%r15), %r10
	CALL NR_PWRITE64
	leaq AKVM_COMMANDS_ANSWER(%rbp), %rdi
	movl $FUTEX_WAKE, %esi
	movl $1, %edx
	CALL NR_FUTEX
	jmp wait

	/* R9: the page of a new mapper, or 0 for a task, which is to wait for SEIZED to become R8. */
born:
	testq %r9, %r9
	jz task
	movq %r9, %r15
	jmp mapper

task:
	LIVE_WITH_THE_HOST
	xorl %edi, %edi
	movl $-1, %esi
	movl $UNSHARE, %edx
	CALL NR_CLOSE_RANGE
	testq %rax, %rax
	jnz leave
	leaq signal_stack(%rip), %rdi
	xorl %esi, %esi
	CALL NR_SIGALTSTACK
	movl $SIG_SETMASK, %edi
	leaq task_signals(%rip), %rsi
	xorl %edx, %edx
	movl $8, %r10d
	CALL NR_RT_SIGPROCMASK
not_seized:
	movl AKVM_COMMANDS_SEIZED(%rbp), %edx
	cmpl %edx, %r8d
	je seized
	leaq AKVM_COMMANDS_SEIZED(%rbp), %rdi
	movl $FUTEX_WAIT, %esi
	leaq seize_timeout(%rip), %r10
	CALL NR_FUTEX
	cmpq $MINUS_ETIMEDOUT, %rax
	je leave
	jmp not_seized
seized:
	movl $1, %edi
	xorl %esi, %esi
	leaq task_program(%rip), %rdx
	CALL NR_SECCOMP
	testq %rax, %rax
	jnz leave
	/* From here on any system call that a tracer does not intercept is the end. */
	int3
	ud2

leave:
	movl $1, %edi
	CALL NR_EXIT_GROUP
	ud2

	/* RDI: signal, RSI: siginfo, RDX: ucontext. */
handler:
	int3
	ud2

	/* ---------------------------------------------------------------- data */
	.balign 8
	.macro ADDRESS label
	.quad AKVM_STUB_CODE_AT + (\label - akvm__stub_code)
	.endm
every_signal:
	.quad -1
	/* All but SIGILL 4, SIGTRAP 5, SIGBUS 7, SIGFPE 8, SIGUSR1 10, SIGSEGV 11, SIGSYS 31. */
task_signals:
	.quad ~(1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 30)
	/* struct sigaction of the kernel: SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER. Nobody returns. */
action:
	ADDRESS handler
	.quad 0x4c000004
	ADDRESS leave
	.quad 0
signal_stack:
	.quad AKVM_STUB_STACK_AT, 0, AKVM_STUB_STACK_BYTES
no_core:
	.quad 0, 0
seize_timeout:
	.quad 5, 0
answer_done:
	.long AKVM_ANSWER_DONE
answer_no_memory:
	.long AKVM_ANSWER_NO_MEMORY
answer_refused:
	.long AKVM_ANSWER_REFUSED
explained:
	.byte 4, 5, 7, 8, 11, 0
name:
	.asciz "akvm-stub"
root:
	.asciz "/"

	/* Classic BPF: code, jump if true, jump if false, constant (linux/filter.h); over struct seccomp_data. */
#define LOAD(offset)            .short 0x20; .byte 0, 0; .long offset
#define IF_EQUAL(k, yes, no)    .short 0x15; .byte yes, no; .long k
#define IF_NOT_BELOW(k, yes, no) .short 0x35; .byte yes, no; .long k
#define RETURN(k)               .short 0x06; .byte 0, 0; .long k
#define NUMBER                  0
#define ARCHITECTURE            4
#define ADDRESS_LOW             8
#define ADDRESS_HIGH            12
#define X86_64                  0xc000003e
#define VSYSCALLS               0xffffffff /* upper half of the one page that the kernel calls for user code */
#define KILL                    0x80000000
#define TRAP                    0x00030000
#define ALLOW                   0x7fff0000
	.balign 8
mapper_filter:
	LOAD(ADDRESS_HIGH)
	IF_EQUAL(VSYSCALLS, 23, 0)
	IF_EQUAL(AKVM_STUB_CODE_AT >> 32, 0, 21)
	LOAD(ADDRESS_LOW)
	IF_NOT_BELOW(AKVM_STUB_CODE_AT & 0xffffffff, 0, 19)
	IF_NOT_BELOW((AKVM_STUB_CODE_AT & 0xffffffff) + AKVM_STUB_CODE_BYTES, 18, 0)
	LOAD(ARCHITECTURE)
	IF_EQUAL(X86_64, 0, 16)
	LOAD(NUMBER)
	IF_EQUAL(NR_MMAP, 13, 0)
	IF_EQUAL(NR_MUNMAP, 12, 0)
	IF_EQUAL(NR_FUTEX, 11, 0)
	IF_EQUAL(NR_PWRITE64, 10, 0)
	IF_EQUAL(NR_LSEEK, 9, 0)
	IF_EQUAL(NR_CLONE, 8, 0)
	IF_EQUAL(NR_PRCTL, 7, 0)
	IF_EQUAL(NR_GETPPID, 6, 0)
	IF_EQUAL(NR_CLOSE_RANGE, 5, 0)
	IF_EQUAL(NR_SIGALTSTACK, 4, 0)
	IF_EQUAL(NR_RT_SIGPROCMASK, 3, 0)
	IF_EQUAL(NR_SECCOMP, 2, 0)
	IF_EQUAL(NR_EXIT_GROUP, 1, 0)
	RETURN(KILL)
	RETURN(ALLOW)
	RETURN(KILL)
	RETURN(TRAP)
mapper_filter_end:
task_filter:
	LOAD(ADDRESS_HIGH)
	IF_EQUAL(VSYSCALLS, 1, 0)
	RETURN(KILL)
	RETURN(TRAP)
task_filter_end:
	.balign 8
mapper_program:
	.quad (mapper_filter_end - mapper_filter) / 8
	ADDRESS mapper_filter
task_program:
	.quad (task_filter_end - task_filter) / 8
	ADDRESS task_filter
	/* An error here: the code has outgrown its place. */
	.org AKVM_STUB_SET_BASES, 0xcc
	wrfsbase %rax
	wrgsbase %rbx
	.org AKVM_STUB_SET_FLAGS, 0x90
	popfq
	int3
	.org AKVM_STUB_FLAGS, 0xcc
	.quad 0x202, 0x200202
	.org AKVM_STUB_CODE_BYTES, 0xcc

	/*
	 * int akvm__stub_fork(int file of commands, int values, uint64_t where its page is, int *zygote): fork the zygote off the
	 * calling process, which is its parent. Returns the process in between, to be waited for, or -errno; *zygote is a process or -errno.
	 *
	 * Two steps, because a copy of a thread inherits the thread's registered area of restartable sequences (rseq(2)), where the
	 * kernel writes and which is about to go. A child that shares memory does not; nor do its own.
	 */
	.text
	.globl akvm__stub_fork
	.hidden akvm__stub_fork
	.type akvm__stub_fork, @function
akvm__stub_fork:
	pushq %r13
	pushq %r14
	pushq %r15
	pushq %rbx
	movslq %edi, %r13
	movslq %esi, %r14
	movq %rdx, %r15
	movq %rcx, %rbx
	movl $(CLONE_VM | CLONE_VFORK | CLONE_FILES), %edi
	xorl %esi, %esi
	xorl %edx, %edx
	xorl %r10d, %r10d
	xorl %r8d, %r8d
	CALL NR_CLONE
	testq %rax, %rax
	jz 1f
	popq %rbx
	popq %r15
	popq %r14
	popq %r13
	ret
1:	movl $(CLONE_FILES | CLONE_PARENT), %edi
	CALL NR_CLONE
	testq %rax, %rax
	jz 2f
	movl %eax, (%rbx)
	xorl %edi, %edi
	CALL NR_EXIT
	ud2
2:	movabsq $AKVM_STUB_CODE_AT, %rdi
	movl $AKVM_STUB_CODE_BYTES, %esi
	movl $(PROT_READ | PROT_EXEC), %edx
	movl $MAP_SHARED_FIXED, %r10d
	movq %r13, %r8
	xorl %r9d, %r9d
	CALL NR_MMAP
	cmpq $-4095, %rax
	jae 3f
	jmp *%rax
3:	movl $1, %edi
	CALL NR_EXIT_GROUP
	ud2
	.size akvm__stub_fork, . - akvm__stub_fork

	.section .note.GNU-stack, "", @progbits
