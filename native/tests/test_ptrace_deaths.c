/*
 * Whoever dies on the ptrace platform, nothing of it is left: processes of a stub are killed from outside at random moments, and
 * the runs that are hit end with an error, the next ones work; the host program is killed, and every stub goes with it, without a
 * system call of a guest ever being executed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/host.h"
#include "ptrace_rig.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define FEWER  5
#define SLOWER 4
#else
#define FEWER  1
#define SLOWER 1
#endif

#define PIECE(name) extern const uint8_t guest_##name[], guest_##name##_at[]
PIECE(syscall);
PIECE(load);
PIECE(store);
PIECE(spin);
PIECE(writer);
PIECE(effects);

static unsigned long long seed = 20261123;

static uint64_t pick(uint64_t below)
{
	return t_random(&seed) % below;
}

static void pause_ns(uint64_t duration_ns)
{
	const struct timespec duration = { .tv_sec = (time_t)(duration_ns / 1000000000),
					   .tv_nsec = (long)(duration_ns % 1000000000) };

	nanosleep(&duration, NULL);
}

/* ---------------------------------------------------------------- stubs die */

/* A run that may be hit: whether it was not. */
static bool survives(struct rig *rig, struct akvm_context *context, uint32_t vcpu, const uint8_t *label, uint64_t rdi,
		     uint64_t rsi)
{
	rig_execute(rig, context, vcpu, PTRACE_AT(label), rdi, rsi);
	if (context->kind == AKVM_EXIT_ERROR) {
		T_CHECK(context->detail == AKVM_FAILURE_RUN || context->detail == AKVM_FAILURE_HOST);
		T_CHECK(context->host_errno > 0);
		return false;
	}
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 3);
	return true;
}

/* What was lost is made again: a few errors, then it works. */
static void persist(struct rig *rig, struct akvm_context *context, uint32_t vcpu, const uint8_t *label, uint64_t rdi,
		    uint64_t rsi)
{
	unsigned errors = 0;

	while (!survives(rig, context, vcpu, label, rdi, rsi))
		T_CHECK(++errors <= 2);
}

/* And all that was stored is there. */
static void expect_recovery(struct rig *rig, struct akvm_context *context, uint64_t at, uint64_t value)
{
	for (uint32_t vcpu = 0; vcpu < 2; vcpu++) {
		persist(rig, context, vcpu, guest_load, at, 0);
		T_EQUAL(context->registers.rax, value);
	}
}

enum victim { ZYGOTE, MAPPER, TASK, VICTIMS };
static const char *const names[] = { "zygote", "mapper", "task" };

static pid_t choose(struct rig *rig, enum victim victim)
{
	uint32_t stubs = ptrace_stubs(rig);

	if (victim == ZYGOTE || !stubs)
		return ptrace_zygote(rig);
	return victim == MAPPER ? ptrace_mapper(rig, (uint32_t)pick(stubs))
				: ptrace_task(rig, (uint32_t)pick(stubs), (uint32_t)pick(2));
}

/* Between runs, each kind of process, with and without something to map. */
static void killed_at_rest(void)
{
	struct akvm_context *contexts[2];
	struct rig rig;

	ptrace_open(&rig, 2);
	for (unsigned i = 0; i < 2; i++)
		contexts[i] = ptrace_context(&rig, i ? ptrace_space(&rig) : rig.space);
	for (unsigned turn = 0; turn < 24 / FEWER; turn++) {
		enum victim victim = turn % VICTIMS;
		uint64_t at = PTRACE_DATA + pick(PTRACE_DATA_PAGES) * RIG_PAGE;
		pid_t pid;

		snprintf(t_context, sizeof(t_context), "turn %u, %s", turn, names[victim]);
		persist(&rig, contexts[0], turn / 3 % 2, guest_store, at, turn);
		persist(&rig, contexts[1], turn / 3 % 2, guest_store, at, ~(uint64_t)turn);
		pid = choose(&rig, victim);
		if (pid != 0)
			T_EQUAL(kill(pid, SIGKILL), 0);
		if (turn / 6 % 2)
			T_EQUAL(akvm_space_protect(rig.space, at, RIG_PAGE, AKVM_READ), 0);
		expect_recovery(&rig, contexts[0], at, turn);
		expect_recovery(&rig, contexts[1], at, ~(uint64_t)turn);
		T_EQUAL(akvm_space_protect(rig.space, PTRACE_DATA, (uint64_t)PTRACE_DATA_PAGES * RIG_PAGE,
					   AKVM_READ | AKVM_WRITE),
			0);
		if (victim == ZYGOTE) {
			/* Which only who needs a new stub misses. */
			struct akvm_space *space = ptrace_space(&rig);
			struct akvm_context *context = ptrace_context(&rig, space);

			expect_recovery(&rig, context, PTRACE_DATA, 0);
			T_EQUAL(akvm_context_destroy(context), 0);
			T_EQUAL(akvm_space_destroy(space), 0);
		}
	}
	t_context[0] = 0;
	ptrace_close(&rig);
}

/* While guests compute, store, make system calls, and lose memory. */
static void killed_at_work(void)
{
	struct akvm_context *busy[2], *checker;
	unsigned hit = 0, turns = 120 / FEWER;
	struct akvm_answers *answers;
	struct rig rig;

	ptrace_open(&rig, 2);
	T_EQUAL(akvm_answers_create(&answers), 0);
	T_EQUAL(akvm_answers_set(answers, 39, 39), 0);
	checker = ptrace_context(&rig, rig.space);
	T_CHECK(survives(&rig, checker, 0, guest_store, PTRACE_DATA, 4711));
	for (unsigned i = 0; i < 2; i++)
		busy[i] = ptrace_context(&rig, rig.space);
	for (unsigned turn = 0; turn < turns; turn++) {
		static const uint8_t *const pieces[] = { guest_spin, guest_syscall, guest_writer };
		unsigned open = 2;
		pid_t pid;

		snprintf(t_context, sizeof(t_context), "turn %u", turn);
		for (uint32_t i = 0; i < 2; i++) {
			const uint8_t *piece = pieces[pick(3)];

			T_EQUAL(akvm_context_answers(busy[i], piece == guest_syscall ? answers : NULL), 0);
			busy[i]->registers.rip = PTRACE_AT(piece);
			busy[i]->registers.rax = 39;
			busy[i]->registers.rdi = PTRACE_DATA + (1 + i) * RIG_PAGE;
			rig_submit(busy[i], i);
		}
		pause_ns(pick(2) ? 0 : pick(1000000));
		pid = choose(&rig, (enum victim)pick(VICTIMS));
		/* What is gone already does not matter. */
		if (pid != 0)
			(void)kill(pid, SIGKILL);
		if (pick(2))
			T_EQUAL(akvm_space_discard(rig.space, PTRACE_DATA + RIG_PAGE, 2 * RIG_PAGE), 0);
		pause_ns(pick(2) ? 0 : pick(1000000));
		for (unsigned i = 0; i < 2; i++)
			if (busy[i]->submitted)
				T_EQUAL(akvm_context_interrupt(busy[i], busy[i]->generation, AKVM_INTERRUPT_CANCEL), 0);
		while (open > 0) {
			struct akvm_context *context = rig_wait(&rig);

			T_CHECK(context->kind == AKVM_EXIT_INTERRUPTED || context->kind == AKVM_EXIT_ERROR);
			hit += context->kind == AKVM_EXIT_ERROR;
			open--;
		}
		expect_recovery(&rig, checker, PTRACE_DATA, 4711);
	}
	t_context[0] = 0;
	printf("%u of %u runs were hit\n", hit, 2 * turns);
	T_CHECK(hit > 0);
	T_EQUAL(akvm_context_answers(busy[0], NULL), 0);
	T_EQUAL(akvm_context_answers(busy[1], NULL), 0);
	akvm_answers_destroy(answers);
	ptrace_close(&rig);
}

/* A machine that closes while its stubs are dying, or just after they were made. */
/* A process that was killed before it could tell whom it had just made leaves one that nobody knows: it ends by itself, within the
 * five seconds that a new task waits for its tracer. */
static void reap_the_unknown(void)
{
	enum { NAP_NS = 10000000, NAPS = 800 };

	for (unsigned naps = 0; naps < NAPS && ptrace_children(NULL, 0) != 0; naps++) {
		while (waitpid(-1, NULL, __WALL | WNOHANG) > 0)
			;
		pause_ns(NAP_NS);
	}
}

static void closed_amid_deaths(void)
{
	for (unsigned turn = 0; turn < 60 / FEWER; turn++) {
		struct akvm_context *context;
		struct rig rig;

		snprintf(t_context, sizeof(t_context), "turn %u", turn);
		ptrace_open(&rig, 2);
		context = ptrace_context(&rig, rig.space);
		context->registers.rip = PTRACE_AT(guest_spin);
		rig_submit(context, turn % 2);
		if (turn % 3)
			pause_ns(pick(3000000));
		for (unsigned i = 0; i < turn % 4; i++) {
			pid_t pid = choose(&rig, (enum victim)pick(VICTIMS));

			if (pid != 0)
				(void)kill(pid, SIGKILL);
		}
		T_EQUAL(akvm_machine_close(rig.machine, 10000000000), 0);
		reap_the_unknown();
		ptrace_closed();
	}
	t_context[0] = 0;
}

/* ---------------------------------------------------------------- no more processes */

/* As somebody who may have few of them, in a program of his own: 0, or what went wrong. */
static int run_with_few_processes(void)
{
	enum { SOMEBODY = 54321, SPACES = 24 };
	struct rlimit limit = { 14, 14 };
	unsigned refused = 0, ran = 0;
	struct rig rig;

	/* Nobody else's processes are to count, and root's are not counted. */
	if (geteuid() != 0) {
		fprintf(stderr, "left out: only root can be somebody without processes\n");
		return 0;
	}
	if (setgid(SOMEBODY) || setuid(SOMEBODY))
		return 2;
	if (prctl(PR_SET_DUMPABLE, 1) || setrlimit(RLIMIT_NPROC, &limit))
		return 3;
	ptrace_open(&rig, 2);
	for (unsigned i = 0; i < SPACES; i++) {
		struct akvm_context *context = ptrace_context(&rig, i ? ptrace_space(&rig) : rig.space);

		for (uint32_t vcpu = 0; vcpu < 2; vcpu++) {
			rig_execute(&rig, context, vcpu, PTRACE_AT(guest_store), PTRACE_DATA, i);
			ran += context->kind == AKVM_EXIT_FAULT && context->vector == 3;
			refused += context->kind == AKVM_EXIT_ERROR;
			if (context->kind == AKVM_EXIT_ERROR)
				T_EQUAL(context->host_errno, EAGAIN);
		}
	}
	ptrace_close(&rig);
	fprintf(stderr, "%u runs, %u refused\n", ran, refused);
	return ran + refused == 2 * SPACES && ran == 2 * SPACES ? 0 : 4;
}

static void few_processes(void)
{
	pid_t child = fork();
	int status;

	T_CHECK(child >= 0);
	if (child == 0)
		_exit(run_with_few_processes());
	T_EQUAL(waitpid(child, &status, 0), child);
	T_EQUAL(status, 0);
}

/* ---------------------------------------------------------------- the host dies */

enum { DESCRIPTORS = 16, VISIBLE = SIGUSR2 };
static char folder[] = P_tmpdir "/akvm-deaths-XXXXXX", mark[sizeof(folder) + 8];
static int effects_pipe[2];

/* What the guests of a host, or its own code, are to do: seen by whoever reads the pipe, looks for the file, or waits for the
 * signal. */
static void prepare_effects(void)
{
	for (int fd = 0; fd < DESCRIPTORS; fd++)
		if (fd != effects_pipe[1])
			T_EQUAL(dup2(effects_pipe[1], fd), fd);
}

static bool pipe_has_bytes(void)
{
	char bytes[4096];

	return read(effects_pipe[0], bytes, sizeof(bytes)) > 0;
}

static bool signalled(void)
{
	const struct timespec at_once = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, VISIBLE);
	return sigtimedwait(&set, NULL, &at_once) == VISIBLE;
}

/* Any process that is left comes to be this one's child: until none is there. Says how each ended. */
static void expect_no_process(uint64_t patience_ns, unsigned *killed, unsigned *left)
{
	uint64_t until_ns = akvm__now_ns() + patience_ns;

	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, __WALL | WNOHANG);

		if (pid < 0) {
			T_EQUAL(errno, ECHILD);
			return;
		}
		if (pid > 0) {
			/* By SIGKILL; or it found its host gone and left by itself. */
			T_CHECK((WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGSYS)) ||
				(WIFEXITED(status) && WEXITSTATUS(status) == 1) ||
				(WIFEXITED(status) && WEXITSTATUS(status) == 0));
			*killed += WIFSIGNALED(status);
			*left += WIFEXITED(status);
			continue;
		}
		if (akvm__now_ns() > until_ns) {
			pid_t pids[16];
			uint32_t count = ptrace_children(pids, 16);

			for (uint32_t i = 0; i < count && i < 16; i++)
				fprintf(stderr, "process %d is left\n", pids[i]);
			t_fail(__FILE__, __LINE__, "no process outlives its host");
		}
		pause_ns(200000);
	}
}

/* The host program: guests that compute and guests that make system calls, and new spaces all the time. Never returns. */
__attribute__((noreturn)) static void be_a_host(pid_t observer, unsigned flavour)
{
	struct akvm_context *spinner, *callers[2];
	struct akvm_space *space;
	struct rig rig;

	prepare_effects();
	memset(&rig, 0, sizeof(rig));
	for (;;) {
		ptrace_open(&rig, 2);
		spinner = ptrace_context(&rig, rig.space);
		spinner->registers.rip = PTRACE_AT(guest_spin);
		if (flavour % 2)
			rig_submit(spinner, 0);
		for (unsigned round = 0; round < 20; round++) {
			space = ptrace_space(&rig);
			T_EQUAL(akvm_space_write(space, PTRACE_DATA, mark, sizeof(mark), true), sizeof(mark));
			for (unsigned i = 0; i < 2; i++) {
				callers[i] = ptrace_context(&rig, space);
				callers[i]->registers.rip = PTRACE_AT(guest_effects);
				callers[i]->registers.rdi = PTRACE_DATA;
				callers[i]->registers.rsi = (uint64_t)observer;
				callers[i]->registers.rdx = VISIBLE;
			}
			for (unsigned call = 0; call < 200; call++) {
				rig_submit(callers[0], 1);
				rig_submit(callers[1], flavour % 2 ? 1 : 0);
				for (unsigned i = 0; i < 2; i++) {
					struct akvm_context *context = rig_wait(&rig);

					T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
					context->registers.rax = (uint64_t)-EBADF;
				}
			}
			T_EQUAL(akvm_context_destroy(callers[0]), 0);
			T_EQUAL(akvm_context_destroy(callers[1]), 0);
			T_EQUAL(akvm_space_destroy(space), 0);
		}
		if (flavour % 2)
			ptrace_interrupt(&rig, spinner);
		T_EQUAL(akvm_machine_close(rig.machine, 10000000000), 0);
	}
}

/* The same code run natively is seen: else nothing below would mean anything. */
static void effects_are_visible(void)
{
	pid_t child = fork();
	int status;

	T_CHECK(child >= 0);
	if (child == 0) {
		void *code = mmap(NULL, RIG_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		void (*run)(const char *path, uint64_t pid, uint64_t signal);

		if (code == MAP_FAILED)
			_exit(2);
		memcpy(code, guest_code, (size_t)(guest_end - guest_code));
		prepare_effects();
		code = (uint8_t *)code + (guest_effects - guest_code);
		memcpy(&run, &code, sizeof(run));
		alarm(20);
		run(mark, (uint64_t)getppid(), VISIBLE);
		_exit(3);
	}
	RIG_UNTIL(pipe_has_bytes());
	RIG_UNTIL(access(mark, F_OK) == 0);
	RIG_UNTIL(signalled());
	T_EQUAL(kill(child, SIGKILL), 0);
	T_EQUAL(waitpid(child, &status, 0), child);
	while (pipe_has_bytes() || signalled())
		;
	T_EQUAL(unlink(mark), 0);
}

static void the_host_is_killed(void)
{
	unsigned rounds = 300 / FEWER, killed = 0, left = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, VISIBLE);
	T_EQUAL(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	T_EQUAL(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	T_EQUAL(pipe2(effects_pipe, O_CLOEXEC | O_NONBLOCK), 0);
	T_CHECK(mkdtemp(folder) != NULL);
	snprintf(mark, sizeof(mark), "%s/mark", folder);
	effects_are_visible();
	for (unsigned round = 0; round < rounds; round++) {
		pid_t observer = getpid(), host;

		snprintf(t_context, sizeof(t_context), "round %u", round);
		host = fork();
		T_CHECK(host >= 0);
		if (host == 0)
			be_a_host(observer, round);
		/* From before it has a stub to long after. */
		pause_ns((round % 4 ? pick(25000000) : pick(4000000)) * SLOWER);
		T_EQUAL(kill(host, SIGKILL), 0);
		expect_no_process(20000000000, &killed, &left);
		T_CHECK(!pipe_has_bytes());
		T_CHECK(!signalled());
		T_EQUAL(access(mark, F_OK), -1);
	}
	t_context[0] = 0;
	printf("%u hosts: %u processes killed, %u left by themselves\n", rounds, killed, left);
	/* Hosts alone would be as many as rounds; under a sanitizer many die before they have stubs. */
	T_CHECK(killed > rounds);
	T_EQUAL(rmdir(folder), 0);
	close(effects_pipe[0]);
	close(effects_pipe[1]);
}

int main(void)
{
	ptrace_need();
	/* First, while this process has no threads and few descriptors. */
	T_RUN(the_host_is_killed);
	T_RUN(few_processes);
	T_RUN(killed_at_rest);
	T_RUN(killed_at_work);
	T_RUN(closed_amid_deaths);
	return 0;
}
