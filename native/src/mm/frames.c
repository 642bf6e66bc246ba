/*
 * The frames arena: see frames.h.
 *
 * Free memory is kept in whole blocks as long as possible, because a 2 MiB page is a hundred times cheaper to touch first than
 * its 512 small ones. Free blocks beyond a watermark go back to the host, which hands them out zeroed again.
 */
#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "akvm/layout.h"
#include "budget.h"
#include "host/host.h"

#define PAGE_SHIFT  12
#define PAGE_BYTES  4096u
#define BLOCK_BYTES (AKVM__HUGE * (uint64_t)PAGE_BYTES)
#define NONE        UINT32_MAX

enum { WORDS = AKVM__HUGE / 64, DIRTY_BLOCKS_MIN = 8 };

enum block_list { LIST_NONE, LIST_FRESH, LIST_DIRTY, LIST_PARTIAL };

struct akvm__block {
	uint64_t free[WORDS];  /* frames without a count */
	uint64_t clean[WORDS]; /* those of them known to be zero; means nothing for the others */
	uint32_t next, previous;
	uint16_t free_count;
	uint8_t list; /* enum block_list */
};

static void trim(uint8_t *from, uint8_t *to)
{
	if (to > from)
		AKVM__HOST->munmap(from, (size_t)(to - from));
}

int akvm__arena_map(uint64_t bytes, const char *operation, void **arena)
{
	uint64_t whole = bytes + BLOCK_BYTES;
	uint8_t *raw = AKVM__HOST->mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *base;

	if (raw == MAP_FAILED)
		return akvm__fail(operation, errno);
	base = (uint8_t *)(((uintptr_t)raw + BLOCK_BYTES - 1) & ~(uintptr_t)(BLOCK_BYTES - 1));
	trim(raw, base);
	trim(base + bytes, raw + whole);
	/* A forked host process must never hold guest memory; huge pages are a wish a kernel may not know. */
	if (AKVM__HOST->madvise(base, bytes, MADV_DONTFORK) != 0) {
		int error = akvm__fail(operation, errno);

		AKVM__HOST->munmap(base, bytes);
		return error;
	}
	(void)AKVM__HOST->madvise(base, bytes, MADV_HUGEPAGE);
	*arena = base;
	return 0;
}

static uint32_t *list_head(struct akvm__frames *frames, uint8_t list)
{
	return list == LIST_FRESH ? &frames->fresh : list == LIST_DIRTY ? &frames->dirty : &frames->partial;
}

static void list_remove(struct akvm__frames *frames, uint32_t index)
{
	struct akvm__block *block = &frames->blocks[index];

	if (block->list == LIST_NONE)
		return;
	if (block->previous == NONE)
		*list_head(frames, block->list) = block->next;
	else
		frames->blocks[block->previous].next = block->next;
	if (block->next != NONE)
		frames->blocks[block->next].previous = block->previous;
	if (block->list == LIST_DIRTY)
		frames->dirty_blocks--;
	block->list = LIST_NONE;
}

static void list_insert(struct akvm__frames *frames, uint32_t index, uint8_t list)
{
	struct akvm__block *block = &frames->blocks[index];
	uint32_t *head = list_head(frames, list);

	block->previous = NONE;
	block->next = *head;
	if (*head != NONE)
		frames->blocks[*head].previous = index;
	*head = index;
	block->list = list;
	if (list == LIST_DIRTY)
		frames->dirty_blocks++;
}

/* In place of the private memory, pages of a file that has no name. */
static int share(struct akvm__frames *frames)
{
	void *shared;

	frames->fd = AKVM__HOST->memfd("akvm-frames", frames->bytes);
	if (frames->fd < 0)
		return akvm__fail("memfd frames", errno);
	shared = AKVM__HOST->mmap(frames->base, frames->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, frames->fd, 0);
	if (shared == MAP_FAILED)
		return akvm__fail("mmap frames", errno);
	if (AKVM__HOST->madvise(frames->base, frames->bytes, MADV_DONTFORK) != 0)
		return akvm__fail("mmap frames", errno);
	return 0;
}

int akvm__frames_create(struct akvm__frames *frames, uint64_t bytes, bool shared, struct akvm__budgets *budgets)
{
	void *arena = NULL;
	int error;

	memset(frames, 0, sizeof(*frames));
	pthread_mutex_init(&frames->lock, NULL);
	frames->bytes = bytes;
	frames->fd = -1;
	frames->budgets = budgets;
	frames->blocks_total = (uint32_t)(bytes / BLOCK_BYTES);
	frames->dirty_max = frames->blocks_total / 8 > DIRTY_BLOCKS_MIN ? frames->blocks_total / 8 : DIRTY_BLOCKS_MIN;
	frames->fresh = frames->dirty = frames->partial = NONE;
	frames->blocks = AKVM__HOST->calloc(frames->blocks_total, sizeof(*frames->blocks));
	frames->counts = AKVM__HOST->calloc((size_t)frames->blocks_total * AKVM__HUGE, sizeof(*frames->counts));
	frames->payers = AKVM__HOST->calloc((size_t)frames->blocks_total * AKVM__HUGE, sizeof(*frames->payers));
	if (frames->blocks == NULL || frames->counts == NULL || frames->payers == NULL) {
		akvm__frames_free(frames);
		return akvm__fail("allocate frame counts", ENOMEM);
	}
	error = akvm__arena_map(bytes, "mmap frames", &arena);
	if (error) {
		akvm__frames_free(frames);
		return error;
	}
	frames->base = arena;
	error = shared ? share(frames) : 0;
	if (error) {
		akvm__frames_free(frames);
		return error;
	}
	for (uint32_t index = frames->blocks_total; index-- > 0;)
		list_insert(frames, index, LIST_FRESH);
	return 0;
}

void akvm__frames_free(struct akvm__frames *frames)
{
	if (frames->base != NULL)
		AKVM__HOST->munmap(frames->base, frames->bytes);
	if (frames->base != NULL && frames->fd >= 0)
		AKVM__HOST->close(frames->fd);
	free(frames->blocks);
	free(frames->counts);
	free(frames->payers);
	pthread_mutex_destroy(&frames->lock);
	memset(frames, 0, sizeof(*frames));
}

/* A whole free block, off its list. Used ones first: they have host memory already. */
static uint32_t take_block(struct akvm__frames *frames, bool *clean)
{
	uint32_t index = frames->dirty != NONE ? frames->dirty : frames->fresh;

	if (index == NONE)
		return NONE;
	*clean = frames->blocks[index].list == LIST_FRESH;
	list_remove(frames, index);
	return index;
}

static uint32_t take_huge(struct akvm__frames *frames, bool *clean, uint16_t payer)
{
	uint32_t index = take_block(frames, clean);

	if (index == NONE)
		return NONE;
	frames->blocks[index].free_count = 0;
	memset(frames->blocks[index].free, 0, sizeof(frames->blocks[index].free));
	for (uint32_t i = 0; i < AKVM__HUGE; i++) {
		frames->counts[index * AKVM__HUGE + i] = 1;
		frames->payers[index * AKVM__HUGE + i] = payer;
	}
	frames->used += AKVM__HUGE;
	return index * AKVM__HUGE;
}

static uint32_t take_small(struct akvm__frames *frames, bool *clean, uint16_t payer)
{
	uint32_t index = frames->partial;
	struct akvm__block *block;
	uint32_t word = 0, bit;

	if (index == NONE) {
		bool fresh = false;

		index = take_block(frames, &fresh);
		if (index == NONE)
			return NONE;
		block = &frames->blocks[index];
		block->free_count = AKVM__HUGE;
		memset(block->free, 0xff, sizeof(block->free));
		memset(block->clean, fresh ? 0xff : 0, sizeof(block->clean));
		list_insert(frames, index, LIST_PARTIAL);
	}
	block = &frames->blocks[index];
	while (block->free[word] == 0)
		word++;
	bit = (uint32_t)__builtin_ctzll(block->free[word]);
	*clean = block->clean[word] >> bit & 1;
	block->free[word] &= ~(1ull << bit);
	if (--block->free_count == 0)
		list_remove(frames, index);
	index = index * AKVM__HUGE + word * 64 + bit;
	frames->counts[index] = 1;
	frames->payers[index] = payer;
	frames->used++;
	return index;
}

int akvm__frames_take(struct akvm__frames *frames, uint32_t size, bool zero, struct akvm_budget *budget, uint64_t *gpa)
{
	uint16_t payer = budget != NULL ? budget->number : 0;
	bool clean = false;
	uint32_t frame;

	if (!akvm__budget_charge(budget, size, false))
		return -EDQUOT;
	pthread_mutex_lock(&frames->lock);
	frame = size == AKVM__HUGE ? take_huge(frames, &clean, payer) : take_small(frames, &clean, payer);
	pthread_mutex_unlock(&frames->lock);
	if (frame == NONE) {
		akvm__budget_release(budget, size);
		return -ENOMEM;
	}
	*gpa = AKVM_GPA_FRAMES + ((uint64_t)frame << PAGE_SHIFT);
	if (zero && !clean)
		memset(akvm__frames_host(frames, *gpa), 0, (size_t)size * PAGE_BYTES);
	return 0;
}

static uint32_t frame_of(uint64_t gpa)
{
	return (uint32_t)((gpa - AKVM_GPA_FRAMES) >> PAGE_SHIFT);
}

void akvm__frames_hold(struct akvm__frames *frames, uint64_t gpa, uint32_t size)
{
	uint32_t frame = frame_of(gpa);

	pthread_mutex_lock(&frames->lock);
	for (uint32_t i = 0; i < size; i++)
		frames->counts[frame + i]++;
	pthread_mutex_unlock(&frames->lock);
}

/* Give the host memory of a free block back. The block is on no list meanwhile, so the lock need not be held. */
static void return_block(struct akvm__frames *frames, uint32_t index)
{
	uint8_t *block = frames->base + index * BLOCK_BYTES;
	int failed;

	pthread_mutex_unlock(&frames->lock);
	/* A file's pages stay when one mapping of them goes: they are cut out of it. */
	if (frames->fd < 0)
		failed = AKVM__HOST->madvise(block, BLOCK_BYTES, MADV_DONTNEED);
	else
		failed = AKVM__HOST->madvise(block, BLOCK_BYTES, MADV_REMOVE);
	pthread_mutex_lock(&frames->lock);
	list_insert(frames, index, failed ? LIST_DIRTY : LIST_FRESH);
}

void akvm__frames_drop(struct akvm__frames *frames, uint64_t gpa, uint32_t size)
{
	uint32_t first = frame_of(gpa), index = first / AKVM__HUGE;
	struct akvm__block *block = &frames->blocks[index];
	uint32_t charged = 0;
	uint16_t payer = 0;
	bool had_free;

	pthread_mutex_lock(&frames->lock);
	had_free = block->free_count != 0;
	for (uint32_t frame = first; frame < first + size; frame++) {
		uint32_t bit = frame % AKVM__HUGE;

		if (--frames->counts[frame] != 0)
			continue;
		block->free[bit / 64] |= 1ull << bit % 64;
		block->clean[bit / 64] &= ~(1ull << bit % 64);
		block->free_count++;
		frames->used--;
		if (frames->payers[frame] != 0) {
			/* Taken together, if they are more than one: so they have one payer, or none. */
			payer = frames->payers[frame];
			frames->payers[frame] = 0;
			charged++;
		}
	}
	if (block->free_count == AKVM__HUGE) {
		list_remove(frames, index);
		if (frames->dirty_blocks < frames->dirty_max)
			list_insert(frames, index, LIST_DIRTY);
		else
			return_block(frames, index);
	} else if (!had_free && block->free_count != 0) {
		list_insert(frames, index, LIST_PARTIAL);
	}
	akvm__budget_release_number(frames->budgets, payer, charged);
	pthread_mutex_unlock(&frames->lock);
}

void akvm__frames_discharge(struct akvm__frames *frames, uint64_t gpa, uint32_t size)
{
	uint32_t first = frame_of(gpa), charged = 0;
	uint16_t payer = 0;

	pthread_mutex_lock(&frames->lock);
	for (uint32_t frame = first; frame < first + size; frame++) {
		if (frames->counts[frame] != 1 || frames->payers[frame] == 0)
			continue;
		payer = frames->payers[frame];
		frames->payers[frame] = 0;
		charged++;
	}
	akvm__budget_release_number(frames->budgets, payer, charged);
	pthread_mutex_unlock(&frames->lock);
}

bool akvm__frames_exclusive(struct akvm__frames *frames, uint64_t gpa, uint32_t size)
{
	uint32_t frame = frame_of(gpa), i = 0;

	pthread_mutex_lock(&frames->lock);
	while (i < size && frames->counts[frame + i] == 1)
		i++;
	pthread_mutex_unlock(&frames->lock);
	return i == size;
}

uint8_t *akvm__frames_host(const struct akvm__frames *frames, uint64_t gpa)
{
	return frames->base + (gpa - AKVM_GPA_FRAMES);
}

uint64_t akvm__frames_used(struct akvm__frames *frames)
{
	uint64_t used;

	pthread_mutex_lock(&frames->lock);
	used = frames->used;
	pthread_mutex_unlock(&frames->lock);
	return used;
}
