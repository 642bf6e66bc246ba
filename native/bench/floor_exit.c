/*
 * Floor: one raw KVM round trip, ring 3 -> SYSCALL -> HLT stub -> this program -> ring 3, with registers through the shared
 * kvm_run page and no other ioctl than KVM_RUN. Both ways back are measured; the cheaper one is what ours is held against.
 * Not here: anything of our library.
 */
#include "raw_guest.h"

enum { WARM_UP = 200 };

/* RBX counts the system calls, so the guest's own count can be held against ours. */
static const uint8_t code[] = {
	0x48, 0xff, 0xc3, /* 1: inc %rbx */
	0x0f, 0x05,       /*    syscall */
	0xeb, 0xf9,       /*    jmp 1b */
};

typedef void (*enter_fn)(struct raw_guest *guest, const struct kvm_regs *user);

/* Nanoseconds for each of `operations` round trips. */
static double measure(struct raw_guest *guest, enter_fn enter, uint64_t operations)
{
	struct kvm_regs user = {.rip = RAW_CODE, .rflags = RAW_FLAGS, .rsp = RAW_DATA + 0x1000};
	uint64_t started_ns = now_ns(), ended_ns;

	for (uint64_t i = 0; i < operations; i++) {
		enter(guest, &user);
		if (ioctl(guest->vcpu, KVM_RUN, NULL) < 0)
			fail("KVM_RUN");
		if (!raw_system_call(guest, &user))
			expect("exits that are system calls", i, operations);
	}
	ended_ns = now_ns();
	expect("system calls, as the guest counts", user.rbx, operations);
	expect("return address", user.rip, RAW_CODE + 5);
	expect("stack pointer", user.rsp, RAW_DATA + 0x1000);
	return (double)(ended_ns - started_ns) / (double)operations;
}

int main(int argc, char **argv)
{
	static struct report report = {
		.name = "exit", .counts = "exits", .series = {"sysret", "iret"}, .samples = 25, .operations = 500};
	static struct raw_guest guest;

	report_options(&report, argc, argv);
	raw_open(&guest, code, sizeof(code));
	measure(&guest, raw_enter_sysret, WARM_UP);
	measure(&guest, raw_enter_iret, WARM_UP);
	while (report_next(&report)) {
		double sysret = measure(&guest, raw_enter_sysret, report.operations);
		double iret = measure(&guest, raw_enter_iret, report.operations);

		report.counted += 2 * report.operations;
		report_add(&report, (double[]){sysret, iret});
	}
	report_print(&report);
	return 0;
}
