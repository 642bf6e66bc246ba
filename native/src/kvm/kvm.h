/*
 * The parts of the KVM driver, towards one another.
 */
#ifndef AKVM_KVM_H
#define AKVM_KVM_H

#include <linux/kvm.h>

#include "akvm/layout.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

enum { AKVM_CPUID_MAX = 256 };

struct akvm__probe;

struct akvm__cpuid {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[AKVM_CPUID_MAX];
};

/* device.c */
int akvm__device_open(struct akvm_machine *machine);
int akvm__vm_create(struct akvm_machine *machine);
int akvm__vm_set_slot(void *machine, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes);

/* kernel_image.c */
int akvm__kernel_image_create(struct akvm_machine *machine);
int akvm__kernel_image_map(struct akvm_machine *machine);
void akvm__kernel_image_vcpu(struct akvm_machine *machine, uint32_t index);
void akvm__kernel_image_free(struct akvm_machine *machine);

/* cpuid.c */
int akvm__cpuid_create(struct akvm_machine *machine);
const struct kvm_cpuid_entry2 *akvm__cpuid_find(const struct akvm_machine *machine, uint32_t function, uint32_t index);

/* Answer a faulted CPUID from the machine's table. */
void akvm__cpuid_answer(const struct akvm_machine *machine, struct akvm_registers *registers);

/* probe.c */
int akvm__kvm_probe(struct akvm__probe *probe);

/* vcpu.c. reset: to ring 0 with the template state, at creation and after an exit that left it undefined. Thread: owner. */
int akvm__kvm_vcpu_open(struct akvm__vcpu *vcpu);
void akvm__kvm_vcpu_close(struct akvm__vcpu *vcpu);
int akvm__kvm_reset(struct akvm__vcpu *vcpu);

/* run.c: what KVM_RUN came back with, every return and exit reason named; run: with no event left in KVM. */
struct akvm__run_outcome akvm__kvm_run_once(struct akvm__vcpu *vcpu);
struct akvm__run_outcome akvm__kvm_run(struct akvm__vcpu *vcpu, struct akvm__context *context);

/* entry.c: load a context's registers and choose the stub. `load_cr3`: CR3 must be loaded with cr3. */
void akvm__kvm_load(struct akvm__vcpu *vcpu, struct akvm__context *context, bool load_cr3, uint64_t cr3);

/* exit.c */
enum akvm__event akvm__kvm_decode(struct akvm__vcpu *vcpu, struct akvm__context *context, bool halted);

/* driver.c */
int akvm__kvm_apply_edits(struct akvm__vcpu *vcpu, struct akvm_space *space, bool entering);
/* A load of CR3 may not have happened: nothing it was to flush is flushed. */
void akvm__kvm_forget_cr3(struct akvm__vcpu *vcpu);

/* pcid.c */
uint64_t akvm__pcids_assign(struct akvm__pcids *pcids, uint64_t space_id, uint64_t generation, bool *flush);
void akvm__pcids_drop(struct akvm__pcids *pcids);

/* operation.c: run the routine at text offset `stub` to its HLT with these registers; the result is left in `registers`.
 * 0, -EINTR (nothing can be said about its effect: run it again), -EFAULT with *vector for an exception, -EIO. */
int akvm__kvm_run_stub(struct akvm__vcpu *vcpu, uint32_t stub, struct akvm_registers *registers, uint32_t *vector);
int akvm__kvm_operate(struct akvm__vcpu *vcpu, uint32_t operation, struct akvm_registers *registers, uint32_t *vector);

/* fpstate.c. take: vcpu->lock held, vcpu->resident not NULL. */
int akvm__kvm_take_vector_state(struct akvm__vcpu *vcpu);
int akvm__kvm_load_fp(struct akvm__vcpu *vcpu, struct akvm__context *context);

#endif
