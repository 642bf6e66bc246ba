/*
 * A vCPU and the thread that owns it for life. Internal to src/vcpu and src/machine.
 *
 * The life of a run (thread_main in thread.c):
 *   take a context (mailbox.h) -> prepare its space (space_entry.c) -> load it, enter ring 3 and decode what came back
 *   (driver.h) -> resolve it here and enter again (resolve.c), or put the context into the completion ring and ring the
 *   doorbell.
 */
#ifndef AKVM_VCPU_H
#define AKVM_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "akvm/akvm.h"
#include "akvm/layout.h"
#include "ring/mailbox.h"
#include "ring/ring.h"
#include "vcpu/context.h"
#include "vcpu/driver.h"

struct kvm_run;
struct akvm__stub;
struct akvm__stub_task;

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
	bool opened; /* by the driver */
	pthread_t thread;
	bool thread_started;
	_Atomic pid_t tid;

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

	/* Owner only. The driver does not know its state any more. */
	bool must_reset;
	uint8_t *bounce; /* AKVM_BOUNCE_BYTES on their way from a file to a guest */
	/* Completions put into the ring and not rung for: see announce() in thread.c. */
	uint32_t unannounced;
	/* How long it polls for work before it sleeps, by what polling was worth lately. */
	uint64_t spin_ns;
	/* Since when it has seen, from run to run, that somebody dead waits to be reaped; 0: nobody. */
	uint64_t dead_since_ns;

	/* The other platform's: the stub it is at, its task there, and that task for who kicks it. */
	struct akvm__stub *stub;
	struct akvm__stub_task *task;
	_Atomic pid_t task_pid;
	int timer; /* lets its thread look whether it waits in vain; or -1 */
	bool ticking;
	_Atomic int processor; /* the only one its thread runs on, or -1 */

	/* KVM's. The area: host view of the one in the kernel image (layout.h), and its guest address. What CR3 holds. */
	int fd;
	struct kvm_run *run;
	size_t run_bytes;
	uint8_t *area;
	uint64_t area_address;
	uint64_t cr3_space_id, cr3_generation;
	struct akvm__pcids pcids;

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

/* thread.c */
int akvm__vcpu_start(struct akvm__vcpu *vcpu);
/* 0 or -ETIMEDOUT. */
int akvm__vcpu_join(struct akvm__vcpu *vcpu, uint64_t timeout_ns);
/* Have its mail stolen, if it is engaged and some vCPU sleeps; unless it is soon free, or the mail overdue. Thread: the loop, or
 * the owner. */
void akvm__vcpu_wake_a_thief(const struct akvm__vcpu *owner, bool overdue);
/* A vCPU which its mail may better wait for than have another one woken: akvm_machine_rouse() sets right what was misjudged. */
bool akvm__vcpu_soon_free(const struct akvm__vcpu *vcpu);

/* registers.c */
bool akvm__canonical(uint64_t address);
/* RFLAGS as ring 3 can have them: what it may set for itself, IF, and the bit that is always set. */
uint64_t akvm__user_flags(uint64_t flags);

/* space_entry.c: make the space current and safe to enter. 0, -EINTR when the context was interrupted meanwhile, or -errno. */
int akvm__vcpu_enter_space(struct akvm__vcpu *vcpu, struct akvm__context *context);
void akvm__vcpu_leave_space(struct akvm__vcpu *vcpu);
/* Clear the tables of dead spaces, if some wait: in any case; if they have waited long enough for a guest to wait for them; while
 * there is nothing better to do, true when there were any. Inside no space. */
void akvm__vcpu_reap_if_due(struct akvm__vcpu *vcpu);
void akvm__vcpu_reap_if_pressing(struct akvm__vcpu *vcpu);
bool akvm__vcpu_reap_when_idle(struct akvm__vcpu *vcpu);

/* fpstate.c */
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
