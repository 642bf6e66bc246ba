/*
 * What this KVM really does, found by running guests once, when the machine opens. Nothing is concluded from CPU flags,
 * module names or version numbers: hosts emulate, hide and misreport (nested and software KVMs above all).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"
#include "kvm/kvm.h"

extern const uint8_t akvm__probe_code[], akvm__probe_code_end[];

enum { PROBE_SYSCALL = 0, PROBE_INT80 = 16, PROBE_LOAD = 32, PROBE_STORE = 48, PROBE_CPUID = 64, PROBE_LOOP = 80 };
enum { CODE = 0x400000, DATA = 0x10000000, STACK = 0x7fff0000, PAGE = 4096 };
enum { VECTOR_BP = 3, VECTOR_UD = 6, VECTOR_GP = 13, VECTOR_PF = 14 };
enum { MSR_MISC_FEATURES = 0x140, ROUND_TRIPS = 64, ROUND_TRIP_SAMPLES = 5, OPERATION_ATTEMPTS = 1000 };

static const uint64_t ANSWER_NS = 10000000000; /* emulated hosts are slow; this only bounds a hang */
static const uint64_t ENTRY_FRAME = 0x000ffffffffff000;

struct probe {
	struct akvm_machine *machine;
	struct akvm_space *space;
	struct akvm_context *context;
};

static int wait_for_exit(struct akvm_machine *machine)
{
	uint64_t until_ns = akvm__now_ns() + ANSWER_NS;
	uint32_t index;

	while (!akvm_machine_drain(machine, &index, 1)) {
		if (akvm__now_ns() > until_ns)
			return akvm__fail("a guest of the start-up probe did not come back", ETIMEDOUT);
		akvm_machine_poll(machine, 1000000);
		/* The vCPU's thread may have to share this core. */
		AKVM__HOST->sched_yield();
	}
	return 0;
}

static int run_with(struct probe *probe, struct akvm_registers registers)
{
	struct akvm_context *context = probe->context;
	int error;

	context->registers = registers;
	error = akvm_context_submit(context, 0);
	if (!error)
		error = wait_for_exit(probe->machine);
	if (!error && context->kind == AKVM_EXIT_ERROR)
		error = akvm__fail("a guest of the start-up probe", context->host_errno ? context->host_errno : EIO);
	return error;
}

static int run(struct probe *probe, uint32_t entry, uint64_t rdi, uint64_t rsi)
{
	return run_with(probe, (struct akvm_registers){ .rip = CODE + entry, .rdi = rdi, .rsi = rsi, .rsp = STACK, .rflags = 2 });
}

static int operate(struct probe *probe, uint32_t operation, uint64_t rcx, uint64_t rax)
{
	struct akvm_context *context = probe->context;
	unsigned attempts = 0;
	int error;

	do {
		context->registers = (struct akvm_registers){ .rcx = rcx, .rax = rax };
		error = akvm_context_operate(context, 0, operation);
		if (!error)
			error = wait_for_exit(probe->machine);
	} while (!error && context->kind == AKVM_EXIT_INTERRUPTED && ++attempts < OPERATION_ATTEMPTS);
	if (!error && context->kind == AKVM_EXIT_INTERRUPTED)
		error = akvm__fail("a ring-0 operation of the start-up probe", EINTR);
	if (!error && context->host_errno)
		error = akvm__fail("a ring-0 operation of the start-up probe", -context->host_errno);
	return error;
}

static bool stopped_at(const struct probe *probe, unsigned vector)
{
	return probe->context->kind == AKVM_EXIT_FAULT && probe->context->vector == vector;
}

static int probe_syscall(struct probe *probe)
{
	struct akvm_capabilities *capabilities = &probe->machine->capabilities;
	int error = run(probe, PROBE_SYSCALL, 0, 0);

	if (error)
		return error;
	if (probe->context->kind == AKVM_EXIT_SYSCALL)
		return 0;
	/* Not in ring 0 at LSTAR: then it must be the fetch fault at LSTAR, recognised from now on. */
	capabilities->syscall_as_fault = 1;
	error = run(probe, PROBE_SYSCALL, 0, 0);
	if (!error && probe->context->kind != AKVM_EXIT_SYSCALL)
		return akvm__fail("SYSCALL in ring 3", ENOTSUP);
	return error;
}

static int probe_int80(struct probe *probe)
{
	int error;

	probe->machine->capabilities.int80_as_ud = 0;
	error = run(probe, PROBE_INT80, 0, 0);
	if (error || probe->context->kind == AKVM_EXIT_SYSCALL)
		return error;
	probe->machine->capabilities.int80_as_ud = stopped_at(probe, VECTOR_UD);
	return 0;
}

/* The leaf entry for an address, in the guest's own tables. */
static uint64_t *leaf_entry(const struct probe *probe, uint64_t address)
{
	uint64_t table = akvm__space_root(probe->space);

	for (int shift = 39;; shift -= 9) {
		uint64_t *entry = (uint64_t *)(probe->machine->tables + (table - AKVM_GPA_TABLES)) + (address >> shift & 511);

		if (shift == 12 || !(*entry & 1))
			return entry;
		table = *entry & ENTRY_FRAME;
	}
}

static int load(struct probe *probe, uint64_t address, uint64_t *value)
{
	int error = run(probe, PROBE_LOAD, address, 0);

	*value = stopped_at(probe, VECTOR_BP) ? probe->context->registers.rax : UINT64_MAX;
	return error;
}

/* Change present entries from the host, reload CR3, and look with the guest's eyes: other frame, then no frame. */
static int probe_host_edits(struct probe *probe)
{
	const uint64_t values[2] = { 0x1111, 0x2222 };
	uint64_t *entry, first, second, seen;
	int error;

	for (unsigned i = 0; i < 2; i++)
		if (akvm_space_write(probe->space, DATA + i * PAGE, &values[i], sizeof(values[i]), false) != sizeof(values[i]))
			return akvm__fail("memory of the start-up probe", EFAULT);
	/* Touch both, so that whatever caches entries has them. */
	if ((error = load(probe, DATA, &first)) || (error = load(probe, DATA + PAGE, &second)))
		return error;
	if (first != values[0] || second != values[1])
		return akvm__fail("loads of the start-up probe", EIO);

	entry = leaf_entry(probe, DATA);
	first = *entry;
	__atomic_store_n(entry, *leaf_entry(probe, DATA + PAGE), __ATOMIC_RELEASE);
	if ((error = operate(probe, AKVM_OPERATION_FLUSH, 0, 0)) || (error = load(probe, DATA, &seen)))
		return error;
	probe->machine->capabilities.host_edits_seen = seen == values[1];
	__atomic_store_n(entry, first, __ATOMIC_RELEASE);
	if ((error = operate(probe, AKVM_OPERATION_FLUSH, 0, 0)) || (error = load(probe, DATA, &seen)))
		return error;
	probe->machine->capabilities.host_edits_seen &= seen == values[0];
	return 0;
}

static int probe_cpuid(struct probe *probe)
{
	int error = operate(probe, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 1);

	if (error)
		return probe->context->vector == VECTOR_GP ? 0 : error; /* #GP: this CPU has no such MSR */
	error = run(probe, PROBE_CPUID, 0, 0);
	if (error)
		return error;
	probe->machine->capabilities.cpuid_faulting = stopped_at(probe, VECTOR_GP);
	return operate(probe, AKVM_OPERATION_WRITE_MSR, MSR_MISC_FEATURES, 0);
}

static int by_value(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

/* System calls answered on the vCPU thread: exit, decode, re-enter. */
static int probe_round_trip(struct probe *probe)
{
	uint64_t samples[ROUND_TRIP_SAMPLES];
	struct akvm_answers *answers;
	int error = akvm_answers_create(&answers);

	if (error)
		return error;
	akvm_answers_set(answers, 0, 0);
	akvm_context_answers(probe->context, answers);
	for (unsigned i = 0; i < ROUND_TRIP_SAMPLES && !error; i++) {
		error = run_with(probe, (struct akvm_registers){
						.rip = CODE + PROBE_LOOP, .rbx = ROUND_TRIPS, .rsp = STACK, .rflags = 2 });
		if (!error && !stopped_at(probe, VECTOR_BP))
			error = akvm__fail("system-call loop of the start-up probe", EIO);
		samples[i] = probe->context->ran_ns / ROUND_TRIPS;
	}
	akvm_context_answers(probe->context, NULL);
	akvm_answers_destroy(answers);
	if (error)
		return error;
	qsort(samples, ROUND_TRIP_SAMPLES, sizeof(samples[0]), by_value);
	probe->machine->capabilities.round_trip_ns = samples[ROUND_TRIP_SAMPLES / 2];
	return 0;
}

static int prepare(struct probe *probe)
{
	size_t bytes = (size_t)(akvm__probe_code_end - akvm__probe_code);
	int error = akvm_space_create(probe->machine, &probe->space);

	if (error)
		return error;
	/* One page, then a hole: 4 KiB entries, as the host-edit probe wants. */
	if ((error = akvm_space_map(probe->space, CODE, PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0)) ||
	    (error = akvm_space_map(probe->space, DATA, 2 * PAGE, AKVM_READ | AKVM_WRITE, NULL, 0)))
		return error;
	if (akvm_space_write(probe->space, CODE, akvm__probe_code, bytes, true) != (int64_t)bytes)
		return akvm__fail("code of the start-up probe", EFAULT);
	error = akvm_context_create(probe->machine, &probe->context);
	if (!error)
		error = akvm_context_attach(probe->context, probe->space);
	return error;
}

/* The edit mode changes only while no space exists, and a dead one exists until it was reaped; a machine that will not open
 * need not wait for that. */
static int retire(struct probe *probe, bool wait)
{
	struct akvm_machine *machine = probe->machine;
	struct akvm_memory_status status;
	int error = 0;

	if (probe->context)
		akvm_context_destroy(probe->context);
	if (probe->space)
		error = akvm_space_destroy(probe->space);
	for (uint64_t until_ns = akvm__now_ns() + ANSWER_NS; wait && !error;) {
		akvm__mm_status(machine->mm, &status);
		if (!status.spaces)
			return 0;
		if (akvm__now_ns() > until_ns)
			error = akvm__fail("reaping the start-up probe's space", ETIMEDOUT);
		atomic_store(&machine->reap_due, true);
		akvm__mailbox_notify(&machine->vcpus[0]->mailbox);
		akvm_machine_poll(machine, 1000000);
	}
	return error;
}

int akvm__machine_probe(struct akvm_machine *machine)
{
	struct probe probe = { .machine = machine };
	const char *operation;
	int error, retired;

	if ((error = prepare(&probe)) || (error = operate(&probe, AKVM_OPERATION_NOTHING, 0, 0)) ||
	    (error = probe_syscall(&probe)) || (error = probe_int80(&probe)) || (error = probe_host_edits(&probe)) ||
	    (error = probe_cpuid(&probe)))
		;
	else
		error = probe_round_trip(&probe);
	operation = akvm_last_error();
	retired = retire(&probe, !error);
	if (error)
		return akvm__fail(operation, -error);
	if (retired)
		return retired;
	akvm__mm_guest_edits(machine->mm,
			     !machine->capabilities.host_edits_seen || (machine->config.flags & AKVM_MACHINE_GUEST_EDITS));
	return 0;
}
