/*
 * A sample of the clocks lies between what was read before and after it, and two samples agree on how fast the counter runs.
 */
#include <stdint.h>
#include <time.h>

#include "akvm/akvm.h"
#include "t.h"

static const uint64_t SECOND = 1000000000;

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void a_sample_lies_between_its_neighbours(void)
{
	/* The clocks beside the monotonic one are off by half of the window they were read in. */
	const uint64_t slack = 100000;

	for (int i = 0; i < 1000; i++) {
		uint64_t monotonic = now(CLOCK_MONOTONIC), realtime = now(CLOCK_REALTIME), boottime = now(CLOCK_BOOTTIME);
		uint64_t tai = now(CLOCK_TAI), tsc = __builtin_ia32_rdtsc();
		struct akvm_clock_sample sample;

		akvm_clock_sample(&sample);
		T_CHECK(sample.tsc >= tsc && sample.tsc <= __builtin_ia32_rdtsc());
		T_CHECK(sample.monotonic_ns >= monotonic && sample.monotonic_ns <= now(CLOCK_MONOTONIC));
		T_CHECK(sample.realtime_ns + slack >= realtime && sample.realtime_ns <= now(CLOCK_REALTIME) + slack);
		T_CHECK(sample.boottime_ns + slack >= boottime && sample.boottime_ns <= now(CLOCK_BOOTTIME) + slack);
		T_CHECK(sample.tai_ns + slack >= tai && sample.tai_ns <= now(CLOCK_TAI) + slack);
	}
}

static void the_counter_runs_evenly(void)
{
	struct akvm_clock_sample first, second, third;
	double early, late;

	akvm_clock_sample(&first);
	while (now(CLOCK_MONOTONIC) < first.monotonic_ns + SECOND / 20)
		;
	akvm_clock_sample(&second);
	while (now(CLOCK_MONOTONIC) < second.monotonic_ns + SECOND / 20)
		;
	akvm_clock_sample(&third);
	T_CHECK(first.tsc < second.tsc && second.tsc < third.tsc);
	early = (double)(second.monotonic_ns - first.monotonic_ns) / (double)(second.tsc - first.tsc);
	late = (double)(third.monotonic_ns - second.monotonic_ns) / (double)(third.tsc - second.tsc);
	T_CHECK(early / late > 0.99 && early / late < 1.01);
}

int main(void)
{
	T_RUN(a_sample_lies_between_its_neighbours);
	T_RUN(the_counter_runs_evenly);
	return 0;
}
