/*
 * A KVM made of plain C behind struct akvm__host, for tests that must say what the host does and when.
 *
 * It is a small model of the processor rather than a list of answers: KVM_RUN executes the real ring-0 stubs, through the page
 * tables, descriptor tables and stacks the core built, and delivers exceptions through the IDT. What ring 3 does is either a few
 * machine instructions in guest memory (fake_cpu.c) or a test's script. The model errs on the strict side: translations
 * stay cached until they are flushed, host stores to present entries stay unseen with shadow paging, events left
 * half-delivered are delivered later, unfinished I/O is finished by the next KVM_RUN.
 *
 * Thread: calls from the test's main thread unless said otherwise; scripts run on vCPU threads.
 */
#ifndef AKVM_TESTS_FAKE_KVM_H
#define AKVM_TESTS_FAKE_KVM_H

#include <stdbool.h>
#include <stdint.h>

#include "akvm/layout.h"
#include "fake_cpu.h"

/* The kind of host to be. Zero: hardware-like, nested paging, no PCID. */
struct fake_options {
	bool syscall_as_fault, int80_as_ud, shadow_paging, cpuid_faulting, pcid;
	bool no_tsc_offset;   /* a kernel without KVM_VCPU_TSC_OFFSET */
	uint32_t xsave_bytes; /* beyond 4096: offered by KVM_CAP_XSAVE2 */
};

/* Forget everything and become the host. No machine may be open. */
void fake_install(const struct fake_options *options);
/* Nothing of what was handed out is left, and no call was wrong in itself; ends the test otherwise. */
void fake_check_clean(void);

/* What ring 3 does when its RIP is inside [FAKE_SCRIPT, FAKE_SCRIPT_END). Called on the vCPU's thread. */
#define FAKE_SCRIPT     0x600000000000
#define FAKE_SCRIPT_END 0x600100000000
typedef struct fake_step (*fake_script)(struct fake_cpu *cpu, void *opaque);
void fake_set_script(fake_script script, void *opaque);

/* Leave KVM_RUN with EINTR where a vCPU is about to execute the instruction at `offset` of the kernel text, in either ring:
 * `skip` times not, then `count` times. One place at a time; count 0 ends it. */
void fake_cut(uint32_t offset, unsigned skip, unsigned count);
/* The same wherever ring 0 executes, once in `one_in` instructions on average; 0 ends it. */
void fake_cut_randomly(unsigned one_in);
/* Leave KVM_RUN with EINTR while delivering `vector`, `count` times, with the event left inside KVM. */
void fake_cut_delivery(unsigned vector, unsigned count);
/* How many cuts of all kinds happened. */
unsigned fake_cuts(void);

/* Fail the host call number `number` (from 1, counted from now on) with `error`; 0 ends it. */
void fake_fail_call(unsigned number, int error);
unsigned fake_calls(void);
/* Fail ioctls of `request`: `skip` of them not, then `count`. Count 0 ends it. */
void fake_fail_ioctl(unsigned long request, unsigned skip, unsigned count, int error);
/* Call back once, on the calling thread, before the next ioctl of `request`. */
void fake_before_ioctl(unsigned long request, void (*callback)(void *opaque), void *opaque);
void fake_fail_write(unsigned count, int error);

/* vCPU ioctls other than KVM_RUN since the start, and KVM_RUNs. Thread: any. */
uint64_t fake_vcpu_ioctls(void);
uint64_t fake_runs(void);
/* Cached translations thrown away by loads of CR3, as far as they were of the loaded PCID. */
uint64_t fake_flushes(void);
/* A vCPU of the machine opened last. */
struct fake_cpu *fake_vcpu(uint32_t index);
/* Wait until vCPU `index` spins in ring 3, at most some seconds, else end the test. */
void fake_wait_spinning(uint32_t index);

#endif
