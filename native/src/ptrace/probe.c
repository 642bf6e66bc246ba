/*
 * Whether guests run in stubs here, found by running some when the machine opens: much may forbid it (Yama, a container's seccomp
 * profile, a kernel that is none), and nothing but trying tells.
 */
#include <errno.h>

#include "host/host.h"
#include "machine/trial.h"
#include "ptrace/ptrace.h"

static int try_system_call(struct akvm__trial *trial, uint32_t entry)
{
	int error = akvm__trial_run(trial, entry, 0);

	if (!error && trial->context->kind != AKVM_EXIT_SYSCALL)
		return akvm__fail("a system call of the start-up probe", ENOTSUP);
	return error;
}

/* A store by the host must be what the guest loads. */
static int try_memory(struct akvm__trial *trial)
{
	const uint64_t value = 0x1122334455667788;
	int error;

	if (akvm_space_write(trial->space, AKVM_TRIAL_DATA, &value, sizeof(value), false) != sizeof(value))
		return akvm__fail("memory of the start-up probe", EFAULT);
	error = akvm__trial_run(trial, AKVM_TRIAL_LOAD, AKVM_TRIAL_DATA);
	if (!error && (!akvm__trial_stopped_at(trial, AKVM_VECTOR_BP) || trial->context->registers.rax != value))
		return akvm__fail("loads of the start-up probe", EIO);
	return error;
}

int akvm__ptrace_probe(struct akvm_machine *machine)
{
	struct akvm__trial trial = { .machine = machine };
	const char *operation;
	int error, retired;

	if ((error = akvm__trial_prepare(&trial)) || (error = try_system_call(&trial, AKVM_TRIAL_SYSCALL)) ||
	    (error = try_system_call(&trial, AKVM_TRIAL_INT80)) || (error = try_memory(&trial)))
		;
	else
		error = akvm__trial_round_trip(&trial);
	operation = akvm_last_error();
	retired = akvm__trial_retire(&trial, !error);
	return error ? akvm__fail(operation, -error) : retired;
}
