/*
 * Direct files: what a guest reads is what the file has, whoever else reads, seeks, or closes it meanwhile; and whatever is
 * unusual reaches the caller with nothing done.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/host.h"
#include "rig.h"

enum { READ = 100, PREAD, SEEK, DATA = 0x10000000, DATA_PAGES = 64, DESCRIPTOR = 5, WORD = 8 };
static const uint64_t numbers[AKVM_DIRECT_CALLS] = { READ, PREAD, SEEK };

struct world {
	struct rig rig;
	struct akvm_context *context;
	struct akvm_direct_files *files;
	struct akvm_direct_file *file;
	int fd;
};

/* A file of so many words, each its own number and `tag`. */
static int make_file(uint64_t words, uint64_t tag)
{
	int fd = memfd_create("direct", MFD_CLOEXEC);

	T_CHECK(fd >= 0);
	for (uint64_t word = 0; word < words; word++) {
		uint64_t value = tag + word;

		T_EQUAL(pwrite(fd, &value, WORD, (off_t)(word * WORD)), WORD);
	}
	return fd;
}

static struct akvm_context *reader(struct world *world)
{
	struct akvm_context *context = rig_context(&world->rig, 0);

	T_EQUAL(akvm_context_direct_files(context, world->files), 0);
	return context;
}

static void open_world(struct world *world, uint32_t vcpus, uint64_t words)
{
	rig_open(&world->rig, NULL, vcpus);
	T_EQUAL(akvm_space_map(world->rig.space, DATA, DATA_PAGES * RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	world->fd = make_file(words, 0);
	T_EQUAL(akvm_direct_file_create(world->fd, &world->file), 0);
	T_EQUAL(akvm_direct_files_create(numbers, &world->files), 0);
	T_EQUAL(akvm_direct_files_set(world->files, DESCRIPTOR, world->file), 0);
	world->context = reader(world);
}

static void close_world(struct world *world)
{
	akvm_direct_file_release(world->file);
	akvm_direct_files_release(world->files);
	rig_close(&world->rig);
	/* The contexts went with the machine, and with the last of them the table and the file. */
	T_EQUAL(fcntl(world->fd, F_GETFD), -1);
}

static void begin(struct akvm_context *context, uint64_t number, uint64_t rsi, uint64_t rdx, uint64_t r10)
{
	context->registers.rax = number;
	context->registers.rdx = rdx;
	context->registers.r10 = r10;
	context->registers.rip = RIG_SYSCALL;
	context->registers.rdi = DESCRIPTOR;
	context->registers.rsi = rsi;
}

/* Whether the vCPU's thread answered: the guest went on to its INT3. */
static bool answered(const struct akvm_context *context)
{
	if (context->kind == AKVM_EXIT_FAULT && context->vector == 3)
		return true;
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	return false;
}

static int64_t call(struct world *world, uint64_t number, uint64_t rsi, uint64_t rdx, uint64_t r10)
{
	begin(world->context, number, rsi, rdx, r10);
	rig_run(&world->rig, world->context, 0);
	T_CHECK(answered(world->context));
	return (int64_t)world->context->registers.rax;
}

/* The caller has it, as it was, and the position is where it was. */
static void left_alone(struct world *world, uint64_t number, uint64_t rsi, uint64_t rdx, uint64_t r10)
{
	off_t position = lseek(world->fd, 0, SEEK_CUR);

	begin(world->context, number, rsi, rdx, r10);
	rig_run(&world->rig, world->context, 0);
	T_CHECK(!answered(world->context));
	T_EQUAL(world->context->registers.rax, number);
	T_EQUAL(lseek(world->fd, 0, SEEK_CUR), position);
}

static uint64_t peek(struct world *world, uint64_t address)
{
	uint64_t value;

	T_EQUAL(akvm_space_read(world->rig.space, address, &value, WORD), WORD);
	return value;
}

static void reads_what_is_there(void)
{
	enum { WORDS = 40000 };
	struct world world;
	uint64_t next = 0;

	open_world(&world, 1, WORDS);
	for (uint64_t size = WORD; next < WORDS; size = size * 3 % 200000 / WORD * WORD + WORD) {
		uint64_t expected = WORDS - next < size / WORD ? WORDS - next : size / WORD;

		T_EQUAL(call(&world, READ, DATA, size, 0), expected * WORD);
		for (uint64_t word = 0; word < expected; word++)
			T_EQUAL(peek(&world, DATA + word * WORD), next + word);
		next += expected;
		T_EQUAL(lseek(world.fd, 0, SEEK_CUR), next * WORD);
	}
	T_EQUAL(call(&world, READ, DATA, 4096, 0), 0);
	T_EQUAL(call(&world, PREAD, DATA, 3 * WORD, 7 * WORD), 3 * WORD);
	T_EQUAL(peek(&world, DATA + 2 * WORD), 9);
	T_EQUAL(call(&world, PREAD, DATA, WORD, WORDS * WORD), 0);
	T_EQUAL(call(&world, READ, DATA, 0, 0), 0);
	T_EQUAL(call(&world, SEEK, 5 * WORD, SEEK_SET, 0), 5 * WORD);
	T_EQUAL(call(&world, READ, DATA, WORD, 0), WORD);
	T_EQUAL(peek(&world, DATA), 5);
	T_EQUAL(call(&world, SEEK, (uint64_t)-WORD, SEEK_CUR, 0), 5 * WORD);
	T_EQUAL(call(&world, SEEK, (uint64_t)-WORD, SEEK_END, 0), (WORDS - 1) * WORD);
	T_EQUAL(call(&world, SEEK, 1ull << 40, SEEK_SET, 0), 1ll << 40);
	T_EQUAL(call(&world, READ, DATA, WORD, 0), 0);
	/* The file is cut off below its reader. */
	T_EQUAL(ftruncate(world.fd, 2 * WORD), 0);
	T_EQUAL(call(&world, SEEK, WORD, SEEK_SET, 0), WORD);
	T_EQUAL(call(&world, READ, DATA, 4096, 0), WORD);
	T_EQUAL(world.context->direct_calls[AKVM_DIRECT_PREAD], 2);
	T_EQUAL(world.context->direct_calls[AKVM_DIRECT_SEEK], 5);
	close_world(&world);
}

static void leaves_what_is_unusual(void)
{
	struct world world;

	open_world(&world, 1, 1000);
	T_EQUAL(call(&world, SEEK, 80, SEEK_SET, 0), 80);
	left_alone(&world, READ, DATA, AKVM_DIRECT_BYTES_MAX + 1, 0);
	left_alone(&world, READ, DATA, UINT64_MAX, 0);
	left_alone(&world, PREAD, DATA, WORD, UINT64_MAX);
	left_alone(&world, PREAD, DATA, WORD, INT64_MAX - 8);
	left_alone(&world, SEEK, (uint64_t)-1, SEEK_SET, 0);
	left_alone(&world, SEEK, 0, SEEK_DATA, 0);
	left_alone(&world, SEEK, 0, 77, 0);
	left_alone(&world, 3, 0, 0, 0);
	left_alone(&world, UINT64_MAX, 0, 0, 0);
	/* Addresses: nowhere, not to be written, the kernel's. */
	left_alone(&world, READ, DATA - 2 * RIG_PAGE, WORD, 0);
	left_alone(&world, READ, RIG_CODE, WORD, 0);
	left_alone(&world, READ, UINT64_MAX - 4, WORD, 0);
	left_alone(&world, PREAD, DATA - 2 * RIG_PAGE, WORD, 0);
	/* Somebody else is about to move the position. */
	akvm_direct_file_lock(world.file);
	left_alone(&world, READ, DATA, WORD, 0);
	left_alone(&world, SEEK, 0, SEEK_CUR, 0);
	T_EQUAL(call(&world, PREAD, DATA, WORD, 0), WORD);
	akvm_direct_file_unlock(world.file);
	T_EQUAL(call(&world, READ, DATA, WORD, 0), WORD);
	T_EQUAL(peek(&world, DATA), 10);
	/* Not in the table. */
	T_EQUAL(akvm_direct_files_set(world.files, DESCRIPTOR, NULL), 0);
	left_alone(&world, READ, DATA, WORD, 0);
	T_EQUAL(akvm_direct_files_set(world.files, AKVM_DIRECT_FILES_MAX, world.file), -EINVAL);
	T_EQUAL(akvm_direct_files_set(world.files, AKVM_DIRECT_FILES_MAX - 1, world.file), 0);
	T_EQUAL(akvm_direct_files_set(world.files, DESCRIPTOR, world.file), 0);
	T_EQUAL(call(&world, READ, DATA, WORD, 0), WORD);
	T_EQUAL(akvm_context_direct_files(world.context, NULL), 0);
	left_alone(&world, READ, DATA, WORD, 0);
	close_world(&world);
}

/* As far as there is memory, and the rest stays in the file. */
static void partial_copies(void)
{
	static const uint64_t end = DATA + DATA_PAGES * RIG_PAGE;
	struct world world;

	open_world(&world, 1, 100000);
	T_EQUAL(call(&world, READ, end - RIG_PAGE, 3 * RIG_PAGE, 0), RIG_PAGE);
	T_EQUAL(lseek(world.fd, 0, SEEK_CUR), RIG_PAGE);
	T_EQUAL(call(&world, READ, end - 3 * WORD, 4096, 0), 3 * WORD);
	T_EQUAL(peek(&world, end - 3 * WORD), RIG_PAGE / WORD);
	T_EQUAL(lseek(world.fd, 0, SEEK_CUR), RIG_PAGE + 3 * WORD);
	/* In a later piece. */
	T_EQUAL(call(&world, SEEK, 0, SEEK_SET, 0), 0);
	T_EQUAL(call(&world, READ, end - 40 * RIG_PAGE, 60 * RIG_PAGE, 0), 40 * RIG_PAGE);
	T_EQUAL(lseek(world.fd, 0, SEEK_CUR), 40 * RIG_PAGE);
	T_EQUAL(call(&world, READ, end - 32 * RIG_PAGE, 60 * RIG_PAGE, 0), 32 * RIG_PAGE);
	T_EQUAL(lseek(world.fd, 0, SEEK_CUR), 72 * RIG_PAGE);
	T_EQUAL(call(&world, PREAD, end - RIG_PAGE, 2 * RIG_PAGE, WORD), RIG_PAGE);
	T_EQUAL(peek(&world, end - RIG_PAGE), 1);
	close_world(&world);
}

/* ---------------------------------------------------------------- a host that does as it is told */

static struct {
	struct akvm__host host;
	const struct akvm__host *under;
	_Atomic bool held, reached;
	_Atomic unsigned reads, fail_at; /* by way of the buffer */
	_Atomic unsigned straight;
	_Atomic int straight_error;
} script;

static ssize_t scripted_read(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	if (flags & RWF_NOWAIT && ++script.straight && script.straight_error) {
		errno = script.straight_error;
		return -1;
	}
	if (!flags && ++script.reads == script.fail_at) {
		errno = EIO;
		return -1;
	}
	script.reached = true;
	while (script.held)
		;
	/* Memory files know no RWF_NOWAIT, as some of the host's file systems. */
	return script.under->preadv2(fd, parts, count, offset, flags & ~RWF_NOWAIT);
}

static void script_host(void)
{
	script.under = akvm__host;
	script.host = *akvm__host;
	script.host.preadv2 = scripted_read;
	script.reads = script.fail_at = script.straight = 0;
	script.straight_error = 0;
	script.held = script.reached = false;
	akvm__host_replace(&script.host);
}

static void failures_of_the_host(void)
{
	struct world world;

	open_world(&world, 1, 100000);
	script_host();
	script.fail_at = 1;
	left_alone(&world, READ, DATA, WORD, 0);
	script.reads = 0;
	script.fail_at = 3;
	T_EQUAL(call(&world, READ, DATA, 3 * (64 << 10), 0), 2 * (64 << 10));
	T_EQUAL(lseek(world.fd, 0, SEEK_CUR), 2 * (64 << 10));
	close_world(&world);
}

/* Pages that are the guest's own are read into without a detour, unless the host would have to wait. */
static void straight_where_possible(void)
{
	const uint64_t size = 8 * RIG_PAGE, view = DATA * 2ull;
	struct akvm_space *child;
	struct akvm_file *file;
	struct world world;
	uint64_t value;
	int fd;

	open_world(&world, 1, 10000);
	script_host();
	T_EQUAL(call(&world, PREAD, DATA, size, 0), size);
	T_CHECK(script.reads > 0);
	script.reads = 0;
	T_EQUAL(call(&world, PREAD, DATA, size, WORD), size);
	T_EQUAL(script.reads, 0);
	T_EQUAL(peek(&world, DATA + size - WORD), size / WORD);
	/* What a child has too is copied first. */
	T_EQUAL(akvm_space_fork(world.rig.space, &child), 0);
	T_EQUAL(call(&world, PREAD, DATA, size, 0), size);
	T_CHECK(script.reads > 0);
	T_EQUAL(peek(&world, DATA + size - WORD), size / WORD - 1);
	T_EQUAL(akvm_space_read(child, DATA + size - WORD, &value, WORD), WORD);
	T_EQUAL(value, size / WORD);
	T_EQUAL(akvm_space_destroy(child), 0);
	/* Shared memory is a file's, and may be cut off it at any time. */
	fd = make_file(RIG_PAGE / WORD, 0);
	T_EQUAL(akvm_file_open(world.rig.machine, fd, true, 0, &file), 0);
	T_EQUAL(akvm_space_map(world.rig.space, view, RIG_PAGE, AKVM_READ | AKVM_WRITE | AKVM_SHARED, file, 0), 0);
	akvm_file_close(file);
	T_EQUAL(call(&world, PREAD, view, WORD, 0), WORD);
	script.straight = 0;
	T_EQUAL(call(&world, PREAD, view, WORD, 77 * WORD), WORD);
	T_EQUAL(script.straight, 0);
	T_EQUAL(pread(fd, &value, WORD, 0), WORD);
	T_EQUAL(value, 77);
	T_EQUAL(close(fd), 0);
	/* Nor what only may be read by now. */
	T_EQUAL(akvm_space_protect(world.rig.space, DATA, RIG_PAGE, AKVM_READ), 0);
	left_alone(&world, PREAD, DATA, WORD, 0);
	T_EQUAL(call(&world, PREAD, DATA + RIG_PAGE, WORD, 5 * WORD), WORD);
	T_EQUAL(script.straight, 1);
	/* Not in the page cache; and a file system that never can say. */
	script.straight_error = EAGAIN;
	T_EQUAL(call(&world, PREAD, DATA + RIG_PAGE, WORD, 6 * WORD), WORD);
	T_EQUAL(peek(&world, DATA + RIG_PAGE), 6);
	T_EQUAL(script.straight, 2);
	script.straight_error = EOPNOTSUPP;
	for (uint64_t turn = 0; turn < 3; turn++)
		T_EQUAL(call(&world, PREAD, DATA + RIG_PAGE, WORD, 0), WORD);
	T_EQUAL(script.straight, 3);
	close_world(&world);
}

/* The descriptor becomes another file's in the middle of a read: that read is of the old one, and only then is it closed. */
static void closed_under_a_reader(void)
{
	struct akvm_direct_file *other;
	struct world world;

	open_world(&world, 1, 100);
	script_host();
	script.held = true;
	begin(world.context, READ, DATA, WORD, 0);
	rig_submit(world.context, 0);
	RIG_UNTIL(script.reached);
	T_EQUAL(akvm_direct_file_create(make_file(100, 1000), &other), 0);
	T_EQUAL(akvm_direct_files_set(world.files, DESCRIPTOR, other), 0);
	akvm_direct_file_release(world.file);
	T_CHECK(fcntl(world.fd, F_GETFD) >= 0);
	script.held = false;
	T_CHECK(rig_wait(&world.rig) == world.context);
	T_CHECK(answered(world.context));
	T_EQUAL(peek(&world, DATA), 0);
	T_EQUAL(fcntl(world.fd, F_GETFD), -1);
	T_EQUAL(call(&world, READ, DATA, WORD, 0), WORD);
	T_EQUAL(peek(&world, DATA), 1000);
	world.file = other;
	close_world(&world);
}

/* ---------------------------------------------------------------- several at once */

/* Each word is somebody's, once, whoever reads it: vCPUs, or, when two of them meet, the caller. */
static void one_position_for_all(void)
{
	enum { VCPUS = 3, WORDS = 6000 };
	static uint8_t seen[WORDS];
	struct world world;
	unsigned running = 0, total = 0, ended = 0;

	memset(seen, 0, sizeof(seen));
	open_world(&world, VCPUS, WORDS);
	for (unsigned i = 0; i < VCPUS; i++) {
		struct akvm_context *context = i ? reader(&world) : world.context;

		begin(context, READ, DATA + context->index * RIG_PAGE, WORD, 0);
		rig_submit(context, i);
		running++;
	}
	while (running) {
		struct akvm_context *context = rig_wait(&world.rig);
		uint64_t address = DATA + context->index * RIG_PAGE, value;
		ssize_t got;

		if (answered(context)) {
			got = (ssize_t)context->registers.rax;
			value = peek(&world, address);
		} else {
			akvm_direct_file_lock(world.file);
			got = read(world.fd, &value, WORD);
			akvm_direct_file_unlock(world.file);
		}
		if (got == 0) {
			running--;
			ended++;
			continue;
		}
		T_EQUAL(got, WORD);
		T_CHECK(value < WORDS && !seen[value]);
		seen[value] = 1;
		total++;
		begin(context, READ, address, WORD, 0);
		rig_submit(context, context->index % VCPUS);
	}
	T_EQUAL(total, WORDS);
	T_EQUAL(ended, VCPUS);
	close_world(&world);
}

/* What came back goes on: calls that met no file are made again. */
static void resubmit(struct world *world, uint32_t vcpus, uint64_t patience_ns)
{
	while (akvm_machine_poll(world->rig.machine, patience_ns)) {
		struct akvm_context *context = rig_wait(&world->rig);

		if (context->kind == AKVM_EXIT_SYSCALL) {
			T_EQUAL(context->registers.rax, 0);
			context->registers.rip -= 2;
		} else {
			T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
			T_EQUAL(context->interrupts, AKVM_INTERRUPT_TIMEOUT);
		}
		rig_submit(context, context->index % vcpus);
	}
}

static uint64_t preads(const struct akvm_context *context)
{
	return __atomic_load_n(&context->direct_calls[AKVM_DIRECT_PREAD], __ATOMIC_RELAXED);
}

/* Guests that do nothing but read, while their descriptor comes and goes; each can be interrupted. */
static void tables_change_under_readers(void)
{
	enum { VCPUS = 2, TURNS = 300, INTERRUPTED_TURNS = 50, ENOUGH = 100 };
	static const uint64_t endless[AKVM_DIRECT_CALLS] = { UINT64_MAX, 0, UINT64_MAX };
	struct akvm_context *contexts[VCPUS];
	struct akvm_direct_files *files;
	struct world world;

	open_world(&world, VCPUS, 100);
	T_EQUAL(akvm_direct_files_create(endless, &files), 0);
	T_EQUAL(akvm_direct_files_set(files, DESCRIPTOR, world.file), 0);
	for (unsigned i = 0; i < VCPUS; i++) {
		contexts[i] = rig_context(&world.rig, 0);
		T_EQUAL(akvm_context_direct_files(contexts[i], files), 0);
		begin(contexts[i], 0, DATA + contexts[i]->index * RIG_PAGE, 24, WORD);
		contexts[i]->registers.rip = RIG_SYSCALLS;
		contexts[i]->registers.rbx = UINT64_MAX;
		rig_submit(contexts[i], i);
		T_EQUAL(akvm_context_direct_files(contexts[i], NULL), -EBUSY);
	}
	for (unsigned turn = 0; turn < TURNS; turn++) {
		bool interrupt = turn % INTERRUPTED_TURNS == 0;

		T_EQUAL(akvm_direct_files_set(files, DESCRIPTOR + turn, world.file), 0);
		T_EQUAL(akvm_direct_files_set(files, DESCRIPTOR, NULL), 0);
		T_EQUAL(akvm_direct_files_set(files, DESCRIPTOR, world.file), 0);
		for (unsigned i = 0; i < VCPUS && interrupt; i++)
			T_EQUAL(akvm_context_interrupt(contexts[i], contexts[i]->generation, AKVM_INTERRUPT_TIMEOUT), 0);
		resubmit(&world, VCPUS, interrupt ? 1000000 : 0);
	}
	for (unsigned i = 0; i < VCPUS; i++)
		RIG_UNTIL((resubmit(&world, VCPUS, 0), preads(contexts[i]) > ENOUGH));
	akvm_machine_stop(world.rig.machine);
	for (unsigned i = 0; i < VCPUS; i++) {
		T_EQUAL(rig_wait(&world.rig)->submitted, 0);
		/* The last of the three words. */
		T_EQUAL(peek(&world, DATA + contexts[i]->index * RIG_PAGE + 2 * WORD), 3);
	}
	akvm_direct_files_release(files);
	close_world(&world);
}

int main(void)
{
	T_RUN(reads_what_is_there);
	T_RUN(leaves_what_is_unusual);
	T_RUN(partial_copies);
	T_RUN(failures_of_the_host);
	T_RUN(straight_where_possible);
	T_RUN(closed_under_a_reader);
	T_RUN(one_position_for_all);
	T_RUN(tables_change_under_readers);
	return 0;
}
