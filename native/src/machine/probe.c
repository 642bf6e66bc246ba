/*
 * What this platform really does, found by running guests once, when the machine opens. Nothing is concluded from CPU flags,
 * module names or version numbers: hosts emulate, hide and misreport (nested and software KVMs above all).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"
#include "machine/machine.h"
#include "machine/probe.h"

extern const uint8_t akvm__probe_code[], akvm__probe_code_end[];

enum { PROBE_CODE = 0x400000, PROBE_STACK = 0x7fff0000 };
enum { ROUND_TRIPS = 64, ROUND_TRIP_SAMPLES = 5, OPERATION_ATTEMPTS = 1000 };

static const uint64_t ANSWER_NS = 10000000000; /* emulated hosts are slow; this only bounds a hang */

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

static int run_with(struct akvm__probe *probe, struct akvm_registers registers)
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

int akvm__probe_run(struct akvm__probe *probe, uint32_t entry, uint64_t rdi, uint64_t rsi)
{
	return run_with(probe, (struct akvm_registers){
				       .rip = PROBE_CODE + entry, .rdi = rdi, .rsi = rsi, .rsp = PROBE_STACK, .rflags = 2 });
}

int akvm__probe_operate(struct akvm__probe *probe, uint32_t operation, uint64_t rcx, uint64_t rax)
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

bool akvm__probe_stopped_at(const struct akvm__probe *probe, unsigned vector)
{
	return probe->context->kind == AKVM_EXIT_FAULT && probe->context->vector == vector;
}

static int probe_syscall(struct akvm__probe *probe)
{
	struct akvm_capabilities *capabilities = &probe->machine->capabilities;
	int error = akvm__probe_run(probe, PROBE_SYSCALL, 0, 0);

	if (error)
		return error;
	if (probe->context->kind == AKVM_EXIT_SYSCALL)
		return 0;
	/* Not in ring 0 at LSTAR: then it must be the fetch fault at LSTAR, recognised from now on. */
	capabilities->syscall_as_fault = 1;
	error = akvm__probe_run(probe, PROBE_SYSCALL, 0, 0);
	if (!error && probe->context->kind != AKVM_EXIT_SYSCALL)
		return akvm__fail("SYSCALL in ring 3", ENOTSUP);
	return error;
}

static int probe_int80(struct akvm__probe *probe)
{
	int error;

	probe->machine->capabilities.int80_as_ud = 0;
	error = akvm__probe_run(probe, PROBE_INT80, 0, 0);
	if (error || probe->context->kind == AKVM_EXIT_SYSCALL)
		return error;
	probe->machine->capabilities.int80_as_ud = akvm__probe_stopped_at(probe, PROBE_VECTOR_UD);
	return 0;
}

static int by_value(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

/* System calls answered on the vCPU thread: exit, decode, re-enter. */
static int probe_round_trip(struct akvm__probe *probe)
{
	uint64_t samples[ROUND_TRIP_SAMPLES];
	struct akvm_answers *answers;
	int error = akvm_answers_create(&answers);

	if (error)
		return error;
	akvm_answers_set(answers, 0, 0);
	akvm_context_answers(probe->context, answers);
	for (unsigned i = 0; i < ROUND_TRIP_SAMPLES && !error; i++) {
		error = run_with(probe,
				 (struct akvm_registers){
					 .rip = PROBE_CODE + PROBE_LOOP, .rbx = ROUND_TRIPS, .rsp = PROBE_STACK, .rflags = 2 });
		if (!error && !akvm__probe_stopped_at(probe, PROBE_VECTOR_BP))
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

static int prepare(struct akvm__probe *probe)
{
	size_t bytes = (size_t)(akvm__probe_code_end - akvm__probe_code);
	int error = akvm_space_create(probe->machine, &probe->space);

	if (error)
		return error;
	/* One page, then a hole: 4 KiB entries, as the host-edit probe wants. */
	if ((error = akvm_space_map(probe->space, PROBE_CODE, PROBE_PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0)) ||
	    (error = akvm_space_map(probe->space, PROBE_DATA, 2 * PROBE_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0)))
		return error;
	if (akvm_space_write(probe->space, PROBE_CODE, akvm__probe_code, bytes, true) != (int64_t)bytes)
		return akvm__fail("code of the start-up probe", EFAULT);
	error = akvm_context_create(probe->machine, &probe->context);
	if (!error)
		error = akvm_context_attach(probe->context, probe->space);
	return error;
}

/* The edit mode changes only while no space exists, and a dead one exists until it was reaped; a machine that will not open
 * need not wait for that. */
static int retire(struct akvm__probe *probe, bool wait)
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
	struct akvm__probe probe = { .machine = machine };
	const char *operation;
	int error, retired;

	error = prepare(&probe);
	if (!error)
		error = akvm__probe_operate(&probe, AKVM_OPERATION_NOTHING, 0, 0);
	if (!error)
		error = probe_syscall(&probe);
	if (!error)
		error = probe_int80(&probe);
	if (!error && machine->driver->probe)
		error = machine->driver->probe(&probe);
	if (!error)
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
