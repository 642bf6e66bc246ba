/*
 * The driver: machines, and one stay of a context in a stub.
 */
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "ptrace/ptrace.h"

enum { TICK_NS = 50000000 };
enum { PAGE = 4096, PAGES = 16384, SLOTS_MAX = 32764 };
enum { VECTOR_GP = 13 };
/* x87, SSE, AVX, AVX-512, as kvm/cpuid.c has it. */
enum { XCR0_USED = 0xe7, XSAVE_LEAF = 0xd, FSGSBASE_HWCAP2 = 2 };

extern const uint8_t akvm__stub_code[];

/* A selector that ring 3 loaded, as a tracer may give it back: with ring 3 as its requestor, which changes nothing. */
static uint16_t selector(uint16_t loaded)
{
	return loaded == 0 ? 0 : loaded | 3;
}

static void to_host(struct user_regs_struct *to, const struct akvm__context *context)
{
	const struct akvm_registers *from = &context->pub.registers;
	bool partial = context->restore == AKVM_RESTORE_PARTIAL;

	*to = (struct user_regs_struct){
		.rax = from->rax,
		.rbx = from->rbx,
		.rcx = partial ? from->rip : from->rcx,
		.rdx = from->rdx,
		.rsi = from->rsi,
		.rdi = from->rdi,
		.rsp = from->rsp,
		.rbp = from->rbp,
		.r8 = from->r8,
		.r9 = from->r9,
		.r10 = from->r10,
		.r11 = partial ? akvm__user_flags(from->rflags) : from->r11,
		.r12 = from->r12,
		.r13 = from->r13,
		.r14 = from->r14,
		.r15 = from->r15,
		.rip = from->rip,
		.eflags = akvm__user_flags(from->rflags),
		.fs_base = context->pub.fs_base,
		.gs_base = context->pub.gs_base,
		.cs = AKVM_USER_CS,
		.ss = AKVM_USER_SS,
		.ds = selector(context->selectors.ds),
		.es = selector(context->selectors.es),
		.fs = selector(context->selectors.fs),
		.gs = selector(context->selectors.gs),
		/* No system call is under way that the host's kernel might restart. */
		.orig_rax = UINT64_MAX,
	};
}

static void leave_stub(struct akvm__vcpu *vcpu)
{
	atomic_store(&vcpu->task_pid, 0);
	if (vcpu->stub != NULL)
		akvm__stub_leave(vcpu, vcpu->stub);
	vcpu->stub = NULL;
	vcpu->task = NULL;
}

int akvm__stub_judge(struct akvm__vcpu *vcpu, int error)
{
	if (error && vcpu->stub != NULL)
		akvm__stub_drop(vcpu->machine->ptrace, vcpu->stub);
	return error;
}

/* The vector state out of the task, if it ran since it was last given or taken. */
int akvm__stub_save_vector_state(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	const struct akvm_capabilities *capabilities = &vcpu->machine->capabilities;
	struct akvm__stub_task *task = vcpu->task;
	int error;

	if (task == NULL || !task->ahead)
		return 0;
	task->vector_version = 0;
	error = akvm__task_get_vector_state(task, context->xsave, capabilities->xsave_bytes, capabilities->xcr0);
	if (error)
		return error;
	task->ahead = false;
	task->vector_version = context->xsave_version = ++vcpu->machine->xsave_versions;
	return 0;
}

/* Be at the space's stub with a task, and the stub current. */
static int join_stub(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	int error = 0;

	akvm__space_lock(context->space);
	if (vcpu->stub != NULL) {
		akvm__process_settle(vcpu, vcpu->stub->mapper.pid, &vcpu->stub->mapper.processor);
		/* A sibling that found it dead may have another already, and what the tables lost since is not known here. */
		error = akvm__stub_dropped(vcpu->machine->ptrace, vcpu->stub) ? akvm__fail("run in a stub", ESRCH)
									      : akvm__stub_refresh(vcpu->stub, context->space);
		if (error)
			(void)akvm__stub_save_vector_state(vcpu, context);
	} else {
		error = akvm__stub_enter(vcpu, context->space, &vcpu->stub);
		if (error == 0)
			error = akvm__stub_task(vcpu, vcpu->stub, &vcpu->task);
	}
	akvm__space_unlock(context->space);
	return akvm__stub_judge(vcpu, error);
}

static int load_once(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct user_regs_struct registers;
	struct akvm__stub_task *task;
	int error = join_stub(vcpu, context);

	if (error)
		return error;
	task = vcpu->task;
	akvm__process_settle(vcpu, task->pid, &task->processor);
	if (!task->ahead && task->vector_version != context->xsave_version) {
		error = akvm__task_set_vector_state(task, context->xsave, vcpu->machine->capabilities.xsave_bytes);
		if (error)
			return akvm__stub_judge(vcpu, error);
		task->vector_version = context->xsave_version;
		akvm__count(&vcpu->counters.fp_switches);
	}
	to_host(&registers, context);
	error = akvm__task_set_registers(task, &registers);
	if (error)
		return akvm__stub_judge(vcpu, error);
	atomic_store(&vcpu->task_pid, task->pid);
	return 0;
}

/*
 * A thread of the program that waits for any child (wait(2)) may be told of a stop instead of the tracer, which then waits in vain:
 * a signal now and then lets it look for itself.
 */
static void tick(struct akvm__vcpu *vcpu, bool on)
{
	if (on && vcpu->timer < 0 &&
	    AKVM__HOST->timer_create(atomic_load(&vcpu->tid), vcpu->machine->config.kick_signal, &vcpu->timer) != 0)
		vcpu->timer = -1;
	if (vcpu->timer >= 0 && vcpu->ticking != on && AKVM__HOST->timer_set(vcpu->timer, on ? TICK_NS : 0) == 0)
		vcpu->ticking = on;
}

static int load(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	int error;

	tick(vcpu, true);

	/* One that is new here has faults before it. */
	akvm__vcpu_settle(vcpu, atomic_load(&vcpu->brief) || context->pub.exits == 0);
	error = load_once(vcpu, context);
	/* Somebody killed it. While nothing ran in it, nothing is lost. */
	if (error == -ESRCH && !(vcpu->task != NULL && vcpu->task->ahead)) {
		leave_stub(vcpu);
		error = load_once(vcpu, context);
	}
	return error;
}

static void unload(struct akvm__vcpu *vcpu)
{
	(void)vcpu;
}

/* A signal that came before the task goes on stops it at its first step. */
static void expect_kicks(struct akvm__vcpu *vcpu)
{
	(void)vcpu;
}

/* The task stops; and its tracer looks at it, which may wait in vain for a stop that somebody else was told of. */
static int kick_task(struct akvm__vcpu *vcpu)
{
	pid_t pid = atomic_load(&vcpu->task_pid);

	if (atomic_load(&vcpu->state) != AKVM_VCPU_GUEST || pid == 0)
		return 0;
	if ((AKVM__HOST->process_kill(pid, SIGUSR1) < 0 ||
	     AKVM__HOST->thread_kill(atomic_load(&vcpu->tid), vcpu->machine->config.kick_signal) < 0) &&
	    errno != ESRCH)
		return akvm__fail("kick vCPU", errno);
	return 0;
}

static struct akvm__run_outcome outcome(enum akvm__run_result result, int signal)
{
	return (struct akvm__run_outcome){ .result = result, .reason = (uint32_t)signal };
}

static struct akvm__run_outcome run(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm__stub_task *task = vcpu->task;
	int error = akvm__task_run(task, 0);

	(void)context;
	task->ahead = true;
	if (akvm__stub_judge(vcpu, error)) {
		atomic_store(&vcpu->task_pid, 0);
		return (struct akvm__run_outcome){ AKVM_RUN_FAILED, 0, -error, AKVM_FAILURE_RUN };
	}
	switch (task->signal) {
	case SIGTRAP | 0x80:
	case SIGSYS:
		return outcome(AKVM_RUN_HALTED, task->signal);
	case SIGBUS:
		if (task->code == BUS_ADRERR)
			return outcome(AKVM_RUN_BUS, task->signal);
		/* fall through */
	case SIGSEGV:
	case SIGILL:
	case SIGFPE:
	case SIGTRAP:
		/* The kernel's, or sent by somebody? */
		return outcome(task->code > 0 ? AKVM_RUN_HALTED : AKVM_RUN_INTERRUPTED, task->signal);
	default:
		return outcome(AKVM_RUN_INTERRUPTED, task->signal);
	}
}

static int resolved(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	int error;

	akvm__space_lock(context->space);
	error = akvm__stub_map(vcpu->stub, context->space, context->pub.address);
	akvm__space_unlock(context->space);
	return akvm__stub_judge(vcpu, error);
}

static int retire(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	int error = akvm__stub_judge(vcpu, akvm__stub_save_vector_state(vcpu, context));

	leave_stub(vcpu);
	return error;
}

static int reset(struct akvm__vcpu *vcpu)
{
	vcpu->must_reset = false;
	return 0;
}

static int apply_edits(struct akvm__vcpu *vcpu, struct akvm_space *space, bool entering)
{
	(void)vcpu, (void)space, (void)entering;
	return 0;
}

/* There is no ring 0: what needs none is done, and model-specific registers are to it what they are to ring 3. */
static int operate(struct akvm__vcpu *vcpu, uint32_t operation, struct akvm_registers *registers, uint32_t *vector)
{
	(void)registers;
	akvm__count(&vcpu->counters.operations);
	if (operation != AKVM_OPERATION_READ_MSR && operation != AKVM_OPERATION_WRITE_MSR)
		return 0;
	*vector = VECTOR_GP;
	return akvm__fail("ring-0 operation", EFAULT);
}

static int set_slot(void *machine, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes)
{
	(void)machine, (void)slot, (void)read_only, (void)gpa, (void)host, (void)bytes;
	return 0;
}

static void describe(struct akvm_capabilities *capabilities)
{
	uint32_t eax, ebx, ecx, edx, low, high;

	__cpuid_count(XSAVE_LEAF, 0, eax, ebx, ecx, edx);
	/* XGETBV. */
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	capabilities->xcr0 = low & XCR0_USED;
	capabilities->xsave_bytes = ebx;
	capabilities->fsgsbase = (getauxval(AT_HWCAP2) & FSGSBASE_HWCAP2) != 0;
	capabilities->tsc_offset_exact = 1;
	capabilities->host_edits_seen = 1;
	capabilities->vcpus_max = AKVM_VCPUS_MAX;
	capabilities->slots_max = SLOTS_MAX;
	(void)eax, (void)ecx, (void)edx, (void)high;
}

static int open_stubs(struct akvm_machine *machine)
{
	struct akvm__ptrace *ptrace = AKVM__HOST->calloc(1, sizeof(*ptrace));
	void *pages;

	if (ptrace == NULL)
		return akvm__fail("allocate stubs", ENOMEM);
	machine->ptrace = ptrace;
	/* There is no other way. */
	machine->config.flags &= ~(uint32_t)AKVM_MACHINE_GUEST_EDITS;
	ptrace->machine = machine;
	ptrace->file = ptrace->values = -1;
	pthread_mutex_init(&ptrace->lock, NULL);
	ptrace->page_next = 1;
	if (AKVM__HOST->sched_getaffinity(0, sizeof(ptrace->processors), &ptrace->processors) != 0)
		CPU_ZERO(&ptrace->processors);
	ptrace->pages_free = AKVM__HOST->calloc(PAGES, sizeof(*ptrace->pages_free));
	if (ptrace->pages_free == NULL)
		return akvm__fail("allocate stubs", ENOMEM);
	ptrace->file = AKVM__HOST->memfd("akvm-stubs", (uint64_t)PAGES * PAGE);
	if (ptrace->file < 0)
		return akvm__fail("memfd stubs", errno);
	ptrace->values = AKVM__HOST->memfd("akvm-values", 0);
	if (ptrace->values < 0)
		return akvm__fail("memfd values", errno);
	pages = AKVM__HOST->mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ptrace->file, 0);
	if (pages == MAP_FAILED)
		return akvm__fail("mmap stubs", errno);
	ptrace->pages = pages;
	(void)AKVM__HOST->madvise(pages, (size_t)PAGES * PAGE, MADV_DONTFORK);
	memcpy(ptrace->pages, akvm__stub_code, AKVM_STUB_CODE_BYTES);
	describe(&machine->capabilities);
	return 0;
}

static int build(struct akvm_machine *machine)
{
	/* The kernel half has nothing in it; the host's entries are what counts. */
	akvm__mm_guest_edits(machine->mm, 0);
	return 0;
}

static void close_stubs(struct akvm_machine *machine)
{
	struct akvm__ptrace *ptrace = machine->ptrace;

	if (ptrace == NULL)
		return;
	akvm__stubs_close(ptrace);
	machine->ptrace = NULL;
	if (ptrace->pages != NULL)
		AKVM__HOST->munmap(ptrace->pages, (size_t)PAGES * PAGE);
	if (ptrace->file >= 0)
		AKVM__HOST->close(ptrace->file);
	if (ptrace->values >= 0)
		AKVM__HOST->close(ptrace->values);
	free(ptrace->pages_free);
	pthread_mutex_destroy(&ptrace->lock);
	free(ptrace);
}

static void rest(struct akvm__vcpu *vcpu)
{
	tick(vcpu, false);
	akvm__vcpu_settle(vcpu, false);
}

/*
 * Each stop of a task would tell the program SIGCHLD, and wake its loop. Nobody who runs under an event loop wants to hear of stops;
 * whoever installs a handler forgets to say so. Here, because this is the thread that installs them.
 */
static void loop_rests(struct akvm_machine *machine)
{
	struct sigaction action;

	(void)machine;
	if (AKVM__HOST->sigaction(SIGCHLD, NULL, &action) != 0 || action.sa_flags & SA_NOCLDSTOP)
		return;
	action.sa_flags |= SA_NOCLDSTOP;
	(void)AKVM__HOST->sigaction(SIGCHLD, &action, NULL);
}

static int vcpu_open(struct akvm__vcpu *vcpu)
{
	atomic_store(&vcpu->processor, AKVM__ANYWHERE);
	vcpu->timer = -1;
	return 0;
}

static void vcpu_close(struct akvm__vcpu *vcpu)
{
	if (vcpu->timer >= 0)
		AKVM__HOST->timer_delete(vcpu->timer);
}

static int take_vector_state(struct akvm__vcpu *vcpu)
{
	/* It never stays in a stub. */
	(void)vcpu;
	return 0;
}

const struct akvm__driver akvm__ptrace_driver = {
	.open = open_stubs,
	.build = build,
	.close = close_stubs,
	.set_slot = set_slot,
	.forget = akvm__stub_forget,
	.vcpu_open = vcpu_open,
	.vcpu_close = vcpu_close,
	.reset = reset,
	.apply_edits = apply_edits,
	.load = load,
	.unload = unload,
	.expect_kicks = expect_kicks,
	.run = run,
	.decode = akvm__stub_decode,
	.resolved = resolved,
	.explain = akvm__stub_explain,
	.retire = retire,
	.operate = operate,
	.loop_rests = loop_rests,
	.rest = rest,
	.kick = kick_task,
	.take_vector_state = take_vector_state,
};
