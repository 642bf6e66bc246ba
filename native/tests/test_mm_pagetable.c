/*
 * Page tables as a CPU finds them: page sizes, bits, splits, and tables that go when they are empty. Both modes.
 */
#include "mm_world.h"

#include <errno.h>
#include <string.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "t.h"

#define BASE 0x40000000ull
#define RW   (AKVM_READ | AKVM_WRITE)

static struct world world;
static struct akvm_space *space;
static bool guest_edits;

static void begin(void)
{
	world_open(&world, 32 << 20, 16, guest_edits);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
}

static void end(void)
{
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static uint64_t tables_used(void)
{
	struct akvm_memory_status status;

	akvm__mm_status(world.mm, &status);
	return status.tables_used;
}

static uint64_t splits(void)
{
	struct akvm_memory_status status;

	akvm__mm_status(world.mm, &status);
	return status.huge_splits;
}

static void bits_follow_access(void)
{
	static const struct {
		uint32_t access, touch;
		bool write, execute;
	} cases[] = {
		{ AKVM_READ, AKVM_READ, false, false },
		{ AKVM_WRITE, AKVM_READ, true, false },
		{ AKVM_EXECUTE, AKVM_READ, false, true },
		{ RW, AKVM_WRITE, true, false },
		{ AKVM_READ | AKVM_EXECUTE, AKVM_EXECUTE, false, true },
		{ RW | AKVM_EXECUTE, AKVM_WRITE, true, true },
	};

	begin();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t entry, address = BASE + i * 0x10000;

		T_EQUAL(akvm_space_map(space, address, AKVM__PAGE, cases[i].access, NULL, 0), 0);
		T_EQUAL(akvm__space_fault(space, address + 5, cases[i].touch), AKVM_FAULT_NONE);
		entry = world_walk(&world, space, address);
		T_CHECK(entry & AKVM__ENTRY_PRESENT && entry & AKVM__ENTRY_USER && entry & AKVM__ENTRY_ACCESSED);
		T_EQUAL((entry & AKVM__ENTRY_WRITE) != 0, cases[i].write);
		T_EQUAL((entry & AKVM__ENTRY_DIRTY) != 0, cases[i].write);
		T_EQUAL((entry & AKVM__ENTRY_NO_EXECUTE) == 0, cases[i].execute);
	}
	end();
}

static void large_pages_where_blocks_fit(void)
{
	begin();
	/* A block and a half, half a block early: one large page in the middle. */
	T_EQUAL(akvm_space_map(space, BASE - 0x100000, 0x400000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, BASE + 0x1234, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 512);
	T_EQUAL(akvm__space_fault(space, BASE - 0x5000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 512 + 8);
	T_EQUAL(world_walk(&world, space, BASE + 0x1ff000) & AKVM__ENTRY_ADDRESS,
		(world_walk(&world, space, BASE) & AKVM__ENTRY_ADDRESS) + 0x1ff000);
	/* Small pages are there already: no large one over them. */
	T_EQUAL(akvm_space_map(space, 2 * BASE, 0x1000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, 2 * BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_map(space, 2 * BASE + 0x1000, 0x1ff000, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(space, 2 * BASE + 0x100000, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_resident(space), 512 + 8 + 1 + 8);
	end();
}

static void splits_keep_contents(void)
{
	uint8_t pattern[256], seen[256];
	uint64_t done;

	for (unsigned i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i + 1);
	begin();
	T_EQUAL(akvm_space_map(space, BASE, 0x200000, RW, NULL, 0), 0);
	for (uint64_t at = 0; at < 0x200000; at += 0x1000)
		T_EQUAL(akvm_space_write(space, BASE + at + at / 0x1000 % 64, pattern, sizeof(pattern), false), sizeof(pattern));
	T_EQUAL(splits(), 0);
	T_EQUAL(akvm_space_protect(space, BASE + 0x7000, 0x2000, AKVM_READ), 0);
	T_EQUAL(splits(), 1);
	T_EQUAL(akvm_space_discard(space, BASE + 0x10000, 0x1000), 0);
	T_EQUAL(akvm_space_unmap(space, BASE + 0x20000, 0x1000), 0);
	T_EQUAL(akvm_space_resident(space), 510);
	for (uint64_t page = 0; page < 512; page++) {
		uint64_t address = BASE + page * 0x1000 + page % 64;
		int fault = world_access(&world, &world.cpus[0], space, address, seen, sizeof(seen), AKVM_READ, &done);

		T_EQUAL(fault, page == 0x20 ? AKVM_FAULT_UNMAPPED : AKVM_FAULT_NONE);
		if (page == 0x10)
			T_CHECK(seen[0] == 0 && seen[255] == 0);
		else if (page != 0x20)
			T_CHECK(memcmp(seen, pattern, sizeof(seen)) == 0);
		fault = world_access(&world, &world.cpus[0], space, address, pattern, sizeof(pattern), AKVM_WRITE, &done);
		T_EQUAL(fault, page == 0x20 ? AKVM_FAULT_UNMAPPED : page == 7 || page == 8 ? AKVM_FAULT_ACCESS : AKVM_FAULT_NONE);
	}
	end();
}

static void no_access_keeps_contents(void)
{
	uint64_t value = 0x1122334455667788, seen = 0, done;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 0x400000, RW, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, BASE + 0x1000, &value, 8, false), 8);
	T_EQUAL(akvm_space_protect(space, BASE, 0x400000, 0), 0);
	world_apply(&world, space);
	T_EQUAL(world_walk(&world, space, BASE + 0x1000), 0);
	T_EQUAL(akvm_space_resident(space), 512);
	T_EQUAL(akvm_space_read(space, BASE + 0x1000, &seen, 8), -EFAULT);
	T_EQUAL(akvm__space_fault(space, BASE + 0x1000, AKVM_READ), AKVM_FAULT_ACCESS);
	/* A loader may write all the same, and parked pages may be cut. */
	T_EQUAL(akvm_space_write(space, BASE + 0x1004, &value, 8, true), 8);
	T_EQUAL(akvm_space_protect(space, BASE + 0x1000, 0x1000, AKVM_READ), 0);
	T_EQUAL(world_access(&world, &world.cpus[0], space, BASE + 0x1004, &seen, 8, AKVM_READ, &done), AKVM_FAULT_NONE);
	T_EQUAL(seen, value);
	T_EQUAL(akvm_space_protect(space, BASE, 0x400000, RW), 0);
	T_EQUAL(world_access(&world, &world.cpus[0], space, BASE + 0x1000, &seen, 8, AKVM_WRITE, &done), AKVM_FAULT_NONE);
	end();
}

static void empty_tables_go(void)
{
	uint64_t before, started;

	begin();
	before = tables_used();
	for (unsigned i = 0; i < 100; i++) {
		uint64_t address = AKVM_USER_MIN + i * 0x10040201000ull;

		T_EQUAL(akvm_space_map(space, address, AKVM__PAGE, RW, NULL, 0), 0);
		T_EQUAL(akvm__space_fault(space, address, AKVM_WRITE), AKVM_FAULT_NONE);
	}
	T_CHECK(tables_used() >= before + 300);
	started = akvm__now_ns();
	T_EQUAL(akvm_space_unmap(space, AKVM_USER_MIN, AKVM_USER_MAX - AKVM_USER_MIN), 0);
	/* 47 bits of addresses, three hundred tables: a walk over what exists. */
	T_CHECK(akvm__now_ns() - started < 1000000000);
	world_apply(&world, space);
	T_EQUAL(akvm_space_resident(space), 0);
	T_EQUAL(tables_used(), before);
	end();
}

static void kernel_half_is_everywhere(void)
{
	struct akvm_space *other;
	uint64_t first, *root;

	begin();
	T_EQUAL(akvm__space_create(world.mm, &other), 0);
	first = akvm__space_root(other);
	for (unsigned i = 0; i < 3; i++) {
		const uint64_t roots[] = { akvm__space_root(space), akvm__space_root(other), akvm__mm_kernel_root(world.mm) };

		root = (uint64_t *)(void *)world_host(&world, roots[i]);
		T_EQUAL(root[510], 0x1003);
		T_EQUAL(root[511], 0x2003);
	}
	/* A root comes back as a root, its kernel half untouched meanwhile. */
	T_EQUAL(akvm_space_map(other, BASE, AKVM__PAGE, RW, NULL, 0), 0);
	T_EQUAL(akvm__space_fault(other, BASE, AKVM_WRITE), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_destroy(other), 0);
	world_reap(&world);
	root = (uint64_t *)(void *)world_host(&world, first);
	T_CHECK(root[0] == 0 && root[510] == 0x1003 && root[511] == 0x2003);
	T_EQUAL(akvm_space_map(space, BASE, 0x40000000, RW, NULL, 0), 0);
	for (unsigned i = 0; i < 400; i++) {
		int fault = akvm__space_fault(space, BASE + i * 0x200000ull, AKVM_WRITE);

		T_CHECK(fault == AKVM_FAULT_NONE || fault == AKVM_FAULT_MEMORY);
	}
	T_EQUAL(akvm__space_create(world.mm, &other), 0);
	T_EQUAL(akvm__space_root(other), first);
	T_EQUAL(akvm_space_destroy(other), 0);
	end();
}

static void roots_are_bounded(void)
{
	static struct akvm_space *spaces[4096];
	unsigned count = 0;

	begin();
	while (akvm__space_create(world.mm, &spaces[count]) == 0)
		T_CHECK(++count < 4096);
	T_EQUAL(count, world.mm->tables.total / 4 - 2);
	T_CHECK(strcmp(akvm_last_error(), "create space") == 0);
	while (count-- > 0)
		T_EQUAL(akvm_space_destroy(spaces[count]), 0);
	end();
}

int main(void)
{
	for (int mode = 0; mode < 2; mode++) {
		guest_edits = mode;
		T_RUN(bits_follow_access);
		T_RUN(large_pages_where_blocks_fit);
		T_RUN(splits_keep_contents);
		T_RUN(no_access_keeps_contents);
		T_RUN(empty_tables_go);
		T_RUN(kernel_half_is_everywhere);
		T_RUN(roots_are_bounded);
	}
	return 0;
}
