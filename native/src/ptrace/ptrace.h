/*
 * Running ring 3 without KVM: in processes of the host's, traced.
 *
 * Each address space has a stub: a process whose user memory shows what the space's page tables say, as far as somebody touched
 * it. Guest code runs in tasks of that process, one for each vCPU that came by, which that vCPU's thread traces: every system call
 * is intercepted before the host kernel looks at it (PTRACE_SYSEMU), every exception stops the task. Beside them lives the mapper, a
 * task in the same memory that runs nothing but guest/stub_process.S and makes the mappings that the host orders.
 *
 * What a guest can do to its stub is what any code can do that has no system calls; a stub that is lost is made anew, because all
 * it knows is in the space. No descriptor, no environment and nothing of the host's memory is in it. The mapper has the
 * host's descriptors, and reads nothing that a guest can write.
 *
 * Lock order: a space's lock, then the platform's.
 */
#ifndef AKVM_PTRACE_H
#define AKVM_PTRACE_H

#include <pthread.h>
#include <sched.h>
#include <sys/types.h>
#include <sys/user.h>

#include "machine/machine.h"
#include "ptrace/layout.h"

/* In place of a processor's number: any, and unknown. */
enum { AKVM__ANYWHERE = -1, AKVM__SOMEWHERE = -2 };

struct akvm__call {
	uint64_t number, arguments[6];
};

/* The page of commands (layout.h), as the host sees it. */
struct akvm__commands {
	uint32_t turn, count, answer, seized;
	int32_t host, file, values;
	uint32_t unused;
	uint64_t at;
	uint64_t padding[3];
	struct akvm__call calls[AKVM_COMMANDS_MAX];
};

/* A process that makes system calls on command. */
struct akvm__mapper {
	pid_t pid;     /* 0: none */
	int processor; /* the only one it may run on, or -1 */
	uint32_t page;
	struct akvm__commands *commands;
};

/* Where guest code runs. Of the vCPU's thread alone, but for `pid`. */
struct akvm__stub_task {
	_Atomic pid_t pid; /* 0: none */
	/* What its registers hold, if `known`. */
	struct user_regs_struct registers;
	bool known;
	/* The version of the vector state that it was given, or that was taken out last; `ahead`: it ran since. */
	uint64_t vector_version;
	bool ahead;
	int processor; /* the only one it may run on, or -1 */
	/* How it stopped last. */
	int signal, code;
	uint64_t address;
	uint64_t last_rip, last_address; /* of the page fault before, and how often it came again */
	unsigned repeated;
	bool guessed; /* an access that the host did not tell, and which was not asked for yet */
};

struct akvm__stub {
	struct akvm__mapper mapper; /* the space's lock */
	/* Guarded by the platform's lock. */
	struct akvm__stub *next, *previous;
	uint32_t vcpus; /* that are at it: until they have left, what is known of its processes stays */
	bool owned;     /* by its space */
	uint64_t used;  /* when it was last */
	bool dropped;   /* killed, and no more in the list; its space has to let go of it */
	struct akvm__stub_task tasks[];
};

enum { AKVM__DYING_MAX = 256 };
/* Killed, and not yet reaped; with the page that it had, or 0. */
struct akvm__dying {
	pid_t pid;
	uint32_t page;
};

struct akvm__ptrace {
	/* Constant. */
	struct akvm_machine *machine;
	cpu_set_t processors; /* that the program may use */
	int file, values;     /* descriptors: pages of commands; and one whose position tells a value */
	uint8_t *pages;
	/* The lock guards what is below. */
	pthread_mutex_t lock;
	struct akvm__mapper zygote; /* the first mapper, which makes the others */
	struct akvm__stub *stubs;
	uint32_t stubs_count;
	uint32_t page_next, *pages_free, pages_free_count;
	struct akvm__dying dying[AKVM__DYING_MAX];
	uint32_t dying_count;
	uint32_t nonce;
	uint64_t clock;
	bool closing;
};

/* mapper.c. All with the lock that the mapper is under. */
/* Append to the next batch; -E2BIG when it is full. */
int akvm__mapper_add(struct akvm__mapper *mapper, struct akvm__call call);
/* Make the batch's calls and wait for them, at most some seconds. 0; -ENOMEM or -EACCES when one of them failed, and those after it
 * were not made; -ESRCH when there is no mapper any more. */
int akvm__mapper_run(struct akvm__mapper *mapper);
/* What the last clone() of a batch returned, 0 when it failed. Precondition: the platform's lock held since before the batch ran. */
pid_t akvm__mapper_value(struct akvm__ptrace *ptrace);
int akvm__mapper_page(struct akvm__ptrace *ptrace, struct akvm__mapper *mapper);
/* Kill it, if there is one; its page is free when it is gone. Platform's lock held. */
void akvm__mapper_end(struct akvm__ptrace *ptrace, struct akvm__mapper *mapper);
/* Fork the first mapper off this process, if there is none. Thread: a vCPU's, because stubs die with it. */
int akvm__zygote_start(struct akvm__ptrace *ptrace);
/* Unless it is 0. */
void akvm__process_kill(pid_t pid);
bool akvm__process_is_gone(pid_t pid);
/* Kill a process and have it reaped later. Platform's lock held. */
void akvm__process_end(struct akvm__ptrace *ptrace, pid_t pid);
/* Reap what was killed; wait for it if `wait`, at most some seconds. Platform's lock held. */
void akvm__processes_reap(struct akvm__ptrace *ptrace, bool wait);

/* stub.c */
/* The stub of a space, made if need be, current, and not to be dropped until akvm__stub_leave(). Space's lock held. */
int akvm__stub_enter(struct akvm__vcpu *vcpu, struct akvm_space *space, struct akvm__stub **stub);
void akvm__stub_leave(struct akvm__vcpu *vcpu, struct akvm__stub *stub);
/* Its task for this vCPU, made if need be. Space's lock held. */
int akvm__stub_task(struct akvm__vcpu *vcpu, struct akvm__stub *stub, struct akvm__stub_task **task);
/* Take away what the space's tables have lost. Space's lock held. */
int akvm__stub_refresh(struct akvm__stub *stub, struct akvm_space *space);
/* Show what the space's tables have at `address`. Space's lock held. */
int akvm__stub_map(struct akvm__stub *stub, struct akvm_space *space, uint64_t address);
/* The stub is not what it should be: its processes end, and its space gets another. Space's lock held: nobody waits for its mapper. */
void akvm__stub_drop(struct akvm__ptrace *ptrace, struct akvm__stub *stub);
/* Whether that was done to the stub. */
bool akvm__stub_dropped(struct akvm__ptrace *ptrace, const struct akvm__stub *stub);
/* The space is gone. */
void akvm__stub_forget(void *machine, void *stub);
void akvm__stubs_close(struct akvm__ptrace *ptrace);

/* place.c. Where the vCPU's thread runs from now on: on one processor, or anywhere. */
void akvm__vcpu_settle(struct akvm__vcpu *vcpu, bool brief);
/* A process of a stub comes to where the vCPU is; *processor is where it was. */
void akvm__process_settle(struct akvm__vcpu *vcpu, pid_t pid, int *processor);

/* driver.c. A call on the vCPU's stub ended so: one that failed is of no use any more, and dropped. Returns `error`. */
int akvm__stub_judge(struct akvm__vcpu *vcpu, int error);
/* The vector state out of the vCPU's task, if it ran since it was last given or taken. */
int akvm__stub_save_vector_state(struct akvm__vcpu *vcpu, struct akvm__context *context);

/* stop.c */
enum akvm__event akvm__stub_decode(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm__run_outcome outcome);
int akvm__stub_explain(struct akvm__vcpu *vcpu, struct akvm__context *context);

/* task.c: what a vCPU's thread does with a task that it traces. 0 or -errno; -ESRCH when the task is gone. */
int akvm__task_seize(struct akvm__stub_task *task, pid_t pid);
/* Wait for it to stop, and look where. */
int akvm__task_wait(struct akvm__stub_task *task);
/* Let it run until it stops. */
int akvm__task_run(struct akvm__stub_task *task, int signal);
int akvm__task_set_registers(struct akvm__stub_task *task, const struct user_regs_struct *registers);
int akvm__task_get_vector_state(struct akvm__stub_task *task, void *image, uint32_t bytes, uint64_t components);
int akvm__task_set_vector_state(struct akvm__stub_task *task, void *image, uint32_t bytes);
/* What the host kernel knows about the exception that stopped it. Registers and vector state are lost. */
struct akvm__explanation {
	uint32_t vector, error_code;
	uint64_t address;
};
int akvm__task_explain(struct akvm__stub_task *task, struct akvm__explanation *explanation);

#endif
