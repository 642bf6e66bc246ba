/*
 * The vDSO: clocks and the processor's number for guests, answered in ring 3 from the guest's own time stamp counter and one
 * shared page, with the names, version and meaning of Linux's own (vdso(7)). Whatever the page does not tell goes to the system
 * call. Runs inside guests: no data of its own, no relocation, no call to anything else, no vector register.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clock_page.h"

struct timespec {
	int64_t seconds, nanoseconds;
};

struct timeval {
	int64_t seconds, microseconds;
};

struct timezone {
	int32_t minutes_west, daylight;
};

enum { REALTIME = 0, MONOTONIC = 1, MONOTONIC_RAW = 4, BOOTTIME = 7, TAI = 11 };
enum { SYS_GETTIMEOFDAY = 96, SYS_CLOCK_GETTIME = 228, SYS_CLOCK_GETRES = 229, SYS_TIME = 201 };
enum { ATTEMPTS = 4 };

static const uint64_t SECOND = 1000000000;

/* Placed in front of the first page by the linker script. */
extern const volatile struct clock_page clock_page __attribute__((visibility("hidden")));

int __vdso_clock_gettime(int clock, struct timespec *time);
int __vdso_gettimeofday(struct timeval *time, struct timezone *zone);
int __vdso_clock_getres(int clock, struct timespec *resolution);
int64_t __vdso_time(int64_t *time);
int __vdso_getcpu(unsigned *cpu, unsigned *node, void *unused);

static inline long system_call(long number, long first, long second)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
	return result;
}

/* Neither before earlier loads nor after later ones. */
static inline uint64_t read_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* What to add to the monotonic clock. False for a clock that the page does not have. */
static inline bool offset_of(int clock, uint64_t *offset)
{
	switch (clock) {
	case MONOTONIC:
		*offset = 0;
		return true;
	case REALTIME:
		*offset = clock_page.realtime;
		return true;
	case BOOTTIME:
		*offset = clock_page.boottime;
		return true;
	case TAI:
		*offset = clock_page.tai;
		return true;
	default:
		return false;
	}
}

/*
 * While the writer is at work (odd) this does not wait for it: the writer may have lost its processor, and the system call knows
 * the time too. The counter is read between two looks at the sequence, so it is older than whatever the writer does next.
 */
static bool read_clock(int clock, uint64_t *now)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		uint64_t sequence = clock_page.sequence, offset, ticks, time;

		if (sequence & 1)
			return false;
		ticks = read_tsc() - clock_page.tsc;
		/* Counters of two processors may differ by a few ticks. */
		if ((int64_t)ticks < 0)
			ticks = 0;
		if (ticks >= clock_page.horizon || !offset_of(clock, &offset))
			return false;
		time = clock_page.monotonic + offset + (uint64_t)((unsigned __int128)ticks * clock_page.multiplier >> 32);
		__asm__ volatile("" : : : "memory");
		if (clock_page.sequence == sequence) {
			*now = time;
			return true;
		}
	}
	return false;
}

int __vdso_clock_gettime(int clock, struct timespec *time)
{
	uint64_t now;

	if (!read_clock(clock, &now))
		return (int)system_call(SYS_CLOCK_GETTIME, clock, (long)time);
	time->seconds = (int64_t)(now / SECOND);
	time->nanoseconds = (int64_t)(now % SECOND);
	return 0;
}

int __vdso_gettimeofday(struct timeval *time, struct timezone *zone)
{
	uint64_t now;

	if (!read_clock(REALTIME, &now))
		return (int)system_call(SYS_GETTIMEOFDAY, (long)time, (long)zone);
	if (time) {
		time->seconds = (int64_t)(now / SECOND);
		time->microseconds = (int64_t)(now % SECOND / 1000);
	}
	if (zone)
		*zone = (struct timezone){ 0, 0 };
	return 0;
}

int64_t __vdso_time(int64_t *time)
{
	uint64_t now;

	if (!read_clock(REALTIME, &now))
		return system_call(SYS_TIME, (long)time, 0);
	if (time)
		*time = (int64_t)(now / SECOND);
	return (int64_t)(now / SECOND);
}

int __vdso_clock_getres(int clock, struct timespec *resolution)
{
	uint64_t nanoseconds = clock_page.resolution, unused;

	if (!nanoseconds || (clock != MONOTONIC_RAW && !offset_of(clock, &unused)))
		return (int)system_call(SYS_CLOCK_GETRES, clock, (long)resolution);
	if (resolution)
		*resolution = (struct timespec){ 0, (int64_t)nanoseconds };
	return 0;
}

/* Threads are bound to no processor of the host, and the one that guests are told of is the first. */
int __vdso_getcpu(unsigned *cpu, unsigned *node, void *unused)
{
	(void)unused;
	if (cpu)
		*cpu = 0;
	if (node)
		*node = 0;
	return 0;
}

int clock_gettime(int clock, struct timespec *time) __attribute__((weak, alias("__vdso_clock_gettime")));
int gettimeofday(struct timeval *time, struct timezone *zone) __attribute__((weak, alias("__vdso_gettimeofday")));
int clock_getres(int clock, struct timespec *resolution) __attribute__((weak, alias("__vdso_clock_getres")));
int64_t time(int64_t *time) __attribute__((weak, alias("__vdso_time")));
int getcpu(unsigned *cpu, unsigned *node, void *unused) __attribute__((weak, alias("__vdso_getcpu")));
