/*
 * The whole test harness: a failed check names its place and ends the program. 0 pass, 1 fail, 77 skip.
 */
#ifndef AKVM_TEST_T_H
#define AKVM_TEST_T_H

#include <stdio.h>
#include <stdlib.h>

#define T_CHECK(condition)                                      \
	do {                                                    \
		if (!(condition))                               \
			t_fail(__FILE__, __LINE__, #condition); \
	} while (0)

/* Two integers, printed when they differ. */
#define T_EQUAL(left, right)                                                                                               \
	do {                                                                                                               \
		long long t_left = (long long)(left), t_right = (long long)(right);                                        \
		if (t_left != t_right) {                                                                                   \
			fprintf(stderr, "%lld (%#llx) is not %lld (%#llx)\n", t_left, (unsigned long long)t_left, t_right, \
				(unsigned long long)t_right);                                                              \
			t_fail(__FILE__, __LINE__, #left " == " #right);                                                   \
		}                                                                                                          \
	} while (0)

/* A case: prints its name, so that a crash says where it was. */
#define T_RUN(name)                    \
	do {                           \
		printf("%s\n", #name); \
		fflush(stdout);        \
		name();                \
	} while (0)

/* Told what a failure needs for being repeated: a seed, a turn. */
__attribute__((unused)) static char t_context[256];

__attribute__((noreturn, unused)) static void t_fail(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: failed: %s%s%s\n", file, line, what, t_context[0] ? " at " : "", t_context);
	exit(1);
}

__attribute__((noreturn, unused)) static void t_skip(const char *why)
{
	fprintf(stderr, "skipped: %s\n", why);
	exit(77);
}

/* xorshift64*: the same numbers from the same seed everywhere. */
__attribute__((unused)) static unsigned long long t_random(unsigned long long *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

#endif
