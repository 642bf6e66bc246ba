/*
 * Floor: the least a kick can cost. A thread spins in guest ring 3; the kicker sets immediate_exit and sends that thread a
 * signal, and the clock stops when the kicker knows that the thread's KVM_RUN has returned: because it polls a word that the
 * thread stores ("polled"), or because it sleeps on an eventfd that the thread writes ("eventfd").
 * Not here: anything of our library.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "raw_guest.h"

/* RBX points at the counter that shows the guest running. */
static const uint8_t code[] = {
	0x48, 0xff, 0x03, /* 1: incq (%rbx) */
	0xeb, 0xfb,       /*    jmp 1b */
};

enum { WAIT_NS = 1000000000, POLL_NS = 100000, WARM_UP = 20, OPERATIONS_MAX = 10000 };

static struct raw_guest guest;
static _Atomic pid_t runner_id;
static _Atomic uint64_t entries, returns;
static _Atomic bool stop, tell;
static int bell;

/* Patience with what is not timed, or takes longer than any kick should: both threads may have been put on one CPU. */
static void wait_on(uint64_t since_ns, const char *what)
{
	uint64_t waited_ns = now_ns() - since_ns;

	if (waited_ns > WAIT_NS)
		fail(what);
	if (waited_ns > POLL_NS)
		sched_yield();
}

static void ignore(int signal)
{
	(void)signal;
}

static void *runner(void *unused)
{
	const struct kvm_regs user = { .rip = RAW_CODE, .rbx = RAW_DATA, .rflags = RAW_FLAGS };
	const uint64_t one = 1;

	runner_id = (pid_t)syscall(SYS_gettid);
	raw_enter_iret(&guest, &user);
	while (!stop) {
		__atomic_store_n(&guest.run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		entries++;
		if (ioctl(guest.vcpu, KVM_RUN, NULL) == 0 || errno != EINTR)
			fail("KVM_RUN was not interrupted");
		returns++;
		if (tell && write(bell, &one, sizeof(one)) != sizeof(one))
			fail("write eventfd");
		/* The next entry waits until this kick has been timed. */
		for (uint64_t since_ns = now_ns(); guest.run->immediate_exit && !stop;)
			wait_on(since_ns, "the kicker is gone");
	}
	return unused;
}

static void wait_for_guest(uint64_t entry)
{
	volatile uint64_t *counter = (uint64_t *)(guest.memory + RAW_DATA_PAGE);
	uint64_t since_ns = now_ns(), seen;

	while (entries != entry)
		wait_on(since_ns, "the runner does not enter");
	seen = *counter;
	while (*counter == seen)
		wait_on(since_ns, "the guest does not run");
}

/* Nanoseconds from kick to knowledge. */
static uint64_t kick(bool sleep)
{
	uint64_t before = returns, started_ns, ended_ns, value;

	tell = sleep;
	wait_for_guest(before + 1);
	started_ns = now_ns();
	__atomic_store_n(&guest.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_tgkill, getpid(), runner_id, SIGRTMIN);
	if (sleep) {
		if (read(bell, &value, sizeof(value)) != sizeof(value))
			fail("read eventfd");
	} else {
		while (returns == before)
			wait_on(started_ns, "the kick is lost");
	}
	ended_ns = now_ns();
	expect("returns of KVM_RUN for a kick", returns, before + 1);
	__atomic_store_n(&guest.run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return ended_ns - started_ns;
}

/* Median of `operations` kicks. */
static double measure(bool sleep, uint64_t operations)
{
	static double singles[OPERATIONS_MAX];

	for (uint64_t i = 0; i < operations; i++)
		singles[i] = (double)kick(sleep);
	return median(singles, operations);
}

int main(int argc, char **argv)
{
	static struct report report = {
		.name = "kick", .counts = "exits", .series = { "polled", "eventfd" }, .samples = 25, .operations = 50
	};
	struct sigaction action = { .sa_handler = ignore };
	pthread_t thread;

	report_options(&report, argc, argv);
	if (report.operations > OPERATIONS_MAX)
		report.operations = OPERATIONS_MAX;
	raw_open(&guest, code, sizeof(code));
	bell = eventfd(0, EFD_CLOEXEC);
	if (bell < 0 || sigaction(SIGRTMIN, &action, NULL) < 0)
		fail("set up");
	if (pthread_create(&thread, NULL, runner, NULL))
		fail("pthread_create");
	measure(false, WARM_UP);
	while (report_next(&report)) {
		uint64_t before = returns;
		double polled = measure(false, report.operations), slept = measure(true, report.operations);

		expect("kicks", returns - before, 2 * report.operations);
		report.counted += 2 * report.operations;
		report_add(&report, (double[]){ polled, slept });
	}
	/* The last entry must have begun, or there would be nothing left to kick. */
	wait_for_guest(returns + 1);
	stop = true;
	kick(false);
	if (pthread_join(thread, NULL))
		fail("pthread_join");
	report_print(&report);
	return 0;
}
