/*
 * Signals as a program meets them: siginfo, masks, alternate stacks, faults repaired by their handler, nesting, restart and
 * EINTR, jumps out of a handler, and vector registers that a handler may use and its program keeps.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, on_altstack, depth, deepest;
static char altstack[64 * 1024];
static sigjmp_buf jump;
static char *page;

static void count_one(int number)
{
	(void)number;
	count++;
}

static void repair(int number, siginfo_t *info, void *context)
{
	char here;

	(void)number, (void)context;
	on_altstack = &here >= altstack && &here < altstack + sizeof(altstack);
	if (info->si_addr != page + 16 || info->si_code != SEGV_ACCERR)
		_exit(1);
	mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void jump_out(int number)
{
	siglongjmp(jump, number);
}

static void nest(int number)
{
	(void)number;
	if (++depth > deepest)
		deepest = depth;
	if (depth < 3)
		raise(SIGUSR2);
	depth--;
}

static void use_vectors(int number)
{
	__m128 values = _mm_set1_ps(-1.0f);

	(void)number;
	__asm__ volatile("movaps %0, %%xmm5\n\tmovaps %0, %%xmm15" : : "x"(values) : "xmm5", "xmm15");
	count++;
}

static void skip_instruction(int number, siginfo_t *info, void *context)
{
	ucontext_t *state = context;

	printf("%d %d\n", number, info->si_code);
	state->uc_mcontext.gregs[REG_RIP] += 2;
}

static void act(int number, void (*handler)(int), int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

	sigaction(number, &action, NULL);
}

static void inform(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};

	sigaction(number, &action, NULL);
}

static void faults(void)
{
	stack_t stack = {.ss_sp = altstack, .ss_size = sizeof(altstack)}, old;

	sigaltstack(&stack, NULL);
	inform(SIGSEGV, repair, SA_ONSTACK);
	page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page[16] = 'x';
	sigaltstack(NULL, &old);
	printf("repaired %c, on the alternate stack: %d, flags %d\n", page[16], on_altstack, old.ss_flags);
	act(SIGSEGV, jump_out, 0);
	if (sigsetjmp(jump, 1) == 0)
		*(volatile int *)8 = 1;
	printf("jumped\n");
	act(SIGFPE, jump_out, 0);
	if (sigsetjmp(jump, 1) == 0) {
		volatile int zero = 0;
		printf("%d\n", 1 / zero);
	}
	inform(SIGILL, skip_instruction, 0);
	__asm__ volatile("ud2");
	printf("after ud2\n");
}

static void vectors(void)
{
	float values[4];

	act(SIGUSR1, use_vectors, 0);
	count = 0;
	__asm__ volatile("movaps %1, %%xmm5\n\t"
			 "mov $39, %%eax\n\tsyscall\n\t"
			 "mov %%eax, %%edi\n\tmov $10, %%esi\n\tmov $62, %%eax\n\tsyscall\n\t"
			 "movups %%xmm5, %0"
			 : "=m"(values)
			 : "x"(_mm_set_ps(4, 3, 2, 1))
			 : "rax", "rdi", "rsi", "rcx", "r11", "memory", "xmm5", "xmm15");
	printf("handled %d, kept %g %g %g %g\n", count, values[0], values[1], values[2], values[3]);
}

static void queues(void)
{
	sigset_t mask;
	siginfo_t info;
	union sigval value;

	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	for (int i = 1; i <= 3; i++) {
		value.sival_int = i * 11;
		sigqueue(getpid(), SIGRTMIN, value);
		kill(getpid(), SIGUSR1);
	}
	for (int i = 0; i < 4; i++) {
		sigwaitinfo(&mask, &info);
		printf("%s %d %d\n", info.si_signo == SIGUSR1 ? "USR1" : "RTMIN", info.si_code, info.si_signo == SIGUSR1 ? 0 : info.si_value.sival_int);
	}
	printf("%d\n", sigtimedwait(&mask, &info, &(struct timespec){0, 1000000}) == -1 && errno == EAGAIN);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
}

static void restarts(void)
{
	struct itimerval soon = {{0, 0}, {0, 50000}};
	int ends[2];
	char byte;

	if (pipe(ends))
		exit(1);
	act(SIGALRM, count_one, 0);
	setitimer(ITIMER_REAL, &soon, NULL);
	printf("%zd", read(ends[0], &byte, 1));
	printf(" %s\n", strerror(errno));
	act(SIGALRM, count_one, SA_RESTART);
	setitimer(ITIMER_REAL, &soon, NULL);
	if (fork() == 0) {
		usleep(200000);
		if (write(ends[1], "w", 1) != 1)
			_exit(1);
		_exit(0);
	}
	printf("%zd", read(ends[0], &byte, 1));
	printf(" %c\n", byte);
	wait(NULL);
	act(SIGALRM, count_one, SA_RESETHAND);
	raise(SIGALRM);
	struct sigaction old;
	sigaction(SIGALRM, NULL, &old);
	printf("%d\n", old.sa_handler == SIG_DFL);
	act(SIGUSR2, nest, SA_NODEFER);
	raise(SIGUSR2);
	printf("deepest %d\n", deepest);
}

static void timers(void)
{
	timer_t timer;
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
	struct itimerspec often = {{0, 5000000}, {0, 5000000}};
	sigset_t mask;

	sigemptyset(&mask);
	act(SIGRTMIN + 1, count_one, 0);
	count = 0;
	timer_create(CLOCK_MONOTONIC, &event, &timer);
	timer_settime(timer, 0, &often, NULL);
	while (count < 3)
		sigsuspend(&mask);
	timer_delete(timer);
	printf("timer\n");
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	faults();
	vectors();
	queues();
	restarts();
	timers();
	signal(SIGABRT, count_one);
	abort();
}
