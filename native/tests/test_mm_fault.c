/*
 * Page faults: which are served, which are the guest's, and what files do under them. Both modes.
 */
#define _GNU_SOURCE
#include "mm_world.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "t.h"

#define BASE 0x40000000ull
#define RW   (AKVM_READ | AKVM_WRITE)

static struct world world;
static struct akvm_space *space;
static bool guest_edits;

static void begin(uint64_t memory, uint32_t around)
{
	world_open(&world, memory, around, guest_edits);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
}

static void end(void)
{
	/* As a machine would: no context is in a space that is destroyed. */
	world_leave(&world.cpus[0]);
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static uint64_t frames_used(void)
{
	struct akvm_memory_status status;

	akvm__mm_status(world.mm, &status);
	return status.frames_used;
}

static int touch(struct akvm_space *where, uint64_t address, uint32_t access, uint8_t *byte)
{
	uint64_t done;

	return world_access(&world, &world.cpus[0], where, address, byte, 1, access, &done);
}

static void wrong_addresses(void)
{
	static const uint64_t nowhere[] = { 0,
					    0xfff,
					    AKVM_USER_MIN - 1,
					    BASE - 1,
					    BASE + AKVM__PAGE,
					    AKVM_USER_MAX,
					    0x800000000000,
					    0xffff800000000000,
					    AKVM_TABLES_WINDOW,
					    UINT64_MAX };

	begin(4 << 20, 16);
	T_EQUAL(akvm_space_map(space, BASE, AKVM__PAGE, AKVM_READ, NULL, 0), 0);
	for (unsigned i = 0; i < sizeof(nowhere) / sizeof(nowhere[0]); i++)
		for (uint32_t access = 1; access <= 4; access *= 2)
			T_EQUAL(akvm__space_fault(space, nowhere[i], access), AKVM_FAULT_UNMAPPED);
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_WRITE), AKVM_FAULT_ACCESS);
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_EXECUTE), AKVM_FAULT_ACCESS);
	T_EQUAL(akvm__space_fault(space, BASE + 0xfff, AKVM_READ), AKVM_FAULT_NONE);
	/* Again, as after a race: nothing to do. */
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_READ), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), 1);
	end();
}

static void around_the_fault(void)
{
	begin(8 << 20, 16);
	T_EQUAL(akvm_space_map(space, BASE + 0x3000, 0x6000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, BASE + 0x4000, AKVM_READ), AKVM_FAULT_NONE);
	/* The window of eight, clipped to the region's start. */
	T_EQUAL(akvm_space_resident(space), 5);
	T_CHECK(world_walk(&world, space, BASE + 0x7000) && !world_walk(&world, space, BASE + 0x8000));
	end();
}

static void limits(void)
{
	begin(8 << 20, 16);
	/* Ten pages and the three tables above them. */
	akvm_space_limit(space, 13);
	T_EQUAL(akvm_space_map(space, BASE, 0x400000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 8);
	T_EQUAL(akvm__space_fault(space, BASE + 0x10000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 10);
	T_EQUAL(akvm__space_fault(space, BASE + 0x20000, AKVM_WRITE), AKVM_FAULT_LIMIT);
	T_EQUAL(akvm_space_write(space, BASE + 0x20000, "x", 1, false), -ENOMEM);
	T_EQUAL(akvm_space_discard(space, BASE, 0x1000), 0);
	T_EQUAL(akvm__space_fault(space, BASE + 0x20000, AKVM_WRITE), AKVM_FAULT_NONE);
	/* Another gigabyte wants tables of its own. */
	T_EQUAL(akvm_space_map(space, BASE + (1ull << 40), 0x1000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, BASE + (1ull << 40), AKVM_WRITE), AKVM_FAULT_LIMIT);
	akvm_space_limit(space, 0);
	T_EQUAL(akvm__space_fault(space, BASE + 0x200000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 522);
	end();
}

static void budgets(void)
{
	struct akvm_budget *budget;
	struct akvm_space *child, *other;
	uint8_t byte = 1;

	begin(8 << 20, 1);
	T_EQUAL(akvm__mm_budget_create(world.mm, 20, &budget), 0);
	T_EQUAL(akvm_space_budget(space, budget), 0);
	T_EQUAL(akvm_space_map(space, BASE, 0x100000, RW, NULL, 0), 0);
	/* A root, three tables, four pages. */
	for (unsigned i = 0; i < 4; i++)
		T_EQUAL(akvm_space_write(space, BASE + i * 0x1000, &byte, 1, false), 1);
	T_EQUAL(akvm_budget_used(budget), 8);
	T_EQUAL(akvm_space_budget(space, NULL), -EBUSY);
	/* The child's share is free, its tables are not. */
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(akvm_budget_used(budget), 12);
	world_apply(&world, space);
	T_EQUAL(akvm_space_write(child, BASE, &byte, 1, false), 1);
	T_EQUAL(akvm_budget_used(budget), 13);
	world_apply(&world, child);
	/* What the parent lets go is the child's, and still charged once. */
	T_EQUAL(akvm_space_discard(space, BASE, 0x4000), 0);
	world_apply(&world, space);
	T_EQUAL(akvm_budget_used(budget), 9);
	T_EQUAL(akvm_budget_charge(budget, 12), -ENOMEM);
	T_EQUAL(akvm_budget_charge(budget, 10), 0);
	T_EQUAL(akvm__space_fault(child, BASE + 0x8000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm__space_fault(child, BASE + 0x9000, AKVM_WRITE), AKVM_FAULT_LIMIT);
	T_EQUAL(akvm_space_write(space, BASE, &byte, 1, false), -ENOMEM);
	/* Another space of the machine has nothing to do with it. */
	T_EQUAL(akvm__space_create(world.mm, &other), 0);
	T_EQUAL(akvm_space_map(other, BASE, 0x1000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(other, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_destroy(other), 0);
	akvm_budget_release(budget, 10);
	T_EQUAL(akvm_space_destroy(child), 0);
	world_reap(&world);
	T_EQUAL(akvm_budget_used(budget), 1);
	akvm_budget_destroy(budget);
	/* Its last space keeps it. */
	T_EQUAL(akvm_space_map(space, BASE, 0x100000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, BASE, &byte, 1, false), 1);
	end();
}

static void a_budget_and_large_pages(void)
{
	struct akvm_budget *budget;
	struct akvm_space *child;

	begin(16 << 20, 8);
	T_EQUAL(akvm__mm_budget_create(world.mm, 2 + 3 + 512 + 3 + 9, &budget), 0);
	T_EQUAL(akvm_space_budget(space, budget), 0);
	T_EQUAL(akvm_space_map(space, BASE, 0x200000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_budget_used(budget), 1 + 2 + 512);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(akvm_budget_used(budget), 1 + 2 + 512 + 1 + 2);
	world_apply(&world, space);
	/* No room for a copy of the whole: one page of it is. */
	T_EQUAL(akvm__space_fault(child, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_CHECK(!(world_walk(&world, child, BASE) & AKVM__ENTRY_HUGE));
	T_EQUAL(akvm_space_unmap(space, BASE, 0x200000), 0);
	world_apply(&world, space);
	T_EQUAL(akvm_space_destroy(child), 0);
	world_reap(&world);
	T_EQUAL(akvm_budget_used(budget), 1);
	/* Another machine's budget is none. */
	budget->budgets = NULL;
	T_EQUAL(akvm_space_budget(space, budget), -EINVAL);
	budget->budgets = &world.mm->budgets;
	akvm_budget_destroy(budget);
	end();
}

/* Data of a program: copied when it is first touched, with its neighbours. */
static void stable_files(void)
{
	struct akvm_region region;
	struct akvm_file *file;
	int fd = world_file(12 * AKVM__PAGE);

	begin(8 << 20, 16);
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000, RW | AKVM_STABLE, NULL, 0), -EINVAL);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000, AKVM_READ | AKVM_SHARED | AKVM_STABLE, file, 0), -EINVAL);
	T_EQUAL(akvm_space_map(space, BASE, 0x8000, AKVM_READ | AKVM_STABLE, file, 0), 0);
	T_EQUAL(akvm_space_map(space, BASE + 0x8000, 0x8000, RW | AKVM_STABLE, file, 0x6000), 0);
	T_EQUAL(akvm_space_region(space, BASE + 0x8000, &region), 0);
	T_CHECK(region.access == RW && region.file == file->number);
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_READ), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 0);
	/* Six pages of the window are in the file. */
	T_EQUAL(akvm__space_fault(space, BASE + 0x9000, AKVM_READ), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 6);
	T_CHECK(world_walk(&world, space, BASE + 0xd000) & AKVM__ENTRY_WRITE && !world_walk(&world, space, BASE + 0xe000));
	T_EQUAL(akvm__space_fault(space, BASE + 0xe000, AKVM_WRITE), AKVM_FAULT_BUS);
	akvm_file_close(file);
	close(fd);
	end();
}

static void no_memory(void)
{
	uint64_t address = BASE;
	int fault;

	begin(4 << 20, 16);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_map(space, BASE + 0x1000000, 0x3000, RW, NULL, 0), 0);
	while ((fault = akvm__space_fault(space, address, AKVM_WRITE)) == AKVM_FAULT_NONE)
		address += 0x200000;
	T_EQUAL(fault, AKVM_FAULT_MEMORY);
	T_EQUAL(akvm_space_resident(space), 1024);
	T_EQUAL(akvm_space_write(space, address, "x", 1, false), -ENOMEM);
	T_EQUAL(akvm_space_unmap(space, BASE, 0x200000), 0);
	world_apply(&world, space);
	T_EQUAL(akvm__space_fault(space, address, AKVM_WRITE), AKVM_FAULT_NONE);
	end();
}

static void copy_on_write(void)
{
	struct akvm_space *child;
	uint8_t one = 1, two = 2, three = 3, byte = 0;

	begin(16 << 20, 16);
	T_EQUAL(akvm_space_map(space, BASE, 0x200000, RW, NULL, 0), 0);
	T_EQUAL(touch(space, BASE + 9, AKVM_WRITE, &one), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(frames_used(), 512);
	T_EQUAL(akvm_space_resident(child), 512);
	T_EQUAL(touch(space, BASE + 9, AKVM_WRITE, &two), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), 1024);
	T_EQUAL(touch(child, BASE + 9, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 1);
	/* The parent's count is gone: the child has the old frames to itself, and copies nothing. */
	T_EQUAL(touch(child, BASE + 9, AKVM_WRITE, &three), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), 1024);
	T_EQUAL(touch(space, BASE + 9, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 2);
	T_EQUAL(akvm_space_destroy(child), 0);
	end();
}

/* A copy of a large page when no whole block is left: one small page of it. */
static void copy_on_write_in_small(void)
{
	struct akvm_space *child;
	uint8_t one = 1, two = 2, byte = 0;

	begin(4 << 20, 1);
	T_EQUAL(akvm_space_map(space, BASE, 0x200000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_map(space, 2 * BASE, 0x1000, RW, NULL, 0), 0);
	T_EQUAL(touch(space, BASE + 0x5009, AKVM_WRITE, &one), AKVM_FAULT_NONE);
	T_EQUAL(touch(space, 2 * BASE, AKVM_WRITE, &one), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_EQUAL(touch(child, BASE + 0x5009, AKVM_WRITE, &two), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), 514);
	T_EQUAL(touch(space, BASE + 0x5009, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 1);
	T_EQUAL(touch(child, BASE + 0x5009, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 2);
	T_EQUAL(akvm_space_destroy(child), 0);
	end();
}

/* What a fork shared is had back for little: a few copies at a time, and what nobody else holds in one go. */
static void copies_around(void)
{
	const uint64_t pages = 32;
	struct akvm_space *child;
	uint8_t byte = 1;

	begin(16 << 20, 16);
	T_EQUAL(akvm_space_map(space, BASE + 0x1000, (pages - 2) * AKVM__PAGE, RW, NULL, 0), 0);
	for (uint64_t page = 1; page < pages - 1; page++)
		T_EQUAL(touch(space, BASE + page * AKVM__PAGE, AKVM_WRITE, &byte), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	/* Nothing is copied of what another vCPU may still write to; then four, clipped to the region. */
	world.unsettled = true;
	T_EQUAL(akvm__space_fault(space, BASE + 0x5000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), 30);
	T_EQUAL(akvm_space_write(space, BASE + 0x5000, "x", 1, false), 1);
	T_EQUAL(frames_used(), 31);
	world.unsettled = false;
	world_leave(&world.cpus[0]);
	T_EQUAL(akvm__space_fault(space, BASE + 0x1000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), 34);
	T_CHECK(world_walk(&world, child, BASE + 0x2000) && !(world_walk(&world, child, BASE + 0x2000) & AKVM__ENTRY_WRITE));
	T_EQUAL(touch(child, BASE + 0x2000, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 1);
	T_EQUAL(akvm_space_destroy(child), 0);
	world_leave(&world.cpus[0]);
	world_reap(&world);
	world_apply(&world, space);
	T_EQUAL(frames_used(), 30);
	T_EQUAL(akvm__space_fault(space, BASE + 0x8000, AKVM_WRITE), AKVM_FAULT_NONE);
	world_apply(&world, space);
	T_EQUAL(frames_used(), 30);
	for (uint64_t page = 6; page < 16; page++)
		T_CHECK(world_walk(&world, space, BASE + page * AKVM__PAGE) & AKVM__ENTRY_WRITE);
	T_CHECK(!(world_walk(&world, space, BASE + 16 * AKVM__PAGE) & AKVM__ENTRY_WRITE));
	end();
}

/* While another vCPU may still write to the shared page, the guest's copy waits. */
static void copies_wait_until_settled(void)
{
	struct akvm_space *child;
	uint64_t used;
	uint8_t one = 1, late = 5, byte = 0;

	begin(16 << 20, 1);
	T_EQUAL(akvm_space_map(space, BASE, 0x1000, RW, NULL, 0), 0);
	T_EQUAL(touch(space, BASE, AKVM_WRITE, &one), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_fork(space, &child), 0);
	T_CHECK(world.cpus[0].interrupted && world.cpus[0].tlb[BASE / AKVM__PAGE % WORLD_TLB].valid);
	used = frames_used();
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), used);
	/* The store through the old translation is not lost. */
	memcpy(world_host(&world, akvm__entry_gpa(world.cpus[0].tlb[BASE / AKVM__PAGE % WORLD_TLB].entry)) + 1, &late, 1);
	world_leave(&world.cpus[0]);
	T_EQUAL(akvm__space_fault(space, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(frames_used(), used + 1);
	T_EQUAL(touch(space, BASE + 1, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, late);
	T_EQUAL(akvm_space_destroy(child), 0);
	end();
}

static void file_pages(void)
{
	int fd = world_file(5 * AKVM__PAGE + 10);
	struct akvm_file *file;
	uint8_t byte = 0xab;
	uint64_t entry;

	begin(8 << 20, 4);
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm_space_map(space, BASE, 8 * AKVM__PAGE, RW | AKVM_EXECUTE, file, AKVM__PAGE), 0);
	akvm_file_close(file);
	T_EQUAL(touch(space, BASE + 7, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, world_file_byte(AKVM__PAGE + 7));
	/* Its own page, shared and read-only, with neighbours, and no memory of ours. */
	entry = world_walk(&world, space, BASE);
	T_CHECK(akvm__entry_gpa(entry) >= AKVM_GPA_FILES && !(entry & AKVM__ENTRY_WRITE) && !(entry & AKVM__ENTRY_NO_EXECUTE));
	T_CHECK(world_walk(&world, space, BASE + 3 * AKVM__PAGE) && !world_walk(&world, space, BASE + 4 * AKVM__PAGE));
	T_EQUAL(akvm_space_resident(space), 0);
	T_EQUAL(akvm__space_trim(space), 0);
	/* A write copies. */
	byte = 0xcd;
	T_EQUAL(touch(space, BASE + 7, AKVM_WRITE, &byte), AKVM_FAULT_NONE);
	T_EQUAL(touch(space, BASE + 8, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, world_file_byte(AKVM__PAGE + 8));
	T_EQUAL(pread(fd, &byte, 1, AKVM__PAGE + 7), 1);
	T_EQUAL(byte, world_file_byte(AKVM__PAGE + 7));
	T_EQUAL(akvm_space_resident(space), 1);
	/* The last page: zero after the end, read or written; beyond it SIGBUS. */
	T_EQUAL(touch(space, BASE + 4 * AKVM__PAGE + 10, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 0);
	T_EQUAL(touch(space, BASE + 4 * AKVM__PAGE + 11, AKVM_WRITE, &byte), AKVM_FAULT_NONE);
	T_EQUAL(touch(space, BASE + 4 * AKVM__PAGE + 9, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, world_file_byte(5 * AKVM__PAGE + 9));
	T_EQUAL(touch(space, BASE + 5 * AKVM__PAGE, AKVM_READ, &byte), AKVM_FAULT_BUS);
	T_EQUAL(touch(space, BASE + 5 * AKVM__PAGE, AKVM_WRITE, &byte), AKVM_FAULT_BUS);
	/* Cut short: file pages beyond the end go, a private copy stays. */
	T_EQUAL(ftruncate(fd, 2 * AKVM__PAGE), 0);
	T_EQUAL(akvm__space_trim(space), 3);
	T_CHECK(world_walk(&world, space, BASE) && world_walk(&world, space, BASE + 4 * AKVM__PAGE));
	for (unsigned page = 1; page < 4; page++)
		T_EQUAL(touch(space, BASE + page * AKVM__PAGE, AKVM_READ, &byte), AKVM_FAULT_BUS);
	close(fd);
	end();
}

static void files_that_shrink_and_grow(void)
{
	int fd = world_file(4 * AKVM__PAGE);
	struct akvm_file *file;
	uint8_t bytes[16], byte = 1;

	begin(8 << 20, 1);
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm_space_map(space, BASE, 8 * AKVM__PAGE, RW, file, 0), 0);
	T_EQUAL(touch(space, BASE, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(touch(space, BASE + 0x2000, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(ftruncate(fd, AKVM__PAGE + 4), 0);
	/* The host never touches a mapping the file no longer fills: these would be SIGBUS here. */
	T_EQUAL(akvm_space_read(space, BASE + 0x2000, bytes, sizeof(bytes)), -EFAULT);
	T_EQUAL(akvm__space_fault(space, BASE + 0x2000, AKVM_WRITE), AKVM_FAULT_BUS);
	T_EQUAL(akvm__space_fault(space, BASE + 0x3000, AKVM_READ), AKVM_FAULT_BUS);
	T_EQUAL(akvm_space_read(space, BASE + 0x1000, bytes, sizeof(bytes)), sizeof(bytes));
	T_CHECK(bytes[3] == world_file_byte(AKVM__PAGE + 3) && bytes[4] == 0 && bytes[15] == 0);
	T_EQUAL(akvm_space_read(space, BASE + 0x1ff8, bytes, sizeof(bytes)), 8);
	/* What was added after the open is there too, as copies. */
	T_EQUAL(ftruncate(fd, 6 * AKVM__PAGE), 0);
	T_EQUAL(pwrite(fd, "grown", 5, 5 * AKVM__PAGE), 5);
	T_EQUAL(touch(space, BASE + 5 * AKVM__PAGE, AKVM_READ, &byte), AKVM_FAULT_NONE);
	T_EQUAL(byte, 'g');
	byte = 'G';
	T_EQUAL(touch(space, BASE + 5 * AKVM__PAGE, AKVM_WRITE, &byte), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_read(space, BASE + 5 * AKVM__PAGE, bytes, 5), 5);
	T_CHECK(memcmp(bytes, "Grown", 5) == 0);
	T_EQUAL(akvm__space_fault(space, BASE + 6 * AKVM__PAGE, AKVM_READ), AKVM_FAULT_BUS);
	T_EQUAL(ftruncate(fd, 0), 0);
	T_EQUAL(akvm__space_fault(space, BASE + 0x1000, AKVM_READ), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_read(space, BASE, bytes, 1), -EFAULT);
	akvm_file_close(file);
	close(fd);
	end();
}

int main(void)
{
	for (int mode = 0; mode < 2; mode++) {
		guest_edits = mode;
		T_RUN(wrong_addresses);
		T_RUN(around_the_fault);
		T_RUN(limits);
		T_RUN(budgets);
		T_RUN(a_budget_and_large_pages);
		T_RUN(stable_files);
		T_RUN(a_budget_and_large_pages);
		T_RUN(no_memory);
		T_RUN(copy_on_write);
		T_RUN(copy_on_write_in_small);
		T_RUN(copies_around);
		T_RUN(copies_wait_until_settled);
		T_RUN(file_pages);
		T_RUN(files_that_shrink_and_grow);
	}
	return 0;
}
