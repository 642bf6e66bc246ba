/*
 * A guest thread as the core sees it: the public record plus what only the core may touch.
 */
#ifndef AKVM_CONTEXT_H
#define AKVM_CONTEXT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "akvm/akvm.h"

struct akvm__vcpu;

/* MXCSR in an XSAVE image (SDM vol. 1 §13.4.1), and the bits it may have set. */
enum { AKVM_XSAVE_MXCSR = 24, AKVM_MXCSR_VALID = 0xffff };

/* Loaded by user code with MOV to a segment register; bases of FS and GS live in the public part. */
struct akvm__selectors {
	uint16_t ds, es, fs, gs;
};

struct akvm__context {
	struct akvm_context pub; /* first: the two are cast into each other */
	struct akvm_machine *machine;

	/* Owned by the loop while not submitted, by the running vCPU thread while submitted. */
	struct akvm_space *space;
	struct akvm_answers *answers;
	struct akvm_direct_files *direct_files; /* NULL, or a reference */
	struct akvm__selectors selectors;
	uint32_t restore;       /* enum akvm_restore of the next entry: the caller's, unless this run goes on amid its code */
	uint32_t operation;     /* 0: run the guest; else 1 + enum akvm_operation */
	bool pinned;            /* only this mailbox's owner may take it */
	uint32_t mailbox;       /* where it was submitted */
	void *xsave;            /* FP/vector image, current unless some vCPU holds the state */
	uint64_t xsave_version; /* of the image, unique in the machine: for who has a copy of it elsewhere */

	/* The vCPU whose registers hold the FP state, or NULL. Changed under that vCPU's lock. */
	_Atomic(struct akvm__vcpu *) resident;
	/* The vCPU that runs it now, or NULL. Pairs with interrupt: see kick.c. */
	_Atomic(struct akvm__vcpu *) running;
	/* generation << 32 | AKVM_INTERRUPT_* */
	_Atomic uint64_t interrupt;
};

/* System calls whose answer is a constant. */
struct akvm_answers {
	uint64_t known[AKVM_ANSWERS_MAX / 64];
	int64_t values[AKVM_ANSWERS_MAX];
};

static inline struct akvm__context *akvm__context(struct akvm_context *context)
{
	return (struct akvm__context *)context;
}

/* The record and what it holds, when no vCPU knows it any more. */
void akvm__context_free(struct akvm__context *context);

/* Interrupts requested for the current run. */
static inline uint32_t akvm__context_interrupts(struct akvm__context *context)
{
	uint64_t word = atomic_load(&context->interrupt);

	return (uint32_t)(word >> 32) == context->pub.generation ? (uint32_t)word : 0;
}

#endif
