/*
 * Segment register images for KVM_SET_SREGS (SDM vol. 3A §3.4.5).
 */
#ifndef AKVM_SEGMENTS_H
#define AKVM_SEGMENTS_H

#include <linux/kvm.h>
#include <stdint.h>

#include "akvm/layout.h"

static const struct kvm_segment akvm__kernel_code = {
	.selector = AKVM_KERNEL_CS,
	.limit = 0xffffffff,
	.type = 11,
	.present = 1,
	.s = 1,
	.l = 1,
	.g = 1,
};

static const struct kvm_segment akvm__kernel_data = {
	.selector = AKVM_KERNEL_SS,
	.limit = 0xffffffff,
	.type = 3,
	.present = 1,
	.s = 1,
	.db = 1,
	.g = 1,
};

static inline struct kvm_segment akvm__task_state(uint64_t base)
{
	return (struct kvm_segment){ .base = base, .limit = 103, .selector = AKVM_TSS_SELECTOR, .type = 11, .present = 1 };
}

/* What ring 3 can have in DS, ES, FS or GS: the user data or code segment, or a null selector. */
static inline struct kvm_segment akvm__user_data(uint16_t selector, uint64_t base)
{
	if (selector < 4)
		return (struct kvm_segment){ .base = base, .selector = selector, .unusable = 1 };
	return (struct kvm_segment){
		.base = base,
		.selector = selector,
		.limit = 0xffffffff,
		.type = 3,
		.present = 1,
		.dpl = 3,
		.s = 1,
		.db = 1,
		.g = 1,
	};
}

#endif
