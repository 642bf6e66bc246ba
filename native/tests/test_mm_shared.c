/*
 * Shared mappings of files: stores reach the file and everybody else at once, growth is followed, and nothing ever becomes a
 * private copy. Both modes.
 */
#define _GNU_SOURCE
#include "mm_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "t.h"

#define BASE   0x40000000ull
#define RW     (AKVM_READ | AKVM_WRITE)
#define SHARED (RW | AKVM_SHARED)

static struct world world;
static struct akvm_space *space;
static struct akvm_file *file;
static bool guest_edits;
static int fd;

static void begin(uint64_t length, uint64_t bytes)
{
	world_open(&world, 16 << 20, 4, guest_edits);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
	fd = world_file(length);
	T_EQUAL(akvm__file_open(world.mm, fd, true, bytes, &file), 0);
}

static void end(void)
{
	world_leave(&world.cpus[0]);
	akvm_file_close(file);
	close(fd);
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static int touch(struct akvm_space *where, uint64_t address, uint32_t access, uint8_t *byte)
{
	uint64_t done;

	return world_access(&world, &world.cpus[0], where, address, byte, 1, access, &done);
}

static void expect(struct akvm_space *where, uint64_t address, uint8_t wanted)
{
	uint8_t byte = (uint8_t)~wanted;

	T_EQUAL(touch(where, address, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, wanted);
	T_EQUAL(akvm_space_read(where, address, &byte, 1), 1);
	T_EQUAL(byte, wanted);
}

static void put(struct akvm_space *where, uint64_t address, uint8_t byte)
{
	T_EQUAL(touch(where, address, AKVM_WRITE, &byte), AKVM_FAULT_NONE);
}

static uint8_t in_file(uint64_t offset)
{
	uint8_t byte;

	T_EQUAL(pread(fd, &byte, 1, (off_t)offset), 1);
	return byte;
}

static uint64_t length_now(void)
{
	return (uint64_t)lseek(fd, 0, SEEK_END);
}

static void stores_reach_everybody(void)
{
	struct akvm_space *other;
	struct akvm_region region;
	uint64_t entry;

	begin(4 * AKVM__PAGE, 0);
	T_EQUAL(akvm__space_create(world.mm, &other), 0);
	T_EQUAL(akvm_space_map(space, BASE, 4 * AKVM__PAGE, SHARED, file, 0), 0);
	T_EQUAL(akvm_space_map(other, BASE, 2 * AKVM__PAGE, SHARED, file, AKVM__PAGE), 0);
	T_EQUAL(akvm_space_map(other, 2 * BASE, 4 * AKVM__PAGE, RW, file, 0), 0);
	expect(other, 2 * BASE + AKVM__PAGE + 5, world_file_byte(AKVM__PAGE + 5));
	expect(space, BASE + AKVM__PAGE + 5, world_file_byte(AKVM__PAGE + 5));
	/* Writable straight away, with its neighbours, and nobody's memory. */
	entry = world_walk(&world, space, BASE + 2 * AKVM__PAGE);
	T_CHECK(entry & AKVM__ENTRY_WRITE && entry & AKVM__ENTRY_DIRTY && akvm__entry_gpa(entry) >= AKVM_GPA_FILES);
	put(space, BASE + AKVM__PAGE + 5, 0xa5);
	T_EQUAL(in_file(AKVM__PAGE + 5), 0xa5);
	expect(other, BASE + 5, 0xa5);
	expect(other, 2 * BASE + AKVM__PAGE + 5, 0xa5);
	T_EQUAL(akvm_space_write(other, BASE + 6, "xy", 2, false), 2);
	expect(space, BASE + AKVM__PAGE + 7, 'y');
	T_EQUAL(pwrite(fd, "z", 1, AKVM__PAGE + 7), 1);
	expect(space, BASE + AKVM__PAGE + 7, 'z');
	T_EQUAL(akvm_space_resident(space), 0);
	/* A private view beside it copies as ever, and then has its own. */
	put(other, 2 * BASE + AKVM__PAGE + 5, 0x11);
	T_EQUAL(in_file(AKVM__PAGE + 5), 0xa5);
	expect(space, BASE + AKVM__PAGE + 5, 0xa5);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_CHECK(region.access == SHARED && region.file == file->number);
	/* Neighbours of another kind stay apart. */
	T_EQUAL(akvm_space_map(space, BASE + 4 * AKVM__PAGE, AKVM__PAGE, RW, file, 4 * AKVM__PAGE), 0);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_EQUAL(region.end, BASE + 4 * AKVM__PAGE);
	/* Discarding leaves what is shared. */
	T_EQUAL(akvm_space_discard(space, BASE, 5 * AKVM__PAGE), 0);
	expect(space, BASE + AKVM__PAGE + 5, 0xa5);
	T_EQUAL(akvm_space_destroy(other), 0);
	end();
}

static void two_ways_to_open(void)
{
	struct akvm_file *reader, *again;
	struct akvm_region region;
	int other_fd;
	char path[64];

	begin(AKVM__PAGE, 0);
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &reader), 0);
	T_CHECK(reader != file && reader->number == file->number);
	T_EQUAL(akvm__file_open(world.mm, fd, true, 0, &again), 0);
	T_CHECK(again == file);
	T_CHECK(world.slots[reader->slot].read_only && !world.slots[file->slot].read_only);
	akvm_file_close(again);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, SHARED, reader, 0), -EACCES);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, AKVM_READ | AKVM_SHARED, reader, 0), 0);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, RW), -EACCES);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, AKVM_READ | AKVM_SHARED), -EINVAL);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_EQUAL(region.access, AKVM_READ | AKVM_SHARED);
	/* No force reaches what others share. */
	T_EQUAL(akvm_space_write(space, BASE, "x", 1, true), -EFAULT);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, SHARED, NULL, 0), -EINVAL);
	akvm_file_close(reader);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (int flags = 0; flags < 3; flags++) {
		static const int wrong[] = { O_RDONLY, O_WRONLY, O_RDWR | O_APPEND };

		other_fd = open(path, wrong[flags] | O_CLOEXEC);
		T_CHECK(other_fd >= 0);
		T_EQUAL(akvm__file_open(world.mm, other_fd, true, 0, &again), -EINVAL);
		close(other_fd);
	}
	end();
}

/* Neither a wild wish nor a sparse file costs the host more than a bound. */
static void long_files(void)
{
	struct akvm_file *wild;
	uint8_t byte = 1;

	begin(AKVM__PAGE, UINT64_MAX);
	T_EQUAL(file->gpa_bytes, 1ull << 30);
	T_EQUAL(ftruncate(fd, 1ll << 40), 0);
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &wild), 0);
	T_EQUAL(wild->gpa_bytes, 16ull << 30);
	T_EQUAL(pwrite(fd, "far", 3, 1ll << 39), 3);
	T_EQUAL(akvm_space_map(space, BASE, 2 * AKVM__PAGE, RW, wild, 1ull << 39), 0);
	expect(space, BASE + 2, 'r');
	put(space, BASE + 2, 'x');
	T_EQUAL(in_file((1ull << 39) + 2), 'r');
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, SHARED, file, 1ull << 39), 0);
	T_EQUAL(touch(space, BASE, AKVM_WRITE, &byte), AKVM_FAULT_BUS);
	T_EQUAL(akvm_space_unmap(space, BASE, 2 * AKVM__PAGE), 0);
	akvm_file_close(wild);
	end();
}

static void mappings_are_extended(void)
{
	struct akvm_region region;

	begin(8 * AKVM__PAGE, 0);
	T_EQUAL(akvm_space_map(space, BASE, 2 * AKVM__PAGE, SHARED, file, AKVM__PAGE), 0);
	T_EQUAL(akvm_file_references(file), 2);
	T_EQUAL(akvm_space_extend(space, BASE + 2 * AKVM__PAGE, 2 * AKVM__PAGE), 0);
	T_EQUAL(akvm_file_references(file), 2);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_CHECK(region.start == BASE && region.end == BASE + 4 * AKVM__PAGE && region.access == SHARED);
	put(space, BASE + 3 * AKVM__PAGE, 0x77);
	T_EQUAL(in_file(4 * AKVM__PAGE), 0x77);
	/* Not from the middle, not from nothing, not over another, not half a page. */
	T_EQUAL(akvm_space_extend(space, BASE + 2 * AKVM__PAGE, AKVM__PAGE), -EFAULT);
	T_EQUAL(akvm_space_extend(space, 2 * BASE, AKVM__PAGE), -EFAULT);
	T_EQUAL(akvm_space_extend(space, BASE + 4 * AKVM__PAGE, 0), -EINVAL);
	T_EQUAL(akvm_space_extend(space, BASE + 4 * AKVM__PAGE, 1), -EINVAL);
	T_EQUAL(akvm_space_map(space, BASE + 5 * AKVM__PAGE, AKVM__PAGE, SHARED, file, 6 * AKVM__PAGE), 0);
	T_EQUAL(akvm_file_references(file), 3);
	T_EQUAL(akvm_space_extend(space, BASE + 4 * AKVM__PAGE, 2 * AKVM__PAGE), -EINVAL);
	/* What fills the gap joins both. */
	T_EQUAL(akvm_space_extend(space, BASE + 4 * AKVM__PAGE, AKVM__PAGE), 0);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_EQUAL(region.end, BASE + 6 * AKVM__PAGE);
	T_EQUAL(akvm_file_references(file), 2);
	T_EQUAL(akvm_file_mappings(file), 1);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, SHARED, file, (uint64_t)INT64_MAX - 8191), 0);
	T_EQUAL(akvm_space_unmap(space, BASE + AKVM__PAGE, AKVM__PAGE), 0);
	T_EQUAL(akvm_space_extend(space, BASE + AKVM__PAGE, AKVM__PAGE), -EINVAL);
	end();
}

/* Counted as they come and go: split, joined, forked, moved, and with their space, whatever vCPUs have seen of it. */
static void mappings_are_counted(void)
{
	struct akvm_space *child;
	struct akvm_file *reader;
	struct akvm_region region;
	uint32_t number;

	begin(8 * AKVM__PAGE, 0);
	T_EQUAL(akvm_file_mappings(file), 0);
	T_EQUAL(akvm_space_map(space, BASE, 3 * AKVM__PAGE, SHARED, file, 0), 0);
	T_EQUAL(akvm_file_mappings(file), 1);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	number = region.file;
	T_EQUAL(akvm_space_protect(space, BASE + AKVM__PAGE, AKVM__PAGE, AKVM_READ), 0);
	T_EQUAL(akvm_file_mappings(file), 3);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(akvm_file_mappings(file), 6);
	T_EQUAL(akvm_space_protect(space, BASE + AKVM__PAGE, AKVM__PAGE, SHARED & ~(uint32_t)AKVM_SHARED), 0);
	T_EQUAL(akvm_file_mappings(file), 4);
	T_EQUAL(akvm_space_destroy(child), 0);
	T_EQUAL(akvm_file_mappings(file), 1);
	T_EQUAL(akvm_space_move(space, BASE, 2 * BASE, 3 * AKVM__PAGE), 0);
	T_EQUAL(akvm_file_mappings(file), 1);
	T_EQUAL(akvm_space_mapped(space, BASE, 3 * AKVM__PAGE), 0);
	T_EQUAL(akvm_space_unmap(space, 2 * BASE + AKVM__PAGE, AKVM__PAGE), 0);
	T_EQUAL(akvm_file_mappings(file), 2);
	T_EQUAL(akvm_space_mapped(space, 2 * BASE, 3 * AKVM__PAGE), 2 * AKVM__PAGE);
	T_EQUAL(akvm_space_mapped(space, 2 * BASE + 1, AKVM__PAGE), AKVM__PAGE - 1);
	T_EQUAL(akvm_space_mapped(space, 0, UINT64_MAX), 2 * AKVM__PAGE);
	T_EQUAL(akvm_space_mapped(space, 1, UINT64_MAX), 2 * AKVM__PAGE);
	/* Objects of one inode have one number, however they were opened. */
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &reader), 0);
	T_CHECK(reader != file);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, AKVM_READ | AKVM_SHARED, reader, 0), 0);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_EQUAL(region.file, number);
	T_EQUAL(akvm_file_mappings(reader), 1);
	T_EQUAL(akvm_space_unmap(space, BASE, 4 * BASE), 0);
	T_EQUAL(akvm_file_mappings(file), 0);
	T_EQUAL(akvm_file_mappings(reader), 0);
	akvm_file_close(reader);
	end();
}

/* Programs come back: their files keep slot and descriptor for a while, unless they were deleted or others need the place. */
static void small_files_stay_for_a_while(void)
{
	struct akvm_file *named, *again;
	char path[] = "named-file-XXXXXX"; /* in the working directory */
	int named_fd = mkstemp(path);
	uint32_t slot;

	T_CHECK(named_fd >= 0);
	T_EQUAL(ftruncate(named_fd, AKVM__PAGE), 0);
	begin(AKVM__PAGE, 0);
	T_EQUAL(akvm__file_open(world.mm, named_fd, false, 0, &named), 0);
	T_EQUAL(akvm__files_slots(&world.mm->files), 2);
	slot = named->slot;
	akvm_file_close(named);
	T_CHECK(world.slots[slot].bytes != 0);
	T_EQUAL(akvm__files_slots(&world.mm->files), 1);
	T_EQUAL(akvm__file_open(world.mm, named_fd, false, 0, &again), 0);
	T_CHECK(again == named && again->slot == slot && akvm_file_references(again) == 1);
	T_EQUAL(akvm__files_slots(&world.mm->files), 2);
	akvm_file_close(again);
	/* The host has no more slots for another: the idle one makes room, or the failure shows. */
	world.slot_error = -ENOSPC;
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &again), -ENOSPC);
	world.slot_error = 0;
	T_EQUAL(akvm__file_open(world.mm, named_fd, false, 0, &again), 0);
	T_EQUAL(unlink(path), 0);
	slot = again->slot;
	akvm_file_close(again);
	T_EQUAL(world.slots[slot].bytes, 0);
	close(named_fd);
	end();
}

static void rights_change(void)
{
	uint8_t byte = 1;

	begin(2 * AKVM__PAGE, 0);
	T_EQUAL(akvm_space_map(space, BASE, 2 * AKVM__PAGE, SHARED, file, 0), 0);
	put(space, BASE, 1);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, AKVM_READ), 0);
	T_EQUAL(touch(space, BASE, AKVM_WRITE, &byte), AKVM_FAULT_ACCESS);
	T_EQUAL(akvm_space_write(space, BASE, "x", 1, false), -EFAULT);
	expect(space, BASE, 1);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, RW), 0);
	put(space, BASE, 2);
	T_EQUAL(in_file(0), 2);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, 0), 0);
	T_EQUAL(touch(space, BASE, AKVM_READ, &byte), AKVM_FAULT_ACCESS);
	T_EQUAL(akvm_space_read(space, BASE, &byte, 1), -EFAULT);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, RW), 0);
	T_EQUAL(akvm_space_write(space, BASE, "w", 1, false), 1);
	T_EQUAL(in_file(0), 'w');
	T_EQUAL(akvm_space_resident(space), 0);
	T_EQUAL(space->regions.count, 1);
	end();
}

static void children_share(void)
{
	struct akvm_space *child;

	begin(2 * AKVM__PAGE, 0);
	T_EQUAL(akvm_space_map(space, BASE, 2 * AKVM__PAGE, SHARED, file, 0), 0);
	put(space, BASE, 1);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	put(child, BASE, 2);
	expect(space, BASE, 2);
	put(space, BASE + 1, 3);
	expect(child, BASE + 1, 3);
	T_EQUAL(akvm_space_unmap(space, BASE, AKVM__PAGE), 0);
	expect(child, BASE, 2);
	T_EQUAL(akvm_space_resident(child), 0);
	T_EQUAL(akvm_space_destroy(child), 0);
	end();
}

static void past_the_end(void)
{
	uint8_t byte = 7;

	begin(AKVM__PAGE + 10, 0);
	T_EQUAL(akvm_space_map(space, BASE, 8 * AKVM__PAGE, SHARED, file, 0), 0);
	T_EQUAL(touch(space, BASE + 2 * AKVM__PAGE, AKVM_READ, &byte), AKVM_FAULT_BUS);
	T_EQUAL(touch(space, BASE + 2 * AKVM__PAGE, AKVM_WRITE, &byte), AKVM_FAULT_BUS);
	T_EQUAL(akvm_space_write(space, BASE + 2 * AKVM__PAGE, "x", 1, false), -EFAULT);
	/* The last page is there to its end, and the file no longer than it was. */
	T_EQUAL(akvm_space_write(space, BASE + AKVM__PAGE + 8, "abcd", 4, false), 4);
	T_EQUAL(akvm_space_write(space, BASE + AKVM__PAGE + 100, "abcd", 4, false), 4);
	T_EQUAL(length_now(), AKVM__PAGE + 10);
	T_EQUAL(in_file(AKVM__PAGE + 9), 'b');
	/* Grown inside the slot: there at once, with nobody asking again. */
	T_EQUAL(ftruncate(fd, 5 * AKVM__PAGE), 0);
	put(space, BASE + 4 * AKVM__PAGE, 9);
	T_EQUAL(in_file(4 * AKVM__PAGE), 9);
	/* And cut again. */
	world_leave(&world.cpus[0]);
	T_EQUAL(ftruncate(fd, AKVM__PAGE), 0);
	T_CHECK(akvm__space_trim(space) > 0);
	T_EQUAL(touch(space, BASE + 4 * AKVM__PAGE, AKVM_READ, &byte), AKVM_FAULT_BUS);
	expect(space, BASE, world_file_byte(0));
	T_EQUAL(akvm_space_resident(space), 0);
	end();
}

/* Beyond its slot: the region goes over to a larger object, and every byte stays the file's. */
static void growth_is_followed(void)
{
	const uint64_t far = 3 * AKVM__HUGE_PAGE + 5 * AKVM__PAGE;
	struct akvm_space *other;
	struct akvm_file *larger;
	struct akvm_region region;
	uint32_t number;
	uint8_t byte = 1;

	begin(0, 0);
	T_EQUAL(file->pages, 0);
	number = file->number;
	T_EQUAL(akvm__space_create(world.mm, &other), 0);
	T_EQUAL(akvm_space_map(space, BASE, 4 * AKVM__HUGE_PAGE, SHARED, file, 0), 0);
	T_EQUAL(akvm_space_map(other, BASE, 4 * AKVM__HUGE_PAGE, SHARED, file, 0), 0);
	T_EQUAL(touch(space, BASE, AKVM_READ, &byte), AKVM_FAULT_BUS);
	T_EQUAL(ftruncate(fd, AKVM__PAGE), 0);
	put(space, BASE, 1);
	T_EQUAL(ftruncate(fd, (off_t)(far + AKVM__PAGE)), 0);
	/* Nothing to be had: what cannot be shown is a bus error and never a copy; then it works. */
	world.slot_error = -ENOSPC;
	T_EQUAL(touch(space, BASE + far, AKVM_WRITE, &byte), AKVM_FAULT_BUS);
	expect(space, BASE, 1);
	world.slot_error = 0;
	put(space, BASE + far, 2);
	T_EQUAL(akvm_space_write(other, BASE + far + 1, "o", 1, false), 1);
	expect(space, BASE + far + 1, 'o');
	put(other, BASE, 3);
	expect(space, BASE, 3);
	T_EQUAL(in_file(far), 2);
	T_EQUAL(akvm_space_resident(space) + akvm_space_resident(other), 0);
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_EQUAL(region.file, number);
	/* Who opens it now gets the one that is large enough; what was expected is ready. */
	T_EQUAL(akvm__file_open(world.mm, fd, true, 0, &larger), 0);
	T_CHECK(larger != file && larger->number == number && larger->pages * AKVM__PAGE == 4 * AKVM__HUGE_PAGE);
	akvm_file_close(file);
	file = larger;
	T_EQUAL(akvm__file_open(world.mm, fd, true, 9 * AKVM__HUGE_PAGE + 1, &larger), 0);
	T_EQUAL(larger->pages * AKVM__PAGE, 10 * AKVM__HUGE_PAGE);
	akvm_file_close(larger);
	T_EQUAL(akvm_space_destroy(other), 0);
	end();
}

int main(void)
{
	for (int mode = 0; mode < 2; mode++) {
		guest_edits = mode;
		T_RUN(stores_reach_everybody);
		T_RUN(two_ways_to_open);
		T_RUN(long_files);
		T_RUN(mappings_are_extended);
		T_RUN(mappings_are_counted);
		T_RUN(small_files_stay_for_a_while);
		T_RUN(rights_change);
		T_RUN(children_share);
		T_RUN(past_the_end);
		T_RUN(growth_is_followed);
	}
	return 0;
}
