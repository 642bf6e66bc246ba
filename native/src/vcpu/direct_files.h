/*
 * Files of the host that vCPU threads read for their guests: see akvm.h. Internal to src/vcpu and src/machine.
 */
#ifndef AKVM_DIRECT_FILES_H
#define AKVM_DIRECT_FILES_H

#include <stdbool.h>

#include "akvm/akvm.h"

struct akvm__vcpu;
struct akvm__context;

/* How much of a file is on its way to a guest at a time: little enough to stay in the processor's cache. */
enum { AKVM_BOUNCE_BYTES = 64 << 10 };

/* Answer the system call at which the context stands, if it is one on a direct file and there is nothing unusual about it. False:
 * the caller's to answer, and nothing was done. Thread: the vCPU's. */
bool akvm__direct_call(struct akvm__vcpu *vcpu, struct akvm__context *context);

#endif
