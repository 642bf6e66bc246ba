/*
 * Running guests while a machine opens: what the probes of all drivers share.
 */
#include "machine/trial.h"

#include <errno.h>
#include <stdlib.h>

#include "host/host.h"

extern const uint8_t akvm__probe_code[], akvm__probe_code_end[];

enum { CODE = 0x400000, STACK = 0x7fff0000, PAGE = 4096, ROUND_TRIPS = 64, ROUND_TRIP_SAMPLES = 5 };

static const uint64_t ANSWER_NS = 10000000000; /* emulated hosts are slow; this only bounds a hang */

int akvm__trial_wait(struct akvm__trial *trial)
{
	uint64_t until_ns = akvm__now_ns() + ANSWER_NS;
	uint32_t index;

	while (!akvm_machine_drain(trial->machine, &index, 1)) {
		if (akvm__now_ns() > until_ns)
			return akvm__fail("a guest of the start-up probe did not come back", ETIMEDOUT);
		akvm_machine_poll(trial->machine, 1000000);
		/* The vCPU's thread may have to share this core. */
		AKVM__HOST->sched_yield();
	}
	return 0;
}

static int run_with(struct akvm__trial *trial, struct akvm_registers registers)
{
	struct akvm_context *context = trial->context;
	int error;

	context->registers = registers;
	error = akvm_context_submit(context, 0);
	if (!error)
		error = akvm__trial_wait(trial);
	if (!error && context->kind == AKVM_EXIT_ERROR)
		error = akvm__fail("a guest of the start-up probe", context->host_errno ? context->host_errno : EIO);
	return error;
}

int akvm__trial_run(struct akvm__trial *trial, uint32_t entry, uint64_t rdi)
{
	return run_with(trial, (struct akvm_registers){ .rip = CODE + entry, .rdi = rdi, .rsp = STACK, .rflags = 2 });
}

bool akvm__trial_stopped_at(const struct akvm__trial *trial, unsigned vector)
{
	return trial->context->kind == AKVM_EXIT_FAULT && trial->context->vector == vector;
}

static int by_value(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

int akvm__trial_round_trip(struct akvm__trial *trial)
{
	uint64_t samples[ROUND_TRIP_SAMPLES];
	struct akvm_answers *answers;
	int error = akvm_answers_create(&answers);

	if (error)
		return error;
	akvm_answers_set(answers, 0, 0);
	akvm_context_answers(trial->context, answers);
	for (unsigned i = 0; i < ROUND_TRIP_SAMPLES && !error; i++) {
		error = run_with(trial, (struct akvm_registers){
						.rip = CODE + AKVM_TRIAL_LOOP, .rbx = ROUND_TRIPS, .rsp = STACK, .rflags = 2 });
		if (!error && !akvm__trial_stopped_at(trial, AKVM_VECTOR_BP))
			error = akvm__fail("system-call loop of the start-up probe", EIO);
		samples[i] = trial->context->ran_ns / ROUND_TRIPS;
	}
	akvm_context_answers(trial->context, NULL);
	akvm_answers_destroy(answers);
	if (error)
		return error;
	qsort(samples, ROUND_TRIP_SAMPLES, sizeof(samples[0]), by_value);
	trial->machine->capabilities.round_trip_ns = samples[ROUND_TRIP_SAMPLES / 2];
	return 0;
}

int akvm__trial_prepare(struct akvm__trial *trial)
{
	size_t bytes = (size_t)(akvm__probe_code_end - akvm__probe_code);
	int error = akvm_space_create(trial->machine, &trial->space);

	if (error)
		return error;
	if ((error = akvm_space_map(trial->space, CODE, PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0)) ||
	    (error = akvm_space_map(trial->space, AKVM_TRIAL_DATA, 2 * PAGE, AKVM_READ | AKVM_WRITE, NULL, 0)))
		return error;
	if (akvm_space_write(trial->space, CODE, akvm__probe_code, bytes, true) != (int64_t)bytes)
		return akvm__fail("code of the start-up probe", EFAULT);
	error = akvm_context_create(trial->machine, &trial->context);
	if (!error)
		error = akvm_context_attach(trial->context, trial->space);
	return error;
}

/* How present entries are changed is settled while no space exists, and a dead one exists until it was reaped; a machine that will
 * not open need not wait for that. */
int akvm__trial_retire(struct akvm__trial *trial, bool wait)
{
	struct akvm_machine *machine = trial->machine;
	struct akvm_memory_status status;
	int error = 0;

	if (trial->context)
		akvm_context_destroy(trial->context);
	if (trial->space)
		error = akvm_space_destroy(trial->space);
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
