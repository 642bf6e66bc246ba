/*
 * Floor: one raw KVM round trip, ring 3 -> SYSCALL -> HLT stub -> this program -> ring 3, with registers through the shared
 * kvm_run page and no other ioctl than KVM_RUN. Both ways back are measured; the cheaper one is what ours is held against.
 * Not here: anything of our library.
 */
#include "raw_guest.h"

enum { WARM_UP = 200, OPERATIONS_MAX = 100000 };

/* RBX counts the system calls, so the guest's own count can be held against ours. */
static const uint8_t code[] = {
	0x48, 0xff, 0xc3, /* 1: inc %rbx */
	0x0f, 0x05,       /*    syscall */
	0xeb, 0xf9,       /*    jmp 1b */
};

typedef void (*enter_fn)(struct raw_guest *guest, const struct kvm_regs *user);

/* Nanoseconds for each of `operations` round trips; *middle is the median of single ones. */
static double measure(struct raw_guest *guest, enter_fn enter, uint64_t operations, double *middle)
{
	static double singles[OPERATIONS_MAX];
	struct kvm_regs user = { .rip = RAW_CODE, .rflags = RAW_FLAGS, .rsp = RAW_DATA + 0x1000 };
	uint64_t started_ns = now_ns(), last_ns = started_ns, ended_ns = started_ns;

	for (uint64_t i = 0; i < operations; i++) {
		enter(guest, &user);
		if (ioctl(guest->vcpu, KVM_RUN, NULL) < 0)
			fail("KVM_RUN");
		if (!raw_system_call(guest, &user))
			expect("exits that are system calls", i, operations);
		ended_ns = now_ns();
		singles[i] = (double)(ended_ns - last_ns);
		last_ns = ended_ns;
	}
	expect("system calls, as the guest counts", user.rbx, operations);
	expect("return address", user.rip, RAW_CODE + 5);
	expect("stack pointer", user.rsp, RAW_DATA + 0x1000);
	*middle = median(singles, operations);
	return (double)(ended_ns - started_ns) / (double)operations;
}

int main(int argc, char **argv)
{
	static struct report report = { .name = "exit",
					.counts = "exits",
					.series = { "sysret", "iret", "sysret_median" },
					.samples = 25,
					.operations = 500 };
	static struct raw_guest guest;
	double middle, unused;

	report_options(&report, argc, argv);
	if (report.operations > OPERATIONS_MAX)
		report.operations = OPERATIONS_MAX;
	raw_open(&guest, code, sizeof(code));
	measure(&guest, raw_enter_sysret, WARM_UP, &unused);
	measure(&guest, raw_enter_iret, WARM_UP, &unused);
	while (report_next(&report)) {
		double sysret = measure(&guest, raw_enter_sysret, report.operations, &middle);
		double iret = measure(&guest, raw_enter_iret, report.operations, &unused);

		report.counted += 2 * report.operations;
		report_add(&report, (double[]){ sysret, iret, middle });
	}
	report_print(&report);
	return 0;
}
