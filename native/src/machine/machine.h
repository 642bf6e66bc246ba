/*
 * A machine: a driver, its guest memory and its vCPUs.
 *
 * Lock order: a space's lock (mm.h), then a vCPU's lock. The loop thread owns the table of contexts.
 */
#ifndef AKVM_MACHINE_H
#define AKVM_MACHINE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "akvm/akvm.h"
#include "mm/mm.h"
#include "ring/doorbell.h"
#include "ring/ring.h"
#include "vcpu/vcpu.h"

enum { AKVM_VCPUS_MAX = 127 };

struct akvm__cpuid;
struct akvm__ptrace;

struct akvm_machine {
	struct akvm_machine_config config;
	struct akvm_capabilities capabilities;
	const struct akvm__driver *driver;
	bool opened; /* by the driver */
	struct akvm__mm *mm;

	struct akvm__vcpu **vcpus;
	uint32_t vcpu_count;
	struct akvm__doorbell doorbell;
	_Atomic bool stopping;
	_Atomic bool reap_due;      /* some dead space waits; set by mm's hook, taken by the next vCPU without a context */
	_Atomic bool reap_pressing; /* it has waited long enough: by the next vCPU that comes to enter a guest, too */
	/* vCPU threads not asleep, and how many may be: one CPU is the loop's. */
	_Atomic uint32_t awake;
	uint32_t spare_cpus;
	_Atomic int loop_cpu; /* the core that the loop's thread was on when it last looked for completions */

	struct akvm__ptrace *ptrace; /* the other platform's */

	/* KVM's. */
	int device, vm;
	size_t run_bytes;
	bool sync_events; /* pending events come with the registers: KVM_SYNC_X86_EVENTS */
	struct akvm__cpuid *cpuid;
	uint64_t cr4;
	uint8_t *kernel; /* kernel image, host view; slot AKVM_SLOT_KERNEL */
	size_t kernel_bytes;
	uint8_t *tables; /* page-table arena, host view */

	_Atomic uint64_t xsave_versions; /* the last one */

	/* Loop thread only. */
	struct akvm__context **contexts;
	uint32_t *free_contexts, free_count;
	struct akvm__ring loop_completions; /* withdrawn before they ran */
	uint32_t drain_next;
	uint32_t reap_next;
};

/* probe.c: what the platform does, found by running guests. Thread: any, while the loop's is not yet. */
int akvm__machine_probe(struct akvm_machine *machine);

/* complete.c: hand a finished context to the loop. Thread: its vCPU's. */
void akvm__machine_complete(struct akvm_machine *machine, struct akvm__vcpu *vcpu, struct akvm__context *context);

#endif
