/*
 * A host that fails one planned call: it stands between the core and another host (the fake KVM, or the kernel), knows by
 * akvm__caller which place in the core calls, counts, and lets the chosen one fail. What is expected of each place is in
 * host_plan.c.
 *
 * Thread: the test's main thread, unless said otherwise.
 */
#ifndef AKVM_TESTS_HOST_FAULTS_H
#define AKVM_TESTS_HOST_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#include "host_plan.h"

enum { FAULTS_PHASES = 32, FAULTS_TARGETS = 160 };

/* One place in the source, and how often each phase called it since faults_count(). */
struct faults_target {
	const char *function, *call;
	int line;
	const struct plan_site *site;
	unsigned hits[FAULTS_PHASES];
};

/* Stand before whatever host is installed now. */
void faults_install(void);
/* Start counting from zero. Places once met are remembered. */
void faults_count(void);
void faults_phase(unsigned phase);
unsigned faults_targets(void);
const struct faults_target *faults_target(unsigned index);

/* From now on the place fails with `error`: `skip` calls not, then `count`. */
void faults_arm(unsigned target, int error, unsigned skip, unsigned count);
void faults_disarm(void);
/* A descriptor of the test's own that the core is going to close. */
void faults_give(int fd);
bool faults_armed(void);
/* How many calls failed since faults_arm(). Thread: any. */
unsigned faults_injected(void);
/* The core reports a failure, as an errno and, unless NULL, the operation's name: ends the test unless that is what was
 * planned and not more than was injected. */
void faults_show(int error, const char *operation);
/* No kick gets through: a guest that computes stays on its vCPU until faults_disarm(). */
bool faults_stop_kicks(void);
/* Besides: what may come of the failure in another's place, until 0. */
void faults_also(int error);
/* How many were shown since faults_arm(). */
unsigned faults_shown(void);

/* The next `count` kicks are lost without a word. */
void faults_drop_kicks(unsigned count);
/* Unmap what an injected munmap failure left; then nothing of what was handed out may be left, threads included. */
void faults_check_clean(void);

#endif
