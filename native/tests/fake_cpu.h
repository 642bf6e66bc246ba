/*
 * The processor of the fake KVM: registers, translations, a handful of instructions, exceptions. Internal to the fake, except
 * for what scripts may look at and change.
 */
#ifndef AKVM_TESTS_FAKE_CPU_H
#define AKVM_TESTS_FAKE_CPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FAKE_TLB = 256, FAKE_SLOTS = 64, FAKE_VCPUS = 8, FAKE_XSAVE_MAX = 8192 };
enum fake_access { FAKE_READ, FAKE_WRITE, FAKE_FETCH };

struct fake_fault {
	unsigned vector;
	uint32_t error_code;
	uint64_t address;
};

/* What ring 3 does next, says a script. */
enum fake_action {
	FAKE_CONTINUE,  /* it did something to its registers */
	FAKE_SYSCALL,   /* two bytes long */
	FAKE_EXCEPTION, /* fault: vector, error code, CR2; RIP stays */
	FAKE_INT,       /* INT n: the vector in fault, two bytes long */
	FAKE_SPIN,      /* runs until it is kicked */
	FAKE_EXIT,      /* KVM_RUN returns 0 with exit_reason */
	FAKE_ERROR,     /* KVM_RUN returns -1 with error */
};
struct fake_step {
	enum fake_action action;
	struct fake_fault fault;
	uint32_t exit_reason;
	int error;
};

struct fake_translation {
	uint64_t page, frame, entry; /* virtual, guest-physical, rights of all levels together */
	uint16_t pcid;
	bool valid;
};

struct fake_vm {
	pthread_rwlock_t slots_lock;
	struct kvm_userspace_memory_region slots[FAKE_SLOTS];
	/* Shadow paging: entries of the tables slot as KVM last saw them, where they were present. */
	pthread_mutex_t shadow_lock;
	uint64_t *shadow;
	uint64_t shadow_gpa, shadow_bytes;
	struct fake_cpu *vcpus[FAKE_VCPUS];
};

struct fake_cpu {
	struct fake_vm *vm;
	uint32_t index;
	struct kvm_run *run;
	pthread_mutex_t ioctls; /* as KVM's own: one ioctl at a time */

	/* Scripts may use these. */
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint8_t xsave[FAKE_XSAVE_MAX];

	struct kvm_vcpu_events events;
	uint64_t star, lstar, fmask, misc_features;
	bool shut_down;
	bool debug_pending;      /* a #DB that KVM_GET_VCPU_EVENTS does not show */
	bool completion;         /* unfinished input: the next KVM_RUN stores it */
	struct fake_fault fault; /* of the last access that failed */
	uint64_t hole;           /* guest-physical address without memory; 0 none */
	bool bus;                /* the host could not give a file's page */
	struct fake_translation tlb[FAKE_TLB];

	/* Guarded by the fake's lock. */
	bool inside;
	pid_t tid;
	_Atomic bool kicked, spinning;
};

/* How KVM_RUN ends: 0 with run->exit_reason set, or an errno. */
int fake_cpu_run(struct fake_cpu *cpu);
unsigned fake_cpu_ring(const struct fake_cpu *cpu);

/* fake_memory.c. Access guest memory as the code at the present privilege would; false leaves cpu->fault or cpu->hole. */
bool fake_cpu_access(struct fake_cpu *cpu, uint64_t address, enum fake_access access, void *buffer, size_t bytes);
/* With the rights of ring 0, for descriptor tables and stacks. */
bool fake_cpu_access_system(struct fake_cpu *cpu, uint64_t address, enum fake_access access, void *buffer, size_t bytes);
void fake_cpu_flush(struct fake_cpu *cpu, int pcid); /* -1: all */
int fake_vm_set_slot(struct fake_vm *vm, const struct kvm_userspace_memory_region *region);

/* fake_kvm.c: what the processor asks of the plans. */
bool fake_cut_here(struct fake_cpu *cpu);
bool fake_cut_event(struct fake_cpu *cpu, unsigned vector);
bool fake_kick_pending(struct fake_cpu *cpu);
int fake_spin(struct fake_cpu *cpu); /* EINTR once kicked */
struct fake_step fake_ask_script(struct fake_cpu *cpu);
bool fake_scripted(const struct fake_cpu *cpu);
const struct fake_options *fake_kind(void);
void fake_count_flush(void);

#endif
