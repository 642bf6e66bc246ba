/*
 * Pages that change their address, their neighbours that do not, and moves that are refused. Both modes.
 */
#include "mm_world.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "t.h"

#define BASE 0x40000000ull
#define AWAY 0x70000000ull
#define HUGE AKVM__HUGE_PAGE
#define RW   (AKVM_READ | AKVM_WRITE)

static struct world world;
static struct akvm_space *space;
static bool guest_edits;

static void begin(void)
{
	world_open(&world, 16 << 20, 1, guest_edits);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
}

static void end(void)
{
	world_leave(&world.cpus[0]);
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static int touch(uint64_t address, uint32_t access, uint8_t *byte)
{
	uint64_t done;

	return world_access(&world, &world.cpus[0], space, address, byte, 1, access, &done);
}

static void put(uint64_t address, uint8_t byte)
{
	T_EQUAL(touch(address, AKVM_WRITE, &byte), AKVM_FAULT_NONE);
}

static void expect(uint64_t address, uint8_t wanted)
{
	uint8_t byte = (uint8_t)~wanted;

	T_EQUAL(touch(address, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, wanted);
}

static void expect_fault(uint64_t address, int fault)
{
	uint8_t byte;

	T_EQUAL(touch(address, AKVM_READ, &byte), fault);
}

static void wrong_moves(void)
{
	begin();
	T_EQUAL(akvm_space_map(space, BASE, 4 * AKVM__PAGE, RW, NULL, 0), 0);
	put(BASE, 1);
	T_EQUAL(akvm_space_move(space, BASE + 1, AWAY, AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, AWAY + 1, AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, AWAY, 1), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, AWAY, 0), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, BASE, AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, BASE + AKVM__PAGE, 2 * AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE + AKVM__PAGE, BASE, 2 * AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, AKVM_USER_MAX - AKVM__PAGE, 2 * AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, 0, AKVM__PAGE), -EINVAL);
	T_EQUAL(akvm_space_move(space, BASE, AWAY, UINT64_MAX & ~0xfffull), -EINVAL);
	/* The whole source, or nothing. */
	T_EQUAL(akvm_space_move(space, BASE, AWAY, 5 * AKVM__PAGE), -EFAULT);
	T_EQUAL(akvm_space_move(space, AWAY, BASE, AKVM__PAGE), -EFAULT);
	expect(BASE, 1);
	expect_fault(AWAY, AKVM_FAULT_UNMAPPED);
	end();
}

/* The same frame at another address, and what was there is gone; regions are cut and joined. */
static void small_pages(void)
{
	struct akvm_region region;
	uint64_t before;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 6 * AKVM__PAGE, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_map(space, AWAY, 4 * AKVM__PAGE, RW, NULL, 0), 0);
	for (unsigned page = 0; page < 6; page++)
		put(BASE + page * AKVM__PAGE, (uint8_t)(1 + page));
	for (unsigned page = 0; page < 4; page++)
		put(AWAY + page * AKVM__PAGE, (uint8_t)(101 + page));
	T_EQUAL(akvm_space_protect(space, BASE + 2 * AKVM__PAGE, AKVM__PAGE, 0), 0);
	before = akvm__entry_gpa(world_walk(&world, space, BASE + AKVM__PAGE));
	world_enter(&world, &world.cpus[1], space);
	T_EQUAL(akvm_space_move(space, BASE + AKVM__PAGE, AWAY + AKVM__PAGE, 3 * AKVM__PAGE), 0);
	T_CHECK(world.cpus[1].interrupted);
	expect(AWAY + AKVM__PAGE, 2);
	T_EQUAL(akvm__entry_gpa(world_walk(&world, space, AWAY + AKVM__PAGE)), before);
	expect_fault(AWAY + 2 * AKVM__PAGE, AKVM_FAULT_ACCESS);
	expect(AWAY + 3 * AKVM__PAGE, 4);
	expect(AWAY, 101);
	expect(BASE, 1);
	expect(BASE + 4 * AKVM__PAGE, 5);
	for (unsigned page = 1; page < 4; page++)
		expect_fault(BASE + page * AKVM__PAGE, AKVM_FAULT_UNMAPPED);
	T_EQUAL(akvm_space_resident(space), 3 + 4);
	/* What was parked is still there. */
	T_EQUAL(akvm_space_protect(space, AWAY + 2 * AKVM__PAGE, AKVM__PAGE, RW), 0);
	expect(AWAY + 2 * AKVM__PAGE, 3);
	T_EQUAL(akvm_space_region(space, AWAY, &region), 0);
	T_CHECK(region.start == AWAY && region.end == AWAY + 4 * AKVM__PAGE);
	/* Inside one table, next to each other, and back. */
	T_EQUAL(akvm_space_move(space, AWAY, AWAY + 4 * AKVM__PAGE, 4 * AKVM__PAGE), 0);
	expect(AWAY + 4 * AKVM__PAGE, 101);
	T_EQUAL(akvm_space_move(space, AWAY + 4 * AKVM__PAGE, AWAY + AKVM__PAGE, 3 * AKVM__PAGE), 0);
	expect(AWAY + AKVM__PAGE, 101);
	expect(AWAY + 7 * AKVM__PAGE, 4);
	end();
}

static void large_pages(void)
{
	struct akvm_memory_status status;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 2 * HUGE, RW, NULL, 0), 0);
	put(BASE, 1);
	put(BASE + HUGE + 0x5000, 2);
	/* Aligned: whole, in place of small ones and of nothing. */
	T_EQUAL(akvm_space_map(space, AWAY, 2 * AKVM__PAGE, RW, NULL, 0), 0);
	put(AWAY + AKVM__PAGE, 3);
	T_EQUAL(akvm_space_move(space, BASE, AWAY, 2 * HUGE), 0);
	akvm__mm_status(world.mm, &status);
	T_EQUAL(status.huge_splits, 0);
	expect(AWAY, 1);
	expect(AWAY + AKVM__PAGE, 0);
	expect(AWAY + HUGE + 0x5000, 2);
	T_EQUAL(akvm_space_resident(space), 1024);
	/* Not aligned: cut up, in place of a large one too. */
	T_EQUAL(akvm_space_map(space, BASE, 2 * HUGE, RW, NULL, 0), 0);
	put(BASE, 9);
	T_EQUAL(akvm_space_move(space, AWAY, BASE + 0x3000, HUGE + 0x6000), 0);
	akvm__mm_status(world.mm, &status);
	T_CHECK(status.huge_splits > 0);
	expect(BASE, 9);
	expect(BASE + 0x3000, 1);
	expect(BASE + 0x3000 + HUGE + 0x5000, 2);
	expect_fault(AWAY, AKVM_FAULT_UNMAPPED);
	expect(AWAY + HUGE + 0x6000, 0);
	end();
}

static void files_and_copies(void)
{
	int fd = world_file(4 * AKVM__PAGE);
	struct akvm_file *file, *writable;
	struct akvm_region region;
	struct akvm_space *child;
	uint8_t byte;

	begin();
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm__file_open(world.mm, fd, true, 0, &writable), 0);
	T_EQUAL(akvm_space_map(space, BASE, 4 * AKVM__PAGE, RW, file, 0), 0);
	T_EQUAL(akvm_space_map(space, BASE + 4 * AKVM__PAGE, AKVM__PAGE, RW | AKVM_SHARED, writable, 3 * AKVM__PAGE), 0);
	expect(BASE + AKVM__PAGE, world_file_byte(AKVM__PAGE));
	put(BASE + 2 * AKVM__PAGE, 7);
	put(BASE + 4 * AKVM__PAGE + 1, 8);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(akvm_space_move(space, BASE + AKVM__PAGE, AWAY, 4 * AKVM__PAGE), 0);
	T_EQUAL(akvm_space_region(space, AWAY, &region), 0);
	T_CHECK(region.offset == AKVM__PAGE && region.file == file->number && region.end == AWAY + 3 * AKVM__PAGE);
	T_EQUAL(akvm_space_region(space, region.end, &region), 0);
	T_CHECK(region.offset == 3 * AKVM__PAGE && region.access == (RW | AKVM_SHARED));
	T_EQUAL(akvm_space_region(space, BASE, &region), 0);
	T_EQUAL(region.end, BASE + AKVM__PAGE);
	expect(AWAY, world_file_byte(AKVM__PAGE));
	expect(AWAY + 2 * AKVM__PAGE, world_file_byte(3 * AKVM__PAGE));
	put(AWAY + AKVM__PAGE, 9);
	put(AWAY + 3 * AKVM__PAGE + 1, 10);
	T_EQUAL(pread(fd, &byte, 1, 3 * AKVM__PAGE + 1), 1);
	T_EQUAL(byte, 10);
	/* The child's view is where it was. */
	T_EQUAL(akvm_space_read(child, BASE + 2 * AKVM__PAGE, &byte, 1), 1);
	T_EQUAL(byte, 7);
	akvm_file_close(file);
	akvm_file_close(writable);
	T_EQUAL(akvm_space_destroy(child), 0);
	close(fd);
	end();
}

/* No table, no room in the limit: all as before, and nothing lost. */
static void refused(void)
{
	struct akvm_memory_status before, after;
	uint32_t unused;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 4 * HUGE, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_map(space, AWAY + 0x1000, AKVM__PAGE, RW, NULL, 0), 0);
	for (unsigned i = 0; i < 4; i++)
		put(BASE + i * HUGE, (uint8_t)(1 + i));
	put(AWAY + 0x1000, 5);
	akvm__mm_status(world.mm, &before);
	unused = world.mm->tables.next_unused;
	world.mm->tables.next_unused = world.mm->tables.total - 4;
	T_EQUAL(akvm_space_move(space, BASE, AWAY + 0x1000, 4 * HUGE), -ENOMEM);
	world.mm->tables.next_unused = unused;
	akvm_space_limit(space, akvm_space_resident(space));
	T_EQUAL(akvm_space_move(space, BASE, 2 * AWAY, 4 * HUGE), -ENOMEM);
	akvm_space_limit(space, 0);
	for (unsigned i = 0; i < 4; i++)
		expect(BASE + i * HUGE, (uint8_t)(1 + i));
	expect(AWAY + 0x1000, 5);
	expect_fault(2 * AWAY, AKVM_FAULT_UNMAPPED);
	akvm__mm_status(world.mm, &after);
	T_EQUAL(after.frames_used, before.frames_used);
	end();
}

static void many_regions(void)
{
	enum { REGIONS = 5000 };
	struct akvm_region region;

	begin();
	for (unsigned i = 0; i < REGIONS; i++)
		T_EQUAL(akvm_space_map(space, BASE + i * AKVM__PAGE, AKVM__PAGE, i & 1 ? RW : AKVM_READ, NULL, 0), 0);
	T_EQUAL(akvm_space_move(space, BASE + AKVM__PAGE, AWAY, (REGIONS - 2) * AKVM__PAGE), 0);
	T_EQUAL(space->regions.count, REGIONS);
	for (unsigned i = 1; i < REGIONS - 1; i++) {
		uint64_t address = AWAY + (i - 1) * AKVM__PAGE;

		T_EQUAL(akvm_space_region(space, address, &region), 0);
		T_CHECK(region.start == address && region.access == (i & 1 ? RW : AKVM_READ));
	}
	/* Downwards, past others. */
	T_EQUAL(akvm_space_move(space, AWAY, BASE + AKVM__PAGE, (REGIONS - 2) * AKVM__PAGE), 0);
	T_EQUAL(akvm_space_protect(space, BASE, REGIONS * AKVM__PAGE, RW), 0);
	T_EQUAL(space->regions.count, 1);
	end();
}

/* ---------------------------------------------------------------- single words, and what is there */

static void words(void)
{
	int fd = world_file(2 * AKVM__PAGE);
	struct akvm_file *file;
	struct akvm_space *child;
	uint32_t old = 0, word = 17;

	begin();
	T_EQUAL(akvm__file_open(world.mm, fd, true, 0, &file), 0);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_map(space, BASE + AKVM__PAGE, AKVM__PAGE, AKVM_READ, NULL, 0), 0);
	T_EQUAL(akvm_space_map(space, AWAY, 4 * AKVM__PAGE, RW | AKVM_SHARED, file, 0), 0);
	T_EQUAL(akvm_space_map(space, 2 * AWAY, AKVM__PAGE, RW, file, 0), 0);
	T_EQUAL(pwrite(fd, &word, sizeof(word), 4), sizeof(word));
	for (unsigned i = 0; i < 3; i++) {
		static const struct {
			uint64_t address;
			uint32_t before;
		} kinds[] = { { BASE, 0 }, { AWAY + 4, 17 }, { 2 * AWAY + 4, 17 } };

		T_EQUAL(akvm_space_compare_exchange32(space, kinds[i].address, 99, 5, &old), 0);
		T_EQUAL(old, i < 2 ? kinds[i].before : 5);
		T_EQUAL(akvm_space_compare_exchange32(space, kinds[i].address, old, 5, &old), 0);
		T_EQUAL(old, i < 2 ? kinds[i].before : 5);
		expect(kinds[i].address, 5);
	}
	T_EQUAL(pread(fd, &word, sizeof(word), 4), sizeof(word));
	T_EQUAL(word, 5);
	/* A shared frame is copied first. */
	T_EQUAL(akvm_space_fork(space, &child), 0);
	world_leave(&world.cpus[0]);
	T_EQUAL(akvm_space_compare_exchange32(child, BASE, 5, 6, &old), 0);
	T_EQUAL(old, 5);
	expect(BASE, 5);
	T_EQUAL(akvm_space_destroy(child), 0);
	T_EQUAL(akvm_space_compare_exchange32(space, BASE + 2, 0, 1, &old), -EINVAL);
	T_EQUAL(akvm_space_compare_exchange32(space, BASE + AKVM__PAGE, 0, 1, &old), -EFAULT);
	T_EQUAL(akvm_space_compare_exchange32(space, BASE + 2 * AKVM__PAGE, 0, 1, &old), -EFAULT);
	/* Past the end of the file, and where it was cut short after the page was mapped. */
	T_EQUAL(akvm_space_compare_exchange32(space, AWAY + 3 * AKVM__PAGE, 0, 1, &old), -EFAULT);
	T_EQUAL(akvm_space_compare_exchange32(space, AWAY + AKVM__PAGE, 1, 1, &old), 0);
	T_EQUAL(ftruncate(fd, AKVM__PAGE), 0);
	T_EQUAL(akvm_space_compare_exchange32(space, AWAY + AKVM__PAGE, 0, 1, &old), -EFAULT);
	akvm_space_limit(space, 1);
	T_EQUAL(akvm_space_discard(space, BASE, AKVM__PAGE), 0);
	T_EQUAL(akvm_space_compare_exchange32(space, BASE, 0, 1, &old), -ENOMEM);
	akvm_file_close(file);
	close(fd);
	end();
}

static void presence(void)
{
	uint8_t seen[8];

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 6 * AKVM__PAGE, RW, NULL, 0), 0);
	put(BASE + AKVM__PAGE, 1);
	put(BASE + 4 * AKVM__PAGE, 1);
	T_EQUAL(akvm_space_protect(space, BASE + 4 * AKVM__PAGE, AKVM__PAGE, 0), 0);
	memset(seen, 9, sizeof(seen));
	T_EQUAL(akvm_space_present(space, BASE, 6, seen), 0);
	T_CHECK(memcmp(seen, (const uint8_t[]){ 0, 1, 0, 0, 1, 0, 9, 9 }, sizeof(seen)) == 0);
	T_EQUAL(akvm_space_present(space, BASE, 7, seen), -ENOMEM);
	T_EQUAL(akvm_space_present(space, BASE + 1, 1, seen), -EINVAL);
	T_EQUAL(akvm_space_present(space, BASE, UINT64_MAX, seen), -EINVAL);
	T_EQUAL(akvm_space_present(space, BASE, 1ull << 52, seen), -EINVAL);
	T_EQUAL(akvm_space_present(space, BASE, 0, seen), 0);
	end();
}

int main(void)
{
	for (int mode = 0; mode < 2; mode++) {
		guest_edits = mode;
		T_RUN(wrong_moves);
		T_RUN(small_pages);
		T_RUN(large_pages);
		T_RUN(files_and_copies);
		T_RUN(refused);
		T_RUN(many_regions);
		T_RUN(words);
		T_RUN(presence);
	}
	return 0;
}
