/*
 * Address spaces from outside: arguments, copies, files and their slots, the end of spaces and of the machine. Both modes.
 */
#define _GNU_SOURCE
#include "mm_world.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "t.h"

#define BASE 0x40000000ull
#define RW   (AKVM_READ | AKVM_WRITE)

static struct world world;
static struct akvm_space *space;
static bool guest_edits;
static char text[3 * 4096];

static void begin(void)
{
	world_open(&world, 16 << 20, 16, guest_edits);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
}

static void end(void)
{
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static void hostile_ranges(void)
{
	static const uint64_t ranges[][2] = {
		{ BASE + 1, 0x1000 },
		{ BASE, 0x1001 },
		{ 0, 0x1000 },
		{ AKVM_USER_MIN - 0x1000, 0x2000 },
		{ AKVM_USER_MAX, 0x1000 },
		{ AKVM_USER_MAX - 0x1000, 0x2000 },
		{ BASE, UINT64_MAX & ~0xfffull },
		{ 0xfffffffffffff000, 0x2000 },
		{ 0xffff800000000000, 0x1000 },
		{ BASE, 0x8000000000000000 },
		{ 0x8000000000000000, 0x8000000000000000 },
	};

	begin();
	for (unsigned i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		T_EQUAL(akvm_space_map(space, ranges[i][0], ranges[i][1], RW, NULL, 0), -EINVAL);
		T_EQUAL(akvm_space_unmap(space, ranges[i][0], ranges[i][1]), -EINVAL);
		T_EQUAL(akvm_space_protect(space, ranges[i][0], ranges[i][1], RW), -EINVAL);
		T_EQUAL(akvm_space_discard(space, ranges[i][0], ranges[i][1]), -EINVAL);
	}
	T_EQUAL(akvm_space_map(space, BASE, 0, RW, NULL, 0), -EINVAL);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000, 8, NULL, 0), -EINVAL);
	T_EQUAL(akvm_space_protect(space, BASE, 0, RW), 0);
	T_EQUAL(akvm_space_protect(space, BASE, 0x1000, RW), -ENOMEM);
	T_EQUAL(akvm_space_map(space, AKVM_USER_MAX - 0x1000, 0x1000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, AKVM_USER_MAX - 8, text, 16, true), 8);
	T_EQUAL(akvm_space_read(space, AKVM_USER_MAX - 8, text, UINT64_MAX), 8);
	T_EQUAL(akvm_space_read(space, UINT64_MAX - 4, text, 16), -EFAULT);
	T_EQUAL(akvm_space_read(space, 0xffffffffffffffff, text, 1), -EFAULT);
	T_EQUAL(akvm_space_write(space, AKVM_KERNEL_BASE, text, 1, true), -EFAULT);
	T_EQUAL(akvm_space_read(space, BASE, text, 0), 0);
	/* Everything there is, in one go. */
	T_EQUAL(akvm_space_map(space, AKVM_USER_MIN, AKVM_USER_MAX - AKVM_USER_MIN, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_protect(space, AKVM_USER_MIN, AKVM_USER_MAX - AKVM_USER_MIN, AKVM_READ), 0);
	T_EQUAL(akvm_space_discard(space, AKVM_USER_MIN, AKVM_USER_MAX - AKVM_USER_MIN), 0);
	end();
}

static void strings(void)
{
	static char seen[sizeof(text)];

	begin();
	memset(text, 'a', sizeof(text));
	T_EQUAL(akvm_space_map(space, BASE, 0x2000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, BASE, text, 0x2000, false), 0x2000);
	T_EQUAL(akvm_space_read_string(space, BASE, seen, sizeof(seen)), -EFAULT);
	T_EQUAL(akvm_space_read_string(space, BASE, seen, 100), -ENAMETOOLONG);
	T_EQUAL(akvm_space_write(space, BASE + 0x1005, "", 1, false), 1);
	T_EQUAL(akvm_space_read_string(space, BASE + 0xffe, seen, sizeof(seen)), 7);
	T_CHECK(memcmp(seen, "aaaaaaa", 8) == 0);
	/* The NUL must fit, and is all that is looked at. */
	T_EQUAL(akvm_space_read_string(space, BASE + 0xffe, seen, 8), 7);
	T_EQUAL(akvm_space_read_string(space, BASE + 0xffe, seen, 7), -ENAMETOOLONG);
	T_EQUAL(akvm_space_read_string(space, BASE + 0x1005, seen, 1), 0);
	T_EQUAL(akvm_space_read_string(space, BASE, seen, 0), -ENAMETOOLONG);
	T_EQUAL(akvm_space_read_string(space, BASE - 1, seen, 1), -EFAULT);
	end();
}

static void regions_and_force(void)
{
	struct akvm_region region;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 0x3000, AKVM_READ, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, BASE, "secret", 6, false), -EFAULT);
	T_EQUAL(akvm_space_write(space, BASE, "secret", 6, true), 6);
	T_CHECK(!(world_walk(&world, space, BASE) & AKVM__ENTRY_WRITE));
	T_EQUAL(akvm_space_write(space, BASE + 0x2fff, "xy", 2, true), 1);
	T_EQUAL(akvm_space_protect(space, BASE + 0x1000, 0x1000, RW), 0);
	T_EQUAL(akvm_space_region(space, 0, &region), 0);
	T_CHECK(region.start == BASE && region.end == BASE + 0x1000 && region.access == AKVM_READ && region.file == 0);
	T_EQUAL(akvm_space_region(space, region.end, &region), 0);
	T_CHECK(region.start == BASE + 0x1000 && region.access == RW);
	T_EQUAL(akvm_space_protect(space, BASE + 0x1000, 0x1000, AKVM_READ), 0);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_CHECK(region.start == BASE && region.end == BASE + 0x3000);
	T_EQUAL(akvm_space_region(space, BASE + 0x3000, &region), -ENOENT);
	end();
}

static unsigned descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void files_and_slots(void)
{
	int first = world_file(3 * AKVM__PAGE), second = world_file(0), third = world_file(0x300000), pipes[2];
	struct akvm_file *file, *same, *empty, *other;
	unsigned before = descriptors();
	struct akvm_region region;
	uint64_t gpa;

	begin();
	T_EQUAL(pipe(pipes), 0);
	T_EQUAL(akvm__file_open(world.mm, pipes[0], false, 0, &file), -EINVAL);
	T_EQUAL(akvm__file_open(world.mm, -1, false, 0, &file), -EBADF);
	close(pipes[0]);
	close(pipes[1]);
	world.slot_error = -ENOSPC;
	T_EQUAL(akvm__file_open(world.mm, first, false, 0, &file), -ENOSPC);
	world.slot_error = 0;
	T_EQUAL(descriptors(), before);
	T_EQUAL(akvm__file_open(world.mm, first, false, 0, &file), 0);
	T_EQUAL(akvm__file_open(world.mm, dup(first), false, 0, &same), 0);
	T_CHECK(file == same);
	T_EQUAL(akvm__file_open(world.mm, second, false, 0, &empty), 0);
	T_EQUAL(akvm__file_open(world.mm, third, false, 0, &other), 0);
	T_EQUAL(file->gpa, AKVM_GPA_FILES);
	T_EQUAL(other->gpa, AKVM_GPA_FILES + 0x200000);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000, AKVM_READ, file, 0x800), -EINVAL);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000, AKVM_READ, file, INT64_MAX & ~0xfffull), -EINVAL);
	T_EQUAL(akvm_space_map(space, BASE, 0x3000, AKVM_READ, file, 0), 0);
	T_EQUAL(akvm_space_map(space, 2 * BASE, 0x1000, AKVM_READ, empty, 0), 0);
	T_EQUAL(akvm__space_fault(space, 2 * BASE, AKVM_READ), AKVM_FAULT_BUS);
	T_EQUAL(akvm_space_region(space, 2 * BASE, &region), 0);
	T_EQUAL(region.file, empty->number);
	/* Cut in three, joined again: the references come out even. */
	T_EQUAL(akvm_space_protect(space, BASE + 0x1000, 0x1000, AKVM_READ | AKVM_EXECUTE), 0);
	T_EQUAL(akvm__space_fault(space, BASE + 0x1000, AKVM_READ), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_protect(space, BASE, 0x3000, AKVM_READ), 0);
	T_EQUAL(file->references, 3);
	akvm_file_close(file);
	akvm_file_close(same);
	akvm_file_close(empty);
	akvm_file_close(other);
	/* Unmapped, but a CPU inside could still read through the slot. */
	gpa = file->gpa;
	world_enter(&world, &world.cpus[0], space);
	T_EQUAL(akvm_space_unmap(space, BASE, 0x3000), 0);
	T_CHECK(world_host(&world, gpa) != NULL);
	world_enter(&world, &world.cpus[0], space);
	T_CHECK(akvm_space_settled(space));
	T_CHECK(world_host(&world, gpa) == NULL);
	T_EQUAL(akvm__file_open(world.mm, third, false, 0, &other), 0);
	T_CHECK(other->gpa == gpa && other->slot == AKVM_SLOT_FILES);
	/* A slot that will not go stays with its file, and serves the next one who opens it. */
	world.slot_error = -EBUSY;
	akvm_file_close(other);
	world.slot_error = 0;
	T_CHECK(world_host(&world, gpa) != NULL);
	T_EQUAL(akvm__file_open(world.mm, third, false, 0, &same), 0);
	T_CHECK(same == other);
	akvm_file_close(same);
	akvm_file_close(NULL);
	close(first);
	close(second);
	close(third);
	end();
}

static void many_files(void)
{
	struct akvm_file *files[WORLD_SLOTS], *extra;
	int fds[WORLD_SLOTS];

	begin();
	for (unsigned i = 0; i < WORLD_SLOTS - AKVM_SLOT_FILES; i++) {
		fds[i] = world_file(1);
		T_EQUAL(akvm__file_open(world.mm, fds[i], false, 0, &files[i]), 0);
	}
	fds[WORLD_SLOTS - 1] = world_file(1);
	T_EQUAL(akvm__file_open(world.mm, fds[WORLD_SLOTS - 1], false, 0, &extra), -ENOSPC);
	T_CHECK(strcmp(akvm_last_error(), "slot for file") == 0);
	akvm_file_close(files[7]);
	T_EQUAL(akvm__file_open(world.mm, fds[WORLD_SLOTS - 1], false, 0, &files[7]), 0);
	for (unsigned i = 0; i < WORLD_SLOTS - AKVM_SLOT_FILES; i++) {
		akvm_file_close(files[i]);
		close(fds[i]);
	}
	close(fds[WORLD_SLOTS - 1]);
	end();
}

/* The regions a guest may make are bounded; then nothing changes. */
static void many_regions(void)
{
	uint64_t address = BASE;
	int error;

	begin();
	while ((error = akvm_space_map(space, address, 0x1000, address & 0x1000 ? RW : AKVM_READ, NULL, 0)) == 0)
		address += 0x1000;
	T_EQUAL(error, -ENOMEM);
	T_CHECK((address - BASE) / 0x1000 > AKVM__REGIONS_MAX - 8);
	T_EQUAL(akvm_space_protect(space, BASE, address - BASE, AKVM_READ), -ENOMEM);
	T_EQUAL(akvm_space_destroy(space), 0);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
	for (unsigned i = 0; i < 60000; i++)
		T_EQUAL(akvm_space_map(space, BASE + i * 0x1000ull, 0x1000, i & 1 ? RW : AKVM_READ, NULL, 0), 0);
	/* One pass, not one for each. */
	T_EQUAL(akvm_space_protect(space, BASE, 60000 * 0x1000ull, AKVM_READ), 0);
	T_EQUAL(space->regions.count, 1);
	end();
}

static void forks_that_fail(void)
{
	struct akvm_space *children[200];
	struct akvm_memory_status before, after;
	unsigned count = 0;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 0x3000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, BASE, "abc", 3, false), 3);
	akvm__mm_status(world.mm, &before);
	/* Leave room in the tables arena for a part of one. */
	world.mm->tables.next_unused = world.mm->tables.total - 6;
	world.mm->tables.roots = 2;
	while (akvm_space_fork(space, &children[count]) == 0)
		T_CHECK(++count < 200);
	T_EQUAL(count, 1);
	T_CHECK(strcmp(akvm_last_error(), "fork space") == 0);
	world_reap(&world);
	T_EQUAL(akvm_space_destroy(children[0]), 0);
	world_reap(&world);
	akvm__mm_status(world.mm, &after);
	T_EQUAL(after.tables_used, before.tables_used);
	T_EQUAL(after.frames_used, before.frames_used);
	T_EQUAL(akvm_space_write(space, BASE, "def", 3, false), 3);
	akvm__mm_status(world.mm, &after);
	T_EQUAL(after.frames_used, before.frames_used);
	end();
}

/* A vCPU on its way out: nothing is freed under it, and the reaper comes again. */
static void graveyard(void)
{
	struct akvm_memory_status status;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 0x3000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, BASE, "abc", 3, false), 3);
	world.unsettled = true;
	T_EQUAL(akvm_space_destroy(space), 0);
	T_CHECK(world.reaps > 0);
	space = akvm__mm_reap_next(world.mm);
	T_CHECK(space != NULL);
	world_apply(&world, space);
	world.reaps = 0;
	akvm__mm_reap_done(world.mm, space);
	T_CHECK(world.reaps > 0);
	akvm__mm_status(world.mm, &status);
	T_CHECK(status.frames_used > 0 && status.spaces == 1);
	world.unsettled = false;
	world_close(&world);
}

static void machine_ends_first(void)
{
	int fd = world_file(2 * AKVM__PAGE);
	unsigned before = descriptors();
	struct akvm_space *child;
	struct akvm_file *file;

	begin();
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm_space_map(space, BASE, 0x2000, AKVM_READ, file, 0), 0);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(akvm_space_map(child, BASE, 0x1000, AKVM_READ, NULL, 0), 0);
	T_EQUAL(akvm_space_destroy(child), 0);
	akvm__mm_free(world.mm);
	free(world.shadow);
	T_EQUAL(descriptors(), before);
	/* What the caller still holds is an empty shell. */
	akvm_file_close(file);
	close(fd);
}

static unsigned mmap_calls, mmap_fail_at;
static const struct akvm__host *kernel;

static void *failing_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	if (++mmap_calls == mmap_fail_at) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return kernel->mmap(address, length, protection, flags, fd, offset);
}

static int refuse_slot(void *opaque, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes)
{
	(void)read_only, (void)gpa, (void)host, (void)bytes;
	return slot == *(const uint32_t *)opaque ? -ENOSPC : 0;
}

static void creation_fails_cleanly(void)
{
	struct akvm__host host = *akvm__host;
	uint32_t refused = AKVM_SLOT_TABLES;
	struct akvm__mm_hooks hooks = { .opaque = &refused, .set_slot = refuse_slot };
	struct akvm__mm *mm = NULL;

	kernel = akvm__host;
	host.mmap = failing_mmap;
	akvm__host_replace(&host);
	for (mmap_fail_at = 1; mmap_fail_at <= 3; mmap_fail_at++) {
		mmap_calls = 0;
		T_EQUAL(akvm__mm_create(&hooks, 4 << 20, 16, 8, &mm), -ENOMEM);
	}
	akvm__host_replace(NULL);
	for (; refused <= AKVM_SLOT_FRAMES; refused++)
		T_EQUAL(akvm__mm_create(&hooks, 4 << 20, 16, 8, &mm), -ENOSPC);
	T_EQUAL(akvm__mm_create(&hooks, 0, 16, 8, &mm), -EINVAL);
	T_EQUAL(akvm__mm_create(&hooks, (4 << 20) + 4096, 16, 8, &mm), -EINVAL);
	T_EQUAL(akvm__mm_create(&hooks, 1ull << 40, 16, 8, &mm), -EINVAL);
	T_EQUAL(akvm__mm_create(&hooks, 4 << 20, 0, 8, &mm), -EINVAL);
	T_EQUAL(akvm__mm_create(&hooks, 4 << 20, 12, 8, &mm), -EINVAL);
	T_EQUAL(akvm__mm_create(&hooks, 4 << 20, 128, 8, &mm), -EINVAL);
	T_CHECK(mm == NULL);
}

int main(void)
{
	for (int mode = 0; mode < 2; mode++) {
		guest_edits = mode;
		T_RUN(hostile_ranges);
		T_RUN(strings);
		T_RUN(regions_and_force);
		T_RUN(files_and_slots);
		T_RUN(many_files);
		T_RUN(many_regions);
		T_RUN(forks_that_fail);
		T_RUN(graveyard);
		T_RUN(machine_ends_first);
	}
	T_RUN(creation_fails_cleanly);
	return 0;
}
