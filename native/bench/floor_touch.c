/*
 * Floor: the first store to each 4 KiB page of fresh private anonymous memory, natively; in plain memory, where the kernel's
 * transparent_hugepage setting decides, and in memory advised to use huge pages. An operation is one page.
 * Not here: anything of our library.
 */
#include <sys/mman.h>
#include <sys/resource.h>

#include "report.h"

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

static uint64_t faults(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage) < 0)
		fail("getrusage");
	return (uint64_t)usage.ru_minflt;
}

/* Nanoseconds for each page. */
static double measure(uint64_t pages, bool huge, uint64_t *faulted)
{
	size_t bytes = pages * PAGE + HUGE_PAGE;
	uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *start;
	uint64_t started_ns, ended_ns, before;
	uint64_t left = pages;
	uint8_t *next;

	if (memory == MAP_FAILED)
		fail("mmap");
	start = (uint8_t *)(((uintptr_t)memory + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
	if (huge && madvise(start, pages * PAGE, MADV_HUGEPAGE) < 0 && errno != EINVAL)
		fail("madvise");
	next = start;
	before = faults();
	started_ns = now_ns();
	/* The same instructions as in the guest. */
	__asm__ volatile("1: movb $1, (%0)\n\t"
			 "add $4096, %0\n\t"
			 "dec %1\n\t"
			 "jnz 1b"
			 : "+r"(next), "+r"(left)
			 :
			 : "memory", "cc");
	ended_ns = now_ns();
	*faulted = faults() - before;
	expect("bytes touched", (uint64_t)(next - start), pages * PAGE);
	munmap(memory, bytes);
	return (double)(ended_ns - started_ns) / (double)pages;
}

int main(int argc, char **argv)
{
	static struct report report = {
		.name = "touch", .counts = "faults", .series = { "plain", "advised" }, .samples = 15, .operations = 16384
	};

	report_options(&report, argc, argv);
	while (report_next(&report)) {
		uint64_t plain_faults, advised_faults;
		double plain = measure(report.operations, false, &plain_faults);
		double advised = measure(report.operations, true, &advised_faults);

		/* Every page was new: at the least one fault for each huge page. */
		if (plain_faults < report.operations / (HUGE_PAGE / PAGE) ||
		    advised_faults < report.operations / (HUGE_PAGE / PAGE))
			expect("page faults", plain_faults, report.operations);
		report.counted += plain_faults + advised_faults;
		report_add(&report, (double[]){ plain, advised });
	}
	report_print(&report);
	return 0;
}
