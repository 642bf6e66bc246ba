/*
 * Guest memory: frames, page tables, regions, faults, copies, edits. Internal interface towards src/machine and src/vcpu.
 *
 * This folder knows nothing of vCPUs or ioctls; the machine hands it the hooks below. Lock order: a space's lock, then one of
 * the locks of frames, tables, files or the list of spaces. Hooks are called with a space's lock held (set_slot: the files
 * lock too) and take none of them.
 */
#ifndef AKVM_MM_H
#define AKVM_MM_H

#include <stdbool.h>
#include <sys/uio.h>

#include "akvm/akvm.h"

struct akvm__mm;

struct akvm__mm_hooks {
	void *opaque;
	/* Translations outlive a guest's stay in a space (shadow.c): frames are those of a file, and accounts are kept. */
	bool shadowed;
	/* Back [gpa, gpa+bytes) by host memory; bytes 0 removes the slot. 0 or -errno. */
	int (*set_slot)(void *opaque, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes);
	/* The space changed (its generation rose): interrupt every vCPU inside it. Must not block. */
	void (*interrupt)(void *opaque, struct akvm_space *space);
	/* No vCPU is inside `space` that entered before it reached `generation`. One that serves a fault is not inside. */
	int (*settled)(void *opaque, struct akvm_space *space, uint64_t generation);
	/* The space that `shadow` was kept for is gone; only with `shadowed`. Must not block. */
	void (*forget)(void *opaque, void *shadow);
	/* A space waits for akvm__mm_reap_next(): have some vCPU thread call it soon. Must not block. */
	void (*reap)(void *opaque);
};

enum { AKVM_SLOT_KERNEL, AKVM_SLOT_TABLES, AKVM_SLOT_FRAMES, AKVM_SLOT_FILES };

/* Maps the arenas and sets their slots. memory_bytes: whole 2 MiB, at most 240 GiB; fault_around_pages: a power of two up to
 * 64; file slots are numbered AKVM_SLOT_FILES..slots_max-1. -EINVAL, or the -errno of what failed. */
int akvm__mm_create(const struct akvm__mm_hooks *hooks, uint64_t memory_bytes, uint32_t fault_around_pages, uint32_t slots_max,
		    struct akvm__mm **mm);
/* After the vCPUs are gone. Spaces die with it and slots are left to the VM's own end; files that callers still hold become
 * empty shells, to be closed as ever. */
void akvm__mm_free(struct akvm__mm *mm);
/* After the tables arena exists and before the first space: the kernel half's top-level entries, copied into every root. */
void akvm__mm_kernel_half(struct akvm__mm *mm, uint64_t entry_510, uint64_t entry_511);
/* A table page for the kernel half, zeroed, never freed: its GPA and host address; 0 when none is left. */
uint64_t akvm__mm_kernel_table(struct akvm__mm *mm, uint64_t **host);
/* 1 (the start): present entries change only by ring-0 stores. 0: host stores do. Only while no space exists. */
void akvm__mm_guest_edits(struct akvm__mm *mm, int guest_edits);
void akvm__mm_status(struct akvm__mm *mm, struct akvm_memory_status *status);
/* GPA of the root without lower half, for vCPUs that have no space. */
uint64_t akvm__mm_kernel_root(struct akvm__mm *mm);

int akvm__space_create(struct akvm__mm *mm, struct akvm_space **space);
int akvm__mm_budget_create(struct akvm__mm *mm, uint64_t pages, struct akvm_budget **budget);
int akvm__file_open(struct akvm__mm *mm, int fd, bool writable, uint64_t bytes, struct akvm_file **file);

/* What a vCPU needs to enter a space. Id: unique for the life of the machine, never 0. */
uint64_t akvm__space_id(const struct akvm_space *space);
uint64_t akvm__space_root(const struct akvm_space *space);       /* GPA for CR3 */
uint64_t akvm__space_generation(const struct akvm_space *space); /* atomic read; rises with each change of a present entry */
void akvm__space_lock(struct akvm_space *space);
void akvm__space_unlock(struct akvm_space *space);

/* Changes waiting for a ring-0 store (always none with host edits). Both with the space's lock held, and held from take to done.
 * take: serialise up to `words` 8-byte words (at least 3) as runs of [destination virtual address][count][count values],
 * coalescing neighbours; returns the words written and *runs; 0 when nothing waits. A batch that is not reported done before
 * the next take waits again, whole. done: those of the last take are in guest memory. */
uint32_t akvm__space_edits_take(struct akvm_space *space, uint64_t *payload, uint32_t words, uint32_t *runs);
void akvm__space_edits_done(struct akvm_space *space);
int akvm__space_edits_pending(const struct akvm_space *space); /* atomic read, any thread */

/* Where the bytes from `address` on are stored, at most `length` of them, as long as they lie in pages that are there, may be
 * written and are this space's alone: at most `max` parts for readv(2). Returns how many; 0 when the first page is no such. With the
 * space's lock held, and held until nobody stores there any more. */
uint32_t akvm__space_own_parts(struct akvm_space *space, uint64_t address, uint64_t length, struct iovec *parts, uint32_t max);

/* For platforms with `shadowed`. All with the space's lock held. */
struct akvm__range {
	uint64_t start, end;
};
/* Ranges with pages that the space lost, or lost rights to, since the last stale_done. */
uint32_t akvm__space_stale(const struct akvm_space *space, const struct akvm__range **ranges);
void akvm__space_stale_done(struct akvm_space *space);
/* Where the platform keeps what it knows of the space; NULL at first. */
void **akvm__space_shadow(struct akvm_space *space);
/* What the tables say about `address`, and about all around it that lies in a row in one host file with the same rights. False
 * when nothing is there. The descriptor is good as long as the lock is held. */
struct akvm__translation {
	uint64_t address, length, offset;
	uint32_t access;
	int fd;
};
bool akvm__space_translation(struct akvm_space *space, uint64_t address, struct akvm__translation *translation);
/* The page at `address` of a private view becomes the space's own copy, as if it had been stored to. Returns enum akvm_fault. */
int akvm__space_copy_page(struct akvm_space *space, uint64_t address);
/* For hosts that do not tell stores from loads: the one to try first. AKVM_READ or AKVM_WRITE. */
uint32_t akvm__space_likely_access(struct akvm_space *space, uint64_t address);

/* Serve a page fault at `address` for an access of AKVM_READ/WRITE/EXECUTE. Returns enum akvm_fault: NONE when the guest may
 * retry, also when the fault must come again because a copy waits until other vCPUs have seen the page become read-only.
 * MEMORY although destroyed spaces still wait to be reaped: it does not wait for them. Entries decide, not
 * the error code's present bit: they may have changed since. Takes the space's lock. */
int akvm__space_fault(struct akvm_space *space, uint64_t address, uint32_t access);
/* Take away the pages of files that lie beyond their present end, so that the next touch faults and is told BUS; returns how
 * many there were. For a host page that could not be had: only the guest's own fault tells the exact address. */
uint64_t akvm__space_trim(struct akvm_space *space);

/* Spaces that need a vCPU: destroyed ones, whose tables must be cleared first, and living ones with much memory waiting for
 * edits that nobody has come to make. The next one, or NULL; then take/done as above until nothing is left, then reap_done,
 * which frees a destroyed one or, when it is not settled yet, queues it again. No space is handed out twice at a time; one
 * that never comes to reap_done is lost until the machine closes. Thread: vcpu, inside no space. */
struct akvm_space *akvm__mm_reap_next(struct akvm__mm *mm);
void akvm__mm_reap_done(struct akvm__mm *mm, struct akvm_space *space);
/* Its tables could not be cleared: it waits for the next who asks for a reaping. */
void akvm__mm_reap_failed(struct akvm__mm *mm, struct akvm_space *space);
/* Out of memory: wait a little for that of dead spaces. True when it is worth another try. Holding no lock. Thread: any. */
bool akvm__reap_wait(struct akvm__mm *mm);
/* How many spaces, destroyed or living, have memory that a reaping is to give back. Thread: any. */
uint32_t akvm__mm_reaping(struct akvm__mm *mm);

#endif
