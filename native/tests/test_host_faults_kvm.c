/*
 * The same faults as in test_host_faults.c, between the core and the real KVM.
 */
#include <unistd.h>

#include "host_drive.h"
#include "t.h"

int main(void)
{
	static const struct drive_kind kinds[] = {
		{ .name = "this host" },
		{ .name = "this host, changes by ring 0, no PCID", .flags = AKVM_MACHINE_GUEST_EDITS | AKVM_MACHINE_NO_PCID },
	};

	if (access("/dev/kvm", R_OK | W_OK))
		t_skip("no usable /dev/kvm");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		drive(&kinds[i], true);
	drive_print_summary();
	return 0;
}
