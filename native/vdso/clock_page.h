/*
 * The page that tells guests the time, as the vDSO reads it. Whoever writes it knows this layout as eight-byte words in this
 * order; a test holds the two together.
 *
 * The writer makes `sequence` odd, changes the rest, and makes it even again. A time is valid for `horizon` ticks after `tsc`;
 * with 0 there the page says nothing.
 */
#ifndef CLOCK_PAGE_H
#define CLOCK_PAGE_H

#include <stdint.h>

struct clock_page {
	uint64_t sequence;
	uint64_t tsc;        /* the counter's value at `monotonic` */
	uint64_t horizon;    /* ticks */
	uint64_t multiplier; /* nanoseconds of a tick, times 2^32 */
	uint64_t monotonic;  /* nanoseconds */
	uint64_t realtime;   /* what to add to the monotonic clock for CLOCK_REALTIME, and so on; wraps around */
	uint64_t boottime;
	uint64_t tai;
	uint64_t resolution; /* of all these clocks, in nanoseconds */
};

#endif
