/*
 * A guest without a C library: finds the vDSO by its auxiliary vector, as a C library does, and compares what it says with the
 * system calls. What came of it is told by system calls of the test's own, with a struct report; the exit status tells a failure.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long u64;
typedef long i64;

struct ehdr {
	u8 ident[16];
	u16 type, machine;
	u32 version;
	u64 entry, phoff, shoff;
	u32 flags;
	u16 ehsize, phentsize, phnum;
};
struct phdr {
	u32 type, flags;
	u64 offset, vaddr, paddr, filesz, memsz, align;
};
struct dyn {
	u64 tag, value;
};
struct sym {
	u32 name;
	u8 info, other;
	u16 shndx;
	u64 value, size;
};
struct timespec {
	i64 seconds, nanoseconds;
};
struct timeval {
	i64 seconds, microseconds;
};

/* Kept in step with the test. */
struct report {
	i64 reads, backward, worst_backward; /* of the vDSO's monotonic clock, read after read */
	i64 pairs, after_call, before_call;  /* the least distance from a system call to the next vDSO read, and back */
	i64 realtime_after_call, realtime_before_call;
	i64 microseconds_off, seconds_off, resolution, cpu;
};

static i64 call(i64 number, i64 first, i64 second)
{
	i64 result;

	__asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
	return result;
}

static __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		call(231, status, 0);
}

static int equal(const char *left, const char *right)
{
	while (*left && *left == *right)
		left++, right++;
	return *left == *right;
}

static void *find(const struct ehdr *vdso, const char *name)
{
	const struct phdr *header = (void *)((u8 *)vdso + vdso->phoff);
	const struct dyn *dynamic = 0;
	const struct sym *symbols = 0;
	const char *strings = 0;
	const u32 *hash = 0;

	for (int i = 0; i < vdso->phnum; i++)
		if (header[i].type == 2)
			dynamic = (void *)((u8 *)vdso + header[i].vaddr);
	for (; dynamic && dynamic->tag; dynamic++) {
		if (dynamic->tag == 4)
			hash = (void *)((u8 *)vdso + dynamic->value);
		if (dynamic->tag == 5)
			strings = (char *)vdso + dynamic->value;
		if (dynamic->tag == 6)
			symbols = (void *)((u8 *)vdso + dynamic->value);
	}
	for (u32 i = 0; hash && strings && symbols && i < hash[1]; i++)
		if (equal(strings + symbols[i].name, name))
			return (u8 *)vdso + symbols[i].value;
	leave(10);
}

static int (*gettime)(int, struct timespec *);

static i64 by_call(int clock)
{
	struct timespec time;

	if (call(228, clock, (i64)&time))
		leave(11);
	return time.seconds * 1000000000 + time.nanoseconds;
}

static i64 by_vdso(int clock)
{
	struct timespec time;

	if (gettime(clock, &time))
		leave(12);
	return time.seconds * 1000000000 + time.nanoseconds;
}

static void least(i64 *least, i64 value)
{
	if (value < *least)
		*least = value;
}

static void compare(struct report *report, i64 pairs)
{
	for (; report->pairs < pairs; report->pairs++) {
		i64 before = by_call(1), vdso = by_vdso(1), after = by_call(1);

		least(&report->after_call, vdso - before);
		least(&report->before_call, after - vdso);
		before = by_call(0), vdso = by_vdso(0), after = by_call(0);
		least(&report->realtime_after_call, vdso - before);
		least(&report->realtime_before_call, after - vdso);
	}
}

static void watch(struct report *report, i64 nanoseconds)
{
	i64 last = by_vdso(1), end = last + nanoseconds;

	while (last < end) {
		i64 now = by_vdso(1);

		if (now < last) {
			report->backward++;
			if (last - now > report->worst_backward)
				report->worst_backward = last - now;
		}
		last = now;
		report->reads++;
	}
}

/* 1000 begins (the test answers once the page is valid), 1001 and 1002 report. */
__attribute__((used)) void begin(u64 *stack)
{
	struct report report = { .after_call = 1L << 62, .before_call = 1L << 62 };
	int (*gettimeofday)(struct timeval *, void *), (*getres)(int, struct timespec *);
	int (*getcpu)(u32 *, u32 *, void *);
	i64 (*time)(i64 *);
	struct timespec resolution;
	const struct ehdr *vdso = 0;
	struct timeval value;
	u32 cpu = 99, node = 99;
	u64 *word = stack + 1 + stack[0] + 1;

	report.realtime_after_call = report.realtime_before_call = 1L << 62;
	while (*word++)
		;
	for (; word[0]; word += 2)
		if (word[0] == 33)
			vdso = (void *)word[1];
	if (!vdso)
		leave(9);
	gettime = find(vdso, "__vdso_clock_gettime");
	gettimeofday = find(vdso, "__vdso_gettimeofday");
	time = find(vdso, "__vdso_time");
	getres = find(vdso, "__vdso_clock_getres");
	getcpu = find(vdso, "__vdso_getcpu");

	call(1000, (i64)&report, 0);
	watch(&report, 50000000);
	if (gettimeofday(&value, 0))
		leave(13);
	report.microseconds_off = by_vdso(0) / 1000 - (value.seconds * 1000000 + value.microseconds);
	report.seconds_off = time(0) - by_vdso(0) / 1000000000;
	if (getres(1, &resolution) || getcpu(&cpu, &node, 0) || node)
		leave(14);
	report.resolution = resolution.seconds * 1000000000 + resolution.nanoseconds;
	report.cpu = cpu;
	call(1001, (i64)&report, 0); /* no other call was made since */
	compare(&report, 500);
	watch(&report, 1500000000); /* over several updates of the page */
	call(1002, (i64)&report, 0);
	by_vdso(4); /* a clock that is not in the page */
	leave(0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
