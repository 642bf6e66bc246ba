/*
 * The same faults as in test_host_faults.c on the ptrace platform, between the core and the real kernel.
 */
#include "host_drive.h"
#include "ptrace_rig.h"
#include "t.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define BRIEF true
#else
#define BRIEF false
#endif

int main(void)
{
	static const struct drive_kind kind = { .name = "ptrace", .platform = AKVM_PLATFORM_PTRACE };

	ptrace_need();
	drive(&kind, BRIEF);
	drive_check_complete(PLAN_PTRACE, false, BRIEF);
	drive_print_summary();
	return 0;
}
