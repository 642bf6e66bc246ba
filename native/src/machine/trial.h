/*
 * Running guests while a machine opens, to see what its platform really does: one space with the code of guest/stubs.S, one context,
 * on the first vCPU. What is tried and what follows from it is each driver's own.
 *
 * Thread: the one that opens the machine, all of it.
 */
#ifndef AKVM_TRIAL_H
#define AKVM_TRIAL_H

#include <stdbool.h>

#include "machine/machine.h"

/* Where each program begins, and where there are two pages of data: with a hole before them, so that their entries are small. */
enum { AKVM_TRIAL_SYSCALL = 0, AKVM_TRIAL_INT80 = 16, AKVM_TRIAL_LOAD = 32, AKVM_TRIAL_CPUID = 64, AKVM_TRIAL_LOOP = 80 };
enum { AKVM_TRIAL_DATA = 0x10000000 };
enum { AKVM_VECTOR_BP = 3 };

struct akvm__trial {
	struct akvm_machine *machine;
	struct akvm_space *space;
	struct akvm_context *context;
};

int akvm__trial_prepare(struct akvm__trial *trial);
/* From `entry` until something ends it: the context says what. -errno when the platform failed. */
int akvm__trial_run(struct akvm__trial *trial, uint32_t entry, uint64_t rdi);
/* Wait for what was submitted. */
int akvm__trial_wait(struct akvm__trial *trial);
bool akvm__trial_stopped_at(const struct akvm__trial *trial, unsigned vector);
/* The capability: system calls answered on the vCPU's thread, from exit to entry. */
int akvm__trial_round_trip(struct akvm__trial *trial);
/* Give it all back; `wait`, until nothing of it is left. */
int akvm__trial_retire(struct akvm__trial *trial, bool wait);

#endif
