/*
 * The steps of host_work.h: each reaches some of the core's calls to the host, and all together every one of them.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_kvm.h"
#include "host_faults.h"
#include "host_guest.h"
#include "host_work.h"
#include "t.h"

enum { HUGE_PAGE = 2 << 20, ANYWHERE = 0x10000000, READ_WRITE = AKVM_READ | AKVM_WRITE };

/* Pages touched by guest and host; enough of them that the lists of what waits to be freed grow. */
static void touch(struct work *work)
{
	enum { PAGES = 96 };
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	if (work_store(work, &guest, 0, GUEST_DATA, 7))
		work_peek(guest.space, GUEST_DATA, 7);
	if (!work_refused(akvm_space_map(guest.space, ANYWHERE, PAGES * GUEST_PAGE, READ_WRITE, NULL, 0), 0))
		for (uint64_t page = 0; page < PAGES; page++)
			if (work_poke(guest.space, ANYWHERE + page * GUEST_PAGE, page) && page % 16 == 0)
				work_load(work, &guest, page / 16 % 2, ANYWHERE + page * GUEST_PAGE, page);
	work_run(work, guest.context, 0, GUEST_LOAD, ANYWHERE - GUEST_PAGE, 0, GUEST_PAGE_FAULT);
	work_guest_close(work, &guest);
}

/* More regions than the first list holds. */
static void regions(struct work *work)
{
	enum { REGIONS = 24 };
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	for (uint64_t i = 0; i < REGIONS; i++) {
		uint64_t address = ANYWHERE + i * 2 * GUEST_PAGE;

		if (!work_refused(akvm_space_map(guest.space, address, GUEST_PAGE, READ_WRITE, NULL, 0), 0) &&
		    work_poke(guest.space, address, i) &&
		    !work_refused(akvm_space_protect(guest.space, address, GUEST_PAGE, AKVM_READ), 0))
			work_peek(guest.space, address, i);
	}
	work_refused(akvm_space_unmap(guest.space, ANYWHERE, REGIONS * 2 * GUEST_PAGE), 0);
	work_guest_close(work, &guest);
}

/* Large pages that are cut, and blocks of memory given back to the host. */
static void huge(struct work *work)
{
	enum { PAGES = 10 };
	struct work_guest guest;
	bool cut;

	if (!work_guest_open(work, &guest))
		return;
	if (!work_refused(akvm_space_map(guest.space, ANYWHERE, (uint64_t)PAGES * HUGE_PAGE, READ_WRITE, NULL, 0), 0)) {
		work_store(work, &guest, 0, ANYWHERE, 1);
		for (uint64_t page = 1; page < PAGES; page++)
			work_poke(guest.space, ANYWHERE + page * HUGE_PAGE, page);
		if (work_poke(guest.space, ANYWHERE + HUGE_PAGE + GUEST_PAGE, 5)) {
			cut = !work_refused(akvm_space_unmap(guest.space, ANYWHERE + HUGE_PAGE + 2 * GUEST_PAGE, GUEST_PAGE), 0);
			work_load(work, &guest, 0, ANYWHERE + HUGE_PAGE + GUEST_PAGE, 5);
			if (cut)
				work_run(work, guest.context, 0, GUEST_LOAD, ANYWHERE + HUGE_PAGE + 2 * GUEST_PAGE, 0,
					 GUEST_PAGE_FAULT);
		}
		if (!work_refused(akvm_space_discard(guest.space, ANYWHERE + 2 * HUGE_PAGE, (uint64_t)(PAGES - 2) * HUGE_PAGE),
				  0))
			work_load(work, &guest, 0, ANYWHERE + 3 * HUGE_PAGE, 0);
	}
	work_guest_close(work, &guest);
}

static void forked(struct work *work)
{
	struct work_guest parent, child = { 0 };
	bool written, apart = false;

	if (!work_guest_open(work, &parent))
		return;
	written = work_store(work, &parent, 0, GUEST_DATA, 11);
	if (!work_refused(akvm_space_fork(parent.space, &child.space), 0)) {
		if (work_context(work, child.space, &child.context)) {
			apart = written && work_load(work, &child, 1, GUEST_DATA, 11) &&
				work_store(work, &child, 1, GUEST_DATA, 12);
			if (apart)
				work_load(work, &child, 0, GUEST_DATA, 12);
			work_drop_context(work, child.context);
		}
		T_EQUAL(akvm_space_destroy(child.space), 0);
	}
	if (written && work_load(work, &parent, 0, GUEST_DATA, 11) && work_store(work, &parent, 0, GUEST_DATA, 13))
		work_peek(parent.space, GUEST_DATA, 13);
	work_guest_close(work, &parent);
}

/* The last page: cut off below the guest that has it. */
static void truncated(struct work *work, struct work_guest *guest, int fd)
{
	struct akvm_context *context = guest->context;

	if (!work_load(work, guest, 0, ANYWHERE + 2 * GUEST_PAGE, 3))
		return;
	T_EQUAL(ftruncate(fd, GUEST_PAGE), 0);
	work_submit(context, 0, GUEST_LOAD, ANYWHERE + 2 * GUEST_PAGE, 0);
	work_wait(work, context, false);
	if (context->kind == AKVM_EXIT_FAULT)
		T_EQUAL(context->detail, AKVM_FAULT_BUS);
	else
		T_CHECK(context->kind == AKVM_EXIT_ERROR && faults_injected());
	if (context->kind == AKVM_EXIT_ERROR)
		faults_show(context->host_errno, NULL);
}

/* Two spaces and one budget: what one has, the other cannot. */
static void budgets(struct work *work)
{
	struct akvm_budget *budget;
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	if (!work_refused(akvm_budget_create(work->machine, 64, &budget), 0)) {
		T_EQUAL(akvm_budget_charge(budget, 65), -ENOMEM);
		T_EQUAL(akvm_budget_charge(budget, 64), 0);
		T_EQUAL(akvm_budget_used(budget), 64);
		akvm_budget_release(budget, 64);
		T_EQUAL(akvm_space_budget(guest.space, budget), -EBUSY);
		akvm_budget_destroy(budget);
	}
	work_guest_close(work, &guest);
}

/* Stores of the guest and of the host go to the file itself. */
static void shared(struct work *work, int fd)
{
	struct work_guest guest;
	struct akvm_file *file;
	uint64_t value = 7;
	uint32_t old;

	if (!work_guest_open(work, &guest))
		return;
	if (!work_refused(akvm_file_open(work->machine, fd, true, 0, &file), 0)) {
		if (!work_refused(akvm_space_map(guest.space, ANYWHERE, GUEST_PAGE, READ_WRITE | AKVM_SHARED, file, 0), 0)) {
			if (work_store(work, &guest, 1, ANYWHERE, 5)) {
				T_EQUAL(pread(fd, &value, sizeof(value), 0), sizeof(value));
				T_EQUAL(value, 5);
			}
			value = 6;
			if (!work_refused(akvm_space_write(guest.space, ANYWHERE, &value, sizeof(value), false), sizeof(value)))
				work_load(work, &guest, 0, ANYWHERE, 6);
			if (!work_refused(akvm_space_compare_exchange32(guest.space, ANYWHERE + 8, 0, 8, &old), 0)) {
				T_EQUAL(old, 0);
				work_load(work, &guest, 1, ANYWHERE + 8, 8);
				if (!work_refused(akvm_space_move(guest.space, ANYWHERE, 2ull * ANYWHERE, GUEST_PAGE), 0))
					work_load(work, &guest, 0, 2ull * ANYWHERE + 8, 8);
			}
		}
		akvm_file_close(file);
	}
	work_guest_close(work, &guest);
}

static void files(struct work *work)
{
	int fd = memfd_create("work", MFD_CLOEXEC);
	struct akvm_file *file;
	struct work_guest guest;
	uint64_t value = 1;

	T_CHECK(fd >= 0);
	for (off_t page = 0; page < 3; page++, value++)
		T_EQUAL(pwrite(fd, &value, sizeof(value), page * GUEST_PAGE), sizeof(value));
	T_EQUAL(ftruncate(fd, 3 * GUEST_PAGE), 0);
	if (work_guest_open(work, &guest)) {
		if (!work_refused(akvm_file_open(work->machine, fd, false, 0, &file), 0)) {
			if (!work_refused(akvm_space_map(guest.space, ANYWHERE, 3 * GUEST_PAGE, READ_WRITE, file, 0), 0)) {
				work_load(work, &guest, 0, ANYWHERE, 1);
				work_peek(guest.space, ANYWHERE + GUEST_PAGE, 2);
				if (work_store(work, &guest, 1, ANYWHERE + GUEST_PAGE, 9))
					work_load(work, &guest, 0, ANYWHERE + GUEST_PAGE, 9);
				T_EQUAL(pread(fd, &value, sizeof(value), GUEST_PAGE), sizeof(value));
				T_EQUAL(value, 2);
				truncated(work, &guest, fd);
			}
			akvm_file_close(file);
		}
		work_guest_close(work, &guest);
	}
	shared(work, fd);
	T_EQUAL(close(fd), 0);
}

/* The vector state of two contexts that change places. */
static void vectors(struct work *work)
{
	enum { REGISTERS = 160, IMAGE_MAX = 16384 };
	uint32_t bytes = akvm_machine_capabilities(work->machine)->xsave_bytes;
	static uint8_t image[IMAGE_MAX], now[IMAGE_MAX];
	struct work_guest guest;
	bool ran;

	T_CHECK(bytes <= IMAGE_MAX);
	if (!work_guest_open(work, &guest))
		return;
	if (!work_refused(akvm_context_get_xsave(guest.context, image, bytes), 0)) {
		memset(image + REGISTERS, 0x5a, 16);
		image[512] |= 3;
		T_EQUAL(akvm_context_set_xsave(guest.context, image, bytes), 0);
		ran = work_run(work, guest.context, 1, GUEST_CPUID, 0, 0, GUEST_BREAKPOINT);
		work_look_at_bystander(work);
		ran &= work_run(work, guest.context, 0, GUEST_CPUID, 0, 0, GUEST_BREAKPOINT);
		ran &= !work_refused(akvm_context_get_xsave(guest.context, now, bytes), 0);
		if (ran)
			T_EQUAL(memcmp(now + REGISTERS, image + REGISTERS, 16), 0);
	}
	work_guest_close(work, &guest);
}

/* A guest that computes for ever is interrupted, and preempted by an operation. */
static void kicks(struct work *work)
{
	struct akvm_context *operation;
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	for (unsigned turn = 0; turn < 2 && !work->rescued; turn++) {
		work_submit(guest.context, 0, GUEST_SPIN, 0, 0);
		work_wait_running(work, guest.context);
		if (turn == 1 && work_context(work, guest.space, &operation)) {
			work_operate(work, operation, 0, AKVM_OPERATION_NOTHING, 0);
			work_drop_context(work, operation);
		}
		work_wait(work, guest.context, true);
		if (guest.context->kind == AKVM_EXIT_ERROR)
			faults_show(guest.context->host_errno, NULL);
		else
			T_EQUAL(guest.context->kind, AKVM_EXIT_INTERRUPTED);
	}
	work_guest_close(work, &guest);
}

static void operations(struct work *work)
{
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	guest.context->registers.rcx = 0x12345678;
	work_operate(work, guest.context, 0, AKVM_OPERATION_READ_MSR, GUEST_PROTECTION);
	work_operate(work, guest.context, 0, AKVM_OPERATION_FLUSH, 0);
	work_operate(work, guest.context, 1, AKVM_OPERATION_NOTHING, 0);
	work_run(work, guest.context, 0, GUEST_CPUID, 0, 0, GUEST_BREAKPOINT);
	work_guest_close(work, &guest);
}

static void system_calls(struct work *work)
{
	struct akvm_answers *answers;
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	guest.context->registers.rbx = 20;
	work_run(work, guest.context, 0, GUEST_SYSCALLS, 0, 0, 256);
	work_run(work, guest.context, 1, GUEST_INT80, 0, 0, GUEST_VECTOR_INT80);
	if (!work_refused(akvm_answers_create(&answers), 0)) {
		T_EQUAL(akvm_answers_set(answers, 0, 0), 0);
		T_EQUAL(akvm_context_answers(guest.context, answers), 0);
		guest.context->registers.rbx = 20;
		work_run(work, guest.context, 0, GUEST_SYSCALLS, 0, 0, GUEST_BREAKPOINT);
		T_EQUAL(akvm_context_answers(guest.context, NULL), 0);
		akvm_answers_destroy(answers);
	}
	work_guest_close(work, &guest);
}

/* A space changes below a guest that has not heard of it, and another one wants to enter. */
static void shootdown(struct work *work)
{
	struct akvm_context *second;
	struct work_guest guest;

	if (!work_guest_open(work, &guest))
		return;
	if (work_poke(guest.space, GUEST_DATA, 3) && work_context(work, guest.space, &second)) {
		work_submit(guest.context, 0, GUEST_SPIN, 0, 0);
		work_wait_running(work, guest.context);
		faults_drop_kicks(2);
		if (!work_refused(akvm_space_protect(guest.space, GUEST_DATA, GUEST_PAGE, AKVM_READ), 0) &&
		    work_run(work, second, 1, GUEST_LOAD, GUEST_DATA, 0, GUEST_BREAKPOINT))
			T_EQUAL(second->registers.rax, 3);
		faults_drop_kicks(0);
		work_wait(work, guest.context, true);
		if (guest.context->kind == AKVM_EXIT_ERROR)
			faults_show(guest.context->host_errno, NULL);
		else
			T_EQUAL(guest.context->kind, AKVM_EXIT_INTERRUPTED);
		work_drop_context(work, second);
	}
	work_guest_close(work, &guest);
}

/* Every frame there is. */
static void use_up(struct work *work, struct work_guest *guest)
{
	struct akvm_memory_status status;
	uint64_t word = 1, bytes;
	int64_t result = sizeof(word);

	T_EQUAL(akvm_memory_status(work->machine, &status), 0);
	bytes = status.frames_total * GUEST_PAGE;
	if (work_refused(akvm_space_map(guest->space, ANYWHERE, 2 * bytes, READ_WRITE, NULL, 0), 0))
		return;
	for (uint64_t at = 0; at < bytes && result > 0; at += HUGE_PAGE)
		result = akvm_space_write(guest->space, ANYWHERE + at, &word, sizeof(word), false);
	for (uint64_t at = bytes; at < 2 * bytes && result > 0; at += GUEST_PAGE)
		result = akvm_space_write(guest->space, ANYWHERE + at, &word, sizeof(word), false);
	if (result != -ENOMEM)
		work_refused(result, -ENOMEM);
}

/* The core waits for a reaping, but not as long as a busy machine may take for it. */
static bool poke_patiently(struct akvm_space *space, uint64_t address, uint64_t value)
{
	enum { ATTEMPTS = 250 };

	for (unsigned attempt = 0; attempt < ATTEMPTS && !(faults_armed() && faults_injected()); attempt++)
		if (akvm_space_write(space, address, &value, sizeof(value), false) == sizeof(value))
			return true;
	return work_poke(space, address, value);
}

/* Memory that dead spaces still have, while every vCPU is busy. */
static void reaping(struct work *work)
{
	enum { PAGES = 4 };
	struct work_guest guest, big;
	struct akvm_context *spinners[WORK_VCPUS];
	unsigned spinning = 0;

	if (!work_guest_open(work, &guest))
		return;
	while (spinning < WORK_VCPUS && work_context(work, guest.space, &spinners[spinning])) {
		work_submit(spinners[spinning], spinning, GUEST_SPIN, 0, 0);
		work_wait_running(work, spinners[spinning]);
		spinning++;
	}
	if (work_guest_open(work, &big)) {
		use_up(work, &big);
		work_guest_close(work, &big);
	}
	/* What cannot be reaped is missing here. */
	faults_also(ENOMEM);
	if (!work_refused(akvm_space_map(guest.space, ANYWHERE, (uint64_t)PAGES * HUGE_PAGE, READ_WRITE, NULL, 0), 0))
		for (uint64_t page = 0; page < PAGES; page++)
			if (poke_patiently(guest.space, ANYWHERE + page * HUGE_PAGE, page + 1))
				work_peek(guest.space, ANYWHERE + page * HUGE_PAGE, page + 1);
	for (unsigned i = 0; i < spinning; i++) {
		work_wait(work, spinners[i], true);
		if (spinners[i]->kind == AKVM_EXIT_ERROR)
			faults_show(spinners[i]->host_errno, NULL);
		work_drop_context(work, spinners[i]);
	}
	work_guest_close(work, &guest);
	work_look_at_bystander(work);
	faults_also(0);
}

/* An exit in the middle of an exception's delivery leaves the exception inside KVM. */
static void events(struct work *work)
{
	struct work_guest guest;

	if (!work->fake || !work_guest_open(work, &guest))
		return;
	fake_cut_delivery(GUEST_PAGE_FAULT, 1);
	work_store(work, &guest, 0, GUEST_DATA + 8 * GUEST_PAGE, 4);
	fake_cut_delivery(GUEST_PAGE_FAULT, 0);
	work_guest_close(work, &guest);
}

static struct fake_step load_from_nowhere(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	(void)opaque;
	return (struct fake_step){ .action = FAKE_EXIT, .exit_reason = KVM_EXIT_MMIO };
}

/* An exit that KVM finishes with the next KVM_RUN, whoever it is for. */
static void input(struct work *work)
{
	struct work_guest guest;

	if (!work->fake || !work_guest_open(work, &guest))
		return;
	fake_set_script(load_from_nowhere, NULL);
	work_submit(guest.context, 1, FAKE_SCRIPT, 0, 0);
	work_wait(work, guest.context, false);
	T_EQUAL(guest.context->kind, AKVM_EXIT_ERROR);
	if (guest.context->detail != AKVM_FAILURE_EXIT)
		faults_show(guest.context->host_errno, NULL);
	/* Where it was, and not wherever there is time. */
	work_operate(work, guest.context, guest.context->vcpu, AKVM_OPERATION_NOTHING, 0);
	work_guest_close(work, &guest);
}

/* Somebody kills what makes the mappings of a stub, and what makes stubs: one run is told, and the next has another. */
static void lost(struct work *work)
{
	enum { ATTEMPTS = 3 };
	struct akvm_context *context;
	struct work_guest guest;
	bool told = false;

	if (work->fake || !work_guest_open(work, &guest))
		return;
	context = guest.context;
	if (work_store(work, &guest, 0, GUEST_DATA, 21) && work_kill_mappers(work)) {
		for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
			work_submit(context, 0, GUEST_STORE, GUEST_DATA + 8 * GUEST_PAGE, 22);
			work_wait(work, context, false);
			if (context->kind != AKVM_EXIT_ERROR)
				break;
			if (told || context->host_errno != ESRCH)
				faults_show(context->host_errno, NULL);
			told |= context->host_errno == ESRCH;
		}
		T_CHECK(context->kind == AKVM_EXIT_FAULT || faults_injected());
		work_load(work, &guest, 0, GUEST_DATA, 21);
	}
	work_guest_close(work, &guest);
}

static const struct {
	const char *name;
	void (*step)(struct work *work);
} steps[] = {
	{ "touch", touch },         { "regions", regions },       { "huge", huge },
	{ "forked", forked },       { "files", files },           { "vectors", vectors },
	{ "kicks", kicks },         { "operations", operations }, { "system calls", system_calls },
	{ "shootdown", shootdown }, { "reaping", reaping },       { "events", events },
	{ "input", input },         { "budgets", budgets },       { "direct", work_direct },
	{ "lost", lost },
};
const unsigned work_steps = sizeof(steps) / sizeof(steps[0]);

const char *work_step_name(unsigned step)
{
	return steps[step].name;
}

void work_step(struct work *work, unsigned step)
{
	work->rescued = false;
	steps[step].step(work);
	work_look_at_bystander(work);
}
