/*
 * The state of a space and of the memory manager, shared by the files of this folder and by nobody else.
 */
#ifndef AKVM_MM_SPACE_H
#define AKVM_MM_SPACE_H

#include <pthread.h>

#include "budget.h"
#include "files.h"
#include "frames.h"
#include "limbo.h"
#include "mm.h"
#include "pagetable.h"
#include "regions.h"
#include "tables.h"

/* Relaxed atomics. */
struct akvm__mm_counters {
	uint64_t faults, cow_copies, huge_splits, edits, huge_mapped, small_mapped, limbo_frames;
};

struct akvm__mm {
	/* Constant. */
	struct akvm__mm_hooks hooks;
	uint32_t fault_around;
	uint32_t kernel_root;
	struct akvm__frames frames;
	struct akvm__tables tables;
	struct akvm__files files;
	struct akvm__budgets budgets;
	struct akvm__mm_counters counters;
	/* The lock guards what is below and the list fields of spaces; taken last. */
	pthread_mutex_t spaces_lock;
	struct akvm_space *spaces;
	struct akvm_space *reap_first, *reap_last;
	_Atomic uint32_t reaping; /* spaces that wait to be reaped, or are being */
	uint64_t spaces_count, last_id;
};

/* What shadow.c keeps. */
enum { AKVM__STALE_MAX = 16 };
struct akvm__stale {
	struct akvm__range ranges[AKVM__STALE_MAX];
	uint32_t count;
};

enum akvm__reap_state { AKVM__REAP_NONE, AKVM__REAP_QUEUED, AKVM__REAP_BUSY };

struct akvm_space {
	/* Constant. */
	struct akvm__mm *mm;
	uint64_t id;
	uint32_t root;
	/* Atomic: written with the lock held, read by vCPUs as they enter. */
	uint64_t generation;
	uint32_t pending; /* edits wait */
	/* The lock guards what is below. */
	pthread_mutex_t lock;
	struct akvm__regions regions;
	struct akvm__limbo limbo;
	uint64_t resident, limit;                       /* frames of private pages; limit 0: none */
	uint64_t tables;                                /* table pages below the root: they count against the limit */
	struct akvm_budget *budget;                     /* NULL: none */
	uint32_t dirty_first, dirty_last, flight_first; /* tables with entries that wait, or are being stored */
	struct akvm__stale stale;
	void *shadow;       /* the platform's */
	bool changed;       /* a present entry changed since the generation last rose */
	bool dead, cleared; /* destroyed; and its pages are unmapped */
	/* Guarded by mm->spaces_lock. */
	struct akvm_space *next, *previous, *reap_next;
	uint8_t reap; /* enum akvm__reap_state */
};

static inline void akvm__mm_count(uint64_t *counter, uint64_t amount)
{
	__atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

/* Every operation on a space runs between these: lock and release what limbo may release; publish changes and unlock. */
void akvm__space_begin(struct akvm_space *space);
void akvm__space_end(struct akvm_space *space);

/* edits.c */
void akvm__entry_set(struct akvm_space *space, struct akvm__place place, uint64_t value);
/* Raise the generation and interrupt vCPUs inside when a present entry changed; then release what may be released. */
void akvm__space_publish(struct akvm_space *space);
void akvm__limbo_drain(struct akvm_space *space);

/* shadow.c. An entry changes. */
void akvm__shadow_note(struct akvm_space *space, struct akvm__place place, uint64_t old, uint64_t value);

/* fault.c. The page at `address`, which lies in `vma`, is there afterwards, and for AKVM__PAGE_WRITE is shared memory or this
 * space's alone: its entry goes to *entry. Protection is the caller's to check. With AKVM__PAGE_GUEST it may return AKVM_FAULT_NONE without
 * having done so, when the guest must come back once the space is settled. Returns enum akvm_fault. */
enum { AKVM__PAGE_WRITE = 1, AKVM__PAGE_GUEST = 2 };
int akvm__page_in(struct akvm_space *space, struct akvm__vma *vma, uint64_t address, uint32_t flags, uint64_t *entry);

/* space.c */
int akvm__space_new(struct akvm__mm *mm, struct akvm_space **space);
/* A space without tables gets a budget, or none. */
void akvm__space_join(struct akvm_space *space, struct akvm_budget *budget);
/* 0, or -EINVAL for a range that is not whole pages of user space. */
int akvm__range_check(uint64_t address, uint64_t length);
/* Make `address` a boundary between regions; needs room for one, and for one reference in limbo. */
void akvm__range_cut(struct akvm_space *space, uint64_t address);
/* Regions between two boundaries go, and with them their references; their pages are gone already. */
void akvm__range_forget(struct akvm_space *space, uint64_t start, uint64_t end);
/* Join whatever can be joined from the region before `start` up to the one at `end`. */
void akvm__range_join(struct akvm_space *space, uint64_t start, uint64_t end);
/* Unmap everything and forget the regions. */
void akvm__space_clear(struct akvm_space *space);

/* reap.c */
void akvm__reap_request(struct akvm_space *space);
/* Free a space that has nothing left, in memory or in limbo. */
void akvm__space_free(struct akvm_space *space);
/* Free what the host holds for a space whose machine is gone. */
void akvm__space_abandon(struct akvm_space *space);

#endif
