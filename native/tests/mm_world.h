/*
 * A machine without KVM for the guest-memory tests: slots, CPUs that walk the real page tables, and both kinds of host.
 *
 * With guest edits a present entry is remembered when a CPU first walks it and host stores to it are never noticed, as with
 * shadow paging; only a store through the window on the tables is. Each CPU has a small TLB that is flushed as CR3 loads do,
 * and checks that what it can still reach through a stale entry is not reused.
 */
#ifndef AKVM_TEST_MM_WORLD_H
#define AKVM_TEST_MM_WORLD_H

#include "mm/space.h"

enum { WORLD_CPUS = 3, WORLD_SLOTS = 64, WORLD_TLB = 8 };

struct world_line {
	uint64_t page, entry, hash; /* virtual page number; leaf entry as a 4 KiB one */
	bool valid, stale;
};

struct world_cpu {
	struct akvm_space *space; /* inside it, or NULL */
	uint64_t generation;      /* of the space when it entered */
	uint64_t tlb_space, tlb_generation;
	bool interrupted;
	struct world_line tlb[WORLD_TLB];
};

struct world_slot {
	uint64_t gpa, bytes;
	uint8_t *host;
	int read_only;
};

struct world {
	struct akvm__mm *mm;
	struct world_slot slots[WORLD_SLOTS];
	struct world_cpu cpus[WORLD_CPUS];
	uint64_t *shadow; /* one for each entry of the tables arena */
	unsigned interrupts, reaps, forgotten;
	void *forgot;              /* the last one */
	unsigned payload_words;    /* room for one batch of edits */
	bool unsettled;            /* answer "not settled" whatever the CPUs do */
	int slot_error;            /* what set_slot returns, 0 to work */
	unsigned long long random; /* not 0: now and then drop a batch half way */
};

void world_open(struct world *world, uint64_t memory_bytes, uint32_t fault_around, bool guest_edits);
/* One whose translations outlive a guest's stay: shadow.c. Host stores change its tables. */
void world_open_shadowed(struct world *world, uint64_t memory_bytes, uint32_t fault_around);
/* Reap, and check that nothing is left in use. */
void world_close(struct world *world);
/* Carry out edits as ring 0 does. */
void world_apply(struct world *world, struct akvm_space *space);
/* Take a batch, carry it out in part, and never say so: what a vCPU that fails half way leaves behind. */
void world_drop_edits(struct world *world, struct akvm_space *space);
void world_reap(struct world *world);
void world_enter(struct world *world, struct world_cpu *cpu, struct akvm_space *space);
void world_leave(struct world_cpu *cpu);
/* Access memory as ring 3 does, with page faults served; returns enum akvm_fault, and in *done the bytes before the fault. */
int world_access(struct world *world, struct world_cpu *cpu, struct akvm_space *space, uint64_t address, void *buffer,
		 uint64_t length, uint32_t access, uint64_t *done);
/* No CPU can see, through any stale translation, anything but what was there. */
void world_check_stale(struct world *world);
/* The entry a fresh walk of the real tables finds (0: not present), and the host address behind it. */
uint64_t world_walk(struct world *world, struct akvm_space *space, uint64_t address);
uint8_t *world_host(struct world *world, uint64_t gpa);
/* A memory file with `length` bytes, byte i being world_file_byte(i). */
int world_file(uint64_t length);
uint8_t world_file_byte(uint64_t offset);

#endif
