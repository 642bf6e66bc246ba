/*
 * One half of a floor: wakes an event loop in another process through an eventfd, as a vCPU thread wakes the loop, with the
 * same idleness before it: each wake-up comes `busy` nanoseconds after the loop has gone back to wait.
 *
 *   floor_wakeup EVENTFD SHARED      both inherited; SHARED is a file of one page, seen by both
 *
 * Each line "COUNT BUSY" read is answered by that many wake-ups, then by a line with their number. The loop tells each one by
 * its own clock against the time written here. Not here: the loop, and anything of our library.
 */
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "report.h"

enum { PAGE = 4096, WAIT_NS = 1000000000 };

struct shared {
	_Atomic uint64_t written_ns; /* CLOCK_MONOTONIC, just before the write to the eventfd; written here */
	_Atomic uint64_t seen;       /* wake-ups the loop has seen, in all; written by the loop */
};

static void wake(struct shared *shared, int bell, uint64_t before, uint64_t busy_ns)
{
	uint64_t waiting_ns = now_ns(), from_ns;
	const uint64_t one = 1;

	while (shared->seen != before)
		if (now_ns() - waiting_ns > WAIT_NS)
			fail("the loop does not answer");
	from_ns = now_ns();
	while (now_ns() - from_ns < busy_ns)
		;
	shared->written_ns = now_ns();
	if (write(bell, &one, sizeof(one)) != sizeof(one))
		fail("write eventfd");
}

int main(int argc, char **argv)
{
	uint64_t count, busy_ns, done = 0;
	struct shared *shared;
	char line[LINE_BYTES];
	int bell, file;

	if (argc != 3) {
		fprintf(stderr, "usage: %s EVENTFD SHARED\n", argv[0]);
		return 2;
	}
	bell = atoi(argv[1]);
	file = atoi(argv[2]);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%" SCNu64 " %" SCNu64, &count, &busy_ns) != 2)
			return 2;
		for (uint64_t i = 0; i < count; i++)
			wake(shared, bell, done++, busy_ns);
		printf("%" PRIu64 "\n", done);
		fflush(stdout);
	}
	return 0;
}
