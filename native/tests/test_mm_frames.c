/*
 * The frames arena by itself: counts, zeroing, blocks kept whole, memory given back to the host.
 */
#include "mm/frames.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "t.h"

#define BLOCK 0x200000ull
enum { BLOCKS = 32 };

static struct akvm__frames frames;
static struct akvm__host host;
static const struct akvm__host *kernel;
static unsigned returned, madvise_failures, mmap_calls, mmap_fail_at;

static int counting_madvise(void *address, size_t length, int advice)
{
	if (advice == MADV_DONTNEED) {
		T_EQUAL(length, BLOCK);
		returned++;
		if (madvise_failures > 0) {
			madvise_failures--;
			errno = EINVAL;
			return -1;
		}
	}
	return kernel->madvise(address, length, advice);
}

static void *counting_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	if (++mmap_calls == mmap_fail_at) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return kernel->mmap(address, length, protection, flags, fd, offset);
}

static bool is_zero(uint64_t gpa, uint64_t bytes)
{
	const uint8_t *at = akvm__frames_host(&frames, gpa);

	for (uint64_t i = 0; i < bytes; i++)
		if (at[i])
			return false;
	return true;
}

static void open_frames(void)
{
	returned = 0;
	T_EQUAL(akvm__frames_create(&frames, BLOCKS * BLOCK, false, NULL), 0);
	T_EQUAL((uintptr_t)frames.base % BLOCK, 0);
}

static void every_frame_once(void)
{
	static uint64_t small[BLOCKS * AKVM__HUGE];
	uint64_t gpa;

	open_frames();
	for (unsigned i = 0; i < BLOCKS * AKVM__HUGE; i++) {
		T_EQUAL(akvm__frames_take(&frames, AKVM__SMALL, true, NULL, &small[i]), 0);
		T_CHECK(is_zero(small[i], 4096));
		memcpy(akvm__frames_host(&frames, small[i]), &i, sizeof(i));
	}
	for (unsigned i = 0, value; i < BLOCKS * AKVM__HUGE; i++) {
		memcpy(&value, akvm__frames_host(&frames, small[i]), sizeof(value));
		T_EQUAL(value, i);
	}
	T_EQUAL(akvm__frames_take(&frames, AKVM__SMALL, true, NULL, &gpa), -ENOMEM);
	T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &gpa), -ENOMEM);
	T_EQUAL(akvm__frames_used(&frames), BLOCKS * AKVM__HUGE);
	/* All but one frame of the first block: still no whole block. */
	for (unsigned i = 1; i < AKVM__HUGE; i++)
		akvm__frames_drop(&frames, small[i], AKVM__SMALL);
	T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &gpa), -ENOMEM);
	akvm__frames_drop(&frames, small[0], AKVM__SMALL);
	T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &gpa), 0);
	T_EQUAL(gpa % BLOCK, 0);
	T_CHECK(is_zero(gpa, BLOCK));
	akvm__frames_free(&frames);
}

static void used_memory_comes_back_zero(void)
{
	uint64_t huge, small;

	open_frames();
	T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &huge), 0);
	memset(akvm__frames_host(&frames, huge), 0xee, BLOCK);
	akvm__frames_drop(&frames, huge, AKVM__HUGE);
	for (unsigned i = 0; i < AKVM__HUGE; i++) {
		T_EQUAL(akvm__frames_take(&frames, AKVM__SMALL, true, NULL, &small), 0);
		T_CHECK(is_zero(small, 4096));
	}
	akvm__frames_free(&frames);
}

static void counts_keep_frames(void)
{
	uint64_t huge, other;

	open_frames();
	T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &huge), 0);
	T_CHECK(akvm__frames_exclusive(&frames, huge, AKVM__HUGE));
	akvm__frames_hold(&frames, huge + 7 * 4096, AKVM__SMALL);
	T_CHECK(!akvm__frames_exclusive(&frames, huge, AKVM__HUGE));
	T_CHECK(akvm__frames_exclusive(&frames, huge, AKVM__SMALL));
	akvm__frames_drop(&frames, huge, AKVM__HUGE);
	T_EQUAL(akvm__frames_used(&frames), 1);
	for (unsigned i = 0; i < AKVM__HUGE - 1; i++) {
		T_EQUAL(akvm__frames_take(&frames, AKVM__SMALL, false, NULL, &other), 0);
		T_CHECK(other != huge + 7 * 4096);
	}
	akvm__frames_drop(&frames, huge + 7 * 4096, AKVM__SMALL);
	T_EQUAL(akvm__frames_used(&frames), AKVM__HUGE - 1);
	akvm__frames_free(&frames);
}

static void blocks_go_back_to_the_host(void)
{
	uint64_t huge[BLOCKS];

	open_frames();
	for (unsigned i = 0; i < BLOCKS; i++) {
		T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &huge[i]), 0);
		memset(akvm__frames_host(&frames, huge[i]), 0x55, BLOCK);
	}
	madvise_failures = 1;
	for (unsigned i = 0; i < BLOCKS; i++)
		akvm__frames_drop(&frames, huge[i], AKVM__HUGE);
	/* Eight stay at hand, and the one the host would not take. */
	T_EQUAL(returned, BLOCKS - 8);
	T_EQUAL(frames.dirty_blocks, 9);
	for (unsigned i = 0; i < BLOCKS; i++) {
		T_EQUAL(akvm__frames_take(&frames, AKVM__HUGE, true, NULL, &huge[i]), 0);
		T_CHECK(is_zero(huge[i], BLOCK));
	}
	akvm__frames_free(&frames);
}

static void creation_fails_cleanly(void)
{
	mmap_calls = 0;
	mmap_fail_at = 1;
	T_EQUAL(akvm__frames_create(&frames, BLOCKS * BLOCK, false, NULL), -ENOMEM);
	T_CHECK(strcmp(akvm_last_error(), "mmap frames") == 0);
	mmap_fail_at = 0;
}

int main(void)
{
	kernel = akvm__host;
	host = *kernel;
	host.madvise = counting_madvise;
	host.mmap = counting_mmap;
	akvm__host_replace(&host);
	T_RUN(every_frame_once);
	T_RUN(used_memory_comes_back_zero);
	T_RUN(counts_keep_frames);
	T_RUN(blocks_go_back_to_the_host);
	T_RUN(creation_fails_cleanly);
	return 0;
}
