/*
 * What a space has let go of but a vCPU may still reach: frames, page-table pages, file references, in the order they went.
 *
 * Only the waiting room lives here; edits.c decides when the oldest may leave. Whoever makes a thing that must pass through
 * here one day reserves its place at once, so that unmapping never needs memory.
 */
#ifndef AKVM_MM_LIMBO_H
#define AKVM_MM_LIMBO_H

#include "akvm/akvm.h"

enum akvm__limbo_kind { AKVM__LIMBO_SMALL, AKVM__LIMBO_HUGE, AKVM__LIMBO_TABLE, AKVM__LIMBO_FILE };
#define AKVM__LIMBO_KIND 3ull /* the bits of an item that hold its kind; the rest is an address */

struct akvm__limbo {
	uint64_t *items;
	uint32_t count, capacity;
	uint32_t owed;              /* places reserved for what is still mapped */
	uint32_t sealed;            /* the first so many leave together ... */
	uint64_t sealed_generation; /* ... once every vCPU inside has seen this generation ... */
	bool sealed_edits;          /* ... and the edits that waited when they were sealed are in memory */
	uint64_t frames;
};

void akvm__limbo_free(struct akvm__limbo *limbo);
/* Make sure `extra` more places can be owed; -ENOMEM. */
int akvm__limbo_reserve(struct akvm__limbo *limbo, uint32_t extra);
/* Take up one owed place. `address`: GPA of a frame or table, or a file; a multiple of 4. */
void akvm__limbo_push(struct akvm__limbo *limbo, enum akvm__limbo_kind kind, uint64_t address);
/* Forget the sealed items, which their owner has released. */
void akvm__limbo_shift(struct akvm__limbo *limbo);

#endif
