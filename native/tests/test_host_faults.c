/*
 * Fault injection: every call of the core to its host fails, by the plan of host_plan.c, on each kind of fake KVM.
 */
#include "host_drive.h"

/* Ten times slower, and races do not hang on the errno. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BRIEF true
#endif
#endif
#ifndef BRIEF
#define BRIEF false
#endif

int main(void)
{
	static const struct fake_options nested = { 0 };
	static const struct fake_options tagged = { .pcid = true, .cpuid_faulting = true };
	static const struct fake_options shadow = { .syscall_as_fault = true, .int80_as_ud = true, .shadow_paging = true };
	static const struct fake_options old = { .xsave_bytes = 8192, .no_tsc_offset = true };
	static const struct drive_kind kinds[] = {
		{ .name = "shadow paging", .options = &shadow },
		{ .name = "nested paging", .options = &nested },
		{ .name = "PCID", .options = &tagged },
		{ .name = "large XSAVE, no TSC offset", .options = &old },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		drive(&kinds[i], BRIEF);
	drive_check_complete(PLAN_KVM, true, BRIEF);
	drive_print_summary();
	return 0;
}
