/*
 * Guest frames: the pages guests own. One arena of host memory, cut into 2 MiB blocks; every 4 KiB frame has a count.
 *
 * Only ownership lives here. Who maps a frame, and whether somebody may still reach it, is the spaces' business: a frame is
 * dropped here only after no vCPU can.
 */
#ifndef AKVM_MM_FRAMES_H
#define AKVM_MM_FRAMES_H

#include <pthread.h>

#include "akvm/akvm.h"

enum { AKVM__SMALL = 1, AKVM__HUGE = 512 }; /* frames in a page of each size */

struct akvm__block;
struct akvm__budgets;
struct akvm_budget;

struct akvm__frames {
	pthread_mutex_t lock;
	/* Constant after create. */
	uint8_t *base;
	int fd; /* the file they are, or -1 */
	uint64_t bytes;
	uint32_t blocks_total;
	uint32_t dirty_max; /* free blocks kept with host memory behind them */
	struct akvm__budgets *budgets;
	/* Guarded by lock. */
	struct akvm__block *blocks;
	uint32_t *counts; /* mappings (of any space) and limbo entries that hold each frame */
	uint16_t *payers; /* number of the budget each frame is charged to */
	uint32_t fresh, dirty, partial;
	uint32_t dirty_blocks;
	uint64_t used; /* frames with a count */
};

/* bytes: a multiple of 2 MiB; shared: the pages of a file, for others to map; budgets: those that frames will be charged to. 0 or -errno. */
int akvm__frames_create(struct akvm__frames *frames, uint64_t bytes, bool shared, struct akvm__budgets *budgets);
void akvm__frames_free(struct akvm__frames *frames);
/* One page of `size` frames with a count of one each, charged to `budget`, which may be NULL; filled with zeroes when `zero`, else
 * with anything. -ENOMEM, or -EDQUOT when the budget has no room. */
int akvm__frames_take(struct akvm__frames *frames, uint32_t size, bool zero, struct akvm_budget *budget, uint64_t *gpa);
/* One count more, or less, on each of `size` frames that lie in one block. The last count frees a frame. */
void akvm__frames_hold(struct akvm__frames *frames, uint64_t gpa, uint32_t size);
void akvm__frames_drop(struct akvm__frames *frames, uint64_t gpa, uint32_t size);
/* Their only holder is about to drop them: charge nobody from now on. Frames that others hold too stay charged. */
void akvm__frames_discharge(struct akvm__frames *frames, uint64_t gpa, uint32_t size);
/* Every one of them has a count of one. Stays true while the caller holds the lock of the space that has that count. */
bool akvm__frames_exclusive(struct akvm__frames *frames, uint64_t gpa, uint32_t size);
uint8_t *akvm__frames_host(const struct akvm__frames *frames, uint64_t gpa);
uint64_t akvm__frames_used(struct akvm__frames *frames);

/* Private anonymous memory aligned to 2 MiB, not inherited by fork. 0 or -errno. */
int akvm__arena_map(uint64_t bytes, const char *operation, void **arena);

#endif
