/*
 * Several threads on one memory manager: the loop's calls, faults on vCPU threads, edits and reaping at once. For TSan.
 *
 * Usage: test_mm_threads [turns]. Each worker owns the bytes it checks; the spaces, frames, tables and files are everybody's.
 */
#include "mm_world.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "t.h"

#define BASE         0x40000000ull
#define WORKER_BYTES 0x400000ull
#define RW           (AKVM_READ | AKVM_WRITE)
enum { WORKERS = 3 };

static struct akvm__mm *mm;
static struct akvm_space *shared;
static unsigned turns;
static int file_fd;
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static int slots[256];
/* What the helper thread waits for. */
static pthread_mutex_t helper_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t helper_wake = PTHREAD_COND_INITIALIZER;
static bool stop, wanted;

static int set_slot(void *opaque, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes)
{
	(void)opaque, (void)read_only, (void)gpa, (void)host;
	pthread_mutex_lock(&slots_lock);
	T_CHECK(slot < 256 && slots[slot] == (bytes == 0));
	slots[slot] = bytes != 0;
	pthread_mutex_unlock(&slots_lock);
	return 0;
}

static void interrupt(void *opaque, struct akvm_space *space)
{
	(void)opaque, (void)space;
}

/* No CPU runs here: whoever was inside has left. */
static int settled(void *opaque, struct akvm_space *space, uint64_t generation)
{
	(void)opaque, (void)space, (void)generation;
	return 1;
}

static void wake(bool last)
{
	pthread_mutex_lock(&helper_lock);
	wanted = true;
	stop = stop || last;
	pthread_cond_signal(&helper_wake);
	pthread_mutex_unlock(&helper_lock);
}

static void reap(void *opaque)
{
	(void)opaque;
	wake(false);
}

/* False once there is no more work. */
static bool wait_for_work(void)
{
	bool more;

	pthread_mutex_lock(&helper_lock);
	while (!wanted)
		pthread_cond_wait(&helper_wake, &helper_lock);
	wanted = false;
	more = !stop;
	pthread_mutex_unlock(&helper_lock);
	return more;
}

static void apply(struct akvm_space *space)
{
	uint64_t payload[256];
	uint32_t runs;

	akvm__space_lock(space);
	while (akvm__space_edits_take(space, payload, 256, &runs)) {
		for (uint32_t at = 0; runs-- > 0; at += 2 + (uint32_t)payload[at + 1])
			for (uint64_t i = 0; i < payload[at + 1]; i++)
				__atomic_store_n(&mm->tables.real[(payload[at] - AKVM_TABLES_WINDOW) / 8 + i],
						 payload[at + 2 + i], __ATOMIC_RELEASE);
		akvm__space_edits_done(space);
	}
	akvm__space_unlock(space);
}

static void reap_all(void)
{
	struct akvm_space *space;

	while ((space = akvm__mm_reap_next(mm)) != NULL) {
		apply(space);
		akvm__mm_reap_done(mm, space);
	}
}

static void *reaper(void *argument)
{
	struct akvm_memory_status status;

	while (wait_for_work()) {
		reap_all();
		(void)akvm__space_generation(shared);
		if (akvm__space_edits_pending(shared))
			apply(shared);
		akvm__mm_status(mm, &status);
	}
	return argument;
}

static void check_pattern(struct akvm_space *space, uint64_t address, uint64_t value)
{
	uint64_t seen = 0;

	T_EQUAL(akvm_space_read(space, address, &seen, 8), 8);
	T_EQUAL(seen, value);
}

/* A fork keeps what this worker last wrote, whatever the parent does next. */
static void fork_and_check(uint64_t base, uint64_t value)
{
	struct akvm_space *child;

	T_EQUAL(akvm_space_fork(shared, &child), 0);
	T_EQUAL(akvm__space_fault(child, base, AKVM_READ), AKVM_FAULT_NONE);
	value = ~value;
	T_EQUAL(akvm_space_write(shared, base, &value, 8, false), 8);
	check_pattern(child, base, ~value);
	T_EQUAL(akvm_space_write(child, base + 8, &value, 8, false), 8);
	check_pattern(shared, base, value);
	T_EQUAL(akvm_space_destroy(child), 0);
}

static void *worker(void *argument)
{
	unsigned long long seed = 77 + *(unsigned *)argument;
	uint64_t base = BASE + *(unsigned *)argument * WORKER_BYTES, value, own_base = 2 * BASE;
	struct akvm_file *file;
	struct akvm_space *own;

	for (unsigned turn = 0; turn < turns; turn++) {
		uint64_t page = base + t_random(&seed) % 1024 * AKVM__PAGE;

		T_EQUAL(akvm_space_map(shared, base, WORKER_BYTES, RW, NULL, 0), 0);
		T_EQUAL(akvm__space_fault(shared, page, AKVM_WRITE), AKVM_FAULT_NONE);
		value = t_random(&seed);
		T_EQUAL(akvm_space_write(shared, page, &value, 8, false), 8);
		T_EQUAL(akvm_space_protect(shared, page, AKVM__PAGE, AKVM_READ), 0);
		check_pattern(shared, page, value);
		T_EQUAL(akvm_space_protect(shared, page, AKVM__PAGE, RW), 0);
		fork_and_check(page, value);
		wake(false);
		T_EQUAL(akvm_space_unmap(shared, base, WORKER_BYTES), 0);
		T_EQUAL(akvm__space_fault(shared, page, AKVM_READ), AKVM_FAULT_UNMAPPED);
		/* Spaces of its own, and the file that everybody opens and closes. */
		T_EQUAL(akvm__space_create(mm, &own), 0);
		T_EQUAL(akvm__file_open(mm, file_fd, false, 0, &file), 0);
		T_EQUAL(akvm_space_map(own, own_base, 2 * AKVM__PAGE, RW, file, 0), 0);
		akvm_file_close(file);
		T_EQUAL(akvm__space_fault(own, own_base + AKVM__PAGE, AKVM_WRITE), AKVM_FAULT_NONE);
		T_EQUAL(akvm_space_read(own, own_base + AKVM__PAGE, &value, 1), 1);
		T_EQUAL((uint8_t)value, world_file_byte(AKVM__PAGE));
		T_EQUAL(akvm_space_destroy(own), 0);
	}
	return argument;
}

static void run(int guest_edits)
{
	struct akvm__mm_hooks hooks = { .set_slot = set_slot, .interrupt = interrupt, .settled = settled, .reap = reap };
	struct akvm_memory_status status;
	pthread_t threads[WORKERS], helper;
	unsigned numbers[WORKERS];

	memset(slots, 0, sizeof(slots));
	stop = wanted = false;
	T_EQUAL(akvm__mm_create(&hooks, 128 << 20, 16, 256, &mm), 0);
	akvm__mm_guest_edits(mm, guest_edits);
	T_EQUAL(akvm__space_create(mm, &shared), 0);
	T_EQUAL(pthread_create(&helper, NULL, reaper, NULL), 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		numbers[i] = i;
		T_EQUAL(pthread_create(&threads[i], NULL, worker, &numbers[i]), 0);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		T_EQUAL(pthread_join(threads[i], NULL), 0);
	wake(true);
	T_EQUAL(pthread_join(helper, NULL), 0);
	T_EQUAL(akvm_space_destroy(shared), 0);
	reap_all();
	akvm__mm_status(mm, &status);
	T_EQUAL(status.frames_used, 0);
	T_EQUAL(status.tables_used, 1);
	T_EQUAL(status.spaces, 0);
	T_EQUAL(status.file_slots, 0);
	T_CHECK(status.cow_copies > 0 && (status.edits > 0) == guest_edits);
	akvm__mm_free(mm);
}

int main(int argc, char **argv)
{
	turns = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 40;
	file_fd = world_file(2 * AKVM__PAGE);
	run(0);
	run(1);
	close(file_fd);
	return 0;
}
