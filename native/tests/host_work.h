/*
 * What a machine is put through while calls of its host fail: each step uses the core the way a caller does, reports whatever
 * is refused to faults_show(), and checks that everything else is exact.
 *
 * The guests are a few instructions that the fake KVM knows too, so the same steps run on a real one.
 */
#ifndef AKVM_TESTS_HOST_WORK_H
#define AKVM_TESTS_HOST_WORK_H

#include <stdbool.h>

#include "akvm/akvm.h"

enum { WORK_VCPUS = 2, WORK_CONTEXTS = 32 };

/* An address space with code and some data, and a context in it. */
struct work_guest {
	struct akvm_space *space;
	struct akvm_context *context;
};

struct work {
	struct akvm_machine *machine;
	bool fake; /* scripts and cuts are to be had */
	struct akvm_context *contexts[WORK_CONTEXTS];
	unsigned contexts_count;
	bool rescued;                /* somebody had to be got off a vCPU: no exit is unexpected any more */
	struct work_guest bystander; /* of whom nothing that fails is the business */
	uint64_t frames;             /* that he has */
};

struct akvm_machine_config work_config(uint32_t flags);
/* On an open machine; nothing may fail. */
void work_begin(struct work *work, struct akvm_machine *machine, bool fake);
/* Give the vCPU threads some time to reap what the step left. */
void work_linger(struct work *work);
/* Wait until every space but the bystander's has given its memory back; nothing may fail. */
void work_settle(struct work *work);
/* The steps by number. */
extern const unsigned work_steps;
const char *work_step_name(unsigned step);
void work_step(struct work *work, unsigned step);
/* Guests that compute for ever, on each vCPU: for a machine that is about to close. */
void work_spin(struct work *work);

#endif
