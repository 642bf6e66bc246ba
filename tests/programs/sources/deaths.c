/* Every way to end: argv[1] says which. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int zero;

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IONBF, 0);
	printf("alive until %s\n", way);
	if (!strcmp(way, "null"))
		*(volatile int *)0 = 1;
	if (!strcmp(way, "read-only"))
		*(volatile char *)main = 1;
	if (!strcmp(way, "no-execute"))
		((void (*)(void))(void *)&zero)();
	if (!strcmp(way, "kernel"))
		return *(volatile char *)0xffffffff80000000;
	if (!strcmp(way, "non-canonical"))
		return *(volatile char *)0x800000000000;
	if (!strcmp(way, "past-file")) {
		char *view = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, open("text", O_RDONLY), 0);
		return *(volatile char *)(view + 4096);
	}
	if (!strcmp(way, "stack-overflow")) {
		volatile char *p = (volatile char *)&argc;
		for (;;)
			*(p -= 4096) = 1;
	}
	if (!strcmp(way, "divide"))
		return argc * 1000 / zero;
	if (!strcmp(way, "illegal"))
		__asm__ volatile("ud2");
	if (!strcmp(way, "privileged"))
		__asm__ volatile("hlt");
	if (!strcmp(way, "breakpoint"))
		__asm__ volatile("int3");
	if (!strcmp(way, "port"))
		__asm__ volatile("outb %al, $0x80");
	if (!strcmp(way, "abort"))
		abort();
	if (!strcmp(way, "terminate"))
		raise(SIGTERM);
	if (!strcmp(way, "real-time"))
		raise(SIGRTMIN + 3);
	if (!strcmp(way, "exit"))
		_exit(7);
	if (!strcmp(way, "exit-large"))
		exit(1000);
	return 1;
}
