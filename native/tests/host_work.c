/*
 * See host_work.h: what the steps have in common.
 */
#include "host_work.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "host/host.h"
#include "host_faults.h"
#include "host_guest.h"
#include "ptrace_rig.h"
#include "t.h"

static const uint64_t REKICK_NS = 20000000, PATIENCE_NS = 300000000, HANG_NS = 30000000000;

struct akvm_machine_config work_config(uint32_t flags)
{
	return (struct akvm_machine_config){
		.memory_bytes = 32 << 20,
		.vcpus = WORK_VCPUS,
		.contexts_max = WORK_CONTEXTS,
		.flags = flags,
		.vcpu_spin_ns = 2000,
	};
}

bool work_refused(int64_t result, int64_t expected)
{
	if (result == expected)
		return false;
	T_CHECK(result < 0);
	faults_show((int)-result, akvm_last_error());
	return true;
}

/* ---------------------------------------------------------------- guests */

bool work_context(struct work *work, struct akvm_space *space, struct akvm_context **context)
{
	if (work_refused(akvm_context_create(work->machine, context), 0))
		return false;
	T_EQUAL(akvm_context_attach(*context, space), 0);
	(*context)->registers.rsp = GUEST_STACK;
	T_CHECK(work->contexts_count < WORK_CONTEXTS);
	work->contexts[work->contexts_count++] = *context;
	return true;
}

void work_drop_context(struct work *work, struct akvm_context *context)
{
	unsigned i = 0;

	while (work->contexts[i] != context)
		i++;
	work->contexts[i] = work->contexts[--work->contexts_count];
	T_EQUAL(akvm_context_destroy(context), 0);
}

bool work_guest_open(struct work *work, struct work_guest *guest)
{
	size_t bytes = sizeof(guest_code);

	memset(guest, 0, sizeof(*guest));
	if (work_refused(akvm_space_create(work->machine, &guest->space), 0))
		return false;
	if (!work_refused(akvm_space_map(guest->space, GUEST_CODE, GUEST_PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0), 0) &&
	    !work_refused(
		    akvm_space_map(guest->space, GUEST_DATA, GUEST_DATA_PAGES * GUEST_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0),
		    0) &&
	    !work_refused(akvm_space_write(guest->space, GUEST_CODE, guest_code, bytes, true), (int64_t)bytes) &&
	    work_context(work, guest->space, &guest->context))
		return true;
	T_EQUAL(akvm_space_destroy(guest->space), 0);
	return false;
}

void work_guest_close(struct work *work, struct work_guest *guest)
{
	work_drop_context(work, guest->context);
	T_EQUAL(akvm_space_destroy(guest->space), 0);
}

/* ---------------------------------------------------------------- runs */

/* Take what has completed, and sleep as a caller does who looks by himself now and then. */
static void take(struct work *work)
{
	struct pollfd bell = { .fd = akvm_machine_doorbell(work->machine), .events = POLLIN };
	uint32_t indices[WORK_CONTEXTS];
	uint64_t rings;

	if (akvm_machine_drain(work->machine, indices, WORK_CONTEXTS) || akvm_machine_arm(work->machine))
		return;
	if (poll(&bell, 1, 2) == 1)
		T_EQUAL(read(bell.fd, &rings, sizeof(rings)), sizeof(rings));
}

static void interrupt_all(struct work *work)
{
	for (unsigned i = 0; i < work->contexts_count; i++)
		if (work->contexts[i]->submitted)
			work_refused(
				akvm_context_interrupt(work->contexts[i], work->contexts[i]->generation, AKVM_INTERRUPT_TIMEOUT),
				0);
}

void work_wait(struct work *work, struct akvm_context *context, bool interrupt)
{
	uint64_t started_ns = akvm__now_ns(), kicked_ns = 0;

	while (context->submitted) {
		uint64_t now_ns = akvm__now_ns();

		T_CHECK(now_ns - started_ns < HANG_NS);
		if (now_ns - started_ns > PATIENCE_NS && faults_stop_kicks()) {
			faults_disarm();
			work->rescued = true;
		}
		if ((interrupt || work->rescued) && now_ns - kicked_ns > REKICK_NS) {
			if (work->rescued)
				interrupt_all(work);
			else
				work_refused(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_CANCEL), 0);
			kicked_ns = now_ns;
		}
		take(work);
	}
}

void work_submit(struct akvm_context *context, uint32_t vcpu, uint64_t rip, uint64_t rdi, uint64_t rsi)
{
	context->registers.rip = rip;
	context->registers.rdi = rdi;
	context->registers.rsi = rsi;
	T_EQUAL(akvm_context_submit(context, vcpu), 0);
}

/* What came back is a failure that may be: told to faults_show(). */
static bool exit_failed(struct work *work, const struct akvm_context *context)
{
	if (context->kind == AKVM_EXIT_ERROR) {
		T_CHECK(context->detail == AKVM_FAILURE_RUN || context->detail == AKVM_FAILURE_HOST);
		faults_show(context->host_errno, NULL);
	} else if (context->kind == AKVM_EXIT_FAULT && context->detail == AKVM_FAULT_MEMORY) {
		faults_show(ENOMEM, NULL);
	} else if (context->kind == AKVM_EXIT_FAULT && context->detail == AKVM_FAULT_BUS) {
		faults_show(EFAULT, NULL);
	} else {
		return work->rescued && context->kind == AKVM_EXIT_INTERRUPTED;
	}
	return true;
}

bool work_run(struct work *work, struct akvm_context *context, uint32_t vcpu, uint64_t rip, uint64_t rdi, uint64_t rsi,
	      uint32_t vector)
{
	work_submit(context, vcpu, rip, rdi, rsi);
	work_wait(work, context, false);
	if (context->kind == AKVM_EXIT_ERROR && context->detail == AKVM_FAILURE_HOST && !faults_armed()) {
		/* As it was: the same once more, from the registers as they are. */
		faults_show(context->host_errno, NULL);
		T_EQUAL(context->registers.rip, rip);
		T_EQUAL(akvm_context_submit(context, vcpu), 0);
		work_wait(work, context, false);
	}
	if ((context->kind == AKVM_EXIT_SYSCALL || context->kind == AKVM_EXIT_FAULT) && context->vector == vector)
		if (vector != GUEST_PAGE_FAULT || context->detail == AKVM_FAULT_UNMAPPED)
			return true;
	if (exit_failed(work, context))
		return false;
	fprintf(stderr, "kind %u vector %u detail %u errno %d rip %#llx\n", context->kind, context->vector, context->detail,
		context->host_errno, (unsigned long long)context->registers.rip);
	t_fail(__FILE__, __LINE__, "the expected exit");
}

bool work_store(struct work *work, struct work_guest *guest, uint32_t vcpu, uint64_t address, uint64_t value)
{
	return work_run(work, guest->context, vcpu, GUEST_STORE, address, value, GUEST_BREAKPOINT);
}

bool work_load(struct work *work, struct work_guest *guest, uint32_t vcpu, uint64_t address, uint64_t expected)
{
	if (!work_run(work, guest->context, vcpu, GUEST_LOAD, address, 0, GUEST_BREAKPOINT))
		return false;
	T_EQUAL(guest->context->registers.rax, expected);
	return true;
}

bool work_poke(struct akvm_space *space, uint64_t address, uint64_t value)
{
	return !work_refused(akvm_space_write(space, address, &value, sizeof(value), false), sizeof(value));
}

bool work_peek(struct akvm_space *space, uint64_t address, uint64_t expected)
{
	uint64_t value;

	if (work_refused(akvm_space_read(space, address, &value, sizeof(value)), sizeof(value)))
		return false;
	T_EQUAL(value, expected);
	return true;
}

bool work_operate(struct work *work, struct akvm_context *context, uint32_t vcpu, uint32_t operation, uint32_t vector)
{
	enum { ATTEMPTS = 100 };

	for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
		if (work_refused(akvm_context_operate(context, vcpu, operation), 0))
			return false;
		work_wait(work, context, false);
		if (work->rescued)
			return false;
		if (context->kind == AKVM_EXIT_INTERRUPTED)
			continue;
		T_EQUAL(context->kind, AKVM_EXIT_OPERATION);
		if (context->vector == vector && context->detail == (vector != 0))
			return true;
		T_CHECK(context->detail);
		faults_show(-context->host_errno, NULL);
		return false;
	}
	faults_show(EINTR, NULL);
	return false;
}

void work_wait_running(struct work *work, struct akvm_context *context)
{
	uint64_t until_ns = akvm__now_ns() + HANG_NS;

	/* Or it is over already. */
	while (!akvm_machine_poll(work->machine, 0)) {
		struct akvm_vcpu_status status;

		for (uint32_t vcpu = 0; vcpu < WORK_VCPUS; vcpu++) {
			T_EQUAL(akvm_vcpu_status(work->machine, vcpu, &status), 0);
			if (status.context == context->index && status.state == AKVM_VCPU_GUEST)
				return;
		}
		T_CHECK(akvm__now_ns() < until_ns);
	}
}

bool work_kill_mappers(struct work *work)
{
	struct rig rig = { .machine = work->machine };
	pid_t mapper, zygote;

	if (akvm_machine_capabilities(work->machine)->platform != AKVM_PLATFORM_PTRACE)
		return false;
	mapper = ptrace_mapper(&rig, 0);
	zygote = ptrace_zygote(&rig);
	/* One that failed may be gone already. */
	if (mapper != 0)
		T_EQUAL(kill(mapper, SIGKILL), 0);
	if (zygote != 0)
		T_EQUAL(kill(zygote, SIGKILL), 0);
	return true;
}

/* ---------------------------------------------------------------- the whole */

enum { BYSTANDERS_VALUE = 0x1234567 };

void work_begin(struct work *work, struct akvm_machine *machine, bool fake)
{
	struct akvm_memory_status status;

	memset(work, 0, sizeof(*work));
	work->machine = machine;
	work->fake = fake;
	T_CHECK(work_guest_open(work, &work->bystander));
	T_CHECK(work_poke(work->bystander.space, GUEST_DATA, BYSTANDERS_VALUE));
	work_look_at_bystander(work);
	T_EQUAL(akvm_memory_status(machine, &status), 0);
	work->frames = status.frames_used;
}

static bool settled(const struct work *work)
{
	struct akvm_memory_status status;

	T_EQUAL(akvm_memory_status(work->machine, &status), 0);
	return status.spaces == 1 && status.frames_used == work->frames;
}

void work_linger(struct work *work)
{
	enum { NAPS = 300 };
	const struct timespec nap = { .tv_nsec = 1000000 };

	for (unsigned i = 0; i < NAPS && !settled(work); i++)
		nanosleep(&nap, NULL);
}

void work_settle(struct work *work)
{
	const struct timespec nap = { .tv_nsec = 500000 };
	uint64_t until_ns = akvm__now_ns() + HANG_NS;
	struct akvm_space *space;

	while (!settled(work)) {
		T_CHECK(akvm__now_ns() < until_ns);
		/* Asks for a reaping. */
		T_EQUAL(akvm_space_create(work->machine, &space), 0);
		T_EQUAL(akvm_space_destroy(space), 0);
		nanosleep(&nap, NULL);
	}
}

void work_look_at_bystander(struct work *work)
{
	work_load(work, &work->bystander, 1, GUEST_DATA, BYSTANDERS_VALUE);
}

void work_spin(struct work *work)
{
	struct akvm_context *context;

	work_submit(work->bystander.context, 0, GUEST_SPIN, 0, 0);
	if (work_context(work, work->bystander.space, &context))
		work_submit(context, 1, GUEST_SPIN, 0, 0);
	work_wait_running(work, work->bystander.context);
}
