/*
 * Between the steps of host_steps.c and what they have in common in host_work.c: a page of machine code, and moves that may be
 * refused. Each returns false when it was, after telling faults_show(); the step then goes on without.
 */
#ifndef AKVM_TESTS_HOST_GUEST_H
#define AKVM_TESTS_HOST_GUEST_H

#include <stdint.h>

#include "host_work.h"

enum { GUEST_PAGE = 4096, GUEST_CODE = 0x400000, GUEST_DATA = 0x500000, GUEST_DATA_PAGES = 16, GUEST_STACK = 0x7fff0000 };
enum {
	GUEST_SYSCALLS = GUEST_CODE,   /* rdi system calls number 0; int3 */
	GUEST_LOAD = GUEST_CODE + 32,  /* rax = *rdi; int3 */
	GUEST_STORE = GUEST_CODE + 48, /* *rdi = rsi; int3 */
	GUEST_SPIN = GUEST_CODE + 64,  /* for ever */
	GUEST_CPUID = GUEST_CODE + 80, /* cpuid; int3 */
	GUEST_INT80 = GUEST_CODE + 96, /* int $0x80; int3 */
};
enum { GUEST_BREAKPOINT = 3, GUEST_PROTECTION = 13, GUEST_PAGE_FAULT = 14, GUEST_VECTOR_INT80 = 0x80 };

static const uint8_t guest_code[112] = {
	/* 1: xor eax, eax; syscall; dec rbx; jnz 1b; int3 */
	0x31,
	0xc0,
	0x0f,
	0x05,
	0x48,
	0xff,
	0xcb,
	0x75,
	0xf7,
	0xcc,
	/* mov rax, [rdi]; int3 */
	[32] = 0x48,
	0x8b,
	0x07,
	0xcc,
	/* mov [rdi], rsi; int3 */
	[48] = 0x48,
	0x89,
	0x37,
	0xcc,
	/* jmp . */
	[64] = 0xeb,
	0xfe,
	/* cpuid; int3 */
	[80] = 0x0f,
	0xa2,
	0xcc,
	/* int 0x80; int3 */
	[96] = 0xcd,
	0x80,
	0xcc,
};

/* A call's result: anything but `expected` is a refusal. */
bool work_refused(int64_t result, int64_t expected);
bool work_context(struct work *work, struct akvm_space *space, struct akvm_context **context);
void work_drop_context(struct work *work, struct akvm_context *context);
bool work_guest_open(struct work *work, struct work_guest *guest);
void work_guest_close(struct work *work, struct work_guest *guest);

void work_submit(struct akvm_context *context, uint32_t vcpu, uint64_t rip, uint64_t rdi, uint64_t rsi);
/* Until it is done, interrupting it if it does not end by itself. When no kick gets through, the faults are ended. */
void work_wait(struct work *work, struct akvm_context *context, bool interrupt);
/* A run to the exception or system call `vector`. */
bool work_run(struct work *work, struct akvm_context *context, uint32_t vcpu, uint64_t rip, uint64_t rdi, uint64_t rsi,
	      uint32_t vector);
bool work_store(struct work *work, struct work_guest *guest, uint32_t vcpu, uint64_t address, uint64_t value);
bool work_load(struct work *work, struct work_guest *guest, uint32_t vcpu, uint64_t address, uint64_t expected);
/* The same by the host. */
bool work_poke(struct akvm_space *space, uint64_t address, uint64_t value);
bool work_peek(struct akvm_space *space, uint64_t address, uint64_t expected);
/* A ring-0 operation that ends with `vector`, 0 for well. */
bool work_operate(struct work *work, struct akvm_context *context, uint32_t vcpu, uint32_t operation, uint32_t vector);
/* Until it is in the guest, or something has completed. */
void work_wait_running(struct work *work, struct akvm_context *context);
void work_look_at_bystander(struct work *work);

/* With SIGKILL, from outside: the mapper of the newest stub, and the zygote. False where there are no such things. */
bool work_kill_mappers(struct work *work);

/* host_direct.c */
void work_direct(struct work *work);

#endif
