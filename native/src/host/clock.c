/*
 * The host's clocks and its time stamp counter at one moment, for whoever tells guests the time by their own counter. Not behind
 * the table of host calls: the C library answers from the kernel's data page, and nothing of it can fail.
 */
#include <time.h>

#include "akvm/akvm.h"
#include "host/host.h"

enum { ATTEMPTS = 5 };

static uint64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* After every earlier store is visible and every earlier load done, before anything later begins. */
static uint64_t read_tsc(void)
{
	uint64_t tsc;

	__builtin_ia32_mfence();
	__builtin_ia32_lfence();
	tsc = __builtin_ia32_rdtsc();
	__builtin_ia32_lfence();
	return tsc;
}

/* What `clock` shows at the moment CLOCK_MONOTONIC shows `monotonic_ns`: the best of some attempts, since each may be interrupted. */
static uint64_t beside_monotonic(clockid_t clock, uint64_t monotonic_ns)
{
	uint64_t before, value, after, best = UINT64_MAX, offset = 0;

	for (int i = 0; i < ATTEMPTS; i++) {
		before = akvm__now_ns();
		value = read_clock(clock);
		after = akvm__now_ns();
		if (after - before < best) {
			best = after - before;
			offset = value - (before + best / 2);
		}
	}
	return monotonic_ns + offset;
}

void akvm_clock_sample(struct akvm_clock_sample *sample)
{
	uint64_t before, now, after;

	sample->width = UINT64_MAX;
	for (int i = 0; i < ATTEMPTS; i++) {
		before = read_tsc();
		now = akvm__now_ns();
		after = read_tsc();
		if (after - before < sample->width) {
			sample->width = after - before;
			sample->tsc = before + sample->width / 2;
			sample->monotonic_ns = now;
		}
	}
	sample->realtime_ns = beside_monotonic(CLOCK_REALTIME, sample->monotonic_ns);
	sample->boottime_ns = beside_monotonic(CLOCK_BOOTTIME, sample->monotonic_ns);
	sample->tai_ns = beside_monotonic(CLOCK_TAI, sample->monotonic_ns);
}
