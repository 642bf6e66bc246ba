/*
 * What the running Linux itself makes of a piece of machine code: which signal, code, address and RIP its handler sees.
 * The oracle for the exits of guests: same code, same addresses (guestcode.py), no KVM.
 *
 * Input, a line a case: the code in hexadecimal. Output, a line a case: signal, code, address and RIP, or "none".
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, CODE = 0x400000, CODE_BYTES = 4 * PAGE, DATA = 0x10000000, DATA_BYTES = 16 * PAGE };
enum { STACK = 0x7fff0000, STACK_BYTES = 16 * PAGE, LINE_BYTES = 4 * PAGE, SECONDS = 10 };

static void report(int number, siginfo_t *info, void *context)
{
	const ucontext_t *user = context;
	char line[128];
	/* si_addr means nothing when the kernel names no address. */
	uint64_t address = info->si_code == SI_KERNEL ? 0 : (uintptr_t)info->si_addr;
	int length;

	/* A handler starts with the AC flag it was interrupted with, and libc does not mind alignment. */
	__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~0x40000ull);
	length = snprintf(line, sizeof(line), "%d %d %llu %llu\n", number, info->si_code, (unsigned long long)address,
			  (unsigned long long)user->uc_mcontext.gregs[REG_RIP]);

	_exit(write(STDOUT_FILENO, line, (size_t)length) != length);
}

static void map(uintptr_t address, size_t bytes, int protection)
{
	void *wanted = (void *)address;

	if (mmap(wanted, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != wanted) {
		perror("mmap");
		exit(2);
	}
}

static void run(const char *hexadecimal)
{
	const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	struct sigaction action = { .sa_sigaction = report, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	uint8_t *code = (uint8_t *)CODE;
	unsigned byte;

	map(CODE, CODE_BYTES, PROT_READ | PROT_WRITE);
	map(DATA, DATA_BYTES, PROT_READ | PROT_WRITE);
	map(STACK, STACK_BYTES, PROT_READ | PROT_WRITE);
	while (sscanf(hexadecimal, "%2x", &byte) == 1) {
		*code++ = (uint8_t)byte;
		hexadecimal += 2;
	}
	mprotect((void *)CODE, CODE_BYTES, PROT_READ | PROT_EXEC);
	sigaltstack(&stack, NULL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	alarm(SECONDS);
	/* Registers as the guest starts with: zero but RSP. */
	__asm__ volatile("mov %0, %%rsp; mov %1, %%r11; push %%r11; xor %%eax, %%eax; xor %%ebx, %%ebx; xor %%ecx, %%ecx\n\t"
			 "xor %%edx, %%edx; xor %%esi, %%esi; xor %%edi, %%edi; xor %%ebp, %%ebp; ret"
			 :
			 : "r"((uint64_t)STACK + STACK_BYTES - 64), "r"((uint64_t)CODE)
			 : "memory");
	__builtin_unreachable();
}

int main(void)
{
	char line[LINE_BYTES];
	int status;

	while (fgets(line, sizeof(line), stdin)) {
		pid_t child = fork();

		if (child == 0)
			run(line);
		if (child < 0 || waitpid(child, &status, 0) < 0)
			return 1;
		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			printf("none\n");
			fflush(stdout);
		}
	}
	return 0;
}
