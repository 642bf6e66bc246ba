/*
 * What is mapped where in one space: a sorted array of regions that do not overlap. Pure: no pages, no locks, no references.
 *
 * Every edit that can run out of memory is preceded by akvm__regions_reserve(), so that the edits themselves cannot fail.
 */
#ifndef AKVM_MM_REGIONS_H
#define AKVM_MM_REGIONS_H

#include "akvm/akvm.h"

/* As Linux bounds a process (vm.max_map_count). */
enum { AKVM__REGIONS_MAX = 65536 };

struct akvm__vma {
	uint64_t start, end;
	uint64_t offset;        /* of start in the file */
	struct akvm_file *file; /* NULL: anonymous. One reference for each region */
	uint32_t access;        /* AKVM_READ | AKVM_WRITE | AKVM_EXECUTE */
	bool shared;            /* stores go to the file */
	bool stable;            /* the file will not change: its pages may be copied before they are written */
};

struct akvm__regions {
	struct akvm__vma *array;
	uint32_t count, capacity;
};

void akvm__regions_free(struct akvm__regions *regions);
/* Room for `extra` more regions; -ENOMEM. */
int akvm__regions_reserve(struct akvm__regions *regions, uint32_t extra);
/* Index of the first region with end > address; count when there is none. */
uint32_t akvm__regions_find(const struct akvm__regions *regions, uint64_t address);
/* The region that holds address, or NULL. */
struct akvm__vma *akvm__regions_at(const struct akvm__regions *regions, uint64_t address);
/* [start, end) lies in regions without a hole. */
bool akvm__regions_cover(const struct akvm__regions *regions, uint64_t start, uint64_t end);
/* Bytes of [start, end) that lie in regions. */
uint64_t akvm__regions_mapped(const struct akvm__regions *regions, uint64_t start, uint64_t end);
/* The lowest multiple of `alignment`, a power of two, in [start, end) from which `length` bytes up to `end` lie in no region; 0 when
 * there is none. */
uint64_t akvm__regions_room(const struct akvm__regions *regions, uint64_t start, uint64_t end, uint64_t length,
			    uint64_t alignment);
/* Put a boundary at address. Returns the file that now has one reference too few, or NULL. Needs room for one. */
struct akvm_file *akvm__regions_split(struct akvm__regions *regions, uint64_t address);
/* Remove regions [first, last). */
void akvm__regions_remove(struct akvm__regions *regions, uint32_t first, uint32_t last);
/* Insert where nothing is; returns its index. Needs room for one. */
uint32_t akvm__regions_insert(struct akvm__regions *regions, const struct akvm__vma *vma);
/* Regions [first, last) go `distance` (modulo 2^64) further, to where nothing is. Needs room for as many. */
void akvm__regions_move(struct akvm__regions *regions, uint32_t first, uint32_t last, uint64_t distance);
/* Join neighbours among regions [first, last] that are one mapping in pieces, in one pass. `joined` is told of each file that
 * then has one reference too many. */
void akvm__regions_join(struct akvm__regions *regions, uint32_t first, uint32_t last,
			void (*joined)(void *opaque, struct akvm_file *file), void *opaque);

#endif
