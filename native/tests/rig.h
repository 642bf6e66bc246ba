/*
 * A machine on the fake KVM and the few moves every test makes with it.
 */
#ifndef AKVM_TESTS_RIG_H
#define AKVM_TESTS_RIG_H

#include "akvm/akvm.h"
#include "fake_kvm.h"
#include "t.h"

enum { RIG_CONTEXTS = 128, RIG_PAGE = 4096 };

/* A page of machine code that each space has. */
enum {
	RIG_CODE = 0x400000,
	RIG_SYSCALL = RIG_CODE,        /* syscall; int3 */
	RIG_INT80 = RIG_CODE + 16,     /* int $0x80; int3 */
	RIG_LOAD = RIG_CODE + 32,      /* rax = *rdi; int3 */
	RIG_STORE = RIG_CODE + 48,     /* *rdi = rsi; int3 */
	RIG_SPIN = RIG_CODE + 64,      /* for ever */
	RIG_READ = RIG_CODE + 80,      /* rax = *rdi, for ever */
	RIG_CPUID = RIG_CODE + 96,     /* cpuid; int3 */
	RIG_SYSCALLS = RIG_CODE + 112, /* rbx system calls number 0; int3 */
};

/* Busily, because what is waited for is another thread's next step; at most some seconds. */
#define RIG_UNTIL(condition)                                             \
	do {                                                             \
		for (uint64_t rig_until = rig_deadline(); !(condition);) \
			rig_go_on_waiting(rig_until);                    \
	} while (0)
uint64_t rig_deadline(void);
/* Ends the test when the deadline is past. */
void rig_go_on_waiting(uint64_t deadline);

struct rig {
	struct akvm_machine *machine;
	struct akvm_space *space;
	struct akvm_context *contexts[RIG_CONTEXTS]; /* by index */
};

/* Installs a fake of this kind (NULL: the default) and opens a machine with one space that has the code. */
void rig_open(struct rig *rig, const struct fake_options *options, uint32_t vcpus);
void rig_close(struct rig *rig);
/* A machine configuration that fits the fake. */
struct akvm_machine_config rig_config(uint32_t vcpus);

/* A context in rig->space at FAKE_SCRIPT + offset. */
struct akvm_context *rig_context(struct rig *rig, uint64_t offset);
/* Map the page of code into a space. */
void rig_code(struct akvm_space *space);
/* A new space with the code and `pages` pages of data at `address`. */
struct akvm_space *rig_space(struct rig *rig, uint64_t address, uint32_t pages);
/* Run a piece of the page of code to its exit. */
void rig_execute(struct rig *rig, struct akvm_context *context, uint32_t vcpu, uint64_t rip, uint64_t rdi, uint64_t rsi);
void rig_submit(struct akvm_context *context, uint32_t vcpu);
/* The next completion, by the doorbell, at most some seconds. */
struct akvm_context *rig_wait(struct rig *rig);
/* No completion is there now. */
void rig_expect_none(struct rig *rig);
/* Submit and wait for that very context. */
void rig_run(struct rig *rig, struct akvm_context *context, uint32_t vcpu);
/* The vCPU that runs the context now; waits until one does. */
uint32_t rig_wait_running(struct rig *rig, struct akvm_context *context, uint32_t vcpus);
struct akvm_vcpu_status rig_status(struct rig *rig, uint32_t vcpu);

#endif
