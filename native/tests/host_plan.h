/*
 * The table of host_plan.c: every place in the core that calls the host, and what must happen when that call fails.
 */
#ifndef AKVM_TESTS_HOST_PLAN_H
#define AKVM_TESTS_HOST_PLAN_H

#include <stdbool.h>

enum { PLAN_ERRORS = 6 };

/* Whether a failure shows: as -errno and the operation's name from the call that needed it, or as a typed exit of the one
 * context that did (AKVM_EXIT_ERROR with host_errno; AKVM_FAULT_MEMORY or _BUS). What does not show was recovered from, or is
 * a call the core can do without. MUST is said of the first call in a phase; a later one may be a second try. */
enum plan_verdict { NEVER, MAY, MUST };

/* Which platforms have the place. */
enum plan_platform { PLAN_ANY, PLAN_KVM, PLAN_PTRACE };
/* A futex operation as a request, which else is a number of ioctl(2) or madvise(2). */
enum { PLAN_FUTEX = 0x7f000000 };

struct plan_site {
	const char *file, *function, *call;
	const char *request; /* of an ioctl, madvise or futex */
	unsigned copies;     /* how often the function has this call */
	int errors[PLAN_ERRORS];
	enum plan_verdict open_once, open_ever; /* while the machine opens: failing a single time, failing for ever */
	enum plan_verdict run_once, run_ever;   /* later */
	int shown;                              /* the errno that shows; 0 for the injected one */
	const char *operation;                  /* that the calling thread is told; NULL for any */
	enum plan_platform platform;
};

/* Ends with a site without file. A site may have several rows, for different errnos. */
extern const struct plan_site plan_sites[];

/* The first row of a place; ends the test when there is none. */
const struct plan_site *plan_find(const char *function, const char *call, unsigned long request);
/* The row of the same place that has `error`. */
const struct plan_site *plan_row(const struct plan_site *site, int error);
bool plan_same(const struct plan_site *left, const struct plan_site *right);

#endif
