/*
 * Floor: a user-mode loop run natively. The guest runs these very bytes, so floor and product must also agree on the result,
 * which is printed in place of an exit count: there is no exit to count.
 * Not here: anything of our library.
 */
#include <sys/mman.h>

#include "report.h"

/* RDI: iterations (> 0); result in RAX. A multiplication and a division-free mix a turn: bound by the CPU, no memory. */
static const uint8_t code[] = {
	0x31, 0xc0,                               /*    xor %eax,%eax */
	0x48, 0x69, 0xc0, 0x6d, 0x4e, 0xc6, 0x41, /* 1: imul $0x41c64e6d,%rax,%rax */
	0x48, 0x01, 0xf8,                         /*    add %rdi,%rax */
	0x48, 0xc1, 0xc0, 0x0d,                   /*    rol $13,%rax */
	0x48, 0xff, 0xcf,                         /*    dec %rdi */
	0x75, 0xed,                               /*    jnz 1b */
	0xc3,                                     /*    ret */
};

typedef uint64_t (*loop_fn)(uint64_t iterations);

int main(int argc, char **argv)
{
	static struct report report = {
		.name = "compute", .counts = "result", .series = { "loop" }, .samples = 25, .operations = 10000000
	};
	uint64_t result = 0;
	loop_fn loop;
	void *page;

	report_options(&report, argc, argv);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		fail("mmap");
	memcpy(page, code, sizeof(code));
	if (mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0)
		fail("mprotect");
	memcpy(&loop, &page, sizeof(loop));
	while (report_next(&report)) {
		uint64_t started_ns = now_ns(), ended_ns;

		result = loop(report.operations);
		ended_ns = now_ns();
		report_add(&report, (double[]){ (double)(ended_ns - started_ns) / (double)report.operations });
	}
	report.counted = result;
	report_print(&report);
	return 0;
}
