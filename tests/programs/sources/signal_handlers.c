/* What a program sees of its signals: `signals CASE` prints what happened, the same natively and as a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last_code, last_value, order[64];
static volatile uintptr_t last_address, last_stack;
static sigjmp_buf escape;
static char *stack_memory;

static void on(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	if (sigaction(number, &action, NULL))
		perror("sigaction");
}

static void note(int number, siginfo_t *info, void *context)
{
	char here;

	(void)context;
	order[count % 64] = number;
	count++;
	last_code = info->si_code;
	last_value = info->si_value.sival_int;
	last_address = (uintptr_t)info->si_addr;
	last_stack = (uintptr_t)&here;
}

/* The result of a call, and what it set errno to. */
static void tell(const char *what, long result)
{
	printf("%s: %ld", what, result);
	printf(" %s\n", result < 0 ? strerror(errno) : "");
}

/* ---- handlers, siginfo, masks */

static void info_case(void)
{
	union sigval value = { .sival_int = 4711 };

	on(SIGUSR1, note, 0);
	raise(SIGUSR1);
	printf("raise: %d code %d\n", (int)count, (int)last_code);
	kill(getpid(), SIGUSR1);
	printf("kill: %d code %d\n", (int)count, (int)last_code);
	sigqueue(getpid(), SIGUSR1, value);
	printf("sigqueue: %d code %d value %d\n", (int)count, (int)last_code, (int)last_value);
	tell("kill with no signal", kill(getpid(), 65));
	tell("kill of nobody", kill(99999999, 0));
	tell("kill for a look", kill(getpid(), 0));
	tell("tgkill of nobody", syscall(SYS_tgkill, getpid(), 99999999, SIGUSR1));
	tell("tgkill of no number", syscall(SYS_tgkill, getpid(), 0, SIGUSR1));
	tell("sigqueue with no signal", sigqueue(getpid(), 100, value));
}

static void queue_case(void)
{
	sigset_t all, old, pending;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	for (int number = SIGRTMIN; number < SIGRTMIN + 3; number++)
		on(number, note, 0);
	on(SIGUSR1, note, 0);
	on(SIGUSR2, note, 0);
	for (int i = 0; i < 3; i++) {
		raise(SIGRTMIN + 2 - i);
		raise(SIGUSR2);
		kill(getpid(), SIGUSR1);
		sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i });
	}
	sigpending(&pending);
	for (int number = 1; number < 65; number++)
		if (sigismember(&pending, number) == 1)
			printf("pending %d\n", number);
	sigprocmask(SIG_SETMASK, &old, NULL);
	for (int i = 0; i < count; i++)
		printf("ran %d\n", (int)order[i]);
}

static void nest(int number, siginfo_t *info, void *context)
{
	sigset_t mask;

	note(number, info, context);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	printf("in %d: own %d other %d\n", number, sigismember(&mask, number), sigismember(&mask, SIGUSR2));
	if (number == SIGUSR1 && count == 1)
		raise(SIGUSR2);
	printf("out %d\n", number);
}

static void nest_case(void)
{
	sigset_t mask;

	on(SIGUSR1, nest, 0);
	on(SIGUSR2, nest, SA_NODEFER);
	raise(SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	printf("after: %d %d\n", sigismember(&mask, SIGUSR1), sigismember(&mask, SIGUSR2));
	on(SIGUSR1, note, SA_RESETHAND);
	raise(SIGUSR1);
	struct sigaction action;
	sigaction(SIGUSR1, NULL, &action);
	printf("reset: %d\n", action.sa_handler == SIG_DFL);
	tell("SIGKILL", sigaction(SIGKILL, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL));
}

/* ---- alternate stacks */

static void on_stack(int number, siginfo_t *info, void *context)
{
	stack_t now, none = { .ss_flags = SS_DISABLE };

	note(number, info, context);
	sigaltstack(NULL, &now);
	printf("inside: flags %x change %d", now.ss_flags, sigaltstack(&none, NULL));
	printf(" on it %d saved flags %x\n", (char *)last_stack >= stack_memory && (char *)last_stack < stack_memory + 65536,
	       ((ucontext_t *)context)->uc_stack.ss_flags);
}

static void altstack_case(void)
{
	stack_t stack = { .ss_sp = stack_memory = malloc(65536), .ss_size = 65536 }, now;

	sigaltstack(NULL, &now);
	printf("none: %x\n", now.ss_flags);
	tell("small", sigaltstack(&(stack_t){ .ss_sp = stack_memory, .ss_size = 100 }, NULL));
	tell("wrong", sigaltstack(&(stack_t){ .ss_sp = stack_memory, .ss_size = 65536, .ss_flags = 4 }, NULL));
	sigaltstack(&stack, NULL);
	on(SIGUSR1, on_stack, SA_ONSTACK);
	on(SIGUSR2, on_stack, 0);
	raise(SIGUSR1);
	raise(SIGUSR2);
	sigaltstack(NULL, &now);
	printf("after: %x %d\n", now.ss_flags, now.ss_sp == stack.ss_sp);
	stack.ss_flags = 1u << 31;
	sigaltstack(&stack, NULL);
	raise(SIGUSR1);
	sigaltstack(NULL, &now);
	printf("autodisarm: %x %d\n", now.ss_flags, now.ss_sp == stack.ss_sp);
}

static void overflow_handler(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	last_code = info->si_code;
	siglongjmp(escape, 1);
}

static int recurse(volatile int depth)
{
	volatile char space[4096];

	space[0] = (char)depth;
	return recurse(depth + 1) + space[0];
}

static void overflow_case(void)
{
	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };

	sigaltstack(&stack, NULL);
	on(SIGSEGV, overflow_handler, SA_ONSTACK);
	if (!sigsetjmp(escape, 1))
		recurse(0);
	printf("the stack is full: %d\n", last_code == SEGV_MAPERR || last_code == SEGV_ACCERR);
}

/* ---- faults */

static void repair(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	note(number, info, context);
	printf("signal %d code %d trap %d cr2 %d\n", number, info->si_code, (int)registers[REG_TRAPNO],
	       registers[REG_TRAPNO] == 14 ? (uintptr_t)registers[REG_CR2] == last_address : -1);
	if (registers[REG_TRAPNO] == 14)
		printf("error %x\n", (int)registers[REG_ERR] & 7);
	siglongjmp(escape, 1);
}

static void fault_case(void)
{
	static const int numbers[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE };
	volatile int zero = 0;
	char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		on(numbers[i], repair, 0);
	if (!sigsetjmp(escape, 1))
		*(volatile int *)(uintptr_t)zero = 1;
	if (!sigsetjmp(escape, 1))
		*(volatile char *)page = 1;
	if (!sigsetjmp(escape, 1))
		zero = 100 / zero;
	if (!sigsetjmp(escape, 1))
		__asm__ volatile("ud2");
	if (!sigsetjmp(escape, 1))
		__asm__ volatile("int3");
	if (!sigsetjmp(escape, 1))
		__asm__ volatile("hlt");
	if (!sigsetjmp(escape, 1))
		*(volatile int *)0x8000000000000000ull = 1;
	printf("faults: %d\n", (int)count);
}

static void skip(int number, siginfo_t *info, void *context)
{
	note(number, info, context);
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = 77;
}

static void skip_case(void)
{
	long result = 1;

	on(SIGILL, skip, 0);
	__asm__ volatile("ud2" : "+a"(result));
	printf("went on with %ld\n", result);
	signal(SIGSEGV, SIG_IGN);
	fflush(stdout);
	*(volatile int *)0 = 1;
}

/* ---- FP and vector state, all registers */

static void spoil(int number, siginfo_t *info, void *context)
{
	unsigned mxcsr = _mm_getcsr();
	unsigned short control;

	note(number, info, context);
	__asm__ volatile("fnstcw %0" : "=m"(control));
	printf("handler: mxcsr %x control %x\n", mxcsr, control);
	_mm_setcsr(0x1f80 | 0x6000);
	__asm__ volatile("fninit; fldpi; fldpi; pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15" ::
				 : "xmm0", "xmm7", "xmm15");
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vzeroall" ::: "xmm0", "xmm1");
}

/* Sends itself a signal with known values everywhere, and looks at them afterwards. */
static int whole(const unsigned char *in, unsigned char *out, int avx)
{
	long result = SYS_kill, pid = getpid();

	if (avx)
		__asm__ volatile("vmovdqu (%2), %%ymm0; vmovdqu 32(%2), %%ymm7; vmovdqu 64(%2), %%ymm15; syscall;"
				 "vmovdqu %%ymm0, (%3); vmovdqu %%ymm7, 32(%3); vmovdqu %%ymm15, 64(%3)"
				 : "+a"(result)
				 : "D"(pid), "r"(in), "r"(out), "S"(SIGUSR1)
				 : "rcx", "r11", "memory", "xmm0", "xmm7", "xmm15");
	else
		__asm__ volatile("movdqu (%2), %%xmm0; movdqu 32(%2), %%xmm7; movdqu 64(%2), %%xmm15; syscall;"
				 "movdqu %%xmm0, (%3); movdqu %%xmm7, 32(%3); movdqu %%xmm15, 64(%3)"
				 : "+a"(result)
				 : "D"(pid), "r"(in), "r"(out), "S"(SIGUSR1)
				 : "rcx", "r11", "memory", "xmm0", "xmm7", "xmm15");
	return (int)result;
}

static void fp_case(void)
{
	unsigned char in[96], out[96] = { 0 };
	int avx = __builtin_cpu_supports("avx") != 0, bytes = avx ? 32 : 16;
	double one = 1.0, two;
	unsigned short control = 0x27f, after;

	for (int i = 0; i < 96; i++)
		in[i] = (unsigned char)(i * 7 + 1);
	on(SIGUSR1, spoil, 0);
	_mm_setcsr(0x1f80 | 0x2000);
	__asm__ volatile("fldcw %1; fldl %0; fldl %0; faddp" ::"m"(one), "m"(control));
	whole(in, out, avx);
	__asm__ volatile("fstpl %0; fnstcw %1" : "=m"(two), "=m"(after));
	printf("kept: %d %d %d x87 %g control %x mxcsr %x\n", !memcmp(in, out, bytes), !memcmp(in + 32, out + 32, bytes),
	       !memcmp(in + 64, out + 64, bytes), two, after, _mm_getcsr());
}

static void edit_fp(int number, siginfo_t *info, void *context)
{
	char *state = (char *)((ucontext_t *)context)->uc_mcontext.fpregs;

	note(number, info, context);
	memset(state + 272, 0x5a, 16);
	*(unsigned *)(state + 24) = 0x1f80 | 0x4000;
}

static void fp_edit_case(void)
{
	unsigned char in[96] = { 0 }, out[96] = { 0 };

	on(SIGUSR1, edit_fp, 0);
	whole(in, out, 0);
	printf("xmm0 %x xmm7 %x %x mxcsr %x\n", out[0], out[32], out[47], _mm_getcsr());
}

/* ---- frames that are wrong */

static const char *damage;

static void corrupt(int number, siginfo_t *info, void *raw)
{
	ucontext_t *context = raw;
	unsigned *software = (unsigned *)((char *)context->uc_mcontext.fpregs + 464);

	note(number, info, raw);
	if (!strcmp(damage, "mxcsr"))
		*(unsigned *)((char *)context->uc_mcontext.fpregs + 24) = 0xffffffff;
	else if (!strcmp(damage, "magic1"))
		software[0] = 0;
	else if (!strcmp(damage, "magic2"))
		*(unsigned *)((char *)context->uc_mcontext.fpregs + software[4]) = 0;
	else if (!strcmp(damage, "xstate_bv"))
		*(uint64_t *)((char *)context->uc_mcontext.fpregs + 512) = ~0ull;
	else if (!strcmp(damage, "xcomp_bv"))
		*(uint64_t *)((char *)context->uc_mcontext.fpregs + 528) = 1;
	else if (!strcmp(damage, "unaligned"))
		context->uc_mcontext.fpregs = (void *)((char *)context->uc_mcontext.fpregs + 8);
	else if (!strcmp(damage, "wild"))
		context->uc_mcontext.fpregs = (void *)0x123456789000;
	else if (!strcmp(damage, "nofp"))
		context->uc_mcontext.fpregs = NULL;
	else if (!strcmp(damage, "cs"))
		context->uc_mcontext.gregs[REG_CSGSFS] = 0x10;
	else if (!strcmp(damage, "rip"))
		context->uc_mcontext.gregs[REG_RIP] = (greg_t)0x8000000000000000ull;
	else if (!strcmp(damage, "rsp"))
		context->uc_mcontext.gregs[REG_RSP] = (greg_t)0x8000000000000000ull;
	else if (!strcmp(damage, "flags"))
		context->uc_mcontext.gregs[REG_EFL] |= 0x3000 | 0x20000 | 0x200000;
	else if (!strcmp(damage, "mask"))
		memset(&context->uc_sigmask, 0xff, 8);
	else if (!strcmp(damage, "stack"))
		context->uc_stack.ss_flags = 77;
}

static void broken(int number, siginfo_t *info, void *context)
{
	(void)context;
	printf("signal %d code %d address %d\n", number, info->si_code, info->si_addr != NULL);
	fflush(stdout);
	_exit(3);
}

static void corrupt_case(const char *what)
{
	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
	sigset_t mask;
	uint64_t bits, flags;

	damage = what;
	sigaltstack(&stack, NULL);
	on(SIGUSR1, corrupt, 0);
	on(SIGSEGV, broken, SA_ONSTACK);
	on(SIGBUS, broken, SA_ONSTACK);
	raise(SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	memcpy(&bits, &mask, 8);
	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	printf("alive, mask %llx flags %x mxcsr %x\n", (unsigned long long)bits, (unsigned)flags & 0x33000, _mm_getcsr());
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "info", info_case },         { "queue", queue_case }, { "nest", nest_case }, { "altstack", altstack_case },
	{ "overflow", overflow_case }, { "fault", fault_case }, { "skip", skip_case }, { "fp", fp_case },
	{ "fp-edit", fp_edit_case },
};

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc == 3)
		corrupt_case(argv[2]);
	for (unsigned i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strcmp(argv[1], cases[i].name))
			cases[i].run();
	return 0;
}
