/*
 * What every floor has in common besides its subject: the clock, the command line, and JSON about the samples.
 * Nothing about KVM or about what is measured lives here.
 *
 *   floor_x [SAMPLES [OPERATIONS]]   measure, print one summary
 *   floor_x - [OPERATIONS]           one sample for each line read, each answered by a line, and the summary at the end of
 *                                    input: so that a harness can let floor and product take turns within milliseconds
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SERIES_MAX = 4, SAMPLES_MAX = 4096, LINE_BYTES = 64 };

struct report {
	const char *name;
	const char *series[SERIES_MAX]; /* what each number of a sample is; all in nanoseconds for one operation */
	unsigned samples;               /* how many to take when not stepped */
	uint64_t operations;            /* how many each sample averages over */
	const char *counts;             /* what `counted` is: exits, faults, or the result */
	uint64_t counted;               /* by the program itself, in all */
	bool stepped;
	unsigned count;
	double values[SERIES_MAX][SAMPLES_MAX];
};

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return a < b ? -1 : a > b;
}

/* Sorts the values; count > 0. */
static inline double median(double *values, uint64_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static inline void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* A floor that does not do what it says is no floor. */
static inline void expect(const char *what, uint64_t counted, uint64_t expected)
{
	if (counted == expected)
		return;
	fprintf(stderr, "%s: counted %" PRIu64 ", expected %" PRIu64 "\n", what, counted, expected);
	exit(1);
}

/* Precondition: the report holds the defaults. */
static inline void report_options(struct report *report, int argc, char **argv)
{
	if (argc > 1) {
		report->stepped = !strcmp(argv[1], "-");
		report->samples = report->stepped ? SAMPLES_MAX : (unsigned)strtoul(argv[1], NULL, 10);
	}
	if (argc > 2)
		report->operations = strtoull(argv[2], NULL, 10);
	if (argc > 3 || !report->samples || report->samples > SAMPLES_MAX || !report->operations) {
		fprintf(stderr, "usage: %s [SAMPLES | - [OPERATIONS]]    at most %d samples\n", argv[0], SAMPLES_MAX);
		exit(2);
	}
}

/* True when another sample is wanted. */
static inline bool report_next(const struct report *report)
{
	char line[LINE_BYTES];

	return report->count < report->samples && (!report->stepped || fgets(line, sizeof(line), stdin));
}

static inline unsigned report_series(const struct report *report)
{
	unsigned series = 0;

	while (series < SERIES_MAX && report->series[series])
		series++;
	return series;
}

static inline void report_add(struct report *report, const double *values)
{
	if (report->stepped)
		printf("{");
	for (unsigned i = 0; i < report_series(report); i++) {
		report->values[i][report->count] = values[i];
		if (report->stepped)
			printf("%s\"%s\": %.2f", i ? ", " : "", report->series[i], values[i]);
	}
	report->count++;
	if (report->stepped) {
		printf("}\n");
		fflush(stdout);
	}
}

/* Sorts the samples. */
static inline void report_print(struct report *report)
{
	unsigned count = report->count;

	if (!count)
		return;
	printf("{\"name\": \"%s\", \"operations\": %" PRIu64 ", \"samples\": %u, \"%s\": %" PRIu64 ", \"unit\": \"ns\"",
	       report->name, report->operations, count, report->counts, report->counted);
	for (unsigned i = 0; i < report_series(report); i++) {
		double *values = report->values[i], middle = median(values, count);

		printf(", \"%s\": {\"median\": %.2f, \"min\": %.2f, \"q1\": %.2f, \"q3\": %.2f, \"max\": %.2f}",
		       report->series[i], middle, values[0], values[count / 4], values[count - 1 - count / 4], values[count - 1]);
	}
	printf("}\n");
}

#endif
