/*
 * Lets each call that a machine makes to its host fail in turn, and judges what came of it by host_plan.c.
 */
#ifndef AKVM_TESTS_HOST_DRIVE_H
#define AKVM_TESTS_HOST_DRIVE_H

#include "akvm/akvm.h"
#include "fake_kvm.h"
#include "host_plan.h"

struct drive_kind {
	const char *name;
	const struct fake_options *options; /* NULL: the real KVM */
	uint32_t flags;                     /* AKVM_MACHINE_* */
	uint32_t platform;                  /* enum akvm_platform */
};

/* Every place that this kind of host sees called, in each step that calls it, but for what an earlier kind went through: the first
 * call and all calls fail. Each errno once, then by turns. Some steps for each place, with `brief` a few; without, also the call
 * in the middle of the step and the last. */
void drive(const struct drive_kind *kind, bool brief);
/* Every place that is planned for the platform alone, or for it and any other, was seen, each of its lines, and, unless `brief`,
 * every planned errno was given. */
void drive_check_complete(enum plan_platform platform, bool or_any, bool brief);
void drive_print_summary(void);

#endif
