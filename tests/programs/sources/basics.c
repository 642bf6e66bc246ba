/* What every program uses: printf, malloc, qsort, floating point, environment, arguments, an exit code. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int compare(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static unsigned numbers[100000];
	unsigned seed = 12345, sum = 0;
	char *blocks[64];
	volatile double two = 2.0;

	printf("argc=%d\n", argc);
	for (int i = 1; i < argc; i++)
		printf("argv[%d]=%s\n", i, argv[i]);
	for (char **e = environ; *e; e++)
		printf("env %s\n", *e);
	for (int i = 0; i < 100000; i++)
		numbers[i] = seed = seed * 1664525u + 1013904223u;
	qsort(numbers, 100000, sizeof(numbers[0]), compare);
	for (int i = 0; i < 100000; i += 7)
		sum = sum * 31 + numbers[i];
	printf("sorted %u %u %u\n", numbers[0], numbers[99999], sum);
	printf("float %.10f %a %g\n", sqrt(two), exp(two), 1e308 * two);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 64; i++) {
			size_t bytes = (size_t)1 << (i % 21);
			blocks[i] = malloc(bytes);
			memset(blocks[i], i, bytes);
		}
		for (int i = 0; i < 64; i++) {
			size_t bytes = (size_t)1 << (i % 21);
			blocks[i] = realloc(blocks[i], 3 * bytes);
			if (blocks[i][0] != i || blocks[i][bytes - 1] != i)
				printf("block %d is damaged\n", i);
			free(blocks[i]);
		}
	}
	char *big = malloc(64 << 20);
	memset(big, 1, 64 << 20);
	big = realloc(big, 100 << 20);
	printf("big %d %d\n", big[0], big[(64 << 20) - 1]);
	free(big);
	fprintf(stderr, "to standard error\n");
	return 42;
}
