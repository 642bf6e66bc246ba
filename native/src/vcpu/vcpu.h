/*
 * A vCPU and the thread that owns it for life. Internal to src/vcpu and src/machine.
 *
 * The life of a run (thread_main in thread.c):
 *   take a context (mailbox.h) -> prepare its space (space_entry.c) and FP state (fpstate.c) -> enter ring 3 (entry.c)
 *   -> KVM_RUN (run.c) -> decode what came back (exit.c) -> resolve it here and enter again, or put the context
 *   into the completion ring and ring the doorbell.
 */
#ifndef AKVM_VCPU_H
#define AKVM_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "akvm/akvm.h"
#include "akvm/layout.h"
#include "ring/mailbox.h"
#include "ring/ring.h"
#include "vcpu/context.h"

enum { AKVM_PCIDS = 8, AKVM_PCID_FIRST = 2 };

/* Which space each PCID of a vCPU holds, and up to which generation its translations are current. */
struct akvm__pcids {
	uint64_t space_id[AKVM_PCIDS];
	uint64_t generation[AKVM_PCIDS];
	uint64_t used[AKVM_PCIDS]; /* clock of last use */
	uint64_t clock;
};

/* Counters have one writer, the owner; readers use relaxed loads. */
struct akvm__vcpu_counters {
	_Atomic uint64_t runs, exits, native_exits, kicks, stale_kicks, steals, fp_switches, space_switches, space_flushes,
		operations, shootdowns, sleeps, busy_ns;
};

struct akvm__vcpu {
	struct akvm_machine *machine;
	uint32_t index;
	int fd;
	struct kvm_run *run;
	size_t run_bytes;
	pthread_t thread;
	bool thread_started;
	_Atomic pid_t tid;

	/* Host view of the area in the kernel image (layout.h), and its guest address. */
	uint8_t *area;
	uint64_t area_address;

	struct akvm__mailbox mailbox;
	struct akvm__ring completions;

	/* enum akvm_vcpu_state; written by the owner. */
	_Atomic uint32_t state;
	_Atomic bool stop, finished;
	/* Set before it looks for work and cleared when there is none: mail put while it is clear is seen by the owner. */
	_Atomic bool busy;
	/* With a context, or with the dead: mail put meanwhile waits. Set before it looks at its mailbox once more, so that either
	 * it or who put the mail wakes a thief. */
	_Atomic bool engaged;
	/* While engaged: the last run of its context ended by itself and soon, so this one may, too. */
	_Atomic bool brief;
	/* The core it was on when its context began. */
	_Atomic int cpu;

	/* Guards `resident` and the FP registers of an idle vCPU. Innermost lock. */
	pthread_mutex_t lock;
	struct akvm__context *resident;

	/* The space this vCPU is inside of, and the generation it entered with: what settled() and shootdowns look at. */
	_Atomic(struct akvm_space *) space;
	_Atomic uint64_t space_generation;

	/* Owner only. What CR3 holds, and whether ring 0 is where the vCPU stands. */
	uint64_t cr3_space_id, cr3_generation;
	struct akvm__pcids pcids;
	bool must_reset;
	uint8_t *bounce; /* AKVM_BOUNCE_BYTES on their way from a file to a guest */
	/* Completions put into the ring and not rung for: see announce() in thread.c. */
	uint32_t unannounced;
	/* How long it polls for work before it sleeps, by what polling was worth lately. */
	uint64_t spin_ns;
	/* Since when it has seen, from run to run, that somebody dead waits to be reaped; 0: nobody. */
	uint64_t dead_since_ns;

	/* For status readers. */
	_Atomic uint64_t started_ns;
	_Atomic uint32_t current, current_generation;
	struct akvm__vcpu_counters counters;
	struct akvm_flight_record flight[AKVM_FLIGHT_RECORDS];
	_Atomic uint64_t flight_count;
};

/* vcpu.c */
int akvm__vcpu_create(struct akvm_machine *machine, uint32_t index, struct akvm__vcpu **vcpu);
void akvm__vcpu_free(struct akvm__vcpu *vcpu);
/* Bring the vCPU to ring 0 with the template state: at creation, and after an exit that left it undefined. Thread: owner. */
int akvm__vcpu_reset(struct akvm__vcpu *vcpu);

/* thread.c */
int akvm__vcpu_start(struct akvm__vcpu *vcpu);
/* 0 or -ETIMEDOUT. */
int akvm__vcpu_join(struct akvm__vcpu *vcpu, uint64_t timeout_ns);
/* Have its mail stolen, if it is engaged and some vCPU sleeps; unless it is soon free, or the mail overdue. Thread: the loop, or
 * the owner. */
void akvm__vcpu_wake_a_thief(const struct akvm__vcpu *owner, bool overdue);
/* A vCPU which its mail may better wait for than have another one woken: akvm_machine_rouse() sets right what was misjudged. */
bool akvm__vcpu_soon_free(const struct akvm__vcpu *vcpu);

/* run.c: what KVM_RUN came back with, every return and exit reason named. */
enum akvm__run_result {
	AKVM_RUN_HALTED,      /* a stub's HLT */
	AKVM_RUN_INTERRUPTED, /* EINTR: registers are wherever the guest was */
	AKVM_RUN_BUS,         /* EFAULT: the host could not back a page */
	AKVM_RUN_FAILED,      /* host_errno or kvm_exit_reason says why; the vCPU must be reset */
};
struct akvm__run_outcome {
	enum akvm__run_result result;
	uint32_t kvm_exit_reason;
	int host_errno;
	uint32_t failure; /* enum akvm_failure when FAILED */
};
struct akvm__run_outcome akvm__vcpu_run(struct akvm__vcpu *vcpu);

/* entry.c: load a context's registers and choose the stub. `load_cr3`: CR3 must be loaded with cr3. */
void akvm__vcpu_load(struct akvm__vcpu *vcpu, struct akvm__context *context, bool load_cr3, uint64_t cr3);
bool akvm__canonical(uint64_t address);
/* RFLAGS as ring 3 can have them: what it may set for itself, IF, and the bit that is always set. */
uint64_t akvm__user_flags(uint64_t flags);

/* exit.c: where the guest stood, as a resolved event. */
enum akvm__event {
	AKVM_EVENT_NOT_ENTERED, /* interrupted inside an entry stub: the context is as it was */
	AKVM_EVENT_INTERRUPTED, /* interrupted in ring 3: registers saved */
	AKVM_EVENT_SYSCALL,
	AKVM_EVENT_INT80,
	AKVM_EVENT_EXCEPTION,
	AKVM_EVENT_OPERATION_DONE,
	AKVM_EVENT_OPERATION_CUT, /* interrupted inside an operation */
	AKVM_EVENT_BROKEN,        /* ring-0 fault or senseless registers: pub.detail says which */
};
enum akvm__event akvm__vcpu_decode(struct akvm__vcpu *vcpu, struct akvm__context *context, bool halted);

/* space_entry.c: make the space current and safe to enter. 0, -EINTR when the context was interrupted meanwhile, or -errno. */
int akvm__vcpu_enter_space(struct akvm__vcpu *vcpu, struct akvm__context *context, bool *load_cr3, uint64_t *cr3);
void akvm__vcpu_leave_space(struct akvm__vcpu *vcpu);
/* The load of CR3 that enter_space asked for may not have happened: nothing it was to flush is flushed. */
void akvm__vcpu_forget_cr3(struct akvm__vcpu *vcpu);
/* Clear the tables of dead spaces, if some wait: in any case; if they have waited long enough for a guest to wait for them; while
 * there is nothing better to do, true when there were any. Inside no space. */
void akvm__vcpu_reap_if_due(struct akvm__vcpu *vcpu);
void akvm__vcpu_reap_if_pressing(struct akvm__vcpu *vcpu);
bool akvm__vcpu_reap_when_idle(struct akvm__vcpu *vcpu);

/* pcid.c */
uint64_t akvm__pcids_assign(struct akvm__pcids *pcids, uint64_t space_id, uint64_t generation, bool *flush);
void akvm__pcids_drop(struct akvm__pcids *pcids);

/* operation.c: run the routine at text offset `stub` to its HLT with these registers; the result is left in `registers`.
 * 0, -EINTR (nothing can be said about its effect: run it again), -EFAULT with *vector for an exception, -EIO. */
int akvm__vcpu_operate(struct akvm__vcpu *vcpu, uint32_t stub, struct akvm_registers *registers, uint32_t *vector);

/* fpstate.c */
int akvm__vcpu_load_fp(struct akvm__vcpu *vcpu, struct akvm__context *context);
/* Bring a context's FP state into its image, wherever it is. Thread: loop or a vCPU that runs the context. */
int akvm__context_save_fp(struct akvm__context *context);
void akvm__context_forget_fp(struct akvm__context *context);

/* resolve.c: one run of a context, with every exit this thread can resolve itself. Fills in the exit record. */
void akvm__vcpu_execute(struct akvm__vcpu *vcpu, struct akvm__context *context);

/* kick.c */
/* 0, or -errno: the reason is there, but what computes in ring 3 has not been told. Thread: any. */
int akvm__vcpu_kick(struct akvm__vcpu *vcpu);
int akvm__kick_setup(int signal);

/* flight.c */
void akvm__vcpu_record(struct akvm__vcpu *vcpu, const struct akvm__context *context, uint32_t kvm_exit_reason, uint32_t kind,
		       uint64_t rip);

static inline void akvm__count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

#endif
