/*
 * The arena of page-table pages, and what the host remembers of each.
 *
 * Only pages and their bookkeeping live here; what an entry means is pagetable.c's, how it changes edits.c's. A free page is
 * all zero, in memory and in the mirror; one that is not when it comes back is never handed out again.
 */
#ifndef AKVM_MM_TABLES_H
#define AKVM_MM_TABLES_H

#include <pthread.h>

#include "akvm/akvm.h"

enum { AKVM__ENTRIES = 512, AKVM__ENTRY_WORDS = AKVM__ENTRIES / 64, AKVM__USER_ENTRIES = 256 };
#define AKVM__NO_TABLE UINT32_MAX

/* Guarded by the lock of the space that owns the page; next_free by the tables lock. */
struct akvm__table {
	uint64_t dirty[AKVM__ENTRY_WORDS];  /* entries whose value in memory is not the intended one */
	uint64_t flight[AKVM__ENTRY_WORDS]; /* entries some vCPU is storing now */
	uint64_t base;                      /* the lowest address it maps */
	uint32_t next_dirty, next_flight, next_free;
	uint16_t used; /* intended entries that are not zero; of a root: in its lower half */
	bool queued;   /* on its space's list of dirty tables */
};

struct akvm__tables {
	pthread_mutex_t lock;
	/* Constant while any space exists. */
	uint64_t *real;     /* what the guest's CPU walks */
	uint64_t *mirror;   /* intended values while stores to present entries wait */
	uint64_t *intended; /* mirror with guest edits, else real: the host's own walks */
	uint64_t bytes;
	uint32_t total;
	bool guest_edits;
	uint64_t kernel[2]; /* entries 510 and 511 of every root */
	struct akvm__table *tables;
	/* Guarded by lock. */
	uint32_t free, roots_free; /* heads */
	uint32_t next_unused;      /* pages from here on were never handed out */
	uint32_t used;             /* pages in use, pooled roots not counted */
	uint32_t roots;            /* pages that are or were roots */
};

int akvm__tables_create(struct akvm__tables *tables, uint64_t bytes);
void akvm__tables_free(struct akvm__tables *tables);
/* An all-zero page; -ENOMEM. */
int akvm__tables_take(struct akvm__tables *tables, uint32_t *table);
/* A page whose lower half is zero and whose kernel half is complete. Such pages are roots for ever, and at most a quarter of
 * the arena. -ENOMEM. */
int akvm__tables_take_root(struct akvm__tables *tables, uint32_t *table);
void akvm__tables_drop(struct akvm__tables *tables, uint32_t table);
void akvm__tables_drop_root(struct akvm__tables *tables, uint32_t table);
/* Entries 510 and 511 of `root`, the only one yet, and of all roots taken later. */
void akvm__tables_kernel_half(struct akvm__tables *tables, uint32_t root, uint64_t entry_510, uint64_t entry_511);
void akvm__tables_guest_edits(struct akvm__tables *tables, bool guest_edits);
uint32_t akvm__tables_used(struct akvm__tables *tables);

uint64_t akvm__tables_gpa(uint32_t table);
uint32_t akvm__tables_index(uint64_t entry); /* the page an intermediate entry points to */
uint64_t *akvm__tables_real(const struct akvm__tables *tables, uint32_t table);
uint64_t *akvm__tables_intended(const struct akvm__tables *tables, uint32_t table);

#endif
