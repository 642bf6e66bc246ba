/*
 * What a platform must do so that machines and vCPUs can run ring 3 with it; kvm/ and ptrace/ do it.
 *
 * A driver moves registers, vector state and translations, enters ring 3 and says why it came back. What to do about that is
 * decided above it, the same for all. The driver of a machine is chosen when it opens and stays.
 */
#ifndef AKVM_DRIVER_H
#define AKVM_DRIVER_H

#include "akvm/akvm.h"

struct akvm__context;
struct akvm__vcpu;
struct akvm__probe;

/* How a stay in ring 3 ended. */
enum akvm__run_result {
	AKVM_RUN_HALTED,      /* by the guest: a system call, an exception */
	AKVM_RUN_INTERRUPTED, /* by somebody else: registers are wherever the guest was */
	AKVM_RUN_BUS,         /* the host could not back a page */
	AKVM_RUN_FAILED,      /* host_errno or reason says why; the vCPU must be reset */
};
struct akvm__run_outcome {
	enum akvm__run_result result;
	uint32_t reason; /* KVM's exit reason; the signal that stopped a stub */
	int host_errno;
	uint32_t failure; /* enum akvm_failure when FAILED */
};

/* Where the guest stood, as a resolved event. */
enum akvm__event {
	AKVM_EVENT_NOT_ENTERED, /* interrupted before its first instruction: the context is as it was */
	AKVM_EVENT_INTERRUPTED, /* interrupted in ring 3: registers saved */
	AKVM_EVENT_SYSCALL,
	AKVM_EVENT_INT80,
	AKVM_EVENT_EXCEPTION,
	AKVM_EVENT_OPERATION_DONE,
	AKVM_EVENT_OPERATION_CUT, /* interrupted inside an operation */
	AKVM_EVENT_BROKEN,        /* senseless registers, or a fault of the driver's own: pub.detail says which */
};

struct akvm__driver {
	/* The machine, in this order: what the host offers; what needs guest memory; what needs running vCPUs. close: all of it,
	 * from wherever opening stopped, while guest memory is still there. */
	int (*open)(struct akvm_machine *machine);
	int (*build)(struct akvm_machine *machine);
	int (*probe)(struct akvm__probe *probe); /* may be NULL */
	void (*close)(struct akvm_machine *machine);
	/* As the hook of mm.h. */
	int (*set_slot)(void *machine, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes);

	/* As the hook of mm.h: there, guests' translations are the platform's own and outlive their stay. Else NULL. */
	void (*forget)(void *machine, void *shadow);

	int (*vcpu_open)(struct akvm__vcpu *vcpu);
	void (*vcpu_close)(struct akvm__vcpu *vcpu);

	/* Thread: owner, all of these. */
	/* To a known state, after an exit that left it undefined. */
	int (*reset)(struct akvm__vcpu *vcpu);
	/* Carry out the page-table edits that wait, with the space's lock held: for a vCPU that is about to enter the space, or one
	 * that is in none. 0, -EINTR or -errno. */
	int (*apply_edits)(struct akvm__vcpu *vcpu, struct akvm_space *space, bool entering);
	/* The context's translations, vector state and registers, for the space and generation that the vCPU has published. 0 or
	 * -errno. unload: what load prepared never reached ring 3. */
	int (*load)(struct akvm__vcpu *vcpu, struct akvm__context *context);
	void (*unload)(struct akvm__vcpu *vcpu);
	/* Forget kicks that came before now. From here on a kick ends the next run. */
	void (*expect_kicks)(struct akvm__vcpu *vcpu);
	struct akvm__run_outcome (*run)(struct akvm__vcpu *vcpu, struct akvm__context *context);
	/* Registers and event into the context, once after each run that did not fail. */
	enum akvm__event (*decode)(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome outcome);
	/* The page fault that decode reported was resolved in the space's tables: let the guest see it. 0 or -errno. */
	int (*resolved)(struct akvm__vcpu *vcpu, struct akvm__context *context);
	/* Before a page fault is told to the caller: error code and address as they really were, where decode could only guess.
	 * 1 when they differ from what it said, 0 when not, or -errno. NULL where it never guesses. */
	int (*explain)(struct akvm__vcpu *vcpu, struct akvm__context *context);
	/* The context's run is over, and the next may be on another vCPU. 0 or -errno. */
	int (*retire)(struct akvm__vcpu *vcpu, struct akvm__context *context);
	/* One of enum akvm_operation: 0, -EINTR (nothing can be said about its effect: run it again), -EFAULT with *vector for an
	 * exception, -errno. */
	int (*operate)(struct akvm__vcpu *vcpu, uint32_t operation, struct akvm_registers *registers, uint32_t *vector);

	/* The loop is about to sleep. Thread: loop. May be NULL. */
	void (*loop_rests)(struct akvm_machine *machine);
	/* There is no work; the thread is about to sleep. May be NULL. */
	void (*rest)(struct akvm__vcpu *vcpu);
	/* What CPUID tells, for a guest that was kept from executing it. NULL without capabilities.cpuid_faulting. */
	void (*answer_cpuid)(const struct akvm_machine *machine, struct akvm_registers *registers);

	/* Make a run that is under way, or about to begin, return. 0 or -errno. Thread: any. */
	int (*kick)(struct akvm__vcpu *vcpu);
	/* Vector state out of the vCPU into the context's image, its lock held. 0 or -errno. Thread: any. */
	int (*take_vector_state)(struct akvm__vcpu *vcpu);
};

extern const struct akvm__driver akvm__kvm_driver, akvm__ptrace_driver;

#endif
