/*
 * A machine on the ptrace platform and the real kernel, moved as rig.h moves one on the fake KVM; and what its stubs look like from
 * outside.
 */
#ifndef AKVM_TESTS_PTRACE_RIG_H
#define AKVM_TESTS_PTRACE_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rig.h"

enum { PTRACE_CODE = 0x10000000, PTRACE_DATA = 0x20000000, PTRACE_DATA_PAGES = 16 };
enum { PTRACE_STACK = PTRACE_DATA + PTRACE_DATA_PAGES * RIG_PAGE };

/* Pieces of ptrace_guest.S, and where each lies in a guest. */
extern const uint8_t guest_code[], guest_end[];
#define PTRACE_AT(label) (PTRACE_CODE + (uint64_t)((label)-guest_code))

/* Ends the test as one that cannot run here, where no process may trace another. */
void ptrace_need(void);
/* rig->space has the code and some data, as each ptrace_space() has. */
void ptrace_open(struct rig *rig, uint32_t vcpus);
/* Nothing may be left: no process, no descriptor, no mapping. */
void ptrace_close(struct rig *rig);
/* Nothing of a machine is left: no process, no descriptor, no mapping. */
void ptrace_closed(void);
struct akvm_space *ptrace_space(struct rig *rig);
struct akvm_context *ptrace_context(struct rig *rig, struct akvm_space *space);
/* To its next exit from `label` on; NULL to go on where it is. */
void ptrace_run(struct rig *rig, struct akvm_context *context, uint32_t vcpu, const uint8_t *label);
/* Off its vCPU, by a single interrupt; what else happened meanwhile is an error. */
void ptrace_interrupt(struct rig *rig, struct akvm_context *context);
/* Until no vCPU is in the space with what it has lost. */
void ptrace_settle(struct akvm_space *space);

/* The processes there are now. Return 0 where there is none. Thread: any. */
pid_t ptrace_zygote(struct rig *rig);
pid_t ptrace_mapper(struct rig *rig, uint32_t stub);
pid_t ptrace_task(struct rig *rig, uint32_t stub, uint32_t vcpu);
uint32_t ptrace_stubs(struct rig *rig);
/* Of this process, whatever their state; at most `max` of them go to *pids, unless NULL. */
uint32_t ptrace_children(pid_t *pids, uint32_t max);

#endif
