/*
 * The start-up probe: a space with a page of code and two of data, and a context in it.
 */
#ifndef AKVM_PROBE_H
#define AKVM_PROBE_H

#include <stdbool.h>

#include "akvm/akvm.h"

/* Entries of the code (guest/probe.S). */
enum { PROBE_SYSCALL = 0, PROBE_INT80 = 16, PROBE_LOAD = 32, PROBE_STORE = 48, PROBE_CPUID = 64, PROBE_LOOP = 80 };
enum { PROBE_DATA = 0x10000000, PROBE_PAGE = 4096 };
enum { PROBE_VECTOR_BP = 3, PROBE_VECTOR_UD = 6, PROBE_VECTOR_GP = 13 };

struct akvm__probe {
	struct akvm_machine *machine;
	struct akvm_space *space;
	struct akvm_context *context;
};

/* Run the context from that entry to its exit, or a ring-0 operation. 0 or -errno. */
int akvm__probe_run(struct akvm__probe *probe, uint32_t entry, uint64_t rdi, uint64_t rsi);
int akvm__probe_operate(struct akvm__probe *probe, uint32_t operation, uint64_t rcx, uint64_t rax);
bool akvm__probe_stopped_at(const struct akvm__probe *probe, unsigned vector);

#endif
